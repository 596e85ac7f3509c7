//! Compute pipelines, made once per variant and constants, shared by everything on the device.

use super::scope::guarded;
use crate::capabilities::Capabilities;
use crate::error::Result;
use crate::kernels::{Access, Variant};
use crate::plan::Plan;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The kernels of one device: a cache of pipelines, made when they are first bound.
///
/// Cheap to clone; clones share the cache, also across threads. Keep the `wgpu::Queue` alive as long as the device is used:
/// wgpu refuses to encode for a device whose queue is gone.
#[derive(Clone)]
pub struct Kernels {
    device: wgpu::Device,
    capabilities: Capabilities,
    edit: Option<Arc<Edit>>,
    pipelines: Arc<Mutex<HashMap<Key, Arc<Pipeline>>>>,
}

/// A change to the WGSL of a variant before it is compiled.
pub type Edit = dyn Fn(&Variant, String) -> String + Send + Sync;

/// What a pipeline depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    variant: Variant,
    workgroup_size: u32,
}

/// A pipeline with the layout of its one bind group.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

impl Kernels {
    /// The kernels of `device`. Compiles nothing yet.
    pub fn new(device: &wgpu::Device) -> Self {
        Self { device: device.clone(), capabilities: Capabilities::of(device), edit: None, pipelines: Arc::default() }
    }

    /// Kernels whose WGSL passes through `edit` before it is compiled: for experiments, and for planting faults that a
    /// cross-check has to find.
    pub fn with_edit(device: &wgpu::Device, edit: Arc<Edit>) -> Self {
        Self { edit: Some(edit), ..Self::new(device) }
    }

    /// The device that the kernels run on.
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// What plans are made against.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The pipeline of a variant, compiled on first use.
    ///
    /// # Errors
    /// [`crate::Error::KernelUnavailable`] when the device lacks what the variant needs; what the device says when it
    /// refuses the shader.
    pub(crate) fn pipeline(&self, variant: &Variant, plan: &Plan) -> Result<Arc<Pipeline>> {
        variant.check(&self.capabilities)?;
        let key = Key { variant: *variant, workgroup_size: plan.workgroup_size };
        // A panic of another thread while it held the lock leaves a map that is still sound.
        let mut pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = pipelines.get(&key) {
            return Ok(pipeline.clone());
        }
        let wgsl = match &self.edit {
            Some(edit) => edit(variant, variant.wgsl()),
            None => variant.wgsl(),
        };
        let made = guarded(&self.device, "compiling a kernel", || create(&self.device, variant, plan, wgsl))?;
        let pipeline = Arc::new(made);
        pipelines.insert(key, pipeline.clone());
        Ok(pipeline)
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernels")
            .field("device", &self.device)
            .field("edited", &self.edit.is_some())
            .finish_non_exhaustive()
    }
}

fn create(device: &wgpu::Device, variant: &Variant, plan: &Plan, wgsl: String) -> Pipeline {
    let name = variant.name();
    log::debug!("compiling {name}");
    let entry = |binding, ty| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    };
    let storage = variant.declared().map(|(number, binding)| {
        let read_only = variant.access(binding) == Access::Read;
        entry(number, wgpu::BufferBindingType::Storage { read_only })
    });
    let entries: Vec<_> = std::iter::once(entry(0, wgpu::BufferBindingType::Uniform)).chain(storage).collect();
    let layout =
        device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(&name), entries: &entries });
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(&name),
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some(&name),
        source: wgpu::ShaderSource::Wgsl(wgsl.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(&name),
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: &plan.constants(variant.kernel.span),
            // The reductions write every place that they read; zeroing first would cost a barrier.
            zero_initialize_workgroup_memory: false,
        },
        cache: None,
    });
    Pipeline { pipeline, layout }
}
