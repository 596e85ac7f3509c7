//! What every plan must keep, whatever was asked for: the work that its numbers describe is counted out without a device,
//! as `shaders/common/work.wgsl` deals it out. Random questions come from `tests/plan.rs` and `fuzz/`.

use batchnorm_wgpu::kernels::{Geometry, Kernel, Reduction, Span, Storage, Strategy, Wanted, kernels_of};
use batchnorm_wgpu::plan::{LONGEST_MERGE, LONGEST_PLAIN_RUN, LONGEST_RUN, Params};
use batchnorm_wgpu::{Capabilities, Choice, Config, DType, Error, Operation, Plan, Shape, Tuning};

/// Most invocations, and most values, for which the work is counted out one by one.
const COUNTED: u64 = 1 << 13;

/// Parts that are looked at, besides the last.
const FIRST_PARTS: u32 = 64;

/// Bytes that one binding has at most, whatever the device reports: a multiple of four below 2^31.
const LARGEST_BINDING: u64 = (1 << 31) - 4;

/// A question to the planner.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to do.
    pub operation: Operation,
    /// The tensor.
    pub shape: Shape,
    /// What it is stored in.
    pub dtype: DType,
    /// The device.
    pub capabilities: Capabilities,
    /// What was measured.
    pub tuning: Tuning,
    /// What is forced.
    pub choice: Choice,
}

/// What a plan does not keep, or why it should not have been refused.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Broken(String);

macro_rules! keep {
    ($held:expr) => { keep!($held, "") };
    ($held:expr, $($said:tt)+) => {
        if !$held {
            return Err(Broken(format!("expected {}: {}", stringify!($held), format_args!($($said)+))));
        }
    };
}

impl Request {
    /// Plans, and checks what comes: an error that the request explains, or a plan that covers every value once within the
    /// limits.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn check(&self) -> Result<(), Broken> {
        match self.plan(&self.tuning, &self.choice) {
            Err(error) => self.explains(&error),
            Ok(plan) => {
                self.check_values(&plan)?;
                self.check_parts(&plan)?;
                self.check_workgroup(&plan)?;
                self.check_runs(&plan)?;
                self.check_choice(&plan)?;
                self.check_dispatches(&plan)
            }
        }
    }

    fn plan(&self, tuning: &Tuning, choice: &Choice) -> Result<Plan, Error> {
        Plan::new(self.operation, &self.shape, self.dtype, &self.capabilities, tuning, choice)
    }

    /// Most bytes of a binding.
    fn binding(&self) -> u64 {
        self.capabilities.limits.max_storage_buffer_binding_size.min(LARGEST_BINDING)
    }

    /// Most invocations of a workgroup.
    fn most_lanes(&self) -> u32 {
        let limits = &self.capabilities.limits;
        let most = limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x);
        most.min(limits.max_compute_workgroup_storage_size / 32)
    }

    /// Without a forced choice only limits refuse.
    fn explains(&self, error: &Error) -> Result<(), Broken> {
        match error {
            Error::Limit { needed, allowed, .. } => keep!(needed > allowed, "{error}"),
            Error::KernelUnavailable { reason, .. } => {
                // So many parts that no workgroup merges their results: bindings, or workgroups, that WebGPU's limits exceed.
                let small = self.binding() < 1 << 22 || self.most_lanes() < 256;
                keep!((small && reason.contains("parts")) || self.choice != Choice::default(), "{error}");
            }
            other => keep!(false, "a limit or a kernel that is not available, got {other}"),
        }
        Ok(())
    }

    /// Values cover the elements.
    fn check_values(&self, plan: &Plan) -> Result<(), Broken> {
        let (shape, fold) = (&self.shape, plan.fold as usize);
        let (per_column, per_value) = spans(plan.geometry);
        keep!(plan.columns as usize * per_column == shape.channels() * fold);
        keep!(plan.values as usize * per_value * fold == shape.elements_per_channel());
        keep!(plan.inner as usize * per_value == shape.inner());
        keep!(fold == 1 || (plan.geometry == Geometry::Rows4 && plan.strategy() == Strategy::Split));
        Ok(())
    }

    /// Parts cover the values; each fits a binding wherever its begin is aligned to, and so do the partial results.
    fn check_parts(&self, plan: &Plan) -> Result<(), Broken> {
        let (parts, part_values) = (u64::from(plan.parts), u64::from(plan.part_values));
        keep!(parts * part_values >= plan.values.into() && (parts - 1) * part_values < plan.values.into());
        let alignment = u64::from(self.capabilities.limits.min_storage_buffer_offset_alignment);
        let size = self.dtype.size();
        // What lies between is alike.
        for part in [0, 1, plan.parts / 2, plan.parts - 1].into_iter().filter(|part| *part < plan.parts) {
            let [own, before] = plan.elements_of(part);
            keep!(before == u64::from(part) * plan.elements_of(0)[0], "part {part}");
            keep!((own * size + before * size % alignment).next_multiple_of(4) <= self.binding(), "part {part}");
        }
        let [own, before] = plan.elements_of(plan.parts - 1);
        keep!(own + before == self.shape.elements() as u64);
        // Segments cover the values of a part, and none is empty.
        let (splits, segment) = (u64::from(plan.splits()), u64::from(plan.segment));
        keep!(splits * segment >= part_values && (splits - 1) * segment < part_values);
        // A shift and two sums of each split, for each of the folded samples.
        let merges = kernels_of(self.operation, plan.strategy(), Wanted::All).len() > 1;
        let planes = u64::from(plan.fold) * (1 + 2 * u64::from(plan.all_splits())) * u64::from(merges);
        keep!(plan.scratch_planes() == planes && planes * self.shape.channels() as u64 * 4 <= self.binding());
        Ok(())
    }

    /// Tiles and lanes make up a workgroup that the device runs.
    fn check_workgroup(&self, plan: &Plan) -> Result<(), Broken> {
        keep!(plan.workgroup_size.is_power_of_two() && plan.tile.is_power_of_two());
        keep!(plan.tile <= plan.workgroup_size);
        keep!(plan.workgroup_size <= self.most_lanes());
        keep!(plan.reduction == Reduction::Tree || (self.capabilities.subgroups && plan.tile == 1));
        keep!(plan.storage.dtype() == self.dtype);
        keep!(plan.storage != Storage::F16 || self.capabilities.shader_f16);
        Ok(())
    }

    /// The sequential part of a sum is no longer than the error bound counts on.
    fn check_runs(&self, plan: &Plan) -> Result<(), Broken> {
        let (lanes, segment) = (u64::from(plan.workgroup_size / plan.tile), u64::from(plan.segment));
        match plan.strategy() {
            Strategy::Split => {
                keep!(segment.div_ceil(lanes) <= LONGEST_RUN.into(), "{segment} over {lanes} lanes");
                let merged = (u64::from(plan.all_splits()) * u64::from(plan.fold)).div_ceil(lanes);
                let needed = (self.shape.elements_per_channel() as u64).div_ceil(LONGEST_RUN.into());
                let merges = kernels_of(self.operation, plan.strategy(), Wanted::All).len() > 1;
                // Folded samples round up once each.
                keep!(!merges || merged <= (needed + 3).max(LONGEST_MERGE.into()), "{merged} merged, {needed}");
            }
            Strategy::Whole => {
                keep!(plan.parts == 1 && plan.splits() == 1 && segment.div_ceil(lanes) <= LONGEST_RUN.into());
            }
            Strategy::Plain => {
                keep!(plan.geometry == Geometry::Scalar && plan.parts == 1 && plan.splits() == 1);
                keep!(segment.div_ceil(lanes) <= LONGEST_PLAIN_RUN.into());
            }
            // Registers hold the column whole.
            Strategy::Resident => {
                let held = plan.approach.held();
                keep!(Strategy::HELD.contains(&held));
                keep!(held <= 16 || plan.geometry == Geometry::Scalar);
                keep!(lanes * u64::from(held) >= plan.values.into() && plan.splits() == 1 && plan.parts == 1);
            }
        }
        Ok(())
    }

    /// What was forced is kept, and the plan can be forced as it is.
    fn check_choice(&self, plan: &Plan) -> Result<(), Broken> {
        fn kept<T: PartialEq>(forced: Option<T>, chosen: Option<T>) -> bool {
            forced.is_none() || forced == chosen
        }
        let (forced, chosen) = (self.choice, plan.choice());
        keep!(kept(forced.strategy(), chosen.strategy()) && kept(forced.geometry, chosen.geometry));
        keep!(kept(forced.reduction, chosen.reduction) && kept(forced.workgroup_size, chosen.workgroup_size));
        keep!(kept(forced.splits(), chosen.splits()) && kept(forced.held(), chosen.held()));
        keep!(kept(forced.reverse(), chosen.reverse()) && kept(forced.storage, chosen.storage));
        match self.plan(&Tuning::none(), &chosen) {
            Ok(forced) => keep!(forced == *plan, "{forced:?} when forced, {plan:?}"),
            Err(error) => keep!(false, "the plan to be forced as it is, got {error}"),
        }
        Ok(())
    }

    /// The dispatches of every kernel; small ones are counted out.
    fn check_dispatches(&self, plan: &Plan) -> Result<(), Broken> {
        let kernels = kernels_of(self.operation, plan.strategy(), Wanted::All);
        keep!((1..=2).contains(&kernels.len()));
        for kernel in kernels {
            let parts = plan.parts(kernel.span);
            let invocations = u64::from(plan.workgroup_size) * u64::from(plan.groups(kernel.span, 0));
            let work = invocations.max(self.shape.elements() as u64).saturating_mul(parts.into());
            let mut written = vec![0; if work <= COUNTED { self.shape.channels() } else { 0 }];
            let mut first_split = 0;
            // Of many parts the first ones and the last.
            let last = (parts > FIRST_PARTS).then(|| parts - 1);
            for part in (0..parts.min(FIRST_PARTS)).chain(last) {
                let params = self.params(plan, kernel, part)?;
                keep!(part >= FIRST_PARTS || params.first_split == first_split);
                first_split = params.first_split + params.splits;
                if !written.is_empty() {
                    count_values(plan, kernel, &params)?;
                    count_writers(plan, kernel, &params, &mut written);
                }
            }
            keep!(kernel.span == Span::Column || first_split == plan.all_splits());
            keep!(written.iter().all(|times| *times == 1), "results of each channel written once: {written:?}");
        }
        Ok(())
    }

    /// The parameters of a dispatch, which holds its workgroups and is hardly larger.
    fn params(&self, plan: &Plan, kernel: &Kernel, part: u32) -> Result<Params, Broken> {
        let limits = &self.capabilities.limits;
        let dimension = u64::from(limits.max_compute_workgroups_per_dimension);
        let [x, y] = plan.grid(kernel.span, part).map(u64::from);
        let groups = u64::from(plan.groups(kernel.span, part));
        keep!(x <= dimension && y <= dimension && x * y >= groups && x * (y - 1) < groups, "{x}x{y}");
        // The number of a workgroup is one of u32.
        keep!(x * y <= 1 << 32, "{x}x{y}");
        let (per_column, per_value) = spans(plan.geometry);
        let value = self.dtype.size() * (per_column * per_value) as u64;
        let lead =
            plan.elements_of(part)[1] * self.dtype.size() % u64::from(limits.min_storage_buffer_offset_alignment);
        keep!(lead.is_multiple_of(value), "part {part} begins within a value");
        let params = plan.params(&self.shape, &Config::default(), kernel, part, (lead / value) as u32);
        keep!(params.tile * params.lanes == plan.workgroup_size);
        keep!(u64::from(params.groups) == groups);
        Ok(params)
    }
}

/// How many channels a value spans, and how many elements of each it holds.
fn spans(geometry: Geometry) -> (usize, usize) {
    match geometry {
        Geometry::Scalar => (1, 1),
        Geometry::Planes4 => (1, 4),
        Geometry::Rows4 => (4, 1),
    }
}

/// What an invocation owns: `work_of` of `work.wgsl`.
struct InvocationWork {
    column: u32,
    lane: u32,
    split: u32,
    begin: u32,
    end: u32,
}

/// The work of every invocation of a dispatch that owns a column.
fn works(plan: &Plan, kernel: &Kernel, params: &Params) -> impl Iterator<Item = InvocationWork> {
    let (p, whole) = (*params, kernel.span == Span::Column);
    let of = move |dispatched: u32, thread: u32| {
        let group = if p.reverse != 0 { p.groups - 1 - dispatched } else { dispatched };
        let splits = if whole { 1 } else { p.splits };
        let (tile, split) = (group / splits, group % splits);
        let [across, lane] = match p.interleaved {
            0 => [thread / p.lanes, thread % p.lanes],
            _ => [thread % p.tile, thread / p.tile],
        };
        let (column, begin) = (tile * p.tile + across, split * p.segment);
        let end = (begin + p.segment).min(p.values);
        (column < p.columns).then_some(InvocationWork { column, lane, split: p.first_split + split, begin, end })
    };
    let size = plan.workgroup_size;
    (0..p.groups).flat_map(move |group| (0..size).filter_map(move |thread| of(group, thread)))
}

/// Every value of the part belongs to one lane, and lies in the part; merges count every value once.
fn count_values(plan: &Plan, kernel: &Kernel, params: &Params) -> Result<(), Broken> {
    let (p, held) = (params, plan.approach.held());
    if kernel.span == Span::Segment {
        let mut owned = vec![0; (p.values * p.columns) as usize];
        for work in works(plan, kernel, p) {
            let steps = (work.begin + work.lane..work.end).step_by(p.lanes as usize);
            keep!(held == 0 || steps.len() <= held as usize, "{} values of {held}", steps.len());
            for i in steps {
                let slice = i / p.inner;
                let at = (slice * p.columns + work.column) * p.inner + (i - slice * p.inner);
                match owned.get_mut(at as usize) {
                    Some(times) => *times += 1,
                    None => keep!(false, "value {at} inside of the part"),
                }
            }
        }
        keep!(owned.iter().all(|times| *times == 1), "every value owned once: {owned:?}");
    }
    let in_split = |split: u32| {
        let part = split / p.part_splits;
        let begin = (split - part * p.part_splits) * p.segment;
        let values = p.part_values.min(p.all_values - part * p.part_values);
        (begin + p.segment).min(values) - begin
    };
    let merged: u32 = (0..p.all_splits).map(in_split).sum();
    keep!(merged == p.all_values, "{merged} merged");
    Ok(())
}

/// Counts who writes the results of each channel: the first lane of the first split. Of the channels of folded samples
/// the first are written.
fn count_writers(plan: &Plan, kernel: &Kernel, params: &Params, written: &mut [u32]) {
    let (per_column, _) = spans(plan.geometry);
    for work in works(plan, kernel, params).filter(|work| work.lane == 0 && work.split == 0) {
        let first = work.column as usize * per_column;
        written.iter_mut().skip(first).take(per_column).for_each(|times| *times += 1);
    }
}
