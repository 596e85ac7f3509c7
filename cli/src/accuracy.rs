//! `bn check --accuracy`: accuracy by output where the mean is far from zero.

use crate::check::ReportFiles;
use crate::output::ReportKind;
use crate::terminal::{Column, number, prose, table};
use crate::{AnyError, ExitStatus, folded};
use batchnorm_wgpu::host::Gpu;
use batchnorm_wgpu::{Config, Kernels, Layout, RunningStatistics, Shape};
use batchnorm_wgpu_check::case::{Before, Inputs, Operation, Setup};
use batchnorm_wgpu_check::data::{Data, normal};
use batchnorm_wgpu_check::judge::{Expected, expected};
use batchnorm_wgpu_check::suite::judge;
use serde::Serialize;

/// Means of the channels, in deviations.
const MEANS: [f32; 4] = [0.0, 1e2, 1e4, 1e6];
/// The promise: largest error over largest value.
const TARGET: f64 = 1e-6;
/// Outputs, and what people call them.
const OUTPUTS: [(&str, &str); 6] = [
    ("y", "y"),
    ("dx", "dx"),
    ("dweight", "dgamma"),
    ("dbias", "dbeta"),
    ("batch_mean", "mean"),
    ("batch_var", "variance"),
];
/// The tensor: the one that PyTorch's figures in docs/numerics.md are for.
const DIMS: [usize; 4] = [32, 16, 28, 28];

#[derive(Serialize)]
struct AccuracyRow {
    adapter: String,
    mean: f32,
    /// Largest error over largest value, in the order of the table's columns.
    error_over_max: Vec<(&'static str, f64)>,
}

/// What the report looks like.
pub const REPORT: ReportKind = ReportKind::Json(&["outputs", "folded"]);

/// What was measured on all adapters.
#[derive(Default, Serialize)]
struct AccuracyReport {
    outputs: Vec<AccuracyRow>,
    folded: Vec<folded::FoldedRow>,
}

/// Prints the tables for each adapter; fails when a figure of the first misses the target.
pub fn run(gpus: &[Gpu], files: &ReportFiles) -> Result<ExitStatus, AnyError> {
    let mut all = AccuracyReport::default();
    for gpu in gpus {
        let outputs = MEANS.iter().map(|&mean| measure(gpu, mean)).collect::<Result<Vec<_>, AnyError>>()?;
        let folded = MEANS.iter().map(|&mean| folded::measure(gpu, mean)).collect::<Result<Vec<_>, AnyError>>()?;
        if !files.is_quiet() {
            print(gpu, &outputs);
            folded::print(&folded);
        }
        all.outputs.extend(outputs);
        all.folded.extend(folded);
    }
    if let Some(json) = &files.json {
        json.write_json(&all)?;
    }
    let met = all.outputs.iter().flat_map(|row| &row.error_over_max).all(|(_, error)| *error <= TARGET);
    Ok(if met { ExitStatus::Passed } else { ExitStatus::Failed })
}

fn print(gpu: &Gpu, rows: &[AccuracyRow]) {
    let heading = "largest error over largest value, f32 against float64";
    println!("{}", prose(&format!("{}: {heading}; x is {DIMS:?} with deviation 1", gpu.key())));
    let columns: Vec<Column> = std::iter::once("mean").chain(OUTPUTS.map(|(_, name)| name)).map(number).collect();
    let cells = rows.iter().map(|row| {
        let figures = row.error_over_max.iter().map(|(_, error)| match *error <= TARGET {
            true => format!("{error:.1e}"),
            false => format!("{error:.1e} MISSED"),
        });
        std::iter::once(format!("{:.0e}", row.mean)).chain(figures).collect()
    });
    println!("{}", table(columns, cells));
    let note = format!("The target is {TARGET:.0e}. The error of the mean is over the larger of mean and deviation.\n");
    println!("{}", prose(&note));
}

fn measure(gpu: &Gpu, mean: f32) -> Result<AccuracyRow, AnyError> {
    let shape = Shape::new(&DIMS, Layout::ChannelsFirst)?;
    let channels = shape.channels();
    let inputs = Inputs {
        before: Before::default(),
        x: Data::Normal { mean }.x(&shape, 11),
        dy: normal(shape.elements(), 12),
        residual: None,
        gamma: Some(normal(channels, 13).into_iter().map(|z| 1.0 + 0.1 * z).collect()),
        beta: Some(normal(channels, 14)),
        running: RunningStatistics::new(channels),
        config: Config::default(),
        shape,
    };
    let kernels = Kernels::new(&gpu.device);
    let mut verdicts = Vec::new();
    let mut mean_scale = 1.0;
    for operation in [Operation::ForwardTraining, Operation::BackwardTraining] {
        let expected = expected(operation, &inputs, &vec![None])?;
        if operation == Operation::ForwardTraining {
            mean_scale = scale_of_mean(&expected);
        }
        verdicts.extend(judge(&kernels, &gpu.queue, operation, &inputs, &Setup::default(), &expected)?.verdicts);
    }
    let error = |output: &str| {
        let verdict = verdicts.iter().find(|verdict| verdict.name == output);
        let error = verdict.map_or(f64::INFINITY, |verdict| verdict.error_over_max);
        if output == "batch_mean" { error * mean_scale } else { error }
    };
    let error_over_max = OUTPUTS.iter().map(|(output, name)| (*name, error(output))).collect();
    Ok(AccuracyRow { adapter: gpu.key(), mean, error_over_max })
}

/// What turns the error of the mean over the largest mean into one over the largest mean or deviation, whichever is larger.
/// A mean near zero is the sum of values that cancel: no f32 sum has it to 1e-6 of itself, and nothing needs it closer than
/// to a small part of the deviation.
fn scale_of_mean(expected: &[Expected]) -> f64 {
    let largest = |name: &str, of: fn(f64) -> f64| {
        let wanted = expected.iter().filter(|expected| expected.name == name).flat_map(|expected| &expected.want);
        wanted.fold(0.0f64, |largest, &want| largest.max(of(want)))
    };
    let (mean, deviation) = (largest("batch_mean", f64::abs), largest("batch_var", f64::sqrt));
    mean / mean.max(deviation)
}
