//! Tests of the whole on a GPU: the checks must pass as the code stands, and fail with a fault planted in any kernel.
//!
//! Without an adapter they say so and pass: the tool's own exit code is what continuous integration relies on.

use super::{
    check::{Row, check_step},
    contest::{Contest, Contestant, Settings},
    data::{CLASSES, Images, Mnist, PIXELS},
    gpu::Gpu,
    kernels::Kernel,
    parameters::{HIDDEN, LAYERS, SIZES},
    stages,
};
use batchnorm_wgpu::{
    Layout, RunningStatistics, Shape,
    reference::{self, Layer},
    wgpu,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SETTINGS: Settings = Settings { epochs: 1, batch: 20, rate: 0.5, seed: 3 };

/// The best adapter's device. Without one the tests fail: a machine that cannot run them must not look as if it had.
fn device() -> (wgpu::Device, wgpu::Queue) {
    let gpu = batchnorm_wgpu::host::Gpu::open(None).expect("the training tests need an adapter");
    (gpu.device, gpu.queue)
}

/// Random images, a third of their pixels set, with random labels.
fn images(count: usize, random: &mut ChaCha8Rng) -> Images {
    let mut pixel = || if random.random_range(0..3) == 0 { random.random::<u8>() } else { 0 };
    let pixels = (0..count * PIXELS).map(|_| pixel()).collect();
    Images { pixels, labels: (0..count).map(|_| random.random_range(0..CLASSES as u8)).collect() }
}

/// A few batches to train on, and a test set that leaves a short batch over.
fn mnist() -> Mnist {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    Mnist { source: "noise".into(), train: images(70, &mut random), test: images(503, &mut random) }
}

/// Checks the first step of networks with the given WGSL.
fn check(gpu: Gpu<'_>, mnist: &Mnist, source: impl Fn(Kernel) -> String) -> Vec<Row> {
    let contest = Contest::new(gpu, mnist, &SETTINGS, source).unwrap();
    check_step(gpu, &contest, mnist).unwrap()
}

/// A fault: which kernel, and what in it becomes what.
type Fault = (Kernel, &'static str, &'static str);

/// One fault per idea and kernel: scales, bounds of loops, edges of tiles, offsets, signs, sums.
const FAULTS: [Fault; 17] = [
    (Kernel::Gather, "/ 255.0", "/ 256.0"),
    (Kernel::Gather, "indices[batch.first + min", "indices[min"),
    (Kernel::LinearForward, "k < INNER", "k < INNER - 1u"),
    (Kernel::LinearForward, "if col + 3u < COLS { store_value(at + 3u", "if col + 3u < COLS { store_value(at + 2u"),
    (Kernel::LinearForward, "s6b += q.z * b1", "s6b += q.y * b1"),
    (Kernel::LinearBackwardInput, "s * (1.0 - s)", "s * (1.0 + s)"),
    (Kernel::LinearBackwardInput, "s3a += p.w * b0", "s3a += p.w * b1"),
    (Kernel::LinearBackwardWeights, "sums0 += b0", "sums0 = b0"),
    (Kernel::LinearBackwardWeights, "store(row + 7u, col", "store(row + 6u, col"),
    (Kernel::LinearBackwardWeights, "k < INNER", "k < INNER - 1u"),
    (Kernel::Sigmoid, "u[i] >= 0.0", "u[i] >= -0.125"),
    (Kernel::SoftmaxCrossEntropy, "/ f32(batch.rows)", "/ f32(batch.rows + 1u)"),
    (Kernel::SoftmaxCrossEntropy, "c == label", "c == best"),
    (Kernel::SoftmaxCrossEntropy, "losses[t + span]", "losses[t]"),
    (Kernel::SoftmaxCrossEntropy, "metrics[batch.slot]", "metrics[0]"),
    (Kernel::Sgd, "batch.rate * gradients", "-batch.rate * gradients"),
    (Kernel::Sgd, "groups.x * 256u", "groups.x * 512u"),
];

#[test]
fn the_check_passes_and_catches_every_planted_fault() {
    let (device, queue) = device();
    let gpu = Gpu { device: &device, queue: &queue };
    let mnist = mnist();
    let rows = check(gpu, &mnist, |kernel| kernel.source().into());
    assert!(rows.len() > 10 && rows.iter().all(|row| row.passed), "{rows:#?}");
    for (broken, from, to) in FAULTS {
        assert_eq!(broken.source().matches(from).count(), 1, "{}: {from}", broken.name());
        let source = |kernel: Kernel| match kernel == broken {
            true => kernel.source().replace(from, to),
            false => kernel.source().into(),
        };
        let rows = check(gpu, &mnist, source);
        assert!(rows.iter().any(|row| !row.passed), "{}: {to} in place of {from} went unseen", broken.name());
    }
}

#[test]
fn repeated_runs_agree_in_every_bit() {
    let (device, queue) = device();
    let gpu = Gpu { device: &device, queue: &queue };
    let mnist = mnist();
    let run = || {
        let mut contest = Contest::new(gpu, &mnist, &SETTINGS, |kernel| kernel.source().into()).unwrap();
        let mut history = contest.train().unwrap();
        (history.plain_seconds, history.batch_norm_seconds) = (0.0, 0.0);
        let values = |contestant: &Contestant| gpu.read(&contestant.network.values).unwrap();
        (format!("{history:?}"), values(&contest.plain), values(&contest.batch_norm))
    };
    assert!(run() == run());
}

/// The logits of the test set by inference in float64.
fn logits(gpu: Gpu<'_>, contestant: &Contestant, images: &Images) -> Vec<f64> {
    let network = &contestant.network;
    let values: Vec<f64> = gpu.read_as::<f32>(&network.values).unwrap().into_iter().map(f64::from).collect();
    let mut x: Vec<f64> = images.pixels.iter().map(|&pixel| f64::from(pixel) / 255.0).collect();
    for layer in 0..LAYERS {
        let slices = &network.parameters.layers[layer];
        let shift = &values[slices.shift.clone()];
        let bias = slices.scale.is_none().then_some(shift);
        x = stages::linear(&x, &values[slices.weights.clone()], bias, SIZES[layer], SIZES[layer + 1]).values;
        if let Some(scale) = &slices.scale {
            let running = RunningStatistics::from_bytes(&gpu.read(&network.running[layer]).unwrap()).unwrap();
            let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
            let shape = Shape::new(&[images.count(), SIZES[layer + 1]], Layout::ChannelsFirst).unwrap();
            let layer = Layer { gamma: Some(&values[scale.clone()]), beta: Some(shift), ..Layer::default() };
            x = reference::inference(&x, &shape, &wide(&running.mean), &wide(&running.var), &layer).unwrap();
        }
        if layer < HIDDEN {
            x = stages::sigmoid(&x).values;
        }
    }
    x
}

#[test]
fn evaluation_agrees_with_the_cpu_and_counts_the_short_batch_once() {
    let (device, queue) = device();
    let gpu = Gpu { device: &device, queue: &queue };
    let mnist = mnist();
    let mut contest = Contest::new(gpu, &mnist, &SETTINGS, |kernel| kernel.source().into()).unwrap();
    contest.train().unwrap();
    let labels: Vec<u32> = mnist.test.labels.iter().map(|&label| u32::from(label)).collect();
    for contestant in [&contest.plain, &contest.batch_norm] {
        let expected = stages::cross_entropy(&logits(gpu, contestant, &mnist.test), &labels, CLASSES);
        let figures = contestant.evaluate(gpu).unwrap();
        let (loss, correct) = (expected.total.values[0] / 503.0, f64::from(expected.correct) / 503.0);
        // Errors carry from layer to layer here; what matters is that every image counts once.
        assert!((figures.loss - loss).abs() < 1e-4, "{} {loss}", figures.loss);
        assert!((figures.accuracy - correct).abs() < 1.5 / 503.0, "{} {correct}", figures.accuracy);
    }
}

#[test]
fn a_batch_larger_than_the_data_is_refused() {
    let (device, queue) = device();
    let gpu = Gpu { device: &device, queue: &queue };
    let settings = Settings { batch: 71, ..SETTINGS };
    let error = Contest::new(gpu, &mnist(), &settings, |kernel| kernel.source().into()).err().unwrap();
    assert_eq!(error.to_string(), "--batch: expected at most 70, the number of training images in noise, found 71");
}
