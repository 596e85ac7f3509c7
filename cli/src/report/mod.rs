//! `bn report`: records of `bn bench` merged into one HTML page and a Markdown table.

mod charts;
mod html;
mod markdown;
mod read;

use crate::bench::record::{BenchRow, FusedRow};
use crate::output::{Claim, ReportKind};
use crate::terminal::prose;
use crate::{AnyError, ExitStatus};
use std::path::{Path, PathBuf};

/// Arguments of `bn report`.
#[derive(clap::Args)]
pub struct ReportArgs {
    /// The folder with records of `bn bench --record` and `bn compile --record`, at any depth
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Write the page to FILE; `-` is standard output
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    html: PathBuf,
    /// Write the table as Markdown to FILE; `-` is standard output
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// What the page and the table look like.
const PAGE: ReportKind = ReportKind::Text("<title>Batch normalization benchmarks</title>");
const TABLE: ReportKind = ReportKind::Text("# Benchmarks\n\nWritten by `bn report`.");

/// Reads the records and writes the page and the table. Files that are no records are left out of both, and are an
/// error once the others are written.
pub fn run(arguments: &ReportArgs) -> Result<ExitStatus, AnyError> {
    let ReportArgs { directory, html, markdown } = arguments;
    let html = Claim::report(Some(html), PAGE)?;
    let markdown = Claim::report(markdown.as_deref(), TABLE)?;
    let files: Vec<&Claim> = [&html, &markdown].into_iter().flatten().collect();
    let read = read::read(directory)?;
    if let Some(html) = &html {
        html.write(html::page(&read.records).as_bytes())?;
    }
    if let Some(markdown) = &markdown {
        markdown.write(markdown::tables(&read.records.newest).as_bytes())?;
    }
    // Standard output holds the file alone where it goes there.
    let summary = summary(&read, directory, &files);
    if files.iter().any(|file| file.is_standard_output()) {
        eprintln!("{summary}");
    } else {
        println!("{}", prose(&summary));
    }
    read.left_out(directory).map_or(Ok(ExitStatus::Passed), |error| Err(error.into()))
}

/// What was read and written.
fn summary(read: &read::Read, directory: &Path, files: &[&Claim]) -> String {
    let name = |file: &&Claim| match file.is_standard_output() {
        true => "standard output".into(),
        false => file.path().display().to_string(),
    };
    let written: Vec<String> = files.iter().map(name).collect();
    let records = &read.records;
    let compilers = match records.compiled.len() {
        0 => String::new(),
        number => format!(" and of {}", count(number, "compiler")),
    };
    format!(
        "read {} of {}{compilers} below {}; wrote {}",
        count(records.newest.len() + records.older.len(), "record"),
        count(records.newest.len(), "adapter"),
        directory.display(),
        written.join(" and ")
    )
}

/// `1 record`, `2 records`.
fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Three digits or more of a time or a speed, without an exponent where it is readable.
fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 1e7 || (size < 1e-2 && size > 0.0) => format!("{value:.2e}"),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The numbers of a row's plan in one line.
fn plan(row: &BenchRow) -> String {
    let plan = &row.plan;
    let mut text = format!(
        "{} {} {}, {} workgroups of {}",
        strategy(row),
        plan.geometry(),
        plan.reduction(),
        plan.preference.workgroups,
        plan.preference.workgroup_size()
    );
    if let Some(held) = plan.held() {
        text += &format!(", {held} held");
    }
    text
}

/// The strategy of a row's plan, and whether its second dispatch goes backwards.
fn strategy(row: &BenchRow) -> String {
    format!("{}{}", row.plan.preference.strategy(), if row.plan.reverse() { ", reverse" } else { "" })
}

/// Header of the table of fused steps: the adapter, then [`fused_cells`].
const FUSED_HEADER: [&str; 10] = [
    "adapter",
    "operation",
    "fused with",
    "shape",
    "dtype",
    "fused us",
    "separate us",
    "separate / fused",
    "fused moves",
    "separate moves",
];

/// The cells of a fused step.
fn fused_cells(row: &FusedRow) -> Vec<String> {
    vec![
        row.operation.name().into(),
        row.fusion.name().into(),
        row.shape(),
        row.dtype.name().into(),
        digits(row.fused_microseconds.median),
        digits(row.separate_microseconds.median),
        format!("{:.2}", row.separate_over_fused),
        row.fused_moves.to_string(),
        row.separate_moves.to_string(),
    ]
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::bench::record::{Clock, Copy, Fusion, PlanFigures, Record, SCHEMA, Timing};
    use batchnorm_wgpu::kernels::{Geometry, Reduction};
    use batchnorm_wgpu::{Choice, DType, Operation, Preference};

    /// A record of `rows`.
    pub fn record(adapter: &str, date: &str, rows: Vec<BenchRow>) -> Record {
        Record {
            schema: SCHEMA.into(),
            date: date.into(),
            adapter: adapter.into(),
            name: format!("{adapter} 1"),
            driver: "driver 1.2".into(),
            backend: "Vulkan".into(),
            device_type: "Cpu".into(),
            processor: "a processor, 2 cores".into(),
            version: "0.1.0".into(),
            clock: Clock::Timestamps,
            copy: Copy { gigabytes_per_second: 10.0, bytes: 1 << 26, workgroup_size: 128, workgroups: 64 },
            rows,
            fused: Vec::new(),
            not_timed: Vec::new(),
        }
    }

    /// A fused row.
    pub fn fused_row(fused: f64, separate: f64) -> FusedRow {
        let timing = |median| Timing { median, spread: 0.5, steps: 10, samples: 11 };
        FusedRow {
            operation: Operation::Inference,
            dims: vec![8, 4],
            layout: "channels_first".into(),
            views: String::new(),
            dtype: DType::F16,
            fusion: Fusion::ReluResidual,
            fused_microseconds: timing(fused),
            separate_microseconds: timing(separate),
            separate_over_fused: separate / fused,
            fused_moves: 3,
            separate_moves: 5,
        }
    }

    /// A row of `operation` on `dims`.
    pub fn row(operation: Operation, dims: &[usize], chosen: bool, fraction: f64, median: f64) -> BenchRow {
        let choice = Choice {
            geometry: Some(Geometry::Scalar),
            reduction: Some(Reduction::Tree),
            workgroup_size: Some(128),
            ..Choice::split(None, true)
        };
        BenchRow {
            operation,
            dims: dims.to_vec(),
            layout: "channels_first".into(),
            views: String::new(),
            dtype: DType::F32,
            bytes: 4 * dims.iter().product::<usize>() as u64,
            chosen,
            kernels: vec!["moments".into(), "normalize".into()],
            plan: PlanFigures { preference: Preference { choice, workgroups: 64 }, splits: 1 },
            microseconds: Timing { median, spread: 0.5, steps: 10, samples: 11 },
            encode_microseconds: 1.25,
            gigabytes_per_second: 10.0 * fraction,
            fraction_of_copy: fraction,
        }
    }

    #[test]
    fn digits_stay_readable() {
        let expected =
            [(0.0, "0.00"), (0.25, "0.25"), (12.34, "12.3"), (1234.5, "1234"), (3e9, "3.00e9"), (1e-4, "1.00e-4")];
        for (value, text) in expected {
            assert_eq!(digits(value), text);
        }
    }

    #[test]
    fn writes_what_was_read_and_then_names_what_was_not() {
        let directory = std::env::temp_dir().join(format!("bn-report-{}", std::process::id()));
        let page = directory.join("report.html");
        let arguments = ReportArgs { directory: directory.clone(), html: page.clone(), markdown: None };
        std::fs::create_dir_all(directory.join("deep/er")).unwrap();
        let empty = run(&arguments).unwrap_err().to_string();
        assert!(empty.contains("bn bench --record"), "{empty}");
        let good = record("one", "2026-01-02", vec![row(Operation::Inference, &[2, 3], true, 0.5, 1.0)]);
        std::fs::write(directory.join("deep/er/good.json"), serde_json::to_string(&good).unwrap()).unwrap();
        assert_eq!(run(&arguments).unwrap(), ExitStatus::Passed);
        std::fs::write(directory.join("wrong.json"), "{\"schema\": \"another-1\"}").unwrap();
        let wrong = run(&arguments).unwrap_err().to_string();
        assert!(wrong.contains("wrong.json: expected") && wrong.contains("another-1"), "{wrong}");
        assert!(std::fs::read_to_string(&page).unwrap().contains("2x3 channels_first"));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
