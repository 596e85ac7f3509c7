//! `bn check`.

use crate::adapter::{AdapterArgs, keys};
use crate::output::{figure, progress, write};
use crate::terminal::{number, prose, table, text};
use crate::{AnyError, Verdict, accuracy, browser, golden, junit};
use batchnorm_wgpu::Kernels;
use batchnorm_wgpu::host::Gpu;
use batchnorm_wgpu_check::matrix::{matrix, part_cases, part_limits};
use batchnorm_wgpu_check::suite::{Expectations, Outcome, Row, Suite, Summary};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Arguments of `bn check`.
#[derive(clap::Args)]
pub struct CheckArgs {
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Check every adapter
    #[arg(long, conflicts_with = "adapter")]
    all_adapters: bool,
    /// Fail if this adapter is missing; can be given several times
    #[arg(long, value_name = "NAME")]
    require: Vec<String>,
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
    /// Write every case with its verdicts as JSON to FILE, or to standard output
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// Write a JUnit report for a CI server
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

impl CheckArgs {
    fn golden_request<'a>(&'a self, cases: &'a Path) -> golden::check::Request<'a> {
        golden::check::Request {
            cases,
            filter: self.filter.as_deref(),
            allow_unsupported: self.allow_unsupported,
            json: self.json.as_deref(),
            junit: self.junit.as_deref(),
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
    outcomes: Vec<Outcome>,
    /// Seconds that each outcome took.
    #[serde(skip)]
    times: Vec<f64>,
}

impl AdapterReport {
    fn failures(&self) -> impl Iterator<Item = (&Outcome, &str)> {
        self.outcomes.iter().filter_map(|outcome| Some((outcome, outcome.failure.as_deref()?)))
    }
}

/// Runs the matrix.
pub fn run(arguments: &CheckArgs) -> Result<Verdict, AnyError> {
    if let Some(program) = &arguments.browser {
        let CheckArgs { filter, json, junit, .. } = arguments;
        return browser::run(program.as_deref(), filter.as_deref(), json.as_deref(), junit.as_deref());
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
    let quiet = arguments.json.as_deref() == Some("-".as_ref());
    if arguments.accuracy {
        return accuracy::run(&gpus, arguments.json.as_deref());
    }
    if let Some(cases) = &arguments.golden {
        return golden::check::run(&gpus, &arguments.golden_request(cases));
    }
    let mut expectations = Expectations::default();
    let mut reports = Vec::new();
    for gpu in &gpus {
        let report = check(gpu, arguments, &mut expectations)?;
        if !quiet {
            print(&report, arguments.filter.is_none());
        }
        reports.push(report);
    }
    if let Some(path) = &arguments.json {
        write(path, serde_json::to_string_pretty(&reports)?.as_bytes())?;
    }
    if let Some(path) = &arguments.junit {
        let suites: Vec<_> = reports.iter().map(|report| suite(report, arguments.filter.is_none())).collect();
        junit::write(path, "bn check", &suites)?;
    }
    let whole = arguments.filter.is_none();
    let failed = |report: &AdapterReport| report.failures().count() > 0 || (whole && !report.summary.holes.is_empty());
    Ok(if reports.iter().any(failed) { Verdict::Failed } else { Verdict::Passed })
}

fn check(gpu: &Gpu, arguments: &CheckArgs, expectations: &mut Expectations) -> Result<AdapterReport, AnyError> {
    let kernels = Kernels::new(&gpu.device);
    let capabilities = kernels.capabilities().clone();
    let mut cases = matrix(&kernels);
    // A second device, whose bindings are so small that tensors take several.
    let small = Gpu::from_adapter(&gpu.adapter, part_limits(gpu.device.limits()), gpu.device.features())?;
    let small_kernels = Kernels::new(&small.device);
    let mut in_parts = part_cases(&small_kernels);
    if let Some(text) = &arguments.filter {
        cases.retain(|case| case.to_string().contains(text));
        in_parts.retain(|case| case.to_string().contains(text));
        if cases.is_empty() && in_parts.is_empty() {
            return Err(format!("no case contains {text:?}; `bn check --json` lists them all").into());
        }
    }
    let begin = Instant::now();
    let bar = progress((cases.len() + in_parts.len()) as u64, &gpu.key());
    let (mut outcomes, mut times): (Vec<Outcome>, Vec<f64>) = Default::default();
    for (kernels, queue, cases) in [(kernels, &gpu.queue, &cases), (small_kernels, &small.queue, &in_parts)] {
        let mut suite = Suite::new(kernels, queue.clone(), expectations);
        for case in bar.wrap_iter(cases.iter()) {
            let begin = Instant::now();
            outcomes.push(suite.run(case));
            times.push(begin.elapsed().as_secs_f64());
        }
    }
    bar.finish_and_clear();
    Ok(AdapterReport {
        adapter: gpu.key(),
        name: gpu.info.name.clone(),
        driver: gpu.info.driver_info.clone(),
        seconds: begin.elapsed().as_secs_f64(),
        summary: Summary::new(&outcomes, &capabilities),
        outcomes,
        times,
    })
}

/// Most failures that are printed; the files have all.
const PRINTED: usize = 10;

fn print(report: &AdapterReport, whole: bool) {
    println!("{}", prose(&format!("{}: {} {}", report.adapter, report.name, report.driver)));
    print_rows("kernel", &report.summary.kernels);
    print_rows("tensors", &report.summary.tensors);
    let holes = if whole { report.summary.holes.as_slice() } else { &[] };
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
    println!("{}: {} passed, {failed} failed, in {:.1} s\n", report.adapter, cases - failed, report.seconds);
}

fn print_rows(of: &str, rows: &[Row]) {
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

/// `whole`: whether a kernel that no case ran is a failure.
fn suite(report: &AdapterReport, whole: bool) -> junit::Suite {
    let cases = report.outcomes.iter().zip(&report.times).map(|(outcome, &seconds)| junit::Case {
        name: outcome.case.clone(),
        class: format!("{}.{}", report.adapter, outcome.operation),
        seconds: Some(seconds),
        status: outcome.failure.clone().map_or(junit::Status::Passed, junit::Status::Failed),
    });
    let holes = report.summary.holes.iter().filter(|_| whole).map(|hole| junit::Case {
        name: hole.clone(),
        class: format!("{}.coverage", report.adapter),
        seconds: None,
        status: junit::Status::Failed("no case covers this kernel variant".into()),
    });
    junit::Suite { name: report.adapter.clone(), seconds: report.seconds, cases: cases.chain(holes).collect() }
}
