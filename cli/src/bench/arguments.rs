//! What `bn bench` is asked for.

use super::candidates::Others;
use super::fused;
use super::record::Fusion;
use super::subjects::{OPERATIONS, is_small};
use crate::AnyError;
use crate::adapter::AdapterArgs;
use crate::deadline::TimeLimit;
use crate::forced::Forced;
use crate::names::{dtype, operation};
use batchnorm_wgpu::{Choice, DType, Operation, RuntimeChecks, Shape};
use std::path::PathBuf;

/// Arguments of `bn bench`.
#[derive(clap::Args)]
pub struct BenchArgs {
    #[command(flatten)]
    pub(super) adapter: AdapterArgs,
    /// Time only the small shapes, with fewer samples
    #[arg(long)]
    pub(super) quick: bool,
    /// Time only these shapes, separated by commas, in this order: parts of the text of listed ones, such as `32x64` or
    /// `channels_last`, or a shape of your own. Each can have a layout and types of its own after colons, such as
    /// `8x5x5x3:channels_last:f16`, and views: `32x96x28x28:x=0/256` is the first 96 of 256 channels
    #[arg(long, value_name = "TEXTS")]
    pub(super) shapes: Option<String>,
    #[command(flatten)]
    pub(super) limit: TimeLimit,
    /// Also force every strategy, on the shapes whose text contains one of these, separated by commas; without a value on
    /// all shapes
    #[arg(long, value_name = "TEXTS", num_args = 0..=1, default_missing_value = "")]
    strategies: Option<String>,
    /// Time only this operation, such as forward_training
    #[arg(long, value_name = "NAME", value_parser = operation)]
    operation: Option<Operation>,
    /// The type of tensors: f32, f16, bf16 or several, separated by commas, which are timed on the same values
    #[arg(long, value_name = "LIST", value_parser = dtype, value_delimiter = ',', default_value = "f32")]
    dtype: Vec<DType>,
    /// Also time relu(bn(x)) and relu(bn(x) + residual), in one step and in separate passes
    #[arg(long)]
    pub(super) fused: bool,
    /// Time every kernel that can run, not only the one that the plan chooses; for small shapes
    #[arg(long)]
    kernels: bool,
    #[command(flatten)]
    forced: Forced,
    /// Choose plans by a tuning file that `bn tune` wrote
    #[arg(long, value_name = "FILE")]
    pub(super) tuning: Option<PathBuf>,
    /// The checks that compiled kernels make while they run
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = CheckLevel::Safe)]
    pub(super) runtime_checks: CheckLevel,
    /// Write the record as JSON to FILE, or to standard output
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub(super) json: Option<PathBuf>,
    /// Write the record to DIR/ADAPTER/DATE.json, for `bn report`
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "benches/records")]
    #[arg(conflicts_with_all = ["tuning", "runtime_checks"])]
    pub(super) record: Option<PathBuf>,
}

/// What compiled kernels check while they run.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum CheckLevel {
    /// wgpu's checks of bounds and loops; workgroup memory is not zeroed, since every kernel writes before it reads
    Safe,
    /// The same, with workgroup memory zeroed
    All,
    /// The same as safe, without checks of bounds
    NoBounds,
    /// The same as safe, without counters that end loops
    NoLoopBounding,
    /// No checks
    None,
}

impl CheckLevel {
    /// As the library takes them.
    pub fn options(self) -> RuntimeChecks {
        let safe = RuntimeChecks::default();
        match self {
            Self::Safe => safe,
            Self::All => RuntimeChecks { zero_workgroup_memory: true, ..safe },
            Self::NoBounds => RuntimeChecks { bounds: false, ..safe },
            Self::NoLoopBounding => RuntimeChecks { loop_bounding: false, ..safe },
            Self::None => RuntimeChecks { bounds: false, loop_bounding: false, ..safe },
        }
    }
}

impl BenchArgs {
    /// What is forced for tensors of a dtype. A storage is forced on those of its own.
    pub fn choice(&self, dtype: DType) -> Choice {
        self.forced.choice(dtype)
    }

    /// What else than the chosen plan is timed on a shape.
    pub fn others(&self, shape: &Shape) -> Others {
        let text = shape.to_string();
        let named = |texts: &String| texts.split(',').any(|part| text.contains(part));
        match self.strategies.as_ref().is_some_and(named) {
            _ if self.kernels && is_small(shape) => Others::Kernels,
            true => Others::Strategies,
            false => Others::None,
        }
    }

    /// The operations that are timed.
    pub fn operations(&self) -> Vec<Operation> {
        self.operation.map_or(OPERATIONS.to_vec(), |one| vec![one])
    }

    /// What is fused, and how; nothing unless asked for.
    pub fn fusions(&self) -> Vec<(Operation, Fusion)> {
        let operations = self.operations().into_iter().filter(|operation| fused::OPERATIONS.contains(operation));
        let all = operations.flat_map(|operation| Fusion::ALL.map(|fusion| (operation, fusion)));
        if self.fused { all.collect() } else { Vec::new() }
    }

    /// The dtypes, each once, in the order given.
    pub fn dtypes(&self) -> Result<Vec<DType>, AnyError> {
        let mut dtypes: Vec<DType> = Vec::new();
        for &dtype in &self.dtype {
            if !dtypes.contains(&dtype) {
                dtypes.push(dtype);
            }
        }
        match self.forced.idle_storage(&dtypes) {
            Some(storage) => Err(format!("--storage {storage} wants --dtype {}", storage.dtype()).into()),
            None => Ok(dtypes),
        }
    }
}
