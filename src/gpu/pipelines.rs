//! Compute pipelines, made once per variant and constants, shared by everything on the device.

use super::scope::guarded;
use crate::capabilities::Capabilities;
use crate::error::Result;
use crate::kernels::{Access, Variant, constants};
use crate::tuning::Tuning;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The kernels of one device: a cache of pipelines, made when they are first bound, or ahead by [`Kernels::prepare`].
///
/// Cheap to clone; clones share the cache, also across threads. Threads that want different kernels compile at the same time,
/// and those that want the same one wait for whoever came first. Keep the `wgpu::Queue` alive as long as the device is used:
/// wgpu refuses to encode for a device whose queue is gone.
#[derive(Clone)]
pub struct Kernels {
    device: wgpu::Device,
    capabilities: Capabilities,
    tuning: Arc<Tuning>,
    edit: Option<Arc<Edit>>,
    checks: RuntimeChecks,
    pipeline_cache: Option<wgpu::PipelineCache>,
    pipelines: Arc<Mutex<HashMap<Key, Slot>>>,
}

/// Where a pipeline is or will be. Whoever compiles it holds this lock and not that of all slots.
type Slot = Arc<Mutex<Option<Arc<Pipeline>>>>;

/// All devices of OpenGL share one context. A thread that waits for it longer than wgpu's six seconds panics, and a long shader
/// may take the driver as long.
static GL_CONTEXT: Mutex<()> = Mutex::new(());

/// A lock whose contents stay sound where another thread panicked while it held it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A change to the WGSL of a variant before it is compiled.
pub type Edit = dyn Fn(&Variant, String) -> String + Send + Sync;

/// What [`Kernels::with_options`] may be told.
#[derive(Clone, Default)]
pub struct Options {
    /// What plans go by; `None` for what comes with the crate for the adapter.
    pub tuning: Option<Tuning>,
    /// What compiled kernels check while they run.
    pub runtime_checks: RuntimeChecks,
    /// A change to the WGSL before it is compiled: for experiments, and for planting faults that a cross-check has to find.
    /// Edited kernels run with all checks.
    pub edit: Option<Arc<Edit>>,
    /// Where the driver finds kernels that it compiled in an earlier run, and leaves those that it compiles now. For devices
    /// with `wgpu::Features::PIPELINE_CACHE` (Vulkan). The application makes it, since wgpu cannot check the bytes it is made
    /// from, and keeps its data from run to run:
    ///
    /// ```no_run
    /// use batchnorm_wgpu::{Kernels, Options, wgpu};
    /// use std::path::Path;
    ///
    /// /// The kernels of a device that was opened with `adapter.features() & wgpu::Features::PIPELINE_CACHE`.
    /// fn kernels(device: &wgpu::Device, file: &Path) -> (Kernels, Option<wgpu::PipelineCache>) {
    ///     let has = device.features().contains(wgpu::Features::PIPELINE_CACHE);
    ///     let pipeline_cache = has.then(|| {
    ///         let data = std::fs::read(file).ok(); // none in the first run
    ///         let descriptor =
    ///             wgpu::PipelineCacheDescriptor { label: Some("kernels"), data: data.as_deref(), fallback: true };
    ///         // SAFETY: nobody but `save` writes the file.
    ///         unsafe { device.create_pipeline_cache(&descriptor) }
    ///     });
    ///     let options = Options { pipeline_cache: pipeline_cache.clone(), ..Options::default() };
    ///     (Kernels::with_options(device, options), pipeline_cache)
    /// }
    ///
    /// /// Once everything is bound.
    /// fn save(pipeline_cache: &wgpu::PipelineCache, file: &Path) -> std::io::Result<()> {
    ///     let Some(data) = pipeline_cache.get_data() else { return Ok(()) };
    ///     let beside = file.with_extension("new");
    ///     std::fs::write(&beside, data)?;
    ///     std::fs::rename(beside, file) // at once, so that no crash leaves half a file
    /// }
    /// ```
    ///
    /// Name the file after the adapter, with `wgpu::util::pipeline_cache_key`. Many drivers of desktop computers keep such a
    /// cache by themselves.
    pub pipeline_cache: Option<wgpu::PipelineCache>,
}

/// What compiled kernels check while they run. The kernels stay within their bindings by construction, which plans and tests
/// see to; the checks are wgpu's second line of defence, and `bn bench --runtime-checks` shows what each costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuntimeChecks {
    /// Whether indices are clamped to the bindings, where the driver does not do it.
    pub bounds: bool,
    /// Whether loops get a counter that ends them, without which some compilers assume that every loop ends.
    pub loop_bounding: bool,
    /// Whether workgroup memory is zeroed first. Off by default: the reductions write every place that they read.
    pub zero_workgroup_memory: bool,
}

impl Default for RuntimeChecks {
    fn default() -> Self {
        Self { bounds: true, loop_bounding: true, zero_workgroup_memory: false }
    }
}

impl RuntimeChecks {
    /// What wgpu is told to check in a shader; `None` where it is all that it checks anyway.
    fn of_shader(self) -> Option<wgpu::ShaderRuntimeChecks> {
        let Self { bounds, loop_bounding, zero_workgroup_memory: _ } = self;
        let checks = wgpu::ShaderRuntimeChecks {
            bounds_checks: bounds,
            force_loop_bounding: loop_bounding,
            ..wgpu::ShaderRuntimeChecks::checked()
        };
        (!bounds || !loop_bounding).then_some(checks)
    }
}

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
        Self::with_options(device, Options::default())
    }

    /// The kernels of `device`, with a tuning, runtime checks, an edit or a pipeline cache of one's own.
    pub fn with_options(device: &wgpu::Device, options: Options) -> Self {
        let Options { tuning, runtime_checks, edit, pipeline_cache } = options;
        let tuning = tuning.unwrap_or_else(|| Tuning::built_in(&device.adapter_info()));
        Self {
            device: device.clone(),
            capabilities: Capabilities::of(device),
            tuning: Arc::new(tuning),
            checks: if edit.is_some() { RuntimeChecks::default() } else { runtime_checks },
            edit,
            pipeline_cache,
            pipelines: Arc::default(),
        }
    }

    /// The device that the kernels run on.
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// What plans are made against.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// What plans go by.
    pub fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    pub(crate) fn shared_tuning(&self) -> &Arc<Tuning> {
        &self.tuning
    }

    /// Forgets the compiled kernels that no [`Step`](crate::Step) has, to give their memory back; they are compiled again
    /// when they are bound the next time. Steps go on as they are.
    pub fn trim(&self) {
        let is_bound = |slot: &Slot| lock(slot).as_ref().is_some_and(|pipeline| Arc::strong_count(pipeline) > 1);
        // A slot that another thread has at hand is about to be bound.
        lock(&self.pipelines).retain(|_, slot| Arc::strong_count(slot) > 1 || is_bound(slot));
    }

    /// How many compiled kernels are held.
    pub fn compiled(&self) -> usize {
        // Not those that are being compiled, whose lock is taken.
        lock(&self.pipelines).values().filter(|slot| slot.try_lock().is_ok_and(|pipeline| pipeline.is_some())).count()
    }

    /// The pipeline of a variant, compiled on first use.
    ///
    /// # Errors
    /// [`crate::Error::KernelUnavailable`] when the device lacks what the variant needs; what the device says when it
    /// refuses the shader.
    pub(crate) fn pipeline(&self, variant: &Variant, workgroup_size: u32) -> Result<Arc<Pipeline>> {
        variant.check(&self.capabilities)?;
        let key = Key { variant: *variant, workgroup_size };
        let slot = lock(&self.pipelines).entry(key).or_default().clone();
        let mut slot = lock(&slot);
        if let Some(pipeline) = &*slot {
            return Ok(pipeline.clone());
        }
        let pipeline = Arc::new(self.compile(variant, workgroup_size)?);
        *slot = Some(pipeline.clone());
        Ok(pipeline)
    }

    fn compile(&self, variant: &Variant, workgroup_size: u32) -> Result<Pipeline> {
        let wgsl = match &self.edit {
            Some(edit) => edit(variant, variant.wgsl()),
            None => variant.wgsl(),
        };
        let _alone = self.compiles_alone().then(|| lock(&GL_CONTEXT));
        guarded(&self.device, "compiling a kernel", || self.create(variant, workgroup_size, wgsl))
    }

    /// Whether the device compiles one kernel at a time.
    pub(super) fn compiles_alone(&self) -> bool {
        self.device.adapter_info().backend == wgpu::Backend::Gl
    }

    fn create(&self, variant: &Variant, workgroup_size: u32, wgsl: String) -> Pipeline {
        let device = &self.device;
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
        let module = self.module(&name, wgsl);
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants(workgroup_size),
                zero_initialize_workgroup_memory: self.checks.zero_workgroup_memory,
            },
            cache: self.pipeline_cache.as_ref(),
        });
        Pipeline { pipeline, layout }
    }

    #[allow(unsafe_code)]
    fn module(&self, name: &str, wgsl: String) -> wgpu::ShaderModule {
        let source = wgpu::ShaderSource::Wgsl(wgsl.into());
        let descriptor = wgpu::ShaderModuleDescriptor { label: Some(name), source };
        let Some(checks) = self.checks.of_shader() else {
            return self.device.create_shader_module(descriptor);
        };
        // SAFETY: the text is this crate's own, since an edit forces all checks; every index that it forms lies within what
        // the binding was checked to hold, and every loop counts up to a bound.
        unsafe { self.device.create_shader_module_trusted(descriptor, checks) }
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernels")
            .field("device", &self.device)
            .field("tuning", &self.tuning.adapter)
            .field("edited", &self.edit.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Results do not show what wgpu checks: the kernels stay within their bindings.
    #[test]
    fn wgpu_is_told_just_what_to_leave_out() {
        for (bounds, loop_bounding) in [(false, false), (false, true), (true, false)] {
            let checks = RuntimeChecks { bounds, loop_bounding, ..RuntimeChecks::default() }.of_shader().unwrap();
            assert_eq!((checks.bounds_checks, checks.force_loop_bounding), (bounds, loop_bounding));
            assert!(checks.int_div_checks);
        }
        assert!(RuntimeChecks::default().of_shader().is_none());
    }
}
