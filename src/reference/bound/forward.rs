//! Tolerances of outputs and statistics. Symbols as in the documentation of the [parent](super).

use super::channel::Channel;
use super::normalization::Normalization;
use super::{Execution, promise};
use crate::error::Result;
use crate::reference::{Layer, check_len, indices};
use crate::shape::Shape;

/// Absolute tolerances of [`Statistics`](crate::reference::Statistics) or of running statistics.
#[derive(Clone, Debug, PartialEq)]
pub struct StatisticsBound {
    /// Of the mean as one f32, `[C]`.
    pub mean: Vec<f64>,
    /// Of the mean as two f32 whose sum it is, which the kernels keep, `[C]`.
    pub mean_pair: Vec<f64>,
    /// Of the variance, `[C]`.
    pub var: Vec<f64>,
}

impl StatisticsBound {
    /// No error at all: given statistics, or the initial running ones.
    pub fn exact(channels: usize) -> Self {
        let zeros = vec![0.0; channels];
        Self { mean: zeros.clone(), mean_pair: zeros.clone(), var: zeros }
    }

    /// Adds the tolerances of a batch's next channel.
    fn push(&mut self, channel: &Channel) {
        self.mean.push(promise(channel.mean_error()));
        self.mean_pair.push(promise(channel.mean_pair_error()));
        self.var.push(promise(channel.var_error));
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

/// Tolerances of the batch statistics of x.
///
/// # Errors
/// As [`reference::statistics`](crate::reference::statistics).
pub fn statistics(x: &[f64], shape: &Shape, execution: &Execution) -> Result<StatisticsBound> {
    check_len("x", x, shape.elements())?;
    let mut bound = StatisticsBound::exact(0);
    (0..shape.channels()).for_each(|c| bound.push(&of_batch(x, shape, c, execution)));
    Ok(bound)
}

/// The channels of x whose sum of squared deviations exceeds f32 for certain, though float64 has it: kernels find an infinite
/// variance or NaN there, and give NaN for what depends on it.
///
/// That is so where the standard deviation is beyond about 1.8e19 / sqrt(m), m being the values per channel. A little below it
/// is open, and the tolerances are infinite.
///
/// # Errors
/// As [`reference::statistics`](crate::reference::statistics).
///
/// ```
/// use batchnorm_wgpu::reference::bound::{Execution, overflows};
/// use batchnorm_wgpu::{Layout, Shape};
/// let shape = Shape::new(&[4, 2], Layout::ChannelsFirst)?;
/// let x = [1e18, 2e19, -1e18, -2e19, 1e18, 2e19, -1e18, -2e19];
/// assert_eq!(overflows(&x, &shape, &Execution::default())?, [false, true]);
/// # Ok::<(), batchnorm_wgpu::Error>(())
/// ```
pub fn overflows(x: &[f64], shape: &Shape, execution: &Execution) -> Result<Vec<bool>> {
    check_len("x", x, shape.elements())?;
    Ok((0..shape.channels()).map(|c| of_batch(x, shape, c, execution).overflows).collect())
}

/// Tolerances of a training forward.
///
/// # Errors
/// As [`reference::forward_training`](crate::reference::forward_training), and
/// [`Error::Mismatch`](crate::Error::Mismatch) for a layer that cannot run in place.
pub fn forward_training(x: &[f64], shape: &Shape, layer: &Layer<'_>, execution: &Execution) -> Result<ForwardBound> {
    check_len("x", x, shape.elements())?;
    layer.check(shape)?;
    execution.check(layer)?;
    shape.check_trainable()?;
    let mut bound = ForwardBound { y: vec![0.0; x.len()], statistics: StatisticsBound::exact(0) };
    for c in 0..shape.channels() {
        let channel = of_batch(x, shape, c, execution);
        outputs(x, &mut bound.y, shape, c, &Normalization::new(channel, c, layer, execution));
        bound.statistics.push(&channel);
    }
    Ok(bound)
}

/// Tolerances of inference.
///
/// # Errors
/// As [`reference::inference`](crate::reference::inference).
pub fn inference(
    x: &[f64],
    shape: &Shape,
    running_mean: &[f64],
    running_var: &[f64],
    layer: &Layer<'_>,
    execution: &Execution,
) -> Result<Vec<f64>> {
    check_len("x", x, shape.elements())?;
    check_len("running_mean", running_mean, shape.channels())?;
    check_len("running_var", running_var, shape.channels())?;
    layer.check(shape)?;
    let mut y = vec![0.0; x.len()];
    for c in 0..shape.channels() {
        let channel = Channel::of_running(running_mean[c], running_var[c]);
        outputs(x, &mut y, shape, c, &Normalization::new(channel, c, layer, execution));
    }
    Ok(y)
}

/// What a kernel finds of the batch's channel `c`.
pub(super) fn of_batch(x: &[f64], shape: &Shape, c: usize, execution: &Execution) -> Channel {
    let pick = |i| x[shape.index(c, i as usize)];
    let count = shape.elements_per_channel() as u64;
    let first_part = execution.first_part.unwrap_or(count).clamp(1, count);
    Channel::of_batch(indices(shape, c).map(|i| x[i]), count, first_part, pick)
}

/// E(y) of one channel.
fn outputs(x: &[f64], y: &mut [f64], shape: &Shape, c: usize, normalization: &Normalization<'_>) {
    for i in indices(shape, c) {
        y[i] = normalization.output_error(i, x[i]);
    }
}
