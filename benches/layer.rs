//! What a layer costs on the CPU, from its description to a recorded step, and what compiling its kernels takes, for one and for
//! all of ResNet-50's.
//!
//! `MESA_SHADER_CACHE_DISABLE=1 cargo bench --bench layer`: Mesa, like other drivers, otherwise finds kernels that an earlier run
//! compiled. Times of kernels on a GPU are not measured here.

#[path = "../examples/network/resnet50.rs"]
mod resnet50;

use batchnorm_wgpu::host::{Gpu, storage};
use batchnorm_wgpu::kernels::Strategy;
use batchnorm_wgpu::program::Program;
use batchnorm_wgpu::{
    BatchNorm, Choice, Config, Kernels, Layout, Operation, RunningStatistics, Shape, Training, TrainingSteps, wgpu,
};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use std::error::Error;

/// A convolutional layer of a small network: (N, C, H, W).
const DIMS: [usize; 4] = [32, 64, 16, 16];

/// What is bound, each in a buffer of its own.
const FORWARD: [&str; 7] = ["x", "y", "gamma", "beta", "saved", "running", "scratch"];
const BACKWARD: [&str; 7] = ["x", "dy", "dx", "dgamma", "dbeta", "saved", "scratch"];

fn bench(criterion: &mut Criterion) {
    let gpu = match Gpu::open(None) {
        Ok(gpu) => gpu,
        Err(error) => return println!("skipped: {error}"),
    };
    println!("on {}", gpu.key());
    if let Err(error) = layer(criterion, &gpu).and_then(|()| compiling(criterion, &gpu)) {
        panic!("{error}");
    }
}

/// A training step, its kernels compiled already.
fn layer(criterion: &mut Criterion, gpu: &Gpu) -> Result<(), Box<dyn Error>> {
    let kernels = Kernels::new(&gpu.device);
    let shape = Shape::new(&DIMS, Layout::ChannelsFirst)?;
    let layer = BatchNorm::new(&kernels, shape.clone(), Config::default())?;
    let buffers = Buffers::new(&gpu.device, &layer)?;
    let steps = buffers.bind(&layer)?;
    let mut group = criterion.benchmark_group("layer");
    group.bench_function("describe", |bencher| {
        bencher.iter(|| BatchNorm::new(&kernels, shape.clone(), Config::default()))
    });
    group.bench_function("with_batch", |bencher| bencher.iter(|| layer.with_batch(17)));
    group.bench_function("lower_training_step", |bencher| bencher.iter(|| programs(&layer)));
    // What is uploaded waits with wgpu for a submission.
    let settle = || {
        gpu.queue.submit([]);
        gpu.device.poll(wgpu::PollType::wait_indefinitely()).ok();
    };
    group.bench_function("bind_training_step", |bencher| {
        bencher.iter_batched(settle, |()| buffers.bind(&layer), BatchSize::PerIteration)
    });
    group.bench_function("set_momentum", |bencher| {
        bencher.iter_batched(settle, |()| steps.set_momentum(&gpu.queue, 0.2), BatchSize::PerIteration)
    });
    settle();
    group.bench_function("encode_training_step", |bencher| bencher.iter(|| encode(&gpu.device, &steps)));
    group.finish();
    Ok(())
}

/// An encoder with a training step in one pass, up to the finished command buffer: what a training loop pays for the layer
/// on the CPU, besides submission.
fn encode(device: &wgpu::Device, steps: &TrainingSteps) -> wgpu::CommandBuffer {
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
    [&steps.forward, &steps.backward].into_iter().for_each(|step| step.encode(&mut pass));
    drop(pass);
    encoder.finish()
}

/// Kernels that nobody compiled yet.
fn compiling(criterion: &mut Criterion, gpu: &Gpu) -> Result<(), Box<dyn Error>> {
    let kernels = || Kernels::new(&gpu.device);
    let mut group = criterion.benchmark_group("compiling");
    group.sample_size(10);
    let split = Choice::by(Strategy::Split);
    let layer =
        BatchNorm::with_choice(&kernels(), Shape::new(&DIMS, Layout::ChannelsFirst)?, Config::default(), &split)?;
    for kernel in alone(&programs(&layer)?) {
        let name = kernel.dispatches.iter().map(|dispatch| dispatch.variant.kernel.name).collect::<String>();
        group.bench_function(name, |bencher| {
            bencher.iter_batched(kernels, |kernels| kernels.prepare([&kernel]), BatchSize::PerIteration)
        });
    }
    let network = resnet50::layers(32)?;
    let layers = network.into_iter().map(|(_, shape)| BatchNorm::new(&kernels(), shape, Config::default()));
    let all: Vec<Program> =
        layers.map(|layer| programs(&layer?)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    let one_by_one = alone(&all);
    group.bench_function("resnet50_one_by_one", |bencher| {
        bencher.iter_batched(
            kernels,
            |kernels| one_by_one.iter().try_for_each(|kernel| kernels.prepare([kernel])),
            BatchSize::PerIteration,
        )
    });
    group.bench_function("resnet50_prepare", |bencher| {
        bencher.iter_batched(kernels, |kernels| kernels.prepare(&all), BatchSize::PerIteration)
    });
    group.finish();
    Ok(())
}

/// Those of a training step.
fn programs(layer: &BatchNorm) -> batchnorm_wgpu::Result<[Program; 2]> {
    Ok([layer.program(Operation::ForwardTraining, &FORWARD)?, layer.program(Operation::BackwardTraining, &BACKWARD)?])
}

/// A program for each dispatch.
fn alone(programs: &[Program]) -> Vec<Program> {
    let of = |program: &Program| {
        let plan = program.plan.clone();
        program
            .dispatches
            .iter()
            .map(move |dispatch| Program { plan: plan.clone(), dispatches: vec![dispatch.clone()] })
            .collect::<Vec<_>>()
    };
    programs.iter().flat_map(of).collect()
}

/// What a training step is bound to.
struct Buffers {
    tensors: [wgpu::Buffer; 4],
    parameters: [wgpu::Buffer; 4],
    saved: wgpu::Buffer,
    scratch: wgpu::Buffer,
    running: wgpu::Buffer,
}

impl Buffers {
    fn new(device: &wgpu::Device, layer: &BatchNorm) -> batchnorm_wgpu::Result<Self> {
        let channels = layer.shape().channels();
        let of = |size| storage(device, "of a layer", size);
        let tensor = || of(layer.tensor_size());
        let plane = || of(channels as u64 * 4);
        Ok(Self {
            tensors: [tensor()?, tensor()?, tensor()?, tensor()?],
            parameters: [plane()?, plane()?, plane()?, plane()?],
            saved: of(layer.saved_size())?,
            scratch: of(layer.scratch_size())?,
            running: of(RunningStatistics::size(channels))?,
        })
    }

    fn bind(&self, layer: &BatchNorm) -> batchnorm_wgpu::Result<TrainingSteps> {
        let whole = wgpu::Buffer::as_entire_buffer_binding;
        let [x, y, dy, dx] = &self.tensors;
        let [gamma, beta, dgamma, dbeta] = &self.parameters;
        layer.training(
            &Training::new(whole(x), whole(y), whole(dy), whole(&self.saved), whole(&self.scratch))
                .dx(whole(dx))
                .gamma(whole(gamma))
                .beta(whole(beta))
                .dgamma(whole(dgamma))
                .dbeta(whole(dbeta))
                .running(whole(&self.running)),
        )
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
