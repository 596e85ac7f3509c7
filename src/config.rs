//! What a batch norm layer computes, apart from its shape: eps, the running-statistics policy, the type of its tensors, and
//! what follows the normalization.

use crate::dtype::DType;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Configuration of a layer. gamma and beta are optional per binding and therefore not part of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Added to the variance before the square root. Positive, finite, a normal f32. Default 1e-5.
    pub eps: f64,
    /// How a training step changes the running statistics. Default: PyTorch's.
    pub running: RunningPolicy,
    /// What tensors are stored in. Default f32.
    pub dtype: DType,
    /// What the layer applies last, after the residual. Default none.
    pub activation: Activation,
    /// What [`Activation::LeakyRelu`] multiplies negative values with; the others do not use it. Default 0.01, PyTorch's.
    ///
    /// Any number that an f32 holds. A slope below 0 or above 1 is computed like any other, as PyTorch does: the backward
    /// pass sees the sign of z in z itself, which it computes again, and does not have to find it in y.
    pub negative_slope: f64,
    /// Whether the backward pass works from y instead of x, so that a forward pass may write y over x and only one of them
    /// has to be kept. Default false.
    ///
    /// x is recovered from y, which takes a gamma that is not 0: see [`Config::check_in_place`]. An activation or a residual
    /// loses what is needed and is refused.
    pub in_place: bool,
}

/// What a layer applies to `bn(x) + residual`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// `max(z, 0)`; a NaN stays a NaN. Its derivative at 0 is 0.
    Relu,
    /// z above 0, and [`Config::negative_slope`] times z elsewhere. Its derivative at 0 is the slope; where z is NaN, the slope as
    /// in PyTorch, or 1 on a device that takes no account of NaN.
    LeakyRelu,
    /// `min(max(z, 0), 6)`; a NaN stays a NaN. Its derivative at 0 and at 6 is 0.
    Relu6,
    /// `z * sigmoid(z)`, also called swish. At minus infinity it is its limit, 0, and its derivative at the infinities is 0 and 1
    /// (PyTorch gives NaN for these).
    Silu,
}

impl Activation {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::None, Self::Relu, Self::LeakyRelu, Self::Relu6, Self::Silu];

    /// Name in tables, test ids and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Relu => "relu",
            Self::LeakyRelu => "leaky_relu",
            Self::Relu6 => "relu6",
            Self::Silu => "silu",
        }
    }

    /// Whether the gradient by z is that by `act(z)` or 0, and nothing is computed for it: rounded to a dtype of 16 bits it is
    /// the same.
    pub(crate) fn is_mask(self) -> bool {
        matches!(self, Self::None | Self::Relu | Self::Relu6)
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            eps: 1e-5,
            running: RunningPolicy::default(),
            dtype: DType::F32,
            activation: Activation::None,
            negative_slope: 0.01,
            in_place: false,
        }
    }
}

impl Config {
    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Eps`], [`Error::NegativeSlope`], [`Error::Momentum`], [`Error::Policy`], or [`Error::InPlace`] for an
    /// activation with [`Config::in_place`].
    pub fn check(&self) -> Result<()> {
        if self.in_place && self.activation != Activation::None {
            let reason = format!("it does not find back to x through {}", self.activation);
            return Err(Error::InPlace { reason });
        }
        check_negative_slope(self.negative_slope)?;
        let eps = self.eps as f32;
        // GPUs may flush subnormals, and a flushed eps would divide a constant channel by zero.
        if !eps.is_normal() || eps.is_sign_negative() {
            return Err(Error::Eps { eps: self.eps });
        }
        self.running.check()
    }

    /// The activation with what it depends on.
    pub(crate) fn activation_in_words(&self) -> String {
        match self.activation {
            Activation::LeakyRelu => format!("{} with negative_slope {}", self.activation, self.negative_slope),
            other => other.to_string(),
        }
    }

    /// Whether x can be recovered from y well enough for gradients of a layer with [`Config::in_place`].
    ///
    /// `x - mean = (y - beta) / (gamma * inv_std)` divides the rounding of y, which is as large as beta makes it, by gamma. So
    /// that the recovered value keeps 8 bits at least, 14 where y is f32, every |gamma| must be at least |beta| times 2^-10
    /// (f32), 2^-3 (f16) or 1 (bf16), and not 0 or nearly so. The kernels cannot refuse: where gamma is 0 they give NaN for
    /// dx and dgamma, and where the condition does not hold otherwise, gradients with fewer digits.
    ///
    /// gamma and beta have one value per channel; beta `None` for 0.
    ///
    /// # Errors
    /// [`Error::InPlace`] that names the first channel for which it does not hold; [`Error::Mismatch`] when the lengths differ.
    pub fn check_in_place(&self, gamma: &[f32], beta: Option<&[f32]>) -> Result<()> {
        if let Some(beta) = beta.filter(|beta| beta.len() != gamma.len()) {
            return Err(Error::Mismatch {
                name: "beta",
                expected: format!("{} values, as gamma has", gamma.len()),
                actual: beta.len().to_string(),
            });
        }
        let least = match self.dtype {
            DType::F32 => 1.0 / 1024.0,
            DType::F16 => 1.0 / 8.0,
            DType::Bf16 => 1.0,
        };
        for (channel, &gamma) in gamma.iter().enumerate() {
            let beta = beta.map_or(0.0, |beta| beta[channel].abs());
            // Written so that NaN is refused too.
            let holds = gamma.abs() >= least * beta && gamma.abs() >= SMALLEST_GAMMA;
            if !holds {
                let dtype = self.dtype;
                let reason = format!(
                    "gamma of channel {channel} is {gamma:e} beside beta {beta:e}, from which {dtype} cannot recover x"
                );
                return Err(Error::InPlace { reason });
            }
        }
        Ok(())
    }
}

/// Refuses a slope that kernels cannot multiply with.
pub(crate) fn check_negative_slope(slope: f64) -> Result<()> {
    if (slope as f32).is_finite() { Ok(()) } else { Err(Error::NegativeSlope { slope }) }
}

/// Smallest gamma that is used as a divisor.
const SMALLEST_GAMMA: f32 = 1e-18;

/// How the statistics of a batch enter the running statistics.
///
/// | who | policy |
/// |---|---|
/// | PyTorch, `momentum=0.1` | `RunningPolicy::default()` or `exponential(0.1)` |
/// | PyTorch, `momentum=None` | `cumulative()` |
/// | Keras 3, or `tf.keras` without the fused kernel, `momentum=0.99` | `from_decay(0.99).biased()` |
/// | `tf.keras` with the fused kernel (which applies Bessel's correction), `momentum=0.99` | `from_decay(0.99)` |
/// | ONNX, `momentum=0.9` | `from_decay(0.9).biased()` |
/// | Ioffe and Szegedy 2015, algorithm 2 | `cumulative()` |
/// | average of the standard deviations | `cumulative().biased().average_standard_deviation()` |
/// | a window of training only | `cumulative().window(skip, Some(take))` |
/// | exact statistics of a data set | `pooled()` |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RunningPolicy {
    /// The weight that a new batch gets.
    pub average: Average,
    /// Which batch variance enters.
    pub variance: VarianceEstimate,
    /// Whether variances or standard deviations are averaged. The stored statistic is a variance either way.
    pub spread: Spread,
    /// The batches that count.
    pub window: Window,
    /// What happens to a channel whose batch statistics are NaN or infinite.
    pub non_finite: NonFinite,
}

/// The weight that a new batch gets in the running statistics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Average {
    /// `running = (1 - momentum) * running + momentum * batch`, momentum in PyTorch's sense.
    Exponential {
        /// Weight of the new batch, in [0, 1].
        momentum: f64,
    },
    /// The mean over the batches: the n-th batch enters with weight 1/n. The initial values do not matter.
    Cumulative,
    /// The statistics of the concatenation of all batches, whatever their sizes (Chan, Golub and LeVeque 1979).
    Pooled,
}

/// Which estimate of the batch variance enters the running variance. The normalization always uses the biased one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VarianceEstimate {
    /// Sum of squared deviations over m.
    Biased,
    /// Sum of squared deviations over m - 1; with m = 1, where none exists, over 1.
    Unbiased,
}

/// What is averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spread {
    /// Variances are averaged.
    Variance,
    /// Standard deviations are averaged, and the square of the average is stored.
    StandardDeviation,
}

/// The training batches that enter the running statistics: those numbered `skip .. skip + take`, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Window {
    /// Number of first batches left out.
    pub skip: u32,
    /// Number of batches that follow and count; `None` for all.
    pub take: Option<u32>,
}

/// What happens to a channel's running statistics when those of the batch are NaN or infinite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NonFinite {
    /// The channel keeps its running statistics, and its skipped count grows by one. So it does where those were NaN or
    /// infinite before, which lasts until they are reset.
    Skip,
    /// The channel's running statistics become NaN, as in PyTorch.
    Propagate,
}

impl Default for RunningPolicy {
    /// PyTorch's: exponential average with momentum 0.1, unbiased variance; a non-finite batch is skipped.
    fn default() -> Self {
        Self::exponential(0.1)
    }
}

impl RunningPolicy {
    fn averaging(average: Average) -> Self {
        Self {
            average,
            variance: VarianceEstimate::Unbiased,
            spread: Spread::Variance,
            window: Window::default(),
            non_finite: NonFinite::Skip,
        }
    }

    /// Exponential average; `momentum` is the weight of the new batch (PyTorch, candle, Burn).
    pub fn exponential(momentum: f64) -> Self {
        Self::averaging(Average::Exponential { momentum })
    }

    /// Exponential average; `decay` is the weight of the old value (called momentum by Keras, TensorFlow, Flax, ONNX).
    pub fn from_decay(decay: f64) -> Self {
        Self::exponential(1.0 - decay)
    }

    /// The mean over batches, PyTorch's `momentum=None` and the paper's inference statistics.
    pub fn cumulative() -> Self {
        Self::averaging(Average::Cumulative)
    }

    /// The statistics of all batches concatenated.
    pub fn pooled() -> Self {
        Self::averaging(Average::Pooled)
    }

    /// Lets the biased variance enter.
    pub fn biased(self) -> Self {
        Self { variance: VarianceEstimate::Biased, ..self }
    }

    /// Averages standard deviations instead of variances.
    pub fn average_standard_deviation(self) -> Self {
        Self { spread: Spread::StandardDeviation, ..self }
    }

    /// Counts only the batches `skip .. skip + take`.
    pub fn window(self, skip: u32, take: Option<u32>) -> Self {
        Self { window: Window { skip, take }, ..self }
    }

    /// Lets NaN and infinity into the running statistics.
    pub fn propagate_non_finite(self) -> Self {
        Self { non_finite: NonFinite::Propagate, ..self }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Momentum`] outside [0, 1] or NaN; [`Error::Policy`] for pooled standard deviations.
    pub fn check(&self) -> Result<()> {
        match self.average {
            Average::Exponential { momentum } if !(0.0..=1.0).contains(&momentum) => Err(Error::Momentum { momentum }),
            Average::Pooled if self.spread == Spread::StandardDeviation => Err(Error::Policy {
                reason: "pooled statistics merge sums of squares, so standard deviations cannot be averaged; use cumulative()",
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_eps_and_momentum() {
        let with_eps = |eps| Config { eps, ..Config::default() }.check();
        assert!(with_eps(1e-5).is_ok());
        for eps in [0.0, -1e-5, f64::NAN, f64::INFINITY, 1e-40, 1e39] {
            assert!(matches!(with_eps(eps), Err(Error::Eps { .. })), "{eps}");
        }
        for momentum in [-0.1, 1.1, f64::NAN] {
            let refused = RunningPolicy::exponential(momentum).check();
            assert!(matches!(refused, Err(Error::Momentum { .. })), "{momentum}");
        }
        assert!(RunningPolicy::exponential(1.0).check().is_ok());
        assert_eq!(RunningPolicy::from_decay(0.75), RunningPolicy::exponential(0.25));
        assert!(RunningPolicy::pooled().average_standard_deviation().check().is_err());
        assert!(RunningPolicy::pooled().check().is_ok());
        assert!(RunningPolicy::cumulative().average_standard_deviation().check().is_ok());
    }

    #[test]
    fn any_slope_that_an_f32_holds_is_one() {
        let check = |negative_slope| Config { negative_slope, ..Config::default() }.check();
        for slope in [0.0, -0.0, 0.01, -2.0, 1e30, 1e-42, f64::from(f32::MAX)] {
            assert!(check(slope).is_ok(), "{slope}");
        }
        for slope in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e39, -1e39] {
            let refused = check(slope).unwrap_err();
            assert!(refused.to_string().contains(&format!("got {slope}")), "{refused}");
        }
    }

    #[test]
    fn policies_change_what_they_say() {
        let changed = |change: fn(RunningPolicy) -> RunningPolicy| change(RunningPolicy::pooled());
        let pooled = RunningPolicy::pooled();
        assert_eq!(changed(RunningPolicy::biased), RunningPolicy { variance: VarianceEstimate::Biased, ..pooled });
        let deviations = changed(RunningPolicy::average_standard_deviation);
        assert_eq!(deviations, RunningPolicy { spread: Spread::StandardDeviation, ..pooled });
        let propagating = changed(RunningPolicy::propagate_non_finite);
        assert_eq!(propagating, RunningPolicy { non_finite: NonFinite::Propagate, ..pooled });
        let window = Window { skip: 3, take: Some(5) };
        assert_eq!(pooled.window(3, Some(5)), RunningPolicy { window, ..pooled });
        assert_eq!((pooled.average, RunningPolicy::cumulative().average), (Average::Pooled, Average::Cumulative));
        assert_eq!(RunningPolicy::exponential(0.3).average, Average::Exponential { momentum: 0.3 });
    }

    #[test]
    fn in_place_takes_a_gamma_that_leads_back() {
        let holds = |dtype, gamma: f32, beta: f32| {
            Config { dtype, ..Config::default() }.check_in_place(&[1.0, gamma], Some(&[0.0, beta]))
        };
        for (dtype, most) in [(DType::F32, 1024.0), (DType::F16, 8.0), (DType::Bf16, 1.0)] {
            assert!(holds(dtype, -1.0, most).is_ok() && holds(dtype, 1.0, -most).is_ok(), "{dtype}");
            let refused = holds(dtype, 1.0, most * 1.001).unwrap_err().to_string();
            assert!(refused.contains("channel 1") && refused.contains(dtype.name()), "{refused}");
        }
        for gamma in [0.0, 1e-19, f32::NAN] {
            let alone = Config::default().check_in_place(&[gamma], None);
            assert!(matches!(alone, Err(Error::InPlace { .. })), "{gamma}");
        }
        assert!(Config::default().check_in_place(&[1e-18, 1.0], None).is_ok());
        for beta in [&[][..], &[1.0, 2.0]] {
            let refused = Config::default().check_in_place(&[1.0], Some(beta)).unwrap_err();
            assert!(refused.to_string().contains("beta: expected 1 values, as gamma has, got"), "{refused}");
        }
    }

    #[test]
    fn an_activation_does_not_lead_back() {
        let config = |in_place, activation| Config { in_place, activation, ..Config::default() };
        let refused = config(true, Activation::Relu).check().unwrap_err();
        assert!(refused.to_string().contains("relu"), "{refused}");
        for (in_place, activation) in [(true, Activation::None), (false, Activation::Relu), (false, Activation::None)] {
            assert!(config(in_place, activation).check().is_ok(), "{activation}");
        }
    }
}
