//! The plans that are compared on a device, the likeliest first.

use crate::capabilities::Capabilities;
use crate::choice::Choice;
use crate::dtype::DType;
use crate::kernels::{Geometry, Reduction, Strategy, Wanted, kernels_of};
use crate::operation::Operation;
use crate::plan::Plan;
use crate::shape::Shape;
use crate::tuning::{Preference, Tuning, TuningPoint};

/// A preference, and the choice that forces the plan it leads to.
pub(super) type Candidate = (Preference, Choice);

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

/// Every preference worth a try for an operation on a shape, each of which leads to another plan: first what is taken without a
/// measurement, then what `tuning` or an estimate takes for likely, then the rest.
pub(super) fn candidates(
    operation: Operation,
    shape: &Shape,
    capabilities: &Capabilities,
    tuning: &Tuning,
) -> Vec<Candidate> {
    let own = Plan::new(operation, shape, DType::F32, capabilities, tuning, &Choice::default()).ok();
    let measured = tuning.preferences(operation, shape).into_iter().map(|(_, preference)| preference);
    let estimated = match capabilities.device_type {
        wgpu::DeviceType::Cpu => Vec::new(),
        _ => Plan::estimated(operation, shape, DType::F32, capabilities, &Choice::default()),
    };
    let likely = measured.take(MOST_LIKELY).chain(estimated.into_iter().take(MOST_LIKELY));
    let mut found = distinct(likely.chain(all(capabilities)), operation, shape, capabilities);
    let Some(own) = own else { return found };
    // What it came from says more to shapes nearby than what it came to.
    match found.iter().position(|(_, choice)| *choice == own.choice()) {
        Some(at) => found[..=at].rotate_right(1),
        None => found.insert(0, (own.preference_of_its_kind(), own.choice())),
    }
    found
}

/// How many of what was measured nearby, and of what is estimated, come before the rest.
const MOST_LIKELY: usize = 8;

/// What is tried on the fastest of the candidates, where its kernels depend on it: the other reduction, the other direction.
pub(super) fn refinements(
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

fn distinct(
    all: impl IntoIterator<Item = Preference>,
    operation: Operation,
    shape: &Shape,
    capabilities: &Capabilities,
) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::new();
    for preference in all {
        let choice = choice_of(operation, shape, capabilities, preference);
        if let Some(choice) = choice.filter(|choice| found.iter().all(|(_, other)| other != choice)) {
            found.push((preference, choice));
        }
    }
    found
}

/// The plan that a preference leads to, where it is followed in everything: also by those who force nothing, as all do later.
fn choice_of(operation: Operation, shape: &Shape, capabilities: &Capabilities, prefer: Preference) -> Option<Choice> {
    let only = Tuning { points: vec![TuningPoint::new(operation, shape, prefer)], ..Tuning::none() };
    let plan = Plan::new(operation, shape, DType::F32, capabilities, &only, &prefer.choice).ok()?;
    let places = u64::from(plan.workgroup_size / plan.tile) * u64::from(plan.approach.held());
    // Most lanes would hold nothing.
    let is_filled = places <= 4 * u64::from(plan.values);
    let unforced = Plan::new(operation, shape, DType::F32, capabilities, &only, &Choice::default()).ok()?;
    (is_filled && unforced == plan).then(|| plan.choice())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Layout;

    fn shapes() -> Vec<Shape> {
        let first: [&[usize]; 5] = [&[8, 64, 56, 56], &[128, 512], &[8, 64, 7, 7], &[64, 8, 1, 2048], &[8000, 256]];
        let last: [&[usize]; 2] = [&[32, 28, 28, 64], &[2, 64, 64, 3]];
        let of = |layout: Layout| move |dims: &&[usize]| Shape::new(dims, layout).unwrap();
        let first = first.iter().map(of(Layout::ChannelsFirst));
        first.chain(last.iter().map(of(Layout::ChannelsLast))).collect()
    }

    /// The plan without a measurement comes first, none comes twice, and what is written down leads to what was measured, where
    /// nothing is forced.
    #[test]
    fn candidates_are_what_they_say() {
        for device_type in [wgpu::DeviceType::DiscreteGpu, wgpu::DeviceType::IntegratedGpu, wgpu::DeviceType::Cpu] {
            let capabilities = Capabilities { device_type, subgroups: true, ..Capabilities::default_limits() };
            for (shape, operation) in
                shapes().iter().flat_map(|shape| Operation::ALL.map(|operation| (shape, operation)))
            {
                let plan = |tuning: &Tuning| {
                    Plan::new(operation, shape, DType::F32, &capabilities, tuning, &Choice::default()).unwrap()
                };
                let found = candidates(operation, shape, &capabilities, &Tuning::none());
                assert!(found.len() > 3, "{operation} {shape}: {}", found.len());
                assert_eq!(found[0].1, plan(&Tuning::none()).choice());
                for (i, (prefer, choice)) in found.iter().enumerate() {
                    assert!(found[..i].iter().all(|(_, other)| other != choice), "{operation} {shape}: {choice:?}");
                    let tuning = Tuning::none().with_points([TuningPoint::new(operation, shape, *prefer)]);
                    assert_eq!(plan(&tuning).choice(), *choice, "{operation} {shape}");
                }
            }
        }
    }
}
