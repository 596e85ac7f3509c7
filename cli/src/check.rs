//! `bn check`.

use crate::adapter::{AdapterArgs, keys};
use crate::output::{figure, progress, table, write};
use crate::{AnyError, Verdict, accuracy, golden};
use batchnorm_wgpu::Kernels;
use batchnorm_wgpu::host::Gpu;
use batchnorm_wgpu_check::case::matrix;
use batchnorm_wgpu_check::suite::{Expectations, Outcome, Row, Suite, by_kernel};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Arguments of `bn check`.
#[derive(clap::Args)]
pub struct CheckArgs {
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Check every adapter there is
    #[arg(long, conflicts_with = "adapter")]
    all_adapters: bool,
    /// Fail when this adapter is missing; may be given several times
    #[arg(long, value_name = "NAME")]
    require: Vec<String>,
    /// Only cases whose id contains this text; the kernels that they leave out are not reported as holes
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Print the accuracy of each output for channel means up to a million deviations instead
    #[arg(long)]
    accuracy: bool,
    /// Run the golden cases (*.safetensors, see tests/golden/README.md) of a folder instead
    #[arg(long, value_name = "DIR", conflicts_with_all = ["accuracy", "filter", "json", "junit"])]
    golden: Option<PathBuf>,
    /// Golden cases that ask for what is not supported yet do not fail
    #[arg(long, requires = "golden")]
    allow_unsupported: bool,
    /// Write every case with its verdicts as JSON to FILE, or to standard output
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// Write a JUnit report for a CI server
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

/// What was found on one adapter.
#[derive(Serialize)]
struct AdapterReport {
    adapter: String,
    name: String,
    driver: String,
    seconds: f64,
    kernels: Vec<Row>,
    outcomes: Vec<Outcome>,
}

impl AdapterReport {
    fn failures(&self) -> impl Iterator<Item = (&Outcome, &str)> {
        self.outcomes.iter().filter_map(|outcome| Some((outcome, outcome.failure.as_deref()?)))
    }

    /// Kernel variants that no case ran.
    fn holes(&self) -> impl Iterator<Item = &Row> {
        self.kernels.iter().filter(|row| row.cases == 0)
    }
}

/// Runs the matrix.
pub fn run(arguments: &CheckArgs) -> Result<Verdict, AnyError> {
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
    if let Some(folder) = &arguments.golden {
        let files = golden::files(folder)?;
        let judge = |gpu| golden::print(gpu, &golden::run(gpu, &files, arguments.allow_unsupported));
        let verdicts: Vec<Verdict> = gpus.iter().map(judge).collect();
        return Ok(if verdicts.contains(&Verdict::Failed) { Verdict::Failed } else { Verdict::Passed });
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
        write(path, junit(&reports, arguments.filter.is_none()).to_string()?.as_bytes())?;
    }
    let whole = arguments.filter.is_none();
    let failed = |report: &AdapterReport| report.failures().count() > 0 || (whole && report.holes().count() > 0);
    Ok(if reports.iter().any(failed) { Verdict::Failed } else { Verdict::Passed })
}

fn check(gpu: &Gpu, arguments: &CheckArgs, expectations: &mut Expectations) -> Result<AdapterReport, AnyError> {
    let kernels = Kernels::new(&gpu.device);
    let capabilities = kernels.capabilities().clone();
    let mut cases = matrix(&kernels);
    if let Some(text) = &arguments.filter {
        cases.retain(|case| case.to_string().contains(text));
        if cases.is_empty() {
            return Err(format!("no case contains {text:?}; `bn check --json` lists them all").into());
        }
    }
    let begin = Instant::now();
    let mut suite = Suite::new(kernels, gpu.queue.clone(), expectations);
    let bar = progress(cases.len() as u64, &gpu.key());
    let outcomes: Vec<Outcome> = bar.wrap_iter(cases.iter()).map(|case| suite.run(case)).collect();
    bar.finish_and_clear();
    Ok(AdapterReport {
        adapter: gpu.key(),
        name: gpu.info.name.clone(),
        driver: gpu.info.driver_info.clone(),
        seconds: begin.elapsed().as_secs_f64(),
        kernels: by_kernel(&outcomes, capabilities.subgroups),
        outcomes,
    })
}

/// Most failures that are printed; the files have all.
const PRINTED: usize = 10;

fn print(report: &AdapterReport, whole: bool) {
    println!("{}: {} {}", report.adapter, report.name, report.driver);
    let rows = report.kernels.iter().filter(|row| whole || row.cases > 0).map(|row| {
        let verdict = match row {
            Row { cases: 0, .. } => "not covered",
            Row { failed: 0, .. } => "ok",
            _ => "FAILED",
        };
        vec![
            row.kernel.clone(),
            verdict.into(),
            row.cases.to_string(),
            row.failed.to_string(),
            figure(row.worst),
            row.worst_output.clone(),
            row.worst_case.clone(),
        ]
    });
    let header = ["kernel", "verdict", "cases", "failed", "worst error/bound", "of", "in"];
    let mut table = table(&header, 2, rows);
    for column in table.column_iter_mut().skip(5) {
        column.set_cell_alignment(comfy_table::CellAlignment::Left);
    }
    println!("{table}");
    for (outcome, failure) in report.failures().take(PRINTED) {
        println!("FAILED {}\n       {failure}", outcome.case);
    }
    let (cases, failed) = (report.outcomes.len(), report.failures().count());
    if failed > PRINTED {
        println!("... and {} more; --json FILE has all", failed - PRINTED);
    }
    println!("{}: {} passed, {failed} failed, in {:.1} s\n", report.adapter, cases - failed, report.seconds);
}

/// `whole`: whether a kernel that no case ran is a failure.
fn junit(reports: &[AdapterReport], whole: bool) -> Report {
    let mut junit = Report::new("bn check");
    for report in reports {
        let mut suite = TestSuite::new(report.adapter.clone());
        suite.set_time(Duration::from_secs_f64(report.seconds));
        for outcome in &report.outcomes {
            let mut status = TestCaseStatus::success();
            if let Some(failure) = &outcome.failure {
                status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status.set_message(failure.clone());
            }
            let mut case = TestCase::new(outcome.case.clone(), status);
            case.set_classname(format!("{}.{}", report.adapter, outcome.operation));
            suite.add_test_case(case);
        }
        for hole in report.holes().filter(|_| whole) {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_message("no case covers this kernel variant");
            suite.add_test_case(TestCase::new(hole.kernel.clone(), status));
        }
        junit.add_test_suite(suite);
    }
    junit
}
