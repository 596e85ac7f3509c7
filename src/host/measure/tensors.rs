//! Tensors to time operations with.

use super::stopwatch::sets;
use crate::batch_norm::{BatchNorm, Step};
use crate::error::{Error, Result};
use crate::gpu::readback::{storage, upload};
use crate::gpu::scope::guarded;
use crate::operation::Operation;
use crate::running::RunningStatistics;
use crate::shape::Shape;

/// Buffers for every binding of the operations on one shape, several sets of them.
#[derive(Debug)]
pub(super) struct MeasuredTensors {
    shape: Shape,
    sets: Vec<Vec<(&'static str, wgpu::Buffer)>>,
}

impl MeasuredTensors {
    /// As many sets as no cache holds, or a single one where memory ends.
    pub(super) fn new(layer: &BatchNorm, queue: &wgpu::Queue) -> Result<Self> {
        // No operation has both y and dx.
        let several = sets(3, layer.tensor_size());
        match Self::with_sets(layer, queue, several) {
            Err(Error::OutOfMemory { .. }) if several > 1 => Self::with_sets(layer, queue, 1),
            made => made,
        }
    }

    fn with_sets(layer: &BatchNorm, queue: &wgpu::Queue, sets: u64) -> Result<Self> {
        let device = layer.kernels().device();
        let pattern = upload(device, queue, "pattern", bytemuck::cast_slice(&noise(1 << 18)))?;
        let set = || -> Result<Vec<(&'static str, wgpu::Buffer)>> {
            let bytes = layer.tensor_size().next_multiple_of(16);
            let output = storage(device, "y or dx", bytes)?;
            let [x, dy] = ["x", "dy"].map(|name| filled(device, queue, name, &pattern, bytes));
            let planes = |name: &'static str, values: &[f32]| {
                let all: Vec<f32> =
                    values.iter().flat_map(|&value| std::iter::repeat_n(value, layer.shape().channels())).collect();
                upload(device, queue, name, bytemuck::cast_slice(&all)).map(|buffer| (name, buffer))
            };
            let running = RunningStatistics::new(layer.shape().channels()).to_bytes()?;
            Ok(vec![
                ("x", x?),
                ("dy", dy?),
                ("y", output.clone()),
                ("dx", output),
                planes("gamma", &[1.0])?,
                planes("beta", &[0.0])?,
                planes("dgamma", &[0.0])?,
                planes("dbeta", &[0.0])?,
                // Those of a batch with mean 0 and variance 1: steps of one operation are timed alone.
                planes("saved", &[0.0, 0.0, 1.0, 1.0, 1.0, 0.0])?,
                ("running", upload(device, queue, "running", &running)?),
            ])
        };
        Ok(Self { shape: layer.shape().clone(), sets: (0..sets).map(|_| set()).collect::<Result<_>>()? })
    }

    /// The operation as `layer` does it, bound to each set.
    pub(super) fn steps(&self, layer: &BatchNorm, operation: Operation) -> Result<Vec<Step>> {
        let scratch = storage(layer.kernels().device(), "scratch", layer.scratch_size())?;
        let wanted = |name: &str| match name {
            "residual" | "dresidual" => false,
            "saved" => operation != Operation::Inference,
            _ => true,
        };
        let step = |set: &Vec<(&'static str, wgpu::Buffer)>| {
            let all = set.iter().map(|(name, buffer)| (*name, buffer)).chain([("scratch", &scratch)]);
            layer.bind_entire(operation, all.filter(|(name, _)| wanted(name)))
        };
        self.sets.iter().map(step).collect()
    }

    /// The shape of the tensors.
    pub(super) fn shape(&self) -> &Shape {
        &self.shape
    }
}

/// A buffer of `bytes` bytes full of `pattern`. The device copies: a tensor of gigabytes would be long under way from here.
fn filled(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    name: &str,
    pattern: &wgpu::Buffer,
    bytes: u64,
) -> Result<wgpu::Buffer> {
    let tensor = storage(device, name, bytes)?;
    guarded(device, "filling a tensor", || {
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for begin in (0..bytes).step_by(pattern.size() as usize) {
            encoder.copy_buffer_to_buffer(pattern, 0, &tensor, begin, pattern.size().min(bytes - begin));
        }
        queue.submit([encoder.finish()])
    })?;
    Ok(tensor)
}

/// Values with mean 0 and variance 1, evenly spread, the same every time: the upper bits of a linear congruential sequence.
pub(super) fn noise(count: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * 3f32.sqrt()
    };
    (0..count).map(|_| next()).collect()
}
