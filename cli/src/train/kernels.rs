//! The tool's own kernels: their table, pipelines, and dispatches bound to buffers.

use super::TrainError;
use batchnorm_wgpu::wgpu;
use std::{collections::HashMap, rc::Rc};

/// A kernel of `cli/shaders/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
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

/// How a kernel uses a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// A storage buffer that is read.
    Read,
    /// A storage buffer that is written, and may be read.
    Write,
    /// The uniform buffer of batches, at a dynamic offset.
    Batch,
}

/// Bytes from one batch's uniforms to the next: the largest alignment that WebGPU lets a device ask for.
pub const BATCH_STRIDE: u64 = 256;

/// Bytes of one batch's uniforms.
const BATCH_BYTES: u64 = 16;

/// The text of files below `cli/shaders/`, one behind the other: order does not matter in WGSL.
macro_rules! wgsl {
    ($($file:literal),+) => { concat!($(include_str!(concat!("../../shaders/", $file)), "\n"),+) };
}

impl Kernel {
    /// All kernels.
    pub const ALL: [Kernel; 7] = [
        Kernel::Gather,
        Kernel::LinearForward,
        Kernel::LinearBackwardInput,
        Kernel::LinearBackwardWeights,
        Kernel::Sigmoid,
        Kernel::SoftmaxCrossEntropy,
        Kernel::Sgd,
    ];

    /// The stem of the kernel's file, which also labels its pipelines.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Gather => "gather",
            Kernel::LinearForward => "linear_forward",
            Kernel::LinearBackwardInput => "linear_backward_input",
            Kernel::LinearBackwardWeights => "linear_backward_weights",
            Kernel::Sigmoid => "sigmoid",
            Kernel::SoftmaxCrossEntropy => "softmax_cross_entropy",
            Kernel::Sgd => "sgd",
        }
    }

    /// The kernel's WGSL: its own file, and the part that it shares.
    pub fn source(self) -> &'static str {
        match self {
            Kernel::Gather => wgsl!("gather.wgsl"),
            Kernel::LinearForward => wgsl!("linear_forward.wgsl", "linear_tile.wgsl"),
            Kernel::LinearBackwardInput => wgsl!("linear_backward_input.wgsl", "linear_tile.wgsl"),
            Kernel::LinearBackwardWeights => wgsl!("linear_backward_weights.wgsl", "linear_tile.wgsl"),
            Kernel::Sigmoid => wgsl!("sigmoid.wgsl"),
            Kernel::SoftmaxCrossEntropy => wgsl!("softmax_cross_entropy.wgsl"),
            Kernel::Sgd => wgsl!("sgd.wgsl"),
        }
    }

    /// The bindings of group 0, in order.
    fn bindings(self) -> &'static [Access] {
        use Access::{Batch, Read, Write};
        match self {
            Kernel::Gather => &[Read, Read, Read, Write, Write, Batch],
            Kernel::LinearForward | Kernel::LinearBackwardInput => &[Read, Read, Read, Write],
            Kernel::LinearBackwardWeights => &[Read, Read, Write, Write],
            Kernel::Sigmoid => &[Read, Write],
            Kernel::SoftmaxCrossEntropy => &[Read, Read, Write, Write, Batch],
            Kernel::Sgd => &[Write, Read, Batch],
        }
    }
}

/// Pipelines of the tool's kernels on one device, each built once.
pub struct Pipelines {
    device: wgpu::Device,
    modules: HashMap<Kernel, wgpu::ShaderModule>,
    built: HashMap<String, Rc<Pipeline>>,
}

/// A pipeline and the layout of its bind group.
struct Pipeline {
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
}

/// A kernel bound to its buffers: all that a step needs to record it.
pub struct Dispatch {
    pipeline: Rc<Pipeline>,
    bind_group: wgpu::BindGroup,
    workgroups: u32,
    /// Whether the kernel reads the uniforms of its batch.
    per_batch: bool,
}

impl Pipelines {
    /// Compiles the kernels' modules. `source` gives a kernel's WGSL; tests hand in broken ones.
    pub fn new(device: &wgpu::Device, source: impl Fn(Kernel) -> String) -> Self {
        let module = |kernel: Kernel| {
            device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(kernel.name()),
                source: wgpu::ShaderSource::Wgsl(source(kernel).into()),
            })
        };
        let modules = Kernel::ALL.into_iter().map(|kernel| (kernel, module(kernel))).collect();
        Self { device: device.clone(), modules, built: HashMap::new() }
    }

    /// Binds `kernel` to `buffers`, with its overrides set to `constants`.
    ///
    /// # Errors
    /// [`TrainError::Limit`] for more workgroups than one dispatch may have.
    pub fn bind(
        &mut self,
        kernel: Kernel,
        constants: &[(&str, f64)],
        buffers: &[wgpu::BufferBinding<'_>],
        workgroups: u32,
    ) -> Result<Dispatch, TrainError> {
        let allowed = self.device.limits().max_compute_workgroups_per_dimension;
        if workgroups > allowed {
            let what = format!("workgroups of {}", kernel.name());
            return Err(TrainError::Limit { what, needed: u64::from(workgroups), allowed: u64::from(allowed) });
        }
        let pipeline = self.pipeline(kernel, constants);
        let entries: Vec<_> = buffers
            .iter()
            .zip(0..)
            .map(|(buffer, binding)| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(buffer.clone()),
            })
            .collect();
        let bind_group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(kernel.name()),
            layout: &pipeline.layout,
            entries: &entries,
        });
        let per_batch = kernel.bindings().contains(&Access::Batch);
        Ok(Dispatch { pipeline, bind_group, workgroups, per_batch })
    }

    /// The pipeline of `kernel` with its overrides set to `constants`, built at its first use.
    fn pipeline(&mut self, kernel: Kernel, constants: &[(&str, f64)]) -> Rc<Pipeline> {
        let key = format!("{} {constants:?}", kernel.name());
        let (device, module) = (&self.device, &self.modules[&kernel]);
        self.built.entry(key).or_insert_with(|| Rc::new(build(device, module, kernel, constants))).clone()
    }
}

/// Builds one pipeline.
fn build(device: &wgpu::Device, module: &wgpu::ShaderModule, kernel: Kernel, constants: &[(&str, f64)]) -> Pipeline {
    let entries: Vec<_> = kernel.bindings().iter().zip(0..).map(|(&access, binding)| entry(binding, access)).collect();
    let layout = device
        .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(kernel.name()), entries: &entries });
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(kernel.name()),
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(kernel.name()),
        layout: Some(&pipeline_layout),
        module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions { constants, ..Default::default() },
        cache: None,
    });
    Pipeline { pipeline, layout }
}

/// One entry of a bind group layout.
fn entry(binding: u32, access: Access) -> wgpu::BindGroupLayoutEntry {
    let ty = match access {
        Access::Read => wgpu::BufferBindingType::Storage { read_only: true },
        Access::Write => wgpu::BufferBindingType::Storage { read_only: false },
        Access::Batch => wgpu::BufferBindingType::Uniform,
    };
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: access == Access::Batch, min_binding_size: None },
        count: None,
    }
}

impl Dispatch {
    /// Records the dispatch for batch number `batch`.
    pub fn encode(&self, pass: &mut wgpu::ComputePass<'_>, batch: u32) {
        pass.set_pipeline(&self.pipeline.pipeline);
        let offset = batch * BATCH_STRIDE as u32;
        let offsets: &[u32] = if self.per_batch { &[offset] } else { &[] };
        pass.set_bind_group(0, &self.bind_group, offsets);
        pass.dispatch_workgroups(self.workgroups, 1, 1);
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
        for kernel in Kernel::ALL {
            for fact in ["// Owner: ", "// Assumes: "] {
                assert!(kernel.source().contains(fact), "{}: {fact}", kernel.name());
            }
        }
    }
}
