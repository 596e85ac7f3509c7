//! What a run of `bn bench` found, as it is written to a file and read again by `bn report`.

use batchnorm_wgpu::kernels::{Geometry, Reduction, Strategy};
use batchnorm_wgpu::{Layout, Operation, Plan, Shape};
use serde::{Deserialize, Serialize};

/// What a record says it is.
pub const SCHEMA: &str = "batchnorm-bench-1";

/// The figures of one adapter on one day. The format is described in `benches/records/README.md`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: String,
    /// The day, `YYYY-MM-DD`.
    pub date: String,
    /// The adapter's short name.
    pub adapter: String,
    /// The adapter's own name.
    pub name: String,
    /// Driver and its version.
    pub driver: String,
    /// wgpu's backend.
    pub backend: String,
    /// wgpu's device type.
    pub device_type: String,
    /// The processor that the program ran on, and its cores; a software adapter runs there too.
    pub processor: String,
    /// Version of this project.
    pub version: String,
    /// Where the times come from.
    pub clock: Clock,
    /// The fastest copy kernel.
    pub copy: Copy,
    /// What was timed.
    pub rows: Vec<Row>,
}

/// Where times come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// The GPU's own, around the pass.
    Timestamps,
    /// The host's, from submission to completion of many steps.
    WallTime,
}

impl Clock {
    /// In words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Timestamps => "GPU timestamps around a pass of many steps",
            Self::WallTime => "wall time of many steps in one submission",
        }
    }
}

/// The fastest copy kernel of an adapter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Copy {
    /// Bytes read and written per second, in the median over the whole run.
    pub gigabytes_per_second: f64,
    /// Bytes of the tensor that was copied.
    pub bytes: u64,
    /// Invocations per workgroup.
    pub workgroup_size: u32,
    /// Workgroups.
    pub workgroups: u32,
}

/// The figures of one operation on one shape with one plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The operation.
    pub operation: Operation,
    /// Dimensions of x.
    pub dims: Vec<usize>,
    /// `channels_first` or `channels_last`.
    pub layout: String,
    /// Bytes of x.
    pub bytes: u64,
    /// Whether this is the plan that the library chooses by itself.
    pub chosen: bool,
    /// Names of the kernels in the order of their dispatches.
    pub kernels: Vec<String>,
    /// How they are laid out.
    pub plan: PlanFigures,
    /// Time of a step.
    pub microseconds: Timing,
    /// Host time to record a step.
    pub encode_microseconds: f64,
    /// On the bytes that the operation must move at the least.
    pub gigabytes_per_second: f64,
    /// That over the copy kernel's speed, measured in turn with this row.
    pub fraction_of_copy: f64,
}

/// The numbers of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanFigures {
    /// `split`, `whole` or `resident`.
    pub strategy: Strategy,
    /// What a value is made of.
    pub geometry: Geometry,
    /// How a workgroup sums over its lanes.
    pub reduction: Reduction,
    /// Invocations per workgroup.
    pub workgroup_size: u32,
    /// Workgroups of the first dispatch.
    pub workgroups: u32,
    /// Workgroups that share a column.
    pub splits: u32,
    /// Values that a lane holds; 0 but for `resident`.
    pub held: u32,
    /// Whether the second dispatch goes backwards.
    pub reverse: bool,
}

impl From<&Plan> for PlanFigures {
    fn from(plan: &Plan) -> Self {
        Self {
            strategy: plan.strategy,
            geometry: plan.geometry,
            reduction: plan.reduction,
            workgroup_size: plan.workgroup_size,
            workgroups: plan.columns.div_ceil(plan.tile) * plan.splits,
            splits: plan.splits,
            held: plan.held,
            reverse: plan.reverse,
        }
    }
}

/// Microseconds of one step.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Timing {
    /// The median of the samples.
    pub median: f64,
    /// Distance of the upper from the lower quartile.
    pub spread: f64,
    /// Steps per sample.
    pub steps: usize,
    /// Number of samples.
    pub samples: usize,
}

impl Row {
    /// Dimensions and layout as `Shape` writes them, such as `32x64x32x32 channels_first`.
    pub fn shape(&self) -> String {
        let dims: Vec<String> = self.dims.iter().map(usize::to_string).collect();
        format!("{} {}", dims.join("x"), self.layout)
    }
}

/// A shape's dimensions and layout as a row has them.
pub fn dims_and_layout(shape: &Shape) -> (Vec<usize>, String) {
    let layout = match shape.layout() {
        Layout::ChannelsFirst => "channels_first",
        Layout::ChannelsLast => "channels_last",
    };
    (shape.dims().to_vec(), layout.into())
}
