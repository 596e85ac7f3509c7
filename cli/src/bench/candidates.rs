//! The plans that `bn bench --kernels` and `--strategies` compare.

use batchnorm_wgpu::kernels::{Geometry, Reduction, Storage, Strategy, Wanted, kernels_of};
use batchnorm_wgpu::{Choice, DType, Kernels, Operation, Plan, Shape};

/// What is timed beside the plan that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// Nothing.
    None,
    /// One plan for each strategy.
    Strategies,
    /// Every kernel.
    Kernels,
}

/// Every kernel that runs for an operation, shape and dtype, stored as `storage` says: each strategy, geometry and
/// reduction, laid out as the plan would.
pub fn variants(
    operation: Operation,
    shape: &Shape,
    dtype: DType,
    storage: Option<Storage>,
    kernels: &Kernels,
) -> Vec<Choice> {
    let mut found: Vec<Choice> = Vec::new();
    for strategy in Strategy::ALL {
        let reduces = kernels_of(operation, strategy, Wanted::All).iter().any(|kernel| kernel.reduces);
        let reductions = &Reduction::ALL[..if reduces { 2 } else { 1 }];
        for geometry in Geometry::ALL {
            for &reduction in reductions {
                let choice = Choice {
                    geometry: Some(geometry),
                    reduction: reduces.then_some(reduction),
                    storage,
                    ..Choice::by(strategy)
                };
                let plan = Plan::new(operation, shape, dtype, kernels.capabilities(), kernels.tuning(), &choice);
                found.extend(plan.map(|plan| plan.choice()).ok());
            }
        }
    }
    found
}

/// Every strategy, one plan of each, and for `resident` one for every number of values held; the rest is as in `choice`, or
/// left to the plan.
pub fn strategies(choice: &Choice) -> impl Iterator<Item = Choice> {
    let choice = *choice;
    let resident = Strategy::HELD.map(Choice::resident);
    let all = [Choice::by(Strategy::Split), Choice::by(Strategy::Whole)].into_iter().chain(resident);
    all.map(move |Choice { approach, .. }| Choice { approach, workgroup_size: None, ..choice })
}
