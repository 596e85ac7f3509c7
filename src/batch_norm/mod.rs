//! The layer that people hold: check, plan, bind, and then only encode.

mod bindings;
mod saved;
mod step;

pub use bindings::{Backward, ForwardTraining, Inference, Statistics, Training};
pub use saved::Saved;
pub use step::Step;

use crate::config::{Activation, Config};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::gpu::scope::{guarded, refused};
use crate::gpu::{Dispatch, Kernels, Pipeline, label_of};
use crate::kernels::{Access, Binding, Extent, Gradients, Kernel, Settings, Strategy, Variant, program};
use crate::operation::Operation;
use crate::plan::{Choice, LARGEST_BINDING, Plan, most_bytes};
use crate::running::RunningStatistics;
use crate::shape::Shape;
use std::sync::Arc;
use wgpu::BufferBinding;

/// wgpu features that make the kernels faster where the device has them; nothing needs them.
pub const USEFUL_FEATURES: wgpu::Features = wgpu::Features::SUBGROUP.union(wgpu::Features::SHADER_F16);

/// The limits that a device must be opened with for tensors of `shape` in one binding each: WebGPU's defaults, raised where
/// the tensor is larger, to at most what wgpu binds. Take the smaller of these and the adapter's where the adapter has less: a
/// layer then goes over the tensors in parts, as long as buffers are large enough.
pub fn required_limits(shape: &Shape, dtype: DType) -> wgpu::Limits {
    // With few values per channel the running statistics, or the scratch of folded samples, are larger than the tensor.
    let bytes = dtype.bytes(shape.elements()).max(planes(12, shape));
    let defaults = wgpu::Limits::default();
    wgpu::Limits {
        max_storage_buffer_binding_size: defaults.max_storage_buffer_binding_size.max(bytes.min(LARGEST_BINDING)),
        max_buffer_size: defaults.max_buffer_size.max(bytes),
        ..defaults
    }
}

/// A batch norm layer for one shape. Holds no tensor.
///
/// Bindings are `wgpu::BufferBinding`s: a buffer with `BufferUsages::STORAGE`, an offset that is a multiple of the device's
/// `min_storage_buffer_offset_alignment`, and a size (`None`: to the end of the buffer). A binding may be larger than
/// needed; the kernels touch what the shape says. Tensors have the layer's [`Config::dtype`], densely packed, in
/// [`DType::bytes`] bytes; a tensor may be larger than what the device binds at once. Buffers may be shared between bindings
/// as long as what is written overlaps nothing, except where an operation says so.
#[derive(Debug)]
pub struct BatchNorm {
    kernels: Kernels,
    shape: Shape,
    config: Config,
    choice: Choice,
    scratch_planes: u64,
    label: Option<Arc<str>>,
}

/// The steps of [`BatchNorm::training`]. Encode `forward`, then what makes dy of y, then `backward`.
#[derive(Debug)]
pub struct TrainingSteps {
    /// The forward pass.
    pub forward: Step,
    /// Its backward pass.
    pub backward: Step,
}

/// Bytes of planes of C words.
fn planes(count: u64, shape: &Shape) -> u64 {
    (shape.channels() as u64).saturating_mul(4).saturating_mul(count)
}

/// What an operation binds by any plan: what is refused on one device is refused on every one.
fn bindings_of(operation: Operation) -> impl Iterator<Item = &'static Binding> {
    let plans = Strategy::ALL.into_iter().flat_map(|strategy| Gradients::ALL.map(|gradients| (strategy, gradients)));
    let kernels = plans.flat_map(move |(strategy, gradients)| program(operation, strategy, gradients));
    kernels.flat_map(|kernel| kernel.bindings)
}

/// A binding by its name in the table of kernels.
type Named<'a> = (&'static str, Option<BufferBinding<'a>>);

impl BatchNorm {
    /// A layer whose plan is chosen for the shape and the device.
    ///
    /// # Errors
    /// What [`Config::check`] says; [`Error::Limit`] when a sample or the scratch exceeds what the device binds;
    /// [`Error::OutOfMemory`].
    pub fn new(kernels: &Kernels, shape: Shape, config: Config) -> Result<Self> {
        Self::with_choice(kernels, shape, config, &Choice::default())
    }

    /// A layer with some of the choices of its plans forced. A strategy that only some operations have may be forced; the
    /// others are then refused when they are bound.
    ///
    /// # Errors
    /// As [`BatchNorm::new`]; [`Error::KernelUnavailable`] when no operation can run with the forced choice.
    pub fn with_choice(kernels: &Kernels, shape: Shape, config: Config, choice: &Choice) -> Result<Self> {
        config.check()?;
        let mut layer =
            Self { kernels: kernels.clone(), shape, config, choice: *choice, scratch_planes: 0, label: None };
        let mut plans = Vec::new();
        let mut refused = None;
        for operation in Operation::ALL {
            match layer.plan(operation) {
                Ok(plan) => plans.push(plan),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        match refused {
            Some(error) if plans.is_empty() || *choice == Choice::default() => return Err(error),
            _ => {}
        }
        // A binding of no bytes is none: there is always some.
        layer.scratch_planes = plans.iter().map(Plan::scratch_planes).max().unwrap_or_default().max(1);
        Ok(layer)
    }

    /// Gives the layer a name, such as `layer3.bn1`. Its errors begin with it ([`Error::InLayer`]), and so do the labels of
    /// what it makes on the device, which debuggers and profilers show. What [`BatchNorm::new`] itself refuses has no name
    /// yet: see [`Error::in_layer`].
    #[must_use]
    pub fn with_label(self, label: impl Into<Arc<str>>) -> Self {
        Self { label: Some(label.into()), ..self }
    }

    /// The name of the layer, where it has one.
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// An outcome whose error says which layer it is of.
    fn named<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| match &self.label {
            Some(label) => error.in_layer(label.clone()),
            None => error,
        })
    }

    /// The shape that the layer was made for.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The plan of an operation. Pure and cheap; binding goes by the same.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plan(&self, operation: Operation) -> Result<Plan> {
        let (capabilities, tuning) = (self.kernels.capabilities(), self.kernels.tuning());
        self.named(Plan::new(operation, &self.shape, self.config.dtype, capabilities, tuning, &self.choice))
    }

    /// Bytes of scratch that a training, backward or statistics step of this layer needs.
    pub fn scratch_size(&self) -> u64 {
        self.size_of(Extent::Scratch)
    }

    /// Bytes of a tensor of this layer.
    pub fn tensor_size(&self) -> u64 {
        self.size_of(Extent::Elements)
    }

    /// Bytes of what a forward pass saves: `[6][C]` f32.
    pub fn saved_size(&self) -> u64 {
        self.size_of(Extent::Channels(crate::kernels::SAVED_PLANES))
    }

    /// Both passes of a training step, bound from one description: what the forward pass leaves is what the backward pass
    /// takes. [`BatchNorm::forward_training`] and [`BatchNorm::backward_training`] bind one at a time.
    ///
    /// # Errors
    /// As those two.
    pub fn training(&self, bindings: &Training<'_>) -> Result<TrainingSteps> {
        let Training { x, y, dy, dx, residual, dresidual, gamma, beta, dgamma, dbeta, saved, running, scratch } =
            bindings.clone();
        let of_forward = scratch.clone();
        let forward = ForwardTraining { x, y, residual, gamma, beta, saved, running, scratch: of_forward };
        let forward = self.forward_training(&forward)?;
        let saved = forward.saved()?;
        let backward = self.backward_training(&Backward { saved, dy, dx, dresidual, dgamma, dbeta, scratch })?;
        Ok(TrainingSteps { forward, backward })
    }

    /// Normalizes by the statistics of the batch and updates the running statistics (Ioffe and Szegedy 2015, algorithm 1),
    /// then adds the residual and applies the activation.
    ///
    /// # Errors
    /// [`Error::OneValuePerChannel`], and what is wrong with a binding.
    pub fn forward_training(&self, bindings: &ForwardTraining<'_>) -> Result<Step> {
        self.named(self.bind_forward_training(bindings))
    }

    fn bind_forward_training(&self, bindings: &ForwardTraining<'_>) -> Result<Step> {
        self.check_trainable()?;
        let ForwardTraining { x, y, residual, gamma, beta, saved, running, scratch } = bindings.clone();
        if !self.config.in_place && same_bytes(&x, &y) {
            let hint = "the backward pass needs x; Config::in_place lets it work from y";
            return Err(Error::Overlap { first: "x", second: "y", hint });
        }
        self.refuse_residual_in_place(&residual)?;
        let read_again = if self.config.in_place { y.clone() } else { x.clone() };
        let left = self.saved_from(Operation::ForwardTraining, read_again, residual.clone(), saved.clone())?;
        let step = self.bind(
            Operation::ForwardTraining,
            Gradients::All,
            &[
                ("x", Some(x)),
                ("y", Some(y)),
                ("residual", residual),
                ("gamma", gamma),
                ("beta", beta),
                ("saved", Some(saved)),
                ("running", running),
                ("scratch", Some(scratch)),
            ],
        )?;
        Ok(Step { saved: Some(Box::new(left)), ..step })
    }

    /// Normalizes by the running statistics (Ioffe and Szegedy 2015, algorithm 2), then adds the residual and applies the
    /// activation. Needs no scratch.
    ///
    /// # Errors
    /// What is wrong with a binding.
    pub fn inference(&self, bindings: &Inference<'_>) -> Result<Step> {
        self.named(self.bind_inference(bindings))
    }

    fn bind_inference(&self, bindings: &Inference<'_>) -> Result<Step> {
        let Inference { x, y, residual, gamma, beta, running, saved } = bindings.clone();
        if saved.is_some() {
            self.refuse_residual_in_place(&residual)?;
        }
        let left = saved.clone().map(|saved| {
            let (over, in_place) = (same_bytes(&x, &y), self.config.in_place);
            let read_again = if in_place { y.clone() } else { x.clone() };
            let left = self.saved_from(Operation::Inference, read_again, residual.clone(), saved)?;
            Ok::<_, Error>(if over && !in_place { left.without_x() } else { left })
        });
        let left = left.transpose()?;
        let step = self.bind(
            Operation::Inference,
            Gradients::All,
            &[
                ("x", Some(x)),
                ("y", Some(y)),
                ("residual", residual),
                ("gamma", gamma),
                ("beta", beta),
                ("running", Some(running)),
                ("saved", saved),
            ],
        )?;
        Ok(Step { saved: left.map(Box::new), ..step })
    }

    /// Gradients of the training forward, where mean and variance depend on x.
    ///
    /// # Errors
    /// [`Error::OneValuePerChannel`], [`Error::Mismatch`] when no gradient is wanted or the forward pass was another one or one
    /// of another layer, and what is wrong with a binding.
    pub fn backward_training(&self, bindings: &Backward<'_>) -> Result<Step> {
        self.named(self.check_trainable())?;
        self.named(self.backward(Operation::BackwardTraining, Operation::ForwardTraining, bindings))
    }

    /// Gradients of [`BatchNorm::inference`], where the running statistics are constants.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when no gradient is wanted or the forward pass was another one or one of another layer,
    /// [`Error::Overlap`] when inference wrote y over an x that is needed, and what is wrong with a binding.
    pub fn backward_frozen(&self, bindings: &Backward<'_>) -> Result<Step> {
        self.named(self.backward(Operation::BackwardFrozen, Operation::Inference, bindings))
    }

    fn backward(&self, operation: Operation, forward: Operation, bindings: &Backward<'_>) -> Result<Step> {
        let Backward { saved, dy, dx, dresidual, dgamma, dbeta, scratch } = bindings.clone();
        let parameters = dgamma.is_some() || dbeta.is_some();
        let wanted = gradients(dx.is_some() || (dresidual.is_some() && !parameters), parameters)?;
        saved.check(self, forward)?;
        saved.check_x(operation, parameters)?;
        let residual = saved.residual();
        self.refuse_residual_in_place(&residual)?;
        if dresidual.is_some() && residual.is_none() {
            return Err(Error::Mismatch {
                name: "residual",
                expected: "one in the forward pass, since its gradient is wanted".into(),
                actual: "none".into(),
            });
        }
        self.bind(
            operation,
            wanted,
            &[
                ("x", Some(saved.x())),
                ("dy", Some(dy)),
                ("residual", residual),
                ("dx", dx),
                ("dresidual", dresidual),
                ("dgamma", dgamma),
                ("dbeta", dbeta),
                ("saved", Some(saved.statistics())),
                ("scratch", Some(scratch)),
            ],
        )
    }

    /// The sum with a residual does not lead back to x.
    fn refuse_residual_in_place(&self, residual: &Option<BufferBinding<'_>>) -> Result<()> {
        match residual {
            Some(_) if self.config.in_place => Err(Error::Mismatch {
                name: "residual",
                expected: "none, since the backward pass works from y (Config::in_place)".into(),
                actual: "one".into(),
            }),
            _ => Ok(()),
        }
    }

    /// Takes the statistics of a batch without normalizing it. With [`crate::RunningPolicy::pooled`] and one layer per
    /// batch shape over one `running` buffer, the population statistics of a data set.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when no output is wanted, and what is wrong with a binding.
    pub fn statistics(&self, bindings: &Statistics<'_>) -> Result<Step> {
        self.named(self.bind_statistics(bindings))
    }

    fn bind_statistics(&self, bindings: &Statistics<'_>) -> Result<Step> {
        let Statistics { x, saved, running, scratch } = bindings.clone();
        if saved.is_none() && running.is_none() {
            return Err(none_wanted("saved, running"));
        }
        self.bind(
            Operation::Statistics,
            Gradients::All,
            &[("x", Some(x)), ("saved", saved), ("running", running), ("scratch", Some(scratch))],
        )
    }

    fn check_trainable(&self) -> Result<()> {
        match self.shape.values_per_channel() {
            1 => Err(Error::OneValuePerChannel { dims: self.shape.dims().to_vec() }),
            _ => Ok(()),
        }
    }

    fn size_of(&self, extent: Extent) -> u64 {
        match extent {
            Extent::Elements => self.config.dtype.bytes(self.shape.elements()),
            Extent::Channels(count) => planes(count.into(), &self.shape),
            Extent::Running => RunningStatistics::size(self.shape.channels()),
            Extent::Scratch => planes(self.scratch_planes, &self.shape),
        }
    }

    /// Records a copy that makes `running` the running statistics of a new layer: mean 0, variance 1, nothing tracked. A buffer
    /// of zeros, as wgpu creates it, is not that. Call it once before the first step, or to start anew where the running
    /// statistics became NaN. The buffer needs `BufferUsages::COPY_DST` too.
    ///
    /// # Errors
    /// What is wrong with the binding, and [`Error::OutOfMemory`].
    pub fn initialize_running(&self, encoder: &mut wgpu::CommandEncoder, running: &BufferBinding<'_>) -> Result<()> {
        self.named(self.record_new_running(encoder, running))
    }

    fn record_new_running(&self, encoder: &mut wgpu::CommandEncoder, running: &BufferBinding<'_>) -> Result<()> {
        const NAME: &str = "running";
        self.check_buffer(NAME, Extent::Running, running)?;
        let (expected, actual) = (wgpu::BufferUsages::COPY_DST, running.buffer.usage());
        if !actual.contains(expected) {
            return Err(Error::BufferUsage { name: NAME, expected, actual });
        }
        let bytes = RunningStatistics::new(self.shape.channels()).to_bytes()?;
        let device = self.kernels.device();
        let (during, usage) = ("creating new running statistics", wgpu::BufferUsages::COPY_SRC);
        let source = filled_buffer(device, &label_of(self.label(), NAME), during, usage, &bytes)?;
        encoder.copy_buffer_to_buffer(&source, 0, running.buffer, running.offset, bytes.len() as u64);
        Ok(())
    }

    /// Checks the buffers against every kernel that the operation may run, then makes pipelines and bind groups.
    fn bind(&self, operation: Operation, gradients: Gradients, buffers: &[Named<'_>]) -> Result<Step> {
        let plan = self.plan(operation)?;
        let kernels = program(operation, plan.strategy, gradients);
        let present = |name| buffers.iter().find(|(given, _)| *given == name).and_then(|(_, buffer)| buffer.as_ref());
        let mut uses: Vec<(&Binding, &BufferBinding<'_>)> = Vec::new();
        for binding in bindings_of(operation) {
            let known = uses.iter().any(|(known, _)| *known == binding);
            uses.extend(present(binding.name).filter(|_| !known).map(|buffer| (binding, buffer)));
        }
        for (binding, buffer) in &uses {
            self.check_buffer(binding.name, binding.extent, buffer)?;
        }
        self.check_overlaps(&uses)?;
        let mut dispatches = Vec::new();
        for &kernel in kernels {
            let (seen_through, given) = self.behind_activation(kernel, &present);
            let variant = self.variant(kernel, &plan, seen_through, &given)?;
            let pipeline = self.kernels.pipeline(&variant, &plan)?;
            for part in 0..plan.parts(kernel.span) {
                dispatches.push(self.dispatch(&variant, &pipeline, &plan, part, &given)?);
            }
        }
        Ok(Step { operation, label: label_of(self.label(), operation.name()), dispatches, saved: None })
    }

    /// What a kernel is given, and whether the activation lies behind it already: the residual's gradient is dz, so the
    /// kernel after the one that wrote it takes it for dy.
    fn behind_activation<'a>(
        &self,
        kernel: &'static Kernel,
        present: &'a dyn Fn(&'static str) -> Option<&'a BufferBinding<'a>>,
    ) -> (bool, impl Fn(&'static str) -> Option<&'a BufferBinding<'a>>) {
        let writes = |name| kernel.bindings.iter().any(|binding| binding.name == name);
        let dz = present("dresidual").filter(|_| writes("dx") && !writes("dresidual"));
        let given = move |name| match (name, dz) {
            ("dy", Some(dz)) => Some(dz),
            _ => present(name),
        };
        (dz.is_some(), given)
    }

    fn check_buffer(&self, name: &'static str, extent: Extent, given: &BufferBinding<'_>) -> Result<()> {
        let usage = given.buffer.usage();
        if !usage.contains(wgpu::BufferUsages::STORAGE) {
            return Err(Error::BufferUsage { name, expected: wgpu::BufferUsages::STORAGE, actual: usage });
        }
        let limits = &self.kernels.capabilities().limits;
        let alignment = u64::from(limits.min_storage_buffer_offset_alignment);
        if !given.offset.is_multiple_of(alignment) {
            return Err(Error::MisalignedOffset { name, offset: given.offset, alignment });
        }
        let behind_offset = given.buffer.size().saturating_sub(given.offset);
        let actual = given.size.map_or(behind_offset, |size| size.get().min(behind_offset));
        let expected = self.size_of(extent);
        if actual < expected {
            return Err(Error::BufferTooSmall { name, expected, actual });
        }
        let allowed = most_bytes(limits);
        // Tensors are bound in parts.
        if extent != Extent::Elements && expected > allowed {
            let limit = "the device's max_storage_buffer_binding_size";
            let hint = "split the tensor over C, since channels do not depend on each other, or open the device with a \
                        higher limit where the adapter has one";
            return Err(Error::Limit { what: name, limit, unit: "bytes", needed: expected, allowed, hint });
        }
        Ok(())
    }

    fn check_overlaps(&self, uses: &[(&Binding, &BufferBinding<'_>)]) -> Result<()> {
        for (&(first, one), &(second, other)) in pairs(uses) {
            let written = first.access == Access::Write || second.access == Access::Write;
            if first.name == second.name || !written || !self.overlap((first, one), (second, other)) {
                continue;
            }
            let over = |upper: &Binding, lower: &Binding| upper.over == Some(lower.name);
            let may = over(first, second) || over(second, first);
            if may && one.offset == other.offset {
                continue;
            }
            let hint = match may {
                true => "in place, both start at the same offset",
                false => "give each its own bytes",
            };
            return Err(Error::Overlap { first: first.name, second: second.name, hint });
        }
        Ok(())
    }

    /// One dispatch of a kernel: over a part of the tensors, or over columns of partial results.
    fn dispatch<'a>(
        &self,
        variant: &Variant,
        pipeline: &Arc<Pipeline>,
        plan: &Plan,
        part: u32,
        present: &dyn Fn(&'static str) -> Option<&'a BufferBinding<'a>>,
    ) -> Result<Dispatch> {
        let (device, kernel) = (self.kernels.device(), variant.kernel);
        let window = self.window(plan, part);
        let params = plan.params(&self.shape, &self.config, kernel, part, window.base);
        let (during, usage) = ("creating the parameters' buffer", wgpu::BufferUsages::UNIFORM);
        let label = label_of(self.label(), "batch norm parameters");
        let params = filled_buffer(device, &label, during, usage, bytemuck::bytes_of(&params))?;
        let mut entries = vec![wgpu::BindGroupEntry { binding: 0, resource: params.as_entire_binding() }];
        for (number, binding) in variant.declared() {
            // Only what the kernel touches is bound: where the device checks bounds, it checks these.
            if let Some(given) = present(binding.name) {
                let [begin, bytes] = match binding.extent {
                    Extent::Elements => [window.begin, window.bytes],
                    extent => [0, self.size_of(extent)],
                };
                let (buffer, offset, size) = (given.buffer, given.offset + begin, wgpu::BufferSize::new(bytes));
                let resource = wgpu::BindingResource::Buffer(BufferBinding { buffer, offset, size });
                entries.push(wgpu::BindGroupEntry { binding: number, resource });
            }
        }
        let bind_group = guarded(device, "binding buffers", || {
            device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(&label_of(self.label(), kernel.name)),
                layout: &pipeline.layout,
                entries: &entries,
            })
        })?;
        let grid = plan.grid(kernel.span, part);
        Ok(Dispatch { name: variant.name(), pipeline: pipeline.clone(), bind_group, grid })
    }

    /// What is bound of a tensor for one of its parts. Bindings begin at the device's alignment, parts where they do.
    fn window(&self, plan: &Plan, part: u32) -> Window {
        let size = self.config.dtype.size();
        let [elements, before] = plan.elements_of(part);
        let alignment = u64::from(self.kernels.capabilities().limits.min_storage_buffer_offset_alignment);
        let begin = before * size / alignment * alignment;
        let lead = before * size - begin;
        let value = size * plan.geometry.elements() as u64;
        Window { begin, bytes: (lead + elements * size).next_multiple_of(4), base: (lead / value) as u32 }
    }

    /// Settles which bindings are absent, in place, or share a buffer.
    fn variant<'a>(
        &self,
        kernel: &'static Kernel,
        plan: &Plan,
        seen_through: bool,
        present: &dyn Fn(&'static str) -> Option<&'a BufferBinding<'a>>,
    ) -> Result<Variant> {
        let settings = plan.settings(&self.config);
        let activation = if seen_through { Activation::None } else { settings.activation };
        let mut variant = Variant::new(kernel, Settings { activation, ..settings });
        for (i, binding) in kernel.bindings.iter().enumerate() {
            let Some(given) = present(binding.name) else {
                if !binding.optional {
                    return Err(missing(binding.name));
                }
                variant.absent |= 1 << i;
                continue;
            };
            let over = binding.over.and_then(present);
            if over.is_some_and(|under| same_bytes(under, given)) {
                variant.in_place |= 1 << i;
            }
        }
        // wgpu tracks use by whole buffer and dispatch: a buffer that is written may not be bound read-only too.
        let uses: Vec<_> = variant
            .declared()
            .filter_map(|(_, binding)| present(binding.name).map(|given| (binding.access, given.buffer)))
            .collect();
        variant.pooled =
            uses.iter().any(|(access, buffer)| uses.iter().any(|(other, same)| buffer == same && access != other));
        self.check_aliases(&variant, present)?;
        Ok(variant)
    }

    /// In a pooled variant bindings that are only read are declared writable, and browsers refuse writable bindings of the
    /// same bytes.
    fn check_aliases<'a>(
        &self,
        variant: &Variant,
        present: &dyn Fn(&'static str) -> Option<&'a BufferBinding<'a>>,
    ) -> Result<()> {
        let declared: Vec<_> =
            variant.declared().filter_map(|(_, binding)| Some((binding, present(binding.name)?))).collect();
        let over_each_other = |(first, second): &(&_, &_)| self.overlap(**first, **second);
        match pairs(&declared).find(over_each_other) {
            Some((first, second)) if variant.pooled => {
                let hint = "where tensors share a buffer with an output, each needs its own bytes, inputs too";
                Err(Error::Overlap { first: first.0.name, second: second.0.name, hint })
            }
            _ => Ok(()),
        }
    }

    fn overlap(&self, first: (&Binding, &BufferBinding<'_>), second: (&Binding, &BufferBinding<'_>)) -> bool {
        first.1.buffer == second.1.buffer
            && first.1.offset < second.1.offset + self.size_of(second.0.extent)
            && second.1.offset < first.1.offset + self.size_of(first.0.extent)
    }
}

/// Part of a tensor's binding, in bytes, and where in it a part of the tensor begins, in values.
struct Window {
    begin: u64,
    bytes: u64,
    base: u32,
}

/// Every two of `all`.
fn pairs<T>(all: &[T]) -> impl Iterator<Item = (&T, &T)> {
    all.iter().enumerate().flat_map(|(i, first)| all[i + 1..].iter().map(move |second| (first, second)))
}

/// Whether two tensors are the same.
fn same_bytes(one: &BufferBinding<'_>, other: &BufferBinding<'_>) -> bool {
    one.buffer == other.buffer && one.offset == other.offset
}

fn missing(name: &'static str) -> Error {
    Error::Mismatch { name, expected: "a binding".into(), actual: "none".into() }
}

fn none_wanted(names: &'static str) -> Error {
    Error::Mismatch { name: names, expected: "at least one of them".into(), actual: "none".into() }
}

fn gradients(input: bool, parameters: bool) -> Result<Gradients> {
    match (input, parameters) {
        (true, true) => Ok(Gradients::All),
        (true, false) => Ok(Gradients::Input),
        (false, true) => Ok(Gradients::Parameters),
        (false, false) => Err(none_wanted("dx, dresidual, dgamma, dbeta")),
    }
}

fn filled_buffer(
    device: &wgpu::Device,
    label: &str,
    during: &'static str,
    usage: wgpu::BufferUsages,
    bytes: &[u8],
) -> Result<wgpu::Buffer> {
    let buffer = guarded(device, during, || {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes.len() as u64,
            usage,
            mapped_at_creation: true,
        })
    })?;
    // A lost device reports no error of creation, but its buffers cannot be mapped.
    buffer.get_mapped_range_mut(..).map_err(|error| refused(device, during, error))?.copy_from_slice(bytes);
    buffer.unmap();
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_of_two_and_come_once() {
        assert_eq!(pairs(&[1, 2, 3]).collect::<Vec<_>>(), [(&1, &2), (&1, &3), (&2, &3)]);
        assert_eq!(pairs(&[1]).count(), 0);
    }
}
