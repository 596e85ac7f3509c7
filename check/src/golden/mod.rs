//! Golden cases, format `batchnorm-golden-1`: one `.safetensors` file holds the inputs of a call and what a trusted
//! implementation answered. The format is described in `tests/golden/README.md`.

mod read;
mod recipe;
mod run;
#[cfg(test)]
mod tests;
mod write;

pub use recipe::{Recipe, set};
pub use run::{GoldenOutcome, Judged};

use crate::case::{Inputs, Operation};
use crate::judge::widen;
use crate::run::RunError;
use crate::stored::Stored;
use batchnorm_wgpu::reference::{self, bound};
use batchnorm_wgpu::{Activation, DType, Error, Layout, VarianceEstimate};
use safetensors::Dtype;
use std::collections::BTreeMap;

/// The value of the key `format`.
const FORMAT: &str = "batchnorm-golden-1";
/// The value of the key `momentum` that is no number.
const CUMULATIVE: &str = "cumulative";
/// Values of the key `mode`, by the forward pass that they stand for.
pub const MODES: [(&str, Operation); 2] = [("train", Operation::ForwardTraining), ("eval", Operation::Inference)];
/// Values of the key `layout`.
pub const LAYOUTS: [(&str, Layout); 2] =
    [("channels_first", Layout::ChannelsFirst), ("channels_last", Layout::ChannelsLast)];
/// Values of the key `activation`.
pub const ACTIVATIONS: [(&str, Activation); Activation::ALL.len()] = [
    ("none", Activation::None),
    ("relu", Activation::Relu),
    ("leaky_relu", Activation::LeakyRelu),
    ("relu6", Activation::Relu6),
    ("silu", Activation::Silu),
];
/// Values of the key `running_var`.
pub const VARIANCES: [(&str, VarianceEstimate); 2] =
    [("unbiased", VarianceEstimate::Unbiased), ("biased", VarianceEstimate::Biased)];
/// Bytes of the largest file that is read.
const LARGEST: u64 = 1 << 30;

/// A golden case.
#[derive(Clone, Debug, PartialEq)]
pub struct Golden {
    inputs: Inputs,
    /// The forward pass.
    mode: Operation,
    /// Whether there is a backward pass; without one `inputs.dy` is 0.
    gradient: bool,
    /// By the name of the output.
    answers: BTreeMap<&'static str, Stored>,
    tolerance: Option<Tolerance>,
    source: String,
}

/// A case's own tolerance.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tolerance {
    /// Times the value wanted.
    relative: f64,
    /// Times the largest value wanted, but at least times 1.
    absolute: f64,
}

/// An output that a case may hold an answer for.
struct GoldenOutput {
    name: &'static str,
    extent: OutputExtent,
    needs: Needs,
}

/// How many values an output has.
#[derive(Clone, Copy, PartialEq)]
enum OutputExtent {
    /// The shape of x.
    Tensor,
    /// One for each channel.
    Channels,
    /// One.
    One,
}

/// What a case must have for an output to exist.
#[derive(Clone, Copy)]
enum Needs {
    Nothing,
    Training,
    Gradient,
    Residual,
}

/// Every output, in the order of the format's description.
const OUTPUTS: [GoldenOutput; 10] = {
    const fn output(name: &'static str, extent: OutputExtent, needs: Needs) -> GoldenOutput {
        GoldenOutput { name, extent, needs }
    }
    [
        output("y", OutputExtent::Tensor, Needs::Nothing),
        output("batch_mean", OutputExtent::Channels, Needs::Training),
        output("batch_var", OutputExtent::Channels, Needs::Training),
        output("running_mean", OutputExtent::Channels, Needs::Nothing),
        output("running_var", OutputExtent::Channels, Needs::Nothing),
        output("num_batches_tracked", OutputExtent::One, Needs::Nothing),
        output("dx", OutputExtent::Tensor, Needs::Gradient),
        output("dweight", OutputExtent::Channels, Needs::Gradient),
        output("dbias", OutputExtent::Channels, Needs::Gradient),
        output("dresidual", OutputExtent::Tensor, Needs::Residual),
    ]
};

impl GoldenOutput {
    /// The output of that name.
    fn named(name: &str) -> Option<&'static Self> {
        OUTPUTS.iter().find(|output| output.name == name)
    }
}

impl Golden {
    /// Refuses what is a case, but not one that the library does.
    fn check_supported(&self) -> Result<(), Problem> {
        let Inputs { shape, x, config, .. } = &self.inputs;
        config.check().map_err(|error| Problem::Unsupported(error.to_string()))?;
        if !self.mode.trains() {
            return Ok(());
        }
        shape.check_trainable().map_err(|error| Problem::Unsupported(error.to_string()))?;
        if self.inputs.running.tracked.contains(&u32::MAX) {
            return Err(Problem::Unsupported(format!("{} batches tracked leave no room for this one", u32::MAX)));
        }
        let x = widen(x);
        let statistics = reference::statistics(&x, shape)?;
        match bound::overflows(&x, shape, &bound::Execution::default())?.into_iter().position(|overflows| overflows) {
            None => Ok(()),
            Some(channel) => Err(Problem::Unsupported(format!(
                "the variance of channel {channel}, {:.2e}, times its {} values exceeds what an f32 holds",
                statistics.var[channel], statistics.count
            ))),
        }
    }

    /// What an output needs and the case does not have, in words.
    fn lacks(&self, needs: Needs) -> Option<&'static str> {
        let residual = self.gradient && self.inputs.residual.is_some();
        match needs {
            Needs::Training if !self.mode.trains() => Some("mode train"),
            Needs::Gradient if !self.gradient => Some("a tensor dy"),
            Needs::Residual if !residual => Some("tensors dy and residual"),
            _ => None,
        }
    }
}

/// Why a file is no golden case that can be run.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct GoldenError {
    /// The file.
    pub file: String,
    /// What is the matter with it.
    pub problem: Problem,
}

/// What is the matter with a golden case.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// It is no safetensors file, or none that is whole.
    #[error(transparent)]
    File(Error),
    /// The file is not what it should be.
    #[error("{what}: expected {expected}, got {actual}")]
    Wrong {
        /// Which key or tensor.
        what: String,
        /// What it must be.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// The case asks for what the library does not do.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// The case was run, and there is no result to judge.
    #[error(transparent)]
    Run(RunError),
}

impl Problem {
    fn wrong(what: &str, expected: impl Into<String>, actual: impl Into<String>) -> Self {
        Self::Wrong { what: what.into(), expected: expected.into(), actual: actual.into() }
    }
}

impl From<RunError> for Problem {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Library(Error::Limit { .. }) => Self::Unsupported(error.to_string()),
            error => Self::Run(error),
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        RunError::from(error).into()
    }
}

/// What a file calls a dtype.
fn stored_as(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
    }
}
