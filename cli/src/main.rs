//! `bn`: checks, measures and demonstrates `batchnorm-wgpu`.

#![deny(missing_docs, unsafe_code)]

mod accuracy;
mod adapter;
mod bench;
mod browser;
mod check;
mod folded;
mod golden;
mod info;
mod junit;
mod mutate;
mod names;
mod output;
mod report;
mod run;
mod train;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Batch normalization on any GPU: check it, time it, and watch it train.
#[derive(Parser)]
#[command(name = "bn", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Replace files that exist. Without it a result replaces nothing; a report (--json, --junit, --record, --html, --markdown,
    /// --plot) replaces an earlier report of its kind, and nothing else
    #[arg(long, global = true)]
    force: bool,
}

const EXAMPLES: &str = "Examples:
  bn info                        what adapters there are and what they can do
  bn train                       train on MNIST with and without batch norm
  bn train --save FILE           the same, keeping both networks; --resume FILE goes on, --evaluate FILE looks
  bn check --all-adapters        every kernel against the float64 reference
  bn check --browser             every shader compiled by a browser's WebGPU
  bn check --accuracy            accuracy where the mean is far from zero
  bn bench --quick               time of each operation beside a copy kernel
  bn bench --quick --dtype f32,f16,bf16
                                 time of an element as it has fewer bytes
  bn bench --quick --fused       a residual and a relu in one step, beside separate passes
  bn report benches/records      one page of all records that `bn bench --record` made
  bn tune --out FILE             the fastest plans of this adapter, for `bn bench --tuning FILE`
  bn mutate --sample 20          whether the check finds small changes to the shaders
  bn check --golden DIR          cases exported from PyTorch or elsewhere
  bn golden --set --out DIR      such cases from the float64 reference, for other implementations
  bn run inference --x x.npy --running-mean mean.npy --running-var var.npy --out y
                                 one operation over tensors of your own

Exit codes: 0 all good, 1 a mismatch, 2 wrong usage, no adapter or a failure of the device.
RUST_LOG=batchnorm_wgpu=debug shows plans and compiled kernels.";

#[derive(Subcommand)]
enum Command {
    /// List the adapters, with what matters here: backend, driver, subgroups, limits, kernels that run.
    Info(info::InfoArgs),
    /// Run every kernel over a matrix of shapes, layouts and hostile values against the float64 reference.
    Check(check::CheckArgs),
    /// Write golden cases of the float64 reference, for other implementations and for `bn check --golden`.
    Golden(Box<golden::write::GoldenArgs>),
    /// Time every operation beside a copy kernel on the same device.
    Bench(bench::BenchArgs),
    /// Merge records of `bn bench` into one HTML page and a Markdown table.
    Report(report::ReportArgs),
    /// Find the fastest plan for every operation and shape on an adapter, and write it to a tuning file.
    Tune(bench::tune::TuneArgs),
    /// Change every line of every shader, one change at a time, and see whether the check finds it.
    Mutate(mutate::MutateArgs),
    /// Run one operation on the GPU over tensors of .npy and .safetensors files, and write its results to such files.
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
enum Verdict {
    /// All good.
    Passed,
    /// A mismatch was found.
    Failed,
}

/// Any error, for people: commands add what to do about it.
type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn train(arguments: &TrainCommand) -> Result<Verdict, AnyError> {
    let gpu = arguments.adapter.open()?;
    let passed = train::run(&arguments.training, &gpu.device, &gpu.queue, &gpu.info.name)?;
    Ok(if passed { Verdict::Passed } else { Verdict::Failed })
}

/// Whether the device allows less than a command needs.
fn is_limit(error: &AnyError) -> bool {
    use batchnorm_wgpu::Error;
    use batchnorm_wgpu_check::run::RunError;
    matches!(error.downcast_ref(), Some(Error::Limit { .. }))
        || matches!(error.downcast_ref(), Some(RunError::Library(Error::Limit { .. })))
        || matches!(error.downcast_ref(), Some(train::TrainError::BatchNorm(Error::Limit { .. })))
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("error")).init();
    let Arguments { command, force } = Arguments::parse();
    output::set_force(force);
    let outcome = match command {
        Command::Info(arguments) => info::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Golden(arguments) => golden::write::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Tune(arguments) => bench::tune::run(&arguments),
        Command::Mutate(arguments) => mutate::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Train(arguments) => train(&arguments),
    };
    match outcome {
        Ok(Verdict::Passed) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::from(1),
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
