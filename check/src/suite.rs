//! Running cases and summing them up by kernel.

use crate::case::{Case, Inputs, Operation, Setup};
use crate::judge::{Expected, FirstParts, Verdict, expected};
use crate::matrix::must_be_covered;
use crate::memory::give_back;
use crate::run::{RunError, first_parts, run};
use batchnorm_wgpu::kernels::Variant;
use batchnorm_wgpu::{Capabilities, Kernels, wgpu};
use serde::Serialize;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// The outcome of one case.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The case's id.
    pub case: String,
    /// What was run.
    pub operation: &'static str,
    /// What its tensors are stored in and what is fused with the normalization.
    pub tensors: String,
    /// Names of the kernels that ran.
    pub kernels: Vec<String>,
    /// The verdicts, one per output; empty when the call failed.
    pub verdicts: Vec<Verdict>,
    /// [`Results::digest`](crate::run::Results::digest) of what came out, in hexadecimal; empty when the call failed.
    pub bits: String,
    /// Why the case failed, in words; `None` when it passed.
    pub failure: Option<String>,
    /// Whether the library or the device refused the call, so that no result was judged.
    pub refused: bool,
}

impl Outcome {
    /// The largest error over bound of all outputs; `None` where no result was judged.
    pub fn ratio(&self) -> Option<f64> {
        self.verdicts.iter().map(|verdict| verdict.ratio).reduce(f64::max)
    }
}

/// Expectations by inputs. They depend neither on the device nor on the setup but where the shift comes from, so each is
/// computed once as long as it is among the last few.
#[derive(Default)]
pub struct Expectations {
    known: HashMap<String, Vec<Expected>>,
    /// The keys, the oldest first, and the elements of their tensors.
    ages: VecDeque<(String, usize)>,
}

/// Elements of all tensors that expectations are kept for; each has some ten numbers in f64.
const KEPT_ELEMENTS: usize = 1 << 20;

impl Expectations {
    fn of(&mut self, case: &Case, inputs: &Inputs, parts: &FirstParts) -> batchnorm_wgpu::Result<&[Expected]> {
        // The id of a case without its setup, and the policy in full.
        let key = format!("{} {:?} {parts:?}", Case { setup: Setup::default(), ..case.clone() }, case.config);
        if !self.known.contains_key(&key) {
            let elements = case.shape.elements();
            self.forget_until(KEPT_ELEMENTS.saturating_sub(elements));
            self.ages.push_back((key.clone(), elements));
        }
        match self.known.entry(key) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(free) => {
                let mut expected = expected(case.operation, inputs, parts)?;
                expected.iter_mut().for_each(|expected| expected.may_exceed = case.may_exceed(inputs));
                Ok(free.insert(expected))
            }
        }
    }

    fn forget_until(&mut self, kept: usize) {
        while self.ages.iter().map(|(_, elements)| elements).sum::<usize>() > kept {
            let Some((oldest, _)) = self.ages.pop_front() else { return };
            self.known.remove(&oldest);
        }
    }
}

/// Runs cases on one device.
pub struct Suite<'a> {
    kernels: Kernels,
    queue: wgpu::Queue,
    expectations: &'a mut Expectations,
    is_worn: bool,
}

/// Compiled kernels that are kept at the most.
const MOST_COMPILED: usize = 100;

impl<'a> Suite<'a> {
    /// A suite for the device of `kernels`.
    pub fn new(kernels: Kernels, queue: wgpu::Queue, expectations: &'a mut Expectations) -> Self {
        // What the suite before this one had.
        give_back();
        Self { kernels, queue, expectations, is_worn: false }
    }

    /// Whether so many kernels were compiled that another device should take over: drivers keep something of every shader until
    /// the device goes.
    pub fn is_worn(&self) -> bool {
        self.is_worn
    }

    /// Runs one case.
    pub fn run(&mut self, case: &Case) -> Outcome {
        // Thousands of compiled kernels would take gigabytes.
        if self.kernels.compiled() > MOST_COMPILED {
            self.kernels.trim();
            self.is_worn = true;
            give_back();
        }
        let inputs = case.inputs();
        let outcome = first_parts(&self.kernels, case.operation, &inputs, &case.setup)
            .and_then(|parts| self.expectations.of(case, &inputs, &parts))
            .map_err(RunError::from)
            .and_then(|expected| judge(&self.kernels, &self.queue, case.operation, &inputs, &case.setup, expected));
        let outcome = outcome.unwrap_or_else(|error| Outcome {
            case: String::new(),
            operation: case.operation.name(),
            tensors: String::new(),
            kernels: Vec::new(),
            verdicts: Vec::new(),
            bits: String::new(),
            failure: Some(error.to_string()),
            refused: matches!(error, RunError::Library(_)),
        });
        Outcome { case: case.to_string(), tensors: case.tensors(), ..outcome }
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
        tensors: String::new(),
        bits: format!("{:016x}", results.digest()),
        kernels: results.kernels,
        verdicts,
        failure: (!failures.is_empty()).then(|| failures.join("; ")),
        refused: false,
    })
}

fn wanted(name: &str, setup: &Setup) -> bool {
    match name {
        "dx" => setup.dx,
        "dresidual" => setup.dresidual,
        "dweight" => setup.dgamma,
        "dbias" => setup.dbeta,
        "running_mean" | "running_var" | "num_batches_tracked" | "averaged" | "skipped" | "values" => setup.running,
        _ => true,
    }
}

/// What some of the cases say.
#[derive(Clone, Debug, Serialize)]
pub struct SummaryRow {
    /// What they have in common: a way to go about a column (`normalize.planes4.tree`), or what tensors are stored in and
    /// what is fused (`f16 relu residual`).
    pub of: String,
    /// Number of cases.
    pub cases: usize,
    /// Number of them that failed.
    pub failed: usize,
    /// The largest error over bound among them, and where.
    pub worst: f64,
    /// The median over the cases of a case's largest error over bound: how much the bounds leave room.
    pub median: f64,
    /// The output that had the largest.
    pub worst_output: String,
    /// The case that had it.
    pub worst_case: String,
}

/// What the cases of an adapter say.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// By how kernels go about a column, in the order of the table.
    pub kernels: Vec<SummaryRow>,
    /// By what tensors are stored in and what is fused.
    pub tensors: Vec<SummaryRow>,
    /// Kernel variants that the device runs and a case [must cover](must_be_covered), and none did: holes in the matrix.
    pub holes: Vec<String>,
    /// How many kernel variants a case must cover.
    pub variants: usize,
}

impl Summary {
    /// Sums outcomes up, for a device of these capabilities.
    pub fn new(outcomes: &[Outcome], capabilities: &Capabilities) -> Self {
        let variants: Vec<Variant> = Variant::apart().filter(|variant| variant.check(capabilities).is_ok()).collect();
        let columns: HashMap<String, String> =
            Variant::every().map(|variant| (variant.name(), variant.column_name())).collect();
        let ran: BTreeSet<&String> = outcomes.iter().flat_map(|outcome| &outcome.kernels).collect();
        let column = |kernel: &String| columns.get(kernel).unwrap_or(kernel).clone();
        let mut kernels = rows(outcomes, |outcome| outcome.kernels.iter().map(column).collect());
        let order: HashMap<String, usize> =
            variants.iter().enumerate().map(|(i, variant)| (variant.column_name(), i)).collect();
        kernels.sort_by_key(|row| order.get(&row.of).copied());
        Self {
            variants: variants.iter().filter(|variant| must_be_covered(variant)).count(),
            kernels,
            tensors: rows(outcomes, |outcome| BTreeSet::from([outcome.tensors.clone()])),
            holes: variants
                .iter()
                .filter(|variant| must_be_covered(variant))
                .map(Variant::name)
                .filter(|name| !ran.contains(name))
                .collect(),
        }
    }
}

fn rows(outcomes: &[Outcome], of: impl Fn(&Outcome) -> BTreeSet<String>) -> Vec<SummaryRow> {
    let mut rows: BTreeMap<String, (SummaryRow, Vec<f64>)> = BTreeMap::new();
    for outcome in outcomes {
        for name in of(outcome) {
            let (row, ratios) = rows.entry(name.clone()).or_insert_with(|| (empty(name), Vec::new()));
            ratios.extend(outcome.ratio());
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
    rows.into_values().map(|(row, ratios)| SummaryRow { median: median(ratios), ..row }).collect()
}

fn empty(of: String) -> SummaryRow {
    SummaryRow {
        of,
        cases: 0,
        failed: 0,
        worst: 0.0,
        median: 0.0,
        worst_output: String::new(),
        worst_case: String::new(),
    }
}

/// The middle one of some numbers, 0 where there are none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
