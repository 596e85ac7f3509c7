//! `bn run`: one operation on the GPU over tensors of files.

mod inputs;
mod outputs;
mod report;
mod source;

use crate::adapter::AdapterArgs;
use crate::{AnyError, Verdict, names, output};
use batchnorm_wgpu::{Kernels, Operation};
use batchnorm_wgpu_check::case::Setup;
use batchnorm_wgpu_check::judge::expected;
use batchnorm_wgpu_check::run::{first_parts, run as run_on};
use inputs::{LayerArgs, TensorArgs};
use outputs::Target;
use report::{Held, Output, Report};
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
these types. float64 is refused unless --dtype rounds it. Statistics and the gradients of parameters are written as f32, \
the number of batches as int64. A .npy file cannot hold bf16, and .npz files are not read.

Examples:
  bn run forward_training --x x.npy --weight gamma.npy --bias beta.npy --out one
  bn run inference --x x.npy --running-mean one/running_mean.npy \\
    --running-var one/running_var.npy --out y.safetensors
  bn run backward_training --from batch.safetensors --activation relu \\
    --out gradients --compare
  bn run inference --x x.npy --from resnet18.safetensors \\
    --prefix layer1.0.bn1. --compare
  bn run statistics --x x.npy --layout channels_last --dtype f32 --json

Exit codes: 0 done, 1 a result of --compare lies outside its bound, 2 wrong usage, a file that cannot be read or written, no \
adapter, or a failure of the device.";

/// Arguments of `bn run`.
#[derive(clap::Args)]
#[command(after_help = NOTES)]
pub struct RunArgs {
    /// forward_training, inference, backward_training, backward_frozen or statistics
    #[arg(value_parser = names::operation)]
    operation: Operation,
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
    /// Write the results to DIR/y.npy and so on, or all of them to FILE.safetensors
    #[arg(long, value_name = "DIR or FILE.safetensors")]
    out: Option<Target>,
    /// Compare every result with the float64 reference on the CPU, within the error bound of `bn check`
    #[arg(long)]
    compare: bool,
    /// Write a report of the run as JSON to FILE, or to standard output
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
}

/// Runs an operation.
pub fn run(arguments: &RunArgs) -> Result<Verdict, AnyError> {
    let RunArgs { operation, tensors, layer, run: OutputArgs { adapter, out, compare, json } } = arguments;
    let (inputs, taken) = inputs::read(*operation, tensors, layer)?;
    let dtype = inputs.config.dtype;
    out.as_ref().map_or(Ok(()), |target| target.check(dtype))?;
    let gpu = adapter.open()?;
    let kernels = Kernels::new(&gpu.device);
    let setup = Setup { one_batch: true, ..Setup::default() };
    let results = run_on(&kernels, &gpu.queue, *operation, &inputs, &setup)?;
    let outputs = outputs::outputs(*operation, &results, &inputs.shape, dtype);
    out.as_ref().map_or(Ok(()), |target| target.write(&outputs))?;
    let expected = match compare {
        true => expected(*operation, &inputs, &first_parts(&kernels, *operation, &inputs, &setup)?)?,
        false => Vec::new(),
    };
    let reported = outputs.iter().map(|(name, stored)| {
        let expected = expected.iter().find(|expected| expected.name == *name);
        let held = expected.map(|expected| Held::new(&expected.compare(&results), &stored.dims));
        Output::new(name, stored, out.as_ref(), held)
    });
    let report = Report::new(*operation, &gpu, &inputs, taken, &results, reported.collect());
    match json {
        Some(path) => output::write(path, serde_json::to_string_pretty(&report)?.as_bytes())?,
        None => report.print(),
    }
    Ok(if report.passed == Some(false) { Verdict::Failed } else { Verdict::Passed })
}
