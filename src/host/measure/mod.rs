//! Times of kernels, and plans that were measured where they run. For programs that run on a GPU which nobody has measured: a plan by
//! an estimate is sound, but it need not be the fastest.
//!
//! ```no_run
//! use batchnorm_wgpu::host::{Gpu, measure::Cache};
//! use batchnorm_wgpu::{Kernels, Layout, Options, Shape};
//! use std::time::Duration;
//!
//! let gpu = Gpu::open(None)?;
//! let shapes = [Shape::new(&[32, 64, 56, 56], Layout::ChannelsFirst)?];
//! // Measures once, for half a second at the most; the next run finds it in the user's cache directory.
//! let tuning = Cache::of_user().tuning(&gpu.device, &gpu.queue, &shapes, Duration::from_millis(500))?;
//! let kernels = Kernels::with_options(&gpu.device, Options { tuning: Some(tuning), ..Options::default() });
//! # Ok::<(), batchnorm_wgpu::Error>(())
//! ```

mod cache;
mod candidates;
mod stopwatch;
mod tensors;
mod verify;

pub use cache::Cache;
pub use stopwatch::{Job, Samples, Stopwatch, quantile, sets};

use crate::batch_norm::{BatchNorm, Step};
use crate::capabilities::adapter_key;
use crate::choice::Choice;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::gpu::Kernels;
use crate::gpu::wait::driven;
use crate::kernels::Strategy;
use crate::operation::Operation;
use crate::shape::Shape;
use crate::tuning::{Preference, Tuning, TuningPoint};
use candidates::{Candidate, candidates, refinements};
use std::time::Duration;
use stopwatch::Instant;
use tensors::TensorSets;

/// The operations that are measured, in order.
pub const OPERATIONS: [Operation; 4] =
    [Operation::ForwardTraining, Operation::BackwardTraining, Operation::Inference, Operation::BackwardFrozen];

impl Tuning {
    /// Measures on this device which plans are fastest for these shapes in f32, for [`Options::tuning`](crate::Options::tuning).
    /// Of views it measures the channels alone, as whole tensors. Each of [`OPERATIONS`] on each shape has an equal share of what is
    /// left of the budget. First the plan is measured that it would have without, then what is likely to be faster, so that a
    /// larger budget finds what a smaller one does, or better. 100 milliseconds for an operation and shape are plenty on a GPU.
    /// Whoever wins is run on a small tensor and held against the [reference](crate::reference) before it is taken.
    ///
    /// The device should do nothing else meanwhile. Up to 256 MiB, and at least three tensors, are taken and given back. What the
    /// budget, or memory, does not reach keeps the plan that it has; the log says so at the level `info`. The budget is looked at
    /// between kernels: the last may go beyond it by what a compiler takes.
    ///
    /// Blocks; [`Tuning::measure_async`] does not. [`Cache::tuning`](crate::host::measure::Cache::tuning) measures only what no earlier
    /// run has.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn measure(device: &wgpu::Device, queue: &wgpu::Queue, shapes: &[Shape], budget: Duration) -> Result<Self> {
        driven(device, Self::measure_async(device, queue, shapes, budget))
    }

    /// As [`Tuning::measure`], without blocking. On native backends somebody else must poll the device while it is awaited; in a
    /// browser nobody has to.
    ///
    /// # Errors
    /// As [`Tuning::measure`].
    pub async fn measure_async(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        shapes: &[Shape],
        budget: Duration,
    ) -> Result<Self> {
        let wanted = shapes.iter().flat_map(|shape| OPERATIONS.map(|operation| (operation, shape)));
        let points = points(device, queue, &wanted.collect::<Vec<_>>(), budget).await?;
        Ok(Self { measured: measured_on(&device.adapter_info()), ..known(device) }.with_points(points))
    }
}

/// What plans go by without a measurement, as a tuning of this adapter.
fn known(device: &wgpu::Device) -> Tuning {
    let info = device.adapter_info();
    Tuning { adapter: adapter_key(&info), ..Tuning::built_in(&info) }
}

/// What a tuning says it was measured on.
fn measured_on(info: &wgpu::AdapterInfo) -> String {
    format!("{} {}, batchnorm-wgpu {}", info.driver, info.driver_info, env!("CARGO_PKG_VERSION"))
}

/// Measures as many of these as the budget allows, at least one unless there is none.
async fn points(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    wanted: &[(Operation, &Shape)],
    budget: Duration,
) -> Result<Vec<TuningPoint>> {
    let (begin, mut points) = (Instant::now(), Vec::new());
    let mut tuner = Tuner::new(&Kernels::new(device), queue);
    for (i, (operation, shape)) in wanted.iter().enumerate() {
        let left = budget.saturating_sub(begin.elapsed());
        if left.is_zero() && (i > 0 || budget.is_zero()) {
            log::info!(
                "{} of {} not tuned, such as {operation} {shape}: the budget is spent",
                wanted.len() - i,
                wanted.len()
            );
            break;
        }
        match tuner.measure_async(*operation, shape, Some(left / (wanted.len() - i) as u32)).await {
            Ok(found) => points.push(found.point),
            Err(error @ Error::DeviceLost { .. }) => return Err(error),
            Err(error) => log::info!("{operation} {shape}: not tuned: {error}"),
        }
    }
    Ok(points)
}

/// Finds the fastest plan of an operation on a shape by measuring.
#[derive(Debug)]
pub struct Tuner {
    kernels: Kernels,
    queue: wgpu::Queue,
    watch: Option<Stopwatch>,
    tensors: Option<TensorSets>,
}

/// What a [`Tuner`] found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Found {
    /// For a [`Tuning`].
    pub point: TuningPoint,
    /// The plan that it leads to.
    pub choice: Choice,
    /// Microseconds that the plan takes, and those that it took by the kernels' own tuning or estimate: medians of samples in turn.
    pub microseconds: [f64; 2],
    /// How many plans were measured.
    pub tried: usize,
    /// How many the budget left out.
    pub left_out: usize,
}

/// Candidates that are measured again, more carefully, and once more.
const SEMIFINALISTS: usize = 16;
const FINALISTS: usize = 4;
/// Differences that may be chance.
const NOISE: f64 = 0.02;
/// How long a sample lasts in each of the three rounds, and how many there are. A small budget has shorter ones.
const GLANCE: Duration = Duration::from_millis(2);
const SEMIFINAL: (usize, Duration) = (3, Duration::from_millis(6));
const FINAL: (usize, Duration) = (7, Duration::from_millis(15));
/// Samples that a budget should have room for.
const SAMPLES: u32 = 64;

/// A candidate with its steps and the times of one.
struct Contender {
    candidate: Candidate,
    steps: Vec<Step>,
    /// Steps of a sample.
    count: usize,
    samples: Samples,
}

impl Tuner {
    /// Measures with these kernels, on their device. [`Kernels::tuning`] is what it begins with.
    pub fn new(kernels: &Kernels, queue: &wgpu::Queue) -> Self {
        Self { kernels: kernels.clone(), queue: queue.clone(), watch: None, tensors: None }
    }

    /// Finds the fastest plan: of all candidates without a budget, else of as many as it allows, but of two at the least. Blocks.
    ///
    /// # Errors
    /// [`Error::WrongResult`] where nothing that can run computes what the reference does; [`Error::OutOfMemory`] and [`Error::Limit`]
    /// where the device has no room for the tensors; what else the device reports.
    pub fn measure(&mut self, operation: Operation, shape: &Shape, budget: Option<Duration>) -> Result<Found> {
        let device = self.kernels.device().clone();
        driven(&device, self.measure_async(operation, shape, budget))
    }

    /// As [`Tuner::measure`], without blocking.
    ///
    /// # Errors
    /// As [`Tuner::measure`].
    pub async fn measure_async(
        &mut self,
        operation: Operation,
        shape: &Shape,
        budget: Option<Duration>,
    ) -> Result<Found> {
        let begin = Instant::now();
        let until = |share: f64| budget.map(|budget| begin + budget.mul_f64(share));
        let sample = |most: Duration| budget.map_or(most, |budget| most.min(budget / SAMPLES));
        let shape = Shape::new(shape.dims(), shape.layout())?;
        self.prepare(operation, &shape).await?;
        let race = self.race(operation)?;
        let all = candidates(operation, &shape, self.kernels.capabilities(), self.kernels.tuning());
        let mut seen = Vec::new();
        let number = all.len();
        for candidate in all {
            // One alone has nothing to be compared with.
            if seen.len() >= 2 && passed(until(0.5)) {
                break;
            }
            seen.extend(race.enter(candidate, sample(GLANCE)).await?);
        }
        let tried = seen.len();
        let own = seen.first().map(|contender| contender.candidate);
        // What runs without a measurement goes on to the end: it is what others have to beat.
        let mut few = race.fastest(seen, SEMIFINALISTS, own);
        if few.len() > FINALISTS {
            race.run(&mut few, SEMIFINAL.0, sample(SEMIFINAL.1), until(0.75)).await?;
        }
        let mut few = race.fastest(few, FINALISTS, own);
        let best = few.iter().min_by(|one, other| one.samples.median().total_cmp(&other.samples.median()));
        let further = best.map(|best| refinements(best.candidate.0, operation, &shape, self.kernels.capabilities()));
        for candidate in further.into_iter().flatten() {
            let is_new = few.iter().all(|contender| contender.candidate.1 != candidate.1);
            if is_new && !passed(until(0.8)) {
                few.extend(race.enter(candidate, sample(GLANCE)).await?);
            }
        }
        race.run(&mut few, FINAL.0, sample(FINAL.1), until(1.0)).await?;
        let (winner, without) = self.winner(&mut few, operation, &shape, own).await?;
        let (prefer, choice) = winner.candidate;
        let point = TuningPoint::new(operation, &shape, self.for_other_shapes(operation, &shape, prefer, &choice)?);
        let microseconds = [winner.samples.median(), without];
        Ok(Found { point, choice, microseconds, tried, left_out: number.saturating_sub(tried) })
    }

    /// Makes tensors and a clock for an operation on a shape, where they are not there yet.
    async fn prepare(&mut self, operation: Operation, shape: &Shape) -> Result<()> {
        let layer = BatchNorm::new(&self.kernels, shape.clone(), Config::default())?;
        if self.tensors.as_ref().is_none_or(|tensors| tensors.shape() != shape) {
            // Those of the shape before give their memory back first.
            self.tensors = None;
            self.tensors = Some(TensorSets::new(&layer, &self.queue)?);
        }
        if let (Some(tensors), None) = (&self.tensors, &self.watch) {
            let steps = tensors.steps(&layer, operation)?;
            self.watch = Some(Stopwatch::new_async(self.kernels.device(), &self.queue, &job(&steps)).await?);
        }
        Ok(())
    }

    /// What all candidates are measured by, once it is prepared.
    fn race(&self, operation: Operation) -> Result<Race<'_>> {
        match (&self.tensors, &self.watch) {
            (Some(tensors), Some(watch)) => Ok(Race { kernels: &self.kernels, tensors, watch, operation }),
            _ => Err(Error::Device { during: "measuring", reason: "tensors and a clock were not prepared".into() }),
        }
    }

    /// The fastest whose results are right; of those that are as fast as can be told the one that comes first: simple before special.
    /// Besides, what the plan without a measurement takes.
    async fn winner<'a>(
        &self,
        few: &'a mut Vec<Contender>,
        operation: Operation,
        shape: &Shape,
        own: Option<Candidate>,
    ) -> Result<(&'a Contender, f64)> {
        let without = few.iter().find(|contender| Some(contender.candidate) == own);
        let without = without.map_or(f64::NAN, |contender| contender.samples.median());
        let mut wrong = None;
        while !few.is_empty() {
            let fastest = few.iter().map(|contender| contender.samples.median()).fold(f64::INFINITY, f64::min);
            let alike = |contender: &Contender| contender.samples.median() * (1.0 - NOISE) <= fastest;
            let at = few.iter().position(alike).unwrap_or_default();
            match verify::verify(&self.kernels, &self.queue, operation, shape, &few[at].candidate.1).await {
                Ok(()) => return Ok((&few[at], without)),
                Err(error @ Error::WrongResult { .. }) => {
                    log::error!("{error}; another plan is taken");
                    few.remove(at);
                    wrong = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        let nothing = || Error::KernelUnavailable { kernel: operation.name().into(), reason: "no plan can run".into() };
        Err(wrong.unwrap_or_else(nothing))
    }

    /// As many workgroups as ran: a shape with fewer channels shall split them.
    fn for_other_shapes(
        &self,
        operation: Operation,
        shape: &Shape,
        prefer: Preference,
        choice: &Choice,
    ) -> Result<Preference> {
        let layer = BatchNorm::with_choice(&self.kernels, shape.clone(), Config::default(), choice)?;
        let ran = layer.plan(operation)?.preference().workgroups;
        let workgroups = if prefer.strategy() == Strategy::Split { prefer.workgroups.max(ran) } else { 0 };
        Ok(Preference { workgroups, ..prefer })
    }
}

/// Whether a time limit, if there is one, is over.
fn passed(until: Option<Instant>) -> bool {
    until.is_some_and(|until| Instant::now() >= until)
}

fn job(steps: &[Step]) -> Job<'_> {
    Job { steps: steps.len(), encode: Box::new(|i, pass| steps[i].encode(pass)) }
}

/// What all candidates for an operation on a shape are measured by.
struct Race<'a> {
    kernels: &'a Kernels,
    tensors: &'a TensorSets,
    watch: &'a Stopwatch,
    operation: Operation,
}

impl Race<'_> {
    /// Binds a candidate and takes a glance at it; none where it cannot run.
    async fn enter(&self, candidate: Candidate, least: Duration) -> Result<Option<Contender>> {
        let layer = BatchNorm::with_choice(self.kernels, self.tensors.shape().clone(), Config::default(), &candidate.1);
        let steps = match layer.and_then(|layer| self.tensors.steps(&layer, self.operation)) {
            Ok(steps) => steps,
            Err(error @ Error::DeviceLost { .. }) => return Err(error),
            // A driver may refuse what another takes.
            Err(error) => {
                log::info!("{} {}: {:?}: {error}", self.operation, self.tensors.shape(), candidate.1);
                return Ok(None);
            }
        };
        let (count, lasted) = self.watch.calibrate(&job(&steps), least).await?;
        let samples = Samples { steps: count, times: vec![lasted / count as f64] };
        Ok(Some(Contender { candidate, steps, count, samples }))
    }

    /// Times them in turn, so many rounds or until time is up, but once at least. Samples last `least`, by what is known of them.
    async fn run(&self, all: &mut [Contender], rounds: usize, least: Duration, until: Option<Instant>) -> Result<()> {
        for contender in all.iter_mut() {
            let known = contender.samples.median();
            if known.is_finite() {
                contender.count = (least.as_secs_f64() * 1e6 / known).ceil().clamp(1.0, 16384.0) as usize;
            }
            contender.samples = Samples { steps: contender.count, times: Vec::new() };
        }
        for round in 0..rounds {
            if round > 0 && passed(until) {
                break;
            }
            for contender in all.iter_mut() {
                let time = self.watch.sample(&job(&contender.steps), contender.count).await?;
                contender.samples.times.push(time / contender.count as f64);
            }
        }
        Ok(())
    }

    /// The fastest few and `own`, in the order in which they came.
    fn fastest(&self, all: Vec<Contender>, number: usize, own: Option<Candidate>) -> Vec<Contender> {
        let mut times: Vec<f64> = all.iter().map(|contender| contender.samples.median()).collect();
        times.sort_by(f64::total_cmp);
        let most = times.get(number.saturating_sub(1)).or(times.last()).copied().unwrap_or(f64::INFINITY);
        let stays = |contender: &Contender| contender.samples.median() <= most || Some(contender.candidate) == own;
        all.into_iter().filter(stays).collect()
    }
}
