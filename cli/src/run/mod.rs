//! `bn run`: one operation on the GPU over tensors of files.

mod inputs;
mod outputs;
mod report;
mod skipped;
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
Operations, what they take and what they write (as PyTorch names it):
  forward_training   x; residual, weight, bias, running_mean, running_var, num_batches_tracked
                     -> y, batch_mean, batch_var (biased), running_mean, running_var, num_batches_tracked
  inference          x, running_mean, running_var; residual, weight, bias
                     -> y
  backward_training  x, dy; residual, weight, bias: those of the forward pass
                     -> dx, dweight, dbias, and dresidual where there is a residual
  backward_frozen    x, dy, running_mean, running_var; residual, weight, bias: the gradients of inference
                     -> dx, dweight, dbias, and dresidual where there is a residual
  statistics         x; running_mean, running_var, num_batches_tracked
                     -> batch_mean, batch_var, running_mean, running_var, num_batches_tracked

Types: x, dy and residual are f32, f16 or bf16 alike; y, dx and dresidual come out in the same. Parameters may be of any of
them. float64 is refused unless --dtype rounds it. Statistics and gradients of parameters are written in f32, the count in
int64. A .npy file has no bf16; .npz files are not read.

Examples:
  bn run forward_training --x x.npy --weight gamma.npy --bias beta.npy --out step1
  bn run inference --x x.npy --running-mean step1/running_mean.npy --running-var step1/running_var.npy --out y.safetensors
  bn run backward_training --from batch.safetensors --activation relu --out gradients --compare
  bn run inference --x x.npy --from resnet18.safetensors --prefix layer1.0.bn1. --compare
  bn run statistics --x images.npy --layout channels_last --dtype f32 --json

Verdicts of --compare: pass, every element is within its bound (NaN or infinity as in float64 is counted); FAILED, one is not;
not representable, an element is NaN or infinite, or a statistic stayed as it was, where float64 has a number, since f32
overflows on the way (a deviation beyond 1.8e19 / sqrt(values per channel) does); no bound, nothing is promised.

Exit codes: 0 done, 1 a result of --compare is FAILED or not representable, 2 wrong usage, a file, no adapter or the device.";

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
    /// Write the results: to DIR/y.npy and so on, or all of them to FILE.safetensors
    #[arg(long, value_name = "DIR or FILE.safetensors")]
    out: Option<Target>,
    /// Hold every result against the float64 reference on the CPU, within the error bound of `bn check`
    #[arg(long)]
    compare: bool,
    /// Write what ran and what came of it as JSON to FILE, or to standard output
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
