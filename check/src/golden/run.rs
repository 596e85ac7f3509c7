//! Golden cases on a device.

use super::{Golden, GoldenOutput, OutputExtent, Problem, Tolerance};
use crate::case::{Operation, Setup};
use crate::judge::{Expected, TENSORS, Verdict, expected, position};
use crate::run::{Results, first_parts};
use crate::stored::Stored;
use crate::suite::judge;
use batchnorm_wgpu::reference::bound::settle_overflow;
use batchnorm_wgpu::{Kernels, wgpu};
use half::{bf16, f16};
use safetensors::Dtype;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// What came of a golden case on a device.
#[derive(Debug)]
pub enum GoldenOutcome {
    /// Every answer is what the device says, within its tolerance.
    Passed(Vec<Judged>),
    /// An answer is not.
    Mismatch(Vec<Judged>),
    /// The library or the device does not do what the case asks for.
    Unsupported(String),
    /// The file is no case, or the case could not be run.
    Failed(Problem),
}

/// The verdict on the answer for an output.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// The verdict.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Where the worst element lies: an index for each dimension.
    pub position: Vec<usize>,
}

impl GoldenOutcome {
    /// Reads a file and runs the case in it.
    pub fn of(file: &Path, kernels: &Kernels, queue: &wgpu::Queue) -> Self {
        match Golden::load(file) {
            Ok(golden) => golden.run(kernels, queue),
            Err(error) => error.problem.into(),
        }
    }

    /// The verdicts, one for each answer; none when the case did not run.
    pub fn judged(&self) -> &[Judged] {
        match self {
            Self::Passed(judged) | Self::Mismatch(judged) => judged,
            Self::Unsupported(_) | Self::Failed(_) => &[],
        }
    }

    /// Why the case did not pass, in words; `None` when it did.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Passed(_) => None,
            Self::Mismatch(judged) => {
                let failed = judged.iter().map(|judged| &judged.verdict).filter(|verdict| !verdict.passed);
                Some(
                    failed
                        .map(|verdict| format!("{}: {}", verdict.name, verdict.detail))
                        .collect::<Vec<_>>()
                        .join("; "),
                )
            }
            Self::Unsupported(reason) => Some(reason.clone()),
            Self::Failed(problem) => Some(problem.to_string()),
        }
    }
}

impl From<Problem> for GoldenOutcome {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Unsupported(reason) => Self::Unsupported(reason),
            problem => Self::Failed(problem),
        }
    }
}

impl Golden {
    /// Runs the case on a device and holds every answer in the file against the result.
    pub fn run(&self, kernels: &Kernels, queue: &wgpu::Queue) -> GoldenOutcome {
        let verdicts = match self.verdicts(kernels, queue) {
            Ok(verdicts) => verdicts,
            Err(problem) => return problem.into(),
        };
        let passed = verdicts.iter().all(|verdict| verdict.passed);
        let judged =
            verdicts.into_iter().map(|verdict| Judged { position: self.position(&verdict), verdict }).collect();
        if passed { GoldenOutcome::Passed(judged) } else { GoldenOutcome::Mismatch(judged) }
    }

    fn verdicts(&self, kernels: &Kernels, queue: &wgpu::Queue) -> Result<Vec<Verdict>, Problem> {
        let backward = if self.mode.trains() { Operation::BackwardTraining } else { Operation::BackwardFrozen };
        let mut verdicts = if self.mode.trains() { Vec::new() } else { self.unchanged() };
        for operation in [Some(self.mode), self.gradient.then_some(backward)].into_iter().flatten() {
            let parts = first_parts(kernels, operation, &self.inputs, &Setup::default())?;
            let known = expected(operation, &self.inputs, &parts)?;
            let expected: Vec<Expected> = known.into_iter().filter_map(|bound| self.expectation(bound)).collect();
            if expected.is_empty() {
                continue;
            }
            expected.iter().try_for_each(promised)?;
            verdicts.extend(judge(kernels, queue, operation, &self.inputs, &Setup::default(), &expected)?.verdicts);
        }
        Ok(verdicts)
    }

    /// The verdicts on the running statistics of inference, which are the same afterwards.
    fn unchanged(&self) -> Vec<Verdict> {
        let results = Results { running: Some(self.inputs.running.clone()), ..Results::default() };
        let bounds = ["running_mean", "running_var", "num_batches_tracked"].map(|name| Expected {
            name,
            want: Vec::new(),
            tolerance: vec![0.0; self.inputs.shape.channels()],
            instead: BTreeMap::new(),
            may_exceed: false,
        });
        let expected = bounds.into_iter().filter_map(|bound| self.expectation(bound));
        expected.map(|expected| expected.judge(&results)).collect()
    }

    /// What the file says of an output, within the file's tolerance or else the library's bound; `None` where it says nothing.
    pub(super) fn expectation(&self, bound: Expected) -> Option<Expected> {
        let answer = self.answers.get(bound.name)?;
        let count = bound.tolerance.len();
        // One count stands for all channels.
        let mut want: Vec<f64> = answer.values.iter().copied().cycle().take(count).collect();
        let mut tolerance = match self.tolerance {
            Some(tolerance) => tolerance.of(&want),
            None => want.iter().zip(bound.tolerance).map(|(&want, bound)| bound + half_ulp(answer, want)).collect(),
        };
        for (tolerance, _) in tolerance.iter_mut().zip(&want).filter(|(_, want)| !want.is_finite()) {
            *tolerance = 0.0;
        }
        if TENSORS.contains(&bound.name) {
            settle_overflow(&mut want, &mut tolerance, self.inputs.config.dtype);
        }
        // What has no tolerance is refused before it runs.
        Some(Expected { want, tolerance, instead: BTreeMap::new(), may_exceed: true, ..bound })
    }

    /// The index of a verdict's worst element in each dimension of its output.
    fn position(&self, verdict: &Verdict) -> Vec<usize> {
        let Some(worst) = verdict.worst else { return Vec::new() };
        let tensor = GoldenOutput::named(verdict.name).is_some_and(|output| output.extent == OutputExtent::Tensor);
        if !tensor {
            return vec![worst.index];
        }
        position(worst.index, self.inputs.shape.dims())
    }
}

impl Tolerance {
    /// Of every element.
    fn of(self, want: &[f64]) -> Vec<f64> {
        let finite = want.iter().map(|want| want.abs()).filter(|want| want.is_finite());
        let absolute = self.absolute * finite.fold(1.0, f64::max);
        want.iter().map(|want| absolute + self.relative * want.abs()).collect()
    }
}

/// Refuses an output that the library promises nothing about.
fn promised(expected: &Expected) -> Result<(), Problem> {
    let unbounded = expected.tolerance.iter().filter(|tolerance| !tolerance.is_finite()).count();
    if unbounded == 0 {
        return Ok(());
    }
    Err(Problem::Unsupported(format!(
        "{} of {} values of {} may overflow an f32 on the way or keep no digit, so that there is no error bound; give the \
         case rtol and atol",
        unbounded,
        expected.tolerance.len(),
        expected.name
    )))
}

/// What storing the answer `want` may have cost.
fn half_ulp(answer: &Stored, want: f64) -> f64 {
    let (digits, smallest) = match answer.dtype {
        Dtype::F32 => (f32::MANTISSA_DIGITS, f32::MIN_POSITIVE.into()),
        Dtype::F16 => (f16::MANTISSA_DIGITS, f16::MIN_POSITIVE.to_f64()),
        Dtype::BF16 => (bf16::MANTISSA_DIGITS, bf16::MIN_POSITIVE.to_f64()),
        _ => return 0.0,
    };
    want.abs().max(smallest) * 0.5f64.powi(digits as i32)
}
