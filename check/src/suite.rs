//! Running cases and summing them up by kernel.

use crate::case::{Case, Inputs, Operation, Setup};
use crate::judge::{Expected, Verdict, expected};
use crate::run::{RunError, run};
use batchnorm_wgpu::kernels::{Reduction, Variant};
use batchnorm_wgpu::{Kernels, wgpu};
use serde::Serialize;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The outcome of one case.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The case's id.
    pub case: String,
    /// What was run.
    pub operation: &'static str,
    /// Names of the kernels that ran.
    pub kernels: Vec<String>,
    /// The verdicts, one per output; empty when the call failed.
    pub verdicts: Vec<Verdict>,
    /// Why the case failed, in words; `None` when it passed.
    pub failure: Option<String>,
    /// Whether the library or the device refused the call, so that no result was judged.
    pub refused: bool,
}

/// Expectations by inputs. They depend neither on the device nor on the setup, so each is computed once.
#[derive(Default)]
pub struct Expectations {
    known: HashMap<String, Vec<Expected>>,
}

impl Expectations {
    fn of(&mut self, case: &Case, inputs: &Inputs) -> batchnorm_wgpu::Result<&[Expected]> {
        // The id of a case without its setup, and the policy in full.
        let key = format!("{} {:?}", Case { setup: Setup::default(), ..case.clone() }, case.config);
        match self.known.entry(key) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(free) => Ok(free.insert(expected(case.operation, inputs)?)),
        }
    }
}

/// Runs cases on one device.
pub struct Suite<'a> {
    kernels: Kernels,
    queue: wgpu::Queue,
    expectations: &'a mut Expectations,
}

impl<'a> Suite<'a> {
    /// A suite for the device of `kernels`.
    pub fn new(kernels: Kernels, queue: wgpu::Queue, expectations: &'a mut Expectations) -> Self {
        Self { kernels, queue, expectations }
    }

    /// Runs one case.
    pub fn run(&mut self, case: &Case) -> Outcome {
        let inputs = case.inputs();
        let outcome = self
            .expectations
            .of(case, &inputs)
            .map_err(RunError::from)
            .and_then(|expected| judge(&self.kernels, &self.queue, case.operation, &inputs, &case.setup, expected));
        let outcome = outcome.unwrap_or_else(|error| Outcome {
            case: String::new(),
            operation: case.operation.name(),
            kernels: Vec::new(),
            verdicts: Vec::new(),
            failure: Some(error.to_string()),
            refused: matches!(error, RunError::Library(_)),
        });
        Outcome { case: case.to_string(), ..outcome }
    }
}

/// Runs a call and holds every output that the setup asks for against what is expected.
///
/// # Errors
/// What [`run`] reports.
pub fn judge(
    kernels: &Kernels,
    queue: &wgpu::Queue,
    operation: Operation,
    inputs: &Inputs,
    setup: &Setup,
    expected: &[Expected],
) -> Result<Outcome, RunError> {
    let results = run(kernels, queue, operation, inputs, setup)?;
    let verdicts: Vec<Verdict> = expected
        .iter()
        .filter(|expected| wanted(expected.name, setup))
        .map(|expected| expected.judge(&results))
        .collect();
    let failures: Vec<String> = verdicts
        .iter()
        .filter(|verdict| !verdict.passed)
        .map(|verdict| format!("{}: {}", verdict.name, verdict.detail))
        .collect();
    Ok(Outcome {
        case: String::new(),
        operation: operation.name(),
        kernels: results.kernels,
        verdicts,
        failure: (!failures.is_empty()).then(|| failures.join("; ")),
        refused: false,
    })
}

fn wanted(name: &str, setup: &Setup) -> bool {
    match name {
        "dx" => setup.dx,
        "dweight" => setup.dgamma,
        "dbias" => setup.dbeta,
        "running_mean" | "running_var" | "num_batches_tracked" | "averaged" | "skipped" | "values" => setup.running,
        _ => true,
    }
}

/// What the cases say of one kernel variant.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Name of the variant.
    pub kernel: String,
    /// Number of cases that it took part in.
    pub cases: usize,
    /// Number of them that failed.
    pub failed: usize,
    /// The largest error over bound among them, and where.
    pub worst: f64,
    /// The output that had it.
    pub worst_output: String,
    /// The case that had it.
    pub worst_case: String,
}

/// Sums outcomes up by kernel variant, in the order of the table. A variant that the device runs and no case covers has a
/// row with no cases: a hole in the matrix.
pub fn by_kernel(outcomes: &[Outcome], subgroups: bool) -> Vec<Row> {
    let mut order: Vec<String> = Vec::new();
    for variant in Variant::apart().filter(|variant| subgroups || variant.reduction == Reduction::Tree) {
        if !order.contains(&variant.name()) {
            order.push(variant.name());
        }
    }
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    for outcome in outcomes {
        for kernel in outcome.kernels.iter().collect::<BTreeSet<_>>() {
            let row = rows.entry(kernel).or_insert_with(|| empty(kernel));
            row.cases += 1;
            row.failed += usize::from(outcome.failure.is_some());
            for verdict in &outcome.verdicts {
                if verdict.ratio.is_nan() || verdict.ratio > row.worst {
                    row.worst = verdict.ratio;
                    row.worst_output = verdict.name.into();
                    row.worst_case.clone_from(&outcome.case);
                }
            }
        }
    }
    order.iter().map(|kernel| rows.remove(kernel.as_str()).unwrap_or_else(|| empty(kernel))).collect()
}

fn empty(kernel: &str) -> Row {
    let (worst_output, worst_case) = (String::new(), String::new());
    Row { kernel: kernel.into(), cases: 0, failed: 0, worst: 0.0, worst_output, worst_case }
}
