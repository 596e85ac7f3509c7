//! Kernels beside the library's: WGSL made into a pipeline, bound to buffers, recorded and run. What wgpu refuses comes back as
//! an error.

use batchnorm_wgpu::host::guarded;
use batchnorm_wgpu::{Error, wgpu};

/// How a kernel uses a binding of its group 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindingUse {
    /// A storage buffer that is read.
    Read,
    /// A storage buffer that is written, and may be read.
    Write,
    /// A uniform buffer at a dynamic offset.
    Uniform,
}

/// A compiled kernel. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CompiledKernel {
    device: wgpu::Device,
    name: String,
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    /// Bindings that have a dynamic offset.
    offsets: usize,
}

/// A kernel bound to its buffers.
#[derive(Clone, Debug)]
pub struct BoundKernel {
    pipeline: CompiledKernel,
    bind_group: wgpu::BindGroup,
    workgroups: u32,
}

impl CompiledKernel {
    /// Compiles the entry point `main` of `wgsl`, which binds as `accesses` says in order, with its overrides set to `constants`.
    ///
    /// # Errors
    /// What the device says when it refuses the text.
    pub fn new(
        device: &wgpu::Device,
        name: &str,
        wgsl: &str,
        accesses: &[BindingUse],
        constants: &[(&str, f64)],
    ) -> Result<Self, Error> {
        let label = Some(name);
        let entries: Vec<_> = (0..).zip(accesses).map(|(binding, access)| access.entry(binding)).collect();
        let (pipeline, layout) = guarded(device, "compiling a kernel", || {
            let source = wgpu::ShaderSource::Wgsl(wgsl.into());
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
            let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
            let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label,
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label,
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions { constants, ..Default::default() },
                cache: None,
            });
            (pipeline, layout)
        })?;
        let offsets = accesses.iter().filter(|&&access| access == BindingUse::Uniform).count();
        Ok(Self { device: device.clone(), name: name.into(), pipeline, layout, offsets })
    }

    /// Binds `buffers` in order, for a dispatch of so many workgroups.
    ///
    /// # Errors
    /// What the device says when the buffers are not what the kernel binds.
    pub fn bind(&self, buffers: &[wgpu::BufferBinding<'_>], workgroups: u32) -> Result<BoundKernel, Error> {
        let numbered = (0..).zip(buffers);
        let entries: Vec<_> = numbered
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(buffer.clone()),
            })
            .collect();
        let descriptor = wgpu::BindGroupDescriptor { label: Some(&self.name), layout: &self.layout, entries: &entries };
        let bind_group = guarded(&self.device, "binding a kernel", || self.device.create_bind_group(&descriptor))?;
        Ok(BoundKernel { pipeline: self.clone(), bind_group, workgroups })
    }
}

impl BindingUse {
    fn entry(self, binding: u32) -> wgpu::BindGroupLayoutEntry {
        let ty = match self {
            Self::Read => wgpu::BufferBindingType::Storage { read_only: true },
            Self::Write => wgpu::BufferBindingType::Storage { read_only: false },
            Self::Uniform => wgpu::BufferBindingType::Uniform,
        };
        let has_dynamic_offset = self == Self::Uniform;
        wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None },
            count: None,
        }
    }
}

impl BoundKernel {
    /// Records it, with uniforms from their beginning.
    pub fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.encode_at(pass, 0);
    }

    /// Records it, with uniforms from `offset` bytes on.
    pub fn encode_at(&self, pass: &mut wgpu::ComputePass<'_>, offset: u32) {
        pass.set_pipeline(&self.pipeline.pipeline);
        pass.set_bind_group(0, &self.bind_group, &vec![offset; self.pipeline.offsets]);
        pass.dispatch_workgroups(self.workgroups, 1, 1);
    }

    /// Runs it by itself.
    ///
    /// # Errors
    /// What the device says when it refuses the dispatch.
    pub fn run(&self, queue: &wgpu::Queue) -> Result<(), Error> {
        let device = &self.pipeline.device;
        guarded(device, "running a kernel", || {
            let mut encoder = device.create_command_encoder(&Default::default());
            self.encode(&mut encoder.begin_compute_pass(&Default::default()));
            queue.submit([encoder.finish()])
        })?;
        Ok(())
    }
}
