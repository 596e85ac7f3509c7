//! What a run of `bn bench` found, as it is written to a file and read again by `bn report`.

use batchnorm_wgpu::kernels::{Geometry, Reduction};
use batchnorm_wgpu::{DType, Layout, Operation, Plan, Preference, Shape, View, Views};
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
    pub rows: Vec<BenchRow>,
    /// Fused steps beside separate passes; none where `--fused` was not asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fused: Vec<FusedRow>,
    /// What failed, and why, or was left out for want of time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_timed: Vec<String>,
}

impl Record {
    /// Whether nothing was timed.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.fused.is_empty()
    }
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
pub struct BenchRow {
    /// The operation.
    pub operation: Operation,
    /// Dimensions of x.
    pub dims: Vec<usize>,
    /// `channels_first` or `channels_last`.
    pub layout: String,
    /// Which tensors are channels of wider ones, such as `x=0/256`; empty where none is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub views: String,
    /// What tensors are stored in; f32 in records that do not say it.
    #[serde(default)]
    pub dtype: DType,
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

/// The numbers of a plan: what a tuning file would say of it, which has the workgroups of the first dispatch, and its splits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanFigures {
    /// How it goes about a column, and with how many workgroups in all.
    #[serde(flatten)]
    pub preference: Preference,
    /// Workgroups that share a column.
    pub splits: u32,
}

impl PlanFigures {
    /// Name of what a value is made of; a dash where a record does not say it.
    pub fn geometry(&self) -> &'static str {
        self.preference.choice.geometry.map_or("-", Geometry::name)
    }

    /// Name of how a workgroup sums over its lanes; a dash likewise.
    pub fn reduction(&self) -> &'static str {
        self.preference.choice.reduction.map_or("-", Reduction::name)
    }

    /// Values that a lane holds, where it holds any.
    pub fn held(&self) -> Option<u32> {
        self.preference.choice.held()
    }

    /// Whether the second dispatch goes backwards.
    pub fn reverse(&self) -> bool {
        self.preference.choice.reverse() == Some(true)
    }
}

impl From<&Plan> for PlanFigures {
    fn from(plan: &Plan) -> Self {
        Self { preference: plan.preference(), splits: plan.splits() }
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

/// What follows a batch norm in one step with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fusion {
    /// `relu(bn(x))`.
    Relu,
    /// `relu(bn(x) + residual)`.
    ReluResidual,
}

impl Fusion {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Relu, Self::ReluResidual];

    /// Name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Relu => "relu",
            Self::ReluResidual => "relu_residual",
        }
    }
}

/// A fused step beside the same work in separate passes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FusedRow {
    /// The operation.
    pub operation: Operation,
    /// Dimensions of x.
    pub dims: Vec<usize>,
    /// `channels_first` or `channels_last`.
    pub layout: String,
    /// As in a [`BenchRow`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub views: String,
    /// What tensors are stored in.
    pub dtype: DType,
    /// What is fused with the batch norm.
    pub fusion: Fusion,
    /// Time of the fused step.
    pub fused_microseconds: Timing,
    /// Time of the plain batch norm and an elementwise kernel.
    pub separate_microseconds: Timing,
    /// That over the fused step's time, measured in turn.
    pub separate_over_fused: f64,
    /// Tensors that the kernels of the fused step read and write.
    pub fused_moves: u32,
    /// Tensors that those of the separate passes do.
    pub separate_moves: u32,
}

impl BenchRow {
    /// Dimensions, layout and views as `Shape` writes them, such as `32x64x32x32 channels_first`.
    pub fn shape(&self) -> String {
        shape_name(&self.dims, &self.layout, &self.views)
    }

    /// That, and the dtype where it is not f32: what tells the rows of an operation apart.
    pub fn case(&self) -> String {
        let dtype = if self.dtype == DType::F32 { String::new() } else { format!(" {}", self.dtype) };
        self.shape() + &dtype
    }

    /// Nanoseconds of a step for each element of x.
    pub fn nanoseconds_per_element(&self) -> f64 {
        self.microseconds.median * 1e3 / self.dims.iter().map(|&it| it as f64).product::<f64>()
    }
}

impl FusedRow {
    /// Dimensions, layout and views as `Shape` writes them.
    pub fn shape(&self) -> String {
        shape_name(&self.dims, &self.layout, &self.views)
    }
}

fn shape_name(dims: &[usize], layout: &str, views: &str) -> String {
    let dims: Vec<String> = dims.iter().map(usize::to_string).collect();
    let space = if views.is_empty() { "" } else { " " };
    format!("{} {layout}{space}{views}", dims.join("x"))
}

/// A shape's dimensions, layout and views as a row has them.
pub fn parts(shape: &Shape) -> (Vec<usize>, String, String) {
    let layout = match shape.layout() {
        Layout::ChannelsFirst => "channels_first",
        Layout::ChannelsLast => "channels_last",
    };
    let Views { x, y, residual } = shape.views();
    let views = [("x", x), ("y", y), ("residual", residual)].into_iter();
    let views = views.filter_map(|(name, view)| view.map(|View { first, of }| format!("{name}={first}/{of}")));
    (shape.dims().to_vec(), layout.into(), views.collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn a_row_names_its_shape_as_the_library_does() {
        let views = Views { x: Some(View { first: 4, of: 9 }), y: None, residual: Some(View { first: 0, of: 5 }) };
        let plain = Shape::new(&[8, 5, 3], Layout::ChannelsLast).unwrap();
        for shape in [plain.clone().with_views(views).unwrap(), plain] {
            let (dims, layout, views) = parts(&shape);
            assert_eq!(shape_name(&dims, &layout, &views), shape.to_string());
        }
    }

    /// What was recorded long ago is read, and what is written has the same keys.
    #[test]
    fn plans_of_committed_records_survive() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/records");
        let files = walkdir::WalkDir::new(folder).into_iter().map(|entry| entry.unwrap().into_path());
        let mut rows = 0;
        for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "json")) {
            let text = std::fs::read_to_string(&file).unwrap();
            if text.contains(crate::compile::record::SCHEMA) {
                let _: crate::compile::record::CompilerRecord = serde_json::from_str(&text).unwrap();
                continue;
            }
            let (record, raw): (Record, Value) =
                (serde_json::from_str(&text).unwrap(), serde_json::from_str(&text).unwrap());
            for (row, raw) in record.rows.iter().zip(raw["rows"].as_array().unwrap()) {
                assert_eq!(serde_json::to_value(row.plan).unwrap(), raw["plan"], "{}", file.display());
                rows += 1;
            }
        }
        assert!(rows > 100, "{rows} rows");
    }
}
