//! `bn check`.

use crate::adapter::{AdapterArgs, keys};
use crate::deadline::TimeLimit;
use crate::output::{Claim, OutputError, ReportKind, figure, progress};
use crate::same_bits::{BitComparison, Bits};
use crate::side_by_side::side_by_side;
use crate::terminal::{number, prose, table, text};
use crate::{AnyError, ExitStatus, accuracy, browser, golden, junit};
use batchnorm_wgpu::host::Gpu;
use batchnorm_wgpu::{Kernels, wgpu};
use batchnorm_wgpu_check::matrix::{Ranking, matrix, part_cases, part_limits};
use batchnorm_wgpu_check::suite::{Expectations, Outcome, Suite, Summary, SummaryRow};
use indicatif::MultiProgress;
use serde::Serialize;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Arguments of `bn check`.
#[derive(clap::Args)]
pub struct CheckArgs {
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Check every adapter: GPUs one after the other, software adapters beside them
    #[arg(long, conflicts_with = "adapter")]
    all_adapters: bool,
    /// Fail if this adapter is missing; can be given several times
    #[arg(long, value_name = "NAME")]
    require: Vec<String>,
    /// Run every case, which takes from some minutes to an hour. The default is a choice of cases, in which every kernel, kind
    /// of data and option occurs, for a minute or two
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    limit: TimeLimit,
    /// Run this many cases of an adapter at the same time, each on a device of its own. The default is one for each core, at
    /// most 8; on OpenGL and SwiftShader, which compile one shader at a time, it is 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,
    /// Run only the cases whose id contains TEXT, and do not report the kernels that these leave out. With --golden, run
    /// only the files whose name contains TEXT
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Instead, measure the accuracy of each output for channel means up to a million deviations, and that of folding
    #[arg(long)]
    accuracy: bool,
    /// Instead, run a golden case (*.safetensors, see tests/golden/README.md), or all those of a folder
    #[arg(long, value_name = "PATH", conflicts_with = "accuracy")]
    golden: Option<PathBuf>,
    /// Do not fail because of golden cases that need something unsupported
    #[arg(long, requires = "golden")]
    allow_unsupported: bool,
    /// Instead, compile every shader with a browser's WebGPU: that of the program at PATH, or of the first Chromium or Chrome
    #[arg(long, value_name = "PATH", num_args = 0..=1,
        conflicts_with_all = ["adapter", "all_adapters", "require", "accuracy", "golden"])]
    browser: Option<Option<PathBuf>>,
    /// Fail if the process held more memory than this at any time; only Linux tells
    #[arg(long, value_name = "MIB", hide = true)]
    memory_limit: Option<u64>,
    /// Write every case with its verdicts as JSON to FILE, or to standard output
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// Write a JUnit report for a CI server
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Fail if results differ by a bit from those of an earlier run with --json FILE, by the same adapter and case
    #[arg(long, value_name = "FILE", conflicts_with_all = ["accuracy", "golden", "browser"])]
    same_bits: Option<PathBuf>,
}

impl CheckArgs {
    fn golden_request<'a>(&'a self, cases: &'a Path) -> golden::check::GoldenRequest<'a> {
        golden::check::GoldenRequest {
            cases,
            filter: self.filter.as_deref(),
            allow_unsupported: self.allow_unsupported,
            deadline: self.limit.start(),
        }
    }
}

/// What was found on one adapter.
#[derive(Serialize)]
struct AdapterReport {
    adapter: String,
    name: String,
    driver: String,
    seconds: f64,
    #[serde(flatten)]
    summary: Summary,
    /// Cases that there are; those that did not run were not chosen, or the time limit left them out.
    cases_in_all: usize,
    /// Cases that the time limit left out.
    left_out: usize,
    outcomes: Vec<Outcome>,
    /// Seconds that each outcome took.
    #[serde(skip)]
    times: Vec<f64>,
}

impl AdapterReport {
    /// Whether every case ran, so that a kernel that none of them ran is a hole in the matrix.
    fn is_whole(&self) -> bool {
        self.outcomes.len() == self.cases_in_all
    }

    fn failures(&self) -> impl Iterator<Item = (&Outcome, &str)> {
        self.outcomes.iter().filter_map(|outcome| Some((outcome, outcome.failure.as_deref()?)))
    }
}

/// The reports that were asked for.
pub struct ReportFiles {
    pub json: Option<Claim>,
    pub junit: Option<Claim>,
}

impl ReportFiles {
    fn claim(arguments: &CheckArgs) -> Result<Self, OutputError> {
        let CheckArgs { browser, accuracy, golden, json, junit, .. } = arguments;
        let [of_json, of_junit] = match (browser, golden) {
            (Some(_), _) => browser::REPORTS,
            (None, Some(_)) => golden::check::REPORTS,
            (None, None) => REPORTS,
        };
        let of_json = if *accuracy { accuracy::REPORT } else { of_json };
        Ok(Self { json: Claim::report(json.as_deref(), of_json)?, junit: Claim::report(junit.as_deref(), of_junit)? })
    }

    /// Whether standard output is one of them and holds nothing else.
    pub fn is_quiet(&self) -> bool {
        [&self.json, &self.junit].into_iter().flatten().any(Claim::is_standard_output)
    }
}

/// What the reports of the matrix look like, JSON and JUnit.
const REPORTS: [ReportKind; 2] =
    [ReportKind::Json(&["adapter", "cases_in_all", "outcomes"]), ReportKind::Text("<testsuites name=\"bn check\"")];

/// Runs the matrix.
pub fn run(arguments: &CheckArgs) -> Result<ExitStatus, AnyError> {
    let files = ReportFiles::claim(arguments)?;
    if let Some(program) = &arguments.browser {
        return browser::run(program.as_deref(), arguments.filter.as_deref(), &files);
    }
    let found = keys();
    for required in &arguments.require {
        if !found.contains(required) {
            return Err(format!("required adapter {required:?} is missing; found: {}", found.join(", ")).into());
        }
    }
    let gpus = match arguments.all_adapters {
        true => found.iter().map(|key| Gpu::open(Some(key))).collect::<Result<Vec<_>, _>>()?,
        false => vec![arguments.adapter.open()?],
    };
    if gpus.is_empty() {
        // The library's error says what to install.
        Gpu::open(None)?;
    }
    if arguments.accuracy {
        return accuracy::run(&gpus, &files);
    }
    if let Some(cases) = &arguments.golden {
        return golden::check::run(&gpus, &arguments.golden_request(cases), &files);
    }
    let earlier = arguments.same_bits.as_deref().map(Bits::read).transpose()?;
    let deadline = arguments.limit.start();
    let (mut reports, mut refused) = (Vec::new(), None);
    let mut all_alike = true;
    let bars = MultiProgress::new();
    // Two adapters may be one GPU by two interfaces, and what one does to it would be blamed on the other.
    let may_be_one = |gpu: &Gpu| gpu.info.device_type != wgpu::DeviceType::Cpu;
    let work = |gpu: &Gpu, stopped: &AtomicBool| {
        // One adapter that cannot be checked leaves the others their reports.
        Ok(check(gpu, arguments, &bars, &|| stopped.load(Ordering::Relaxed) || deadline.passed()))
    };
    side_by_side(&gpus, may_be_one, work, |checked| {
        let report = match checked {
            Ok(report) => report,
            Err(error) => {
                refused.get_or_insert(error);
                return Ok(());
            }
        };
        beside(&bars, || {
            if !files.is_quiet() {
                print(&report);
            }
            if let Some(earlier) = &earlier {
                all_alike &= compare_bits(&report, earlier);
            }
        });
        reports.push(report);
        Ok(())
    })?;
    if let Some(json) = &files.json {
        json.write_json(&reports)?;
    }
    if let Some(file) = &files.junit {
        let suites: Vec<_> = reports.iter().map(suite).collect();
        junit::write(file, "bn check", &suites)?;
    }
    if let Some(error) = refused {
        return Err(error);
    }
    arguments.memory_limit.map_or(Ok(()), check_memory)?;
    let failed = |report: &AdapterReport| {
        report.failures().count() > 0 || (report.is_whole() && !report.summary.holes.is_empty())
    };
    Ok(if reports.iter().any(failed) || !all_alike { ExitStatus::Failed } else { ExitStatus::Passed })
}

/// Lets something print while other adapters' bars are shown. Should it end the program, it does so after the bars' lock is free.
fn beside(bars: &MultiProgress, print: impl FnOnce()) {
    bars.suspend(|| catch_unwind(AssertUnwindSafe(print))).unwrap_or_else(|cause| resume_unwind(cause));
}

/// Says on standard error how the results compare with an earlier run's; whether some were compared and all are alike.
fn compare_bits(report: &AdapterReport, earlier: &Bits) -> bool {
    let BitComparison { compared, differing } = earlier.compare(&report.adapter, &report.outcomes);
    differing.iter().take(PRINTED).for_each(|case| eprintln!("OTHER BITS {case}"));
    eprintln!(
        "{}: {compared} cases compared with the earlier run, {} have other bits",
        report.adapter,
        differing.len()
    );
    compared > 0 && differing.is_empty()
}

/// Refuses a process that held more than so many MiB.
fn check_memory(limit: u64) -> Result<(), AnyError> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    match kibibytes.map(|kibibytes| kibibytes / 1024) {
        Some(peak) if peak <= limit => {
            eprintln!("memory: at most {peak} MiB at a time");
            Ok(())
        }
        Some(peak) => Err(format!("memory: expected at most {limit} MiB at a time, found {peak} MiB").into()),
        None => Err("--memory-limit: this system does not tell how much memory a process held; leave it out".into()),
    }
}

/// Whether nothing new is to be started.
type IsOver<'a> = &'a (dyn Fn() -> bool + Sync);

/// The cases for a device, those that say most first.
struct Work {
    limits: wgpu::Limits,
    ranking: Ranking,
    /// Cases that there are without a filter.
    in_all: usize,
    /// How many of the cases are to be run.
    chosen: usize,
}

impl Work {
    fn new(gpu: &Gpu, in_parts: bool, arguments: &CheckArgs) -> Result<Self, AnyError> {
        let limits = if in_parts { part_limits(gpu.device.limits()) } else { gpu.device.limits() };
        let kernels = Kernels::new(&Gpu::from_adapter(&gpu.adapter, limits.clone(), gpu.device.features())?.device);
        let cases = if in_parts { part_cases(&kernels) } else { matrix(&kernels) };
        let in_all = cases.len();
        let ranking = match &arguments.filter {
            Some(text) => Ranking::filtered(cases, &kernels, |case| case.to_string().contains(text)),
            None if in_parts => Ranking::of_parts(cases, &kernels),
            None => Ranking::new(cases, &kernels),
        };
        let chosen = if arguments.full { ranking.cases.len() } else { ranking.quick };
        Ok(Self { limits, ranking, in_all, chosen })
    }

    /// Runs the chosen cases, several at the same time. What comes back is in their order.
    fn run(
        &self,
        gpu: &Gpu,
        cases: Range<usize>,
        jobs: usize,
        is_over: IsOver<'_>,
        each: impl Fn() + Sync,
    ) -> Result<Vec<(Outcome, f64)>, AnyError> {
        let (next, done) = (AtomicUsize::new(cases.start), Mutex::new(Vec::new()));
        // Of many cases neighbours have the same shaders, which one job should compile.
        let block = if cases.start > 0 { 16 } else { 1 };
        let job = || -> Result<(), AnyError> {
            let mut expectations = Expectations::default();
            loop {
                let own = Gpu::from_adapter(&gpu.adapter, self.limits.clone(), gpu.device.features())?;
                let mut suite = Suite::new(Kernels::new(&own.device), own.queue.clone(), &mut expectations);
                while !suite.is_worn() {
                    let first = next.fetch_add(block, Ordering::Relaxed);
                    for i in first..first + block {
                        let Some(case) = self.ranking.cases[..cases.end].get(i).filter(|_| !is_over()) else {
                            return Ok(());
                        };
                        let begin = Instant::now();
                        let outcome = suite.run(case);
                        let seconds = begin.elapsed().as_secs_f64();
                        done.lock().unwrap_or_else(PoisonError::into_inner).push((i, outcome, seconds));
                        each();
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            let jobs: Vec<_> = (0..jobs).map(|_| scope.spawn(job)).collect();
            let joined = jobs.into_iter().map(|job| job.join().unwrap_or_else(|cause| resume_unwind(cause)));
            joined.collect::<Result<(), AnyError>>()
        })?;
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|(i, ..)| *i);
        Ok(done.into_iter().map(|(_, outcome, seconds)| (outcome, seconds)).collect())
    }
}

/// How fast cases go, and how long the others will take at that.
///
/// The time of the quick choice says little of it: nearly each of its cases has shaders of its own, which the driver compiles or
/// has in its cache; the others share theirs.
struct Pace {
    all: usize,
    state: Mutex<PaceState>,
}

struct PaceState {
    done: usize,
    /// When the next word on it is due, in cases.
    due: usize,
    /// What the last one counted, and when it was.
    last: (usize, Instant),
}

impl Pace {
    fn new(all: usize) -> Self {
        Self { all, state: Mutex::new(PaceState { done: 0, due: all.div_ceil(16), last: (0, Instant::now()) }) }
    }

    /// Counts a case; says now and then, ever more rarely, how long those that are left take at the pace of the last ones.
    fn done(&self) -> Option<String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.done += 1;
        if state.done < state.due || state.done == self.all {
            return None;
        }
        let PaceState { done, last: (before, since), .. } = *state;
        *state = PaceState { done, due: 2 * done, last: (done, Instant::now()) };
        let seconds = since.elapsed().as_secs_f64() * (self.all - done) as f64 / (done - before) as f64;
        // The first of them are one for each shader that had none yet, and slower than all others.
        (before > 0).then(|| format!("{done} of them done; at this pace the others take {:.1} min", seconds / 60.0))
    }
}

fn check(
    gpu: &Gpu,
    arguments: &CheckArgs,
    bars: &MultiProgress,
    is_over: IsOver<'_>,
) -> Result<AdapterReport, AnyError> {
    let begin = Instant::now();
    // The second is a device whose bindings are so small that tensors take several.
    let works = [Work::new(gpu, false, arguments)?, Work::new(gpu, true, arguments)?];
    let chosen: usize = works.iter().map(|work| work.chosen).sum();
    let cases_in_all = works.iter().map(|work| work.in_all).sum();
    if chosen == 0 {
        let text = arguments.filter.as_deref().unwrap_or_default();
        let key = gpu.key();
        return Err(format!("{key}: no case contains {text:?}; `bn check --full --json` lists them all").into());
    }
    let bar = bars.add(progress(chosen as u64, &gpu.key()));
    let jobs = arguments.jobs.map_or_else(|| default_jobs(gpu), usize::from);
    let mut outcomes = Vec::new();
    // What says most comes first, of both.
    for work in &works {
        outcomes.extend(work.run(gpu, 0..work.ranking.quick.min(work.chosen), jobs, is_over, || bar.inc(1))?);
    }
    if chosen > outcomes.len() && !is_over() {
        let shaders =
            |cases: fn(&Work) -> usize| -> usize { works.iter().map(|work| work.ranking.shaders(cases(work))).sum() };
        let new = shaders(|work| work.chosen) - shaders(|work| work.ranking.quick);
        let left = chosen - outcomes.len();
        beside(bars, || eprintln!("{}: {left} cases with {new} more shaders are left", gpu.key()));
    }
    let pace = Pace::new(chosen - outcomes.len());
    for work in works.iter().filter(|work| work.chosen > work.ranking.quick) {
        let done = || {
            bar.inc(1);
            if let Some(left) = pace.done() {
                beside(bars, || eprintln!("{}: {left}", gpu.key()));
            }
        };
        outcomes.extend(work.run(gpu, work.ranking.quick..work.chosen, jobs, is_over, done)?);
    }
    bar.finish_and_clear();
    if outcomes.is_empty() {
        return Err(format!("{}: no case ran before the time limit; give it more seconds", gpu.key()).into());
    }
    let (outcomes, times): (Vec<Outcome>, Vec<f64>) = outcomes.into_iter().unzip();
    Ok(AdapterReport {
        adapter: gpu.key(),
        name: gpu.info.name.clone(),
        driver: gpu.info.driver_info.clone(),
        seconds: begin.elapsed().as_secs_f64(),
        summary: Summary::new(&outcomes, Kernels::new(&gpu.device).capabilities()),
        cases_in_all,
        left_out: chosen - outcomes.len(),
        outcomes,
        times,
    })
}

/// A driver compiles one shader at a time for a device; OpenGL has one context for all devices, and SwiftShader's compiler one
/// lock, so that a second job would only compile again what the first has.
fn default_jobs(gpu: &Gpu) -> usize {
    match gpu.info.backend {
        wgpu::Backend::Gl => 1,
        _ if gpu.key() == "swiftshader" => 1,
        _ => std::thread::available_parallelism().map_or(1, usize::from).min(8),
    }
}

/// Most failures that are printed; the files have all.
const PRINTED: usize = 10;

fn print(report: &AdapterReport) {
    println!("{}", prose(&format!("{}: {} {}", report.adapter, report.name, report.driver)));
    print_rows("kernel", &report.summary.kernels);
    print_rows("tensors", &report.summary.tensors);
    let holes = if report.is_whole() { report.summary.holes.as_slice() } else { &[] };
    holes.iter().take(PRINTED).for_each(|hole| println!("NOT COVERED by any case: {hole}"));
    if holes.len() > PRINTED {
        println!("... and {} more", holes.len() - PRINTED);
    }
    for (outcome, failure) in report.failures().take(PRINTED) {
        println!("FAILED {}\n       {failure}", outcome.case);
    }
    let (cases, failed) = (report.outcomes.len(), report.failures().count());
    if failed > PRINTED {
        println!("... and {} more; --json FILE has all", failed - PRINTED);
    }
    println!("{}: {} passed, {failed} failed, in {:.1} s", report.adapter, cases - failed, report.seconds);
    if report.left_out > 0 {
        println!("The time limit left out {} cases.", report.left_out);
    }
    if !report.is_whole() {
        let (all, covered) = (report.summary.variants, report.summary.variants - report.summary.holes.len());
        println!(
            "{cases} of {} cases ran, with {covered} of {all} kernel variants; --full runs all.",
            report.cases_in_all
        );
    }
    println!();
}

fn print_rows(of: &str, rows: &[SummaryRow]) {
    let cells = rows.iter().map(|row| {
        vec![
            row.of.clone(),
            if row.failed == 0 { "ok" } else { "FAILED" }.into(),
            row.cases.to_string(),
            row.failed.to_string(),
            figure(row.worst),
            figure(row.median),
            row.worst_output.clone(),
            row.worst_case.clone(),
        ]
    });
    let columns = [
        text(of),
        text("verdict"),
        number("cases"),
        number("failed"),
        number("worst\nerror/bound").means("the largest error over its bound, at most 1 in cases that pass"),
        number("median\nerror/bound").means("half of the cases lie below").extra(),
        text("worst\noutput").means("the one with that error").extra(),
        text("worst case").means("the case that it came from").extra(),
    ];
    println!("{}", table(columns, cells));
}

/// A kernel that no case ran is a failure where every case did.
fn suite(report: &AdapterReport) -> junit::TestSuite {
    let cases = report.outcomes.iter().zip(&report.times).map(|(outcome, &seconds)| junit::TestCase {
        name: outcome.case.clone(),
        class: format!("{}.{}", report.adapter, outcome.operation),
        seconds: Some(seconds),
        status: outcome.failure.clone().map_or(junit::Status::Passed, junit::Status::Failed),
    });
    let holes = report.summary.holes.iter().filter(|_| report.is_whole()).map(|hole| junit::TestCase {
        name: hole.clone(),
        class: format!("{}.coverage", report.adapter),
        seconds: None,
        status: junit::Status::Failed("no case covers this kernel variant".into()),
    });
    junit::TestSuite { name: report.adapter.clone(), seconds: report.seconds, cases: cases.chain(holes).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_that_of_the_last_cases() {
        let pace = Pace::new(160);
        let said: Vec<(usize, String)> = (1..=160).filter_map(|i| Some((i, pace.done()?))).collect();
        assert_eq!(said.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [20, 40, 80]);
        assert!(said[0].1.starts_with("20 of them done"), "{said:?}");
        // Ten cases in a minute, after ten in no time: eighty more take eight minutes.
        let pace = Pace::new(100);
        let minute = Instant::now().checked_sub(std::time::Duration::from_secs(60)).unwrap();
        *pace.state.lock().unwrap() = PaceState { done: 19, due: 20, last: (10, minute) };
        assert_eq!(pace.done().unwrap(), "20 of them done; at this pace the others take 8.0 min");
        assert!((0..2).all(|_| Pace::new(1).done().is_none()));
    }
}
