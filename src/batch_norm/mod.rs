//! The layer that people hold: check, plan, bind, and then only encode.

mod bindings;
mod memory;
mod micro;
mod saved;
mod step;

pub use bindings::{Backward, ForwardTraining, Gradient, Inference, Statistics, Training};
pub use memory::{MemoryPlan, memory_of, required_limits, required_limits_of};
pub use micro::{MicroBatch, MicroStep, MicroSteps};
pub use saved::Saved;
pub use step::Step;

use crate::choice::Choice;
use crate::config::{Activation, Config};
use crate::error::{Error, Result, of_layer};
use crate::gpu::scope::{guarded, refused};
use crate::gpu::{BoundDispatch, Kernels, label_of};
use crate::kernels::Extent;
use crate::operation::Operation;
use crate::plan::{Plan, most_bytes};
use crate::program::{Description, Dispatch, Given, Program, Stage};
use crate::running::RunningStatistics;
use crate::shape::Shape;
use std::sync::Arc;
use wgpu::BufferBinding;

/// wgpu features that make the kernels faster where the device has them; nothing needs them.
pub const USEFUL_FEATURES: wgpu::Features = wgpu::Features::SUBGROUP.union(wgpu::Features::SHADER_F16);

/// A batch norm layer for one shape. Holds no tensor.
///
/// Bindings are `wgpu::BufferBinding`s: a buffer with `BufferUsages::STORAGE`, an offset that is a multiple of the device's
/// `min_storage_buffer_offset_alignment` (of 4 for gamma, beta and their gradients), and a size (`None`: to the end of the
/// buffer). A binding may be larger than needed; the kernels touch what the shape says. Tensors have the layer's
/// [`Config::dtype`], densely packed unless they are [views](crate::Views), in [`DType::bytes`](crate::DType::bytes) bytes; a
/// tensor may be larger than what the device binds at once. Buffers may be shared between bindings as long as what is written
/// overlaps nothing, except where an operation says so.
#[derive(Debug)]
pub struct BatchNorm {
    kernels: Kernels,
    description: Description,
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

/// A binding by its name in the table of kernels.
struct Named<'a> {
    name: &'static str,
    binding: BufferBinding<'a>,
    /// Whether it is added to what is there.
    adds: bool,
}

/// What an operation is given; what is `None` is left out.
fn named<'a, const N: usize>(bindings: [(&'static str, Option<BufferBinding<'a>>); N]) -> Vec<Named<'a>> {
    let named = |(name, binding): (_, Option<_>)| Some(Named { name, binding: binding?, adds: false });
    bindings.into_iter().filter_map(named).collect()
}

impl TrainingSteps {
    /// [`Step::set_momentum`] of the forward pass, which updates the running statistics.
    ///
    /// # Errors
    /// As [`Step::set_momentum`].
    pub fn set_momentum(&self, queue: &wgpu::Queue, momentum: f64) -> Result<()> {
        self.forward.set_momentum(queue, momentum)
    }

    /// [`Step::set_eps`] of the forward pass; the backward pass takes what the forward pass made of it.
    ///
    /// # Errors
    /// As [`Step::set_eps`].
    pub fn set_eps(&self, queue: &wgpu::Queue, eps: f64) -> Result<()> {
        self.forward.set_eps(queue, eps)
    }
}

impl Kernels {
    /// Describes a layer on this device, as [`BatchNorm::with_choice`] does.
    ///
    /// # Errors
    /// As [`Description::new`].
    pub fn describe(&self, shape: Shape, config: Config, choice: &Choice) -> Result<Description> {
        Description::new(shape, config, choice, self.capabilities(), self.shared_tuning().clone())
    }
}

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
        let description = kernels.describe(shape, config, choice)?;
        Ok(Self { kernels: kernels.clone(), description, label: None })
    }

    /// Gives the layer a name, such as `layer3.bn1`. Its errors begin with it ([`Error::InLayer`]), and so do the labels of
    /// what it makes on the device, which debuggers and profilers show. What [`BatchNorm::new`] itself refuses has no name
    /// yet: see [`Error::in_layer`].
    #[must_use]
    pub fn with_label(self, label: impl Into<Arc<str>>) -> Self {
        Self { label: Some(label.into()), ..self }
    }

    /// The same layer for batches of `n` samples, such as the last of an epoch or one image at inference: same configuration,
    /// choice, label and kernels. gamma, beta and the running statistics may be bound to both; [`BatchNorm::scratch_size`] and
    /// the sizes of tensors differ. Cheap: it makes plans, and kernels that are compiled already are used again where the
    /// plans choose the same.
    ///
    /// # Errors
    /// As [`Shape::new`] and [`BatchNorm::new`].
    ///
    /// ```no_run
    /// # fn f(layer: &batchnorm_wgpu::BatchNorm) -> batchnorm_wgpu::Result<()> {
    /// let last_of_epoch = layer.with_batch(17)?;
    /// assert_eq!(last_of_epoch.shape().dims()[1..], layer.shape().dims()[1..]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_batch(&self, n: usize) -> Result<Self> {
        let description = self.named(self.description.with_batch(n))?;
        Ok(Self { kernels: self.kernels.clone(), description, label: self.label.clone() })
    }

    /// The kernels that it was made with.
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// The name of the layer, where it has one.
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// An outcome whose error says which layer it is of.
    fn named<T>(&self, outcome: Result<T>) -> Result<T> {
        of_layer(outcome, self.label.as_ref())
    }

    /// The shape that the layer was made for.
    pub fn shape(&self) -> &Shape {
        self.description.shape()
    }

    /// What its operations dispatch is made from.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The plan of an operation. Pure and cheap; binding goes by the same.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plan(&self, operation: Operation) -> Result<Plan> {
        self.named(self.description.plan(operation))
    }

    /// What an operation dispatches where it is given these bindings, named as the fields of [`ForwardTraining`] and its like,
    /// each in a buffer of its own: for [`Kernels::prepare`]. Where some share a buffer or are the same one, other kernels may
    /// run: [`Description::lower`] takes where they lie.
    ///
    /// # Errors
    /// As [`Description::lower`].
    pub fn program(&self, operation: Operation, bindings: &[&'static str]) -> Result<Program> {
        self.named(self.description.lower(operation, &Given::apart(bindings)))
    }

    /// Bytes of scratch that a training, backward or statistics step of this layer needs.
    pub fn scratch_size(&self) -> u64 {
        self.description.size_of(Extent::Scratch)
    }

    /// Bytes of a tensor of this layer: of its channels, also where it is a [view](crate::Views).
    pub fn tensor_size(&self) -> u64 {
        self.description.size_of(Extent::Elements)
    }

    /// Bytes that a binding of this layer has at least, by the name of the field, such as `x`; of a [view](crate::Views) those of its
    /// wider tensor. `None` for a name that no operation has.
    pub fn binding_size(&self, name: &str) -> Option<u64> {
        let mut bindings = Operation::ALL.into_iter().flat_map(|operation| self.description.bindings(operation));
        let (_, extent) = bindings.find(|(other, _)| *other == name)?;
        Some(self.description.size_of_binding(name, extent))
    }

    /// Bytes of what a forward pass saves: `[6][C]` f32.
    pub fn saved_size(&self) -> u64 {
        self.description.size_of(Extent::Saved)
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
        self.shape().check_trainable()?;
        let ForwardTraining { x, y, residual, gamma, beta, saved, running, scratch } = bindings.clone();
        if !self.description.config().in_place && same_bytes(&x, &y) {
            let hint = "the backward pass needs x; Config::in_place lets it work from y";
            return Err(Error::Overlap { first: "x", second: "y", hint });
        }
        self.refuse_residual_in_place(&residual)?;
        let read_again = if self.description.config().in_place { y.clone() } else { x.clone() };
        let left = self.saved_from(Operation::ForwardTraining, read_again, residual.clone(), saved.clone())?;
        let step = self.bind(
            Operation::ForwardTraining,
            named([
                ("x", Some(x)),
                ("y", Some(y)),
                ("residual", residual),
                ("gamma", gamma),
                ("beta", beta),
                ("saved", Some(saved)),
                ("running", running),
                ("scratch", Some(scratch)),
            ]),
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
            self.refuse_y_over_residual(&y, &residual)?;
        }
        let left = saved.clone().map(|saved| {
            let (over, in_place) = (same_bytes(&x, &y), self.description.config().in_place);
            let read_again = if in_place { y.clone() } else { x.clone() };
            let left = self.saved_from(Operation::Inference, read_again, residual.clone(), saved)?;
            Ok::<_, Error>(if over && !in_place { left.without_x() } else { left })
        });
        let left = left.transpose()?;
        let step = self.bind(
            Operation::Inference,
            named([
                ("x", Some(x)),
                ("y", Some(y)),
                ("residual", residual),
                ("gamma", gamma),
                ("beta", beta),
                ("running", Some(running)),
                ("saved", saved),
            ]),
        )?;
        Ok(Step { saved: left.map(Box::new), ..step })
    }

    /// Gradients of the training forward, where mean and variance depend on x.
    ///
    /// # Errors
    /// [`Error::OneValuePerChannel`], [`Error::Mismatch`] when no gradient is wanted or the forward pass was another one or one
    /// of another layer, and what is wrong with a binding.
    pub fn backward_training(&self, bindings: &Backward<'_>) -> Result<Step> {
        self.named(self.shape().check_trainable())?;
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
        let mut bindings = named([
            ("x", Some(saved.x())),
            ("dy", Some(dy)),
            ("residual", residual),
            ("saved", Some(saved.statistics())),
            ("scratch", Some(scratch)),
        ]);
        let gradients = [("dx", dx), ("dresidual", dresidual), ("dgamma", dgamma), ("dbeta", dbeta)];
        bindings.extend(gradients.into_iter().filter_map(|(name, gradient)| {
            let Gradient { binding, adds } = gradient?;
            Some(Named { name, binding, adds })
        }));
        self.bind(operation, bindings)
    }

    /// The sum with a residual does not lead back to x.
    fn refuse_residual_in_place(&self, residual: &Option<BufferBinding<'_>>) -> Result<()> {
        match residual {
            Some(_) if self.description.config().in_place => Err(Error::Mismatch {
                name: "residual",
                expected: "none, since the backward pass works from y (Config::in_place)".into(),
                actual: "one".into(),
            }),
            _ => Ok(()),
        }
    }

    /// To see through the activation a backward pass reads the residual of its forward pass.
    fn refuse_y_over_residual(&self, y: &BufferBinding<'_>, residual: &Option<BufferBinding<'_>>) -> Result<()> {
        let over = residual.as_ref().is_some_and(|residual| same_bytes(residual, y));
        match over && self.description.config().activation != Activation::None {
            true => Err(Error::Overlap {
                first: "residual",
                second: "y",
                hint: "the backward pass needs the residual to see through the activation: give y bytes of its own, or leave \
                       out `saved` where no backward pass follows",
            }),
            false => Ok(()),
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
            named([("x", Some(x)), ("saved", saved), ("running", running), ("scratch", Some(scratch))]),
        )
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
        let bytes = RunningStatistics::new(self.shape().channels()).to_bytes()?;
        let device = self.kernels.device();
        let (during, usage) = ("creating new running statistics", wgpu::BufferUsages::COPY_SRC);
        let source = filled_buffer(device, &label_of(self.label(), NAME), during, usage, &bytes)?;
        encoder.copy_buffer_to_buffer(&source, 0, running.buffer, running.offset, bytes.len() as u64);
        Ok(())
    }

    /// Binds an operation to entire buffers, named as in the table of kernels; those that it does not have are left out.
    #[cfg(feature = "host")]
    pub(crate) fn bind_entire<'a>(
        &self,
        operation: Operation,
        buffers: impl Iterator<Item = (&'static str, &'a wgpu::Buffer)>,
    ) -> Result<Step> {
        let has = self.description.bindings(operation);
        let mine = buffers.filter(|(name, _)| has.iter().any(|(other, _)| other == name));
        let named = mine.map(|(name, buffer)| Named { name, binding: buffer.as_entire_buffer_binding(), adds: false });
        self.named(self.bind(operation, named.collect()))
    }

    /// Checks the buffers against what the operation may do with them, then makes pipelines and bind groups.
    fn bind(&self, operation: Operation, bindings: Vec<Named<'_>>) -> Result<Step> {
        for (name, extent) in self.description.bindings(operation) {
            for named in bindings.iter().filter(|named| named.name == name) {
                self.check_buffer(name, extent, &named.binding)?;
            }
        }
        let given = |&Named { name, ref binding, adds }: &Named<'_>| {
            // The first equal one stands for the buffer.
            let buffer = bindings.iter().position(|other| other.binding.buffer == binding.buffer).unwrap_or_default();
            Given { name, buffer, offset: binding.offset, adds }
        };
        let given: Vec<Given> = bindings.iter().map(given).collect();
        let program = self.description.lower(operation, &given)?;
        let bound = program.dispatches.iter().map(|dispatch| self.bind_dispatch(dispatch, &bindings));
        let dispatches = bound.collect::<Result<_>>()?;
        let has = |wanted| bindings.iter().any(|named| named.name == wanted);
        Ok(Step {
            operation,
            config: *self.description.config(),
            tracks: has("running") && operation.tracks(),
            takes_eps: operation.takes_eps() && (operation != Operation::Statistics || has("saved")),
            layer: self.label.clone(),
            label: label_of(self.label(), operation.name()),
            device: self.kernels.device().clone(),
            dispatches,
            saved: None,
            micro_batch: micro::MicroBinding::of(&self.description, operation, &program.plan, &bindings).map(Box::new),
        })
    }

    fn bind_dispatch(&self, dispatch: &Dispatch, given: &[Named<'_>]) -> Result<BoundDispatch> {
        let (device, variant) = (self.kernels.device(), &dispatch.variant);
        let pipeline = self.kernels.pipeline(variant, dispatch.workgroup_size)?;
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let during = "creating the parameters' buffer";
        let label = label_of(self.label(), "batch norm parameters");
        let params = filled_buffer(device, &label, during, usage, bytemuck::bytes_of(&dispatch.params))?;
        let mut entries = vec![wgpu::BindGroupEntry { binding: 0, resource: params.as_entire_binding() }];
        for bound in &dispatch.bindings {
            if let Some(Named { binding, .. }) = given.iter().find(|named| named.name == bound.name) {
                let (buffer, offset) = (binding.buffer, bound.begin);
                let size = wgpu::BufferSize::new(bound.bytes);
                let resource = wgpu::BindingResource::Buffer(BufferBinding { buffer, offset, size });
                entries.push(wgpu::BindGroupEntry { binding: bound.number, resource });
            }
        }
        let bind_group = guarded(device, "binding buffers", || {
            device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(&label_of(self.label(), variant.kernel.name)),
                layout: &pipeline.layout,
                entries: &entries,
            })
        })?;
        let reduces = dispatch.stage == Stage::Reduce;
        Ok(BoundDispatch { name: variant.name(), reduces, pipeline, bind_group, uniforms: params, grid: dispatch.grid })
    }

    fn check_buffer(&self, name: &'static str, extent: Extent, given: &BufferBinding<'_>) -> Result<()> {
        let usage = given.buffer.usage();
        if !usage.contains(wgpu::BufferUsages::STORAGE) {
            return Err(Error::BufferUsage { name, expected: wgpu::BufferUsages::STORAGE, actual: usage });
        }
        let limits = &self.kernels.capabilities().limits;
        let alignment = if extent.is_small() { 4 } else { u64::from(limits.min_storage_buffer_offset_alignment) };
        if !given.offset.is_multiple_of(alignment) {
            return Err(Error::MisalignedOffset { name, offset: given.offset, alignment });
        }
        let behind_offset = given.buffer.size().saturating_sub(given.offset);
        let actual = given.size.map_or(behind_offset, |size| size.get().min(behind_offset));
        let expected = self.description.size_of_binding(name, extent);
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
}

impl AsRef<Description> for BatchNorm {
    fn as_ref(&self) -> &Description {
        &self.description
    }
}

/// Whether two tensors are the same.
fn same_bytes(one: &BufferBinding<'_>, other: &BufferBinding<'_>) -> bool {
    one.buffer == other.buffer && one.offset == other.offset
}

fn none_wanted(names: &'static str) -> Error {
    Error::Mismatch { name: names, expected: "at least one of them".into(), actual: "none".into() }
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
