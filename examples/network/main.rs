//! All batch norms of a network, ResNet-50: the limits that its device needs, the memory that training takes, and the kernels,
//! compiled ahead. Allocates none of its tensors.
//!
//! `cargo run --release --example network`

mod resnet50;

use batchnorm_wgpu::wgpu;
use batchnorm_wgpu::{BatchNorm, Config, DType, Kernels, Operation, USEFUL_FEATURES, memory_of, required_limits_of};
use std::error::Error;
use std::time::Instant;

/// What every layer binds, each in a buffer of its own.
const FORWARD: [&str; 7] = ["x", "y", "gamma", "beta", "saved", "running", "scratch"];
const BACKWARD: [&str; 7] = ["x", "dy", "dx", "dgamma", "dbeta", "saved", "scratch"];

fn main() -> Result<(), Box<dyn Error>> {
    let shapes = resnet50::layers(32)?;

    // Every layer of the network says what limits the device needs.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))?;
    let (device, _queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_features: adapter.features() & USEFUL_FEATURES,
        required_limits: required_limits_of(shapes.iter().map(|(_, shape)| (shape, DType::F32))),
        ..Default::default()
    }))?;
    println!("{} batch norms on {}\n", shapes.len(), adapter.get_info().name);

    let kernels = Kernels::new(&device);
    let new = |(name, shape): (String, _)| Ok(BatchNorm::new(&kernels, shape, Config::default())?.with_label(name));
    let layers: Vec<BatchNorm> = shapes.into_iter().map(new).collect::<batchnorm_wgpu::Result<_>>()?;
    println!("{}\n", memory_of(&layers));

    // Another batch size is cheap: here the last, smaller batch of an epoch, which most kernels serve as well.
    let smaller: Vec<BatchNorm> = layers.iter().map(|layer| layer.with_batch(5)).collect::<Result<_, _>>()?;

    // All kernels at once, before the first step; what is bound later finds them.
    let mut programs = Vec::new();
    for layer in layers.iter().chain(&smaller) {
        programs.push(layer.program(Operation::ForwardTraining, &FORWARD)?);
        programs.push(layer.program(Operation::BackwardTraining, &BACKWARD)?);
    }
    let started = Instant::now();
    kernels.prepare_with(&programs, |done, all| println!("{done:>3} of {all} kernels"))?;
    println!(
        "{} dispatches share {} kernels, ready in {:.1?}",
        dispatches(&programs),
        kernels.compiled(),
        started.elapsed()
    );
    Ok(())
}

fn dispatches(programs: &[batchnorm_wgpu::program::Program]) -> usize {
    programs.iter().map(|program| program.dispatches.len()).sum()
}
