//! What a layer computes of a centred value, as arguments of the reference functions.

use super::{at, check_eps, check_optional_len};
use crate::config::{Activation, Config, check_negative_slope};
use crate::error::Result;
use crate::shape::Shape;

/// A layer `y = act((x - mean) * gamma / sqrt(var + eps) + beta + residual)`, apart from where mean and var come from.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// Scale per channel, `[C]`; absent means 1.
    pub gamma: Option<&'a [f64]>,
    /// Offset per channel, `[C]`; absent means 0.
    pub beta: Option<&'a [f64]>,
    /// Added to the variance. Default 1e-5.
    pub eps: f64,
    /// Added to the normalized tensor, elements as x; absent means 0. A backward pass takes that of the forward pass.
    pub residual: Option<&'a [f64]>,
    /// Applied last. Default none.
    pub activation: Activation,
    /// What leaky ReLU multiplies negative values with. Default 0.01.
    pub negative_slope: f64,
}

impl Default for Layer<'_> {
    fn default() -> Self {
        let Config { eps, activation, negative_slope, .. } = Config::default();
        Self { gamma: None, beta: None, eps, residual: None, activation, negative_slope }
    }
}

impl Layer<'_> {
    pub(super) fn check(&self, shape: &Shape) -> Result<()> {
        check_optional_len("gamma", self.gamma, shape.channels())?;
        check_optional_len("beta", self.beta, shape.channels())?;
        check_optional_len("residual", self.residual, shape.elements())?;
        check_negative_slope(self.negative_slope)?;
        check_eps(self.eps)
    }

    pub(super) fn gamma(&self, channel: usize) -> f64 {
        at(self.gamma, channel, 1.0)
    }

    pub(super) fn beta(&self, channel: usize) -> f64 {
        at(self.beta, channel, 0.0)
    }

    pub(super) fn residual(&self, index: usize) -> f64 {
        at(self.residual, index, 0.0)
    }

    /// What the centred value is multiplied with.
    pub(super) fn scale(&self, channel: usize, var: f64) -> f64 {
        self.gamma(channel) / (var + self.eps).sqrt()
    }

    /// z, what the activation is applied to, of the element `index`, with its centred value already scaled.
    pub(super) fn preactivation(&self, channel: usize, index: usize, scaled: f64) -> f64 {
        scaled + self.beta(channel) + self.residual(index)
    }
}

impl Layer<'_> {
    /// act(z). ReLU and ReLU6 are written as tests, not as max() and min(), which would turn a NaN into a number.
    pub(super) fn activated(&self, z: f64) -> f64 {
        match self.activation {
            Activation::None => z,
            Activation::Relu | Activation::Relu6 if z <= 0.0 => 0.0,
            Activation::Relu => z,
            Activation::Relu6 if z >= 6.0 => 6.0,
            Activation::Relu6 => z,
            Activation::LeakyRelu if z > 0.0 => z,
            Activation::LeakyRelu => z * self.negative_slope,
            // The limit; the product is NaN.
            Activation::Silu if z == f64::NEG_INFINITY => -0.0,
            Activation::Silu => z * sigmoid(z),
        }
    }

    /// dz, the gradient by z, of the gradient by act(z): where act has a corner as PyTorch has it, which lets dy through at a
    /// NaN for ReLU and ReLU6 (`threshold_backward`, `hardtanh_backward`) and multiplies it with the slope for leaky ReLU.
    pub(super) fn through_activation(&self, z: f64, dy: f64) -> f64 {
        match self.activation {
            Activation::Relu | Activation::Relu6 if z <= 0.0 => 0.0,
            Activation::Relu6 if z >= 6.0 => 0.0,
            Activation::None | Activation::Relu | Activation::Relu6 => dy,
            Activation::LeakyRelu if z > 0.0 => dy,
            Activation::LeakyRelu => dy * self.negative_slope,
            Activation::Silu => dy * silu_derivative(z),
        }
    }
}

/// 1 / (1 + exp(-z)), by an exponential that does not overflow.
pub(super) fn sigmoid(z: f64) -> f64 {
    let e = (-z.abs()).exp();
    if z > 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}

/// The derivative of z * sigmoid(z), at the infinities its limits.
pub(super) fn silu_derivative(z: f64) -> f64 {
    match z {
        f64::INFINITY => 1.0,
        f64::NEG_INFINITY => 0.0,
        _ => sigmoid(z) * (1.0 + z * sigmoid(-z)),
    }
}
