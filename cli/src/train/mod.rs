//! `bn train`: the multilayer perceptron of section 4.1 of Ioffe and Szegedy (2015) on MNIST, with and without batch
//! norm, from the same initial weights, everything on the GPU.
//!
//! Modules import those above them in this table only:
//!
//! | module | what it holds |
//! |---|---|
//! | `idx`, `data` | the images: file format, shipped sample, full data set |
//! | `error` | why a run ends |
//! | `history` | what a run is asked for, and what came of it |
//! | `kernels`, `gpu` | the tool's WGSL and its pipelines; buffers and read-back |
//! | `parameters`, `network` | the networks on the GPU |
//! | `recording` | their steps as recorded dispatches |
//! | `checkpoint` | both networks in a file, and what it takes to go on |
//! | `contest` | the epochs of both networks |
//! | `stages`, `normalization`, `check` | one training step against float64 on the CPU |
//! | `report`, `plot` | tables, JSON and SVG |

mod check;
mod checkpoint;
mod contest;
mod data;
mod error;
mod gpu;
mod history;
mod idx;
mod kernels;
mod network;
mod normalization;
mod parameters;
mod plot;
mod recording;
mod report;
mod stages;

pub use error::TrainError;

use crate::output::{self, Claim, Folder, OutputError, Replaces, ReportKind};
use batchnorm_wgpu::host::measure::Cache;
use batchnorm_wgpu::{Kernels, Layout, Options, Shape, Tuning, wgpu};
use contest::Contest;
use data::Mnist;
use gpu::TrainDevice;
use parameters::{HIDDEN, SIZES};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Names and texts of the shaders of `bn train` itself.
pub fn shaders() -> impl Iterator<Item = (String, String)> {
    kernels::NetworkKernel::ALL.into_iter().map(|kernel| (kernel.name().into(), kernel.source().into()))
}

/// Arguments of `bn train`.
#[derive(Clone, Debug, clap::Args)]
pub struct TrainArgs {
    /// Passes over the training images
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub epochs: u32,
    /// Images per training step; those left over at the end of an epoch are dropped
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(2..=1024))]
    pub batch: u32,
    /// The learning rate of both networks at the start, from which it falls linearly to 0
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    pub learning_rate: f64,
    /// The seed of the initial weights and of the order of the images
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Use the MNIST of this folder, four IDX files, plain or .gz, instead of the shipped sample
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Write both networks to FILE.safetensors, under PyTorch's names, at the start and after every epoch. A file that exists is
    /// refused, unless it is that of --resume
    #[arg(long, value_name = "FILE.safetensors", value_parser = output::safetensors)]
    pub save: Option<PathBuf>,
    /// Go on with the run that wrote FILE.safetensors; the other options must be those of that run
    #[arg(long, value_name = "FILE.safetensors")]
    pub resume: Option<PathBuf>,
    /// Stop after this many epochs; --resume goes on from there
    #[arg(long, value_name = "EPOCHS", requires = "save", value_parser = clap::value_parser!(u32).range(1..))]
    pub stop_after: Option<u32>,
    /// First measure on this device which plans of batch norm are fastest, for about a second; what is found is kept in the user's
    /// cache directory, and the next run measures only what is left
    #[arg(long, conflicts_with = "evaluate")]
    pub tune: bool,
    /// Train nothing, and measure the networks in FILE.safetensors on the test images; PyTorch may have written them
    #[arg(long, value_name = "FILE.safetensors", conflicts_with_all = ["save", "resume", "json", "plot"])]
    pub evaluate: Option<PathBuf>,
    /// Write the figures as JSON to FILE
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw the accuracy over the epochs as SVG to FILE.svg
    #[arg(long, value_name = "FILE.svg", value_parser = output::svg)]
    pub plot: Option<PathBuf>,
}

/// A positive, finite number.
fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        // What the kernel sees is the f32.
        Ok(value) if (value as f32).is_normal() && value > 0.0 => Ok(value),
        _ => Err(format!("expected a positive, finite number such as 0.5, found {text}")),
    }
}

/// Measures the networks in `file` on the test images, and prints what came of it.
fn evaluate(file: &Path, mnist: &Mnist, gpu: TrainDevice<'_>) -> Result<(), TrainError> {
    let measure = |(place, snapshot): &(checkpoint::SavedNetwork, network::Snapshot)| {
        Ok((place.name, contest::evaluate(gpu, &mnist.test, snapshot)?))
    };
    let networks = checkpoint::load(file)?.iter().map(measure).collect::<Result<Vec<_>, TrainError>>()?;
    println!("checkpoint     {}", file.display());
    println!("data           {}: {} test images", mnist.source, mnist.test.count());
    report::print_evaluation(mnist.test.count(), &networks);
    match networks.into_iter().find(|(_, figures)| !figures.loss.is_finite()) {
        Some((network, figures)) => Err(TrainError::NoLoss { file: file.into(), network, loss: figures.loss }),
        None => Ok(()),
    }
}

/// Time to measure in.
const TUNING: Duration = Duration::from_secs(1);

/// What was measured to be fast for the networks' layers, now or in an earlier run.
fn tuned(gpu: TrainDevice<'_>, batch: usize) -> Result<Tuning, TrainError> {
    let mut sizes = SIZES[1..=HIDDEN].to_vec();
    sizes.dedup();
    let shapes = sizes.into_iter().map(|channels| Shape::new(&[batch, channels], Layout::ChannelsFirst));
    let (cache, begin) = (Cache::of_user(), Instant::now());
    let tuning = cache.tuning(gpu.device, gpu.queue, &shapes.collect::<Result<Vec<_>, _>>()?, TUNING)?;
    let file = cache.file_for(gpu.device).filter(|file| file.is_file());
    let kept = file.map_or("kept nowhere".into(), |file| format!("kept in {}", file.display()));
    println!("tuned in {:.1} s, {kept}\n", begin.elapsed().as_secs_f64());
    Ok(tuning)
}

/// Claims the file of `--save`. A run does not begin anew over a file that exists; a resumed run goes on writing the file that
/// it reads.
fn claim_save(save: Option<&Path>, resume: Option<&Path>) -> Result<Option<Claim>, OutputError> {
    let Some(file) = save else { return Ok(None) };
    let whole = |path: &Path| path.canonicalize().ok();
    let is_resumed = resume.is_some_and(|other| whole(file).is_some_and(|file| whole(other) == Some(file)));
    let replaces = match is_resumed {
        true => Replaces::Anything,
        false => Replaces::Nothing(format!(
            "go on with it by --resume {0} --save {0}, {1}",
            file.display(),
            output::another_or_force()
        )),
    };
    Claim::new(file, replaces, Folder::Exists).map(Some)
}

/// What the reports look like.
const FIGURES: ReportKind = ReportKind::Json(&["adapter", "network", "settings", "history"]);
const CHART: ReportKind = ReportKind::Text(plot::TITLE);

/// Trains both networks, prints what came of it, and checks one training step against the CPU. Returns whether the
/// check passed.
///
/// # Errors
/// [`TrainError`] when data, device or files fail; a failed check is not an error.
pub fn run(
    args: &TrainArgs,
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    adapter_name: &str,
) -> Result<bool, TrainError> {
    let save = claim_save(args.save.as_deref(), args.resume.as_deref())?;
    let chart = Claim::report(args.plot.as_deref(), CHART)?;
    let figures = Claim::report(args.json.as_deref(), FIGURES)?;
    let mnist = Mnist::load(args.data.as_deref())?;
    let gpu = TrainDevice { device, queue };
    if let Some(file) = &args.evaluate {
        return evaluate(file, &mnist, gpu).map(|()| true);
    }
    let settings = history::TrainSettings {
        epochs: args.epochs,
        batch: args.batch as usize,
        rate: args.learning_rate,
        seed: args.seed,
    };
    report::print_heading(&mnist, &settings, adapter_name);
    let tuning = args.tune.then(|| tuned(gpu, settings.batch)).transpose()?;
    let kernels = Kernels::with_options(device, Options { tuning, ..Options::default() });
    let mut contest = Contest::new(gpu, &mnist, &settings, kernels, |kernel| kernel.source().into())?;
    if let Some(file) = &args.resume {
        contest.restore(checkpoint::resume(file, &settings, &mnist)?)?;
        println!("resumed        {}, {} epochs done\n", file.display(), contest.history.resumed);
    }
    let epochs = args.stop_after.map_or(settings.epochs, |epochs| epochs.min(settings.epochs));
    contest.train(epochs, |contest| match &save {
        Some(file) => checkpoint::save(file, &contest.checkpoint()?, &settings, &mnist),
        None => Ok(()),
    })?;
    let history = &contest.history;
    report::print_history(history);
    if let Some(file) = &save {
        println!("checkpoint: {}, {} of {} epochs done\n", file.path().display(), history.plain.len(), settings.epochs);
    }
    if let Some(last) = history.batch_norm.last().filter(|last| !last.train.loss.is_finite()) {
        return Err(TrainError::Diverged { loss: last.train.loss, rate: settings.rate });
    }
    let rows = check::check_step(gpu, &contest, &mnist)?;
    let passed = report::print_check(&rows, settings.batch);
    if let Some(file) = &chart {
        file.write(plot::draw(history).as_bytes())?;
        println!("chart: {}", file.path().display());
    }
    if let Some(file) = &figures {
        file.write(&report::json(&mnist, &settings, adapter_name, history, &rows)?)?;
        println!("figures: {}", file.path().display());
    }
    Ok(passed)
}

#[cfg(test)]
mod tests;
