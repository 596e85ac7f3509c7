//! Statistics, training forward, inference.

use super::{Layer, check_len, indices, sum};
use crate::error::Result;
use crate::shape::Shape;

/// Statistics of a batch, one entry per channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// Mean of the channel's values, `[C]`.
    pub mean: Vec<f64>,
    /// Biased variance, the mean squared deviation, `[C]`.
    pub var: Vec<f64>,
    /// m, the number of values per channel.
    pub count: u64,
}

/// What a training forward computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    /// What the layer gives, elements in the order of x.
    pub y: Vec<f64>,
    /// The statistics that it was normalized with.
    pub statistics: Statistics,
}

/// A channel's centre, kept as two summands so that values far from zero are centred without loss.
///
/// `(x - shift) - remainder` is `x - mean`; a constant channel has it exactly 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Center {
    pub shift: f64,
    pub remainder: f64,
}

impl Center {
    /// The centre at a given mean.
    pub fn at(mean: f64) -> Self {
        Self { shift: mean, remainder: 0.0 }
    }

    /// The mean of `values`: a finite one of them, plus the mean distance from it.
    pub fn mean(values: impl Iterator<Item = f64> + Clone, count: u64) -> Self {
        let shift = values.clone().next().filter(|first| first.is_finite()).unwrap_or(0.0);
        Self { shift, remainder: sum(values.map(|x| x - shift)) / count as f64 }
    }

    /// `x - mean`.
    pub fn centered(&self, x: f64) -> f64 {
        (x - self.shift) - self.remainder
    }

    /// The centre as one number.
    pub fn value(&self) -> f64 {
        self.shift + self.remainder
    }

    /// Biased variance about this centre, by the corrected two-pass formula (Chan, Golub and LeVeque 1983).
    pub fn variance(&self, values: impl Iterator<Item = f64> + Clone, count: u64) -> f64 {
        let deviations = values.map(|x| self.centered(x));
        let squares = sum(deviations.clone().map(|c| c * c));
        let residue = sum(deviations);
        // max() would turn a NaN into 0.
        let corrected = (squares - residue * residue / count as f64) / count as f64;
        if corrected < 0.0 { 0.0 } else { corrected }
    }
}

/// Mean and biased variance of every channel of x: `mean = sum(x) / m`, `var = sum((x - mean)^2) / m`
/// (Ioffe and Szegedy 2015, algorithm 1).
///
/// Two passes about a shift with compensated sums. x has [`Shape::elements`] values. One value per channel is allowed
/// and has variance 0. NaN or infinity among a channel's values gives the mean that IEEE 754 gives and a NaN variance.
///
/// # Errors
/// [`Error::Mismatch`](crate::Error::Mismatch) when x does not have the shape's number of elements.
pub fn statistics(x: &[f64], shape: &Shape) -> Result<Statistics> {
    check_len("x", x, shape.elements())?;
    let count = shape.elements_per_channel() as u64;
    let channel = |c| {
        let values = indices(shape, c).map(|i| x[i]);
        let center = Center::mean(values.clone(), count);
        (center.value(), center.variance(values, count))
    };
    let (mean, var) = (0..shape.channels()).map(channel).unzip();
    Ok(Statistics { mean, var, count })
}

/// `y = act((x - mean) / sqrt(var + eps) * gamma + beta + residual)` with the statistics of the batch
/// (Ioffe and Szegedy 2015, algorithm 1; the residual and the activation as in He et al. 2016, figure 2).
///
/// x, y and the residual have [`Shape::elements`] values; gamma and beta one per channel.
///
/// # Errors
/// [`Error::Mismatch`](crate::Error::Mismatch) for a wrong length,
/// [`Error::Eps`](crate::Error::Eps), [`Error::NegativeSlope`](crate::Error::NegativeSlope),
/// [`Error::OneValuePerChannel`](crate::Error::OneValuePerChannel) when there is no variance to normalize with.
pub fn forward_training(x: &[f64], shape: &Shape, layer: &Layer<'_>) -> Result<Forward> {
    check_len("x", x, shape.elements())?;
    layer.check(shape)?;
    shape.check_trainable()?;
    let count = shape.elements_per_channel() as u64;
    let mut y = vec![0.0; x.len()];
    let mut statistics = Statistics { mean: Vec::new(), var: Vec::new(), count };
    for c in 0..shape.channels() {
        let values = indices(shape, c).map(|i| x[i]);
        let center = Center::mean(values.clone(), count);
        let var = center.variance(values, count);
        normalize(x, &mut y, shape, c, center, var, layer);
        statistics.mean.push(center.value());
        statistics.var.push(var);
    }
    Ok(Forward { y, statistics })
}

/// `y = act((x - running_mean) / sqrt(running_var + eps) * gamma + beta + residual)`
/// (Ioffe and Szegedy 2015, algorithm 2).
///
/// x, y and the residual have [`Shape::elements`] values; the other arrays one per channel.
///
/// # Errors
/// [`Error::Mismatch`](crate::Error::Mismatch) for a wrong length, [`Error::Eps`](crate::Error::Eps), [`Error::NegativeSlope`](crate::Error::NegativeSlope).
pub fn inference(
    x: &[f64],
    shape: &Shape,
    running_mean: &[f64],
    running_var: &[f64],
    layer: &Layer<'_>,
) -> Result<Vec<f64>> {
    check_len("x", x, shape.elements())?;
    check_len("running_mean", running_mean, shape.channels())?;
    check_len("running_var", running_var, shape.channels())?;
    layer.check(shape)?;
    let mut y = vec![0.0; x.len()];
    for c in 0..shape.channels() {
        normalize(x, &mut y, shape, c, Center::at(running_mean[c]), running_var[c], layer);
    }
    Ok(y)
}

/// Writes one channel of y.
fn normalize(x: &[f64], y: &mut [f64], shape: &Shape, channel: usize, center: Center, var: f64, layer: &Layer<'_>) {
    let scale = layer.scale(channel, var);
    for i in indices(shape, channel) {
        y[i] = layer.activated(layer.preactivation(channel, i, center.centered(x[i]) * scale));
    }
}
