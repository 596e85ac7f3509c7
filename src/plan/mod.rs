//! From a shape and a device to the numbers of a dispatch. Pure: no wgpu handles, so it is tested without a GPU.
//!
//! To look at: the numbers change as kernels do, and no version promises them.

mod estimate;
mod params;
mod parts;

pub use params::{Parameter, Params};
pub(crate) use parts::{LARGEST_BINDING, most_bytes};

use crate::capabilities::Capabilities;
use crate::choice::{Approach, Choice, Settled};
use crate::config::Config;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernels::{Geometry, Reduction, Settings, Span, Storage, Strategy, Wanted, constants, kernels_of};
use crate::operation::Operation;
use crate::shape::Shape;
use crate::tuning::{Preference, SOFTWARE, Tuning};
use parts::{fits_binding, slices_per_part};
use serde::Serialize;

/// What the tile of an interleaved plan may be: so many neighbouring invocations read neighbouring columns.
const INTERLEAVED_TILES: [u32; 3] = [32, 16, 8];
/// A measurement counts for a shape, and no estimate is made, where its channels and its values each differ from what was measured by
/// this factor at the most.
const NEAR: f64 = 8.0;
/// Most partial results that a lane merges one after the other, unless the column's length needs more: every workgroup
/// merges those of all splits, and the error bound counts on it (`reference::bound`).
pub const LONGEST_MERGE: u32 = 16;
/// Most values that one lane takes: the error bound counts on it (`reference::bound`).
pub const LONGEST_RUN: u32 = 8192;
/// Most values that one lane of [`Strategy::Plain`] takes, one after the other: as many as one of [`Strategy::Resident`].
pub const LONGEST_PLAIN_RUN: u32 = 32;

/// An operation settled for one shape on one device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// How it goes about a column.
    #[serde(flatten)]
    pub approach: Settled,
    /// What a value is made of.
    pub geometry: Geometry,
    /// How a workgroup sums over its lanes.
    pub reduction: Reduction,
    /// How the shaders see the elements of tensors.
    pub storage: Storage,
    /// Invocations per workgroup.
    pub workgroup_size: u32,
    /// Columns per workgroup.
    pub tile: u32,
    /// Whether neighbouring invocations have neighbouring columns.
    pub interleaved: bool,
    /// Samples that count as one with so many times the channels: more than 1 where C is no multiple of what a value spans.
    pub fold: u32,
    /// Columns: places in a row of `fold` samples, or groups of four of them.
    pub columns: u32,
    /// Values of one column that lie side by side.
    pub inner: u32,
    /// Values of one column in all parts.
    pub values: u32,
    /// How many parts a tensor is split into over the samples: 1 where a binding holds it.
    pub parts: u32,
    /// Values of one column in each part but the last, which may have fewer.
    pub part_values: u32,
    /// Values of a column that one of the workgroups that share it takes.
    pub segment: u32,
    /// Whether partial results are merged, in scratch: what takes no sums has none.
    #[serde(skip)]
    merges: bool,
    #[serde(skip)]
    max_workgroups_per_dimension: u32,
    /// Bytes of a plane of scratch.
    #[serde(skip)]
    plane: u64,
    #[serde(skip)]
    max_scratch: u64,
}

impl Plan {
    /// Settles the operation: by what was fastest on the nearest shape that was measured and can run here, on a GPU that nobody
    /// measured by an estimate, as far as `choice` leaves it open.
    ///
    /// # Errors
    /// [`Error::Limit`] when one sample of a tensor exceeds what the device binds, or a channel what the kernels count, or when a forced workgroup
    /// size exceeds the device's; [`Error::KernelUnavailable`] when a forced choice cannot run.
    pub fn new(
        operation: Operation,
        shape: &Shape,
        dtype: DType,
        capabilities: &Capabilities,
        tuning: &Tuning,
        choice: &Choice,
    ) -> Result<Self> {
        check_count(shape)?;
        let by = |preference: &Preference| Self::preferred(operation, shape, dtype, capabilities, preference, choice);
        let mut preferences = Self::likely(operation, shape, dtype, capabilities, tuning, choice);
        // What is preferred for another strategy says little about a forced one.
        preferences.sort_by_key(|preference| choice.strategy().is_some_and(|forced| forced != preference.strategy()));
        let mut refused = None;
        for preference in preferences {
            match by(&preference) {
                Ok(plan) => {
                    log::debug!("{operation} {shape}: {plan:?}");
                    return Ok(plan);
                }
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or_else(|| unavailable(operation.name(), "no preference is known".into())))
    }

    /// What to try, best first: what was measured, then what is guessed.
    fn likely(
        operation: Operation,
        shape: &Shape,
        dtype: DType,
        capabilities: &Capabilities,
        tuning: &Tuning,
        choice: &Choice,
    ) -> Vec<Preference> {
        let by = |preference: &Preference| Self::preferred(operation, shape, dtype, capabilities, preference, choice);
        let measured = tuning.preferences(operation, shape);
        if capabilities.device_type == wgpu::DeviceType::Cpu {
            return measured.into_iter().map(|(_, preference)| preference).chain([SOFTWARE]).collect();
        }
        // Of a shape that is quite another an estimate says more.
        let near = measured.into_iter().filter(|(ratio, _)| *ratio <= NEAR).map(|(_, preference)| preference);
        let mut preferences: Vec<Preference> = near.collect();
        // What was measured wins: no estimate is needed where it can run.
        if !preferences.iter().any(|measured| by(measured).is_ok()) {
            preferences.extend(Self::estimated(operation, shape, dtype, capabilities, choice));
        }
        preferences
    }

    /// What an estimate takes for the fastest on a GPU that nobody has measured, best first.
    pub(crate) fn estimated(
        operation: Operation,
        shape: &Shape,
        dtype: DType,
        capabilities: &Capabilities,
        choice: &Choice,
    ) -> Vec<Preference> {
        let by = |preference: &Preference| Self::preferred(operation, shape, dtype, capabilities, preference, choice);
        estimate::preferences(operation, shape, dtype, capabilities.device_type, |estimated| by(estimated).ok())
    }

    fn preferred(
        operation: Operation,
        shape: &Shape,
        dtype: DType,
        capabilities: &Capabilities,
        preference: &Preference,
        choice: &Choice,
    ) -> Result<Self> {
        let in_parts = !fits_binding(shape, dtype, &capabilities.limits);
        let preferred = if in_parts { Strategy::Split } else { preference.strategy() };
        let strategy = choice.strategy().unwrap_or(preferred);
        if kernels_of(operation, strategy, Wanted::All).is_empty() {
            return Err(unavailable(strategy.name(), format!("{operation} has no such kernel")));
        }
        if in_parts && strategy != Strategy::Split {
            return Err(unavailable(
                strategy.name(),
                match shape.slices_per_micro_batch() {
                    Some(_) => "a batch in micro-batches takes split, whose dispatches meet in scratch".into(),
                    None => "one binding does not hold the tensor; split goes over it in parts".into(),
                },
            ));
        }
        let geometry = choose_geometry(shape, strategy, choice, preference)?;
        let storage = choose_storage(dtype, geometry, capabilities, choice.storage)?;
        let sizes = workgroup_sizes(preference, &capabilities.limits, choice)?;
        let fold = geometry.fold(shape).unwrap_or(1) as u32;
        let rereads = kernels_of(operation, strategy, Wanted::All).iter().any(|kernel| kernel.rereads);
        if choice.reverse() == Some(true) && !rereads {
            return Err(unavailable("reverse", format!("{operation} by {strategy} reads nothing twice")));
        }
        let reverse = choice.reverse().or(preference.choice.reverse()).unwrap_or_default() && rereads;
        // What a strategy has to choose for itself is chosen when it is laid out.
        let approach = match strategy {
            Strategy::Split => Approach::Split { splits: 1, reverse },
            Strategy::Whole => Approach::Whole,
            Strategy::Resident => Approach::Resident { held: 0 },
            Strategy::Plain => Approach::Plain,
        };
        let slices = slices_per_part(shape, fold as usize, dtype, &capabilities.limits)?;
        let inner = shape.inner() / geometry.elements_per_value();
        // m fits u32, so do all of these.
        let open = Self {
            approach,
            geometry,
            reduction: Reduction::Tree,
            storage,
            workgroup_size: sizes[0],
            tile: 1,
            interleaved: shape.inner() == 1,
            fold,
            columns: shape.channels() as u32 * fold / geometry.channels_per_value() as u32,
            inner: inner as u32,
            values: (shape.outer() / fold as usize * inner) as u32,
            parts: (shape.outer() / fold as usize).div_ceil(slices) as u32,
            part_values: (slices * inner) as u32,
            segment: 0,
            merges: strategy == Strategy::Split && kernels_of(operation, strategy, Wanted::All).len() > 1,
            max_workgroups_per_dimension: capabilities.limits.max_compute_workgroups_per_dimension,
            plane: 4 * shape.channels() as u64,
            max_scratch: most_bytes(&capabilities.limits),
        };
        let laid_out = match strategy {
            Strategy::Split => open.split_in_one_of(&sizes, preference, choice)?,
            Strategy::Whole => open.whole(&sizes, choice, LONGEST_RUN)?,
            Strategy::Plain => open.whole(&sizes, choice, LONGEST_PLAIN_RUN)?,
            Strategy::Resident => open.resident(&sizes, preference, choice)?,
        };
        let reduction = choose_reduction(laid_out.tile, capabilities, choice.reduction, preference)?;
        let plan = Self { reduction, ..laid_out };
        plan.check_grid()?;
        plan.check_scratch(plan.scratch_planes())?;
        Ok(plan)
    }

    /// The smallest workgroup that merges the results of all parts; of one part, every workgroup does.
    fn split_in_one_of(self, sizes: &[u32], preference: &Preference, choice: &Choice) -> Result<Self> {
        let sized = sizes.iter().map(|&workgroup_size| Self { workgroup_size, ..self.clone() });
        let mut laid_out = sized.map(|sized| sized.split(preference, choice));
        let first = laid_out.next().unwrap_or_else(|| Err(unavailable("split", "no workgroup size is allowed".into())));
        match first {
            Err(_) if self.parts > 1 => laid_out.find(Result::is_ok).unwrap_or(first),
            first => first,
        }
    }

    /// Lays a column out over several workgroups: enough that no lane's run is longer than the error bound counts on, and
    /// enough to keep the device busy. Every part of a tensor is laid out like the first.
    fn split(self, preference: &Preference, choice: &Choice) -> Result<Self> {
        let (tile, values) = (self.tile_in_flight(), self.part_values);
        let lanes = self.workgroup_size / tile;
        let wanted = preference.workgroups / self.columns.div_ceil(tile);
        let least = values.div_ceil(lanes.saturating_mul(LONGEST_RUN));
        let most = if self.merges { self.most_merged(lanes) / self.parts } else { values };
        if self.parts > 1 && most < least {
            let planes = u64::from(self.fold) * (1 + 2 * u64::from(self.parts) * u64::from(least));
            self.check_scratch(planes)?;
            let reason = format!(
                "the tensor is bound in {} parts, and {lanes} lanes per column are too few to merge their results; use a \
                 larger workgroup or a smaller batch",
                self.parts
            );
            return Err(unavailable(Strategy::Split.name(), reason));
        }
        let splits = choose_splits(least, most.clamp(least, values), wanted, choice.splits())?;
        // No more splits than there are full rounds of the workgroup, unless forced, and none without a value.
        let rounds = if choice.splits().is_some() { values } else { values.div_ceil(lanes) };
        let segment = values.div_ceil(splits.min(rounds));
        let splits = values.div_ceil(segment);
        if let Some(forced) = choice.splits().filter(|&forced| forced != splits) {
            let reason = format!(
                "segments of equal length, the last one shorter, of {values} values make {splits}, not {forced}"
            );
            return Err(unavailable(format!("splits {forced}"), reason));
        }
        let approach = Approach::Split { splits, reverse: self.approach.reverse() };
        Ok(Self { approach, tile, segment, ..self })
    }

    /// Most partial results of a column that `lanes` may merge: as many in sequence as the error bound counts on, and no more
    /// than the scratch holds.
    fn most_merged(&self, lanes: u32) -> u32 {
        let longest = if self.parts == 1 { LONGEST_MERGE } else { LONGEST_MERGE.max(self.values / LONGEST_RUN + 3) };
        let held = (self.max_scratch / self.plane / u64::from(self.fold)).saturating_sub(1) / 2;
        (lanes.saturating_mul(longest) / self.fold).min(held.try_into().unwrap_or(u32::MAX))
    }

    /// Gives a column to one workgroup.
    fn whole(self, sizes: &[u32], choice: &Choice, longest_run: u32) -> Result<Self> {
        // Forced, a larger workgroup may do it; what is preferred is preferred in its size.
        let sizes = if choice.approach.is_some() { sizes } else { &sizes[..1] };
        let sized = sizes.iter().map(|&workgroup_size| Self { workgroup_size, segment: self.values, ..self.clone() });
        let tiled = sized.map(|sized| Self { tile: sized.tile_in_flight(), ..sized });
        let longest = |plan: &Self| (plan.workgroup_size / plan.tile).saturating_mul(longest_run);
        tiled.into_iter().find(|plan| plan.values <= longest(plan)).ok_or_else(|| {
            let reason = format!("{} values per channel exceed what one workgroup sums", self.values);
            unavailable(self.strategy().name(), reason)
        })
    }

    /// Columns per workgroup: channels with few values share one, each lane has four in flight. Where the results of many
    /// parts are merged, a column has the lanes for it.
    fn tile_in_flight(&self) -> u32 {
        let merged = if self.merges { self.parts * self.fold } else { 1 };
        let merging = merged.div_ceil(LONGEST_MERGE).next_power_of_two();
        let narrow = if self.interleaved { self.interleaved_tile().min(self.workgroup_size / merging) } else { 1 };
        self.tile_for(self.part_values.div_ceil(4).next_power_of_two().max(merging), narrow.max(1))
    }

    /// Lays a column out over the registers of one workgroup: of the smallest of `sizes` that holds it.
    fn resident(self, sizes: &[u32], preference: &Preference, choice: &Choice) -> Result<Self> {
        let held: Vec<u32> = match choice.held() {
            Some(forced) => vec![forced],
            None => preference.choice.held().into_iter().chain(Strategy::HELD).collect(),
        };
        let fits = |&(size, held): &(u32, u32)| {
            let is_kernel = Strategy::HELD.contains(&held) && held <= self.geometry.most_held();
            is_kernel && u64::from(size) * u64::from(held) >= self.values.into()
        };
        // What was fast for a small column says nothing of one many times as long.
        let sizes = if choice.approach.is_some() { sizes } else { &sizes[..sizes.len().min(3)] };
        // More lanes before more registers.
        let all = held.iter().flat_map(|&held| sizes.iter().map(move |&size| (size, held)));
        let Some((workgroup_size, held)) = all.clone().find(fits) else {
            let reason = format!(
                "{} values per channel exceed {} lanes with {} of them; lanes hold one of {:?}, but of four elements at most \
                 {}",
                self.values,
                sizes.last().unwrap_or(&0),
                held.last().unwrap_or(&0),
                Strategy::HELD,
                Geometry::Planes4.most_held()
            );
            return Err(unavailable(Strategy::Resident.name(), reason));
        };
        let sized = Self { approach: Approach::Resident { held }, workgroup_size, segment: self.values, ..self };
        let tile = sized.tile_for(sized.values.div_ceil(held).next_power_of_two(), 1);
        if sized.interleaved && tile < sized.interleaved_tile().min(sized.columns) && choice.approach.is_none() {
            let reason = format!("with {tile} columns in a workgroup, rows would be read in small pieces");
            return Err(unavailable(Strategy::Resident.name(), reason));
        }
        Ok(Self { tile, ..sized })
    }

    /// Columns per workgroup when each needs `lanes`: at least `narrow`, no more than there are.
    fn tile_for(&self, lanes: u32, narrow: u32) -> u32 {
        let size = self.workgroup_size;
        let most = self.columns.next_power_of_two().min(size);
        (size / lanes.min(size)).clamp(narrow.min(most), most)
    }

    /// The tile of an interleaved plan that leaves the fewest invocations without a column; of equals, the widest.
    fn interleaved_tile(&self) -> u32 {
        INTERLEAVED_TILES.into_iter().min_by_key(|tile| self.columns.next_multiple_of(*tile)).unwrap_or(1)
    }

    /// The choice that forces this plan on the same operation, shape and device.
    pub fn choice(&self) -> Choice {
        Choice {
            approach: Some(self.approach.into()),
            geometry: Some(self.geometry),
            reduction: Some(self.reduction),
            workgroup_size: Some(self.workgroup_size),
            storage: Some(self.storage),
        }
    }

    /// How it goes about a column.
    pub fn strategy(&self) -> Strategy {
        self.approach.strategy()
    }

    /// Workgroups that share a column, in each part but the last, which may have fewer.
    pub fn splits(&self) -> u32 {
        self.approach.splits()
    }

    /// What a tuning file says of it.
    pub fn preference(&self) -> Preference {
        Preference { choice: self.choice(), workgroups: self.groups(Span::Segment, 0) }
    }

    /// What leads to it again, and on other shapes to its like: workgroups instead of splits, and what the device gives.
    #[cfg(feature = "host")]
    pub(crate) fn preference_of_its_kind(&self) -> Preference {
        let Preference { choice, workgroups } = self.preference();
        let approach = match self.approach {
            Approach::Split { reverse, .. } => Approach::Split { splits: None, reverse: Some(reverse) },
            other => other.into(),
        };
        let workgroups = if self.strategy() == Strategy::Split { workgroups } else { 0 };
        // Subgroups are left open, since they are taken where a device has them; so is a tree that the tile leaves no choice but.
        let reduction = (self.reduction == Reduction::Tree && self.tile == 1).then_some(Reduction::Tree);
        Preference { choice: Choice { approach: Some(approach), reduction, storage: None, ..choice }, workgroups }
    }

    /// What the text of its kernels depends on.
    pub fn settings(&self, config: &Config) -> Settings {
        Settings {
            geometry: self.geometry,
            reduction: self.reduction,
            held: self.approach.held(),
            storage: self.storage,
            activation: config.activation,
            from_y: config.in_place,
        }
    }

    fn tiles(&self) -> u32 {
        self.columns.div_ceil(self.tile)
    }

    /// Workgroups with work in a part.
    pub fn groups(&self, span: Span, part: u32) -> u32 {
        match span {
            Span::Segment => self.tiles() * self.splits_of(part),
            // Folded samples have the same channels again.
            Span::Column => self.columns.div_ceil(self.fold).div_ceil(self.tile),
        }
    }

    /// The grid to dispatch for a part, folded to two dimensions where one does not hold it; the fold is rounded up.
    pub fn grid(&self, span: Span, part: u32) -> [u32; 2] {
        let groups = self.groups(span, part);
        let rows = groups.div_ceil(self.max_workgroups_per_dimension);
        [groups.div_ceil(rows), rows]
    }

    fn check_grid(&self) -> Result<()> {
        let dimension = u64::from(self.max_workgroups_per_dimension);
        // No more than the values of a binding: they can be counted.
        let needed = u64::from(self.tiles()) * u64::from(self.splits());
        if needed > dimension * dimension {
            return Err(Error::Limit {
                what: "the dispatch",
                limit: "the square of the device's max_compute_workgroups_per_dimension",
                unit: "workgroups",
                needed,
                allowed: dimension * dimension,
                hint: "split the tensor over C; channels do not depend on each other",
            });
        }
        Ok(())
    }

    /// What the partial results need, in planes, against what a binding holds.
    fn check_scratch(&self, planes: u64) -> Result<()> {
        let (needed, allowed) = (planes * self.plane, self.max_scratch);
        if needed > allowed {
            return Err(Error::Limit {
                what: "the scratch buffer",
                limit: "the device's max_storage_buffer_binding_size",
                unit: "bytes",
                needed,
                allowed,
                hint: match self.parts {
                    1 => {
                        "split the tensor over C, since channels do not depend on each other, or open the device with a \
                         higher limit where the adapter has one"
                    }
                    _ => "use a smaller batch, or open the device with a higher limit where the adapter has one",
                },
            });
        }
        Ok(())
    }

    /// Planes of C floats that the partial results need: for each of the folded samples a shift, and two sums per split.
    pub fn scratch_planes(&self) -> u64 {
        if self.merges { u64::from(self.fold) * (1 + 2 * u64::from(self.all_splits())) } else { 0 }
    }

    /// The pipeline-overridable constants.
    pub fn constants(&self) -> [(&'static str, f64); 1] {
        constants(self.workgroup_size)
    }
}

fn unavailable(kernel: impl Into<String>, reason: String) -> Error {
    Error::KernelUnavailable { kernel: kernel.into(), reason }
}

/// m is kept in u32, and values are counted ahead.
fn check_count(shape: &Shape) -> Result<()> {
    let allowed = u64::from(u32::MAX / 2);
    match shape.elements_per_channel() as u64 {
        needed if needed > allowed => Err(Error::Limit {
            what: "a channel",
            limit: "the kernels' counter",
            unit: "values",
            needed,
            allowed,
            hint: "use smaller batches, or statistics() with RunningPolicy::pooled over parts of the data",
        }),
        _ => Ok(()),
    }
}

/// f16 as WGSL's own type saves an atomic operation where invocations share words, and costs a conversion elsewhere (up to 16%
/// on lavapipe).
fn choose_storage(
    dtype: DType,
    geometry: Geometry,
    capabilities: &Capabilities,
    forced: Option<Storage>,
) -> Result<Storage> {
    let runs = |storage: &Storage| {
        storage.dtype() == dtype && storage.is_for(geometry) && (*storage != Storage::F16 || capabilities.shader_f16)
    };
    match forced {
        Some(forced) if !runs(&forced) => Err(unavailable(
            forced.name(),
            format!(
                "the layer's dtype is {dtype}, its geometry {geometry}; f16 wants wgpu::Features::SHADER_F16 on the device and \
                 the geometry scalar, f16_words does not"
            ),
        )),
        Some(forced) => Ok(forced),
        None => {
            let mut all = Storage::ALL;
            all.sort_by_key(|storage| storage.in_words() != (geometry != Geometry::Scalar));
            all.into_iter().find(runs).ok_or_else(|| unavailable(dtype.name(), "no storage is known".into()))
        }
    }
}

fn choose_geometry(shape: &Shape, strategy: Strategy, choice: &Choice, preference: &Preference) -> Result<Geometry> {
    let runs = |geometry: &Geometry| match strategy {
        Strategy::Split => geometry.fold(shape).is_some(),
        // The columns of folded samples would have to meet in one workgroup.
        Strategy::Whole | Strategy::Resident => geometry.fold(shape) == Some(1),
        Strategy::Plain => *geometry == Geometry::Scalar,
    };
    match choice.geometry {
        Some(forced) if !runs(&forced) => Err(unavailable(
            forced.name(),
            match strategy {
                Strategy::Plain => "the textbook's kernels take one element at a time: scalar".into(),
                _ => format!(
                    "planes4 needs inner to be a multiple of 4; rows4 needs inner 1 and C to be a multiple of 4, or for \
                     split that of 2 or 4 samples together; {shape} has inner {}, {} channels and {} elements in each",
                    shape.inner(),
                    shape.channels(),
                    shape.elements_per_channel()
                ),
            },
        )),
        Some(forced) => Ok(forced),
        None => {
            let stores = |geometry: &Geometry| choice.storage.is_none_or(|storage| storage.is_for(*geometry));
            let preferred = preference.choice.geometry.into_iter().chain(Geometry::ALL);
            Ok(preferred.into_iter().filter(stores).find(runs).unwrap_or(Geometry::Scalar))
        }
    }
}

/// The workgroup sizes to try: the forced one; or the preferred one and then, for strategies that need more lanes, the
/// larger ones.
fn workgroup_sizes(preference: &Preference, limits: &wgpu::Limits, choice: &Choice) -> Result<Vec<u32>> {
    // Two vec4<f32> per invocation for the reduction.
    let most_by_storage = limits.max_compute_workgroup_storage_size / 32;
    let most =
        limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x).min(most_by_storage);
    if let Some(forced) = choice.workgroup_size.filter(|forced| !forced.is_power_of_two()) {
        return Err(unavailable(format!("workgroup size {forced}"), "expected a power of two".into()));
    }
    let needed = choice.workgroup_size.unwrap_or(1);
    if needed > most {
        return Err(Error::Limit {
            what: "a workgroup",
            limit: "the device (max_compute_invocations_per_workgroup, max_compute_workgroup_size_x and \
                    max_compute_workgroup_storage_size / 32)",
            unit: "invocations",
            needed: needed.into(),
            allowed: most.into(),
            hint: "choose a smaller workgroup size; a device that allows none runs no compute shaders",
        });
    }
    // Powers of two.
    let most = most.ilog2();
    let least = preference.workgroup_size().max(1).ilog2().min(most);
    Ok(choice.workgroup_size.map_or_else(|| (least..=most).map(|bits| 1 << bits).collect(), |forced| vec![forced]))
}

/// How many workgroups share a column.
fn choose_splits(least: u32, most: u32, wanted: u32, forced: Option<u32>) -> Result<u32> {
    match forced {
        Some(forced) if !(least..=most).contains(&forced) => {
            Err(unavailable(format!("splits {forced}"), format!("expected between {least} and {most} for this shape")))
        }
        Some(forced) => Ok(forced),
        None => Ok(wanted.clamp(least, most)),
    }
}

fn choose_reduction(
    tile: u32,
    capabilities: &Capabilities,
    forced: Option<Reduction>,
    preference: &Preference,
) -> Result<Reduction> {
    let needs = "needs wgpu::Features::SUBGROUP on the device and one column per workgroup";
    let runs = capabilities.subgroups && tile == 1;
    match forced {
        Some(Reduction::Subgroup) if !runs => Err(unavailable(
            Reduction::Subgroup.name(),
            format!("{needs}; the device has it: {}, columns per workgroup: {tile}", capabilities.subgroups),
        )),
        Some(forced) => Ok(forced),
        None if runs => Ok(preference.choice.reduction.unwrap_or(Reduction::Subgroup)),
        None => Ok(Reduction::Tree),
    }
}
