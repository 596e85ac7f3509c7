//! Tolerances of outputs, gradients and statistics. Symbols as in the documentation of the [parent](super).

use super::channel::{Channel, InvStd};
use super::{DType, ETA, U, reduction};
use crate::error::Result;
use crate::reference::{Affine, at, check_eps, check_len, check_training, indices, sum};
use crate::shape::Shape;

/// Absolute tolerances of [`Statistics`](crate::reference::Statistics) or of running statistics.
#[derive(Clone, Debug, PartialEq)]
pub struct StatisticsBound {
    /// Of the mean as one f32, `[C]`.
    pub mean: Vec<f64>,
    /// Of the variance, `[C]`.
    pub var: Vec<f64>,
}

impl StatisticsBound {
    /// No error at all: given statistics, or the initial running ones.
    pub fn exact(channels: usize) -> Self {
        Self { mean: vec![0.0; channels], var: vec![0.0; channels] }
    }
}

/// Absolute tolerances of a [`Forward`](crate::reference::Forward).
#[derive(Clone, Debug, PartialEq)]
pub struct ForwardBound {
    /// Of y, per element.
    pub y: Vec<f64>,
    /// Of the batch statistics, per channel.
    pub statistics: StatisticsBound,
}

/// Absolute tolerances of [`Gradients`](crate::reference::Gradients).
#[derive(Clone, Debug, PartialEq)]
pub struct GradientsBound {
    /// Of dx, per element.
    pub dx: Vec<f64>,
    /// Of dgamma, `[C]`.
    pub dgamma: Vec<f64>,
    /// Of dbeta, `[C]`.
    pub dbeta: Vec<f64>,
}

/// Tolerances of the batch statistics of x.
///
/// # Errors
/// As [`reference::statistics`](crate::reference::statistics).
pub fn statistics(x: &[f64], shape: &Shape) -> Result<StatisticsBound> {
    check_len("x", x, shape.elements())?;
    let (mean, var) =
        (0..shape.channels()).map(|c| of_batch(x, shape, c)).map(|found| statistics_errors(&found)).unzip();
    Ok(StatisticsBound { mean, var })
}

/// Tolerances of a training forward, y stored as `dtype`.
///
/// # Errors
/// As [`reference::forward_training`](crate::reference::forward_training).
pub fn forward_training(x: &[f64], shape: &Shape, affine: Affine<'_>, eps: f64, dtype: DType) -> Result<ForwardBound> {
    check_len("x", x, shape.elements())?;
    affine.check(shape.channels())?;
    check_eps(eps)?;
    check_training(shape)?;
    let mut bound =
        ForwardBound { y: vec![0.0; x.len()], statistics: StatisticsBound { mean: Vec::new(), var: Vec::new() } };
    for c in 0..shape.channels() {
        let channel = of_batch(x, shape, c);
        outputs(x, &mut bound.y, shape, c, &channel, affine, eps, dtype);
        let (mean, var) = statistics_errors(&channel);
        bound.statistics.mean.push(mean);
        bound.statistics.var.push(var);
    }
    Ok(bound)
}

/// Tolerances of inference, y stored as `dtype`.
///
/// # Errors
/// As [`reference::inference`](crate::reference::inference).
pub fn inference(
    x: &[f64],
    shape: &Shape,
    running_mean: &[f64],
    running_var: &[f64],
    affine: Affine<'_>,
    eps: f64,
    dtype: DType,
) -> Result<Vec<f64>> {
    check_len("x", x, shape.elements())?;
    check_len("running_mean", running_mean, shape.channels())?;
    check_len("running_var", running_var, shape.channels())?;
    affine.check(shape.channels())?;
    check_eps(eps)?;
    let mut y = vec![0.0; x.len()];
    for c in 0..shape.channels() {
        let channel = Channel::of_running(running_mean[c], running_var[c]);
        outputs(x, &mut y, shape, c, &channel, affine, eps, dtype);
    }
    Ok(y)
}

/// Tolerances of the training gradients, dx stored as `dtype`.
///
/// # Errors
/// As [`reference::backward_training`](crate::reference::backward_training).
pub fn backward_training(
    x: &[f64],
    dy: &[f64],
    shape: &Shape,
    gamma: Option<&[f64]>,
    eps: f64,
    dtype: DType,
) -> Result<GradientsBound> {
    crate::reference::backward::check(x, dy, shape, gamma, eps)?;
    check_training(shape)?;
    Ok(gradients(x, dy, shape, gamma, eps, dtype, |c| of_batch(x, shape, c), true))
}

/// Tolerances of the gradients with frozen statistics, dx stored as `dtype`.
///
/// # Errors
/// As [`reference::backward_frozen`](crate::reference::backward_frozen).
#[allow(clippy::too_many_arguments)] // those of the reference function, and the dtype
pub fn backward_frozen(
    x: &[f64],
    dy: &[f64],
    shape: &Shape,
    running_mean: &[f64],
    running_var: &[f64],
    gamma: Option<&[f64]>,
    eps: f64,
    dtype: DType,
) -> Result<GradientsBound> {
    crate::reference::backward::check(x, dy, shape, gamma, eps)?;
    check_len("running_mean", running_mean, shape.channels())?;
    check_len("running_var", running_var, shape.channels())?;
    let channel = |c| Channel::of_running(running_mean[c], running_var[c]);
    Ok(gradients(x, dy, shape, gamma, eps, dtype, channel, false))
}

fn of_batch(x: &[f64], shape: &Shape, c: usize) -> Channel {
    let pick = |i| x[shape.index(c, i as usize)];
    Channel::of_batch(indices(shape, c).map(|i| x[i]), shape.values_per_channel() as u64, pick)
}

/// Tolerances of a batch's mean and variance.
fn statistics_errors(channel: &Channel) -> (f64, f64) {
    (promise(channel.mean_error()), promise(channel.var_error))
}

/// An error that cannot be told is unbounded.
fn promise(error: f64) -> f64 {
    if error.is_nan() { f64::INFINITY } else { error }
}

/// Adds the storage of a result; unbounded where the result may overflow.
fn stored(value: f64, error: f64, dtype: DType) -> f64 {
    let total = promise(error + dtype.storage_error(value, error));
    if value.abs() + total <= dtype.max() { total } else { f64::INFINITY }
}

/// E(y) of one channel.
#[allow(clippy::too_many_arguments)] // the formula has this many letters
fn outputs(
    x: &[f64],
    y: &mut [f64],
    shape: &Shape,
    c: usize,
    channel: &Channel,
    affine: Affine<'_>,
    eps: f64,
    dtype: DType,
) {
    let (gamma, beta) = (at(affine.gamma, c, 1.0), at(affine.beta, c, 0.0));
    let inv_std = channel.inv_std(eps);
    let (scale, theta) = (gamma * inv_std.value, inv_std.theta);
    for i in indices(shape, c) {
        let (centered, error) = (channel.centered(x[i]), channel.centered_error(x[i]));
        let product = centered * scale;
        let value = product + beta;
        let total = if centered == 0.0 && error == 0.0 {
            0.0 // xc is exactly 0, and y is beta
        } else {
            let product_error = scale.abs() * error * (1.0 + theta) + product.abs() * (theta + 2.0 * U);
            // EPSILON: the oracle rounds too, which shows where the product is tiny beside beta.
            let addition = (U * value.abs()).min(product.abs()) + f64::EPSILON * value.abs();
            product_error + addition + 2.0 * ETA * (1.0 + scale.abs())
        };
        y[i] = stored(value, total, dtype);
    }
}

/// The two sums of a backward pass, over m.
struct Sums {
    dbeta_error: f64,
    dgamma_error: f64,
    /// a and E(a), b and E(b); zero with frozen statistics.
    a: f64,
    a_error: f64,
    b: f64,
    b_error: f64,
}

/// E(S1), E(S2) and what follows from them.
fn sums(x: &[f64], dy: &[f64], shape: &Shape, c: usize, channel: &Channel, inv_std: InvStd) -> Sums {
    let m = shape.values_per_channel() as u64;
    let count = m as f64;
    let rounding = reduction(m);
    let of = |f: &dyn Fn(f64, f64) -> f64| sum(indices(shape, c).map(|i| f(dy[i], x[i])));
    let s1 = of(&|dy, _| dy);
    let s2 = of(&|dy, x| dy * channel.centered(x));
    let absolute = of(&|dy, _| dy.abs());
    let flushed = if absolute == 0.0 { 0.0 } else { count * ETA };
    let products = of(&|dy, x| (dy * channel.centered(x)).abs());
    let s1_error = rounding * absolute + flushed;
    let s2_error = of(&|dy, x| dy.abs() * channel.own_error(x))
        + channel.delta_error * s1.abs()
        + (rounding + U) * products
        + flushed;
    let fits = 4.0 * absolute.max(products) < f64::from(f32::MAX);
    let unless_overflow = |error: f64| if fits { error } else { f64::INFINITY };
    let (value, theta) = (inv_std.value, inv_std.theta);
    let (a, b) = (s1 / count, value * value * s2 / count);
    Sums {
        dbeta_error: promise(unless_overflow(s1_error)),
        dgamma_error: stored(
            value * s2,
            unless_overflow(value * (s2_error * (1.0 + theta) + s2.abs() * (theta + U)) + ETA),
            DType::F32,
        ),
        a,
        a_error: unless_overflow(s1_error / count + 5.0 * U * a.abs()),
        b,
        b_error: unless_overflow(
            value * value * s2_error / count * (1.0 + theta).powi(2) + b.abs() * ((2.0 + theta) * theta + 8.0 * U),
        ),
    }
}

/// Tolerances of all three gradients; `coupled` says that the statistics depend on x.
#[allow(clippy::too_many_arguments)] // the formula has this many letters
fn gradients(
    x: &[f64],
    dy: &[f64],
    shape: &Shape,
    gamma: Option<&[f64]>,
    eps: f64,
    dtype: DType,
    channel: impl Fn(usize) -> Channel,
    coupled: bool,
) -> GradientsBound {
    let mut bound = GradientsBound { dx: vec![0.0; x.len()], dgamma: Vec::new(), dbeta: Vec::new() };
    for c in 0..shape.channels() {
        let channel = channel(c);
        let inv_std = channel.inv_std(eps);
        let sums = sums(x, dy, shape, c, &channel, inv_std);
        let scale = at(gamma, c, 1.0) * inv_std.value;
        for i in indices(shape, c) {
            let (inner, error) = if coupled { coupled_gradient(&channel, &sums, x[i], dy[i]) } else { (dy[i], 0.0) };
            let dx = scale * inner;
            let flushed = if inner == 0.0 && error == 0.0 { 0.0 } else { 2.0 * ETA * (1.0 + scale.abs()) };
            let total = scale.abs() * error * (1.0 + inv_std.theta) + dx.abs() * (inv_std.theta + 2.0 * U) + flushed;
            bound.dx[i] = stored(dx, total, dtype);
        }
        bound.dgamma.push(sums.dgamma_error);
        bound.dbeta.push(sums.dbeta_error);
    }
    bound
}

/// z = dy - a - c b and E(z).
fn coupled_gradient(channel: &Channel, sums: &Sums, x: f64, dy: f64) -> (f64, f64) {
    let centered = channel.centered(x);
    let correction = centered * sums.b;
    let inner = dy - sums.a - correction;
    let error = sums.a_error
        + sums.b.abs() * channel.centered_error(x)
        + centered.abs() * sums.b_error
        + U * (correction.abs() + dy.abs() + sums.a.abs() + inner.abs());
    (inner, error)
}
