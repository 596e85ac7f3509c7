//! `bn check --golden`: golden cases of other implementations against the GPU.

use crate::check::ReportFiles;
use crate::deadline::Deadline;
use crate::junit::{self, Status};
use crate::output::{ReportKind, progress};
use crate::terminal::{Column, number, prose, table, text};
use crate::{AnyError, ExitStatus};
use batchnorm_wgpu::Kernels;
use batchnorm_wgpu::host::Gpu;
use batchnorm_wgpu_check::golden::{GoldenOutcome, Judged};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What is run.
pub struct GoldenRequest<'a> {
    /// A file, or a folder of files.
    pub cases: &'a Path,
    /// Only files whose name contains this text.
    pub filter: Option<&'a str>,
    /// Whether a case that is not supported is no failure.
    pub allow_unsupported: bool,
    /// How long files are begun.
    pub deadline: Deadline,
}

/// What the reports look like, JSON and JUnit.
pub const REPORTS: [ReportKind; 2] = [
    ReportKind::Json(&["adapter", "unsupported", "files"]),
    ReportKind::Text("<testsuites name=\"bn check --golden\""),
];

/// How a file fared.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Fared {
    Pass,
    Fail,
    Unsupported,
}

/// What came of one file.
#[derive(Serialize)]
struct FileRow {
    case: String,
    file: PathBuf,
    verdict: Fared,
    /// Why it did not pass.
    reason: Option<String>,
    seconds: f64,
    /// The verdict on every answer in the file.
    outputs: Vec<Judged>,
}

/// What came of the files on one adapter.
#[derive(Serialize)]
struct GoldenReport {
    adapter: String,
    name: String,
    driver: String,
    seconds: f64,
    passed: usize,
    failed: usize,
    unsupported: usize,
    /// Files that the time limit left out.
    left_out: usize,
    files: Vec<FileRow>,
}

/// Runs the cases on every adapter. A file that is no case is a failure, and the others still run.
pub fn run(gpus: &[Gpu], request: &GoldenRequest<'_>, to: &ReportFiles) -> Result<ExitStatus, AnyError> {
    let files = files(request.cases, request.filter)?;
    let mut reports = Vec::new();
    for gpu in gpus {
        let report = GoldenReport::new(gpu, &files, request.deadline);
        if report.files.is_empty() {
            return Err("no file was read before the time limit; give it more seconds".into());
        }
        if !to.is_quiet() {
            report.print();
        }
        reports.push(report);
    }
    if let Some(json) = &to.json {
        json.write_json(&reports)?;
    }
    if let Some(file) = &to.junit {
        let suites: Vec<_> = reports.iter().map(|report| report.suite(request.allow_unsupported)).collect();
        junit::write(file, "bn check --golden", &suites)?;
    }
    let failed = |report: &GoldenReport| report.failed > 0 || (report.unsupported > 0 && !request.allow_unsupported);
    Ok(if reports.iter().any(failed) { ExitStatus::Failed } else { ExitStatus::Passed })
}

/// The files to run, in order.
fn files(cases: &Path, filter: Option<&str>) -> Result<Vec<PathBuf>, AnyError> {
    let failed = |error: std::io::Error| format!("{}: {error}", cases.display());
    let mut files = Vec::new();
    if std::fs::metadata(cases).map_err(failed)?.is_dir() {
        for entry in std::fs::read_dir(cases).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                files.push(path);
            }
        }
    } else {
        files.push(cases.to_owned());
    }
    if files.is_empty() {
        return Err(format!("{}: expected golden cases (*.safetensors), found none", cases.display()).into());
    }
    files.retain(|file| filter.is_none_or(|text| stem(file).contains(text)));
    if files.is_empty() {
        let text = filter.unwrap_or_default();
        return Err(format!("{}: the name of no golden case contains {text:?}", cases.display()).into());
    }
    files.sort();
    Ok(files)
}

fn stem(file: &Path) -> String {
    file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy().into_owned()
}

impl FileRow {
    fn new(file: &Path, outcome: GoldenOutcome, seconds: f64) -> Self {
        let verdict = match &outcome {
            GoldenOutcome::Passed(_) => Fared::Pass,
            GoldenOutcome::Mismatch(_) | GoldenOutcome::Failed(_) => Fared::Fail,
            GoldenOutcome::Unsupported(_) => Fared::Unsupported,
        };
        let (reason, outputs) = (outcome.reason(), outcome.judged().to_vec());
        Self { case: stem(file), file: file.to_owned(), verdict, reason, seconds, outputs }
    }

    /// The answer with the largest error over its bound, the first of equals.
    fn worst(&self) -> Option<&Judged> {
        self.outputs.iter().rev().max_by(|a, b| a.verdict.ratio.total_cmp(&b.verdict.ratio))
    }

    /// Its line of the table: the worst element of those that ran.
    fn cells(&self) -> Vec<String> {
        let verdict = match self.verdict {
            Fared::Pass => "pass",
            Fared::Fail => "FAIL",
            Fared::Unsupported => "unsupported",
        };
        let mut cells = vec![self.case.clone(), verdict.into()];
        if let Some((worst, element)) = self.worst().and_then(|judged| Some((judged, judged.verdict.worst?))) {
            cells.extend([
                format!("{}{:?}", worst.verdict.name, worst.position).replace(", ", ","),
                format!("{:.1e}", element.error),
                format!("{:.1e}", element.bound),
                format!("{:.4e}", element.got),
                format!("{:.4e}", element.want),
            ]);
        }
        cells.resize(columns().len(), String::new());
        cells
    }

    /// What the table has no room for, in a line; `None` for a case that passed.
    fn remark(&self) -> Option<String> {
        let reason = self.reason.as_ref()?;
        let word = if self.verdict == Fared::Fail { "FAIL" } else { "unsupported" };
        let failed = self.outputs.iter().map(|judged| &judged.verdict).filter(|verdict| !verdict.passed);
        let counts: Vec<String> = failed
            .map(|verdict| match verdict.worst {
                Some(worst) => format!("{} {} of {}", verdict.name, worst.failures, worst.elements),
                None => format!("{} {}", verdict.name, verdict.detail),
            })
            .collect();
        Some(match counts.is_empty() {
            true => format!("{word} {}: {reason}", self.file.display()),
            false => format!("{word} {}: outside the tolerance: {}", self.file.display(), counts.join(", ")),
        })
    }
}

fn columns() -> [Column; 7] {
    [
        text("case"),
        text("verdict"),
        text("worst element").means("the output and the place with the largest error over its bound"),
        number("error").extra(),
        number("bound").extra(),
        number("got").extra(),
        number("want").extra(),
    ]
}

impl GoldenReport {
    fn new(gpu: &Gpu, files: &[PathBuf], deadline: Deadline) -> Self {
        let kernels = Kernels::new(&gpu.device);
        let bar = progress(files.len() as u64, &gpu.key());
        let begin = Instant::now();
        let rows: Vec<FileRow> = bar
            .wrap_iter(files.iter())
            .take_while(|_| !deadline.passed())
            .map(|file| {
                let begin = Instant::now();
                let outcome = GoldenOutcome::of(file, &kernels, &gpu.queue);
                FileRow::new(file, outcome, begin.elapsed().as_secs_f64())
            })
            .collect();
        bar.finish_and_clear();
        let count = |fared| rows.iter().filter(|row| row.verdict == fared).count();
        Self {
            adapter: gpu.key(),
            name: gpu.info.name.clone(),
            driver: gpu.info.driver_info.clone(),
            seconds: begin.elapsed().as_secs_f64(),
            passed: count(Fared::Pass),
            failed: count(Fared::Fail),
            unsupported: count(Fared::Unsupported),
            left_out: files.len() - rows.len(),
            files: rows,
        }
    }

    /// A line for each file, then what is to be said of those that did not pass.
    fn print(&self) {
        println!("{}", prose(&format!("{}: {} {}", self.adapter, self.name, self.driver)));
        println!("{}", table(columns(), self.files.iter().map(FileRow::cells)));
        self.files.iter().filter_map(FileRow::remark).for_each(|remark| println!("{remark}"));
        let Self { passed, failed, unsupported, seconds, .. } = self;
        println!("{}: {passed} passed, {failed} failed, {unsupported} unsupported, in {seconds:.1} s", self.adapter);
        if self.left_out > 0 {
            println!("The time limit left out {} files.", self.left_out);
        }
        println!();
    }
}

impl GoldenReport {
    /// An unsupported case is skipped where that is allowed, and otherwise a failure.
    fn suite(&self, allow_unsupported: bool) -> junit::TestSuite {
        let case = |row: &FileRow| {
            let reason = row.reason.clone().unwrap_or_default();
            let status = match row.verdict {
                Fared::Pass => Status::Passed,
                Fared::Unsupported if allow_unsupported => Status::Skipped(reason),
                Fared::Unsupported => Status::Failed(format!("unsupported: {reason}")),
                Fared::Fail => Status::Failed(reason),
            };
            let class = format!("{}.golden", self.adapter);
            junit::TestCase { name: row.case.clone(), class, seconds: Some(row.seconds), status }
        };
        junit::TestSuite {
            name: self.adapter.clone(),
            seconds: self.seconds,
            cases: self.files.iter().map(case).collect(),
        }
    }
}
