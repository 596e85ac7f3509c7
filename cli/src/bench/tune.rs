//! `bn tune`: finds the fastest plan for each operation and shape on an adapter, and writes a tuning file.

use super::copy::CopyKernel;
use super::machine::{processor, today};
use super::subjects::{OPERATIONS, Subject, subjects};
use super::tensors::{TensorSets, Use, job};
use crate::adapter::AdapterArgs;
use crate::deadline::TimeLimit;
use crate::output::{Claim, Folder, progress};
use crate::terminal::{number, table, text};
use crate::{AnyError, ExitStatus};
use batchnorm_wgpu::host::Gpu;
use batchnorm_wgpu::host::measure::{Found, Stopwatch, Tuner};
use batchnorm_wgpu::{BatchNorm, Config, DType, Kernels, Operation, Preference, Shape, Tuning, Views};
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
    /// Milliseconds for each operation on each shape, as with `Tuning::measure`; without it all plans are tried
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    budget: Option<u64>,
    #[command(flatten)]
    limit: TimeLimit,
    /// The tuning file to write; one that exists is replaced only with --force
    #[arg(long, value_name = "FILE", default_value = "tuning.json")]
    out: PathBuf,
}

/// What a point is measured by, and how far the copy kernel is away.
struct Measuring<'a> {
    gpu: &'a Gpu,
    kernels: Kernels,
    tuner: Tuner,
    budget: Option<Duration>,
    copy: &'a CopyKernel,
    watch: Stopwatch,
}

/// Measures the candidates of every operation and shape.
pub fn run(arguments: &TuneArgs) -> Result<ExitStatus, AnyError> {
    let deadline = arguments.limit.start();
    let file = Claim::result(&arguments.out, Folder::Exists)?;
    let gpu = arguments.adapter.open_with(Stopwatch::FEATURES)?;
    let (mut subjects, too_large) = subjects(&gpu, !arguments.quick, arguments.shapes.as_deref())?;
    // A point of a tuning says nothing of views, which take the plans of whole tensors.
    let is_whole = |subject: &Subject| subject.shape.views() == Views::default();
    if let Some(Subject { shape, .. }) = subjects.iter().find(|it| arguments.shapes.is_some() && !is_whole(it)) {
        return Err(format!("{shape}: expected whole tensors, which a tuning is for; leave out views").into());
    }
    subjects.retain(is_whole);
    let copy = CopyKernel::fastest(&gpu)?;
    let watch = Stopwatch::new(&gpu.device, &gpu.queue, &copy.job())?;
    let kernels = Kernels::new(&gpu.device);
    let tuner = Tuner::new(&kernels, &gpu.queue);
    let budget = arguments.budget.map(Duration::from_millis);
    let mut measuring = Measuring { gpu: &gpu, kernels, tuner, budget, copy: &copy, watch };
    let bar = progress((subjects.len() * OPERATIONS.len()) as u64, &gpu.key());
    let measured = format!("{}: {} {} on {}", today(), gpu.info.driver, gpu.info.driver_info, processor());
    let mut tuning = Tuning { adapter: gpu.key(), measured, ..Tuning::none() };
    let (mut rows, mut left_out, mut failures) = (Vec::new(), Vec::new(), too_large);
    for Subject { shape, .. } in &subjects {
        if deadline.passed() {
            left_out.push(shape.to_string());
            continue;
        }
        for operation in OPERATIONS {
            let what = format!("{operation} {shape}");
            bar.set_message(what.clone());
            match deadline.passed() {
                true => left_out.push(what),
                false => {
                    let found = noted(&mut failures, &what, measuring.point(shape, operation));
                    tuning.points.extend(found.iter().map(|found| found.point.clone()));
                    rows.extend(found);
                }
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
    print(&rows);
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

impl Measuring<'_> {
    /// What the library finds, with the fraction of the copy kernel's speed.
    fn point(&mut self, shape: &Shape, operation: Operation) -> Result<Found, AnyError> {
        let mut found = self.tuner.measure(operation, shape, self.budget)?;
        // Its tensors and these might not fit the device together.
        self.tuner.release();
        let tensors = TensorSets::new(self.gpu, shape, DType::F32)?;
        let layer = BatchNorm::with_choice(&self.kernels, shape.clone(), Config::default(), &found.choice)?;
        let steps = tensors.steps(self.gpu, &layer, operation, Use::Plain)?;
        let samples = self.watch.measure(&[&self.copy.job(), &job(&steps)], 7, Duration::from_millis(15))?;
        let bytes = u64::from(operation.least_moves()) * shape.elements() as u64 * 4;
        let fraction = self.copy.fraction(&samples[0], &samples[1], bytes);
        found.point.fraction_of_copy = Some((fraction * 1e3).round() / 1e3);
        Ok(found)
    }
}

fn print(rows: &[Found]) {
    let rows = rows.iter().map(|Found { point, microseconds, microseconds_without, .. }| {
        let Preference { choice, workgroups } = point.prefer;
        vec![
            point.operation.to_string(),
            point.channels.to_string(),
            point.values.to_string(),
            point.fraction_of_copy.map_or(String::new(), |fraction| format!("{fraction:.2}")),
            format!("{:.2}", microseconds_without / microseconds),
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
        number("gain").means("the speed over that of the plan without this tuning"),
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
