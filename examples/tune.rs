//! Plans that are measured on the GPU where the program runs, and kept: the next run measures what the budget left out, if anything.
//!
//! `cargo run --release --example tune`

use batchnorm_wgpu::host::Gpu;
use batchnorm_wgpu::host::measure::{Cache, Stopwatch};
use batchnorm_wgpu::{BatchNorm, Config, Kernels, Layout, Operation, Options, Result, Shape};
use std::time::{Duration, Instant};

fn main() -> Result<()> {
    // With the device's own clock, where it has one.
    let gpu = Gpu::open_with(None, Stopwatch::FEATURES)?;
    // The shapes that the network has. Each counts once, however many layers have it.
    let shapes = [
        Shape::new(&[8, 64, 28, 28], Layout::ChannelsFirst)?,
        Shape::new(&[8, 256, 14, 14], Layout::ChannelsFirst)?,
        Shape::new(&[128, 512], Layout::ChannelsFirst)?,
    ];

    let (cache, begin) = (Cache::of_user(), Instant::now());
    let tuning = cache.tuning(&gpu.device, &gpu.queue, &shapes, Duration::from_millis(1500))?;
    println!("{}: tuned in {:.2} s", gpu.key(), begin.elapsed().as_secs_f64());
    match cache.file_for(&gpu.device).filter(|file| file.is_file()) {
        Some(file) => println!("kept in {}; the next run reads it there", file.display()),
        None => println!("kept nowhere, so that the next run measures again"),
    }

    // Every layer that is made with these kernels goes by it.
    let kernels = Kernels::with_options(&gpu.device, Options { tuning: Some(tuning), ..Options::default() });
    for shape in shapes {
        let layer = BatchNorm::new(&kernels, shape, Config::default())?;
        let plan = layer.plan(Operation::ForwardTraining)?;
        println!("{:<28} {}, {} invocations", layer.shape().to_string(), plan.strategy(), plan.workgroup_size);
    }
    Ok(())
}
