//! `bn tune`: finds the fastest plan for each operation and shape on an adapter, and writes a tuning file.

use super::candidates::{Candidate, candidates, refinements};
use super::clock::{FEATURES, Samples, Stopwatch};
use super::copy::CopyKernel;
use super::machine::{processor, today};
use super::subjects::{OPERATIONS, Subject, subjects};
use super::tensors::{TensorSets, Use, job};
use super::verify::verify;
use crate::adapter::AdapterArgs;
use crate::deadline::TimeLimit;
use crate::output::{Claim, Folder, progress};
use crate::terminal::{number, table, text};
use crate::{AnyError, ExitStatus};
use batchnorm_wgpu::host::Gpu;
use batchnorm_wgpu::kernels::Strategy;
use batchnorm_wgpu::{
    BatchNorm, Choice, Config, DType, Kernels, Operation, Preference, Shape, Step, Tuning, TuningPoint, Views,
};
use batchnorm_wgpu_check::suite::Expectations;
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `bn tune`.
#[derive(clap::Args)]
pub struct TuneArgs {
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Measure only the small shapes
    #[arg(long)]
    quick: bool,
    /// Measure only these shapes, in this order; the same values as `bn bench --shapes`
    #[arg(long, value_name = "TEXTS")]
    shapes: Option<String>,
    #[command(flatten)]
    limit: TimeLimit,
    /// The tuning file to write; one that exists is replaced only with --force
    #[arg(long, value_name = "FILE", default_value = "tuning.json")]
    out: PathBuf,
}

/// Candidates that are measured again, more carefully, and once more.
const SEMIFINALISTS: usize = 16;
const FINALISTS: usize = 4;
/// Differences that may be chance.
const NOISE: f64 = 0.02;

struct Tuner<'a> {
    gpu: &'a Gpu,
    kernels: Kernels,
    copy: &'a CopyKernel,
    watch: Stopwatch<'a>,
}

/// A candidate with its fraction of the copy kernel's speed.
type Ranked = (Candidate, f64);

/// Measures the candidates of every operation and shape.
pub fn run(arguments: &TuneArgs) -> Result<ExitStatus, AnyError> {
    let deadline = arguments.limit.start();
    let file = Claim::result(&arguments.out, Folder::Exists)?;
    let gpu = arguments.adapter.open_with(FEATURES)?;
    let (mut subjects, too_large) = subjects(&gpu, !arguments.quick, arguments.shapes.as_deref())?;
    // A point of a tuning says nothing of views, which take the plans of whole tensors.
    let is_whole = |subject: &Subject| subject.shape.views() == Views::default();
    if let Some(Subject { shape, .. }) = subjects.iter().find(|it| arguments.shapes.is_some() && !is_whole(it)) {
        return Err(format!("{shape}: expected whole tensors, which a tuning is for; leave out views").into());
    }
    subjects.retain(is_whole);
    let copy = CopyKernel::fastest(&gpu)?;
    let watch = Stopwatch::new(&gpu, &copy.job())?;
    let tuner = Tuner { gpu: &gpu, kernels: Kernels::new(&gpu.device), copy: &copy, watch };
    let bar = progress((subjects.len() * OPERATIONS.len()) as u64, &gpu.key());
    let measured = format!("{}: {} {} on {}", today(), gpu.info.driver, gpu.info.driver_info, processor());
    let mut tuning = Tuning { adapter: gpu.key(), measured, ..Tuning::none() };
    let (mut left_out, mut failures) = (Vec::new(), too_large);
    for Subject { shape, .. } in &subjects {
        if deadline.passed() {
            left_out.push(shape.to_string());
            continue;
        }
        let Some(tensors) = noted(&mut failures, &shape.to_string(), TensorSets::new(&gpu, shape, DType::F32)) else {
            continue;
        };
        for operation in OPERATIONS {
            let what = format!("{operation} {shape}");
            bar.set_message(what.clone());
            match deadline.passed() {
                true => left_out.push(what),
                false => tuning.points.extend(noted(&mut failures, &what, tuner.point(&tensors, operation))),
            }
            bar.inc(1);
        }
        // After every shape: whatever ends the run early, what was measured is there.
        if !tuning.points.is_empty() {
            file.write((tuning.to_json() + "\n").as_bytes())?;
        }
    }
    bar.finish_and_clear();
    if let Some(left_out) = arguments.limit.left_out(&left_out) {
        eprintln!("{left_out}");
    }
    if tuning.points.is_empty() {
        let why = if failures.is_empty() { "the time limit came first".into() } else { failures.join("; ") };
        return Err(format!("nothing was measured: {why}").into());
    }
    print(&tuning.points);
    eprintln!("tuning: {}; `bn bench --tuning {0}` goes by it", arguments.out.display());
    match failures.is_empty() {
        true => Ok(ExitStatus::Passed),
        false => Err(format!("not measured:\n  {}", failures.join("\n  ")).into()),
    }
}

/// What came of something, or nothing and a note of why.
fn noted<T>(failures: &mut Vec<String>, what: &str, outcome: Result<T, AnyError>) -> Option<T> {
    outcome.map_err(|error| failures.push(format!("{what}: {error}"))).ok()
}

impl Tuner<'_> {
    fn point(&self, tensors: &TensorSets, operation: Operation) -> Result<TuningPoint, AnyError> {
        let shape = tensors.shape();
        let capabilities = self.kernels.capabilities();
        let all = candidates(operation, shape, capabilities);
        // Most are far too slow: a glance at each tells.
        let mut few = self.rank(tensors, operation, all, 1, Duration::from_millis(2))?;
        few.truncate(SEMIFINALISTS);
        let few = few.into_iter().map(|(candidate, _)| candidate).collect();
        let mut ranked = self.rank(tensors, operation, few, 3, Duration::from_millis(6))?;
        ranked.truncate(FINALISTS);
        if let Some(((best, _), _)) = ranked.first().copied() {
            let known: Vec<Choice> = ranked.iter().map(|((_, choice), _)| *choice).collect();
            let further = refinements(best, operation, shape, capabilities);
            ranked.extend(further.into_iter().filter(|(_, choice)| !known.contains(choice)).map(|one| (one, 0.0)));
        }
        let finalists: Vec<Candidate> = ranked.into_iter().map(|(candidate, _)| candidate).collect();
        let ranked = self.rank(tensors, operation, finalists.clone(), 7, Duration::from_millis(15))?;
        // Of those that are as fast as can be told, the one that comes first: simple before special.
        let fastest = ranked.first().map_or(0.0, |(_, fraction)| *fraction);
        let alike = |candidate: &Candidate| {
            ranked.iter().find(|(other, fraction)| other == candidate && *fraction >= (1.0 - NOISE) * fastest).copied()
        };
        let ((prefer, choice), fraction) = finalists.iter().find_map(alike).ok_or("no plan can run")?;
        let layer = BatchNorm::with_choice(&self.kernels, shape.clone(), Config::default(), &choice)?;
        let plan = layer.plan(operation)?;
        let mut expectations = Expectations::default();
        verify(self.gpu, &self.kernels, (operation, false), shape, &Config::default(), &plan, &mut expectations)?;
        // As many as ran: a shape with fewer channels shall split them.
        let ran = plan.preference().workgroups;
        let workgroups = if prefer.strategy() == Strategy::Split { prefer.workgroups.max(ran) } else { 0 };
        Ok(point(operation, shape, Preference { workgroups, ..prefer }, fraction))
    }

    /// The candidates, the fastest first; all are timed in turn.
    fn rank(
        &self,
        tensors: &TensorSets,
        operation: Operation,
        candidates: Vec<Candidate>,
        rounds: usize,
        least: Duration,
    ) -> Result<Vec<Ranked>, AnyError> {
        let steps = |(_, choice): &Candidate| -> Result<Vec<Step>, AnyError> {
            let shape = tensors.shape().clone();
            let layer = BatchNorm::with_choice(&self.kernels, shape, Config::default(), choice)?;
            tensors.steps(self.gpu, &layer, operation, Use::Plain)
        };
        let bound = candidates.iter().map(steps).collect::<Result<Vec<_>, _>>()?;
        let jobs: Vec<_> = std::iter::once(self.copy.job()).chain(bound.iter().map(|steps| job(steps))).collect();
        let samples = self.watch.measure(&jobs.iter().collect::<Vec<_>>(), rounds, least)?;
        let bytes = u64::from(operation.least_moves()) * tensors.shape().elements() as u64 * 4;
        let fraction = |own: &Samples| self.copy.fraction(&samples[0], own, bytes);
        let mut ranked: Vec<Ranked> = candidates.into_iter().zip(samples[1..].iter().map(fraction)).collect();
        ranked.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        Ok(ranked)
    }
}

fn point(operation: Operation, shape: &Shape, prefer: Preference, fraction: f64) -> TuningPoint {
    TuningPoint {
        operation,
        rows: shape.inner() == 1,
        channels: shape.channels() as u64,
        values: shape.elements_per_channel() as u64,
        prefer,
        fraction_of_copy: Some((fraction * 1e3).round() / 1e3),
    }
}

fn print(points: &[TuningPoint]) {
    let rows = points.iter().map(|point| {
        let Preference { choice, workgroups } = point.prefer;
        vec![
            point.operation.to_string(),
            point.channels.to_string(),
            point.values.to_string(),
            point.fraction_of_copy.map_or(String::new(), |fraction| format!("{fraction:.2}")),
            point.prefer.strategy().to_string(),
            if point.rows { "rows" } else { "planes" }.into(),
            choice.geometry.map_or("widest".into(), |geometry| geometry.to_string()),
            choice.reduction.map_or("any".into(), |reduction| reduction.to_string()),
            point.prefer.workgroup_size().to_string(),
            choice.held().map_or_else(|| format!("{workgroups} workgroups"), |held| format!("held {held}")),
            if choice.reverse() == Some(true) { "yes" } else { "no" }.into(),
        ]
    });
    let columns = [
        text("operation"),
        number("channels"),
        number("values").means("in a channel"),
        number("of copy").means("the speed over that of a copy kernel, 1 for as fast"),
        text("strategy"),
        text("layout").means("rows where the channels are last, else planes").extra(),
        text("geometry").means("what a value is").extra(),
        text("reduction").means("how sums are taken").extra(),
        number("workgroup\nsize").means("invocations").extra(),
        text("spread over").means("workgroups of a split, or values that a lane holds").extra(),
        text("reverse").means("whether the second dispatch goes backwards").extra(),
    ];
    println!("{}", table(columns, rows));
}
