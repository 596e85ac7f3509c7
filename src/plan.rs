//! From a shape and a device to the numbers of a dispatch. Pure: no wgpu handles, so it is tested without a GPU.

use crate::capabilities::Capabilities;
use crate::config::{Average, Config, NonFinite, Spread, VarianceEstimate};
use crate::error::{Error, Result};
use crate::kernels::{Geometry, Reduction, Span};
use crate::shape::Shape;
use bytemuck::{Pod, Zeroable};

/// Choices taken out of the plan's hands. `None` leaves a choice to the plan; a forced one that cannot run is an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Choice {
    /// What a value is made of.
    pub geometry: Option<Geometry>,
    /// How a workgroup sums over its lanes.
    pub reduction: Option<Reduction>,
    /// Invocations per workgroup, a power of two.
    pub workgroup_size: Option<u32>,
    /// Workgroups that share a channel.
    pub splits: Option<u32>,
}

/// How many workgroups of what size keep a kind of device busy.
struct Tuning {
    device_type: wgpu::DeviceType,
    workgroup_size: u32,
    workgroups: u32,
}

/// Defaults by kind of device. A software adapter pays microseconds per workgroup and runs the invocations between two
/// barriers one after the other: few workgroups of few invocations. On lavapipe with two cores `bn bench --workgroup-size N
/// --shapes 32x256x14x14` gave the training forward 0.24 of the copy kernel's speed for N = 32, 0.12 for 64, 0.06 for 256.
/// A discrete GPU hides latency with many workgroups; its row and the others are not measured yet.
const TUNING: [Tuning; 5] = [
    Tuning { device_type: wgpu::DeviceType::Cpu, workgroup_size: 32, workgroups: 32 },
    Tuning { device_type: wgpu::DeviceType::DiscreteGpu, workgroup_size: 256, workgroups: 2048 },
    Tuning { device_type: wgpu::DeviceType::IntegratedGpu, workgroup_size: 256, workgroups: 256 },
    Tuning { device_type: wgpu::DeviceType::VirtualGpu, workgroup_size: 256, workgroups: 1024 },
    Tuning { device_type: wgpu::DeviceType::Other, workgroup_size: 256, workgroups: 512 },
];

/// Widest tile of an interleaved plan: this many neighbouring invocations read neighbouring columns.
const INTERLEAVED_TILE: u32 = 32;
/// Most splits of a column; each workgroup merges the partial results of all of them.
const MAX_SPLITS: u32 = 1024;

/// A batch norm call settled for one shape on one device. All kernels of the layer share it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What a value is made of.
    pub geometry: Geometry,
    /// How a workgroup sums over its lanes.
    pub reduction: Reduction,
    /// Invocations per workgroup.
    pub workgroup_size: u32,
    /// Columns per workgroup.
    pub tile: u32,
    /// Whether neighbouring invocations have neighbouring columns.
    pub interleaved: bool,
    /// Columns: channels, or groups of four.
    pub columns: u32,
    /// Values of one column that lie side by side.
    pub inner: u32,
    /// Values of one column.
    pub values: u32,
    /// Workgroups that share a column.
    pub splits: u32,
    /// Values of a column that one of them takes.
    pub segment: u32,
    max_workgroups_per_dimension: u32,
}

impl Plan {
    /// Settles the call.
    ///
    /// # Errors
    /// [`Error::Limit`] when the tensor exceeds what the device binds or the kernels index, or when a forced workgroup
    /// size exceeds the device's; [`Error::KernelUnavailable`] when a forced choice cannot run.
    pub fn new(shape: &Shape, capabilities: &Capabilities, choice: &Choice) -> Result<Self> {
        check_tensor(shape, &capabilities.limits)?;
        let geometry = choose_geometry(shape, choice)?;
        let tuning = TUNING.iter().find(|row| row.device_type == capabilities.device_type).unwrap_or(&TUNING[4]);
        let workgroup_size = choose_workgroup_size(tuning, &capabilities.limits, choice)?;

        // The element count fits u32, so do all of these.
        let columns = (shape.channels() / geometry.channels_per_value()) as u32;
        let inner = (shape.inner() / geometry.elements_per_value()) as u32;
        let values = shape.outer() as u32 * inner;
        let interleaved = shape.inner() == 1;

        let (tile, lanes) = choose_tile(columns, values, workgroup_size, interleaved);
        let reduction = choose_reduction(tile, capabilities, choice)?;
        let tiles = columns.div_ceil(tile);
        let splits =
            choose_splits(values, tuning.workgroups / tiles, lanes.saturating_mul(longest_run(shape)), choice)?;
        // No more splits than there are full rounds of the workgroup, unless forced, and none without a value.
        let rounds = if choice.splits.is_some() { values } else { values.div_ceil(lanes) };
        let segment = values.div_ceil(splits.min(rounds));
        let splits = values.div_ceil(segment);
        if let Some(forced) = choice.splits.filter(|&forced| forced != splits) {
            let reason = format!("{values} values in equal parts, the last one shorter, make {splits}, not {forced}");
            return Err(unavailable(format!("splits {forced}"), reason));
        }
        let plan = Self {
            geometry,
            reduction,
            workgroup_size,
            tile,
            interleaved,
            columns,
            inner,
            values,
            splits,
            segment,
            max_workgroups_per_dimension: capabilities.limits.max_compute_workgroups_per_dimension,
        };
        plan.check_grid()?;
        log::debug!("{shape}: {plan:?}");
        Ok(plan)
    }

    fn tiles(&self) -> u32 {
        self.columns.div_ceil(self.tile)
    }

    /// Workgroups with work.
    pub fn groups(&self, span: Span) -> u32 {
        match span {
            Span::Segment => self.tiles() * self.splits,
            Span::Column => self.tiles(),
        }
    }

    /// The grid to dispatch, folded to two dimensions where one does not hold it; the fold is rounded up.
    pub fn grid(&self, span: Span) -> [u32; 2] {
        let groups = self.groups(span);
        let rows = groups.div_ceil(self.max_workgroups_per_dimension);
        [groups.div_ceil(rows), rows]
    }

    fn check_grid(&self) -> Result<()> {
        let dimension = u64::from(self.max_workgroups_per_dimension);
        let needed = u64::from(self.tiles()) * u64::from(self.splits);
        if needed > dimension * dimension || needed > u64::from(u32::MAX) {
            return Err(Error::Limit {
                what: "the dispatch",
                limit: "max_compute_workgroups_per_dimension, squared",
                needed,
                allowed: dimension * dimension,
                hint: "split the tensor over C",
            });
        }
        Ok(())
    }

    /// Planes of C floats that the partial results need: a shift, and two sums per split.
    pub fn scratch_planes(&self) -> u64 {
        1 + 2 * u64::from(self.splits)
    }

    /// The pipeline-overridable constants.
    pub fn constants(&self, span: Span) -> [(&'static str, f64); 2] {
        [("WORKGROUP", f64::from(self.workgroup_size)), ("WHOLE", f64::from(u8::from(span == Span::Column)))]
    }

    /// The uniform parameters.
    pub fn params(&self, shape: &Shape, config: &Config, span: Span) -> Params {
        let policy = &config.running;
        let count = shape.values_per_channel();
        let correction = match policy.variance {
            VarianceEstimate::Unbiased if count > 1 => count as f64 / (count as f64 - 1.0),
            _ => 1.0,
        };
        let (average, momentum) = match policy.average {
            Average::Exponential { momentum } => (0, momentum),
            Average::Cumulative => (1, 0.0),
            Average::Pooled => (2, 0.0),
        };
        Params {
            tile: self.tile,
            lanes: self.workgroup_size / self.tile,
            interleaved: u32::from(self.interleaved),
            columns: self.columns,
            inner: self.inner,
            values: self.values,
            splits: self.splits,
            segment: self.segment,
            groups: self.groups(span),
            channels: shape.channels() as u32,
            count: count as u32,
            count_f32: count as f32,
            eps: config.eps as f32,
            nan_bits: f32::NAN.to_bits(),
            zero: 0,
            average,
            momentum: momentum as f32,
            unbiased: u32::from(policy.variance == VarianceEstimate::Unbiased),
            correction: correction as f32,
            standard_deviation: u32::from(policy.spread == Spread::StandardDeviation),
            propagate: u32::from(policy.non_finite == NonFinite::Propagate),
            window_skip: policy.window.skip,
            window_take: policy.window.take.unwrap_or(u32::MAX),
        }
    }
}

/// The uniform parameters of every kernel; mirrors `Params` in `shaders/common/work.wgsl`, where the fields are explained.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[allow(missing_docs)]
pub struct Params {
    pub tile: u32,
    pub lanes: u32,
    pub interleaved: u32,
    pub columns: u32,
    pub inner: u32,
    pub values: u32,
    pub splits: u32,
    pub segment: u32,
    pub groups: u32,
    pub channels: u32,
    pub count: u32,
    pub count_f32: f32,
    pub eps: f32,
    pub nan_bits: u32,
    pub zero: u32,
    pub average: u32,
    pub momentum: f32,
    pub unbiased: u32,
    pub correction: f32,
    pub standard_deviation: u32,
    pub propagate: u32,
    pub window_skip: u32,
    pub window_take: u32,
}

impl Params {
    /// Names of the fields in order, for the test that holds them against the shader's.
    pub const FIELDS: [&'static str; 23] = [
        "tile",
        "lanes",
        "interleaved",
        "columns",
        "inner",
        "values",
        "splits",
        "segment",
        "groups",
        "channels",
        "count",
        "count_f32",
        "eps",
        "nan_bits",
        "zero",
        "average",
        "momentum",
        "unbiased",
        "correction",
        "standard_deviation",
        "propagate",
        "window_skip",
        "window_take",
    ];
}

/// Longest sequence of values that one lane may take: the error bound counts on it (`reference::bound`).
fn longest_run(shape: &Shape) -> u32 {
    4 * (64 + shape.values_per_channel().isqrt() as u32)
}

fn unavailable(kernel: impl Into<String>, reason: String) -> Error {
    Error::KernelUnavailable { kernel: kernel.into(), reason }
}

fn check_tensor(shape: &Shape, limits: &wgpu::Limits) -> Result<()> {
    let bytes = shape.elements() as u64 * 4;
    let hint = "split the tensor over N, or open the device with a higher limit where the adapter has one";
    if bytes > limits.max_storage_buffer_binding_size {
        let limit = "max_storage_buffer_binding_size, in bytes";
        let allowed = limits.max_storage_buffer_binding_size;
        return Err(Error::Limit { what: "the tensor", limit, needed: bytes, allowed, hint });
    }
    // Indices are u32, and loops look a few rounds ahead.
    let allowed = u64::from(u32::MAX / 2);
    if shape.elements() as u64 > allowed {
        let limit = "elements that the kernels index";
        return Err(Error::Limit { what: "the tensor", limit, needed: shape.elements() as u64, allowed, hint });
    }
    Ok(())
}

fn choose_geometry(shape: &Shape, choice: &Choice) -> Result<Geometry> {
    let runs = |geometry: Geometry| match geometry {
        Geometry::Scalar => true,
        Geometry::Planes4 => shape.inner().is_multiple_of(4),
        Geometry::Rows4 => shape.inner() == 1 && shape.channels().is_multiple_of(4),
    };
    match choice.geometry {
        Some(forced) if !runs(forced) => Err(unavailable(
            forced.name(),
            format!(
                "planes4 needs inner to be a multiple of 4, rows4 needs inner 1 and channels a multiple of 4; {shape} has \
                 inner {} and {} channels",
                shape.inner(),
                shape.channels()
            ),
        )),
        Some(forced) => Ok(forced),
        None => Ok(Geometry::ALL.into_iter().find(|&geometry| runs(geometry)).unwrap_or(Geometry::Scalar)),
    }
}

fn choose_workgroup_size(tuning: &Tuning, limits: &wgpu::Limits, choice: &Choice) -> Result<u32> {
    // Two vec4<f32> per invocation for the reduction.
    let most_by_storage = limits.max_compute_workgroup_storage_size / 32;
    let most =
        limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x).min(most_by_storage);
    match choice.workgroup_size {
        Some(forced) if !forced.is_power_of_two() => {
            Err(unavailable(format!("workgroup size {forced}"), "expected a power of two".into()))
        }
        Some(forced) if forced > most => Err(Error::Limit {
            what: "the workgroup size",
            limit: "max_compute_invocations_per_workgroup and max_compute_workgroup_storage_size / 32",
            needed: forced.into(),
            allowed: most.into(),
            hint: "choose a smaller one",
        }),
        Some(forced) => Ok(forced),
        // The largest power of two that fits.
        None => Ok(tuning.workgroup_size.min(1 << most.max(1).ilog2())),
    }
}

/// Workgroups that share a column: enough that no lane's run is longer than the error bound counts on, and enough to keep
/// the device busy.
fn choose_splits(values: u32, wanted: u32, longest_segment: u32, choice: &Choice) -> Result<u32> {
    let least = values.div_ceil(longest_segment);
    let most = MAX_SPLITS.max(least).min(values);
    match choice.splits {
        Some(forced) if !(least..=most).contains(&forced) => {
            Err(unavailable(format!("splits {forced}"), format!("expected between {least} and {most} for this shape")))
        }
        Some(forced) => Ok(forced),
        None => Ok(wanted.clamp(least, most)),
    }
}

/// Columns per workgroup, and lanes per column. Channels with few values share a workgroup; so do the neighbouring columns
/// of an interleaved plan, which then reads whole cache lines.
fn choose_tile(columns: u32, values: u32, workgroup_size: u32, interleaved: bool) -> (u32, u32) {
    let most_columns = columns.next_power_of_two().min(workgroup_size);
    let narrow = if interleaved { INTERLEAVED_TILE.min(most_columns) } else { 1 };
    let lanes_with_work = values.div_ceil(4).next_power_of_two();
    let tile = (workgroup_size / lanes_with_work.min(workgroup_size)).clamp(narrow.min(workgroup_size), most_columns);
    (tile, workgroup_size / tile)
}

fn choose_reduction(tile: u32, capabilities: &Capabilities, choice: &Choice) -> Result<Reduction> {
    let needs = "needs wgpu::Features::SUBGROUP on the device and one column per workgroup";
    match choice.reduction {
        Some(Reduction::Subgroup) if !capabilities.subgroups || tile != 1 => Err(unavailable(
            Reduction::Subgroup.name(),
            format!("{needs}; the device has it: {}, columns per workgroup: {tile}", capabilities.subgroups),
        )),
        Some(forced) => Ok(forced),
        None if capabilities.subgroups && tile == 1 => Ok(Reduction::Subgroup),
        None => Ok(Reduction::Tree),
    }
}
