//! The one case structure: it drives the tests, `bn check` and the planted faults.

use crate::arena::rounded;
use crate::data::{Data, normal};
pub use batchnorm_wgpu::Operation;
use batchnorm_wgpu::kernels::{Geometry, Gradients, Reduction, Settings, Storage, Strategy, Variant, program};
use batchnorm_wgpu::{
    Activation, Choice, Config, DType, Error, Kernels, Layout, Plan, RunningPolicy, RunningStatistics, Shape, wgpu,
};
use std::fmt;

/// The numbers that go in; those of tensors are values of the layer's dtype.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    /// The tensors' shape.
    pub shape: Shape,
    /// eps and running-statistics policy.
    pub config: Config,
    /// Input.
    pub x: Vec<f32>,
    /// Gradient of the output.
    pub dy: Vec<f32>,
    /// What is added before the activation, or none.
    pub residual: Option<Vec<f32>>,
    /// Scale, or none.
    pub gamma: Option<Vec<f32>>,
    /// Shift, or none.
    pub beta: Option<Vec<f32>>,
    /// Running statistics before the call.
    pub running: RunningStatistics,
}

/// A factor that leaves no f32 an f32.
const THIRD: f64 = 1.0 / 3.0;

/// Numbers of values that entered running statistics: ordinary, about to carry into the high word, with a high word, both,
/// and the few for which there is no unbiased variance.
const VALUES: [u64; 7] = [500, u32::MAX as u64, (3 << 32) + 17, (3 << 32) + u32::MAX as u64, 1, 2, 0];

/// How a call is set up; its results do not depend on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setup {
    /// What is forced on the plan.
    pub choice: Choice,
    /// Whether all tensors lie in one buffer.
    pub pooled: bool,
    /// Whether y is written over x (inference) and dx, or where that is not wanted dresidual, over dy.
    pub in_place: bool,
    /// Whether running statistics are given to the training forward.
    pub running: bool,
    /// Whether dx is wanted.
    pub dx: bool,
    /// Whether the residual's gradient is wanted, where there is a residual.
    pub dresidual: bool,
    /// Whether dgamma is wanted.
    pub dgamma: bool,
    /// Whether dbeta is wanted.
    pub dbeta: bool,
    /// Whether statistics take x as one batch; otherwise they stream it in several.
    pub one_batch: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let choice = Choice::default();
        Self {
            choice,
            pooled: false,
            in_place: false,
            running: true,
            dx: true,
            dresidual: true,
            dgamma: true,
            dbeta: true,
            one_batch: false,
        }
    }
}

/// One case of the matrix.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is run.
    pub operation: Operation,
    /// The tensors' shape.
    pub shape: Shape,
    /// What x is like.
    pub data: Data,
    /// Whether there is a gamma.
    pub gamma: bool,
    /// Whether there is a beta.
    pub beta: bool,
    /// Whether there is a residual.
    pub residual: bool,
    /// eps, running-statistics policy, dtype, activation.
    pub config: Config,
    /// How the call is set up.
    pub setup: Setup,
}

impl Case {
    /// The ordinary case of an operation: normal data, gamma and beta, PyTorch's policy (pooled for statistics).
    pub fn new(operation: Operation, shape: &Shape) -> Self {
        let running = match operation {
            Operation::Statistics => RunningPolicy::pooled(),
            _ => RunningPolicy::default(),
        };
        let config = Config { running, ..Config::default() };
        let data = Data::Normal { mean: 0.5 };
        Self {
            operation,
            shape: shape.clone(),
            data,
            gamma: true,
            beta: true,
            residual: false,
            config,
            setup: Setup::default(),
        }
    }

    /// The numbers of the case; the same on every machine.
    pub fn inputs(&self) -> Inputs {
        self.inputs_of(0)
    }

    /// Other numbers of the case, by seed; the same on every machine.
    pub fn inputs_of(&self, seed: u64) -> Inputs {
        let channels = self.shape.channels();
        let normal = |count, tensor: u64| normal(count, seed.wrapping_mul(8) + tensor);
        let parameter = |tensor, offset: f32| normal(channels, tensor).into_iter().map(|z| offset + 0.3 * z).collect();
        let mut running = RunningStatistics::new(channels);
        if self.operation != Operation::Statistics {
            // What an f32 and its remainder hold together.
            let mean = (0..).zip(normal(channels, 3));
            let mean = mean.map(|(c, z)| f64::from(self.running_mean(c)) + f64::from(z) * THIRD);
            let (mean, mean_remainder) = mean.map(|mean| (mean as f32, (mean - f64::from(mean as f32)) as f32)).unzip();
            let var: Vec<f32> = normal(channels, 4).into_iter().map(|z| (0.2 * z).exp()).collect();
            // In channel 1 the counts have reached their end.
            let count = |ordinary| (0..channels).map(|c| if c == 1 { u32::MAX } else { ordinary }).collect();
            running = RunningStatistics {
                mean,
                mean_remainder,
                var,
                tracked: vec![7; channels],
                averaged: (0..channels).map(|c| [5, u32::MAX, 0, 1][c % 4]).collect(),
                skipped: count(2),
                values: (0..channels).map(|c| VALUES[c % VALUES.len()]).collect(),
            };
        }
        // What is a negative zero, or makes one.
        let or = |special: f32, ordinary: Vec<f32>| match self.data {
            Data::NegativeZero => vec![special; ordinary.len()],
            _ => ordinary,
        };
        let gamma = |mut ordinary: Vec<f32>| {
            if self.data == Data::ZeroGamma {
                ordinary.iter_mut().step_by(2).for_each(|gamma| *gamma = 0.0);
            }
            or(-1.0, ordinary)
        };
        let stored = |values: Vec<f32>| values.into_iter().map(|value| rounded(value, self.config.dtype)).collect();
        Inputs {
            shape: self.shape.clone(),
            config: self.config,
            x: stored(self.data.x(&self.shape, seed.wrapping_mul(8) + 1)),
            dy: stored(normal(self.shape.elements(), 2)),
            residual: self.residual.then(|| or(-0.0, stored(normal(self.shape.elements(), 7)))),
            gamma: self.gamma.then(|| gamma(parameter(5, 1.0))),
            beta: self.beta.then(|| or(-0.0, parameter(6, 0.0))),
            running,
        }
    }

    /// The kernels that it runs, by its plan; which bindings they have is left open. (The batches of a population have plans
    /// of their own, which may differ.)
    ///
    /// # Errors
    /// What the plan refuses.
    pub fn variants(&self, kernels: &Kernels) -> batchnorm_wgpu::Result<Vec<Variant>> {
        self.variants_of(self.operation, &self.setup.choice, kernels)
    }

    /// Those of the forward pass that a backward pass has before it.
    ///
    /// # Errors
    /// What the plan refuses.
    pub fn variants_before(&self, kernels: &Kernels) -> batchnorm_wgpu::Result<Vec<Variant>> {
        let choice = &self.setup.choice;
        match self.operation {
            Operation::BackwardTraining => self.variants_of(Operation::ForwardTraining, choice, kernels),
            Operation::BackwardFrozen => {
                self.variants_of(Operation::Inference, &before_frozen_backward(choice), kernels)
            }
            _ => Ok(Vec::new()),
        }
    }

    fn variants_of(
        &self,
        operation: Operation,
        choice: &Choice,
        kernels: &Kernels,
    ) -> batchnorm_wgpu::Result<Vec<Variant>> {
        let Setup { dx, dresidual, dgamma, dbeta, .. } = self.setup;
        let gradients = match (dx, dgamma || dbeta) {
            (true, true) => Gradients::All,
            (_, false) => Gradients::Input,
            (false, true) => Gradients::Parameters,
        };
        let dtype = self.config.dtype;
        let plan = Plan::new(operation, &self.shape, dtype, kernels.capabilities(), kernels.tuning(), choice)?;
        // Given the residual's gradient, the second kernel of a backward pass has no activation to see through.
        let behind = self.residual && dresidual && operation == Operation::BackwardTraining;
        let settings = plan.settings(&self.config);
        let plain = Settings { activation: Activation::None, ..settings };
        let program = program(operation, plan.strategy, gradients).iter();
        Ok(program
            .map(|kernel| Variant::new(kernel, if behind && kernel.rereads { plain } else { settings }))
            .collect())
    }

    /// What its tensors are stored in and what is fused with the normalization, such as `f16 relu residual`.
    pub fn tensors(&self) -> String {
        let Config { dtype, activation, in_place, .. } = self.config;
        let mut words = vec![self.setup.choice.storage.map_or(dtype.name(), Storage::name)];
        words.extend((activation != Activation::None).then_some(activation.name()));
        words.extend(self.residual.then_some("residual"));
        words.extend(in_place.then_some("from y"));
        words.join(" ")
    }

    /// About where a channel's running mean is: near the data, as a trained layer has it.
    fn running_mean(&self, channel: usize) -> f32 {
        match self.data {
            Data::Normal { mean } => mean,
            Data::TinyVariance => 1e3,
            Data::FarApart => -self.data.value(0.0, channel, 1, 3),
            _ => 0.0,
        }
    }
}

/// What is forced on the inference before a frozen backward pass, which lacks some of the strategies that may be forced on it.
pub(crate) fn before_frozen_backward(choice: &Choice) -> Choice {
    Choice { storage: choice.storage, ..Choice::default() }
}

impl fmt::Display for Case {
    /// The case's id: operation, shape, data, and whatever differs from the default.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setup { choice, pooled, in_place, running, dx, dresidual, dgamma, dbeta, one_batch } = self.setup;
        write!(f, "{} {} {}", self.operation.name(), self.shape, self.data)?;
        let Config { dtype, activation, .. } = self.config;
        if dtype != DType::F32 || choice.storage.is_some() {
            write!(f, " {}", choice.storage.map_or(dtype.name(), Storage::name))?;
        }
        if activation != Activation::None {
            write!(f, " {activation}")?;
        }
        choice.strategy.map_or(Ok(()), |strategy| write!(f, " {strategy}"))?;
        choice.held.map_or(Ok(()), |held| write!(f, " held={held}"))?;
        choice.reverse.map_or(Ok(()), |reverse| write!(f, " reverse={reverse}"))?;
        choice.geometry.map_or(Ok(()), |geometry| write!(f, " {geometry}"))?;
        choice.reduction.map_or(Ok(()), |reduction| write!(f, " {reduction}"))?;
        choice.workgroup_size.map_or(Ok(()), |size| write!(f, " workgroup={size}"))?;
        choice.splits.map_or(Ok(()), |splits| write!(f, " splits={splits}"))?;
        let flags = [
            (!self.gamma, " no-gamma"),
            (!self.beta, " no-beta"),
            (self.residual, " residual"),
            (self.config.in_place, " from-y"),
            (pooled, " pooled"),
            (in_place, " in-place"),
            (!running, " no-running"),
            (!dx, " no-dx"),
            (self.residual && !dresidual, " no-dresidual"),
            (!dgamma, " no-dgamma"),
            (!dbeta, " no-dbeta"),
            (one_batch, " one-batch"),
            (self.config.running != Case::new(self.operation, &self.shape).config.running, " policy"),
        ];
        flags.iter().filter(|(set, _)| *set).try_for_each(|(_, flag)| f.write_str(flag))?;
        if self.config.running != Case::new(self.operation, &self.shape).config.running {
            write!(f, "({:?}, {:?})", self.config.running.average, self.config.running.variance)?;
        }
        Ok(())
    }
}

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
                let held = (strategy == Strategy::Resident).then_some(4);
                let choice = Choice { strategy: Some(strategy), held, ..Choice::default() };
                let data = Data::ALL.map(|data| Case { data, ..Case::new(operation, &shape) });
                let all = data.into_iter().chain(option_cases(operation, &shape, every));
                cases.extend(all.map(|case| with_choice(case, choice)));
            }
        }
        cases.extend(policy_cases(&shape));
        cases.extend(Data::ALL.map(|data| one_batch(Case { data, ..Case::new(Operation::Statistics, &shape) })));
    }
    cases.extend(tensor_cases(kernels));
    cases.retain(|case| !(case.operation.trains() && case.shape.values_per_channel() == 1));
    cases
}

/// Values held by the resident kernels of the cases that need only one of them: these have the shortest shaders.
const LEAST_HELD: u32 = Strategy::HELD[0];

/// Whether some case of the matrix has to run a variant. Of f32 tensors without an activation, every one; of others, whose
/// text differs in how elements are loaded and stored and in what is done to them, those that hold the fewest values.
pub fn must_be_covered(variant: &Variant) -> bool {
    let Settings { geometry, reduction, held, .. } = variant.settings;
    variant.settings == Settings::plain(geometry, reduction, held) || held <= LEAST_HELD
}

/// What tensors are stored in, times what is fused with the normalization: by every kernel that
/// [must be covered](must_be_covered), over a shape for each geometry; with hostile data; and with every combination of the options that they bring.
fn tensor_cases(kernels: &Kernels) -> Vec<Case> {
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
                let in_place = tensor_options(&case).into_iter().filter(|case| i > 0 && case.setup.in_place);
                let widely = Choice { geometry: Some(geometry), ..Choice::default() };
                cases.extend(in_place.flat_map(|case| with_tensor_choice(&case, widely, kernels)));
                // Which bindings there are and where they lie does not depend on it otherwise.
                for strategy in strategies(operation).filter(|_| i == 0) {
                    let held = (strategy == Strategy::Resident).then_some(4);
                    let choice = Choice { strategy: Some(strategy), held, ..Choice::default() };
                    cases.extend(
                        tensor_options(&case).iter().flat_map(|case| with_tensor_choice(case, choice, kernels)),
                    );
                }
            }
        }
    }
    cases
}

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
        strategy: Some(strategy),
        geometry: Some(geometry),
        reduction: Some(reduction),
        workgroup_size,
        held: (strategy == Strategy::Resident).then_some(LEAST_HELD),
        ..Choice::default()
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
const HOSTILE: [Data; 8] = [
    Data::Constant { value: 3.0 },
    Data::Normal { mean: 1e2 },
    Data::MixedScales,
    Data::OneNan,
    Data::OneInfinity,
    Data::NegativeZero,
    Data::ZeroGamma,
    Data::Large,
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
        Operation::Inference => cases.push(with(&|setup| setup.in_place = true)),
        Operation::BackwardTraining | Operation::BackwardFrozen => {
            cases.push(with(&|setup| setup.in_place = true));
            cases.push(with(&|setup| (setup.in_place, setup.pooled) = (true, true)));
            cases.push(with(&|setup| setup.dx = false));
            cases.push(with(&|setup| (setup.dgamma, setup.dbeta) = (false, false)));
            if case.residual {
                cases.push(with(&|setup| setup.dresidual = false));
                cases.push(with(&|setup| (setup.dresidual, setup.in_place) = (false, true)));
                cases.push(with(&|setup| (setup.dx, setup.in_place) = (false, true)));
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
    for (i, (dims, layout)) in PART_SHAPES.into_iter().enumerate() {
        let Ok(shape) = Shape::new(dims, layout) else { continue };
        for (storage, operation) in
            Storage::ALL.into_iter().flat_map(|storage| Operation::ALL.map(|one| (storage, one)))
        {
            // Dtypes and fusions meet parts once; parts meet every geometry.
            let fused = fusions(operation, &shape).into_iter().take(if i == 0 { usize::MAX } else { 1 });
            for case in fused.map(|case| stored_as(storage, case)) {
                let geometries = Geometry::ALL.map(|geometry| Choice { geometry: Some(geometry), ..Choice::default() });
                let split = Choice { splits: Some(2), workgroup_size: Some(16), ..Choice::default() };
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

/// The strategies that an operation has.
pub fn strategies(operation: Operation) -> impl Iterator<Item = Strategy> {
    Strategy::ALL.into_iter().filter(move |&strategy| !program(operation, strategy, Gradients::All).is_empty())
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
        let held = (strategy == Strategy::Resident).then_some(held);
        Geometry::ALL.into_iter().flat_map(move |geometry| {
            Reduction::ALL.map(|reduction| Choice {
                strategy: Some(strategy),
                geometry: Some(geometry),
                reduction: Some(reduction),
                held,
                ..Choice::default()
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
        [false, true].map(|reverse| Choice {
            strategy: Some(Strategy::Split),
            workgroup_size: Some(size),
            splits: Some(splits),
            reverse: Some(reverse),
            ..Choice::default()
        })
    });
    let whole = [1, 2, 32, 64, 256].map(|size| Choice {
        strategy: Some(Strategy::Whole),
        workgroup_size: Some(size),
        ..Choice::default()
    });
    let can = |choice: &Choice| runs(operation, shape, kernels, choice);
    // The smallest workgroup has one column, which a reduction by subgroups needs; a large one shares itself out.
    let resident = Strategy::HELD.into_iter().flat_map(|held| {
        let of_size = move |reduction, size| Choice {
            strategy: Some(Strategy::Resident),
            reduction,
            workgroup_size: Some(size),
            held: Some(held),
            ..Choice::default()
        };
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
