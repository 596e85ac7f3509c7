//! The files of a survey, as its steps write them and its summary reads them.

use super::step::Done;
use crate::bench::record::{BenchRow, Record, Timing};
use crate::output::replace;
use crate::{AnyError, names};
use batchnorm_wgpu::{DType, Operation};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The folder of the results.
pub struct SurveyFolder(PathBuf);

impl SurveyFolder {
    /// A folder that is made now, or an empty one.
    pub fn create(path: &Path) -> Result<Self, AnyError> {
        let failed = |error: std::io::Error| format!("cannot create {}: {error}", path.display());
        std::fs::create_dir_all(path).map_err(failed)?;
        if std::fs::read_dir(path).map_err(failed)?.next().is_some() {
            return Err(
                format!("{}: expected an empty folder, or none; name another with --out", path.display()).into()
            );
        }
        Ok(Self(path.to_owned()))
    }

    /// The path of one of its files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file as JSON.
    pub fn save(&self, name: &str, contents: &impl Serialize) -> Result<(), AnyError> {
        Ok(replace(&self.path(name), (serde_json::to_string_pretty(contents)? + "\n").as_bytes())?)
    }
}

/// What is in a JSON file; `None` where a step left none, or no whole one.
pub fn load<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// What the survey is of: `survey.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Survey {
    /// The day.
    pub date: String,
    /// Version of this project.
    pub version: String,
    /// Minutes that it was given.
    pub minutes: f64,
    /// The processor and its cores.
    pub processor: String,
    /// Variables of the environment that say which driver is loaded.
    pub environment: Vec<String>,
    /// Short name of the adapter.
    pub adapter: String,
    /// What `bn info --json` prints.
    pub adapters: Value,
    /// What `nvidia-smi` says of the card, where there is one.
    pub nvidia_smi: Option<String>,
    /// The version of PyTorch and its CUDA device, or why there is none.
    pub pytorch: String,
    /// What came of each step.
    pub steps: Vec<Done>,
}

/// The reports of `bn check`: `checks.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Checks {
    /// Golden cases.
    pub golden: Value,
    /// The cross-check.
    pub matrix: Value,
}

/// Times of ours and of others, taken in turn: `peers.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Peers {
    /// Ours, round by round.
    pub ours: Vec<Record>,
    /// Those of others, round by round.
    pub others: Vec<Vec<Peer>>,
}

/// One way of another library to compute batch norm, as `pytorch.py` writes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub peer: String,
    /// The library's version.
    pub version: String,
    /// What it ran on.
    pub adapter: String,
    /// Where the times come from.
    pub clock: String,
    /// What was not timed, and why.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The times.
    pub rows: Vec<PeerRow>,
}

/// The time of one operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerRow {
    /// Dimensions, channels first, such as `64x64x56x56`.
    pub shape: String,
    /// What x is stored in; absent for f32.
    #[serde(default)]
    pub dtype: Option<String>,
    /// The name of the operation.
    pub operation: String,
    /// Microseconds of a step.
    pub microseconds: Timing,
}

impl Peer {
    /// Whether its tensors are channels last in memory.
    fn is_channels_last(&self) -> bool {
        self.peer.ends_with("channels-last")
    }

    fn microseconds(&self, row: &BenchRow) -> Option<f64> {
        let mut dims = row.dims.clone();
        if row.layout == "channels_last" {
            dims[1..].rotate_right(1);
        }
        // Others have no views.
        if !row.views.is_empty() {
            return None;
        }
        // Without positions both layouts are one.
        if dims.len() > 2 && self.is_channels_last() != (row.layout == "channels_last") {
            return None;
        }
        let shape = dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        let dtype = |own: &PeerRow| own.dtype.as_deref().map_or(Ok(DType::F32), names::dtype) == Ok(row.dtype);
        let same = |own: &&PeerRow| own.shape == shape && own.operation == row.operation.name() && dtype(own);
        self.rows.iter().find(same).map(|own| own.microseconds.median)
    }
}

impl Peers {
    /// The fastest of the others on the operation, shape, layout and dtype of a row: its name, and its time over ours. Both
    /// are means over the rounds.
    pub fn best(&self, row: &BenchRow) -> Option<(String, f64)> {
        let mean = |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
        let rounds = self.ours.iter().filter_map(|record| find(record, row)).map(|row| row.microseconds.median);
        let ours = mean(rounds.collect())?;
        let mut names: Vec<&str> = self.others.iter().flatten().map(|peer| peer.peer.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let time_of = |name: &str| {
            let peers = self.others.iter().flatten().filter(|peer| peer.peer == name);
            mean(peers.filter_map(|peer| peer.microseconds(row)).collect())
        };
        let times = names.into_iter().filter_map(|name| Some((name.to_owned(), time_of(name)? / ours)));
        times.min_by(|(_, one), (_, other)| one.total_cmp(other))
    }
}

/// The row of the chosen plan for the operation, shape and dtype of another.
pub fn find<'a>(record: &'a Record, like: &BenchRow) -> Option<&'a BenchRow> {
    record.rows.iter().find(|row| row.chosen && same(row, like))
}

/// Whether two rows are of one operation on one shape and dtype.
pub fn same(one: &BenchRow, other: &BenchRow) -> bool {
    (one.operation, one.case()) == (other.operation, other.case())
}

/// The chosen rows of an operation, in order.
pub fn chosen(record: &Record, operation: Operation) -> impl Iterator<Item = &BenchRow> {
    record.rows.iter().filter(move |row| row.chosen && row.operation == operation)
}
