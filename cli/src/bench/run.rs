//! A run: all shapes in turn, and what becomes of the results.

use super::arguments::BenchArgs;
use super::candidates::Others;
use super::copy::CopyKernel;
use super::epilogue::Epilogues;
use super::machine::{processor, today};
use super::record::{BenchRow, FusedRow, Record, SCHEMA};
use super::session::Session;
use super::subjects::{Subject, subjects};
use super::table::print;
use super::tensors::TensorSets;
use super::verify::WrongResult;
use crate::deadline::Deadline;
use crate::output::{Claim, Folder, OutputError, Replaces, ReportKind, progress, read_tuning};
use crate::{AnyError, ExitStatus};
use batchnorm_wgpu::host::measure::Stopwatch;
use batchnorm_wgpu::{Choice, DType, Operation, Options, Shape};
use indicatif::ProgressBar;
use std::path::Path;

/// What a run found.
#[derive(Default)]
struct BenchResults {
    rows: Vec<BenchRow>,
    fused: Vec<FusedRow>,
    failures: Vec<String>,
    /// Whether one of the failures is a result that is wrong.
    wrong: bool,
    /// What the time limit left out.
    left_out: Vec<String>,
}

/// A run under way.
struct BenchRun<'a> {
    session: Session<'a>,
    arguments: &'a BenchArgs,
    epilogues: &'a Epilogues,
    deadline: Deadline,
    /// The day on which it began.
    date: String,
    json: Option<Claim>,
    bar: ProgressBar,
    found: BenchResults,
}

/// Verifies and times every operation.
pub fn run(arguments: &BenchArgs) -> Result<ExitStatus, AnyError> {
    let deadline = arguments.limit.start();
    let json = Claim::report(arguments.json.as_deref(), RECORD)?;
    let gpu = arguments.adapter.open_with(Stopwatch::FEATURES)?;
    let date = today();
    let file = arguments.record.as_ref().map(|folder| record_file(folder, &gpu.key(), &date)).transpose()?;
    let (subjects, too_large) = subjects(&gpu, !arguments.quick, arguments.shapes.as_deref())?;
    let dtypes = arguments.dtypes()?;
    let tuning = arguments.tuning.as_deref().map(read_tuning).transpose()?;
    let options = Options { tuning, runtime_checks: arguments.runtime_checks.options(), ..Options::default() };
    let copy = CopyKernel::fastest(&gpu)?;
    let session = Session::new(&gpu, &copy, options, arguments.quick)?;
    let epilogues = Epilogues::new(&gpu, &copy, if arguments.fused { &dtypes } else { &[] })?;
    let timed = pairs(&subjects, &dtypes);
    let bar = progress(steps(arguments, &timed), &gpu.key());
    let found = BenchResults { failures: too_large, ..BenchResults::default() };
    let mut run = BenchRun { session, arguments, epilogues: &epilogues, deadline, date, json, bar, found };
    run.time_all(&timed)?;
    run.bar.finish_and_clear();
    deliver(&run, file)
}

/// Every shape with each of its dtypes: its own, else those of the whole run.
fn pairs<'a>(subjects: &'a [Subject], dtypes: &'a [DType]) -> Vec<(&'a Shape, DType)> {
    let of = |Subject { shape, dtypes: own }: &'a Subject| {
        let dtypes = if own.is_empty() { dtypes } else { own };
        dtypes.iter().map(move |&dtype| (shape, dtype))
    };
    subjects.iter().flat_map(of).collect()
}

/// How many steps the progress bar has.
fn steps(arguments: &BenchArgs, timed: &[(&Shape, DType)]) -> u64 {
    let operations = arguments.operations().len();
    let others = timed.iter().filter(|(shape, _)| arguments.others(shape) != Others::None).count();
    (timed.len() * (operations + arguments.fusions().len()) + others * operations) as u64
}

/// Writes, prints and judges what was found. What could be timed is delivered whatever failed.
fn deliver(run: &BenchRun<'_>, file: Option<Claim>) -> Result<ExitStatus, AnyError> {
    let (record, BenchRun { found, arguments, json, .. }) = (run.record(), run);
    if !record.is_empty() {
        [json, &file].into_iter().flatten().try_for_each(|file| file.write_json(&record))?;
    }
    if record.is_empty() && found.failures.is_empty() {
        return Err("nothing was timed before the time limit; give it more seconds".into());
    }
    if !record.is_empty() && !json.as_ref().is_some_and(Claim::is_standard_output) {
        print(&record);
    }
    if let Some(file) = file.filter(|_| !record.is_empty()) {
        eprintln!("record: {}", file.path().display());
    }
    if let Some(left_out) = arguments.limit.left_out(&found.left_out) {
        eprintln!("{left_out}");
    }
    let failures = format!("not timed:\n  {}", found.failures.join("\n  "));
    match found.failures.is_empty() {
        true => Ok(ExitStatus::Passed),
        false if found.wrong => {
            eprintln!("{failures}");
            Ok(ExitStatus::Failed)
        }
        false => Err(failures.into()),
    }
}

/// Writes the file of `--json` after every shape: whatever ends the run early, what was measured is there. Standard output
/// takes one document, and a record of the day is replaced only by a whole one.
fn save_so_far(record: &Record, json: Option<&Claim>) -> Result<(), AnyError> {
    match json {
        Some(json) if !json.is_standard_output() && !record.is_empty() => json.write_json(record),
        _ => Ok(()),
    }
}

/// What the records look like.
const RECORD: ReportKind = ReportKind::Json(&["schema", "adapter", "copy", "rows"]);

/// The file of a record, named after the day on which the timing began.
fn record_file(folder: &Path, adapter: &str, date: &str) -> Result<Claim, OutputError> {
    let path = folder.join(adapter).join(format!("{date}.json"));
    Claim::new(&path, Replaces::Reports(RECORD), Folder::Made)
}

impl BenchRun<'_> {
    fn time_all(&mut self, timed: &[(&Shape, DType)]) -> Result<(), AnyError> {
        for &(shape, dtype) in timed {
            self.time(shape, dtype);
            self.time_fused(shape, dtype);
            save_so_far(&self.record(), self.json.as_ref())?;
        }
        // What the library would not choose comes last: it matters least.
        for &(shape, dtype) in timed.iter().filter(|(shape, _)| self.arguments.others(shape) != Others::None) {
            self.time_others(shape, dtype);
            save_so_far(&self.record(), self.json.as_ref())?;
        }
        Ok(())
    }

    /// Every operation on a shape and dtype. What fails, for want of memory too, does not end the run.
    fn time(&mut self, shape: &Shape, dtype: DType) {
        let choice = self.arguments.choice(dtype);
        let chosen = choice == Choice::default();
        self.of_operations(shape, dtype, |run, tensors, operation, what| {
            let row = run.unless_late(what, |session| session.row(tensors, operation, &choice, chosen));
            run.found.rows.extend(row);
        });
    }

    /// The plans beside those that were asked for, of every operation on a shape and dtype.
    fn time_others(&mut self, shape: &Shape, dtype: DType) {
        let (choice, others) = (self.arguments.choice(dtype), self.arguments.others(shape));
        self.of_operations(shape, dtype, |run, tensors, operation, what| {
            for other in run.session.others(tensors, operation, &choice, others) {
                let what = format!("{what}, {}", describe_choice(&other));
                let row = run.unless_late(&what, |session| session.row(tensors, operation, &other, false));
                run.found.rows.extend(row);
            }
        });
    }

    /// Does something with the tensors of a shape and dtype for each operation, which it is told in words too.
    fn of_operations(
        &mut self,
        shape: &Shape,
        dtype: DType,
        mut work: impl FnMut(&mut Self, &TensorSets, Operation, &str),
    ) {
        self.session.turn_to_another_shape();
        let tensors =
            self.unless_late(&format!("{shape} {dtype}"), |session| TensorSets::new(session.gpu, shape, dtype));
        for operation in self.arguments.operations() {
            if let Some(tensors) = &tensors {
                let what = format!("{operation} {shape} {dtype}");
                self.bar.set_message(what.clone());
                work(self, tensors, operation, &what);
            }
            self.bar.inc(1);
        }
    }

    /// What is fused, on a shape and dtype.
    fn time_fused(&mut self, shape: &Shape, dtype: DType) {
        let (fusions, epilogues) = (self.arguments.fusions(), self.epilogues);
        if fusions.is_empty() {
            return;
        }
        let choice = self.arguments.choice(dtype);
        let what = format!("fused {shape} {dtype}");
        let tensors = self.unless_late(&what, |session| TensorSets::apart(session.gpu, shape, dtype));
        for (operation, fusion) in fusions {
            if let Some(tensors) = &tensors {
                let what = format!("{operation} {} {shape} {dtype}", fusion.name());
                self.bar.set_message(what.clone());
                let row = self
                    .unless_late(&what, |session| session.fused_row(tensors, epilogues, (operation, fusion), &choice));
                self.found.fused.extend(row);
            }
            self.bar.inc(1);
        }
    }

    /// Does what `work` says, unless the time limit has passed; notes what was left out and what failed.
    fn unless_late<T>(&mut self, what: &str, work: impl FnOnce(&mut Session<'_>) -> Result<T, AnyError>) -> Option<T> {
        let found = &mut self.found;
        if self.deadline.passed() {
            found.left_out.push(what.into());
            return None;
        }
        let noted = |error: AnyError| {
            found.wrong |= error.is::<WrongResult>();
            found.failures.push(format!("{what}: {error}"));
        };
        work(&mut self.session).map_err(noted).ok()
    }

    fn record(&self) -> Record {
        let Self { session, found, .. } = self;
        let info = &session.gpu.info;
        Record {
            schema: SCHEMA.into(),
            date: self.date.clone(),
            adapter: session.gpu.key(),
            name: info.name.clone(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().into(),
            backend: format!("{:?}", info.backend),
            device_type: format!("{:?}", info.device_type),
            processor: processor(),
            version: env!("CARGO_PKG_VERSION").into(),
            clock: session.clock(),
            copy: session.copy(),
            rows: found.rows.clone(),
            fused: found.fused.clone(),
            not_timed: [&found.failures[..], &found.left_out].concat(),
        }
    }
}

fn describe_choice(choice: &Choice) -> String {
    let words = [
        choice.strategy().map(|it| it.to_string()),
        choice.held().map(|it| it.to_string()),
        choice.geometry.map(|it| it.to_string()),
        choice.reduction.map(|it| it.to_string()),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
}
