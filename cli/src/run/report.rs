//! What ran and what came of it, for people and for machines.

use super::inputs::Taken;
use super::outputs::{ResultTensor, Target};
use super::skipped::Skipped;
use crate::output::figure;
use crate::terminal::{Column, number, prose, table, text};
use batchnorm_wgpu::host::Gpu;
use batchnorm_wgpu::reference::bound::{Comparison, Element};
use batchnorm_wgpu::{Activation, DType, Operation};
use batchnorm_wgpu_check::case::Inputs;
use batchnorm_wgpu_check::judge::position;
use batchnorm_wgpu_check::run::Results;
use serde::Serialize;

/// A run.
#[derive(Serialize)]
pub struct RunReport {
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
    /// Of leaky_relu.
    negative_slope: Option<f64>,
    #[serde(flatten)]
    taken: Taken,
    outputs: Vec<ReportedOutput>,
    /// Number of channels whose running statistics stayed as they were.
    skipped_channels: usize,
    /// Which they are, by the reason.
    skipped: Vec<Skipped>,
    /// Whether every result is within its bound and representable; `None` where none was compared.
    pub passed: Option<bool>,
}

/// A result.
#[derive(Serialize)]
pub struct ReportedOutput {
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
    verdict: Judgement,
    /// Elements outside the bound.
    failures: usize,
    /// Elements that are NaN or infinite, or stayed as they were, where float64 has another number: f32 does not hold what
    /// leads to it.
    not_representable: usize,
    /// The first of them.
    first_not_representable: Option<PlacedElement>,
    /// Other elements for which nothing is promised, since the inputs may overflow f32 on the way.
    unbounded: usize,
    /// Elements that are NaN, as in float64.
    nan: usize,
    /// Elements that are the same infinity as in float64, rounded to the type of the output.
    infinite: usize,
    /// Largest error over bound.
    worst_ratio: f64,
    /// Largest error over largest value.
    error_over_max: f64,
    /// The element with the largest error over bound.
    worst: Option<WorstElement>,
    /// What else is wrong.
    failure: Option<String>,
}

/// A verdict in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Judgement {
    /// Every element is within its bound, as far as it has one.
    Pass,
    /// An element is outside its bound.
    Failed,
    /// No element is outside its bound, but some are not representable.
    NotRepresentable,
    /// No element has a bound.
    NoBound,
}

impl Judgement {
    fn of(outcome: &Comparison) -> Self {
        match outcome {
            _ if outcome.failures > 0 => Self::Failed,
            _ if outcome.unrepresentable > 0 => Self::NotRepresentable,
            _ if outcome.unbounded > 0 && outcome.unbounded == outcome.elements => Self::NoBound,
            _ => Self::Pass,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Failed => "FAILED",
            Self::NotRepresentable => "not representable",
            Self::NoBound => "no bound",
        }
    }
}

/// Where an element lies, what it is and what it should be.
#[derive(Serialize)]
struct PlacedElement {
    position: Vec<usize>,
    got: f64,
    want: f64,
}

impl PlacedElement {
    fn new(Element { index, got, want }: Element, dims: &[usize]) -> Self {
        Self { position: position(index, dims), got, want }
    }
}

/// The element with the largest error over bound.
#[derive(Serialize)]
struct WorstElement {
    #[serde(flatten)]
    place: PlacedElement,
    bound: f64,
}

impl Held {
    /// The outcome of a comparison, or what was wrong with it, for a result of these dimensions.
    pub fn new(comparison: &Result<Comparison, String>, dims: &[usize]) -> Self {
        match comparison {
            Ok(outcome) => Self {
                passed: outcome.passed(),
                verdict: Judgement::of(outcome),
                failures: outcome.failures,
                not_representable: outcome.unrepresentable,
                first_not_representable: outcome.first_unrepresentable.map(|element| PlacedElement::new(element, dims)),
                unbounded: outcome.unbounded,
                nan: outcome.nan,
                infinite: outcome.infinite,
                worst_ratio: outcome.worst_ratio,
                error_over_max: outcome.error_over_max(),
                worst: outcome.worst().map(|element| WorstElement {
                    place: PlacedElement::new(element, dims),
                    bound: outcome.worst_tolerance,
                }),
                failure: None,
            },
            Err(failure) => Self {
                passed: false,
                verdict: Judgement::Failed,
                failures: 0,
                not_representable: 0,
                first_not_representable: None,
                unbounded: 0,
                nan: 0,
                infinite: 0,
                worst_ratio: f64::INFINITY,
                error_over_max: f64::INFINITY,
                worst: None,
                failure: Some(failure.clone()),
            },
        }
    }

    fn cells(&self) -> Vec<String> {
        let unrepresentable = self.first_not_representable.as_ref().filter(|_| self.failures == 0);
        let shown = unrepresentable.or(self.worst.as_ref().map(|worst| &worst.place));
        let shown =
            shown.map(|PlacedElement { position, got, want }| format!("{position:?}: got {got:.8e}, want {want:.8e}"));
        let shown = shown.or(self.failure.clone()).unwrap_or_default();
        vec![self.words(), figure(self.worst_ratio), figure(self.error_over_max), shown]
    }

    /// The verdict, and what else is to be said of the elements, such as `pass, 18 NaN as in float64`.
    fn words(&self) -> String {
        let counted = |count: usize, of: &str| (count > 0).then(|| format!("{count} {of}"));
        let (unrepresentable, unbounded) = match self.verdict {
            Judgement::NotRepresentable => {
                (format!("{}: {}", self.verdict.name(), self.not_representable), self.unbounded)
            }
            Judgement::NoBound => (self.verdict.name().into(), 0),
            Judgement::Pass | Judgement::Failed => (self.verdict.name().into(), self.unbounded),
        };
        let failed_too = if self.verdict == Judgement::Failed { self.not_representable } else { 0 };
        let as_wanted = [counted(self.nan, "NaN"), counted(self.infinite, "infinite")];
        let as_wanted: Vec<String> = as_wanted.into_iter().flatten().collect();
        let counts = [
            counted(failed_too, "not representable"),
            (!as_wanted.is_empty()).then(|| format!("{} as in float64", as_wanted.join(" and "))),
            counted(unbounded, "without a bound"),
        ];
        std::iter::once(unrepresentable).chain(counts.into_iter().flatten()).collect::<Vec<_>>().join(", ")
    }
}

impl RunReport {
    /// The report of a run.
    pub fn new(
        operation: Operation,
        gpu: &Gpu,
        inputs: &Inputs,
        taken: Taken,
        results: &Results,
        outputs: Vec<ReportedOutput>,
    ) -> Self {
        let compared: Vec<&Held> = outputs.iter().filter_map(|output| output.compared.as_ref()).collect();
        let passed = (!compared.is_empty()).then(|| compared.iter().all(|held| held.passed));
        let skipped = Skipped::of(inputs, results);
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
            negative_slope: (inputs.config.activation == Activation::LeakyRelu).then_some(inputs.config.negative_slope),
            taken,
            outputs,
            skipped_channels: skipped.iter().map(|skipped| skipped.channels.len()).sum(),
            skipped,
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
        println!("{}", table(columns, self.outputs.iter().map(ReportedOutput::cells)));
        self.skipped.iter().for_each(|skipped| println!("{}", prose(&skipped.message())));
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

impl ReportedOutput {
    /// A result, where it went and how it compares.
    pub fn new(outcome: &ResultTensor<'_>, out: Option<&Target>, compared: Option<Held>) -> Self {
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
    }

    #[test]
    fn a_verdict_says_what_came() {
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        let held = |got: &[f64], want: &[f64], bound: &[f64]| {
            Held::new(&compare(got, want, bound).map_err(|error| error.to_string()), &[got.len()])
        };
        for (got, want, bound, passed, words) in [
            ([1.0, 2.0], [1.0, 2.0], [0.0, 0.0], true, "pass"),
            ([1.0, 2.0], [1.0, 3.0], [0.0, inf], true, "pass, 1 without a bound"),
            ([1.0, 2.0], [2.0, 3.0], [inf, inf], true, "no bound"),
            ([nan, nan], [nan, nan], [0.0, inf], true, "pass, 2 NaN as in float64"),
            ([inf, 2.0], [inf, 2.0], [inf, 0.0], true, "pass, 1 infinite as in float64"),
            ([inf, nan], [inf, nan], [0.0, 0.0], true, "pass, 1 NaN and 1 infinite as in float64"),
            ([1.0, nan], [1.0, 3.0], [0.0, inf], false, "not representable: 1"),
            ([nan, inf], [nan, 3e38], [0.0, inf], false, "not representable: 1, 1 NaN as in float64"),
            ([9.0, nan], [1.0, 3.0], [0.0, inf], false, "FAILED, 1 not representable"),
            ([1.0, nan], [1.0, 3.0], [0.0, 1e30], false, "FAILED"),
        ] {
            let held = held(&got, &want, &bound);
            assert_eq!((held.words().as_str(), held.passed), (words, passed), "{got:?}, {want:?}, {bound:?}");
        }
        let unrepresentable = held(&[1.0, nan], &[1.5, 3.0], &[1.0, inf]);
        assert_eq!(unrepresentable.cells()[3], "[1]: got NaN, want 3.00000000e0");
        let json = serde_json::to_value(&unrepresentable).unwrap();
        assert_eq!((&json["verdict"], &json["not_representable"]), (&"not_representable".into(), &1.into()));
        assert_eq!(json["first_not_representable"]["position"], serde_json::json!([1]));
    }
}
