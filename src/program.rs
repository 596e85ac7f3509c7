//! From the description of a layer to what its operations dispatch. Pure: no wgpu handles, so that all of it is tested, and
//! printed by `bn plan`, without a GPU.

use crate::capabilities::Capabilities;
use crate::choice::Choice;
use crate::config::{Activation, Config};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernels::{
    Access, Binding, Extent, Kernel, PARAMETER_PLANES, STATISTIC_PLANES, Settings, Shader, Span, Strategy, Variant,
    Wanted, kernels_of,
};
use crate::operation::Operation;
use crate::plan::{Params, Plan};
use crate::running::RunningStatistics;
use crate::shape::{Shape, Views};
use crate::tuning::Tuning;
use std::ops::Range;
use std::sync::Arc;

/// A layer on a kind of device: all that its dispatches depend on but where its buffers lie.
#[derive(Clone, Debug)]
pub struct Description {
    shape: Shape,
    config: Config,
    choice: Choice,
    capabilities: Capabilities,
    tuning: Arc<Tuning>,
    scratch_planes: u64,
    /// Which micro-batch its tensors hold, from 0, where the batch comes in several.
    micro_batch: Option<u32>,
}

/// Where a binding lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// Its name in the table of kernels.
    pub name: &'static str,
    /// A number for its buffer; equal numbers are equal buffers.
    pub buffer: usize,
    /// Where it begins in its buffer, in bytes.
    pub offset: u64,
    /// Whether a gradient is added to what is there instead of replacing it.
    pub adds: bool,
}

/// What an operation dispatches, in order.
#[derive(Clone, Debug)]
pub struct Program {
    /// The numbers behind it.
    pub plan: Plan,
    /// One or two kernels; of a tensor in parts a dispatch for each.
    pub dispatches: Vec<Dispatch>,
}

/// What a dispatch is there for. After the first all that one workgroup has to know of others lies in scratch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It leaves partial results, and in a backward pass writes what needs no sums: the residual's gradient, a frozen dx.
    Reduce,
    /// It merges them into what a channel has of its own, statistics or gradients, and touches no tensor.
    Settle,
    /// It applies what was settled to the elements. Where nothing else does, it also reduces and settles, so that an operation takes
    /// one dispatch or two.
    Apply,
}

/// One dispatch, as data.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// What it is there for.
    pub stage: Stage,
    /// The kernel.
    pub variant: Variant,
    /// Invocations per workgroup.
    pub workgroup_size: u32,
    /// Workgroups in x and y.
    pub grid: [u32; 2],
    /// The uniform parameters, binding 0.
    pub params: Params,
    /// The storage buffers.
    pub bindings: Vec<Bound>,
}

/// A storage buffer of a dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Its number in the bind group: from 1 on without a gap.
    pub number: u32,
    /// What the kernel takes it for: its name in the shader.
    pub role: &'static str,
    /// Which binding of the operation it is.
    pub name: &'static str,
    /// How it is declared.
    pub access: Access,
    /// Where it begins in its buffer, in bytes.
    pub begin: u64,
    /// How much of it is bound, in bytes.
    pub bytes: u64,
}

impl Dispatch {
    /// The kernel's text with the size of its workgroups in it, so that no pipeline constant has to be set.
    pub fn shader(&self) -> Shader {
        self.variant.shader_of(Some(self.workgroup_size))
    }
}

/// What an operation binds by any plan: what is refused on one device is refused on every one.
fn bindings_of(operation: Operation) -> impl Iterator<Item = &'static Binding> {
    let plans = Strategy::ALL.into_iter().flat_map(|strategy| Wanted::ALL.map(|wanted| (strategy, wanted)));
    let kernels = plans.flat_map(move |(strategy, wanted)| kernels_of(operation, strategy, wanted));
    kernels.flat_map(|kernel| kernel.bindings)
}

/// Whether an operation may write a binding.
pub(crate) fn writes(operation: Operation, name: &str) -> bool {
    bindings_of(operation).any(|binding| binding.name == name && binding.access == Access::Write)
}

/// Bytes of planes of C words.
pub(crate) fn planes(count: u64, shape: &Shape) -> u64 {
    (shape.channels() as u64).saturating_mul(4).saturating_mul(count)
}

impl Description {
    /// Describes a layer. Some of the choices of its plans may be forced; a strategy that only some operations have may be, and
    /// the others are then refused when they are lowered.
    ///
    /// # Errors
    /// What [`Config::check`] says; [`Error::Mismatch`] where [`Config::in_place`] has views of x and y that differ; [`Error::Limit`]
    /// when a sample or the scratch exceeds what the device binds; [`Error::KernelUnavailable`] when no operation can run with the forced choice.
    pub fn new(
        shape: Shape,
        config: Config,
        choice: &Choice,
        capabilities: &Capabilities,
        tuning: Arc<Tuning>,
    ) -> Result<Self> {
        config.check()?;
        check_in_place(&shape, &config)?;
        let (choice, capabilities) = (*choice, capabilities.clone());
        let mut description =
            Self { shape, config, choice, capabilities, tuning, scratch_planes: 0, micro_batch: None };
        let mut plans = Vec::new();
        let mut refused = None;
        for operation in Operation::ALL {
            match description.plan(operation) {
                Ok(plan) => plans.push(plan),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        match refused {
            Some(error) if plans.is_empty() || choice == Choice::default() => return Err(error),
            _ => {}
        }
        // A binding of no bytes is none: there is always some.
        description.scratch_planes = plans.iter().map(Plan::scratch_planes).max().unwrap_or_default().max(1);
        Ok(description)
    }

    /// The same layer with `n` samples in its tensors ([`Shape::with_batch`]).
    ///
    /// # Errors
    /// As [`Shape::new`] and [`Description::new`].
    pub fn with_batch(&self, n: usize) -> Result<Self> {
        let Self { shape, config, choice, capabilities, tuning, .. } = self;
        Self::new(shape.with_batch(n)?, *config, choice, capabilities, tuning.clone())
    }

    /// The micro-batches of `samples` samples, the last of which may have fewer, each with tensors of its own, that this layer's
    /// batch comes in. They share one scratch: all that is of [`Stage::Reduce`] runs first, in their
    /// order, then all the others.
    ///
    /// # Errors
    /// [`Error::Mismatch`] unless there are at least two; as [`Description::new`].
    pub fn micro_batches(&self, samples: usize) -> Result<Vec<Self>> {
        let Self { shape, config, choice, capabilities, tuning, .. } = self;
        let shape = shape.clone().in_micro_batches(samples)?;
        let whole = Self::new(shape, *config, choice, capabilities, tuning.clone())?;
        let parts = whole.plan(Operation::ForwardTraining)?.parts;
        Ok((0..parts).map(|part| Self { micro_batch: Some(part), ..whole.clone() }).collect())
    }

    /// Which micro-batch its tensors hold, from 0, where the batch comes in several.
    pub(crate) fn micro_batch_number(&self) -> Option<u32> {
        self.micro_batch
    }

    /// Slices of its tensors: outer, but of a micro-batch its own.
    fn slices(&self) -> usize {
        let outer = self.shape.outer();
        match (self.micro_batch, self.shape.slices_per_micro_batch()) {
            (Some(part), Some(slices)) => slices.min(outer - part as usize * slices),
            _ => outer,
        }
    }

    /// The shape of the layer's tensors; of micro-batches, that of all of them together.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// How the layer is configured.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The plan of an operation.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plan(&self, operation: Operation) -> Result<Plan> {
        let Self { shape, config, choice, capabilities, tuning, .. } = self;
        Plan::new(operation, shape, config.dtype, capabilities, tuning, choice)
    }

    /// Bytes of what a binding holds; of a tensor, those of the layer's channels, also where it is a view.
    pub fn size_of(&self, extent: Extent) -> u64 {
        match extent {
            Extent::Elements => self.config.dtype.bytes(self.slices() * self.shape.slice_length(None)),
            Extent::Channels(count) => planes(count.into(), &self.shape),
            Extent::Saved => planes((STATISTIC_PLANES.len() + PARAMETER_PLANES.len()) as u64, &self.shape),
            Extent::Running => RunningStatistics::size(self.shape.channels()),
            Extent::Scratch => planes(self.scratch_planes, &self.shape),
        }
    }

    /// Bytes of a binding, by its name and what it holds: a view's are those of its wider tensor.
    pub(crate) fn size_of_binding(&self, name: &str, extent: Extent) -> u64 {
        match extent {
            Extent::Elements => self.config.dtype.bytes(self.slices() * self.slice_length(name)),
            extent => self.size_of(extent),
        }
    }

    /// The bindings that an operation may have, by name, each with how much it holds.
    pub fn bindings(&self, operation: Operation) -> Vec<(&'static str, Extent)> {
        let mut found: Vec<(&'static str, Extent)> = Vec::new();
        for binding in bindings_of(operation) {
            if !found.iter().any(|(name, _)| *name == binding.name) {
                found.push((binding.name, binding.extent));
            }
        }
        found
    }

    /// What an operation dispatches, given the bindings that there are. Whether the operation makes sense is up to the caller:
    /// [`BatchNorm`](crate::BatchNorm) refuses besides one value per channel in training, y over x in training and a residual
    /// where [`Config::in_place`] does not allow them, the gradient of a residual that there was none of, and statistics that go
    /// nowhere.
    ///
    /// # Errors
    /// As [`Plan::new`]; [`Error::Mismatch`] for a binding that is missing, that the operation does not have, or that is given
    /// twice; [`Error::Overlap`] for bindings that share bytes and must not.
    pub fn lower(&self, operation: Operation, given: &[Given]) -> Result<Program> {
        check_names(operation, given)?;
        self.check_overlaps(operation, given)?;
        self.check_rounded(operation, given)?;
        let plan = self.plan(operation)?;
        let mut dispatches = Vec::new();
        let kernels = kernels_of(operation, plan.strategy(), wanted(operation, given)?);
        for (i, &kernel) in kernels.iter().enumerate() {
            let roles = Roles::new(kernel, given, self);
            let variant = self.variant(kernel, &plan, &roles)?;
            self.check_aliases(&variant, &roles)?;
            let stage = match kernel.span {
                Span::Column => Stage::Settle,
                Span::Segment if i + 1 < kernels.len() => Stage::Reduce,
                Span::Segment => Stage::Apply,
            };
            let parts = (0..plan.parts(kernel.span)).filter(|&part| self.has_part(kernel, part));
            dispatches.extend(parts.map(|part| Dispatch { stage, ..self.dispatch(&variant, &plan, part, &roles) }));
        }
        Ok(Program { plan, dispatches })
    }

    /// Whether a part is one of this layer's tensors. What goes over partial results belongs to the first micro-batch.
    fn has_part(&self, kernel: &Kernel, part: u32) -> bool {
        match (self.micro_batch, kernel.span) {
            (None, _) => true,
            (Some(own), Span::Segment) => part == own,
            (Some(own), Span::Column) => own == 0,
        }
    }

    /// Settles which bindings are absent, in place, or share a buffer.
    fn variant(&self, kernel: &'static Kernel, plan: &Plan, roles: &Roles<'_>) -> Result<Variant> {
        let settings = plan.settings(&self.config);
        let activation = if roles.takes_dz { Activation::None } else { settings.activation };
        let mut variant = Variant::new(kernel, Settings { activation, ..settings });
        for (i, binding) in kernel.bindings.iter().enumerate() {
            let Some(given) = roles.of(binding.name) else {
                // What an activation would be seen through is not needed without one.
                if !binding.optional && variant.absent & (1 << i) == 0 {
                    return Err(missing(binding.name));
                }
                variant.absent |= 1 << i;
                continue;
            };
            for under in binding.over {
                if roles.of(under).is_some_and(|under| under.begins_as(given)) {
                    variant = variant.through(binding.name, under);
                }
            }
            for joined in binding.joins {
                if roles.of(joined).is_some_and(|joined| self.share_a_block(binding, joined, given)) {
                    variant = variant.through(binding.name, joined);
                }
            }
            if given.adds {
                variant = variant.adding_to(binding.name);
            }
        }
        // wgpu tracks use by whole buffer and dispatch: a buffer that is written may not be bound read-only too.
        let uses: Vec<(Access, usize)> = variant
            .declared()
            .filter_map(|(_, binding)| roles.of(binding.name).map(|given| (binding.access, given.buffer)))
            .collect();
        if self.shape.has_views() {
            variant = variant.with_views().unwrap_or(variant);
        }
        variant.pooled =
            uses.iter().any(|(access, buffer)| uses.iter().any(|(other, same)| buffer == same && access != other));
        Ok(variant)
    }

    /// One dispatch of a kernel: over a part of the tensors, or over columns of partial results.
    fn dispatch(&self, variant: &Variant, plan: &Plan, part: u32, roles: &Roles<'_>) -> Dispatch {
        let kernel = variant.kernel;
        let bound = |(number, binding): (u32, &Binding)| {
            let given = roles.of(binding.name)?;
            // Only what the kernel touches is bound: where the device checks bounds, it checks these.
            let [begin, bytes] = match binding.extent {
                Extent::Elements => {
                    let Window { begin, bytes, .. } = self.window(plan, part, given.name);
                    [given.offset + begin, bytes]
                }
                _ => {
                    let range = self.range(variant, binding, roles)?;
                    [range.start, range.end - range.start]
                }
            };
            let access = variant.access(binding);
            Some(Bound { number, role: binding.name, name: given.name, access, begin, bytes })
        };
        Dispatch {
            stage: Stage::Apply,
            variant: *variant,
            workgroup_size: plan.workgroup_size,
            grid: plan.grid(kernel.span, part),
            params: Params {
                gamma_at: self.place_of("gamma", variant, roles),
                beta_at: self.place_of("beta", variant, roles),
                dgamma_at: self.place_of("dgamma", variant, roles),
                dbeta_at: self.place_of("dbeta", variant, roles),
                ..self.params(plan, kernel, part)
            },
            bindings: variant.declared().filter_map(bound).collect(),
        }
    }

    /// The uniform parameters of a dispatch.
    fn params(&self, plan: &Plan, kernel: &Kernel, part: u32) -> Params {
        let of = |base| plan.params(&self.shape, &self.config, kernel, part, base);
        if !self.shape.has_views() {
            return of(self.window(plan, part, "x").base);
        }
        let values = |elements: usize| (elements / plan.geometry.elements()) as u32;
        let gap = |name| values(self.slice_length(name) - self.slice_length(""));
        let base = |name| self.window(plan, part, name).base;
        Params {
            slice: values(self.slice_length("")),
            x_base: base("x"),
            x_gap: gap("x"),
            y_base: base("y"),
            y_gap: gap("y"),
            residual_base: base("residual"),
            residual_gap: gap("residual"),
            ..of(0)
        }
    }

    /// The bytes of a buffer that are bound for what is no tensor: small arrays begin anywhere, bindings at the device's alignment.
    fn block(&self, binding: &Binding, given: &Given) -> Range<u64> {
        let alignment = u64::from(self.capabilities.limits.min_storage_buffer_offset_alignment);
        let end = given.offset.saturating_add(self.size_of(binding.extent));
        given.offset / alignment * alignment..end
    }

    /// The same, with those small arrays that lie in the same binding.
    fn range(&self, variant: &Variant, binding: &Binding, roles: &Roles<'_>) -> Option<Range<u64>> {
        let own = self.block(binding, roles.of(binding.name)?);
        let joined = binding.joins.iter().filter(|joined| variant.holder_of(joined) == Some(binding.name));
        let blocks = joined.filter_map(|joined| Some(self.block(binding, roles.of(joined)?)));
        Some(blocks.fold(own, |all, block| all.start.min(block.start)..all.end.max(block.end)))
    }

    /// Where a small array begins in its binding, in elements.
    fn place_of(&self, name: &'static str, variant: &Variant, roles: &Roles<'_>) -> u32 {
        let holder = variant.holder_of(name).unwrap_or(name);
        let mut declared = variant.declared().filter(|(_, binding)| binding.name == holder);
        let range = declared.next().and_then(|(_, binding)| self.range(variant, binding, roles));
        let at = |range: Range<u64>| Some((roles.of(name)?.offset - range.start) / 4);
        range.and_then(at).unwrap_or_default() as u32
    }

    /// Whether two small arrays lie so close that their bindings would overlap.
    fn share_a_block(&self, binding: &Binding, one: &Given, other: &Given) -> bool {
        let (first, second) = (self.block(binding, one), self.block(binding, other));
        one.buffer == other.buffer && first.start < second.end && second.start < first.end
    }

    /// Elements from a slice of a tensor to the next, by the name of its binding.
    fn slice_length(&self, name: &str) -> usize {
        self.shape.slice_length(self.shape.views().view_of(name))
    }

    /// What is bound of a tensor for one of its parts. Bindings begin at the device's alignment, parts where they do.
    fn window(&self, plan: &Plan, part: u32, name: &str) -> Window {
        let size = self.config.dtype.size();
        let view = self.shape.views().view_of(name);
        let slice = self.shape.slice_length(None) as u64;
        let wider =
            |elements: u64| if view.is_some() { elements / slice * self.slice_length(name) as u64 } else { elements };
        let [elements, before] = plan.elements_of(part).map(wider);
        // A micro-batch has a tensor of its own.
        let before = if self.micro_batch.is_some() { 0 } else { before };
        let alignment = u64::from(self.capabilities.limits.min_storage_buffer_offset_alignment);
        let begin = before * size / alignment * alignment;
        let lead = before * size - begin;
        let value = size * plan.geometry.elements() as u64;
        let first = view.map_or(0, |view| (view.first * self.shape.inner()) as u64 * size);
        Window { begin, bytes: (lead + elements * size).next_multiple_of(4), base: ((lead + first) / value) as u32 }
    }

    /// Refuses what is written where something else lies, but for what may run in place.
    fn check_overlaps(&self, operation: Operation, given: &[Given]) -> Result<()> {
        let mut uses: Vec<(&Binding, &Given)> = Vec::new();
        for binding in bindings_of(operation) {
            let known = uses.iter().any(|(known, _)| *known == binding);
            uses.extend(
                given.iter().filter(|given| given.name == binding.name && !known).map(|given| (binding, given)),
            );
        }
        for (&(first, one), &(second, other)) in pairs(&uses) {
            let written = first.access == Access::Write || second.access == Access::Write;
            if first.name == second.name || !written || !self.overlap((first, one), (second, other)) {
                continue;
            }
            let over = |upper: &Binding, lower: &Binding| upper.over.contains(&lower.name);
            let may = (over(first, second) || over(second, first)) && !one.adds && !other.adds;
            let [view, other_view] = [first, second].map(|binding| self.shape.views().view_of(binding.name));
            if may && one.offset == other.offset && view == other_view {
                continue;
            }
            let hint = match (may, one.adds || other.adds) {
                _ if view != other_view => "a view counts as all of its wider tensor: give each a tensor of its own",
                (true, _) => "in place, both start at the same offset",
                (false, false) => "give each its own bytes",
                (false, true) => "what is added to what is there needs bytes of its own",
            };
            return Err(Error::Overlap { first: first.name, second: second.name, hint });
        }
        Ok(())
    }

    /// Refuses the residual's gradient over dy where dx is computed after it and it was rounded: dx would be that of a rounded
    /// dz by some plans.
    fn check_rounded(&self, operation: Operation, given: &[Given]) -> Result<()> {
        let of = |name| given.iter().find(|given| given.name == name);
        let over = match (of("dy"), of("dresidual"), of("dx")) {
            (Some(dy), Some(dresidual), Some(_)) => dresidual.begins_as(dy),
            _ => false,
        };
        if operation != Operation::BackwardTraining || !over || stores_dz_exactly(&self.config) {
            return Ok(());
        }
        let hint = "dx is computed from dy, which the residual's gradient, rounded to 16 bits, would replace: write dx over dy, \
                    or give each its own bytes";
        Err(Error::Overlap { first: "dresidual", second: "dy", hint })
    }

    /// Browsers refuse writable bindings of the same bytes: so are in a pooled variant bindings that are only read, and bindings of
    /// small arrays begin before these.
    fn check_aliases(&self, variant: &Variant, roles: &Roles<'_>) -> Result<()> {
        let bound = |(_, binding): (u32, &'static Binding)| {
            let given = roles.of(binding.name)?;
            let range = match binding.extent {
                Extent::Elements => {
                    given.offset..given.offset.saturating_add(self.size_of_binding(given.name, binding.extent))
                }
                _ => self.range(variant, binding, roles)?,
            };
            Some((binding, given.buffer, range))
        };
        let declared: Vec<_> = variant.declared().filter_map(bound).collect();
        for ((first, buffer, range), (second, other_buffer, other)) in pairs(&declared) {
            let writable = [first, second].iter().any(|binding| variant.access(binding) == Access::Write);
            if !writable || buffer != other_buffer || range.start >= other.end || other.start >= range.end {
                continue;
            }
            let hint = match first.extent.is_small() || second.extent.is_small() {
                true => {
                    "gamma, beta and their gradients may begin at any element, but bindings begin at the device's \
                     min_storage_buffer_offset_alignment: nothing else that the pass binds may lie in between, where either is \
                     written"
                }
                false => "where tensors share a buffer with an output, each needs its own bytes, inputs too",
            };
            return Err(Error::Overlap { first: first.name, second: second.name, hint });
        }
        Ok(())
    }

    fn overlap(&self, first: (&Binding, &Given), second: (&Binding, &Given)) -> bool {
        let end = |(binding, given): (&Binding, &Given)| {
            given.offset.saturating_add(self.size_of_binding(binding.name, binding.extent))
        };
        first.1.buffer == second.1.buffer && first.1.offset < end(second) && second.1.offset < end(first)
    }
}

impl AsRef<Description> for Description {
    fn as_ref(&self) -> &Description {
        self
    }
}

impl Given {
    /// Bindings that have a buffer each: enough for what depends on neither the buffers nor where in them anything lies.
    pub fn apart(names: &[&'static str]) -> Vec<Self> {
        names.iter().enumerate().map(|(buffer, &name)| Self { name, buffer, offset: 0, adds: false }).collect()
    }

    fn begins_as(&self, other: &Self) -> bool {
        self.buffer == other.buffer && self.offset == other.offset
    }
}

/// What a kernel takes the bindings of its operation for.
struct Roles<'a> {
    given: &'a [Given],
    /// Whether it takes the residual's gradient, which is dz, for dy: what wrote it has seen through the activation. So does
    /// the kernel after the one that wrote it, unless dz was rounded as it was stored: then it is computed again.
    takes_dz: bool,
}

impl<'a> Roles<'a> {
    fn new(kernel: &Kernel, given: &'a [Given], layer: &Description) -> Self {
        let has = |name| kernel.bindings.iter().any(|binding| binding.name == name);
        // What it was added to is not known apart from the sum.
        let written_before = given.iter().any(|given| given.name == "dresidual" && !given.adds) && !has("dresidual");
        // Where it lies elsewhere in its tensor, it cannot be read in dy's stead.
        let views = layer.shape.views();
        let alike = views.y == views.residual;
        Self { given, takes_dz: written_before && has("dx") && stores_dz_exactly(&layer.config) && alike }
    }

    fn of(&self, role: &'static str) -> Option<&'a Given> {
        let name = if role == "dy" && self.takes_dz { "dresidual" } else { role };
        self.given.iter().find(|given| given.name == name)
    }
}

/// Working from y, a backward pass takes y for x.
fn check_in_place(shape: &Shape, config: &Config) -> Result<()> {
    let Views { x, y, .. } = shape.views();
    match config.in_place && x != y {
        true => Err(Error::Mismatch {
            name: "y",
            expected: "the same view as x, since the backward pass works from y (Config::in_place)".into(),
            actual: shape.to_string(),
        }),
        false => Ok(()),
    }
}

/// Whether the residual's gradient, as it is stored, is dz to the bit.
fn stores_dz_exactly(config: &Config) -> bool {
    config.dtype == DType::F32 || config.activation.is_mask()
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

fn missing(name: &'static str) -> Error {
    Error::Mismatch { name, expected: "a binding".into(), actual: "none".into() }
}

/// Refuses a name that the operation does not have, or has twice.
fn check_names(operation: Operation, given: &[Given]) -> Result<()> {
    for (i, &Given { name, adds, .. }) in given.iter().enumerate() {
        if !bindings_of(operation).any(|binding| binding.name == name) {
            let expected = format!("a binding of {operation}");
            return Err(Error::Mismatch { name, expected, actual: "a name that it does not have".into() });
        }
        if given[..i].iter().any(|other| other.name == name) {
            return Err(Error::Mismatch { name, expected: "one binding".into(), actual: "two of that name".into() });
        }
        if adds && !bindings_of(operation).any(|binding| binding.name == name && binding.adds) {
            let (expected, actual) = ("a binding that is replaced".into(), "one that is added to".into());
            return Err(Error::Mismatch { name, expected, actual });
        }
    }
    Ok(())
}

/// Which gradients a backward operation is asked for; forward operations have them all.
fn wanted(operation: Operation, given: &[Given]) -> Result<Wanted> {
    let is_given = |name| given.iter().any(|given| given.name == name);
    let parameters = is_given("dgamma") || is_given("dbeta");
    let input = is_given("dx") || (is_given("dresidual") && !parameters);
    match (operation, input, parameters) {
        (Operation::BackwardTraining | Operation::BackwardFrozen, false, false) => Err(Error::Mismatch {
            name: "dx, dresidual, dgamma, dbeta",
            expected: "at least one of them".into(),
            actual: "none".into(),
        }),
        (Operation::BackwardTraining | Operation::BackwardFrozen, true, false) => Ok(Wanted::Input),
        (Operation::BackwardTraining | Operation::BackwardFrozen, false, true) => Ok(Wanted::Parameters),
        _ => Ok(Wanted::All),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Storage;
    use crate::kernels::Strategy;
    use crate::shape::{Layout, View};

    fn description(choice: &Choice, config: Config) -> Description {
        let shape = Shape::new(&[8, 4, 6, 6], Layout::ChannelsFirst).unwrap();
        Description::new(shape, config, choice, &Capabilities::default_limits(), Arc::new(Tuning::none())).unwrap()
    }

    fn by(strategy: Strategy) -> Description {
        description(&Choice::by(strategy), Config::default())
    }

    fn roles(dispatch: &Dispatch) -> Vec<(&'static str, &'static str)> {
        dispatch.bindings.iter().map(|bound| (bound.role, bound.name)).collect()
    }

    const BACKWARD: [&str; 8] = ["x", "dy", "residual", "saved", "scratch", "dx", "dresidual", "dgamma"];

    #[test]
    fn a_program_says_what_is_bound() {
        let layer = by(Strategy::Split);
        let given = Given::apart(&["x", "y", "gamma", "saved", "scratch"]);
        let program = layer.lower(Operation::ForwardTraining, &given).unwrap();
        let [first, second] = program.dispatches.as_slice() else { panic!("{program:?}") };
        assert_eq!(first.variant.name(), "moments.planes4.tree");
        assert_eq!(roles(first), [("x", "x"), ("scratch", "scratch")]);
        assert_eq!(
            roles(second),
            [("x", "x"), ("scratch", "scratch"), ("gamma", "gamma"), ("saved", "saved"), ("y", "y")]
        );
        let bytes: Vec<u64> = second.bindings.iter().map(|bound| bound.bytes).collect();
        assert_eq!(bytes, [4608, layer.size_of(Extent::Scratch), 16, 96, 4608]);
        assert_eq!((first.grid, first.params.channels), (program.plan.grid(first.variant.kernel.span, 0), 4));
        // Without a pipeline constant to set.
        let text = first.shader().text;
        assert!(
            text.contains(&format!("const WORKGROUP: u32 = {}u;", first.workgroup_size)) && !text.contains("override")
        );
    }

    #[test]
    fn what_wrote_dz_has_seen_through_the_activation() {
        let config = Config { activation: Activation::Relu, ..Config::default() };
        let layer = description(&Choice::by(Strategy::Split), config);
        let program = layer.lower(Operation::BackwardTraining, &Given::apart(&BACKWARD)).unwrap();
        let [sums, input] = program.dispatches.as_slice() else { panic!("{program:?}") };
        assert!(sums.variant.name().ends_with(".relu") && roles(sums).contains(&("dresidual", "dresidual")));
        assert!(!input.variant.name().ends_with(".relu"), "{}", input.variant.name());
        assert!(roles(input).contains(&("dy", "dresidual")) && !roles(input).contains(&("residual", "residual")));
        let alone = Given::apart(&BACKWARD.map(|name| if name == "dresidual" { "dbeta" } else { name }));
        let program = layer.lower(Operation::BackwardTraining, &alone).unwrap();
        assert!(program.dispatches[1].variant.name().ends_with(".relu"));
        assert!(roles(&program.dispatches[1]).contains(&("dy", "dy")));
    }

    #[test]
    fn a_rounded_dz_is_computed_again() {
        let split = Choice::by(Strategy::Split);
        for (activation, dtype, again) in [
            (Activation::Silu, DType::F32, false),
            (Activation::Silu, DType::F16, true),
            (Activation::LeakyRelu, DType::Bf16, true),
            (Activation::Relu6, DType::F16, false),
            (Activation::Relu, DType::Bf16, false),
        ] {
            let layer = description(&split, Config { activation, dtype, ..Config::default() });
            let program = layer.lower(Operation::BackwardTraining, &Given::apart(&BACKWARD)).unwrap();
            let input = &program.dispatches[1];
            assert_eq!(input.variant.settings.activation == activation, again, "{activation} {dtype}");
            assert_eq!(roles(input).contains(&("dy", "dy")), again, "{activation} {dtype}");
            let mut over = Given::apart(&BACKWARD);
            over[6].buffer = over[1].buffer;
            let refused = layer.lower(Operation::BackwardTraining, &over);
            let is_overlap = matches!(refused, Err(Error::Overlap { first: "dresidual", second: "dy", .. }));
            assert_eq!(is_overlap, again, "{activation} {dtype}: {refused:?}");
            // Without dx, or without sums, nothing is computed from dy afterwards.
            assert!(layer.lower(Operation::BackwardFrozen, &over).is_ok());
            over.remove(5);
            assert!(layer.lower(Operation::BackwardTraining, &over).is_ok());
        }
    }

    #[test]
    fn wanted_gradients_choose_kernels() {
        let names = |strategy, names: &[&'static str]| -> Vec<String> {
            let program = by(strategy).lower(Operation::BackwardFrozen, &Given::apart(names)).unwrap();
            program.dispatches.iter().map(|dispatch| dispatch.variant.kernel.name.to_owned()).collect()
        };
        assert_eq!(names(Strategy::Split, &["x", "dy", "saved", "scratch", "dx"]), ["frozen_input"]);
        assert_eq!(
            names(Strategy::Split, &["x", "dy", "saved", "scratch", "dx", "dbeta"]),
            ["frozen_sums", "gradient_merge"]
        );
        assert_eq!(names(Strategy::Whole, &["x", "dy", "saved", "scratch", "dgamma"]), ["frozen_whole"]);
        let nothing =
            by(Strategy::Split).lower(Operation::BackwardFrozen, &Given::apart(&["x", "dy", "saved", "scratch"]));
        assert!(matches!(nothing, Err(Error::Mismatch { name: "dx, dresidual, dgamma, dbeta", .. })), "{nothing:?}");
        let missing = by(Strategy::Split).lower(Operation::ForwardTraining, &Given::apart(&["x", "saved", "scratch"]));
        assert!(matches!(missing, Err(Error::Mismatch { name: "y", .. })), "{missing:?}");
        for names in [["x", "y", "running", "gama"], ["x", "y", "running", "y"], ["x", "y", "running", "dy"]] {
            let refused = by(Strategy::Split).lower(Operation::Inference, &Given::apart(&names));
            assert!(matches!(refused, Err(Error::Mismatch { name, .. }) if name == names[3]), "{refused:?}");
        }
        // x would only be needed to see through an activation.
        let without_x = by(Strategy::Split).lower(Operation::BackwardFrozen, &Given::apart(&["dy", "saved", "dx"]));
        assert_eq!(roles(&without_x.unwrap().dispatches[0]), [("dy", "dy"), ("saved", "saved"), ("dx", "dx")]);
    }

    #[test]
    fn where_bindings_lie_settles_the_variant() {
        let layer = by(Strategy::Whole);
        let inference = |given: &[Given]| by(Strategy::Split).lower(Operation::Inference, given);
        let place = |name, buffer, offset| Given { name, buffer, offset, adds: false };
        let over = inference(&[place("x", 0, 0), place("y", 0, 0), place("running", 1, 0)]).unwrap();
        assert_eq!((over.dispatches[0].variant.paired.count_ones(), over.dispatches[0].variant.pooled), (1, false));
        assert_eq!(roles(&over.dispatches[0]), [("running", "running"), ("y", "y")]);
        let pooled = inference(&[place("x", 0, 0), place("y", 0, 8192), place("running", 1, 0)]).unwrap();
        assert_eq!((pooled.dispatches[0].variant.paired, pooled.dispatches[0].variant.pooled), (0, true));
        let beside = inference(&[place("x", 0, 0), place("y", 0, 256), place("running", 1, 0)]);
        assert!(matches!(beside, Err(Error::Overlap { first: "x", second: "y", .. })), "{beside:?}");
        // An input beside an output is declared writable, and may overlap no other input then.
        let backward = |dy| {
            [place("x", 0, 0), place("dy", 0, dy), place("dx", 0, 16384), place("saved", 1, 0), place("scratch", 2, 0)]
        };
        assert!(layer.lower(Operation::BackwardTraining, &backward(8192)).is_ok());
        let inputs = layer.lower(Operation::BackwardTraining, &backward(0));
        assert!(matches!(inputs, Err(Error::Overlap { first: "x", second: "dy", .. })), "{inputs:?}");
    }

    #[test]
    fn what_is_added_to_is_not_replaced() {
        let config = Config { activation: Activation::Relu, ..Config::default() };
        let layer = description(&Choice::by(Strategy::Split), config);
        let adding = |names: &[&str]| {
            let mut given = Given::apart(&BACKWARD);
            given.iter_mut().for_each(|given| given.adds = names.contains(&given.name));
            layer.lower(Operation::BackwardTraining, &given)
        };
        let program = adding(&["dgamma", "dresidual"]).unwrap();
        let [sums, input] = program.dispatches.as_slice() else { panic!("{program:?}") };
        let adds = |dispatch: &Dispatch| {
            ["dx", "dresidual", "dgamma", "dbeta"].map(|name| dispatch.variant.has(&format!("adds_to_{name}")).unwrap())
        };
        assert_eq!((adds(sums), adds(input)), ([false, true, false, false], [false, false, true, false]));
        // dresidual is dz and something else: dz is computed again.
        assert!(input.variant.name().ends_with(".relu") && roles(input).contains(&("dy", "dy")));
        for name in ["x", "dy", "scratch"] {
            let refused = adding(&[name]);
            assert!(matches!(refused, Err(Error::Mismatch { name: it, .. }) if it == name), "{refused:?}");
        }
        let place = |name, buffer, adds| Given { name, buffer, offset: 0, adds };
        let over = |adds| {
            let given = [place("x", 0, false), place("dy", 1, false), place("dx", 1, adds)];
            layer.lower(Operation::BackwardFrozen, &[&given[..], &[place("saved", 2, false)]].concat())
        };
        assert!(over(false).is_ok());
        let refused = over(true);
        assert!(matches!(refused, Err(Error::Overlap { first: "dy", second: "dx", .. })), "{refused:?}");
    }

    #[test]
    fn inference_may_write_over_its_residual() {
        let layer = by(Strategy::Split);
        let place = |name, buffer| Given { name, buffer, offset: 0, adds: false };
        let over = |x, y, residual| {
            let given = [place("x", x), place("y", y), place("residual", residual), place("running", 3)];
            layer.lower(Operation::Inference, &given).unwrap().dispatches.remove(0)
        };
        let has = |dispatch: &Dispatch| ["y_over_x", "y_over_residual"].map(|name| dispatch.variant.has(name).unwrap());
        assert_eq!(has(&over(0, 1, 2)), [false, false]);
        assert_eq!((has(&over(0, 1, 1)), roles(&over(0, 1, 1)).len()), ([false, true], 3));
        assert_eq!(has(&over(0, 0, 2)), [true, false]);
        assert_eq!((has(&over(0, 0, 0)), roles(&over(0, 0, 0)).len()), ([true, true], 2));
        // A training forward may not: its backward pass may need the residual.
        let training = [("x", 0), ("residual", 1), ("y", 1), ("saved", 2), ("scratch", 3)];
        let refused = layer.lower(Operation::ForwardTraining, &training.map(|(name, buffer)| place(name, buffer)));
        assert!(matches!(refused, Err(Error::Overlap { first: "residual", second: "y", .. })), "{refused:?}");
    }

    #[test]
    fn a_forced_storage_is_kept() {
        let choice = Choice { storage: Some(Storage::F16Words), ..Choice::default() };
        let layer = description(&choice, Config { dtype: DType::F16, ..Config::default() });
        let program = layer.lower(Operation::Inference, &Given::apart(&["x", "y", "running"])).unwrap();
        assert_eq!(program.plan.storage, Storage::F16Words);
        assert_eq!(layer.size_of(Extent::Elements), 2304);
        assert_eq!(pairs(&[1, 2, 3]).collect::<Vec<_>>(), [(&1, &2), (&1, &3), (&2, &3)]);
    }

    #[test]
    fn views_are_found_in_their_tensors() {
        let shape = |views| Shape::new(&[8, 4, 6, 6], Layout::ChannelsFirst).unwrap().with_views(views).unwrap();
        let describe = |views, config| {
            let (device, tuning) = (Capabilities::default_limits(), Arc::new(Tuning::none()));
            let choice = Choice::by(Strategy::Split);
            Description::new(shape(views), config, &choice, &device, tuning)
        };
        let view = |first, of| Some(View { first, of });
        let views = Views { x: view(3, 10), y: None, residual: view(8, 12) };
        let layer = describe(views, Config { activation: Activation::Relu, ..Config::default() }).unwrap();
        let program = layer.lower(Operation::BackwardTraining, &Given::apart(&BACKWARD)).unwrap();
        let [sums, input] = program.dispatches.as_slice() else { panic!("{program:?}") };
        // In values of four elements: slices of 4 channels with 9 values each.
        let Params { slice, x_base, x_gap, y_base, y_gap, residual_base, residual_gap, .. } = sums.params;
        assert_eq!((slice, x_base, x_gap, y_base, y_gap, residual_base, residual_gap), (36, 27, 54, 0, 0, 72, 72));
        let bytes = |name| sums.bindings.iter().find(|bound| bound.name == name).unwrap().bytes;
        assert_eq!([bytes("x"), bytes("dy"), bytes("residual")], [10, 4, 12].map(|channels| 4 * 8 * 36 * channels));
        assert!(sums.variant.views && roles(input).contains(&("dy", "dy")), "dresidual lies elsewhere: {input:?}");
        let given = |name, buffer| Given { name, buffer, offset: 0, adds: false };
        let over = [given("x", 0), given("y", 0), given("running", 1)];
        let refused = layer.lower(Operation::Inference, &over);
        assert!(matches!(refused, Err(Error::Overlap { first: "x", second: "y", .. })), "{refused:?}");
        let alike = describe(Views { x: view(3, 10), y: view(3, 10), residual: None }, Config::default()).unwrap();
        assert!(alike.lower(Operation::Inference, &over).is_ok());
        let in_place = describe(views, Config { in_place: true, ..Config::default() });
        assert!(matches!(in_place, Err(Error::Mismatch { name: "y", .. })), "{in_place:?}");
    }

    #[test]
    fn small_arrays_begin_anywhere() {
        let place = |name, buffer, offset| Given { name, buffer, offset, adds: false };
        let backward = |places: [(usize, u64); 3]| {
            let mut given = Given::apart(&["x", "dy", "saved", "scratch", "dx", "dgamma", "dbeta"]);
            for (given, (buffer, offset)) in given[4..].iter_mut().zip(places) {
                *given = place(given.name, buffer, offset);
            }
            by(Strategy::Whole)
                .lower(Operation::BackwardTraining, &given)
                .map(|mut program| program.dispatches.remove(0))
        };
        let bound = |dispatch: &Dispatch| {
            let of = |name| dispatch.bindings.iter().find(|bound| bound.name == name).map(|it| (it.begin, it.bytes));
            (of("dgamma"), of("dbeta"), dispatch.params.dgamma_at, dispatch.params.dbeta_at)
        };
        // C is 4: 16 bytes each. In one block they are one binding, in two or in two buffers they are not.
        assert_eq!(bound(&backward([(4, 0), (5, 524), (5, 508)]).unwrap()), (None, Some((256, 284)), 67, 63));
        assert_eq!(bound(&backward([(4, 0), (5, 4), (5, 260)]).unwrap()), (Some((0, 20)), Some((256, 20)), 1, 1));
        assert_eq!(bound(&backward([(4, 0), (5, 4), (6, 20)]).unwrap()), (Some((0, 20)), Some((0, 36)), 1, 5));
        assert_eq!(backward([(4, 0), (4, 4608 + 252), (5, 0)]).unwrap().params.dgamma_at, 63);
        // Where the binding of dgamma begins lies `saved`, in buffer 2; the last two overlap themselves.
        for (places, pair) in [
            ([(4, 0), (2, 96), (5, 0)], ("saved", "dgamma")),
            ([(4, 0), (5, 4), (5, 8)], ("dgamma", "dbeta")),
            ([(4, 0), (5, 4), (5, 4)], ("dgamma", "dbeta")),
        ] {
            let refused = backward(places);
            let is_of =
                |error: &Error| matches!(error, Error::Overlap { first, second, .. } if (*first, *second) == pair);
            assert!(refused.as_ref().is_err_and(is_of), "{refused:?}");
        }
    }
}
