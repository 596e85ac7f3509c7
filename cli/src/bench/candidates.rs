//! The plans that `bn bench --kernels` and `bn tune` compare.

use batchnorm_wgpu::kernels::{Geometry, Reduction, Storage, Strategy, Wanted, kernels_of};
use batchnorm_wgpu::{
    Capabilities, Choice, DType, Kernels, Operation, Plan, Preference, Shape, Tuning, TuningPoint, wgpu,
};

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

/// Workgroup sizes that are tried.
fn workgroup_sizes(capabilities: &Capabilities) -> &'static [u32] {
    match capabilities.device_type {
        // Where invocations run one vector after the other, more of them only cost.
        wgpu::DeviceType::Cpu => &[4, 8, 16, 64],
        _ => &[64, 128, 256, 512, 1024],
    }
}

/// Numbers of workgroups that are tried.
fn workgroups(capabilities: &Capabilities) -> &'static [u32] {
    match capabilities.device_type {
        wgpu::DeviceType::Cpu => &[4, 16, 128],
        _ => &[128, 512, 2048, 8192],
    }
}

/// A preference, and the choice that forces the plan it leads to.
pub type Candidate = (Preference, Choice);

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

/// Every preference worth a try for an operation on a shape: each leads to another plan.
pub fn candidates(operation: Operation, shape: &Shape, capabilities: &Capabilities) -> Vec<Candidate> {
    distinct(all(capabilities), operation, shape, capabilities)
}

/// What is tried on the fastest of the candidates, where its kernels depend on it: the other reduction, the other direction.
pub fn refinements(
    best: Preference,
    operation: Operation,
    shape: &Shape,
    capabilities: &Capabilities,
) -> Vec<Candidate> {
    let kernels = kernels_of(operation, best.strategy(), Wanted::All);
    let with = |choice: Choice, other: Preference| Preference { choice, ..other };
    let mut all = vec![best];
    if capabilities.subgroups && kernels.iter().any(|kernel| kernel.reduces) {
        all.push(with(Choice { reduction: Some(Reduction::Tree), ..best.choice }, best));
    }
    if kernels.iter().any(|kernel| kernel.rereads) {
        let approach = Choice::split(None, true).approach;
        all.extend(all.clone().into_iter().map(|other| with(Choice { approach, ..other.choice }, other)));
    }
    distinct(all, operation, shape, capabilities)
}

fn distinct(all: Vec<Preference>, operation: Operation, shape: &Shape, capabilities: &Capabilities) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::new();
    for preference in all {
        let plan = plan_of(operation, shape, capabilities, preference);
        if let Some(choice) = plan.filter(|choice| found.iter().all(|(_, other)| other != choice)) {
            found.push((preference, choice));
        }
    }
    found
}

/// The plan that a preference leads to, where it is followed in everything.
fn plan_of(operation: Operation, shape: &Shape, capabilities: &Capabilities, prefer: Preference) -> Option<Choice> {
    let (channels, values) = (shape.channels() as u64, shape.elements_per_channel() as u64);
    let point = TuningPoint { operation, rows: shape.inner() == 1, channels, values, prefer, fraction_of_copy: None };
    let only = Tuning { points: vec![point], ..Tuning::none() };
    let plan = Plan::new(operation, shape, DType::F32, capabilities, &only, &prefer.choice).ok()?;
    let places = u64::from(plan.workgroup_size / plan.tile) * u64::from(plan.approach.held());
    // Most lanes would hold nothing.
    (places <= 4 * u64::from(plan.values)).then(|| plan.choice())
}

fn all(capabilities: &Capabilities) -> Vec<Preference> {
    let mut all = Vec::new();
    for geometry in Geometry::ALL {
        for &workgroup_size in workgroup_sizes(capabilities) {
            let prefer = |choice: Choice, workgroups| {
                let sized = Choice { geometry: Some(geometry), workgroup_size: Some(workgroup_size), ..choice };
                Preference { choice: sized, workgroups }
            };
            let split = workgroups(capabilities).iter();
            all.extend(split.map(|&workgroups| prefer(Choice::split(None, false), workgroups)));
            all.push(prefer(Choice::by(Strategy::Whole), 0));
            all.extend(Strategy::HELD.map(|held| prefer(Choice::resident(held), 0)));
        }
    }
    all
}
