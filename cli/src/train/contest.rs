//! Trains the two networks side by side: the same weights at the start, the same batches in the same order.

use super::{
    checkpoint::Checkpoint,
    data::{Images, Mnist},
    error::TrainError,
    gpu::TrainDevice,
    history::{Epoch, Figures, History, TrainSettings},
    kernels::{NetworkKernel, Pipelines},
    network::{Builder, Network, ResidentImages, Snapshot},
    parameters::initial_weights,
    recording::Recording,
};
use batchnorm_wgpu::{Kernels, wgpu};
use indicatif::{ProgressBar, ProgressStyle};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::{collections::VecDeque, io::IsTerminal, time::Instant};

/// Batches per submission. Fewer make the progress bar smoother, more cost less.
const BATCHES_PER_SUBMISSION: usize = 8;

/// Submissions that may wait for the GPU: one runs, the next is ready.
const SUBMISSIONS_AHEAD: usize = 2;

/// A network and its recordings.
pub struct Contestant {
    /// The network.
    pub network: Network,
    /// Its training step.
    pub training: Recording,
    evaluation: Recording,
}

/// Both networks and their data on the GPU.
pub struct Contest<'a> {
    gpu: TrainDevice<'a>,
    settings: TrainSettings,
    random: ChaCha8Rng,
    /// What came of training so far.
    pub history: History,
    /// The order in which the images are visited.
    pub order: Vec<u32>,
    train_images: ResidentImages,
    /// The network without batch norm.
    pub plain: Contestant,
    /// The network with batch norm.
    pub batch_norm: Contestant,
}

impl<'a> Contest<'a> {
    /// Uploads the data, draws the weights and records both networks, by the plans of `batch_norm`. `source` gives the tool's WGSL.
    ///
    /// # Errors
    /// [`TrainError`] when the data hold less than a batch or the device refuses something.
    pub fn new(
        gpu: TrainDevice<'a>,
        mnist: &Mnist,
        settings: &TrainSettings,
        batch_norm: Kernels,
        source: impl Fn(NetworkKernel) -> String,
    ) -> Result<Self, TrainError> {
        let (images, batch) = (mnist.train.count(), settings.batch);
        if images < batch {
            return Err(TrainError::Batch { source_name: mnist.source.clone(), images, batch });
        }
        gpu.checked("preparing the networks", || {
            let mut random = ChaCha8Rng::seed_from_u64(settings.seed);
            let weights = initial_weights(&mut random);
            let train_images = ResidentImages::new(gpu, &mnist.train)?;
            let test_images = ResidentImages::new(gpu, &mnist.test)?;
            let mut builder = Builder { gpu, pipelines: Pipelines::new(gpu.device, source), batch_norm };
            let mut contestant = |batch_norm| -> Result<Contestant, TrainError> {
                let network = Network::new(gpu, &Snapshot::initial(batch_norm, &weights))?;
                let training = Recording::training(&network, &mut builder, &train_images, batch)?;
                let evaluation = Recording::evaluation(&network, &mut builder, &test_images)?;
                Ok(Contestant { network, training, evaluation })
            };
            let (mut plain, mut batch_norm) = (contestant(false)?, contestant(true)?);
            plain.training.set_rate(gpu, settings.rate_in(0));
            batch_norm.training.set_rate(gpu, settings.rate_in(0));
            let order = (0..images as u32).collect();
            let history = History { steps_per_epoch: plain.training.batches.len(), ..History::default() };
            Ok(Self { gpu, settings: *settings, random, history, order, train_images, plain, batch_norm })
        })
    }

    /// Trains both networks until `epochs` epochs are done, and shows how far they are. `done` is called at the start and
    /// after every epoch.
    ///
    /// # Errors
    /// [`TrainError::Device`] when the device fails, and what `done` returns.
    pub fn train(
        &mut self,
        epochs: u32,
        mut done: impl FnMut(&Self) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        done(self)?;
        let progress = Progress::new(&self.history, self.settings.epochs);
        for epoch in self.history.batch_norm.len() as u32..epochs {
            let gpu = self.gpu;
            gpu.checked("training", || self.epoch(epoch, &progress))?;
            done(self)?;
        }
        progress.finish();
        Ok(())
    }

    /// Trains both networks for epoch `epoch`, from 0.
    fn epoch(&mut self, epoch: u32, progress: &Progress) -> Result<(), TrainError> {
        let (gpu, rate) = (self.gpu, self.settings.rate_in(epoch));
        self.shuffle();
        self.plain.training.set_rate(gpu, rate);
        self.batch_norm.training.set_rate(gpu, rate);
        let (epoch, seconds) = self.plain.epoch(gpu, progress)?;
        self.history.plain.push(epoch);
        self.history.plain_seconds += seconds;
        progress.show(&self.history);
        let (epoch, seconds) = self.batch_norm.epoch(gpu, progress)?;
        self.history.batch_norm.push(epoch);
        self.history.batch_norm_seconds += seconds;
        progress.show(&self.history);
        Ok(())
    }

    /// Draws the next epoch's order and uploads it.
    fn shuffle(&mut self) {
        self.order.shuffle(&mut self.random);
        self.gpu.queue.write_buffer(&self.train_images.indices, 0, bytemuck::cast_slice(&self.order));
    }

    /// The state of both networks after the last epoch.
    ///
    /// # Errors
    /// [`TrainError::BatchNorm`] when the device is lost.
    pub fn checkpoint(&self) -> Result<Checkpoint, TrainError> {
        let snapshots = [self.plain.network.snapshot(self.gpu)?, self.batch_norm.network.snapshot(self.gpu)?];
        Ok(Checkpoint { snapshots, epochs: [self.history.plain.clone(), self.history.batch_norm.clone()] })
    }

    /// Brings a contest that has not trained yet to where one of the same settings was.
    ///
    /// # Errors
    /// [`TrainError::BatchNorm`] for running statistics whose fields differ in length.
    pub fn restore(&mut self, checkpoint: Checkpoint) -> Result<(), TrainError> {
        let Checkpoint { snapshots: [plain, batch_norm], epochs } = checkpoint;
        self.plain.network.restore(self.gpu, &plain)?;
        self.batch_norm.network.restore(self.gpu, &batch_norm)?;
        [self.history.plain, self.history.batch_norm] = epochs;
        self.history.resumed = self.history.plain.len();
        // The order of an epoch follows from the seed and the epochs before it.
        (0..self.history.resumed).for_each(|_| self.shuffle());
        Ok(())
    }
}

impl Contestant {
    /// Trains for an epoch and evaluates. Returns the figures and the seconds of training.
    fn epoch(&self, gpu: TrainDevice<'_>, progress: &Progress) -> Result<(Epoch, f64), TrainError> {
        let start = Instant::now();
        run(gpu, &self.training, |batches| progress.advance(batches))?;
        let train = figures(gpu, &self.training)?;
        let seconds = start.elapsed().as_secs_f64();
        Ok((Epoch { train, test: self.evaluate(gpu)? }, seconds))
    }

    /// Loss and accuracy over the test set, by inference.
    ///
    /// # Errors
    /// [`TrainError::Device`] when the device fails.
    pub fn evaluate(&self, gpu: TrainDevice<'_>) -> Result<Figures, TrainError> {
        measure(gpu, &self.evaluation)
    }
}

/// Loss and accuracy of a network over `images`, by inference.
///
/// # Errors
/// [`TrainError`] when the device refuses something or fails.
pub fn evaluate(gpu: TrainDevice<'_>, images: &Images, snapshot: &Snapshot) -> Result<Figures, TrainError> {
    gpu.checked("evaluating", || {
        let pipelines = Pipelines::new(gpu.device, |kernel| kernel.source().into());
        let mut builder = Builder { gpu, pipelines, batch_norm: Kernels::new(gpu.device) };
        let network = Network::new(gpu, snapshot)?;
        let images = ResidentImages::new(gpu, images)?;
        measure(gpu, &Recording::evaluation(&network, &mut builder, &images)?)
    })
}

/// Runs a recording over all its batches and reads back what it counted.
fn measure(gpu: TrainDevice<'_>, recording: &Recording) -> Result<Figures, TrainError> {
    run(gpu, recording, |_| ())?;
    figures(gpu, recording)
}

/// Runs a recording over all its batches; `done` hears of batches submitted.
fn run(gpu: TrainDevice<'_>, recording: &Recording, done: impl Fn(usize)) -> Result<(), TrainError> {
    let mut waiting = VecDeque::new();
    for batches in recording.batches.chunks(BATCHES_PER_SUBMISSION) {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for batch in batches {
            recording.encode(&mut encoder, batch.slot);
        }
        waiting.push_back(gpu.queue.submit([encoder.finish()]));
        // Not running far ahead keeps the progress honest and the command buffers few.
        if waiting.len() > SUBMISSIONS_AHEAD {
            gpu.wait(waiting.pop_front())?;
        }
        done(batches.len());
    }
    Ok(())
}

/// Reads back what a recording counted over all its batches.
fn figures(gpu: TrainDevice<'_>, recording: &Recording) -> Result<Figures, TrainError> {
    let words: Vec<u32> = gpu.read_as(&recording.arrays.metrics)?;
    let images: f64 = recording.batches.iter().map(|batch| f64::from(batch.rows)).sum();
    let loss: f64 = words.iter().step_by(2).map(|&bits| f64::from(f32::from_bits(bits))).sum();
    let correct: f64 = words.iter().skip(1).step_by(2).map(|&count| f64::from(count)).sum();
    Ok(Figures { loss: loss / images, accuracy: correct / images })
}

/// A bar on a terminal, a line per epoch elsewhere; both on standard error.
struct Progress {
    bar: Option<ProgressBar>,
    epochs: u32,
}

impl Progress {
    /// Draws the bar, if there is a terminal, for what is left of `epochs` epochs.
    fn new(history: &History, epochs: u32) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let left = u64::from(epochs).saturating_sub(history.resumed as u64);
            let bar = ProgressBar::new(left * 2 * history.steps_per_epoch as u64);
            let template = "training {bar:16} {pos}/{len} {elapsed}<{eta} {wide_msg}";
            // The template is a constant; should it ever be wrong, the default style serves.
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar, epochs }
    }

    /// Moves the bar.
    fn advance(&self, steps: usize) {
        if let Some(bar) = &self.bar {
            bar.inc(steps as u64);
        }
    }

    /// Shows the last figures of both networks.
    fn show(&self, history: &History) {
        let figures = |epoch: Option<&Epoch>| match epoch {
            Some(epoch) => format!("loss {:.3} test {:5.2} %", epoch.train.loss, 100.0 * epoch.test.accuracy),
            None => "not yet".into(),
        };
        let both =
            format!("plain: {} | batch norm: {}", figures(history.plain.last()), figures(history.batch_norm.last()));
        match &self.bar {
            Some(bar) => bar.set_message(both),
            None if history.plain.len() == history.batch_norm.len() => {
                eprintln!("epoch {:>2}/{}  {both}", history.plain.len(), self.epochs);
            }
            None => {}
        }
    }

    /// Clears the bar.
    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
