//! The tool's own kernels: their table, their pipelines on a device, and the uniforms of batches.

use super::error::TrainError;
use batchnorm_wgpu::wgpu;
use batchnorm_wgpu_check::compute::{BindingUse, BoundKernel, CompiledKernel};
use std::collections::HashMap;

/// A kernel of `cli/shaders/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NetworkKernel {
    /// Gathers a batch from the data set.
    Gather,
    /// y = x W + bias.
    LinearForward,
    /// du = (dy W^T) a (1 - a).
    LinearBackwardInput,
    /// dW = x^T dy, dbias = 1^T dy.
    LinearBackwardWeights,
    /// a = sigmoid(u).
    Sigmoid,
    /// Loss, correct count and dlogits.
    SoftmaxCrossEntropy,
    /// p -= rate * g.
    Sgd,
}

/// Bytes from one batch's uniforms to the next: the largest alignment that WebGPU lets a device ask for.
pub const BATCH_STRIDE: u64 = 256;

/// Bytes of one batch's uniforms.
const BATCH_BYTES: u64 = 16;

/// The text of files below `cli/shaders/`, one behind the other: order does not matter in WGSL.
macro_rules! wgsl {
    ($($file:literal),+) => { concat!($(include_str!(concat!("../../shaders/", $file)), "\n"),+) };
}

impl NetworkKernel {
    /// All kernels.
    pub const ALL: [NetworkKernel; 7] = [
        NetworkKernel::Gather,
        NetworkKernel::LinearForward,
        NetworkKernel::LinearBackwardInput,
        NetworkKernel::LinearBackwardWeights,
        NetworkKernel::Sigmoid,
        NetworkKernel::SoftmaxCrossEntropy,
        NetworkKernel::Sgd,
    ];

    /// The stem of the kernel's file, which also labels its pipelines.
    pub fn name(self) -> &'static str {
        match self {
            NetworkKernel::Gather => "gather",
            NetworkKernel::LinearForward => "linear_forward",
            NetworkKernel::LinearBackwardInput => "linear_backward_input",
            NetworkKernel::LinearBackwardWeights => "linear_backward_weights",
            NetworkKernel::Sigmoid => "sigmoid",
            NetworkKernel::SoftmaxCrossEntropy => "softmax_cross_entropy",
            NetworkKernel::Sgd => "sgd",
        }
    }

    /// The kernel's WGSL: its own file, and the part that it shares.
    pub fn source(self) -> &'static str {
        match self {
            NetworkKernel::Gather => wgsl!("gather.wgsl"),
            NetworkKernel::LinearForward => wgsl!("linear_forward.wgsl", "linear_tile.wgsl"),
            NetworkKernel::LinearBackwardInput => wgsl!("linear_backward_input.wgsl", "linear_tile.wgsl"),
            NetworkKernel::LinearBackwardWeights => wgsl!("linear_backward_weights.wgsl", "linear_tile.wgsl"),
            NetworkKernel::Sigmoid => wgsl!("sigmoid.wgsl"),
            NetworkKernel::SoftmaxCrossEntropy => wgsl!("softmax_cross_entropy.wgsl"),
            NetworkKernel::Sgd => wgsl!("sgd.wgsl"),
        }
    }

    /// The bindings of group 0, in order.
    fn bindings(self) -> &'static [BindingUse] {
        use BindingUse::{Read, Uniform as Batch, Write};
        match self {
            NetworkKernel::Gather => &[Read, Read, Read, Write, Write, Batch],
            NetworkKernel::LinearForward | NetworkKernel::LinearBackwardInput => &[Read, Read, Read, Write],
            NetworkKernel::LinearBackwardWeights => &[Read, Read, Write, Write],
            NetworkKernel::Sigmoid => &[Read, Write],
            NetworkKernel::SoftmaxCrossEntropy => &[Read, Read, Write, Write, Batch],
            NetworkKernel::Sgd => &[Write, Read, Batch],
        }
    }
}

/// Pipelines of the tool's kernels on one device, each built once.
pub struct Pipelines {
    device: wgpu::Device,
    sources: HashMap<NetworkKernel, String>,
    built: HashMap<String, CompiledKernel>,
}

impl Pipelines {
    /// The kernels of `device`. `source` gives a kernel's WGSL; tests hand in broken ones.
    pub fn new(device: &wgpu::Device, source: impl Fn(NetworkKernel) -> String) -> Self {
        let sources = NetworkKernel::ALL.into_iter().map(|kernel| (kernel, source(kernel))).collect();
        Self { device: device.clone(), sources, built: HashMap::new() }
    }

    /// Binds `kernel` to `buffers`, with its overrides set to `constants`.
    ///
    /// # Errors
    /// [`TrainError::Limit`] for more workgroups than one dispatch may have; what the device says when it refuses the kernel.
    pub fn bind(
        &mut self,
        kernel: NetworkKernel,
        constants: &[(&str, f64)],
        buffers: &[wgpu::BufferBinding<'_>],
        workgroups: u32,
    ) -> Result<BoundKernel, TrainError> {
        let allowed = self.device.limits().max_compute_workgroups_per_dimension;
        if workgroups > allowed {
            let what = format!("workgroups of {}", kernel.name());
            return Err(TrainError::Limit { what, needed: u64::from(workgroups), allowed: u64::from(allowed) });
        }
        Ok(self.pipeline(kernel, constants)?.bind(buffers, workgroups)?)
    }

    /// The pipeline of `kernel` with its overrides set to `constants`, built at its first use.
    fn pipeline(&mut self, kernel: NetworkKernel, constants: &[(&str, f64)]) -> Result<CompiledKernel, TrainError> {
        let key = format!("{} {constants:?}", kernel.name());
        if let Some(built) = self.built.get(&key) {
            return Ok(built.clone());
        }
        let source = &self.sources[&kernel];
        let pipeline = CompiledKernel::new(&self.device, kernel.name(), source, kernel.bindings(), constants)?;
        self.built.insert(key, pipeline.clone());
        Ok(pipeline)
    }
}

/// What tells the batches of a pass over the data apart. Mirrors `Batch` in the shaders.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Batch {
    /// Position of the first row in the list of indices.
    pub first: u32,
    /// Rows that count.
    pub rows: u32,
    /// Where the metrics go: the batch's number.
    pub slot: u32,
    /// Step width of the descent; not read in evaluation.
    pub rate: f32,
}

/// The batches of one pass over `count` images, `rows` images each. With `whole` the images left over are dropped,
/// otherwise they make a last, shorter batch.
pub fn batches(count: usize, rows: usize, whole: bool) -> Vec<Batch> {
    let number = if whole { count / rows } else { count.div_ceil(rows) };
    (0..number)
        .map(|slot| {
            let first = slot * rows;
            Batch { first: first as u32, rows: rows.min(count - first) as u32, slot: slot as u32, rate: 0.0 }
        })
        .collect()
}

/// The content of the uniform buffer for `batches`, each at its dynamic offset.
pub fn batch_bytes(batches: &[Batch]) -> Vec<u8> {
    let mut bytes = vec![0; batches.len() * BATCH_STRIDE as usize];
    for (chunk, batch) in bytes.chunks_exact_mut(BATCH_STRIDE as usize).zip(batches) {
        chunk[..BATCH_BYTES as usize].copy_from_slice(bytemuck::bytes_of(batch));
    }
    bytes
}

/// The window of the uniform buffer that a dynamic offset moves.
pub fn batch_binding(buffer: &wgpu::Buffer) -> wgpu::BufferBinding<'_> {
    wgpu::BufferBinding { buffer, offset: 0, size: wgpu::BufferSize::new(BATCH_BYTES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_drop_or_keep_what_is_left_over() {
        let last = |whole| batches(130, 60, whole).iter().map(|b| (b.first, b.rows, b.slot)).collect::<Vec<_>>();
        assert_eq!(last(true), [(0, 60, 0), (60, 60, 1)]);
        assert_eq!(last(false), [(0, 60, 0), (60, 60, 1), (120, 10, 2)]);
        assert_eq!(batch_bytes(&batches(130, 60, false)).len(), 3 * 256);
    }

    #[test]
    fn every_shader_opens_with_its_three_facts() {
        for kernel in NetworkKernel::ALL {
            for fact in ["// Owner: ", "// Assumes: "] {
                assert!(kernel.source().contains(fact), "{}: {fact}", kernel.name());
            }
        }
    }
}
