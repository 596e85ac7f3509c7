//! What a kernel gets wrong in the activation. Symbols as in the documentation of the [parent](super).

use super::{DType, ETA, U, Uncertain, fits, flushed, promise};
use crate::config::Activation;
use crate::reference::Layer;
use crate::reference::layer::{sigmoid, silu_derivative};

/// dz of an element: its value, its error, and the most that a kernel takes for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gradient {
    pub dz: Uncertain,
    pub magnitude: f64,
}

impl Gradient {
    /// A value that may be off.
    fn within(value: f64, error: f64) -> Self {
        Self { dz: Uncertain { value, error: promise(error) }, magnitude: value.abs() + promise(error) }
    }

    /// dy or 0, of which a kernel may take the other where it is in doubt.
    fn masked(value: f64, dy: f64, in_doubt: bool) -> Self {
        let error = if in_doubt { dy.abs() } else { 0.0 };
        Self { dz: Uncertain { value, error }, magnitude: value.abs().max(error) }
    }
}

/// act(z), before it is stored as `dtype`.
pub(super) fn activated(layer: &Layer<'_>, z: Uncertain, dtype: DType) -> Uncertain {
    let value = layer.activated(z.value);
    let error = match layer.activation {
        Activation::None => z.error,
        // Not positive for certain, or 6 at least: exact.
        Activation::Relu | Activation::Relu6 if z.value + z.error <= 0.0 => 0.0,
        Activation::Relu6 if z.value - z.error >= 6.0 => 0.0,
        Activation::Relu | Activation::Relu6 => z.error,
        Activation::LeakyRelu => leaky_error(layer.negative_slope, z, value, dtype),
        Activation::Silu => silu_error(z, value),
    };
    Uncertain { value, error: promise(error) }
}

/// The gradient by z, given dy, before it is stored.
pub(super) fn through_activation(layer: &Layer<'_>, z: Uncertain, dy: f64) -> Gradient {
    let value = layer.through_activation(z.value, dy);
    let near = |corner: f64| z.error > 0.0 && (z.value - corner).abs() <= z.error;
    match layer.activation {
        Activation::None => Gradient::masked(value, dy, false),
        Activation::Relu => Gradient::masked(value, dy, near(0.0)),
        Activation::Relu6 => Gradient::masked(value, dy, near(0.0) || near(6.0)),
        // A device that takes no account of NaN may take it for positive.
        Activation::LeakyRelu => leaky_gradient(layer.negative_slope, z, value, dy, near(0.0) || z.value.is_nan()),
        Activation::Silu => Gradient::within(value, silu_gradient_error(z, value, dy)),
    }
}

/// E of a slope as a kernel has it: rounded to f32, perhaps flushed.
fn slope_error(slope: f64) -> f64 {
    let held = f64::from(slope as f32);
    (slope - held).abs() + flushed(held, 0.0)
}

/// E(y) of leaky ReLU.
fn leaky_error(slope: f64, z: Uncertain, value: f64, dtype: DType) -> f64 {
    if z.value - z.error > 0.0 {
        return z.error; // z itself
    }
    let off = slope_error(slope);
    if z.value.is_infinite() && z.error == 0.0 {
        return if off < slope.abs() || slope == 0.0 { 0.0 } else { f64::INFINITY };
    }
    let most = z.value.abs() + z.error;
    let steepest = if z.value + z.error <= 0.0 { slope.abs() } else { slope.abs().max(1.0) };
    let error = steepest * z.error + most * off + U * slope.abs() * most;
    let error = error + flushed(value, error);
    // What a kernel takes for infinity stays so, which is right only where it is the answer.
    if fits(most) || value.abs() - error >= dtype.overflow() { error } else { f64::INFINITY }
}

/// dz of leaky ReLU.
fn leaky_gradient(slope: f64, z: Uncertain, value: f64, dy: f64, in_doubt: bool) -> Gradient {
    if z.value - z.error > 0.0 {
        return Gradient::masked(value, dy, false);
    }
    let product = dy.abs() * (slope_error(slope) + U * slope.abs()) + flushed(dy, 0.0) * slope.abs();
    let product = product + flushed(dy * slope, product);
    let other = if in_doubt { dy.abs() * (1.0 - slope).abs() } else { 0.0 };
    Gradient::within(value, product + other)
}

/// Where the derivative of SiLU is largest; on the other side of 0 it is smallest.
const TURN: f64 = 2.399357280515468;
/// The kernels take what is further from 0 for this.
const FAR: f64 = 104.0;

/// SiLU's sigmoids where a kernel may see z.
struct Sigmoids {
    /// Where the derivative is largest or smallest, between the ends and at them.
    extremes: [f64; 4],
    /// The largest |z|, but for what is taken for 104.
    reach: f64,
    /// The largest sigmoid(z) and sigmoid(-z).
    of_z: f64,
    of_minus_z: f64,
    /// The relative error of the exponential: 3 + 2|z| ulp.
    exponential: f64,
    /// What flushing, or rounding below the normal numbers, costs the smaller sigmoid.
    lost: f64,
}

impl Sigmoids {
    fn about(z: Uncertain) -> Self {
        let (low, high) = (z.value - z.error, z.value + z.error);
        let inside = |turn: f64| turn.max(low).min(high);
        let reach = low.abs().max(high.abs()).min(FAR);
        Self {
            extremes: [low, inside(-TURN), inside(TURN), high],
            reach,
            of_z: sigmoid(high),
            of_minus_z: sigmoid(-low),
            exponential: (6.0 + 4.0 * reach) * U,
            lost: if (-reach).exp() < 2.0 * ETA { 2.0 * ETA } else { 0.0 },
        }
    }

    fn largest(&self, of: impl Fn(f64) -> f64) -> f64 {
        self.extremes.iter().map(|&z| of(z).abs()).fold(0.0, f64::max)
    }
}

/// E(y) of SiLU.
fn silu_error(z: Uncertain, value: f64) -> f64 {
    if z.value == f64::INFINITY && z.error == 0.0 {
        return 0.0;
    }
    let at = Sigmoids::about(z);
    let moved = at.largest(silu_derivative) * z.error;
    let own = (value.abs() + moved) * (at.of_minus_z * at.exponential + 7.0 * U) + at.reach * at.lost;
    moved + own + flushed(value, moved + own)
}

/// E(dz) of SiLU.
fn silu_gradient_error(z: Uncertain, value: f64, dy: f64) -> f64 {
    // It may be that a kernel has NaN for it.
    if !z.error.is_finite() || z.value.is_nan() {
        return f64::INFINITY;
    }
    let at = Sigmoids::about(z);
    let derivative = silu_derivative(z.value);
    let moved = at.largest(|z| silu_derivative(z) - derivative);
    let product = at.reach * at.of_minus_z;
    let own = at.of_z
        * (product * (at.of_z * at.exponential + 8.0 * U)
            + U
            + (1.0 + product) * (at.of_minus_z * at.exponential + 8.0 * U))
        + (1.0 + at.reach) * at.lost
        + 2.0 * ETA;
    let error = dy.abs() * (moved + own) + flushed(dy, 0.0) * (derivative.abs() + moved + own);
    error + flushed(value, error)
}
