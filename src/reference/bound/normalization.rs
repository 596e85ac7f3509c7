//! What a kernel gets wrong between the centred value and the output. Symbols as in the documentation of the
//! [parent](super).

use super::activation::{Gradient, activated, through_activation};
use super::channel::{Channel, InvStd};
use super::dtype::stored;
use super::{DType, ETA, Execution, ROOM, U, Uncertain, fits, flushed};
use crate::reference::Layer;

/// Smallest and largest magnitude that WGSL lets a division by it be accurate for.
const DIVISORS: [f64; 2] = [f32::MIN_POSITIVE as f64, (1u128 << 126) as f64];

/// One channel's centre, scale and epilogue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Normalization<'a> {
    pub channel: Channel,
    pub inv_std: InvStd,
    /// gamma * inv_std.
    pub scale: f64,
    /// F(scale): what flushing gamma or the scale costs the scale.
    pub scale_flushed: f64,
    beta: f64,
    layer: &'a Layer<'a>,
    dtype: DType,
}

impl<'a> Normalization<'a> {
    pub fn new(channel: Channel, c: usize, layer: &'a Layer<'a>, execution: &Execution) -> Self {
        let inv_std = channel.inv_std(layer.eps);
        let gamma = layer.gamma(c);
        let scale = gamma * inv_std.value;
        // Flushed, gamma takes with it a product that may be normal.
        let gamma_is_subnormal = flushed(gamma, 0.0) > 0.0;
        let scale_flushed =
            if gamma_is_subnormal { scale.abs() } else { flushed(scale, scale.abs() * (inv_std.theta + 2.0 * U)) };
        Self { channel, inv_std, scale, scale_flushed, beta: layer.beta(c), layer, dtype: execution.dtype }
    }

    /// Largest magnitude of a kernel's scale, infinite where it may be none.
    pub fn scale_at_most(&self) -> f64 {
        let most = self.scale.abs() * (1.0 + self.inv_std.theta) * (1.0 + 2.0 * U);
        if most <= f32::MAX.into() { most } else { f64::INFINITY }
    }

    /// Smallest magnitude of a kernel's scale.
    fn scale_at_least(&self) -> f64 {
        if self.scale_flushed > 0.0 {
            return 0.0;
        }
        self.scale.abs() / ((1.0 + self.inv_std.theta) * (1.0 + 2.0 * U))
    }

    /// z of the element `index`, whose input is `x`, before storage.
    pub fn preactivation(&self, index: usize, x: f64) -> Uncertain {
        let product = self.product(x);
        let normalized = product.plus(self.beta);
        let z = normalized.plus(self.layer.residual(index));
        let overflows = z.value.abs() - z.error >= self.dtype.overflow();
        // An infinity on the way is right only where it is the answer.
        let sound = |step: Uncertain| {
            let same_sign = step.value.abs() >= step.error && step.value.signum() == z.value.signum();
            step.fits() || (overflows && same_sign)
        };
        if sound(product) && sound(normalized) { z } else { z.unbounded() }
    }

    /// Tolerance of y of the element `index`.
    pub fn output_error(&self, index: usize, x: f64) -> f64 {
        let y = activated(self.layer, self.preactivation(index, x), self.dtype);
        stored(y.value, y.error, self.dtype)
    }

    /// dz of the element `index`.
    pub fn gradient(&self, index: usize, x: f64, dy: f64) -> Gradient {
        through_activation(self.layer, self.preactivation(index, x), dy)
    }

    /// The error, apart from E(r), of a centred value that is recovered from the stored y of `x`.
    pub fn recovered_error(&self, x: f64) -> f64 {
        let product = self.product(x);
        let y = product.plus(self.beta);
        let least = self.scale_at_least();
        let divides = least >= DIVISORS[0] && self.scale_at_most() <= DIVISORS[1];
        if !divides || !product.fits() || !stored_finite(y, self.dtype) {
            return f64::INFINITY;
        }
        let storage = self.dtype.storage_error(y.value, y.error);
        if y.error == 0.0 && storage == 0.0 {
            return 0.0; // xc is exactly 0, and y is beta
        }
        let noise = ROOM * (product.addition_error(self.beta) + storage + 6.0 * ETA) / least;
        let magnitude = self.channel.centered(x).abs() + self.channel.centered_error(x);
        self.channel.own_error(x) + 8.0 * U * magnitude + noise + ETA
    }

    /// p, the centred value times the scale.
    fn product(&self, x: f64) -> Uncertain {
        let centered = Uncertain { value: self.channel.centered(x), error: self.channel.centered_error(x) };
        let (scale, theta) = (self.scale.abs(), self.inv_std.theta);
        let product = Uncertain { value: centered.value * self.scale, error: 0.0 };
        // What is subtracted from an infinite x is finite, and a scale that no device takes for 0 changes its sign at most.
        if product.value.is_infinite() && x.is_infinite() && self.scale_at_least() >= DIVISORS[0] {
            return product;
        }
        if !centered.fits() || !self.scale_at_most().is_finite() {
            return product.unbounded();
        }
        if scale == 0.0 || (centered.value == 0.0 && centered.error == 0.0) {
            return product; // exactly 0
        }
        let error = scale * centered.error * (1.0 + theta)
            + product.value.abs() * (theta + 2.0 * U)
            + self.scale_flushed * (centered.value.abs() + centered.error);
        Uncertain { error: error + flushed(product.value, error), ..product }
    }
}

/// Whether storing `y` gives a finite number for certain.
fn stored_finite(y: Uncertain, dtype: DType) -> bool {
    y.fits() && y.value.abs() + y.error < dtype.overflow()
}

impl Uncertain {
    /// The f32 sum with a float `b`.
    fn plus(self, b: f64) -> Self {
        let infinite = |value: f64, error: f64| value.is_infinite() && error == 0.0;
        if (b.is_infinite() && self.fits()) || infinite(self.value, self.error) {
            return Self { value: self.value + b, error: 0.0 };
        }
        Self { value: self.value + b, error: self.error + self.addition_error(b) }
    }

    /// What the f32 addition of a float `b` costs.
    fn addition_error(self, b: f64) -> f64 {
        let sum = self.value + b;
        if b == 0.0 {
            return 0.0;
        }
        let inputs_flushed = flushed(self.value, self.error) + flushed(b, 0.0);
        if self.error == 0.0 && sum == f64::from(sum as f32) {
            return inputs_flushed + flushed(sum, 0.0);
        }
        let rounding = (U * (sum.abs() + self.error)).min(self.value.abs() + self.error).min(b.abs());
        // EPSILON: the oracle rounds too, which shows where one addend is tiny beside the other.
        let rounding = rounding + f64::EPSILON * sum.abs();
        rounding + inputs_flushed + flushed(sum, self.error + rounding)
    }

    /// Whether f32 holds it for certain.
    fn fits(self) -> bool {
        fits(self.value.abs() + self.error)
    }

    fn unbounded(self) -> Self {
        Self { error: f64::INFINITY, ..self }
    }
}
