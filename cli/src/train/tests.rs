//! Tests of the whole on a GPU: the checks must pass as the code stands, and fail with a fault planted in any kernel.
//!
//! Without an adapter they fail.

use super::{
    check::{QuantityRow, check_step},
    checkpoint,
    contest::{self, Contest, Contestant},
    data::{CLASSES, Images, Mnist, PIXELS},
    error::TrainError,
    gpu::TrainDevice,
    history::{History, TrainSettings},
    kernels::{NetworkKernel, Pipelines},
    parameters::{HIDDEN, LAYERS, Parameters, SIZES},
    stages,
};
use crate::output::{Claim, Folder, Replaces};
use batchnorm_wgpu::{
    Kernels, Layout, RunningStatistics, Shape,
    checkpoint::{Reader, Writer},
    reference::{self, Layer},
    wgpu,
};
use batchnorm_wgpu_check::stored::{Dtype, Stored};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::{
    fs,
    path::{Path, PathBuf},
};

const SETTINGS: TrainSettings = TrainSettings { epochs: 1, batch: 20, rate: 0.5, seed: 3 };

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
fn check(gpu: TrainDevice<'_>, mnist: &Mnist, source: impl Fn(NetworkKernel) -> String) -> Vec<QuantityRow> {
    let contest = Contest::new(gpu, mnist, &SETTINGS, Kernels::new(gpu.device), source).unwrap();
    check_step(gpu, &contest, mnist).unwrap()
}

/// A fault: which kernel, and what in it becomes what.
type Fault = (NetworkKernel, &'static str, &'static str);

/// One fault per idea and kernel: scales, bounds of loops, edges of tiles, offsets, signs, sums.
const FAULTS: [Fault; 17] = [
    (NetworkKernel::Gather, "/ 255.0", "/ 256.0"),
    (NetworkKernel::Gather, "indices[batch.first + min", "indices[min"),
    (NetworkKernel::LinearForward, "k < INNER", "k < INNER - 1u"),
    (
        NetworkKernel::LinearForward,
        "if col + 3u < COLS { store_value(at + 3u",
        "if col + 3u < COLS { store_value(at + 2u",
    ),
    (NetworkKernel::LinearForward, "s6b += q.z * b1", "s6b += q.y * b1"),
    (NetworkKernel::LinearBackwardInput, "s * (1.0 - s)", "s * (1.0 + s)"),
    (NetworkKernel::LinearBackwardInput, "s3a += p.w * b0", "s3a += p.w * b1"),
    (NetworkKernel::LinearBackwardWeights, "sums0 += b0", "sums0 = b0"),
    (NetworkKernel::LinearBackwardWeights, "store(row + 7u, col", "store(row + 6u, col"),
    (NetworkKernel::LinearBackwardWeights, "k < INNER", "k < INNER - 1u"),
    (NetworkKernel::Sigmoid, "u[i] >= 0.0", "u[i] >= -0.125"),
    (NetworkKernel::SoftmaxCrossEntropy, "/ f32(batch.rows)", "/ f32(batch.rows + 1u)"),
    (NetworkKernel::SoftmaxCrossEntropy, "c == label", "c == best"),
    (NetworkKernel::SoftmaxCrossEntropy, "losses[t + span]", "losses[t]"),
    (NetworkKernel::SoftmaxCrossEntropy, "metrics[batch.slot]", "metrics[0]"),
    (NetworkKernel::Sgd, "batch.rate * gradients", "-batch.rate * gradients"),
    (NetworkKernel::Sgd, "groups.x * 256u", "groups.x * 512u"),
];

#[test]
fn the_check_passes_and_catches_every_planted_fault() {
    let (device, queue) = device();
    let gpu = TrainDevice { device: &device, queue: &queue };
    let mnist = mnist();
    let rows = check(gpu, &mnist, |kernel| kernel.source().into());
    assert!(rows.len() > 10 && rows.iter().all(|row| row.passed), "{rows:#?}");
    for (broken, from, to) in FAULTS {
        assert_eq!(broken.source().matches(from).count(), 1, "{}: {from}", broken.name());
        let source = |kernel: NetworkKernel| match kernel == broken {
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
    let gpu = TrainDevice { device: &device, queue: &queue };
    let mnist = mnist();
    let run = || {
        let mut contest =
            Contest::new(gpu, &mnist, &SETTINGS, Kernels::new(gpu.device), |kernel| kernel.source().into()).unwrap();
        contest.train(SETTINGS.epochs, |_| Ok(())).unwrap();
        let mut history = contest.history.clone();
        (history.plain_seconds, history.batch_norm_seconds) = (0.0, 0.0);
        let values = |contestant: &Contestant| gpu.read(&contestant.network.values).unwrap();
        (format!("{history:?}"), values(&contest.plain), values(&contest.batch_norm))
    };
    assert!(run() == run());
}

/// The logits of the test set by inference in float64.
fn logits(gpu: TrainDevice<'_>, contestant: &Contestant, images: &Images) -> Vec<f64> {
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
    let gpu = TrainDevice { device: &device, queue: &queue };
    let mnist = mnist();
    let mut contest =
        Contest::new(gpu, &mnist, &SETTINGS, Kernels::new(gpu.device), |kernel| kernel.source().into()).unwrap();
    contest.train(SETTINGS.epochs, |_| Ok(())).unwrap();
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
    let gpu = TrainDevice { device: &device, queue: &queue };
    let settings = TrainSettings { batch: 71, ..SETTINGS };
    let error = Contest::new(gpu, &mnist(), &settings, Kernels::new(gpu.device), |kernel| kernel.source().into())
        .err()
        .unwrap();
    assert_eq!(error.to_string(), "--batch: expected at most 70, the number of training images in noise, found 71");
}

#[test]
fn what_the_device_refuses_names_the_kernel() {
    let (device, queue) = device();
    let gpu = TrainDevice { device: &device, queue: &queue };
    let buffer = gpu.storage("u", 16).unwrap();
    let refused = |wgsl: &str, buffers: &[wgpu::BufferBinding<'_>]| {
        let mut pipelines = Pipelines::new(&device, |_| wgsl.into());
        pipelines.bind(NetworkKernel::Sigmoid, &[("COUNT", 4.0)], buffers, 1).err().unwrap().to_string()
    };
    let whole = || buffer.as_entire_buffer_binding();
    let unread = refused("fn main(", &[whole(), whole()]);
    assert!(unread.contains("compiling a kernel") && unread.contains("sigmoid"), "{unread}");
    let unbound = refused(NetworkKernel::Sigmoid.source(), &[whole()]);
    assert!(unbound.contains("binding a kernel") && unbound.contains("sigmoid"), "{unbound}");
}

/// A folder of the test's own.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("bn-train-{}-{name}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

const FOUR_EPOCHS: TrainSettings = TrainSettings { epochs: 4, ..SETTINGS };

/// Trains from the checkpoint `from` on, or from the start, until `epochs` epochs are done, saving into `file`.
fn train(gpu: TrainDevice<'_>, mnist: &Mnist, epochs: u32, from: Option<&Path>, file: &Path) -> History {
    let mut contest =
        Contest::new(gpu, mnist, &FOUR_EPOCHS, Kernels::new(gpu.device), |kernel| kernel.source().into()).unwrap();
    if let Some(from) = from {
        contest.restore(checkpoint::resume(from, &FOUR_EPOCHS, mnist).unwrap()).unwrap();
    }
    let file = Claim::new(file, Replaces::Anything, Folder::Exists).unwrap();
    contest.train(epochs, |contest| checkpoint::save(&file, &contest.checkpoint()?, &FOUR_EPOCHS, mnist)).unwrap();
    contest.history
}

#[test]
fn an_interrupted_run_ends_in_the_same_bytes() {
    let (device, queue) = device();
    let gpu = TrainDevice { device: &device, queue: &queue };
    let (mnist, folder) = (mnist(), folder("resume"));
    let (straight, resumed) = (folder.join("straight"), folder.join("resumed"));
    let history = train(gpu, &mnist, 4, None, &straight);
    train(gpu, &mnist, 0, None, &resumed);
    for epochs in [1, 3, 4, 4] {
        let part = train(gpu, &mnist, epochs, Some(&resumed), &resumed);
        let done = epochs as usize;
        assert_eq!((&*part.plain, &*part.batch_norm), (&history.plain[..done], &history.batch_norm[..done]));
    }
    assert!(fs::read(&straight).unwrap() == fs::read(&resumed).unwrap());
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "no partial file is left");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_saved_network_does_what_it_did() {
    let (device, queue) = device();
    let gpu = TrainDevice { device: &device, queue: &queue };
    let (mnist, folder) = (mnist(), folder("evaluate"));
    let file = folder.join("file");
    let history = train(gpu, &mnist, 4, None, &file);
    let networks = checkpoint::load(&file).unwrap();
    assert_eq!(networks.len(), 2);
    // PyTorch keeps weights [outputs, inputs].
    let bytes = fs::read(&file).unwrap();
    let stored = Reader::new(&bytes).unwrap().tensor("plain.fc1.weight", &[SIZES[1], SIZES[0]]).unwrap();
    let (weights, columns) = (&networks[0].1.values[Parameters::new(false).layers[0].weights.clone()], SIZES[1]);
    assert!((0..weights.len()).all(|at| stored[at % columns * SIZES[0] + at / columns] == weights[at]));
    for ((place, snapshot), epochs) in networks.iter().zip([history.plain, history.batch_norm]) {
        let figures = contest::evaluate(gpu, &mnist.test, snapshot).unwrap();
        // What the running means lost by rounding is not in the tensors.
        assert!((figures.loss - epochs[3].test.loss).abs() < 1e-6, "{}: {figures:?} {epochs:?}", place.name);
        assert!((figures.accuracy - epochs[3].test.accuracy).abs() < 1.5 / 503.0, "{}", place.name);
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn evaluation_needs_no_count_but_statistics_that_are_finite() {
    let (device, queue) = device();
    let gpu = TrainDevice { device: &device, queue: &queue };
    let (mnist, folder) = (mnist(), folder("statistics"));
    let file = folder.join("file");
    train(gpu, &mnist, 0, None, &file);
    let bytes = fs::read(&file).unwrap();
    let names = Stored::names_in_safetensors(&bytes).unwrap();
    let load = |change: &dyn Fn(&str, Stored) -> Option<Stored>| {
        let stored = |name: &str| change(name, Stored::parse_safetensors(&bytes, name).unwrap()?);
        let tensors: Vec<_> = names.iter().filter_map(|name| Some((name, stored(name)?))).collect();
        let tensors: Vec<_> = tensors.iter().map(|(name, stored)| (name.as_str(), stored)).collect();
        fs::write(&file, Stored::to_safetensors(&tensors).unwrap()).unwrap();
        checkpoint::load(&file)
    };
    let is_count = |name: &str| name.ends_with("num_batches_tracked");
    assert_eq!(load(&|name, stored| (!is_count(name)).then_some(stored)).unwrap().len(), 2);
    for dtype in [Dtype::F32, Dtype::F16, Dtype::I64] {
        let converted = |name: &str, stored: Stored| match is_count(name) {
            true => Some(Stored { dtype, dims: vec![1], ..stored }),
            false => Some(stored),
        };
        assert_eq!(load(&converted).unwrap().len(), 2, "{dtype:?}");
    }
    for (tensor, value) in [("running_var", f64::NAN), ("running_var", -0.5), ("running_mean", f64::INFINITY)] {
        let name = format!("batch_norm.bn2.{tensor}");
        let poisoned = |one: &str, mut stored: Stored| {
            if one == name {
                stored.values[7] = value;
            }
            Some(stored)
        };
        let error = load(&poisoned).unwrap_err();
        assert!(matches!(&error, TrainError::Statistics { channel: 7, .. }), "{error}");
        assert!(error.to_string().contains(&name), "{error}");
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_resumed_run_writes_its_own_file() {
    let folder = folder("save");
    let [file, other] = ["file", "other"].map(|name| folder.join(name));
    let check = |save: &Path, resume: Option<&Path>| {
        let (save, resume) = (Some(save.to_owned()), resume.map(Path::to_owned));
        super::claim_save(save.as_deref(), resume.as_deref())
    };
    assert!(check(&file, None).is_ok());
    fs::write(&file, "checkpoint").unwrap();
    fs::write(&other, "another").unwrap();
    let error = check(&file, None).unwrap_err().to_string();
    assert!(error.contains("--resume"), "{error}");
    assert!(check(&file, Some(&other)).is_err());
    assert!(check(&file, Some(&file)).is_ok() && check(&folder.join(".").join("file"), Some(&file)).is_ok());
    fs::remove_dir_all(folder).unwrap();
}

/// The checkpoint with another header.
fn with_header(bytes: &[u8], edit: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let (length, rest) = bytes.split_first_chunk().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header: serde_json::Value = serde_json::from_slice(header).unwrap();
    edit(&mut header);
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// The checkpoint with `from` in its training state replaced.
fn with_training(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    with_header(bytes, |header| {
        let text = &mut header["__metadata__"]["batchnorm-train-1"];
        let known = text.as_str().unwrap();
        assert!(known.contains(from), "{known}");
        *text = known.replacen(from, to, 1).into();
    })
}

#[test]
fn checkpoints_that_cannot_be_resumed_say_why() {
    let (device, queue) = device();
    let gpu = TrainDevice { device: &device, queue: &queue };
    let (mnist, folder) = (mnist(), folder("refused"));
    let file = folder.join("file");
    train(gpu, &mnist, 1, None, &file);
    let good = fs::read(&file).unwrap();
    let refused = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        checkpoint::resume(&file, &FOUR_EPOCHS, &mnist).unwrap_err()
    };
    let training = [
        with_header(&good, |header| drop(header.as_object_mut().unwrap().remove("__metadata__"))),
        with_training(&good, "{", "["),
        with_training(&good, "\"epochs\":[[", "\"epochs\":[[[0,0,0,0],"),
        with_training(&good, "\"running\":[[]", "\"running\":[[[0,0,0,0,0,0,0,0]]"),
        with_training(&good, "\"running\":[[],[[", "\"running\":[[],[[1,"),
        with_training(&good, "\"running\":[[],[[", "\"running\":[[],[[0,0,0,0,0,0,0,0],["),
    ];
    for bytes in training {
        let error = refused(&bytes);
        assert!(matches!(error, TrainError::Training { .. }), "{error}");
    }
    // Of the same type and shape, and not what was saved.
    let swapped = with_header(&good, |header| {
        let [mean, var] = ["running_mean", "running_var"].map(|name| format!("batch_norm.bn3.{name}"));
        let place = header[&mean].take();
        header[mean] = header[&var].take();
        header[var] = place;
    });
    assert!(matches!(refused(&swapped), TrainError::Training { .. }));
    let renamed = with_header(&good, |header| {
        let weight = header.as_object_mut().unwrap().remove("batch_norm.bn2.weight").unwrap();
        header["batch_norm.bn2.scale"] = weight;
    });
    assert!(matches!(refused(&renamed), TrainError::Checkpoint { .. }));
    for length in (0..good.len()).step_by(997) {
        assert!(matches!(refused(&good[..length]), TrainError::Checkpoint { .. }), "{length}");
    }
    fs::write(&file, &good).unwrap();
    let other = TrainSettings { batch: 10, seed: 4, ..FOUR_EPOCHS };
    let error = checkpoint::resume(&file, &other, &mnist).unwrap_err();
    assert!(matches!(&error, TrainError::Settings { differences, .. } if differences.len() == 2));
    assert!(error.to_string().contains("--batch was 20 and is 10, --seed was 3 and is 4"), "{error}");
    let mut data = self::mnist();
    data.train.labels[0] ^= 1;
    let error = checkpoint::resume(&file, &FOUR_EPOCHS, &data).unwrap_err().to_string();
    assert!(error.contains("--data was 70 training and 503 test images of CRC-32 "), "{error}");
    fs::remove_file(&file).unwrap();
    let missing = checkpoint::resume(&file, &FOUR_EPOCHS, &mnist).unwrap_err();
    assert!(matches!(missing, TrainError::Read { .. }));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_file_may_hold_one_network_and_no_training_state() {
    let (device, queue) = device();
    let gpu = TrainDevice { device: &device, queue: &queue };
    let (mnist, folder) = (mnist(), folder("one"));
    let file = folder.join("file");
    train(gpu, &mnist, 0, None, &file);
    let bytes = fs::read(&file).unwrap();
    let mut names: Vec<_> = Reader::new(&bytes).unwrap().remaining("").map(str::to_owned).collect();
    let mut one = Writer::default();
    for (layer, sizes) in SIZES.windows(2).enumerate() {
        let name = |kind: &str| format!("plain.fc{}.{kind}", layer + 1);
        one.tensor(&name("weight"), &[sizes[1], sizes[0]], &vec![0.0; sizes[0] * sizes[1]]).unwrap();
        one.tensor(&name("bias"), &[sizes[1]], &vec![0.0; sizes[1]]).unwrap();
    }
    fs::write(&file, one.serialize().unwrap()).unwrap();
    let networks = checkpoint::load(&file).unwrap();
    assert_eq!(networks.iter().map(|(place, _)| place.name).collect::<Vec<_>>(), ["plain"]);
    // With neither, all of both is missing that evaluation needs.
    names.retain(|name| !name.ends_with("num_batches_tracked"));
    fs::write(&file, Writer::default().serialize().unwrap()).unwrap();
    let error = checkpoint::load(&file).unwrap_err();
    let TrainError::Checkpoint { source: batchnorm_wgpu::Error::Contents(mut contents), .. } = error else {
        panic!("{error}")
    };
    contents.missing.sort();
    names.sort();
    assert_eq!(contents.missing, names);
    fs::remove_dir_all(folder).unwrap();
}
