//! What goes into an operation: which tensors, from where, and how they must look.

use super::source::{Files, Source};
use crate::{AnyError, names};
use batchnorm_wgpu::{Activation, Config, DType, Layout, Operation, RunningPolicy, RunningStatistics, Shape};
use batchnorm_wgpu_check::case::Inputs;
use batchnorm_wgpu_check::stored::{Dtype, Stored, file_dtype, layer_dtype};
use serde::Serialize;
use std::path::PathBuf;

/// Where the tensors are.
#[derive(clap::Args)]
#[command(next_help_heading = "Tensors, each FILE.npy, FILE.safetensors or FILE.safetensors:NAME")]
pub struct TensorArgs {
    /// The input, of rank 2 or more; every tensor of its shape has the same type as x
    #[arg(long, value_name = "FILE")]
    x: Option<Source>,
    /// The gradient of y, for the backward operations
    #[arg(long, value_name = "FILE")]
    dy: Option<Source>,
    /// The residual, which is added before the activation
    #[arg(long, value_name = "FILE")]
    residual: Option<Source>,
    /// gamma, one value per channel [default: 1]
    #[arg(long, value_name = "FILE")]
    weight: Option<Source>,
    /// beta, one value per channel [default: 0]
    #[arg(long, value_name = "FILE")]
    bias: Option<Source>,
    /// The running mean, one value per channel [default in training: 0, as in a new layer]
    #[arg(long, value_name = "FILE")]
    running_mean: Option<Source>,
    /// The running variance, one value per channel [default in training: 1, as in a new layer]
    #[arg(long, value_name = "FILE")]
    running_var: Option<Source>,
    /// The number of batches in the running statistics, one int64 [default: 0]
    #[arg(long, value_name = "FILE")]
    num_batches_tracked: Option<Source>,
    /// Take the tensors that are not given above from this .safetensors file, as far as the operation takes them and the file
    /// has them
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// The beginning of the names in the file of --from, such as layer1.0.bn1.
    #[arg(long, value_name = "TEXT", requires = "from", default_value = "")]
    prefix: String,
}

/// What is computed, apart from the tensors.
#[derive(clap::Args)]
#[command(next_help_heading = "Layer")]
pub struct LayerArgs {
    /// The dimension that counts the channels: channels_first (N, C, ...) or channels_last (N, ..., C)
    #[arg(long, value_name = "NAME", value_parser = names::layout, default_value = "channels_first")]
    layout: Layout,
    /// The number added to the variance
    #[arg(long, value_name = "NUMBER", default_value_t = 1e-5)]
    eps: f64,
    /// The weight of the new batch in the running statistics, as in PyTorch, or `cumulative` for their mean over all batches
    #[arg(long, value_name = "NUMBER", value_parser = policy, default_value = "0.1")]
    momentum: RunningPolicy,
    /// Update the running variance with the biased variance of the batch, not with the unbiased one
    #[arg(long)]
    biased: bool,
    /// The activation, applied last: none or relu
    #[arg(long, value_name = "NAME", value_parser = names::activation, default_value = "none")]
    activation: Activation,
    /// Round tensors to f32, f16 or bf16, and parameters to f32. Without it nothing is rounded, and tensors that need
    /// rounding are refused
    #[arg(long, value_name = "NAME", value_parser = names::dtype)]
    dtype: Option<DType>,
}

impl LayerArgs {
    fn config(&self, dtype: DType) -> Config {
        let running = if self.biased { self.momentum.biased() } else { self.momentum };
        Config { eps: self.eps, running, dtype, activation: self.activation, ..Config::default() }
    }
}

fn policy(text: &str) -> Result<RunningPolicy, String> {
    match text {
        "cumulative" => Ok(RunningPolicy::cumulative()),
        _ => text.parse().map(RunningPolicy::exponential).map_err(|_| "expected a number or cumulative".into()),
    }
}

/// The names of all inputs.
const NAMES: [&str; 8] =
    ["x", "dy", "residual", "weight", "bias", "running_mean", "running_var", "num_batches_tracked"];

/// Whether an operation takes an input.
#[derive(Clone, Copy, PartialEq)]
enum Need {
    Required,
    Optional,
    Unused,
}

fn need(operation: Operation, input: &str) -> Need {
    use Operation::{BackwardFrozen, BackwardTraining, ForwardTraining, Inference, Statistics};
    match (input, operation) {
        ("x", _) => Need::Required,
        ("dy", BackwardTraining | BackwardFrozen) => Need::Required,
        ("residual" | "weight" | "bias", Statistics) => Need::Unused,
        ("residual" | "weight" | "bias", _) => Need::Optional,
        ("running_mean" | "running_var", Inference | BackwardFrozen) => Need::Required,
        ("running_mean" | "running_var" | "num_batches_tracked", ForwardTraining | Statistics) => Need::Optional,
        _ => Need::Unused,
    }
}

impl TensorArgs {
    fn source(&self, input: &str) -> Option<&Source> {
        let options = [
            &self.x,
            &self.dy,
            &self.residual,
            &self.weight,
            &self.bias,
            &self.running_mean,
            &self.running_var,
            &self.num_batches_tracked,
        ];
        NAMES.iter().zip(options).find(|(name, _)| **name == input).and_then(|(_, option)| option.as_ref())
    }
}

/// A tensor that went in.
#[derive(Clone, Debug, Serialize)]
pub struct Input {
    /// Name of the input.
    pub name: &'static str,
    /// Where it came from.
    pub source: String,
    /// What its elements are there.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// Reads and checks everything that an operation takes.
///
/// # Errors
/// A tensor that is missing, not taken by the operation, or of another shape or type than it must have; a damaged file; what
/// [`Config::check`] refuses.
pub fn read(operation: Operation, tensors: &TensorArgs, layer: &LayerArgs) -> Result<(Inputs, Vec<Input>), AnyError> {
    let mut reader = Reader { operation, tensors, files: Files::default(), inputs: Vec::new(), from_has: false };
    reader.refuse_unused()?;
    let x = match reader.take("x")? {
        Some(x) => x,
        None => return Err(reader.missing("x")),
    };
    let rounds = layer.dtype.is_some();
    let dtype = layer.dtype.or(layer_dtype(x.stored.dtype)).ok_or_else(|| x.needs_rounding("F32, F16 or BF16"))?;
    let shape = Shape::new(&x.stored.dims, layer.layout).map_err(|error| format!("{}: {error}", x.place))?;
    let config = layer.config(dtype);
    config.check()?;
    let x = x.like_x(&shape, dtype, rounds)?;
    let mut like_x = |name| match reader.take(name)? {
        Some(tensor) => tensor.like_x(&shape, dtype, rounds).map(Some),
        None => Ok::<_, AnyError>(None),
    };
    let (dy, residual) = (like_x("dy")?.unwrap_or_default(), like_x("residual")?);
    let mut per_channel = |name| match reader.take(name)? {
        Some(tensor) => tensor.per_channel(&shape, rounds).map(Some),
        None => Ok::<_, AnyError>(None),
    };
    let (gamma, beta) = (per_channel("weight")?, per_channel("bias")?);
    let (mean, var) = (per_channel("running_mean")?, per_channel("running_var")?);
    let tracked = reader.take("num_batches_tracked")?.map_or(Ok(0), |tensor| tensor.count())?;
    let (mean, var) = match (mean, var) {
        (Some(mean), Some(var)) => (mean, var),
        (None, None) => (vec![0.0; shape.channels()], vec![1.0; shape.channels()]),
        (Some(_), None) => return Err(reader.missing("running_var")),
        (None, Some(_)) => return Err(reader.missing("running_mean")),
    };
    let running = RunningStatistics::from_mean_var(&mean, &var, tracked)?;
    reader.refuse_useless_file()?;
    Ok((Inputs { shape, config, x, dy, residual, gamma, beta, running }, reader.inputs))
}

/// Reads tensors as the operation asks for them.
struct Reader<'a> {
    operation: Operation,
    tensors: &'a TensorArgs,
    files: Files,
    /// What went in so far.
    inputs: Vec<Input>,
    /// Whether the file of `--from` had any of it.
    from_has: bool,
}

impl Reader<'_> {
    /// An option that would have no effect is a mistake.
    fn refuse_unused(&self) -> Result<(), AnyError> {
        let unused = |name: &&&str| need(self.operation, name) == Need::Unused && self.tensors.source(name).is_some();
        let Some(name) = NAMES.iter().find(unused) else { return Ok(()) };
        let taken = taken(self.operation).join(", ");
        Err(format!("{}: not an input of {}, which takes {taken}", option(name), self.operation).into())
    }

    /// A tensor that the operation takes; `None` where it is not given and need not be.
    fn take(&mut self, name: &'static str) -> Result<Option<Tensor>, AnyError> {
        let found = match need(self.operation, name) {
            Need::Unused => None,
            Need::Optional => self.find(name)?,
            Need::Required => match self.find(name)? {
                None => return Err(self.missing(name)),
                found => found,
            },
        };
        Ok(found.map(|(source, stored)| {
            let (dtype, shape) = (format!("{:?}", stored.dtype), stored.dims.clone());
            self.inputs.push(Input { name, source: source.to_string(), dtype, shape });
            Tensor { place: format!("{name} ({source})"), stored }
        }))
    }

    /// The tensor of an option, or else of the file of `--from`.
    fn find(&mut self, name: &'static str) -> Result<Option<(Source, Stored)>, AnyError> {
        if let Some(source) = self.tensors.source(name) {
            let source = source.clone().or_called(name);
            let stored = self.files.tensor(&source).map_err(|error| format!("{}: {error}", option(name)))?;
            return Ok(Some((source, stored)));
        }
        let Some(file) = &self.tensors.from else { return Ok(None) };
        let full = format!("{}{name}", self.tensors.prefix);
        let stored = self.files.find(file, &full)?;
        self.from_has |= stored.is_some();
        Ok(stored.map(|stored| (Source::Safetensors { file: file.clone(), name: Some(full) }, stored)))
    }

    /// The error for a tensor that the operation needs and nothing gives.
    fn missing(&mut self, name: &str) -> AnyError {
        let wanted = format!("{} needs {name}: give {} FILE", self.operation, option(name));
        let Some(file) = &self.tensors.from else { return wanted.into() };
        match self.files.names(file) {
            Ok(names) => {
                let full = format!("{}{name}", self.tensors.prefix);
                format!("{wanted}; {} has no tensor {full:?}, it has {names}", file.display()).into()
            }
            Err(error) => error,
        }
    }

    /// A file that gave nothing has other names than was thought: without it gamma would be 1, unnoticed.
    fn refuse_useless_file(&mut self) -> Result<(), AnyError> {
        let Some(file) = self.tensors.from.as_ref().filter(|_| !self.from_has) else { return Ok(()) };
        let (names, prefix) = (self.files.names(file)?, &self.tensors.prefix);
        let taken = taken(self.operation).join(", ");
        Err(format!("--from {}: expected {prefix:?} and one of {taken}; it has {names}", file.display()).into())
    }
}

/// The inputs that an operation takes.
fn taken(operation: Operation) -> Vec<&'static str> {
    NAMES.into_iter().filter(|name| need(operation, name) != Need::Unused).collect()
}

/// The option that gives an input.
fn option(input: &str) -> String {
    format!("--{}", input.replace('_', "-"))
}

/// A tensor and where it came from, for messages.
struct Tensor {
    place: String,
    stored: Stored,
}

impl Tensor {
    fn needs_rounding(&self, expected: &str) -> AnyError {
        let Self { place, stored } = self;
        format!(
            "{place}: expected elements of {expected}, got {:?}; convert them (numpy: .astype(numpy.float32)), or round \
             with --dtype",
            stored.dtype
        )
        .into()
    }

    /// The values, in the shape of x, as tensors of the layer store them.
    fn like_x(self, shape: &Shape, dtype: DType, rounds: bool) -> Result<Vec<f32>, AnyError> {
        self.check_shape(shape.dims(), "the shape of x")?;
        let wanted = file_dtype(dtype);
        match self.stored.dtype == wanted || rounds {
            true => self.values(wanted),
            false => Err(self.needs_rounding(&format!("{wanted:?}, as x has"))),
        }
    }

    /// The values of a parameter, which every type of tensors widens to.
    fn per_channel(self, shape: &Shape, rounds: bool) -> Result<Vec<f32>, AnyError> {
        self.check_shape(&[shape.channels()], &format!("one value per channel of {shape}"))?;
        match layer_dtype(self.stored.dtype).is_some() || rounds {
            true => self.values(Dtype::F32),
            false => Err(self.needs_rounding("F32, F16 or BF16")),
        }
    }

    fn check_shape(&self, expected: &[usize], meaning: &str) -> Result<(), AnyError> {
        match self.stored.dims == expected {
            true => Ok(()),
            false => {
                Err(format!("{}: expected {expected:?}, {meaning}, got {:?}", self.place, self.stored.dims).into())
            }
        }
    }

    fn values(self, dtype: Dtype) -> Result<Vec<f32>, AnyError> {
        let stored = if self.stored.dtype == dtype { self.stored } else { self.stored.rounded(dtype)? };
        // One NaN for all: among their bits are those that mark what a kernel did not write.
        let value = |value: f64| if value.is_nan() { f32::NAN } else { value as f32 };
        Ok(stored.values.into_iter().map(value).collect())
    }

    fn count(&self) -> Result<u32, AnyError> {
        let expected = "one I64 from 0 to 4294967295";
        match (self.stored.dtype, self.stored.values.as_slice()) {
            // An f64 holds every u32.
            (Dtype::I64, &[count]) if (0.0..=f64::from(u32::MAX)).contains(&count) => Ok(count as u32),
            (Dtype::I64, &[count]) => Err(format!("{}: expected {expected}, got {count}", self.place).into()),
            (dtype, _) => {
                Err(format!("{}: expected {expected}, got {dtype:?} {:?}", self.place, self.stored.dims).into())
            }
        }
    }
}
