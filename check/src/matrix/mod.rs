//! Which cases there are: every operation over every shape with every kernel variant, hostile data, every combination of
//! options.

mod ranking;
mod tensors;

pub use ranking::Ranking;
pub use tensors::{PART_BYTES, part_cases, part_limits};

use crate::case::{Case, Setup};
use crate::data::Data;
use batchnorm_wgpu::kernels::{Geometry, Reduction, Settings, Strategy, Variant, Wanted, kernels_of};
use batchnorm_wgpu::{Choice, Config, DType, Error, Kernels, Layout, Operation, Plan, RunningPolicy, Shape};
use tensors::tensor_cases;

/// Dimensions of the matrix, channels first. Sizes of 1, 3 and 65 channels, planes of 1, 49 and 4099; planes that are and
/// are not multiples of four, tails of every kind, columns that do not fill a tile.
const DIMS: [&[usize]; 17] = [
    &[2, 1],
    &[5, 3],
    &[7, 65],
    &[33, 12],
    &[130, 64],
    &[1030, 8],
    &[2, 1, 1, 3],
    &[1, 3, 4],
    &[2, 3, 7, 7],
    &[4, 6, 4, 5],
    &[3, 65, 3, 3],
    &[4, 65, 6, 3],
    &[2, 9, 2, 2],
    &[1, 2, 4099],
    &[3, 4, 64, 40],
    &[2, 2, 2, 3, 4, 5],
    &[1, 1, 20004],
];

/// The shapes of the matrix: every entry of the table in both layouts.
pub fn shapes() -> Vec<Shape> {
    let both = DIMS.iter().flat_map(|dims| {
        let mut last = dims.to_vec();
        last[1..].rotate_left(1);
        [(dims.to_vec(), Layout::ChannelsFirst), (last, Layout::ChannelsLast)]
    });
    // The table is checked by the tests; a shape that is none would be missing from every count.
    both.filter(|(dims, layout)| dims.len() > 2 || *layout == Layout::ChannelsFirst)
        .filter_map(|(dims, layout)| Shape::new(&dims, layout).ok())
        .collect()
}

/// The whole matrix for a device: every operation over every shape with every kernel variant that the device runs, then
/// hostile data, then every combination of options.
pub fn matrix(kernels: &Kernels) -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, shape) in shapes().iter().enumerate() {
        for operation in Operation::ALL {
            // Shapes take turns in how many values a lane holds.
            for choice in choices(operation, shape, Strategy::HELD[i % 4], kernels) {
                cases.push(with_choice(Case::new(operation, shape), choice));
                if operation == Operation::BackwardTraining {
                    // Without dx the sums are merged by a kernel of their own.
                    let mut merged = with_choice(Case::new(operation, shape), choice);
                    merged.setup.dx = false;
                    cases.push(merged);
                }
            }
        }
    }
    // One shape for each geometry. Which bindings exist does not depend on the geometry: one shape has every combination.
    for (dims, layout, every) in [
        (&[3, 5, 7, 11][..], Layout::ChannelsFirst, true),
        (&[3, 5, 8, 12], Layout::ChannelsFirst, false),
        (&[3, 96, 8], Layout::ChannelsLast, false),
        (&[6, 32, 9], Layout::ChannelsLast, false),
    ] {
        let Ok(shape) = Shape::new(dims, layout) else { continue };
        for operation in Operation::ALL {
            cases.extend(plan_cases(operation, &shape, kernels));
            for strategy in strategies(operation) {
                // Few values held: every combination of bindings is a shader of its own, and these are the shortest.
                let choice = least_held(strategy);
                let data = Data::ALL.map(|data| Case { data, ..Case::new(operation, &shape) });
                let all = data.into_iter().chain(option_cases(operation, &shape, every));
                cases.extend(all.map(|case| with_choice(case, choice)));
            }
        }
        cases.extend(policy_cases(&shape));
        cases.extend(Data::ALL.map(|data| one_batch(Case { data, ..Case::new(Operation::Statistics, &shape) })));
    }
    cases.extend(tensor_cases(kernels));
    cases.retain(|case| !case.operation.trains() || case.shape.check_trainable().is_ok());
    cases
}

/// Values held by the resident kernels of the cases that need only one of them: these have the shortest shaders.
const LEAST_HELD: u32 = Strategy::HELD[0];

/// A strategy; where lanes hold values, so many.
fn holding(strategy: Strategy, held: u32) -> Choice {
    match strategy {
        Strategy::Resident => Choice::resident(held),
        other => Choice::by(other),
    }
}

fn least_held(strategy: Strategy) -> Choice {
    holding(strategy, LEAST_HELD)
}

/// Whether some case of the matrix has to run a variant of [`Variant::apart`]. Of f32 tensors without an activation, every one;
/// of others, whose text differs in how elements are loaded and stored and in what is done to them, those that hold the fewest
/// values.
pub fn must_be_covered(variant: &Variant) -> bool {
    let Settings { geometry, reduction, held, .. } = variant.settings;
    variant.settings == Settings::plain(geometry, reduction, held) || held <= LEAST_HELD
}

/// The strategies that an operation has.
pub fn strategies(operation: Operation) -> impl Iterator<Item = Strategy> {
    Strategy::ALL.into_iter().filter(move |&strategy| !kernels_of(operation, strategy, Wanted::All).is_empty())
}

fn one_batch(case: Case) -> Case {
    Case { setup: Setup { one_batch: true, ..case.setup }, ..case }
}

fn with_choice(case: Case, choice: Choice) -> Case {
    Case { setup: Setup { choice, ..case.setup }, ..case }
}

/// The forced strategies, geometries and reductions that run for a shape on a device.
fn choices(operation: Operation, shape: &Shape, held: u32, kernels: &Kernels) -> Vec<Choice> {
    let all = strategies(operation).flat_map(|strategy| {
        Geometry::ALL.into_iter().flat_map(move |geometry| {
            Reduction::ALL.map(|reduction| Choice {
                geometry: Some(geometry),
                reduction: Some(reduction),
                ..holding(strategy, held)
            })
        })
    });
    all.filter(|choice| runs(operation, shape, kernels, choice)).collect()
}

/// Whether an operation can run with a choice on a device.
pub fn runs(operation: Operation, shape: &Shape, kernels: &Kernels, choice: &Choice) -> bool {
    runs_as(operation, shape, DType::F32, kernels, choice)
}

/// Whether an operation can run with tensors of a dtype and a choice on a device.
pub fn runs_as(operation: Operation, shape: &Shape, dtype: DType, kernels: &Kernels, choice: &Choice) -> bool {
    Plan::new(operation, shape, dtype, kernels.capabilities(), kernels.tuning(), choice)
        .map_or_else(|error| !matches!(error, Error::KernelUnavailable { .. } | Error::Limit { .. }), |_| true)
}

/// Workgroup sizes, splits and values held that leave lanes idle, tails short, and merges deep; the second dispatch in both
/// directions.
fn plan_cases(operation: Operation, shape: &Shape, kernels: &Kernels) -> Vec<Case> {
    let split = [(1, 1), (2, 7), (32, 3), (64, 2), (256, 5)].into_iter().flat_map(|(size, splits)| {
        [false, true].map(|reverse| Choice { workgroup_size: Some(size), ..Choice::split(splits, reverse) })
    });
    let whole = [1, 2, 32, 64, 256].map(|size| Choice { workgroup_size: Some(size), ..Choice::by(Strategy::Whole) });
    let can = |choice: &Choice| runs(operation, shape, kernels, choice);
    // The smallest workgroup has one column, which a reduction by subgroups needs; a large one shares itself out.
    let resident = Strategy::HELD.into_iter().flat_map(|held| {
        let of_size = move |reduction, size| Choice { reduction, workgroup_size: Some(size), ..Choice::resident(held) };
        let smallest = Reduction::ALL.map(|reduction| (0..8).map(|bits| of_size(Some(reduction), 1 << bits)).find(can));
        smallest.into_iter().flatten().chain([of_size(None, 256)])
    });
    split
        .chain(whole)
        .chain(resident)
        .filter(can)
        .map(|choice| with_choice(Case::new(operation, shape), choice))
        .collect()
}

/// Every combination of the options that an operation has, or just those of where the tensors lie.
fn option_cases(operation: Operation, shape: &Shape, every: bool) -> Vec<Case> {
    let base = Case::new(operation, shape);
    let bits = |i: u32, bit: u32| i & (1 << bit) == 0;
    let all: Vec<Case> = (0..256u32)
        .map(|i| Case {
            gamma: bits(i, 0),
            beta: bits(i, 1),
            setup: Setup {
                pooled: !bits(i, 2),
                in_place: !bits(i, 3),
                running: bits(i, 4),
                dx: bits(i, 5),
                dgamma: bits(i, 6),
                dbeta: bits(i, 7),
                ..base.setup
            },
            ..base.clone()
        })
        .collect();
    let default = Setup::default();
    let applies = |case: &&Case| {
        let Setup { in_place, running, dx, dgamma, dbeta, .. } = case.setup;
        // Where neither sum is wanted the frozen backward has a kernel of its own.
        let kernels_of_its_own = case.gamma && case.beta && running && dx && dgamma == dbeta;
        if !(every || kernels_of_its_own) {
            return false;
        }
        let no_gradient_options = dx && dgamma && dbeta;
        match operation {
            Operation::ForwardTraining => no_gradient_options && !in_place,
            Operation::Inference => no_gradient_options && running,
            Operation::BackwardTraining | Operation::BackwardFrozen => {
                case.beta && running && (dx || dgamma || dbeta) && (dx || !in_place)
            }
            Operation::Statistics => {
                Setup { pooled: default.pooled, ..case.setup } == default && case.gamma && case.beta
            }
        }
    };
    all.iter().filter(applies).cloned().collect()
}

/// Every way to track running statistics, over a healthy batch, one that is not, and one too far away.
fn policy_cases(shape: &Shape) -> Vec<Case> {
    let averages = [
        RunningPolicy::exponential(0.0),
        RunningPolicy::exponential(0.25),
        RunningPolicy::exponential(1.0),
        RunningPolicy::cumulative(),
        RunningPolicy::pooled(),
        RunningPolicy::cumulative().average_standard_deviation(),
        RunningPolicy::exponential(0.1).average_standard_deviation(),
        // The inputs have seven batches tracked.
        RunningPolicy::cumulative().window(7, None),
        RunningPolicy::cumulative().window(8, None),
        RunningPolicy::cumulative().window(3, Some(5)),
        RunningPolicy::cumulative().window(3, Some(4)),
    ];
    let policies = averages.into_iter().flat_map(|policy| {
        [policy, policy.biased(), policy.propagate_non_finite(), policy.biased().propagate_non_finite()]
    });
    policies
        .flat_map(|running| {
            [Data::Normal { mean: 1e2 }, Data::OneInfinity, Data::FarApart].map(|data| {
                let case = Case::new(Operation::ForwardTraining, shape);
                Case { data, config: Config { running, ..case.config }, ..case }
            })
        })
        .collect()
}
