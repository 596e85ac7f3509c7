//! `bn run`: one operation on the GPU over tensors of files.

mod inputs;
mod list;
mod outputs;
mod report;
mod skipped;
mod source;

use crate::adapter::AdapterArgs;
use crate::output::{Claim, ReportKind};
use crate::{AnyError, ExitStatus, names};
use batchnorm_wgpu::{Kernels, Operation};
use batchnorm_wgpu_check::case::Setup;
use batchnorm_wgpu_check::judge::expected;
use batchnorm_wgpu_check::run::{first_parts, run as run_on};
use inputs::{LayerArgs, TensorArgs};
use outputs::Target;
use report::{Held, ReportedOutput, RunReport};
use std::path::PathBuf;

const NOTES: &str = "\
Operations, their inputs (those in brackets can be left out) and their results, all named as in PyTorch:
  forward_training
    takes x [residual, weight, bias, running_mean, running_var,
      num_batches_tracked]
    gives y, batch_mean, batch_var (biased), running_mean, running_var,
      num_batches_tracked
  inference
    takes x, running_mean, running_var [residual, weight, bias]
    gives y
  backward_training
    takes x, dy [residual, weight, bias]: those of the forward pass
    gives dx, dweight, dbias, and dresidual where there is a residual
  backward_frozen (the gradients of inference)
    takes x, dy, running_mean, running_var [residual, weight, bias]
    gives dx, dweight, dbias, and dresidual where there is a residual
  statistics
    takes x [running_mean, running_var, num_batches_tracked]
    gives batch_mean, batch_var, running_mean, running_var,
      num_batches_tracked

Types: x, dy and the residual are all f32, all f16 or all bf16, and so are y, dx and dresidual. Parameters can be of any of \
these types. bool and integers of 8 and 16 bits are taken as the f32 that they are; wider integers and float64 are refused \
unless --dtype rounds them. Statistics and the gradients of parameters are written as f32, the number of batches as int64. \
A .npy file has no bf16, but what ml_dtypes writes (two bytes of no type) is read as bf16; .npz files are not read.

Files that exist are replaced only with --force; --add-to adds the results to a file and keeps what it has. A folder whose \
name has an ending is written with a slash after it.

Examples:
  bn run forward_training --x x.npy --weight gamma.npy --bias beta.npy --out one
  bn run inference --x x.npy --running-mean one/running_mean.npy \\
    --running-var one/running_var.npy --out y.safetensors
  bn run backward_training --from batch.safetensors --activation relu \\
    --out gradients --compare
  bn run inference --x x.npy --from resnet18.safetensors \\
    --prefix layer1.0.bn1. --compare
  bn run statistics --x images.npy --layout channels_last --json
  bn run --list resnet18.safetensors

Verdicts of --compare: *pass*, every element is within its bound (NaN or infinity as in float64 is counted); *FAILED*, one \
is not; *not representable*, an element is NaN or infinite, or a statistic stayed as it was, where float64 has a number, since \
f32 overflows on the way (a deviation beyond 1.8e19 / sqrt(values per channel) does); *no bound*, nothing is promised.

Exit codes: 0 done, 1 a result of --compare is FAILED or not representable, 2 wrong usage, a file that cannot be read or \
written, no adapter, or a failure of the device.";

/// Arguments of `bn run`.
#[derive(clap::Args)]
#[command(after_help = NOTES)]
pub struct RunArgs {
    /// forward_training, inference, backward_training, backward_frozen or statistics
    #[arg(value_parser = names::operation, required_unless_present = "list")]
    operation: Option<Operation>,
    /// Show names, types and shapes of the tensors in a .npy or .safetensors file, and run nothing
    #[arg(long, value_name = "FILE", conflicts_with = "operation")]
    list: Option<PathBuf>,
    #[command(flatten)]
    tensors: TensorArgs,
    #[command(flatten)]
    layer: LayerArgs,
    #[command(flatten)]
    run: OutputArgs,
}

/// Where it runs and what becomes of the results.
#[derive(clap::Args)]
#[command(next_help_heading = "Run")]
struct OutputArgs {
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Write the results to DIR/y.npy and so on, or all of them to FILE.safetensors. Files that exist are replaced only with
    /// --force
    #[arg(long, value_name = "DIR or FILE.safetensors")]
    out: Option<Target>,
    /// Write the results into a file that exists, beside the tensors that it has
    #[arg(long, value_name = "FILE.safetensors", conflicts_with = "out")]
    add_to: Option<PathBuf>,
    /// Compare every result with the float64 reference on the CPU, within the error bound of `bn check`
    #[arg(long)]
    compare: bool,
    /// Write a report of the run as JSON to FILE, or to standard output
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
}

/// What the reports look like, of a run and of `--list`.
const REPORT: ReportKind = ReportKind::Json(&["operation", "adapter", "outputs"]);
const LIST: ReportKind = ReportKind::Json(&["name", "dtype", "shape"]);

/// Runs an operation, or lists what a file holds.
pub fn run(arguments: &RunArgs) -> Result<ExitStatus, AnyError> {
    let RunArgs { operation, list, tensors, layer, run } = arguments;
    match (list, operation) {
        (Some(file), _) => list::run(file, Claim::report(run.json.as_deref(), LIST)?.as_ref()),
        (None, Some(operation)) => run_operation(*operation, tensors, layer, run),
        (None, None) => Err("expected an operation, or --list FILE".into()),
    }
}

fn run_operation(
    operation: Operation,
    tensors: &TensorArgs,
    layer: &LayerArgs,
    arguments: &OutputArgs,
) -> Result<ExitStatus, AnyError> {
    let OutputArgs { adapter, out, add_to, compare, json } = arguments;
    let json = Claim::report(json.as_deref(), REPORT)?;
    let target = out.clone().or(add_to.clone().map(Target::Added));
    let (inputs, taken) = inputs::read(operation, tensors, layer)?;
    let dtype = inputs.config.dtype;
    let files = target.as_ref().map(|target| target.claim(operation, dtype)).transpose()?;
    taken.warnings.iter().for_each(|warning| eprintln!("bn: warning: {warning}"));
    let gpu = adapter.open()?;
    let kernels = Kernels::new(&gpu.device);
    let setup = Setup { one_batch: true, ..Setup::default() };
    let results = run_on(&kernels, &gpu.queue, operation, &inputs, &setup)?;
    let outcomes = outputs::outcomes(operation, &results, &inputs.shape, dtype);
    files.map_or(Ok(()), |files| files.write(&outcomes))?;
    let expected = match compare {
        true => expected(operation, &inputs, &first_parts(&kernels, operation, &inputs, &setup)?)?,
        false => Vec::new(),
    };
    let reported = outcomes.iter().map(|outcome| {
        let expected = expected.iter().find(|expected| expected.name == outcome.name);
        let held = expected.map(|expected| Held::new(&expected.compare(&results), &outcome.dims));
        ReportedOutput::new(outcome, target.as_ref(), held)
    });
    let report = RunReport::new(operation, &gpu, &inputs, taken, &results, reported.collect());
    match json {
        Some(json) => json.write_json(&report)?,
        None => report.print(),
    }
    Ok(if report.passed == Some(false) { ExitStatus::Failed } else { ExitStatus::Passed })
}
