//! Tolerances of gradients. Symbols as in the documentation of the [parent](super).

use super::activation::Gradient;
use super::channel::{Channel, InvStd};
use super::dtype::stored;
use super::forward::of_batch;
use super::normalization::Normalization;
use super::{DType, ETA, Execution, U, Uncertain, fits, flushed, promise, reduction};
use crate::error::Result;
use crate::reference::backward::check;
use crate::reference::{Layer, check_len, indices, sum};
use crate::shape::Shape;

/// Absolute tolerances of [`Gradients`](crate::reference::Gradients).
#[derive(Clone, Debug, PartialEq)]
pub struct GradientsBound {
    /// Of dx, per element.
    pub dx: Vec<f64>,
    /// Of dgamma, `[C]`.
    pub dgamma: Vec<f64>,
    /// Of dbeta, `[C]`.
    pub dbeta: Vec<f64>,
    /// Of dresidual, per element: where it is dy or 0, 0 but for elements whose z a kernel may see on the other side of a corner.
    pub dresidual: Vec<f64>,
}

/// Tolerances of the training gradients.
///
/// # Errors
/// As [`reference::backward_training`](crate::reference::backward_training), and
/// [`Error::Mismatch`](crate::Error::Mismatch) for a layer that cannot run in place.
pub fn backward_training(
    x: &[f64],
    dy: &[f64],
    shape: &Shape,
    layer: &Layer<'_>,
    execution: &Execution,
) -> Result<GradientsBound> {
    check(x, dy, shape, layer)?;
    execution.check(layer)?;
    shape.check_trainable()?;
    let pass = Pass { x, dy, shape, layer, execution, coupled: true };
    Ok(pass.gradients(|c| of_batch(x, shape, c, execution)))
}

/// Tolerances of the gradients with frozen statistics.
///
/// # Errors
/// As [`reference::backward_frozen`](crate::reference::backward_frozen), and
/// [`Error::Mismatch`](crate::Error::Mismatch) for a layer that cannot run in place.
pub fn backward_frozen(
    x: &[f64],
    dy: &[f64],
    shape: &Shape,
    running_mean: &[f64],
    running_var: &[f64],
    layer: &Layer<'_>,
    execution: &Execution,
) -> Result<GradientsBound> {
    check(x, dy, shape, layer)?;
    execution.check(layer)?;
    check_len("running_mean", running_mean, shape.channels())?;
    check_len("running_var", running_var, shape.channels())?;
    let pass = Pass { x, dy, shape, layer, execution, coupled: false };
    Ok(pass.gradients(|c| Channel::of_running(running_mean[c], running_var[c])))
}

/// Adds a gradient to what was there before: `want` becomes `before + want`, and `tolerance` that of the sum as `dtype` stores
/// it. The sum is taken in f32, so that besides the gradient's own error it errs by half an ulp; then it is stored.
///
/// All three have the gradient's length; its tolerance is one before storage ([`Execution::adds`]). `before` has values of the
/// dtype.
///
/// ```
/// use batchnorm_wgpu::reference::bound::{DType, add_to};
/// let (mut want, mut tolerance) = ([0.5, 3.0], [1e-7, 1e-7]);
/// add_to(&[2.0, -3.0], &mut want, &mut tolerance, DType::F32);
/// assert_eq!(want, [2.5, 0.0]);
/// assert!(tolerance[0] > 2.4e-7 && tolerance[0] < 2.6e-7 && tolerance[1] < 1.1e-7);
/// ```
pub fn add_to(before: &[f64], want: &mut [f64], tolerance: &mut [f64], dtype: DType) {
    for ((want, tolerance), before) in want.iter_mut().zip(tolerance).zip(before) {
        // A subnormal may be flushed before the addition.
        let own = *tolerance + flushed(*before, 0.0);
        let sum = before + *want;
        let rounded = own * (1.0 + U) + U * sum.abs();
        (*want, *tolerance) = (sum, stored(sum, rounded + flushed(sum, rounded), dtype));
    }
}

/// A backward pass.
struct Pass<'a> {
    x: &'a [f64],
    dy: &'a [f64],
    shape: &'a Shape,
    layer: &'a Layer<'a>,
    execution: &'a Execution,
    /// Whether the statistics depend on x.
    coupled: bool,
}

/// What an element enters the gradients with.
struct Term {
    /// dz, and what it may be off by: |dy| where a mask is in doubt.
    dz: Uncertain,
    /// The largest |dz| that a kernel may take.
    magnitude: f64,
    /// c.
    centered: f64,
    /// What a kernel's centred value errs by, apart from E(r).
    own_error: f64,
}

impl Pass<'_> {
    fn gradients(&self, channel: impl Fn(usize) -> Channel) -> GradientsBound {
        let zeros = vec![0.0; self.x.len()];
        let mut bound = GradientsBound { dx: zeros.clone(), dgamma: Vec::new(), dbeta: Vec::new(), dresidual: zeros };
        for c in 0..self.shape.channels() {
            let normalization = Normalization::new(channel(c), c, self.layer, self.execution);
            let terms: Vec<_> = indices(self.shape, c).map(|i| self.term(i, &normalization)).collect();
            let sums = Sums::new(&terms, normalization.channel.delta_error, normalization.inv_std);
            for (i, term) in indices(self.shape, c).zip(&terms) {
                bound.dx[i] = self.input_error(term, &sums, &normalization);
                bound.dresidual[i] = self.residual_error(term);
            }
            bound.dgamma.push(sums.dgamma_error);
            bound.dbeta.push(sums.dbeta_error);
        }
        bound
    }

    fn term(&self, i: usize, normalization: &Normalization<'_>) -> Term {
        let (x, channel) = (self.x[i], &normalization.channel);
        let Gradient { dz, magnitude } = normalization.gradient(i, x, self.dy[i]);
        Term {
            dz,
            magnitude,
            centered: channel.centered(x),
            own_error: if self.execution.in_place { normalization.recovered_error(x) } else { channel.own_error(x) },
        }
    }

    /// E(dresidual) of an element: dy, or 0, which its type holds, or a product that is rounded to it.
    fn residual_error(&self, term: &Term) -> f64 {
        let dz = term.frozen();
        if self.layer.activation.is_mask() { dz.error } else { stored(dz.value, dz.error, self.execution.dtype) }
    }

    /// E(dx) of an element.
    fn input_error(&self, term: &Term, sums: &Sums, normalization: &Normalization<'_>) -> f64 {
        let inner = if self.coupled { term.coupled(sums, normalization.channel.delta_error) } else { term.frozen() };
        let dx = normalization.scale * inner.value;
        let (scale, theta) = (normalization.scale_at_most(), normalization.inv_std.theta);
        let error = scale * inner.error
            + dx.abs() * (theta + 2.0 * U)
            + normalization.scale_flushed * (inner.value.abs() + inner.error);
        stored(dx, error + flushed(dx, error), self.execution.stored_gradient())
    }
}

impl Term {
    /// dz and its error, as a frozen pass takes it: a subnormal may be flushed.
    fn frozen(&self) -> Uncertain {
        Uncertain { value: self.dz.value, error: promise(self.dz.error + flushed(self.magnitude, 0.0)) }
    }

    /// dz - a - c b and its error.
    fn coupled(&self, sums: &Sums, delta_error: f64) -> Uncertain {
        let (a, b) = (sums.a, sums.b);
        let error = self.own_error + delta_error;
        let correction = self.centered * b.value;
        let value = self.dz.value - a.value - correction;
        let inherited = self.dz.error + a.error + b.value.abs() * error + (self.centered.abs() + error) * b.error;
        let terms = correction.abs() + self.magnitude + a.value.abs();
        // dz, the product and the two differences.
        let flushed = if terms + inherited == 0.0 { 0.0 } else { 4.0 * ETA };
        let error = inherited * (1.0 + 4.0 * U) + U * (terms + value.abs()) + flushed;
        Uncertain { value, error: if fits(terms + inherited) { error } else { f64::INFINITY } }
    }
}

/// The two sums of a backward pass.
struct Sums {
    dbeta_error: f64,
    dgamma_error: f64,
    /// S1/m.
    a: Uncertain,
    /// inv_std^2 S2/m.
    b: Uncertain,
}

impl Sums {
    /// E(S1), E(S2) and what follows from them.
    fn new(terms: &[Term], delta_error: f64, inv_std: InvStd) -> Self {
        let count = terms.len() as f64;
        let rounding = reduction(terms.len() as u64);
        let of = |f: &dyn Fn(&Term) -> f64| sum(terms.iter().map(f));
        let (s1, s2) = (of(&|term| term.dz.value), of(&|term| term.dz.value * term.centered));
        let absolute = of(&|term| term.magnitude);
        let products = of(&|term| term.magnitude * term.centered.abs());
        let doubt = of(&|term| term.dz.error);
        let own = of(&|term| term.magnitude * term.own_error);
        let terms_flushed = |share: f64| if absolute == 0.0 { 0.0 } else { share * ETA };
        let s1_error = rounding * absolute + doubt + terms_flushed(2.0 * count);
        let s2_error = own
            + delta_error * (s1.abs() + doubt)
            + (rounding + U) * products
            + of(&|term| term.dz.error * term.centered.abs())
            + terms_flushed(of(&|term| 2.0 + term.centered.abs() + term.own_error + delta_error));
        let bounded = |fits: bool, error: f64| promise(if fits { error } else { f64::INFINITY });
        let s1_error = bounded(fits(4.0 * absolute), s1_error);
        let s2_error = bounded(fits(4.0 * (products + own)), s2_error);
        let (value, theta) = (inv_std.value, inv_std.theta);
        let dgamma_error = value * (s2_error * (1.0 + theta) * (1.0 + 2.0 * U) + s2.abs() * (theta + U)) + ETA;
        let dgamma_error = stored(value * s2, dgamma_error, DType::F32);
        let (a, b) = (s1 / count, value * value * s2 / count);
        let b_error = value * value * s2_error / count * (1.0 + theta).powi(2) * (1.0 + 8.0 * U)
            + b.abs() * ((2.0 + theta) * theta + 8.0 * U);
        // inv_std (dgamma / m).
        let dgamma = value * s2;
        let factor_flushed = flushed(dgamma, dgamma_error) / count + flushed(dgamma / count, dgamma_error / count);
        let b_error = b_error + value * (1.0 + theta) * factor_flushed;
        let b_error = b_error + flushed(b, b_error);
        let a_error = s1_error / count * (1.0 + 5.0 * U) + 5.0 * U * a.abs();
        // A kernel takes b from dgamma.
        let b_fits = dgamma_error.is_finite() && fits(b.abs() + b_error);
        Self {
            dbeta_error: s1_error,
            dgamma_error,
            a: Uncertain { value: a, error: a_error + flushed(a, a_error) },
            b: Uncertain { value: b, error: bounded(b_fits, b_error) },
        }
    }
}
