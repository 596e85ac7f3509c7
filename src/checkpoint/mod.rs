//! Checkpoints: parameters and running statistics in `.safetensors` files, under PyTorch's names. Feature `checkpoint`.
//!
//! These are the tensors of a layer of C channels. Their names follow a prefix: `layer1.0.bn1.weight` has the prefix
//! `layer1.0.bn1.`, and `layer1.0.bn1` means the same, since a dot is added to a prefix that ends in a letter or a digit. Other
//! frameworks' names are read where PyTorch's are absent.
//!
//! | name | also read | type | shape | here |
//! |---|---|---|---|---|
//! | `weight` | `gamma` (Burn, Gluon, Keras) | F32 | `[C]` | gamma |
//! | `bias` | `beta` | F32 | `[C]` | beta |
//! | `running_mean` | `moving_mean` (Keras) | F32 | `[C]` | [`RunningStatistics::mean`] |
//! | `running_var` | `moving_variance` | F32 | `[C]` | [`RunningStatistics::var`] |
//! | `num_batches_tracked` | | I64 | `[]` | [`RunningStatistics::tracked`] |
//!
//! A [`Writer`] collects the layers and other tensors of a network and gives the bytes of a file, which PyTorch's
//! `load_state_dict` takes as they are. A [`Reader`] gives them back. It also reads F16 and BF16, whose values f32 holds
//! exactly. F64 is refused, since rounding would lose what the file says: convert it with PyTorch's `.float()`. The count may
//! have the shape `[1]` and any type that holds it, as in files that were converted as a whole.
//!
//! PyTorch has no names for the other fields of [`RunningStatistics`], and a tensor more would make it refuse the file. They
//! come back as [`RunningStatistics::from_mean_var`] sets them. Who wants to go on training as if nothing had been between
//! keeps them apart, for instance in the file's metadata, as `bn train --save` does.
//!
//! ```
//! use batchnorm_wgpu::RunningStatistics;
//! use batchnorm_wgpu::checkpoint::{LayerState, Parts, Reader, Writer};
//!
//! # fn main() -> batchnorm_wgpu::Result<()> {
//! let layer = LayerState {
//!     gamma: Some(vec![1.0, 2.0]),
//!     beta: Some(vec![0.0, -1.0]),
//!     running: Some(RunningStatistics::from_mean_var(&[0.5, 3.0], &[1.0, 4.0], 100)?),
//! };
//! let mut file = Writer::default();
//! file.tensor("conv1.weight", &[2, 1, 1, 1], &[0.25, 0.75])?;
//! file.layer("bn1.", &layer)?;
//! let bytes = file.serialize()?; // std::fs::write("model.safetensors", &bytes)
//!
//! let mut file = Reader::new(&bytes)?;
//! let weight = file.tensor("conv1.weight", &[2, 1, 1, 1])?;
//! assert_eq!(file.layer("bn1.", 2, Parts::default())?, layer);
//! file.finish()?; // refuses tensors that nobody took
//!
//! let error = Reader::new(&bytes)?.layer("bn2.", 2, Parts::default()).unwrap_err();
//! assert_eq!(error.missing.len(), 5);
//! # Ok(())
//! # }
//! ```

mod foreign;
mod header;
#[cfg(feature = "host")]
mod host;
mod reader;
mod writer;

pub use foreign::Foreign;
pub use header::{Entry, Header};
pub use reader::{Parts, Reader};
pub use writer::Writer;

pub use crate::contents::{Contents, WrongTensor};
use crate::error::{Error, Result};
use crate::running::RunningStatistics;
use std::borrow::Cow;

/// PyTorch's name of gamma.
const GAMMA: &str = "weight";
/// PyTorch's name of beta.
const BETA: &str = "bias";
/// PyTorch's name of the running mean.
const MEAN: &str = "running_mean";
/// PyTorch's name of the running variance.
const VAR: &str = "running_var";
/// PyTorch's name of the number of training batches.
const TRACKED: &str = "num_batches_tracked";

/// Names that files may have for one of PyTorch's, itself first. A name that is none of a layer's has no other.
pub fn spellings(name: &str) -> Vec<&str> {
    let others: &[&str] = match name {
        GAMMA => &["gamma"],
        BETA => &["beta"],
        MEAN => &["moving_mean"],
        VAR => &["moving_variance"],
        _ => &[],
    };
    std::iter::once(name).chain(others.iter().copied()).collect()
}

/// A prefix as names begin with it: `bn1` with the dot of `bn1.weight`. One that ends in another character stays as it is, for
/// names such as Gluon's `batchnorm0_gamma`.
fn whole_prefix(prefix: &str) -> Cow<'_, str> {
    match prefix.ends_with(char::is_alphanumeric) {
        true => Cow::Owned(format!("{prefix}.")),
        false => Cow::Borrowed(prefix),
    }
}

/// What a layer of C channels keeps from one run to the next. What is absent has no tensor in the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerState {
    /// Scale, `[C]`; `None` for 1.
    pub gamma: Option<Vec<f32>>,
    /// Shift, `[C]`; `None` for 0.
    pub beta: Option<Vec<f32>>,
    /// Running statistics of C channels; `None` where they are not tracked.
    pub running: Option<RunningStatistics>,
}

impl LayerState {
    /// The tensors of shape `[C]`: PyTorch's names and the values.
    fn vectors(&self) -> impl Iterator<Item = (&'static str, &[f32])> {
        let running = self.running.as_ref();
        let vectors = [
            (GAMMA, self.gamma.as_deref()),
            (BETA, self.beta.as_deref()),
            (MEAN, running.map(|running| running.mean.as_slice())),
            (VAR, running.map(|running| running.var.as_slice())),
        ];
        vectors.into_iter().filter_map(|(name, values)| values.map(|values| (name, values)))
    }

    /// Refuses vectors that differ in length from `channels`.
    fn check(&self, channels: usize) -> Result<()> {
        match self.vectors().find(|(_, values)| values.len() != channels) {
            Some((name, values)) => Err(Error::Mismatch {
                name,
                expected: format!("{channels} values, one per channel"),
                actual: values.len().to_string(),
            }),
            None => Ok(()),
        }
    }
}
