//! Gradients of x, gamma, beta and the residual.

use super::forward::Center;
use super::{Layer, check_len, indices, sum};
use crate::error::Result;
use crate::shape::Shape;

/// Gradients of a loss, given dy, its gradient with respect to y.
///
/// dz is dy times the derivative of the activation at z: without an activation dy itself, for ReLU 0 where `z <= 0` and dy
/// elsewhere, where a NaN z counts as elsewhere. Where the activations have a corner, their derivative is PyTorch's
/// ([`Activation`](crate::Activation)).
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    /// With respect to x, elements in the order of x.
    pub dx: Vec<f64>,
    /// With respect to gamma, `[C]`: `sum(dz * xhat)`.
    pub dgamma: Vec<f64>,
    /// With respect to beta, `[C]`: `sum(dz)`.
    pub dbeta: Vec<f64>,
    /// With respect to the residual, elements in the order of x: dz, whether or not there is a residual.
    pub dresidual: Vec<f64>,
}

/// Gradients of [`forward_training`](super::forward_training), where mean and variance depend on x:
/// `dx = gamma * inv_std * (dz - dbeta / m - xhat * dgamma / m)` with `inv_std = 1 / sqrt(var + eps)`,
/// `xhat = (x - mean) * inv_std`, `dgamma = sum(dz * xhat)`, `dbeta = sum(dz)`
/// (Ioffe and Szegedy 2015, section 3, simplified), and `dz = dy * act'(gamma * xhat + beta + residual)`.
///
/// x, dy, dx, the residual and dresidual have [`Shape::elements`] values; gamma (absent: 1), beta (absent: 0), dgamma
/// and dbeta one per channel.
///
/// # Errors
/// [`Error::Mismatch`](crate::Error::Mismatch) for a wrong length,
/// [`Error::Eps`](crate::Error::Eps), [`Error::NegativeSlope`](crate::Error::NegativeSlope),
/// [`Error::OneValuePerChannel`](crate::Error::OneValuePerChannel) as in the forward pass.
pub fn backward_training(x: &[f64], dy: &[f64], shape: &Shape, layer: &Layer<'_>) -> Result<Gradients> {
    check(x, dy, shape, layer)?;
    shape.check_trainable()?;
    let count = shape.elements_per_channel() as u64;
    let statistics = |c| {
        let values = indices(shape, c).map(|i| x[i]);
        let center = Center::mean(values.clone(), count);
        (center, center.variance(values, count))
    };
    Ok(gradients(x, dy, shape, layer, statistics, 1.0 / count as f64))
}

/// Gradients of [`inference`](super::inference), where the running statistics are constants:
/// `dx = gamma * inv_std * dz`; the others as in [`backward_training`], with the running statistics in xhat.
///
/// Lengths as there; running_mean and running_var have one value per channel.
///
/// # Errors
/// [`Error::Mismatch`](crate::Error::Mismatch) for a wrong length, [`Error::Eps`](crate::Error::Eps), [`Error::NegativeSlope`](crate::Error::NegativeSlope).
pub fn backward_frozen(
    x: &[f64],
    dy: &[f64],
    shape: &Shape,
    running_mean: &[f64],
    running_var: &[f64],
    layer: &Layer<'_>,
) -> Result<Gradients> {
    check(x, dy, shape, layer)?;
    check_len("running_mean", running_mean, shape.channels())?;
    check_len("running_var", running_var, shape.channels())?;
    Ok(gradients(x, dy, shape, layer, |c| (Center::at(running_mean[c]), running_var[c]), 0.0))
}

pub(super) fn check(x: &[f64], dy: &[f64], shape: &Shape, layer: &Layer<'_>) -> Result<()> {
    check_len("x", x, shape.elements())?;
    check_len("dy", dy, shape.elements())?;
    layer.check(shape)
}

/// All gradients: `feedback` is 1/m where the statistics depend on x, and 0 where they do not.
fn gradients(
    x: &[f64],
    dy: &[f64],
    shape: &Shape,
    layer: &Layer<'_>,
    statistics: impl Fn(usize) -> (Center, f64),
    feedback: f64,
) -> Gradients {
    let zeros = vec![0.0; x.len()];
    let mut result = Gradients { dx: zeros.clone(), dgamma: Vec::new(), dbeta: Vec::new(), dresidual: zeros };
    for c in 0..shape.channels() {
        let (center, var) = statistics(c);
        let (inv_std, scale) = (1.0 / (var + layer.eps).sqrt(), layer.scale(c, var));
        let dz = &mut result.dresidual;
        for i in indices(shape, c) {
            let z = layer.preactivation(c, i, center.centered(x[i]) * scale);
            dz[i] = layer.through_activation(z, dy[i]);
        }
        let dbeta = sum(indices(shape, c).map(|i| dz[i]));
        let dgamma = sum(indices(shape, c).map(|i| dz[i] * center.centered(x[i]))) * inv_std;
        for i in indices(shape, c) {
            // A branch, not a product with 0: frozen gradients stay finite where x is not.
            let indirect =
                if feedback == 0.0 { 0.0 } else { feedback * (dbeta + center.centered(x[i]) * inv_std * dgamma) };
            result.dx[i] = scale * (dz[i] - indirect);
        }
        result.dgamma.push(dgamma);
        result.dbeta.push(dbeta);
    }
    result
}
