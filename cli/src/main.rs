//! `bn`: checks, measures and demonstrates `batchnorm-wgpu`.

#![deny(missing_docs, unsafe_code)]

#[macro_use]
mod stream;

mod accuracy;
mod activation;
mod adapter;
mod asked;
mod bench;
mod browser;
mod chart;
mod check;
mod compile;
mod deadline;
mod folded;
mod forced;
mod golden;
mod info;
mod junit;
mod mutate;
mod names;
mod output;
mod plan;
mod report;
mod run;
mod same_bits;
mod shader;
mod side_by_side;
mod survey;
mod terminal;
mod train;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::process::ExitCode;

/// Batch normalization on any GPU: check it, time it, and watch it train.
#[derive(Parser)]
#[command(name = "bn", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Arguments {
    /// Show every column of tables, however long the lines become
    #[arg(long, global = true)]
    wide: bool,
    #[command(subcommand)]
    command: Command,
    /// Replace files that exist. Without it a result replaces nothing; a report (--json, --junit, --record, --html, --markdown,
    /// --plot) replaces an earlier report of its kind, and nothing else
    #[arg(long, global = true)]
    force: bool,
}

impl Arguments {
    /// As `parse`, with help that is as wide as the terminal.
    fn parse_to_width() -> Self {
        let command = Self::command().term_width(terminal::prose_width().into());
        Self::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }
}

const EXAMPLES: &str = "\
Examples:
  bn info                    which adapters there are and what they can do
  bn shader normalize        the WGSL of a kernel, and where its lines come from
  bn plan 32x64x28x28        what every operation on a shape would dispatch
  bn train                   train on MNIST with and without batch norm
  bn train --save FILE       the same, and keep both networks in FILE
  bn train --resume FILE     go on with a run that was interrupted
  bn train --evaluate FILE   measure the networks in FILE on the test images
  bn check --all-adapters    compare every kernel with the float64 reference
  bn check --browser         compile every shader with a browser's WebGPU
  bn compile                 registers and spills on GPUs that are not there
  bn check --accuracy        accuracy where the mean is far from zero
  bn check --golden DIR      run cases exported from PyTorch or elsewhere
  bn golden --set --out DIR  write such cases, for other implementations
  bn bench --quick           time every operation beside a copy kernel
  bn bench --quick --dtype f32,f16,bf16
                             the same by the type that tensors are stored in
  bn bench --quick --fused   a residual and a relu in one step, and separately
  bn report benches/records  one page of all records of `bn bench --record`
  bn tune --out FILE         find the fastest plans of this adapter
  bn bench --tuning FILE     time the plans that `bn tune` found
  bn survey --minutes 10     check, time, compare and tune a GPU, with a summary
  bn mutate --sample 20      whether the check notices changes to the shaders
  bn run inference --x x.npy --from model.safetensors --out y
                             run one operation on tensors of your own

Tables leave out columns that the terminal has no room for; --wide shows all of them. Where the output goes to a file or a \
pipe, tables have all columns and no line is broken. The variable COLUMNS sets another width for both.

Exit codes: 0 all good, 1 a mismatch, 2 wrong usage, no adapter or a failure of the device, 141 the reader of the output \
went away, as `head` does. \
RUST_LOG=batchnorm_wgpu=debug shows plans and compiled kernels.";

#[derive(Subcommand)]
enum Command {
    /// List the adapters: name, driver, features, limits and the kernels that can run on each.
    Info(info::InfoArgs),
    /// Print the text of a kernel: WGSL with the places of its lines, SPIR-V, MSL or HLSL.
    Shader(shader::ShaderArgs),
    /// Show what the library would dispatch for a shape, without running it.
    Plan(Box<plan::PlanArgs>),
    /// Compare every kernel with the float64 reference, over many shapes, layouts and hostile values.
    Check(check::CheckArgs),
    /// Write golden cases of the float64 reference, for other implementations and for `bn check --golden`.
    Golden(Box<golden::write::GoldenArgs>),
    /// Report what the compilers of GPUs make of the kernels, without a GPU: registers, spills, instructions.
    Compile(compile::CompileArgs),
    /// Time every operation beside a copy kernel on the same device.
    Bench(bench::BenchArgs),
    /// Merge the records of `bn bench` into one HTML page and a Markdown table.
    Report(report::ReportArgs),
    /// Find the fastest plan for every operation and shape on an adapter, and write it to a tuning file.
    Tune(bench::tune::TuneArgs),
    /// Learn all that can be learnt about a GPU within some minutes: check, time, compare, tune, sum up.
    Survey(survey::SurveyArgs),
    /// Change the shaders, one small change at a time, and see whether the check notices each.
    Mutate(mutate::MutateArgs),
    /// Run one operation on the GPU on tensors from .npy and .safetensors files, and write the results to such files.
    Run(Box<run::RunArgs>),
    /// Train a network on MNIST on the GPU, with and without batch norm.
    Train(TrainCommand),
}

/// Arguments of `bn train`.
#[derive(clap::Args)]
struct TrainCommand {
    #[command(flatten)]
    adapter: adapter::AdapterArgs,
    #[command(flatten)]
    training: train::TrainArgs,
}

/// How a command ended, where it ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExitStatus {
    /// All good.
    Passed,
    /// A mismatch was found.
    Failed,
}

/// Any error, for people: commands add what to do about it.
type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn train(arguments: &TrainCommand) -> Result<ExitStatus, AnyError> {
    let gpu = arguments.adapter.open()?;
    let passed = train::run(&arguments.training, &gpu.device, &gpu.queue, &gpu.info.name)?;
    Ok(if passed { ExitStatus::Passed } else { ExitStatus::Failed })
}

/// Lets Mesa's Vulkan layer look for a Wayland display without a complaint on standard error. Where neither a folder nor
/// a socket is named, as on a server, there is no display to be found, and the folder of an absent one says the same.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn silence_wayland() {
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: the process has one thread yet, so that none reads the environment meanwhile.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", "/dev/null") };
    }
}

#[cfg(not(target_os = "linux"))]
fn silence_wayland() {}

/// Whether the device allows less than a command needs.
fn is_limit(error: &AnyError) -> bool {
    use batchnorm_wgpu::Error;
    use batchnorm_wgpu_check::run::RunError;
    let own = match (error.downcast_ref(), error.downcast_ref(), error.downcast_ref()) {
        (Some(own), _, _) => Some(own),
        (_, Some(RunError::Library(own)), _) => Some(own),
        (_, _, Some(train::TrainError::BatchNorm(own))) => Some(own),
        _ => None,
    };
    own.is_some_and(|own: &Error| matches!(own.kind(), Error::Limit { .. }))
}

fn main() -> ExitCode {
    stream::until_reader_is_gone(run)
}

fn run() -> ExitCode {
    silence_wayland();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("error")).init();
    let Arguments { command, wide, force } = Arguments::parse_to_width();
    terminal::set_wide(wide);
    output::set_force(force);
    let outcome = match command {
        Command::Info(arguments) => info::run(&arguments),
        Command::Shader(arguments) => shader::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Compile(arguments) => compile::run(&arguments),
        Command::Golden(arguments) => golden::write::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Tune(arguments) => bench::tune::run(&arguments),
        Command::Survey(arguments) => survey::run(&arguments),
        Command::Mutate(arguments) => mutate::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Train(arguments) => train(&arguments),
    };
    match outcome {
        Ok(ExitStatus::Passed) => ExitCode::SUCCESS,
        Ok(ExitStatus::Failed) => ExitCode::from(1),
        Err(error) => {
            eprintln!("bn: {error}");
            if is_limit(&error) {
                eprintln!(
                    "bn opens an adapter with all that it allows; another may allow more: bn info, --adapter NAME"
                );
            }
            ExitCode::from(2)
        }
    }
}
