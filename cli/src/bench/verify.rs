//! Whether the results of what is timed are right.

use crate::AnyError;
use batchnorm_wgpu::host::Gpu;
use batchnorm_wgpu::{BatchNorm, Choice, Config, Kernels, Layout, Operation, Plan, Shape};
use batchnorm_wgpu_check::case::{Case, Setup};
use batchnorm_wgpu_check::suite::{Expectations, Suite};

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
    let small = cut(shape)?;
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

/// The shape with fewer samples, and if those are few, with smaller ones: channels, layout and views stay.
fn cut(shape: &Shape) -> Result<Shape, AnyError> {
    const MOST_ELEMENTS: usize = 1 << 19;
    let mut dims = shape.dims().to_vec();
    let per_sample = shape.elements() / dims[0];
    dims[0] = dims[0].min((MOST_ELEMENTS / per_sample).max(2));
    let channels = if shape.layout() == Layout::ChannelsFirst { 1 } else { dims.len() - 1 };
    while dims.iter().product::<usize>() > MOST_ELEMENTS {
        let spatial = (1..dims.len()).filter(|&i| i != channels);
        match spatial.max_by_key(|&i| dims[i]) {
            // Halves of multiples of eight stay multiples of four.
            Some(largest) if dims[largest] > 8 => dims[largest] /= 2,
            _ => break,
        }
    }
    Ok(Shape::new(&dims, shape.layout())?.with_views(shape.views())?)
}
