//! Batch norm inside a program that has a wgpu device already: your buffers, your encoder, your submission.
//!
//! `cargo run --release --example embed`

use batchnorm_wgpu::wgpu::{self, BufferUsages, util::DeviceExt};
use batchnorm_wgpu::{
    BatchNorm, Config, DType, Inference, Kernels, Layout, RunningStatistics, Shape, Training, TrainingSteps,
    USEFUL_FEATURES, required_limits,
};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    // A batch of 8 images with 3 channels of 16 x 16.
    let shape = Shape::new(&[8, 3, 16, 16], Layout::ChannelsFirst)?;

    // The device is yours. The library asks for these limits, and makes use of these features where they are there.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))?;
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_features: adapter.features() & USEFUL_FEATURES,
        required_limits: required_limits(&shape, DType::F32),
        ..Default::default()
    }))?;

    // So are the buffers. Channel c of x has mean 100 c and standard deviation 1 + c, roughly.
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC;
    let filled =
        |contents: &[u8]| device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: None, contents, usage });
    let empty =
        |size| device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false });
    let mut values = vec![0f32; shape.elements()];
    for channel in 0..shape.channels() {
        for i in 0..shape.elements_per_channel() {
            let wave = (i as f32 * 0.7).sin() * std::f32::consts::SQRT_2;
            values[shape.index(channel, i)] = 100.0 * channel as f32 + (1.0 + channel as f32) * wave;
        }
    }
    let x = filled(bytemuck::cast_slice(&values));
    let (y, dx) = (empty(x.size()), empty(x.size()));
    let dy = filled(bytemuck::cast_slice(&values.iter().map(|x| x.cos()).collect::<Vec<_>>()));
    let (gamma, beta) = (filled(bytemuck::cast_slice(&[1f32; 3])), filled(bytemuck::cast_slice(&[0f32; 3])));
    let (dgamma, dbeta) = (empty(gamma.size()), empty(beta.size()));
    let running = filled(&RunningStatistics::new(shape.channels()).to_bytes()?);

    // Once: plan, compile, bind. A part of a larger buffer does as well as a whole one.
    let layer = BatchNorm::new(&Kernels::new(&device), shape.clone(), Config::default())?;
    let (saved, scratch) = (empty(layer.saved_size()), empty(layer.scratch_size()));
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
    // Inference may overwrite its input: x and y are one binding. The last step that needs x comes before it.
    let inference = layer
        .inference(&Inference::new(whole(&x), whole(&x), whole(&running)).gamma(whole(&gamma)).beta(whole(&beta)))?;

    // Every step: only encode. All of it fits one pass, next to passes of your own.
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
    for step in [&forward, &backward, &inference] {
        step.encode(&mut pass);
    }
    drop(pass);
    queue.submit([encoder.finish()]);

    // A training loop reads nothing back. This program does, to show that it worked.
    let normalized = read(&device, &queue, &y)?;
    println!(
        "{} on {}",
        forward.kernels().chain(backward.kernels()).collect::<Vec<_>>().join(", "),
        adapter.get_info().name
    );
    println!("channel   mean before    variance   mean after    variance");
    for channel in 0..shape.channels() {
        let ((mean, var), (new_mean, new_var)) =
            (moments(&shape, &values, channel), moments(&shape, &normalized, channel));
        println!("{channel:>7} {mean:>13.4} {var:>11.4} {new_mean:>12.4} {new_var:>11.4}");
    }
    Ok(())
}

/// Mean and variance of a channel.
fn moments(shape: &Shape, values: &[f32], channel: usize) -> (f64, f64) {
    let count = shape.elements_per_channel();
    let channel = || (0..count).map(|i| f64::from(values[shape.index(channel, i)]));
    let mean = channel().sum::<f64>() / count as f64;
    (mean, channel().map(|x| (x - mean).powi(2)).sum::<f64>() / count as f64)
}

/// Copies a buffer to the host and waits for it.
fn read(device: &wgpu::Device, queue: &wgpu::Queue, buffer: &wgpu::Buffer) -> Result<Vec<f32>, Box<dyn Error>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    wgpu::util::DownloadBuffer::read_buffer(device, queue, &buffer.slice(..), move |result| {
        // Nobody listens any more when polling failed.
        sender.send(result.map(|contents| bytemuck::pod_collect_to_vec(&contents))).ok();
    });
    device.poll(wgpu::PollType::wait_indefinitely())?;
    Ok(receiver.recv()??)
}
