//! What ran and what came of it, for people and for machines.

use super::inputs::Taken;
use super::outputs::{Outcome, Target};
use crate::output::figure;
use crate::terminal::{Column, number, prose, table, text};
use batchnorm_wgpu::host::Gpu;
use batchnorm_wgpu::reference::bound::Comparison;
use batchnorm_wgpu::{Activation, DType, Operation};
use batchnorm_wgpu_check::case::Inputs;
use batchnorm_wgpu_check::judge::position;
use batchnorm_wgpu_check::run::Results;
use serde::Serialize;

/// A run.
#[derive(Serialize)]
pub struct Report {
    operation: Operation,
    /// The adapter's short name.
    adapter: String,
    /// Its own name.
    name: String,
    driver: String,
    /// Names of the kernels that ran, in order.
    kernels: Vec<String>,
    shape: Vec<usize>,
    layout: String,
    dtype: DType,
    eps: f64,
    activation: Activation,
    #[serde(flatten)]
    taken: Taken,
    outputs: Vec<Output>,
    /// Channels whose running statistics stayed, since those of the batch are NaN or infinite.
    skipped_channels: usize,
    /// Whether every result is within its bound; `None` where none was compared.
    pub passed: Option<bool>,
}

/// A result.
#[derive(Serialize)]
pub struct Output {
    name: &'static str,
    dtype: String,
    shape: Vec<usize>,
    /// The file that it was written to.
    file: Option<String>,
    /// How it compares with the reference.
    compared: Option<Held>,
}

/// A result beside the reference.
#[derive(Serialize)]
pub struct Held {
    passed: bool,
    /// Elements outside the bound.
    failures: usize,
    /// Elements for which nothing is promised, since the inputs overflow f32 on the way.
    unbounded: usize,
    /// Largest error over bound.
    worst_ratio: f64,
    /// Largest error over largest value.
    error_over_max: f64,
    /// The element with the largest error over bound.
    worst: Option<Worst>,
    /// What else is wrong.
    failure: Option<String>,
}

/// An element.
#[derive(Serialize)]
struct Worst {
    position: Vec<usize>,
    got: f64,
    want: f64,
    bound: f64,
}

impl Held {
    /// The outcome of a comparison, or what was wrong with it, for a result of these dimensions.
    pub fn new(comparison: &Result<Comparison, String>, dims: &[usize]) -> Self {
        match comparison {
            Ok(outcome) => Self {
                passed: outcome.passed(),
                failures: outcome.failures,
                unbounded: outcome.unbounded,
                worst_ratio: outcome.worst_ratio,
                error_over_max: outcome.max_error_over_max,
                worst: Some(Worst {
                    position: position(outcome.worst_index, dims),
                    got: outcome.worst_got,
                    want: outcome.worst_want,
                    bound: outcome.worst_tolerance,
                }),
                failure: None,
            },
            Err(failure) => Self {
                passed: false,
                failures: 0,
                unbounded: 0,
                worst_ratio: f64::INFINITY,
                error_over_max: f64::INFINITY,
                worst: None,
                failure: Some(failure.clone()),
            },
        }
    }

    fn cells(&self) -> Vec<String> {
        let verdict = match (self.passed, self.unbounded) {
            (false, _) => "FAILED".into(),
            (true, 0) => "pass".into(),
            (true, unbounded) => format!("pass, {unbounded} overflow"),
        };
        let worst = self.worst.as_ref().map(|worst| {
            let Worst { position, got, want, .. } = worst;
            format!("{position:?}: got {got:.8e}, want {want:.8e}")
        });
        let worst = worst.or(self.failure.clone()).unwrap_or_default();
        vec![verdict, figure(self.worst_ratio), figure(self.error_over_max), worst]
    }
}

impl Report {
    /// The report of a run.
    pub fn new(
        operation: Operation,
        gpu: &Gpu,
        inputs: &Inputs,
        taken: Taken,
        results: &Results,
        outputs: Vec<Output>,
    ) -> Self {
        let compared: Vec<&Held> = outputs.iter().filter_map(|output| output.compared.as_ref()).collect();
        let passed = (!compared.is_empty()).then(|| compared.iter().all(|held| held.passed));
        let skipped =
            results.running.as_ref().map(|running| running.skipped.iter().filter(|&&count| count > 0).count());
        Self {
            operation,
            adapter: gpu.key(),
            name: gpu.info.name.clone(),
            driver: gpu.info.driver_info.clone(),
            kernels: results.kernels.clone(),
            shape: inputs.shape.dims().to_vec(),
            layout: inputs.shape.layout().to_string(),
            dtype: inputs.config.dtype,
            eps: inputs.config.eps,
            activation: inputs.config.activation,
            taken,
            outputs,
            skipped_channels: skipped.unwrap_or_default(),
            passed,
        }
    }

    /// Prints it.
    pub fn print(&self) {
        println!("{}", prose(&format!("{}: {} {}", self.adapter, self.name, self.driver)));
        println!("{}", prose(&format!("{} by {}", self.operation, self.kernels.join(", "))));
        let inputs = self.taken.inputs.iter().map(|input| {
            vec![input.name.into(), input.dtype.clone(), format!("{:?}", input.shape), input.source.clone()]
        });
        println!("{}", table(["input", "type", "shape", "from"].map(text), inputs));
        self.taken.print_unused();
        let mut columns: Vec<Column> = ["output", "type", "shape"].map(text).into();
        let written = self.outputs.iter().any(|output| output.file.is_some());
        columns.extend(written.then(|| text("to").extra()));
        columns.extend(self.passed.into_iter().flat_map(|_| compared()));
        println!("{}", table(columns, self.outputs.iter().map(Output::cells)));
        if self.skipped_channels > 0 {
            let skipped = self.skipped_channels;
            let kept = format!(
                "The running statistics of {skipped} channels stay as they were: those of the batch are not finite."
            );
            println!("{}", prose(&kept));
        }
    }
}

/// What a table says of compared results.
fn compared() -> [Column; 4] {
    [
        text("verdict"),
        number("worst\nerror/bound").means("the largest error over its bound, at most 1 where the verdict is pass"),
        number("error/max").means("the largest error over the largest value").extra(),
        text("worst element").means("that with the largest error over its bound").extra(),
    ]
}

impl Output {
    /// A result, where it went and how it compares.
    pub fn new(outcome: &Outcome<'_>, out: Option<&Target>, compared: Option<Held>) -> Self {
        Self {
            name: outcome.name,
            dtype: format!("{:?}", outcome.dtype),
            shape: outcome.dims.clone(),
            file: out.map(|target| target.file(outcome.name).display().to_string()),
            compared,
        }
    }

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.name.into(), self.dtype.clone(), format!("{:?}", self.shape)];
        cells.extend(self.file.clone());
        cells.extend(self.compared.iter().flat_map(Held::cells));
        cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchnorm_wgpu::reference::bound::compare;

    #[test]
    fn says_what_is_outside_the_bound() {
        let held = Held::new(
            &compare(&[1.0, 2.0, 3.5, 4.0], &[1.0, 2.0, 3.0, 4.0], &[0.25; 4]).map_err(|_| String::new()),
            &[2, 2],
        );
        assert!(!held.passed && held.failures == 1);
        assert_eq!(held.cells()[..2], ["FAILED", "2.000"]);
        assert!(held.cells()[3].starts_with("[1, 0]: got 3.5"), "{:?}", held.cells());
        assert!(!Held::new(&Err("the call returned none".into()), &[2]).passed);
        let overflow = Held::new(&compare(&[1.0], &[2.0], &[f64::INFINITY]).map_err(|_| String::new()), &[1]);
        assert_eq!(overflow.cells()[0], "pass, 1 overflow");
    }
}
