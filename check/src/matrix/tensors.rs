//! Cases of what tensors are stored in and of what is fused with the normalization, and those of tensors in parts.

use super::{least_held, runs, runs_as, strategies, with_choice};
use crate::case::{Adds, Case, Setup};
use crate::data::Data;
use batchnorm_wgpu::kernels::{Geometry, Reduction, Storage, Strategy};
use batchnorm_wgpu::{Activation, Choice, Config, Kernels, Layout, Operation, Shape, View, Views, wgpu};

/// What tensors are stored in, times what is fused with the normalization: by every kernel that
/// [must be covered](super::must_be_covered), over a shape for each geometry; with hostile data; and with every combination of the options that they bring.
pub(super) fn tensor_cases(kernels: &Kernels) -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, (geometry, dims, layout)) in TENSOR_SHAPES.into_iter().enumerate() {
        let Ok(shape) = Shape::new(dims, layout) else { continue };
        for (storage, operation) in
            Storage::ALL.into_iter().flat_map(|storage| Operation::ALL.map(|one| (storage, one)))
        {
            for fused in fusions(operation, &shape) {
                let case = stored_as(storage, fused);
                for strategy in strategies(operation) {
                    let choices =
                        Reduction::ALL.map(|reduction| variant_choice(&case, strategy, geometry, reduction, kernels));
                    let with_choice =
                        choices.into_iter().flatten().flat_map(|choice| with_tensor_choice(&case, choice, kernels));
                    for case in with_choice {
                        if operation == Operation::BackwardFrozen {
                            // Without sums it has a kernel of its own.
                            let setup = Setup { dgamma: false, dbeta: false, ..case.setup };
                            cases.push(Case { setup, ..case.clone() });
                        }
                        cases.push(case);
                    }
                }
                let hostile = HOSTILE.map(|data| Case { data, ..case.clone() });
                // z is 0 everywhere: where ReLU bends.
                let bent = Case { data: Data::Constant { value: 3.0 }, beta: false, ..case.clone() };
                let hostile = hostile.iter().chain([&bent]);
                cases.extend(hostile.flat_map(|case| with_tensor_choice(case, Choice::default(), kernels)));
                // What is read where it is written is read in the geometry's own way.
                let written_over =
                    |case: &Case| case.setup.in_place || case.setup.over_residual || case.adds == Adds::All;
                let in_place = tensor_options(&case).into_iter().filter(|case| i > 0 && written_over(case));
                let widely = Choice { geometry: Some(geometry), ..Choice::default() };
                cases.extend(in_place.flat_map(|case| with_tensor_choice(&case, widely, kernels)));
                // Which bindings there are and where they lie does not depend on it otherwise.
                for strategy in strategies(operation).filter(|_| i == 0) {
                    let choice = least_held(strategy);
                    cases.extend(
                        tensor_options(&case).iter().flat_map(|case| with_tensor_choice(case, choice, kernels)),
                    );
                }
            }
        }
    }
    cases.extend(activation_cases(kernels));
    cases.extend(view_cases(kernels));
    cases.extend(packed_cases(kernels));
    cases.extend(micro_batch_cases(kernels));
    cases
}

/// Batches in several tensors, the last of which has fewer samples: by every geometry, storage and option. That parts are merged
/// as they should be is shown by [`part_cases`].
fn micro_batch_cases(kernels: &Kernels) -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, (geometry, dims, layout)) in TENSOR_SHAPES.into_iter().enumerate() {
        let Ok(shape) = Shape::new(dims, layout) else { continue };
        // Of folded samples, a whole number of folds.
        let micro_batch = Some((dims[0] * 2 / 5).next_multiple_of(if i < 3 { 1 } else { 4 }));
        let viewed = viewed(&shape).into_iter().skip(3).take(if i < 3 { 1 } else { 0 });
        for shape in [shape].into_iter().chain(viewed) {
            for (operation, storage) in [Operation::ForwardTraining, Operation::BackwardTraining]
                .into_iter()
                .flat_map(|operation| Storage::ALL.map(|storage| (operation, storage)))
            {
                // Dtypes and fusions meet micro-batches once.
                let fused = fusions(operation, &shape).into_iter().take(if i == 0 { usize::MAX } else { 1 });
                for case in fused {
                    let setup = Setup { micro_batch, ..case.setup };
                    let case = stored_as(storage, Case { setup, ..case });
                    let has_options = i == 0 && storage == Storage::F32;
                    let options = if has_options { tensor_options(&case) } else { Vec::new() };
                    let hostile = [Data::FirstIsOutlier, Data::OneNan].map(|data| Case { data, ..case.clone() });
                    let all = [case].into_iter().chain(options).chain(hostile).filter(can_be_viewed);
                    let choice = Choice { geometry: Some(geometry), ..Choice::by(Strategy::Split) };
                    cases.extend(all.flat_map(|case| with_tensor_choice(&case, choice, kernels)));
                }
            }
        }
    }
    cases
}

/// Parameters and gradients that begin at any element of a buffer, by every kernel that has them and every geometry; written,
/// added to, and each alone.
fn packed_cases(kernels: &Kernels) -> Vec<Case> {
    let mut cases = Vec::new();
    for (geometry, dims, layout) in TENSOR_SHAPES {
        let Ok(shape) = Shape::new(dims, layout) else { continue };
        for operation in Operation::ALL.into_iter().filter(|&operation| operation != Operation::Statistics) {
            let plain = Case::new(operation, &shape);
            let packed = Setup { packed: true, ..plain.setup };
            let without = |dgamma, dbeta| Case { setup: Setup { dgamma, dbeta, ..packed }, ..plain.clone() };
            let merged = Case { setup: Setup { dx: false, ..packed }, ..plain.clone() };
            let adds = Case { adds: Adds::Parameters, ..without(true, true) };
            let backward = matches!(operation, Operation::BackwardTraining | Operation::BackwardFrozen);
            let others = [merged, adds, without(true, false), without(false, true)];
            // Tensors share a buffer, so that what is read is bound as writable.
            let pooled = Case { setup: Setup { pooled: true, ..packed }, ..plain.clone() };
            for case in [without(true, true), pooled].into_iter().chain(others.into_iter().filter(|_| backward)) {
                for strategy in strategies(operation) {
                    let choice = variant_choice(&case, strategy, geometry, Reduction::Tree, kernels);
                    cases.extend(choice.into_iter().map(|choice| with_choice(case.clone(), choice)));
                }
            }
        }
    }
    cases
}

/// Tensors that are views of wider ones: each alone, by every kernel; all unlike, and all alike, by every kernel, geometry and
/// storage, with every option.
fn view_cases(kernels: &Kernels) -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, (geometry, dims, layout)) in TENSOR_SHAPES.into_iter().take(3).enumerate() {
        for shape in Shape::new(dims, layout).into_iter().flat_map(|shape| viewed(&shape)) {
            let Views { x, y, residual } = shape.views();
            let all = [x, y, residual].iter().all(Option::is_some);
            if i > 0 && !all {
                continue;
            }
            for operation in Operation::ALL.into_iter().filter(|&one| one != Operation::Statistics || x.is_some()) {
                let plain = Case::new(operation, &shape);
                let relu = Config { activation: Activation::Relu, ..plain.config };
                let residual_too = Case { residual: operation != Operation::Statistics, ..plain.clone() };
                for strategy in strategies(operation) {
                    let case = Case { config: relu, ..residual_too.clone() };
                    let choice = variant_choice(&case, strategy, geometry, Reduction::Tree, kernels);
                    cases.extend(choice.into_iter().map(|choice| with_choice(case.clone(), choice)));
                }
                for storage in Storage::ALL.into_iter().filter(|_| all) {
                    let with_residual = stored_as(storage, residual_too.clone());
                    let from_y = Case { config: Config { in_place: true, ..plain.config }, ..plain.clone() };
                    let has_options = storage == Storage::F32 || storage == Storage::F16Words && i == 0;
                    let options = if has_options { tensor_options(&with_residual) } else { Vec::new() }.into_iter();
                    let options = options.chain([with_residual, stored_as(storage, from_y)]).filter(can_be_viewed);
                    let widely = Choice { geometry: Some(geometry), ..Choice::default() };
                    cases.extend(options.flat_map(|case| with_tensor_choice(&case, widely, kernels)));
                }
            }
        }
    }
    cases
}

/// The shape with each of its tensors as a view, with all of them as different ones, and with all as the same one.
fn viewed(shape: &Shape) -> Vec<Shape> {
    let of = |first, more| Some(View { first, of: shape.channels() + first + more });
    let none = Views::default();
    let all = [
        Views { x: of(4, 4), ..none },
        Views { y: of(0, 4), ..none },
        Views { residual: of(8, 0), ..none },
        Views { x: of(0, 8), y: of(4, 0), residual: of(4, 4) },
        Views { x: of(4, 8), y: of(4, 8), residual: of(4, 8) },
    ];
    all.into_iter().filter_map(|views| shape.clone().with_views(views).ok()).collect()
}

/// In place only equal views lie over each other.
fn can_be_viewed(case: &Case) -> bool {
    let Views { x, y, residual } = case.shape.views();
    !(case.config.in_place || case.setup.in_place || case.setup.over_residual) || (x == y && y == residual)
}

/// The activations besides ReLU, by every kernel and geometry, over data that reach their corners and where their exponentials
/// end; with each dtype, and with the options that matter where the residual's gradient is a product. What they do does not
/// depend on the rest.
fn activation_cases(kernels: &Kernels) -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, (geometry, dims, layout)) in TENSOR_SHAPES.into_iter().take(3).enumerate() {
        let Ok(shape) = Shape::new(dims, layout) else { continue };
        for operation in Operation::ALL.into_iter().filter(|&operation| operation != Operation::Statistics) {
            for case in activations(operation, &shape) {
                for strategy in strategies(operation) {
                    let tree = variant_choice(&case, strategy, geometry, Reduction::Tree, kernels);
                    for case in tree.into_iter().map(|choice| with_choice(case.clone(), choice)) {
                        if operation == Operation::BackwardFrozen {
                            let setup = Setup { dgamma: false, dbeta: false, ..case.setup };
                            cases.push(Case { setup, ..case.clone() });
                        }
                        if operation == Operation::BackwardTraining && strategy == Strategy::Split {
                            // The second kernel sees through the activation itself.
                            let setup = Setup { dresidual: false, ..case.setup };
                            cases.push(Case { setup, ..case.clone() });
                        }
                        cases.push(case);
                    }
                }
                if i == 0 {
                    cases.extend(activation_options(&case, kernels));
                }
            }
        }
    }
    cases
}

/// Every activation but none and ReLU, with a residual.
fn activations(operation: Operation, shape: &Shape) -> Vec<Case> {
    let plain = Case { data: Data::Corners, residual: true, ..Case::new(operation, shape) };
    let with = |activation, negative_slope| {
        let config = Config { activation, negative_slope, ..plain.config };
        Case { config, ..plain.clone() }
    };
    let usual = plain.config.negative_slope;
    vec![with(Activation::LeakyRelu, usual), with(Activation::Relu6, usual), with(Activation::Silu, usual)]
}

/// Hostile data, the other dtypes, other slopes, and what may be wanted of a backward pass.
fn activation_options(case: &Case, kernels: &Kernels) -> Vec<Case> {
    let hostile = ACTIVATION_HOSTILE.map(|data| Case { data, ..case.clone() });
    let bent = Case { data: Data::Constant { value: 3.0 }, beta: false, residual: false, ..case.clone() };
    let slopes = [0.0, -0.5, 3.0]
        .map(|negative_slope| Case { config: Config { negative_slope, ..case.config }, ..case.clone() });
    let slopes = slopes.into_iter().filter(|case| case.config.activation == Activation::LeakyRelu);
    let of_f32 = hostile.into_iter().chain([bent]).chain(slopes);
    let stored = [Storage::F16Words, Storage::Bf16Words].map(|storage| stored_as(storage, case.clone()));
    let split = Choice::by(Strategy::Split);
    let whole = Choice::by(Strategy::Whole);
    let mut cases: Vec<Case> = of_f32.collect();
    for case in stored {
        cases.extend(with_tensor_choice(&case, split, kernels));
        if matches!(case.operation, Operation::BackwardTraining | Operation::BackwardFrozen) {
            let over = Setup { in_place: true, dx: false, ..case.setup };
            cases.extend(with_tensor_choice(&Case { setup: over, ..case.clone() }, split, kernels));
        }
    }
    if matches!(case.operation, Operation::BackwardTraining | Operation::BackwardFrozen) {
        for choice in [split, whole] {
            let with = |setup: Setup| with_tensor_choice(&Case { setup, ..case.clone() }, choice, kernels);
            cases.extend(with(Setup { in_place: true, ..case.setup }));
            cases.extend(with(Setup { in_place: true, dx: false, ..case.setup }));
            cases.extend(with(Setup { over_residual: true, ..case.setup }));
            cases.extend(with(Setup { dresidual: false, ..case.setup }));
        }
    }
    cases
}

/// Data that an activation makes something of: NaN, infinities, -0, numbers far away, and subnormal ones.
const ACTIVATION_HOSTILE: [Data; 6] =
    [Data::OneNan, Data::OneInfinity, Data::NegativeZero, Data::Overflowing, Data::FarApart, Data::Subnormals];

/// The choice that forces a kernel variant, where it runs. A reduction by subgroups needs a column that has its workgroup for
/// itself, which a small workgroup gives it; a few lanes at least, so that there is something to reduce.
fn variant_choice(
    case: &Case,
    strategy: Strategy,
    geometry: Geometry,
    reduction: Reduction,
    kernels: &Kernels,
) -> Option<Choice> {
    let sized = |workgroup_size| Choice {
        geometry: Some(geometry),
        reduction: Some(reduction),
        workgroup_size,
        ..least_held(strategy)
    };
    let runs = |choice: &Choice| runs(case.operation, &case.shape, kernels, choice);
    match reduction {
        Reduction::Tree => Some(sized(None)).filter(runs),
        Reduction::Subgroup => (3..9).chain(0..3).map(|bits| sized(Some(1 << bits))).find(runs),
    }
}

/// A shape for every geometry, with an odd number of elements where that is possible: columns that begin in the middle of a
/// word, and words that two columns share.
const TENSOR_SHAPES: [(Geometry, &[usize], Layout); 5] = [
    (Geometry::Scalar, &[3, 5, 7, 3], Layout::ChannelsFirst),
    (Geometry::Planes4, &[5, 3, 8, 12], Layout::ChannelsFirst),
    (Geometry::Rows4, &[37, 8], Layout::ChannelsLast),
    (Geometry::Rows4, &[34, 6], Layout::ChannelsLast),
    (Geometry::Rows4, &[52, 4], Layout::ChannelsLast),
];

/// Data that f16 or bf16 makes something else of than f32.
const HOSTILE: [Data; 10] = [
    Data::Constant { value: 3.0 },
    Data::Normal { mean: 1e2 },
    Data::MixedScales,
    Data::OneNan,
    Data::OneInfinity,
    Data::NegativeZero,
    Data::ZeroGamma,
    Data::Large,
    Data::SubnormalGamma,
    Data::Subnormals,
];

/// What an operation may be fused with: an activation, a residual, both; and a backward pass from y.
fn fusions(operation: Operation, shape: &Shape) -> Vec<Case> {
    let plain = Case::new(operation, shape);
    if operation == Operation::Statistics {
        return vec![plain];
    }
    let with = |activation, residual, in_place| {
        let config = Config { activation, in_place, ..plain.config };
        Case { residual, config, ..plain.clone() }
    };
    // Without an activation a backward pass does not read the residual, but its gradient may be wanted.
    let residual = with(Activation::None, true, false);
    let others = [
        with(Activation::Relu, false, false),
        with(Activation::Relu, true, false),
        with(Activation::None, false, true),
    ];
    [plain.clone(), residual].into_iter().chain(others).collect()
}

fn stored_as(storage: Storage, case: Case) -> Case {
    let choice = Choice { storage: Some(storage), ..case.setup.choice };
    Case { config: Config { dtype: storage.dtype(), ..case.config }, ..with_choice(case, choice) }
}

/// The case with a choice besides that of its storage, where that runs.
fn with_tensor_choice(case: &Case, choice: Choice, kernels: &Kernels) -> Option<Case> {
    let choice = Choice { storage: case.setup.choice.storage, ..choice };
    runs_as(case.operation, &case.shape, case.config.dtype, kernels, &choice).then(|| with_choice(case.clone(), choice))
}

/// What a residual, an activation and a dtype bring besides what [`option_cases`] has: which of the tensors are wanted, and
/// where they lie.
fn tensor_options(case: &Case) -> Vec<Case> {
    let with = |change: &dyn Fn(&mut Setup)| {
        let mut setup = case.setup;
        change(&mut setup);
        Case { setup, ..case.clone() }
    };
    let mut cases = vec![with(&|setup| setup.pooled = true)];
    match case.operation {
        Operation::Inference => {
            cases.push(with(&|setup| setup.in_place = true));
            if case.residual {
                cases.push(with(&|setup| setup.over_residual = true));
                cases.push(with(&|setup| (setup.over_residual, setup.pooled) = (true, true)));
            }
        }
        Operation::BackwardTraining | Operation::BackwardFrozen => {
            cases.push(with(&|setup| setup.in_place = true));
            cases.push(with(&|setup| (setup.in_place, setup.pooled) = (true, true)));
            cases.push(with(&|setup| setup.dx = false));
            cases.push(with(&|setup| (setup.dgamma, setup.dbeta) = (false, false)));
            cases.extend([Adds::Parameters, Adds::All].map(|adds| Case { adds, ..case.clone() }));
            // By the kernels that only merge sums, or take none.
            let only = |adds, change: &dyn Fn(&mut Setup)| Case { adds, ..with(change) };
            cases.push(only(Adds::Parameters, &|setup| setup.dx = false));
            cases.push(only(Adds::All, &|setup| (setup.dgamma, setup.dbeta) = (false, false)));
            if case.residual {
                cases.push(with(&|setup| setup.dresidual = false));
                cases.push(with(&|setup| (setup.dresidual, setup.in_place) = (false, true)));
                cases.push(with(&|setup| (setup.dx, setup.in_place) = (false, true)));
                // Of 16 bits dx would be computed from a rounded gradient; with activations that are no masks that is refused.
                if case.config.dtype.size() == 4 {
                    cases.push(with(&|setup| setup.over_residual = true));
                    cases.push(with(&|setup| (setup.over_residual, setup.pooled) = (true, true)));
                }
                cases.push(with(&|setup| {
                    (setup.dx, setup.dgamma, setup.dbeta) = (false, false, false);
                }));
                cases.push(Case { gamma: false, beta: false, ..case.clone() });
            }
        }
        Operation::ForwardTraining | Operation::Statistics => {}
    }
    cases
}

/// Cases for a device whose bindings are so small that each tensor takes several of them: every operation by every geometry,
/// dtype and fusion, parts that begin anywhere in a word, a last part that is shorter.
pub fn part_cases(kernels: &Kernels) -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes = PART_SHAPES.into_iter().filter_map(|(dims, layout)| Shape::new(dims, layout).ok());
    // Rows of few elements: so are those of the wider tensor.
    let views = shapes.clone().skip(2).flat_map(|shape| viewed(&shape).into_iter().skip(3).take(1));
    for (i, shape) in shapes.chain(views).enumerate() {
        let stored = if i < PART_SHAPES.len() { &Storage::ALL[..] } else { &[Storage::F32, Storage::Bf16Words] };
        for (storage, operation) in stored.iter().flat_map(|&storage| Operation::ALL.map(|one| (storage, one))) {
            // Dtypes and fusions meet parts once; parts meet every geometry.
            let fused = fusions(operation, &shape).into_iter().take(if i == 0 { usize::MAX } else { 1 });
            for case in fused.map(|case| stored_as(storage, case)) {
                let geometries = Geometry::ALL.map(|geometry| Choice { geometry: Some(geometry), ..Choice::default() });
                let split = Choice { workgroup_size: Some(16), ..Choice::split(2, None) };
                let choices = geometries.into_iter().chain([split]);
                cases.extend(choices.flat_map(|choice| with_tensor_choice(&case, choice, kernels)));
                let hostile = [Data::FirstIsOutlier, Data::OneNan].map(|data| Case { data, ..case.clone() });
                let options = if i == 0 { tensor_options(&case) } else { Vec::new() };
                let others = hostile.into_iter().chain(options);
                cases.extend(others.flat_map(|case| with_tensor_choice(&case, Choice::default(), kernels)));
            }
        }
    }
    cases
}

/// Shapes of [`part_cases`]: each tensor is larger than [`PART_BYTES`], whatever its dtype.
const PART_SHAPES: [(&[usize], Layout); 4] = [
    (&[13, 5, 7, 9], Layout::ChannelsFirst),
    (&[11, 3, 8, 12], Layout::ChannelsFirst),
    (&[20, 23, 6], Layout::ChannelsLast),
    (&[401, 8], Layout::ChannelsLast),
];

/// Bytes of the largest binding of the device for [`part_cases`].
pub const PART_BYTES: u64 = 1536;

/// The limits of that device, given those of the adapter; few workgroups per dimension, so that grids are folded too.
pub fn part_limits(adapter: wgpu::Limits) -> wgpu::Limits {
    wgpu::Limits { max_storage_buffer_binding_size: PART_BYTES, max_compute_workgroups_per_dimension: 7, ..adapter }
}
