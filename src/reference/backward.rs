//! Gradients of x, gamma and beta.

use super::forward::Center;
use super::{at, check_eps, check_len, check_optional_len, check_training, indices, sum};
use crate::error::Result;
use crate::shape::Shape;

/// Gradients of a loss, given dy, its gradient with respect to y.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    /// With respect to x, elements in the order of x.
    pub dx: Vec<f64>,
    /// With respect to gamma, `[C]`: `sum(dy * xhat)`.
    pub dgamma: Vec<f64>,
    /// With respect to beta, `[C]`: `sum(dy)`.
    pub dbeta: Vec<f64>,
}

/// Gradients of [`forward_training`](super::forward_training), where mean and variance depend on x:
/// `dx = gamma * inv_std * (dy - dbeta / m - xhat * dgamma / m)` with `inv_std = 1 / sqrt(var + eps)`,
/// `xhat = (x - mean) * inv_std`, `dgamma = sum(dy * xhat)`, `dbeta = sum(dy)`
/// (Ioffe and Szegedy 2015, section 3, simplified).
///
/// x, dy and dx have [`Shape::elements`] values; gamma (absent: 1), dgamma and dbeta one per channel.
///
/// # Errors
/// [`Error::Mismatch`](crate::Error::Mismatch) for a wrong length,
/// [`Error::Eps`](crate::Error::Eps),
/// [`Error::OneValuePerChannel`](crate::Error::OneValuePerChannel) as in the forward pass.
pub fn backward_training(x: &[f64], dy: &[f64], shape: &Shape, gamma: Option<&[f64]>, eps: f64) -> Result<Gradients> {
    check(x, dy, shape, gamma, eps)?;
    check_training(shape)?;
    let count = shape.values_per_channel() as u64;
    let statistics = |c| {
        let values = indices(shape, c).map(|i| x[i]);
        let center = Center::mean(values.clone(), count);
        (center, center.variance(values, count))
    };
    Ok(gradients(x, dy, shape, gamma, eps, statistics, 1.0 / count as f64))
}

/// Gradients of [`inference`](super::inference), where the running statistics are constants:
/// `dx = gamma * inv_std * dy`; dgamma and dbeta as in [`backward_training`], with the running statistics in xhat.
///
/// Lengths as there; running_mean and running_var have one value per channel.
///
/// # Errors
/// [`Error::Mismatch`](crate::Error::Mismatch) for a wrong length, [`Error::Eps`](crate::Error::Eps).
pub fn backward_frozen(
    x: &[f64],
    dy: &[f64],
    shape: &Shape,
    running_mean: &[f64],
    running_var: &[f64],
    gamma: Option<&[f64]>,
    eps: f64,
) -> Result<Gradients> {
    check(x, dy, shape, gamma, eps)?;
    check_len("running_mean", running_mean, shape.channels())?;
    check_len("running_var", running_var, shape.channels())?;
    Ok(gradients(x, dy, shape, gamma, eps, |c| (Center::at(running_mean[c]), running_var[c]), 0.0))
}

pub(super) fn check(x: &[f64], dy: &[f64], shape: &Shape, gamma: Option<&[f64]>, eps: f64) -> Result<()> {
    check_len("x", x, shape.elements())?;
    check_len("dy", dy, shape.elements())?;
    check_optional_len("gamma", gamma, shape.channels())?;
    check_eps(eps)
}

/// Both gradients: `feedback` is 1/m where the statistics depend on x, and 0 where they do not.
fn gradients(
    x: &[f64],
    dy: &[f64],
    shape: &Shape,
    gamma: Option<&[f64]>,
    eps: f64,
    statistics: impl Fn(usize) -> (Center, f64),
    feedback: f64,
) -> Gradients {
    let mut result = Gradients { dx: vec![0.0; x.len()], dgamma: Vec::new(), dbeta: Vec::new() };
    for c in 0..shape.channels() {
        let (center, var) = statistics(c);
        let inv_std = 1.0 / (var + eps).sqrt();
        let dbeta = sum(indices(shape, c).map(|i| dy[i]));
        let dgamma = sum(indices(shape, c).map(|i| dy[i] * center.centered(x[i]))) * inv_std;
        let scale = at(gamma, c, 1.0) * inv_std;
        for i in indices(shape, c) {
            // A branch, not a product with 0: frozen gradients stay finite where x is not.
            let indirect =
                if feedback == 0.0 { 0.0 } else { feedback * (dbeta + center.centered(x[i]) * inv_std * dgamma) };
            result.dx[i] = scale * (dy[i] - indirect);
        }
        result.dgamma.push(dgamma);
        result.dbeta.push(dbeta);
    }
    result
}
