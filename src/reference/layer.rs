//! What a layer computes of a centred value, as arguments of the reference functions.

use super::{at, check_eps, check_optional_len};
use crate::config::{Activation, Config};
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
}

impl Default for Layer<'_> {
    fn default() -> Self {
        let Config { eps, activation, .. } = Config::default();
        Self { gamma: None, beta: None, eps, residual: None, activation }
    }
}

impl Layer<'_> {
    pub(super) fn check(&self, shape: &Shape) -> Result<()> {
        check_optional_len("gamma", self.gamma, shape.channels())?;
        check_optional_len("beta", self.beta, shape.channels())?;
        check_optional_len("residual", self.residual, shape.elements())?;
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

impl Activation {
    /// act(z). ReLU is written as a test, not as max(), which would turn a NaN into 0.
    pub(super) fn of(self, z: f64) -> f64 {
        match self {
            Self::Relu if z <= 0.0 => 0.0,
            _ => z,
        }
    }

    /// dz, the gradient by z, of the gradient by act(z). That of ReLU at 0 is 0, and a NaN lets dy through (PyTorch,
    /// `threshold_backward`).
    pub(super) fn gradient(self, z: f64, dy: f64) -> f64 {
        match self {
            Self::Relu if z <= 0.0 => 0.0,
            _ => dy,
        }
    }
}
