//! What the CPU spends: the float64 reference, and the encoding of a training step that is bound already.
//!
//! `cargo bench --bench reference_and_encoding`. Times of kernels on a GPU are not measured here.

use batchnorm_wgpu::host::{Gpu, storage};
use batchnorm_wgpu::reference::{self, Layer};
use batchnorm_wgpu::{
    BatchNorm, Config, Kernels, Layout, RunningStatistics, Shape, Step, Training, TrainingSteps, wgpu,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::error::Error;
use std::hint::black_box;

/// A convolutional layer of a small network: (N, C, H, W).
const DIMS: [usize; 4] = [32, 64, 16, 16];

fn bench(criterion: &mut Criterion) {
    if let Err(error) = reference(criterion) {
        panic!("the reference refused {DIMS:?}: {error}");
    }
    match bound_step() {
        Ok((gpu, steps)) => encoding(criterion, &gpu.device, &steps),
        Err(error) => println!("encoding: skipped: {error}"),
    }
}

/// Forward and backward in float64.
fn reference(criterion: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let shape = Shape::new(&DIMS, Layout::ChannelsFirst)?;
    let values = |phase: f64| (0..shape.elements()).map(|i| (i as f64 * 0.37 + phase).sin()).collect::<Vec<_>>();
    let (x, dy) = (values(0.0), values(1.0));
    // Refused once or never: in the loop a refusal would pass for speed.
    reference::forward_training(&x, &shape, &Layer::default())?;
    reference::backward_training(&x, &dy, &shape, &Layer::default())?;
    let mut group = criterion.benchmark_group("reference");
    group.throughput(Throughput::Elements(shape.elements() as u64)).sample_size(20);
    group.bench_function("forward_training", |bencher| {
        bencher.iter(|| reference::forward_training(black_box(&x), &shape, &Layer::default()))
    });
    group.bench_function("backward_training", |bencher| {
        bencher.iter(|| reference::backward_training(black_box(&x), black_box(&dy), &shape, &Layer::default()))
    });
    group.finish();
    Ok(())
}

/// An encoder with a training step in one pass, up to the finished command buffer: what a training loop pays for the layer
/// on the CPU, besides submission.
fn encoding(criterion: &mut Criterion, device: &wgpu::Device, steps: &[Step; 2]) {
    let mut group = criterion.benchmark_group("encoding");
    group.bench_function("training_step", |bencher| {
        bencher.iter(|| {
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            steps.iter().for_each(|step| step.encode(&mut pass));
            drop(pass);
            encoder.finish()
        })
    });
    group.finish();
}

/// A training step over buffers of its own, on the best adapter.
fn bound_step() -> Result<(Gpu, [Step; 2]), Box<dyn Error>> {
    let gpu = Gpu::open(None)?;
    println!("encoding: on {}", gpu.key());
    let layer =
        BatchNorm::new(&Kernels::new(&gpu.device), Shape::new(&DIMS, Layout::ChannelsFirst)?, Config::default())?;
    let (tensor, channels) = (layer.shape().elements() as u64 * 4, layer.shape().channels());
    let storage = |size| storage(&gpu.device, "tensor", size);
    let (x, y, dy, dx) = (storage(tensor)?, storage(tensor)?, storage(tensor)?, storage(tensor)?);
    let plane = || storage(channels as u64 * 4);
    let (gamma, beta, dgamma, dbeta) = (plane()?, plane()?, plane()?, plane()?);
    let (saved, scratch) = (storage(layer.saved_size())?, storage(layer.scratch_size())?);
    let running = storage(RunningStatistics::size(channels))?;
    let whole = wgpu::Buffer::as_entire_buffer_binding;
    let TrainingSteps { forward, backward } = layer.training(
        &Training::new(whole(&x), whole(&y), whole(&dy), whole(&saved), whole(&scratch))
            .dx(whole(&dx))
            .gamma(whole(&gamma))
            .beta(whole(&beta))
            .dgamma(whole(&dgamma))
            .dbeta(whole(&dbeta))
            .running(whole(&running)),
    )?;
    // wgpu encodes only while the queue is alive, too.
    Ok((gpu, [forward, backward]))
}

criterion_group!(benches, bench);
criterion_main!(benches);
