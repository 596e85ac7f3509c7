//! `bn train`: the multilayer perceptron of section 4.1 of Ioffe and Szegedy (2015) on MNIST, with and without batch
//! norm, from the same initial weights, everything on the GPU.
//!
//! | module | what it holds |
//! |---|---|
//! | `idx`, `data` | the images: file format, shipped sample, full data set |
//! | `kernels`, `gpu` | the tool's WGSL, its pipelines, buffers and read-back |
//! | `parameters`, `network`, `recording` | the networks, and their steps as recorded dispatches |
//! | `contest` | the epochs of both networks |
//! | `checkpoint` | both networks in a file, and what it takes to go on |
//! | `stages`, `normalization`, `check` | one training step against float64 on the CPU |
//! | `report`, `plot` | tables, JSON and SVG |

mod check;
mod checkpoint;
mod contest;
mod data;
mod gpu;
mod idx;
mod kernels;
mod network;
mod normalization;
mod parameters;
mod plot;
mod recording;
mod report;
mod stages;

use crate::output::{self, Claim, Folder, Kind, OutputError, Replaces};
use batchnorm_wgpu::wgpu;
use contest::Contest;
use data::Mnist;
use gpu::Gpu;
use std::{
    io,
    path::{Path, PathBuf},
};

/// Names and texts of the shaders of `bn train` itself.
pub fn shaders() -> impl Iterator<Item = (String, String)> {
    kernels::Kernel::ALL.into_iter().map(|kernel| (kernel.name().into(), kernel.source().into()))
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

/// Why `bn train` could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The data cannot be used.
    #[error(transparent)]
    Data(#[from] data::DataError),
    /// The library refused a call.
    #[error(transparent)]
    BatchNorm(#[from] batchnorm_wgpu::Error),
    /// The training set is smaller than one batch.
    #[error("--batch: expected at most {images}, the number of training images in {source_name}, found {batch}")]
    Batch {
        /// Where the images come from.
        source_name: String,
        /// How many there are.
        images: usize,
        /// The batch asked for.
        batch: usize,
    },
    /// The device allows less than is needed.
    #[error("{what}: needs {needed}, the device allows {allowed}; use a smaller --batch or less --data")]
    Limit {
        /// What exceeds the limit.
        what: String,
        /// What is needed.
        needed: u64,
        /// What the device allows.
        allowed: u64,
    },
    /// The device failed.
    #[error("the device failed while {during}: {reason}")]
    Device {
        /// What was going on.
        during: &'static str,
        /// What wgpu said.
        reason: String,
    },
    /// The numbers left the range of f32, and a check of NaN against NaN would prove nothing.
    #[error("the network with batch norm diverged: its loss is {loss}; use a smaller --learning-rate than {rate}")]
    Diverged {
        /// The last epoch's mean loss.
        loss: f64,
        /// The learning rate asked for.
        rate: f64,
    },
    /// A checkpoint cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A checkpoint is damaged or holds other tensors than the networks have.
    #[error("{}: {source}", file.display())]
    Checkpoint {
        /// Which file.
        file: PathBuf,
        /// What the library said.
        source: batchnorm_wgpu::Error,
    },
    /// A checkpoint holds running statistics that inference cannot use.
    #[error(
        "{}: {name}: expected running statistics that are finite, and variances of at least 0, found {value} in channel \
         {channel}; inference by them gives NaN or nonsense: the training that wrote them diverged, or the file is damaged",
        file.display()
    )]
    Statistics {
        /// Which file.
        file: PathBuf,
        /// Which tensor.
        name: String,
        /// The first channel that is wrong.
        channel: usize,
        /// What it has.
        value: f32,
    },
    /// A network gives no loss, and its accuracy is a coincidence.
    #[error(
        "{}: the loss of the network {network} on the test images is {loss}: its weights hold NaN or numbers too large for f32, \
         and its accuracy says nothing",
        file.display()
    )]
    NoLoss {
        /// Which file.
        file: PathBuf,
        /// Which network.
        network: &'static str,
        /// What came instead of a loss.
        loss: f64,
    },
    /// A checkpoint has no training state that fits its tensors.
    #[error(
        "{}: expected the training state that `bn train --save` writes beside the networks, found {found}; only --evaluate \
         does without it",
        file.display()
    )]
    Training {
        /// Which file.
        file: PathBuf,
        /// What was found instead.
        found: String,
    },
    /// A checkpoint is of a run with other settings.
    #[error(
        "{}: expected the settings of the run to be resumed, found that {}; repeat its options",
        file.display(),
        differences.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    Settings {
        /// Which file.
        file: PathBuf,
        /// What differs.
        differences: Vec<checkpoint::Difference>,
    },
    /// A file cannot be written, or exists.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The figures cannot be turned into JSON.
    #[error("the figures cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Measures the networks in `file` on the test images, and prints what came of it.
fn evaluate(file: &Path, mnist: &Mnist, gpu: Gpu<'_>) -> Result<(), TrainError> {
    let measure = |(place, snapshot): &(checkpoint::Place, network::Snapshot)| {
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
const FIGURES: Kind = Kind::Json(&["adapter", "network", "settings", "history"]);
const CHART: Kind = Kind::Text(plot::TITLE);

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
    let gpu = Gpu { device, queue };
    if let Some(file) = &args.evaluate {
        return evaluate(file, &mnist, gpu).map(|()| true);
    }
    let settings = contest::Settings {
        epochs: args.epochs,
        batch: args.batch as usize,
        rate: args.learning_rate,
        seed: args.seed,
    };
    report::print_heading(&mnist, &settings, adapter_name);
    let mut contest = Contest::new(gpu, &mnist, &settings, |kernel| kernel.source().into())?;
    if let Some(file) = &args.resume {
        contest.restore(checkpoint::resume(file, &settings, &mnist)?)?;
        println!("resumed        {}, {} epochs done\n", file.display(), contest.history.resumed);
    }
    let epochs = args.stop_after.map_or(settings.epochs, |epochs| epochs.min(settings.epochs));
    contest.train(epochs, |contest| match &save {
        Some(file) => checkpoint::save(file, contest, &settings, &mnist),
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
