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
                    strategy: Some(strategy),
                    geometry: Some(geometry),
                    reduction: reduces.then_some(reduction),
                    storage,
                    ..Choice::default()
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
    let choice = Choice { splits: None, reverse: None, held: None, workgroup_size: None, ..*choice };
    let forced = move |strategy, held| Choice { strategy: Some(strategy), held, ..choice };
    let others = [Strategy::Split, Strategy::Whole];
    others
        .into_iter()
        .map(move |strategy| forced(strategy, None))
        .chain(Strategy::HELD.into_iter().map(move |held| forced(Strategy::Resident, Some(held))))
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
    let kernels = kernels_of(operation, best.strategy, Wanted::All);
    let mut all = vec![best];
    if capabilities.subgroups && kernels.iter().any(|kernel| kernel.reduces) {
        all.push(Preference { reduction: Some(Reduction::Tree), ..best });
    }
    if kernels.iter().any(|kernel| kernel.rereads) {
        all.extend(all.clone().into_iter().map(|other| Preference { reverse: true, ..other }));
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
    let (channels, values) = (shape.channels() as u64, shape.values_per_channel() as u64);
    let point = TuningPoint { operation, rows: shape.inner() == 1, channels, values, prefer, fraction_of_copy: None };
    let only = Tuning { points: vec![point], ..Tuning::none() };
    let choice = Choice {
        strategy: Some(prefer.strategy),
        geometry: prefer.geometry,
        workgroup_size: Some(prefer.workgroup_size),
        held: (prefer.strategy == Strategy::Resident).then_some(prefer.held),
        ..Choice::default()
    };
    let plan = Plan::new(operation, shape, DType::F32, capabilities, &only, &choice).ok()?;
    let places = u64::from(plan.workgroup_size / plan.tile) * u64::from(plan.held);
    // Most lanes would hold nothing.
    (places <= 4 * u64::from(plan.values)).then(|| plan.choice())
}

fn all(capabilities: &Capabilities) -> Vec<Preference> {
    let mut all = Vec::new();
    for geometry in Geometry::ALL {
        for &workgroup_size in workgroup_sizes(capabilities) {
            let prefer = |strategy| Preference {
                strategy,
                geometry: Some(geometry),
                reduction: None,
                workgroup_size,
                workgroups: 0,
                held: 0,
                reverse: false,
            };
            let split = workgroups(capabilities).iter();
            all.extend(split.map(|&workgroups| Preference { workgroups, ..prefer(Strategy::Split) }));
            all.push(prefer(Strategy::Whole));
            all.extend(Strategy::HELD.map(|held| Preference { held, ..prefer(Strategy::Resident) }));
        }
    }
    all
}
