//! The one case structure: it drives the tests, `bn check`, the planted faults and the mutants.

use crate::arena::rounded;
use crate::data::{Data, normal};
pub use batchnorm_wgpu::Operation;
use batchnorm_wgpu::kernels::{Storage, Variant};
use batchnorm_wgpu::program::Given;
use batchnorm_wgpu::{Activation, Choice, Config, DType, Kernels, RunningPolicy, RunningStatistics, Shape, Window};
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
    /// The gradients that those of the call are added to.
    pub before: Before,
}

/// Gradients that are there before a call, which adds its own to them; `None` for those that it replaces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Before {
    /// Gradient by x.
    pub dx: Option<Vec<f32>>,
    /// Gradient by the residual.
    pub dresidual: Option<Vec<f32>>,
    /// Gradient by gamma.
    pub dgamma: Option<Vec<f32>>,
    /// Gradient by beta.
    pub dbeta: Option<Vec<f32>>,
}

/// Which gradients are added to what is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Adds {
    /// None.
    #[default]
    None,
    /// Those of gamma and beta, as over micro-batches.
    Parameters,
    /// All.
    All,
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
    /// Whether gamma and beta lie side by side in one buffer, and their gradients in another, where no binding may begin.
    pub packed: bool,
    /// Whether y is written over x (inference) and dx, or where that is not wanted dresidual, over dy.
    pub in_place: bool,
    /// Whether y is written over the residual (inference), or the residual's gradient over dy beside a dx elsewhere (backward), where
    /// there is a residual.
    pub over_residual: bool,
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
    /// Samples of each micro-batch, of three at the most, where the batch comes in several.
    pub micro_batch: Option<usize>,
}

impl Default for Setup {
    fn default() -> Self {
        let choice = Choice::default();
        Self {
            choice,
            pooled: false,
            packed: false,
            in_place: false,
            over_residual: false,
            running: true,
            dx: true,
            dresidual: true,
            dgamma: true,
            dbeta: true,
            one_batch: false,
            micro_batch: None,
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
    /// Which gradients are added to what is there.
    pub adds: Adds,
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
            adds: Adds::None,
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
            let var = (0..).zip(normal(channels, 4)).map(|(c, z)| self.data.running_var(c, (0.2 * z).exp())).collect();
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
        let per_channel = |ordinary: Vec<f32>, of: fn(Data, usize, f32) -> f32| {
            (0..).zip(ordinary).map(|(channel, value)| of(self.data, channel, value)).collect()
        };
        let stored = |values: Vec<f32>| values.into_iter().map(|value| rounded(value, self.config.dtype)).collect();
        let tensor = |tensor, of: fn(Data, usize, f32) -> f32| {
            let values = normal(self.shape.elements(), tensor);
            let channel = |index: usize| index / self.shape.inner() % channels;
            stored((0..).zip(values).map(|(index, value)| of(self.data, channel(index), value)).collect())
        };
        let before = Before {
            dx: (self.adds == Adds::All).then(|| stored(normal(self.shape.elements(), 9))),
            dresidual: (self.adds == Adds::All && self.residual).then(|| stored(normal(self.shape.elements(), 10))),
            dgamma: (self.adds != Adds::None).then(|| parameter(11, 0.0)),
            dbeta: (self.adds != Adds::None).then(|| parameter(12, 1.0)),
        };
        Inputs {
            before,
            shape: self.shape.clone(),
            config: self.config,
            x: stored(self.data.x(&self.shape, seed.wrapping_mul(8) + 1)),
            dy: tensor(2, Data::dy),
            residual: self.residual.then(|| tensor(7, Data::beta_or_residual)),
            gamma: self.gamma.then(|| per_channel(parameter(5, 1.0), Data::gamma)),
            beta: self.beta.then(|| per_channel(parameter(6, 0.0), Data::beta_or_residual)),
            running,
        }
    }

    /// Whether it is made so that f32, or the dtype, does not hold all results or what leads to them: some may be NaN or
    /// infinite where float64 has a number, and some have no bound.
    pub fn may_exceed(&self, inputs: &Inputs) -> bool {
        // Working from y, nothing of x is left where gamma is 0, or taken for it.
        let lost = self.config.in_place && self.data.loses_gamma();
        // Half precision makes infinities of ordinary numbers.
        lost || self.data.exceeds_f32() || inputs.x.iter().any(|x| !x.is_finite())
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
        let description = kernels.describe(self.shape.clone(), self.config, choice)?;
        let mut given = Given::apart(&self.given(operation));
        given.iter_mut().for_each(|given| given.adds = self.adds_to(given.name));
        let description = match self.setup.micro_batch {
            Some(samples) => description.micro_batches(samples)?.swap_remove(0),
            None => description,
        };
        let program = description.lower(operation, &given)?;
        let names_apart = |variant: &Variant| Variant::new(variant.kernel, variant.settings);
        Ok(program.dispatches.iter().map(|dispatch| names_apart(&dispatch.variant)).collect())
    }

    fn adds_to(&self, name: &str) -> bool {
        match self.adds {
            Adds::None => false,
            Adds::Parameters => ["dgamma", "dbeta"].contains(&name),
            Adds::All => ["dgamma", "dbeta", "dx", "dresidual"].contains(&name),
        }
    }

    /// The bindings that an operation of the case is given.
    fn given(&self, operation: Operation) -> Vec<&'static str> {
        let Setup { running, dx, dresidual, dgamma, dbeta, .. } = self.setup;
        let backward = matches!(operation, Operation::BackwardTraining | Operation::BackwardFrozen);
        let forward = matches!(operation, Operation::ForwardTraining | Operation::Inference);
        let all = [
            ("x", true),
            ("y", forward),
            ("residual", self.residual && operation != Operation::Statistics),
            ("gamma", forward && self.gamma),
            ("beta", forward && self.beta),
            ("saved", operation != Operation::Inference),
            ("running", !backward && (running || operation != Operation::ForwardTraining)),
            ("scratch", operation != Operation::Inference),
            ("dy", backward),
            ("dx", backward && dx),
            ("dresidual", backward && self.residual && dresidual),
            ("dgamma", backward && dgamma),
            ("dbeta", backward && dbeta),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
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
        let Setup {
            choice,
            pooled,
            packed,
            in_place,
            over_residual,
            running,
            dx,
            dresidual,
            dgamma,
            dbeta,
            one_batch,
            micro_batch,
        } = self.setup;
        write!(f, "{} {} {}", self.operation.name(), self.shape, self.data)?;
        let Config { dtype, activation, negative_slope, .. } = self.config;
        if dtype != DType::F32 || choice.storage.is_some() {
            write!(f, " {}", choice.storage.map_or(dtype.name(), Storage::name))?;
        }
        if activation != Activation::None {
            write!(f, " {activation}")?;
        }
        if negative_slope != Config::default().negative_slope {
            write!(f, "({negative_slope})")?;
        }
        choice.strategy().map_or(Ok(()), |strategy| write!(f, " {strategy}"))?;
        choice.held().map_or(Ok(()), |held| write!(f, " held={held}"))?;
        choice.reverse().map_or(Ok(()), |reverse| write!(f, " reverse={reverse}"))?;
        choice.geometry.map_or(Ok(()), |geometry| write!(f, " {geometry}"))?;
        choice.reduction.map_or(Ok(()), |reduction| write!(f, " {reduction}"))?;
        choice.workgroup_size.map_or(Ok(()), |size| write!(f, " workgroup={size}"))?;
        choice.splits().map_or(Ok(()), |splits| write!(f, " splits={splits}"))?;
        let flags = [
            (!self.gamma, " no-gamma"),
            (!self.beta, " no-beta"),
            (self.residual, " residual"),
            (self.config.in_place, " from-y"),
            (pooled, " pooled"),
            (packed, " packed"),
            (in_place, " in-place"),
            (over_residual && self.operation == Operation::Inference, " over-residual"),
            (over_residual && self.operation != Operation::Inference, " dresidual-over-dy"),
            (!running, " no-running"),
            (!dx, " no-dx"),
            (self.residual && !dresidual, " no-dresidual"),
            (!dgamma, " no-dgamma"),
            (!dbeta, " no-dbeta"),
            (one_batch, " one-batch"),
            (self.adds == Adds::Parameters, " adds-parameters"),
            (self.adds == Adds::All, " adds"),
            (self.config.running != Case::new(self.operation, &self.shape).config.running, " policy"),
        ];
        flags.iter().filter(|(set, _)| *set).try_for_each(|(_, flag)| f.write_str(flag))?;
        micro_batch.map_or(Ok(()), |samples| write!(f, " by={samples}"))?;
        let policy = self.config.running;
        if policy != Case::new(self.operation, &self.shape).config.running {
            write!(f, "({:?}, {:?}, {:?}, {:?}", policy.average, policy.variance, policy.spread, policy.non_finite)?;
            let Window { skip, take } = policy.window;
            write!(f, ", {skip}..{})", take.map_or(String::new(), |take| (skip + take).to_string()))?;
        }
        Ok(())
    }
}
