//! Times of kernels, and plans that were measured where they run. For programs that run on a GPU which nobody has measured: a plan by
//! an estimate is sound, but it need not be the fastest.
//!
//! ```no_run
//! use batchnorm_wgpu::host::{Gpu, measure};
//! use batchnorm_wgpu::{Kernels, Layout, Options, Shape};
//! use std::time::Duration;
//!
//! let gpu = Gpu::open_with(None, measure::Stopwatch::FEATURES)?;
//! let shapes = [Shape::new(&[32, 64, 56, 56], Layout::ChannelsFirst)?];
//! // Measures for about half a second; the next run finds it in the user's cache directory.
//! let tuning = measure::Cache::of_user().tuning(&gpu.device, &gpu.queue, &shapes, Duration::from_millis(500))?;
//! let kernels = Kernels::with_options(&gpu.device, Options { tuning: Some(tuning), ..Options::default() });
//! # Ok::<(), batchnorm_wgpu::Error>(())
//! ```

mod cache;
mod candidates;
mod stopwatch;
mod tensors;
mod verify;

pub use cache::Cache;
pub use stopwatch::{Encode, Job, Samples, Stopwatch, quantile, sets};
pub use verify::smaller;

use crate::batch_norm::{BatchNorm, Step};
use crate::capabilities::{Capabilities, adapter_key};
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
use stopwatch::{Instant, MOST_STEPS};
use tensors::MeasuredTensors;

/// The operations that are measured, in order.
pub const OPERATIONS: [Operation; 4] =
    [Operation::ForwardTraining, Operation::BackwardTraining, Operation::Inference, Operation::BackwardFrozen];

impl Tuning {
    /// Measures on this device which plans are fastest for these shapes in f32, for [`Options::tuning`](crate::Options::tuning).
    /// Shapes that come several times count once, and of views the channels count, as whole tensors. First comes the plan that an
    /// operation would have without a measurement, then what is likely to be faster, so that a larger budget finds what a smaller
    /// one does, or better. A plan is taken if it was faster by more than chance, and if its results on a small tensor hold against
    /// the [reference](crate::reference). Its point also serves shapes nearby, as any tuning does.
    ///
    /// Each of [`OPERATIONS`] on each shape has an equal share of what is left of the budget, but at least two plans are compared
    /// before the next one has its turn; the tensors, the clock, the last kernels and the verification come on top. What is not
    /// reached keeps the plan that it has, and the log says so at the level `info`. The device should do nothing else meanwhile. About
    /// 256 MiB, but at least three tensors, are taken and given back.
    ///
    /// Times are the device's own where it was opened with [`Stopwatch::FEATURES`](crate::host::measure::Stopwatch::FEATURES), which
    /// are better. Blocks; [`Tuning::measure_async`] does not. Measures every time it is called:
    /// [`Cache::tuning`](crate::host::measure::Cache::tuning) only what no earlier run has.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn measure(device: &wgpu::Device, queue: &wgpu::Queue, shapes: &[Shape], budget: Duration) -> Result<Self> {
        driven(device, "measuring", Self::measure_async(device, queue, shapes, budget))
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
        let points = points(device, queue, &wanted(shapes), budget).await?;
        Ok(Self { measured: measured_on(device), ..known(device) }.with_points(points))
    }
}

/// What plans go by without a measurement, as a tuning of this adapter.
fn known(device: &wgpu::Device) -> Tuning {
    let info = device.adapter_info();
    Tuning { adapter: adapter_key(&info), ..Tuning::built_in(&info) }
}

/// What a tuning says it was measured on: a device that was opened otherwise has other plans.
fn measured_on(device: &wgpu::Device) -> String {
    let (info, Capabilities { limits, subgroups, .. }) = (device.adapter_info(), Capabilities::of(device));
    let subgroups = if subgroups { "subgroups" } else { "no subgroups" };
    let (invocations, version) = (limits.max_compute_invocations_per_workgroup, env!("CARGO_PKG_VERSION"));
    format!("{} {}, {subgroups}, {invocations} invocations, batchnorm-wgpu {version}", info.driver, info.driver_info)
}

/// Every operation on every shape, once, but for what one value per channel does not allow.
fn wanted(shapes: &[Shape]) -> Vec<(Operation, &Shape)> {
    let mut all: Vec<(Operation, &Shape)> = Vec::new();
    for (shape, operation) in shapes.iter().flat_map(|shape| OPERATIONS.map(|operation| (shape, operation))) {
        let is_known = all.iter().any(|(other, known)| {
            *other == operation && (known.dims(), known.layout()) == (shape.dims(), shape.layout())
        });
        if !is_known && (!operation.trains() || shape.check_trainable().is_ok()) {
            all.push((operation, shape));
        }
    }
    all
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
    tensors: Option<MeasuredTensors>,
}

/// What a [`Tuner`] found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Found {
    /// For a [`Tuning`].
    pub point: TuningPoint,
    /// The plan that it leads to.
    pub choice: Choice,
    /// Microseconds that the plan takes: the median of samples.
    pub microseconds: f64,
    /// Those of the plan by the kernels' own tuning or estimate, timed in turn with it; NaN where that cannot run.
    pub microseconds_without: f64,
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
/// Rounds, the least and the most, and how long a sample lasts; a small budget has shorter ones.
const GLANCE: Duration = Duration::from_millis(2);
const SEMIFINAL: (usize, usize, Duration) = (1, 3, Duration::from_millis(6));
const FINAL: (usize, usize, Duration) = (3, 7, Duration::from_millis(15));
/// Samples that a budget should have room for.
const SAMPLES: u32 = 64;

/// A candidate with its steps and the times of one.
struct Contender {
    candidate: Candidate,
    steps: Vec<Step>,
    samples: Samples,
}

impl Contender {
    fn kernels(&self) -> Vec<&str> {
        self.steps.first().map(|step| step.kernels().collect()).unwrap_or_default()
    }

    /// Whether it is faster by more than chance: in three of four samples that were taken in turn.
    fn beats(&self, other: &Self) -> bool {
        quantile(&self.samples.speeds_over(&other.samples), 0.25) > 1.0 + NOISE
    }
}

/// A budget that began to be spent.
#[derive(Clone, Copy)]
struct Allowance {
    begin: Instant,
    budget: Option<Duration>,
}

impl Allowance {
    /// Whether so much of it is spent.
    fn has_spent(&self, share: f64) -> bool {
        self.budget.is_some_and(|budget| self.begin.elapsed().as_secs_f64() >= share * budget.as_secs_f64())
    }

    /// How long a sample lasts.
    fn sample(&self, most: Duration) -> Duration {
        self.budget.map_or(most, |budget| most.min(budget / SAMPLES))
    }
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
        driven(&device, "measuring", self.measure_async(operation, shape, budget))
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
        let allowance = Allowance { begin: Instant::now(), budget };
        let shape = Shape::new(shape.dims(), shape.layout())?;
        if operation.trains() {
            shape.check_trainable()?;
        }
        self.prepare(operation, &shape).await?;
        let race = self.race(operation)?;
        let all = candidates(operation, &shape, self.kernels.capabilities(), self.kernels.tuning());
        let (own, number) = (all.first().copied(), all.len());
        let (mut seen, mut tried) = (Vec::new(), 0);
        for candidate in all {
            // One alone has nothing to be compared with.
            if tried >= 2 && allowance.has_spent(0.5) {
                break;
            }
            seen.extend(race.enter(candidate, allowance.sample(GLANCE)).await?);
            tried += 1;
        }
        // What runs without a measurement goes on to the end: it is what others have to beat.
        let (mut few, mut slow) = fastest(seen, SEMIFINALISTS, own);
        if few.len() > FINALISTS {
            race.run(&mut few, SEMIFINAL, allowance, 0.7).await?;
        }
        let (mut few, slower) = fastest(few, FINALISTS, own);
        slow.extend(slower);
        let best = few.iter().min_by(|one, other| one.samples.median().total_cmp(&other.samples.median()));
        let further = best.map(|best| refinements(best.candidate.0, operation, &shape, self.kernels.capabilities()));
        for candidate in further.into_iter().flatten() {
            let is_new = few.iter().all(|contender| contender.candidate.1 != candidate.1);
            if is_new && !allowance.has_spent(0.75) {
                few.extend(race.enter(candidate, allowance.sample(GLANCE)).await?);
            }
        }
        race.run(&mut few, FINAL, allowance, 0.9).await?;
        let without = few.iter().find(|contender| Some(contender.candidate) == own);
        let microseconds_without = without.map_or(f64::NAN, |contender| contender.samples.median());
        let winner = self.winner(few, slow, operation, &shape, own).await?;
        let ((prefer, choice), microseconds) = (winner.candidate, winner.samples.median());
        let prefer = match Some(winner.candidate) == own {
            true => prefer,
            false => self.for_other_shapes(operation, &shape, prefer, &choice)?,
        };
        let point = TuningPoint::new(operation, &shape, prefer);
        Ok(Found { point, choice, microseconds, microseconds_without, tried, left_out: number - tried })
    }

    /// Gives the tensors of the last shape back.
    pub fn release(&mut self) {
        self.tensors = None;
    }

    /// Makes tensors and a clock for an operation on a shape, where they are not there yet.
    async fn prepare(&mut self, operation: Operation, shape: &Shape) -> Result<()> {
        let layer = BatchNorm::new(&self.kernels, shape.clone(), Config::default())?;
        if self.tensors.as_ref().is_none_or(|tensors| tensors.shape() != shape) {
            // Those of the shape before give their memory back first.
            self.tensors = None;
            self.tensors = Some(MeasuredTensors::new(&layer, &self.queue)?);
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
    /// Where one is wrong, all with its kernels are passed over. `slow` are those that a glance took for slower.
    async fn winner(
        &self,
        mut few: Vec<Contender>,
        mut slow: Vec<Contender>,
        operation: Operation,
        shape: &Shape,
        own: Option<Candidate>,
    ) -> Result<Contender> {
        slow.sort_by(|one, other| one.samples.median().total_cmp(&other.samples.median()));
        let mut refused = None;
        while !few.is_empty() || !slow.is_empty() {
            let contender = if few.is_empty() { slow.remove(0) } else { few.remove(likeliest(&few, own)) };
            match verify::verify(&self.kernels, &self.queue, operation, shape, &contender.candidate.1).await {
                Ok(()) => return Ok(contender),
                Err(error @ Error::DeviceLost { .. }) => return Err(error),
                Err(error) => {
                    if matches!(error, Error::WrongResult { .. }) {
                        log::error!("{error}");
                        let is_other = |other: &Contender| other.kernels() != contender.kernels();
                        few.retain(is_other);
                        slow.retain(is_other);
                    } else {
                        log::info!("{operation} {shape}: not verified: {error}");
                    }
                    refused = Some(error);
                }
            }
        }
        let nothing = || Error::KernelUnavailable { kernel: operation.name().into(), reason: "no plan can run".into() };
        Err(refused.unwrap_or_else(nothing))
    }

    /// Stores how many workgroups ran, so that a shape with fewer channels splits each column over more of them.
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

/// The place of the one to take.
fn likeliest(few: &[Contender], own: Option<Candidate>) -> usize {
    let fastest = few.iter().map(|contender| contender.samples.median()).fold(f64::INFINITY, f64::min);
    let alike = |contender: &Contender| contender.samples.median() * (1.0 - NOISE) <= fastest;
    let at = few.iter().position(alike).unwrap_or_default();
    let own = few.iter().position(|contender| Some(contender.candidate) == own);
    own.filter(|&own| own != at && !few[at].beats(&few[own])).unwrap_or(at)
}

/// The fastest few and `own`, in the order in which they came; and the others.
fn fastest(all: Vec<Contender>, number: usize, own: Option<Candidate>) -> (Vec<Contender>, Vec<Contender>) {
    let mut times: Vec<f64> = all.iter().map(|contender| contender.samples.median()).collect();
    times.sort_by(f64::total_cmp);
    let most = times.get(number - 1).or(times.last()).copied().unwrap_or(f64::INFINITY);
    all.into_iter().partition(|contender| contender.samples.median() <= most || Some(contender.candidate) == own)
}

fn job(steps: &[Step]) -> Job<'_> {
    Job { steps: steps.len(), encode: Box::new(|i, pass| steps[i].encode(pass)) }
}

/// What all candidates for an operation on a shape are measured by.
struct Race<'a> {
    kernels: &'a Kernels,
    tensors: &'a MeasuredTensors,
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
        Ok(Some(Contender { candidate, steps, samples }))
    }

    /// Times them in turn, until so much of the budget is spent. Samples last so long, by what is known of the steps.
    async fn run(
        &self,
        all: &mut [Contender],
        (least, most, sample): (usize, usize, Duration),
        allowance: Allowance,
        share: f64,
    ) -> Result<()> {
        let wanted = allowance.sample(sample).as_secs_f64() * 1e6;
        for Contender { samples, .. } in all.iter_mut() {
            // A coarse clock may say 0: `max` makes 1 of what is no number.
            let steps = (wanted / samples.median()).ceil().max(1.0).min(MOST_STEPS as f64) as usize;
            *samples = Samples { steps, times: Vec::new() };
        }
        for round in 0..most {
            if round >= least && allowance.has_spent(share) {
                break;
            }
            for Contender { steps, samples, .. } in all.iter_mut() {
                let time = self.watch.sample(&job(steps), samples.steps).await?;
                samples.times.push(time / samples.steps as f64);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_send(_: impl Send) {}

    /// So that they can be awaited on any thread.
    #[allow(dead_code)]
    fn async_calls_are_send(device: &wgpu::Device, queue: &wgpu::Queue, shapes: &[Shape]) {
        is_send(Tuning::measure_async(device, queue, shapes, Duration::ZERO));
        is_send(Cache::of_user().tuning_async(device, queue, shapes, Duration::ZERO));
    }

    #[test]
    fn every_operation_on_every_shape_comes_once() {
        use crate::shape::{Layout, View, Views};
        let of = |dims| Shape::new(dims, Layout::ChannelsFirst).unwrap();
        let view = of(&[4, 3, 5]).with_views(Views { x: Some(View { first: 0, of: 9 }), ..Views::default() }).unwrap();
        let shapes = [of(&[4, 3, 5]), view, of(&[4, 3, 5]), of(&[1, 3]), of(&[4, 3, 6])];
        let names: Vec<String> =
            wanted(&shapes).iter().map(|(operation, shape)| format!("{operation} {shape}")).collect();
        assert_eq!(names.len(), 4 + 2 + 4, "{names:?}");
        assert_eq!(names[4], "inference 1x3 channels_first");
    }

    #[test]
    fn no_budget_is_too_large() {
        let allowance = |budget| Allowance { begin: Instant::now(), budget };
        assert!(!allowance(Some(Duration::MAX)).has_spent(1.0));
        assert!(!allowance(None).has_spent(0.0));
        assert!(allowance(Some(Duration::ZERO)).has_spent(1.0));
        assert_eq!(allowance(Some(Duration::MAX)).sample(GLANCE), GLANCE);
    }
}
