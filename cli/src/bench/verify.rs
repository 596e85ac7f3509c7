//! Whether the results of what is timed are right.

use crate::AnyError;
use batchnorm_wgpu::host::Gpu;
use batchnorm_wgpu::host::measure::smaller;
use batchnorm_wgpu::{BatchNorm, Choice, Config, Kernels, Operation, Plan, Shape};
use batchnorm_wgpu_check::case::{Case, Setup};
use batchnorm_wgpu_check::suite::{Expectations, Suite};

/// Elements of the largest tensor that is verified.
const MOST_ELEMENTS: usize = 1 << 19;

/// A result that the reference does not bear out.
#[derive(Debug, thiserror::Error)]
#[error("the result is wrong: {0}")]
pub struct WrongResult(String);

/// Holds the results of the kernels of `plan` against the reference, with a residual or without. Tensors that the reference
/// would take too long for are cut first; a column then has other splits.
pub fn verify(
    gpu: &Gpu,
    kernels: &Kernels,
    (operation, residual): (Operation, bool),
    shape: &Shape,
    config: &Config,
    plan: &Plan,
    expectations: &mut Expectations,
) -> Result<(), AnyError> {
    let small = smaller(shape, MOST_ELEMENTS)?;
    let whole = plan.choice();
    let unsplit = whole.reverse().map(|reverse| Choice::split(None, reverse));
    let open = Choice { approach: unsplit.map_or(whole.approach, |split| split.approach), ..whole };
    let choices = [whole, open, Choice { workgroup_size: None, ..open }];
    let runs = |choice: &Choice| {
        let layer = BatchNorm::with_choice(kernels, small.clone(), *config, choice);
        layer.and_then(|layer| layer.plan(operation)).is_ok()
    };
    let choice = choices.into_iter().find(runs).ok_or("its plan cannot be verified on a smaller tensor")?;
    let ordinary = Case::new(operation, &small);
    let config = Config { running: ordinary.config.running, ..*config };
    let case = Case { config, residual, setup: Setup { choice, ..Setup::default() }, ..ordinary };
    let outcome = Suite::new(kernels.clone(), gpu.queue.clone(), expectations).run(&case);
    match outcome.failure {
        None => Ok(()),
        Some(failure) if outcome.refused => Err(failure.into()),
        Some(failure) => Err(WrongResult(format!("{}: {failure}", outcome.case)).into()),
    }
}
