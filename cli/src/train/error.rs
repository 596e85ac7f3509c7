//! Why `bn train` could not do its work.

use super::data::DataError;
use crate::output::OutputError;
use std::{fmt, io, path::PathBuf};

/// Why `bn train` could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The data cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The library refused a call.
    #[error(transparent)]
    BatchNorm(#[from] batchnorm_wgpu::Error),
    /// The training set is smaller than one batch.
    #[error("--batch: expected at most {images}, the number of training images in {source_name}, found {batch}")]
    Batch {
        /// Where the images come from.
        source_name: String,
        /// How many there are.
        images: usize,
        /// The batch asked for.
        batch: usize,
    },
    /// The device allows less than is needed.
    #[error("{what}: needs {needed}, the device allows {allowed}; use a smaller --batch or less --data")]
    Limit {
        /// What exceeds the limit.
        what: String,
        /// What is needed.
        needed: u64,
        /// What the device allows.
        allowed: u64,
    },
    /// The device failed.
    #[error("the device failed while {during}: {reason}")]
    Device {
        /// What was going on.
        during: &'static str,
        /// What wgpu said.
        reason: String,
    },
    /// The numbers left the range of f32, and a check of NaN against NaN would prove nothing.
    #[error("the network with batch norm diverged: its loss is {loss}; use a smaller --learning-rate than {rate}")]
    Diverged {
        /// The last epoch's mean loss.
        loss: f64,
        /// The learning rate asked for.
        rate: f64,
    },
    /// A checkpoint cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A checkpoint is damaged or holds other tensors than the networks have.
    #[error("{}: {source}", file.display())]
    Checkpoint {
        /// Which file.
        file: PathBuf,
        /// What the library said.
        source: batchnorm_wgpu::Error,
    },
    /// A checkpoint holds running statistics that inference cannot use.
    #[error(
        "{}: {name}: expected running statistics that are finite, and variances of at least 0, found {value} in channel \
         {channel}; inference by them gives NaN or nonsense: the training that wrote them diverged, or the file is damaged",
        file.display()
    )]
    Statistics {
        /// Which file.
        file: PathBuf,
        /// Which tensor.
        name: String,
        /// The first channel that is wrong.
        channel: usize,
        /// What it has.
        value: f32,
    },
    /// A network gives no loss, and its accuracy is a coincidence.
    #[error(
        "{}: the loss of the network {network} on the test images is {loss}: its weights hold NaN or numbers too large for f32, \
         and its accuracy says nothing",
        file.display()
    )]
    NoLoss {
        /// Which file.
        file: PathBuf,
        /// Which network.
        network: &'static str,
        /// What came instead of a loss.
        loss: f64,
    },
    /// A checkpoint has no training state that fits its tensors.
    #[error(
        "{}: expected the training state that `bn train --save` writes beside the networks, found {found}; only --evaluate \
         does without it",
        file.display()
    )]
    Training {
        /// Which file.
        file: PathBuf,
        /// What was found instead.
        found: String,
    },
    /// A checkpoint is of a run with other settings.
    #[error(
        "{}: expected the settings of the run to be resumed, found that {}; repeat its options",
        file.display(),
        differences.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    Settings {
        /// Which file.
        file: PathBuf,
        /// What differs.
        differences: Vec<Difference>,
    },
    /// A file cannot be written, or exists.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The figures cannot be turned into JSON.
    #[error("the figures cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// A setting that two runs do not share.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// The option.
    pub option: String,
    /// What it was in the saved run.
    pub saved: String,
    /// What it is now.
    pub asked: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { option, saved, asked } = self;
        write!(f, "{option} was {saved} and is {asked}")
    }
}
