//! What goes into an operation: which tensors, from where, and how they must look.

use super::source::{Files, FoundTensor, TensorSource};
use crate::activation::ActivationArgs;
use crate::{AnyError, names};
use batchnorm_wgpu::checkpoint::spellings;
use batchnorm_wgpu::{Average, Config, DType, Layout, Operation, RunningPolicy, RunningStatistics, Shape};
use batchnorm_wgpu_check::case::{Before, Inputs};
use batchnorm_wgpu_check::stored::{Dtype, file_dtype, layer_dtype, rounding};
use serde::Serialize;
use std::collections::HashSet;
use std::path::PathBuf;

/// Where the tensors are.
#[derive(clap::Args)]
#[command(next_help_heading = "Tensors, each FILE.npy, FILE.safetensors or FILE.safetensors:NAME")]
pub struct TensorArgs {
    /// The input, of rank 2 or more; every tensor of its shape has the same type as x
    #[arg(long, value_name = "FILE")]
    x: Option<TensorSource>,
    /// The gradient of y, for the backward operations
    #[arg(long, value_name = "FILE")]
    dy: Option<TensorSource>,
    /// The residual, which is added before the activation
    #[arg(long, value_name = "FILE")]
    residual: Option<TensorSource>,
    /// gamma, one value per channel [default: 1]
    #[arg(long, value_name = "FILE")]
    weight: Option<TensorSource>,
    /// beta, one value per channel [default: 0]
    #[arg(long, value_name = "FILE")]
    bias: Option<TensorSource>,
    /// The running mean, one value per channel [default in training: 0, as in a new layer]
    #[arg(long, value_name = "FILE")]
    running_mean: Option<TensorSource>,
    /// The running variance, one value per channel [default in training: 1, as in a new layer]
    #[arg(long, value_name = "FILE")]
    running_var: Option<TensorSource>,
    /// The number of batches in the running statistics, one whole number [default: 0]
    #[arg(long, value_name = "FILE")]
    num_batches_tracked: Option<TensorSource>,
    /// Take the tensors that are not given above from this .safetensors file, as far as the operation takes them and the file
    /// has them. gamma, beta, moving_mean and moving_variance are names too. A tensor of one value per channel that nothing
    /// takes is refused while weight or bias is absent
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
    /// The weight of the new batch in the running statistics, as in PyTorch, or `cumulative`, PyTorch's None, for their mean
    /// over all batches
    #[arg(long, value_name = "NUMBER", value_parser = names::average, default_value = "0.1")]
    momentum: Average,
    /// Update the running variance with the biased variance of the batch, not with the unbiased one
    #[arg(long)]
    biased: bool,
    #[command(flatten)]
    activation: ActivationArgs,
    /// Round tensors to f32, f16 or bf16, and parameters to f32. Without it nothing is rounded, and tensors that need
    /// rounding are refused
    #[arg(long, value_name = "NAME", value_parser = names::dtype)]
    dtype: Option<DType>,
}

impl LayerArgs {
    fn config(&self, dtype: DType) -> Config {
        let policy = RunningPolicy { average: self.momentum, ..RunningPolicy::default() };
        let running = if self.biased { policy.biased() } else { policy };
        self.activation.applied_to(Config { eps: self.eps, running, dtype, ..Config::default() })
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
    fn source(&self, input: &str) -> Option<&TensorSource> {
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

/// What went in, and what is to be said of it.
#[derive(Debug, Default, Serialize)]
pub struct Taken {
    /// What went in.
    pub inputs: Vec<Input>,
    /// Names in the file of `--from`, below the prefix, that nothing took.
    pub unused: Vec<String>,
    /// What makes results worthless that are correct.
    pub warnings: Vec<String>,
}

impl Taken {
    /// Says what nothing took.
    pub fn print_unused(&self) {
        const SHOWN: usize = 12;
        let count = self.unused.len();
        let more = if count > SHOWN { format!(" and {} more", count - SHOWN) } else { String::new() };
        if count > 0 {
            println!("not used: {}{more}", self.unused[..count.min(SHOWN)].join(", "));
        }
    }
}

/// Reads and checks everything that an operation takes.
///
/// # Errors
/// A tensor that is missing, not taken by the operation, or of another shape or type than it must have; a damaged file; what
/// [`Config::check`] refuses; a tensor that looks like a parameter and that nothing took.
pub fn read(operation: Operation, tensors: &TensorArgs, layer: &LayerArgs) -> Result<(Inputs, Taken), AnyError> {
    let mut reader =
        InputReader { operation, tensors, files: Files::default(), taken: Taken::default(), from: HashSet::new() };
    reader.refuse_unused()?;
    layer.activation.check()?;
    let x = match reader.take("x")? {
        Some(x) => x,
        None => return Err(reader.missing("x")),
    };
    let rounds = layer.dtype.is_some();
    let dtype = layer.dtype.or(layer_dtype(x.found.place.dtype)).ok_or_else(|| x.needs_rounding("F32, F16 or BF16"))?;
    let shape = Shape::new(&x.found.place.dims, layer.layout).map_err(|error| format!("{}: {error}", x.place))?;
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
    reader.look_at_the_rest(shape.channels())?;
    reader.warn(&running);
    Ok((Inputs { shape, config, x, dy, residual, gamma, beta, running, before: Before::default() }, reader.taken))
}

/// Reads tensors as the operation asks for them.
struct InputReader<'a> {
    operation: Operation,
    tensors: &'a TensorArgs,
    files: Files,
    taken: Taken,
    /// Names that the file of `--from` gave.
    from: HashSet<String>,
}

impl InputReader<'_> {
    /// An option that would have no effect is a mistake.
    fn refuse_unused(&self) -> Result<(), AnyError> {
        let unused = |name: &&&str| need(self.operation, name) == Need::Unused && self.tensors.source(name).is_some();
        let Some(name) = NAMES.iter().find(unused) else { return Ok(()) };
        let taken = taken(self.operation).join(", ");
        Err(format!("{}: not an input of {}, which takes {taken}", option(name), self.operation).into())
    }

    /// A tensor that the operation takes; `None` where it is not given and need not be.
    fn take(&mut self, name: &'static str) -> Result<Option<InputTensor>, AnyError> {
        let found = match need(self.operation, name) {
            Need::Unused => None,
            Need::Optional => self.find(name)?,
            Need::Required => match self.find(name)? {
                None => return Err(self.missing(name)),
                found => found,
            },
        };
        Ok(found.map(|found| {
            let FoundTensor { source, place } = &found;
            let (dtype, shape) = (format!("{:?}", place.dtype), place.dims.clone());
            self.taken.inputs.push(Input { name, source: source.to_string(), dtype, shape });
            InputTensor { place: format!("{name} ({source})"), found }
        }))
    }

    /// The tensor of an option, or else of the file of `--from`.
    fn find(&mut self, name: &'static str) -> Result<Option<FoundTensor>, AnyError> {
        if let Some(source) = self.tensors.source(name) {
            let found = self.files.tensor(source, name).map_err(|error| format!("{}: {error}", option(name)))?;
            return Ok(Some(found));
        }
        let Some(file) = &self.tensors.from else { return Ok(None) };
        let found = self.files.find(file, &self.tensors.prefix, name)?;
        if let Some(FoundTensor { source: TensorSource::Safetensors { name: Some(name), .. }, .. }) = &found {
            self.from.insert(name.clone());
        }
        Ok(found)
    }

    /// The error for a tensor that the operation needs and nothing gives.
    fn missing(&mut self, name: &str) -> AnyError {
        let wanted = format!("{} needs {name}: give {} FILE", self.operation, option(name));
        let Some(file) = &self.tensors.from else { return wanted.into() };
        let full = format!("{}{name}", self.tensors.prefix);
        let said = self.files.names(file, &full).and_then(|names| {
            let hint = self.files.separator_hint(file, &self.tensors.prefix)?;
            Ok(format!("{wanted}; {} has no tensor {full:?}, it has {names}{hint}", file.display()))
        });
        said.map_or_else(|error| error, Into::into)
    }

    /// A file that gave nothing has other names than was thought: without it gamma would be 1, unnoticed.
    fn refuse_useless_file(&mut self) -> Result<(), AnyError> {
        let Some(file) = self.tensors.from.as_ref().filter(|_| self.from.is_empty()) else { return Ok(()) };
        let prefix = &self.tensors.prefix;
        let (names, hint) =
            (self.files.names(file, &format!("{prefix}weight"))?, self.files.separator_hint(file, prefix)?);
        let taken = taken(self.operation).join(", ");
        Err(format!("--from {}: expected {prefix:?} and one of {taken}; it has {names}{hint}", file.display()).into())
    }

    /// Lists what nothing took, and refuses it where it leaves a parameter out: a gamma of an unknown name would be 1, unnoticed.
    fn look_at_the_rest(&mut self, channels: usize) -> Result<(), AnyError> {
        let Some(file) = &self.tensors.from else { return Ok(()) };
        let prefix = self.tensors.prefix.as_str();
        let header = self.files.header(file)?;
        let rest = |name: &String| name.starts_with(prefix) && !self.from.contains(name);
        self.taken.unused = header.names().into_iter().filter(rest).collect();
        let absent = ["weight", "bias"].into_iter().find(|name| {
            need(self.operation, name) == Need::Optional && self.taken.inputs.iter().all(|input| input.name != *name)
        });
        let Some(absent) = absent else { return Ok(()) };
        let is_parameter = |full: &&String| {
            let name = &full[prefix.len()..];
            let per_channel = header.place(full).is_some_and(|place| place.dims == [channels]);
            // Without a prefix all layers of a network are below it.
            per_channel && !is_known(name) && !(prefix.is_empty() && name.contains(['.', '/']))
        };
        match self.taken.unused.iter().find(is_parameter) {
            None => Ok(()),
            Some(left) => Err(format!(
                "{}: {absent} is absent, and {left}, which has one value per channel, is taken by nothing; if it is the {absent}, \
                 give {} {}:{left}; if not, give a narrower --prefix or the tensors one by one",
                file.display(),
                option(absent),
                file.display()
            )
            .into()),
        }
    }

    /// Says what makes results worthless that agree with the reference.
    fn warn(&mut self, running: &RunningStatistics) {
        let given = |name: &str| self.taken.inputs.iter().find(|input| input.name == name);
        let mut warnings = Vec::new();
        if let Some((name, channel, value)) = running.first_unusable()
            && let Some(Input { source, .. }) = given(name)
        {
            let expected = if name == "running_var" { "finite values of at least 0" } else { "finite values" };
            warnings.push(format!(
                "{name} ({source}): expected {expected}, got {value} in channel {channel}; results that depend on it mean nothing"
            ));
        }
        let counts = need(self.operation, "num_batches_tracked") != Need::Unused;
        if counts && running.tracked.contains(&u32::MAX) {
            let full = u32::MAX;
            warnings.push(format!("num_batches_tracked is full at {full}: it stays so, and this batch is not counted"));
        }
        self.taken.warnings = warnings;
    }
}

/// Whether a name is that of an input or of a result, and so of no parameter that was left out.
fn is_known(name: &str) -> bool {
    let result = |operation| super::outputs::names(operation).contains(&name);
    NAMES.iter().any(|input| spellings(input).contains(&name)) || Operation::ALL.into_iter().any(result)
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
struct InputTensor {
    place: String,
    found: FoundTensor,
}

impl InputTensor {
    fn dtype(&self) -> Dtype {
        self.found.place.dtype
    }

    fn needs_rounding(&self, expected: &str) -> AnyError {
        format!(
            "{}: expected elements of {expected}, got {:?}; convert them (numpy: .astype(numpy.float32)), or round with --dtype",
            self.place,
            self.dtype()
        )
        .into()
    }

    /// The values, in the shape of x, as tensors of the layer store them.
    fn like_x(self, shape: &Shape, dtype: DType, rounds: bool) -> Result<Vec<f32>, AnyError> {
        self.check_shape(shape.dims(), "the shape of x")?;
        let wanted = file_dtype(dtype);
        match layer_dtype(self.dtype()) == Some(dtype) || rounds {
            true => self.values(wanted),
            false => Err(self.needs_rounding(&format!("{wanted:?}, as x has"))),
        }
    }

    /// The values of a parameter, which every type of tensors widens to.
    fn per_channel(self, shape: &Shape, rounds: bool) -> Result<Vec<f32>, AnyError> {
        self.check_shape(&[shape.channels()], &format!("one value per channel of {shape}"))?;
        match layer_dtype(self.dtype()).is_some() || rounds {
            true => self.values(Dtype::F32),
            false => Err(self.needs_rounding("F32, F16 or BF16")),
        }
    }

    fn check_shape(&self, expected: &[usize], meaning: &str) -> Result<(), AnyError> {
        let actual = &self.found.place.dims;
        match actual == expected {
            true => Ok(()),
            false => Err(format!("{}: expected {expected:?}, {meaning}, got {actual:?}", self.place).into()),
        }
    }

    fn values(self, dtype: Dtype) -> Result<Vec<f32>, AnyError> {
        let round = rounding(dtype).ok_or_else(|| self.needs_rounding("F32, F16 or BF16"))?;
        // One NaN for all: among their bits are those that mark what a kernel did not write.
        self.found.values(|value| if value.is_nan() { f32::NAN } else { round(value) as f32 })
    }

    /// A count: a scalar, or an array of one as some exporters make of it, of any type that is read.
    fn count(&self) -> Result<u32, AnyError> {
        let expected = "one whole number from 0 to 4294967295";
        let (dtype, dims) = (self.dtype(), &self.found.place.dims);
        if !matches!(dims.as_slice(), [] | [1]) {
            return Err(format!("{}: expected {expected}, got {dtype:?} {dims:?}", self.place).into());
        }
        match self.found.values(|value| value)?.as_slice() {
            // An f64 holds every u32.
            &[count] if (0.0..=f64::from(u32::MAX)).contains(&count) && count.fract() == 0.0 => Ok(count as u32),
            other => Err(format!("{}: expected {expected}, got {other:?}", self.place).into()),
        }
    }
}
