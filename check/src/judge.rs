//! What a call should have returned, from the float64 reference, and the verdict on what it did return.

use crate::case::{Inputs, Operation};
use crate::run::{Results, batches};
use batchnorm_wgpu::DType;
use batchnorm_wgpu::Result;
use batchnorm_wgpu::reference::bound::{self, Comparison, Execution, StatisticsBound, compare, settle_overflow};
use batchnorm_wgpu::reference::{self, Layer, RunningStatistics, Statistics};
use serde::Serialize;

/// What one output should be.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Name of the output, as in the golden format.
    pub name: &'static str,
    /// The values wanted.
    pub want: Vec<f64>,
    /// How far each may be off.
    pub tolerance: Vec<f64>,
    /// Whether the inputs overflow f32 on the way, so that some tolerances may be infinite.
    pub overflowing: bool,
}

/// The verdict on one output.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Name of the output.
    pub name: &'static str,
    /// Whether every element is within its tolerance.
    pub passed: bool,
    /// Largest error over tolerance.
    pub ratio: f64,
    /// Largest error over largest value wanted.
    pub error_over_max: f64,
    /// The worst element, or what else is wrong, in words.
    pub detail: String,
    /// The worst element; `None` when there is nothing to compare.
    pub worst: Option<Worst>,
}

/// The element with the largest error over tolerance.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Worst {
    /// Its index, in the order of the output's elements.
    pub index: usize,
    /// What the call returned.
    pub got: f64,
    /// What is expected.
    pub want: f64,
    /// Their distance; NaN when one of them is.
    pub error: f64,
    /// How far it may be.
    pub bound: f64,
    /// How many elements are further off than they may be.
    pub failures: usize,
    /// Of how many.
    pub elements: usize,
}

impl From<&Comparison> for Worst {
    fn from(comparison: &Comparison) -> Self {
        Self {
            index: comparison.worst_index,
            got: comparison.worst_got,
            want: comparison.worst_want,
            error: comparison.worst_error,
            bound: comparison.worst_tolerance,
            failures: comparison.failures,
            elements: comparison.elements,
        }
    }
}

impl Expected {
    fn exact(name: &'static str, want: impl Iterator<Item = u64>) -> Self {
        let want: Vec<f64> = want.map(|count| count as f64).collect();
        let tolerance = vec![0.0; want.len()];
        Self::new(name, want, tolerance)
    }

    fn new(name: &'static str, want: Vec<f64>, tolerance: Vec<f64>) -> Self {
        Self { name, want, tolerance, overflowing: false }
    }

    /// Holds what the call returned against it. An output that did not come fails.
    pub fn judge(&self, results: &Results) -> Verdict {
        match self.compare(results) {
            Err(detail) => {
                let ratio = f64::INFINITY;
                Verdict { name: self.name, passed: false, ratio, error_over_max: ratio, detail, worst: None }
            }
            Ok(outcome) => Verdict {
                name: self.name,
                // Where nothing is promised a check would be empty.
                passed: outcome.passed() && (outcome.unbounded == 0 || self.overflowing),
                ratio: outcome.worst_ratio,
                error_over_max: outcome.max_error_over_max,
                detail: outcome.to_string(),
                worst: Some(Worst::from(&outcome)),
            },
        }
    }

    /// Holds what the call returned against it, element by element.
    ///
    /// # Errors
    /// What is wrong, in words, where the output did not come or has another size.
    pub fn compare(&self, results: &Results) -> Result<Comparison, String> {
        let mut got = output(results, self.name).ok_or("the call returned none")?;
        if self.name.ends_with("mean") || self.name.ends_with("var") {
            // Which of NaN and infinity a non-finite batch leads to depends on the order of summation.
            let both = |(got, want): (&mut f64, &f64)| {
                if !got.is_finite() && !want.is_finite() {
                    *got = *want;
                }
            };
            got.iter_mut().zip(&self.want).for_each(both);
        }
        compare(&got, &self.want, &self.tolerance).map_err(|error| error.to_string())
    }
}

/// Where element `index` lies in a tensor of dimensions `dims`.
pub fn position(index: usize, dims: &[usize]) -> Vec<usize> {
    let mut rest = index;
    let mut position: Vec<usize> = dims
        .iter()
        .rev()
        .map(|&dim| {
            let coordinate = rest % dim;
            rest /= dim;
            coordinate
        })
        .collect();
    position.reverse();
    position
}

pub(crate) fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

fn output(results: &Results, name: &str) -> Option<Vec<f64>> {
    let counts = |counts: &Vec<u32>| counts.iter().map(|&count| count.into()).collect();
    let running = results.running.as_ref();
    match name {
        "y" => results.y.as_deref().map(widen),
        "batch_mean" => results.batch_mean.clone(),
        "batch_var" => results.batch_var.as_deref().map(widen),
        "running_mean" => running.map(|running| {
            running.mean.iter().zip(&running.mean_remainder).map(|(&m, &r)| f64::from(m) + f64::from(r)).collect()
        }),
        "running_var" => running.map(|running| widen(&running.var)),
        "num_batches_tracked" => running.map(|running| counts(&running.tracked)),
        "averaged" => running.map(|running| counts(&running.averaged)),
        "skipped" => running.map(|running| counts(&running.skipped)),
        "values" => running.map(|running| running.values.iter().map(|&count| count as f64).collect()),
        "dx" => results.dx.as_deref().map(widen),
        "dresidual" => results.dresidual.as_deref().map(widen),
        "dweight" => results.dgamma.as_deref().map(widen),
        "dbias" => results.dbeta.as_deref().map(widen),
        _ => None,
    }
}

/// Outputs that are stored in the layer's dtype.
pub(crate) const TENSORS: [&str; 3] = ["y", "dx", "dresidual"];

/// The inputs in float64.
pub(crate) struct Wide<'a> {
    pub inputs: &'a Inputs,
    pub x: Vec<f64>,
    pub dy: Vec<f64>,
    residual: Option<Vec<f64>>,
    gamma: Option<Vec<f64>>,
    beta: Option<Vec<f64>>,
    pub running: RunningStatistics,
}

/// Values per channel in the first part of each batch, as [`first_parts`](crate::run::first_parts) tells.
pub type FirstParts = Vec<Option<u64>>;

/// Everything that `operation` returns for `inputs`, with tolerances. `parts` has an entry for each batch of the population
/// for [`Operation::Statistics`], and one for the others.
///
/// # Errors
/// What the reference refuses.
pub fn expected(operation: Operation, inputs: &Inputs, parts: &FirstParts) -> Result<Vec<Expected>> {
    let wide = Wide::new(inputs);
    let execution = &wide.execution(parts.first().copied().flatten());
    let mut expected = match operation {
        Operation::ForwardTraining => forward_training(&wide, execution),
        Operation::Inference => inference(&wide, execution),
        Operation::BackwardTraining => backward(&wide, true, execution),
        Operation::BackwardFrozen => backward(&wide, false, execution),
        Operation::Statistics if parts.len() == 1 => statistics(&wide, execution),
        Operation::Statistics => population(&wide, parts),
    }?;
    // The root of the largest f32 is 1.8e19.
    let overflowing = inputs.x.iter().any(|x| x.is_nan() || x.abs() >= 1e18);
    for expected in &mut expected {
        expected.overflowing = overflowing;
        let dtype = if TENSORS.contains(&expected.name) { inputs.config.dtype } else { DType::F32 };
        settle_overflow(&mut expected.want, &mut expected.tolerance, dtype);
    }
    Ok(expected)
}

impl<'a> Wide<'a> {
    pub fn new(inputs: &'a Inputs) -> Self {
        let running = &inputs.running;
        Self {
            inputs,
            x: widen(&inputs.x),
            dy: widen(&inputs.dy),
            residual: inputs.residual.as_deref().map(widen),
            gamma: inputs.gamma.as_deref().map(widen),
            beta: inputs.beta.as_deref().map(widen),
            running: RunningStatistics {
                mean: running
                    .mean
                    .iter()
                    .zip(&running.mean_remainder)
                    .map(|(&m, &r)| f64::from(m) + f64::from(r))
                    .collect(),
                var: widen(&running.var),
                tracked: running.tracked.iter().map(|&count| count.into()).collect(),
                averaged: running.averaged.iter().map(|&count| count.into()).collect(),
                skipped: running.skipped.iter().map(|&count| count.into()).collect(),
                values: running.values.clone(),
            },
        }
    }

    pub fn layer(&self) -> Layer<'_> {
        Layer {
            gamma: self.gamma.as_deref(),
            beta: self.beta.as_deref(),
            eps: self.inputs.config.eps,
            residual: self.residual.as_deref(),
            activation: self.inputs.config.activation,
        }
    }

    fn execution(&self, first_part: Option<u64>) -> Execution {
        Execution { dtype: self.inputs.config.dtype, in_place: self.inputs.config.in_place, first_part }
    }

    /// Expects NaN in some channels, where the kernels promise it instead of a value that looks sound.
    fn nan_where(&self, is_nan: impl Fn(usize) -> bool, mut expected: Expected) -> Expected {
        let shape = &self.inputs.shape;
        let per_channel = expected.want.len() == shape.channels();
        for channel in (0..shape.channels()).filter(|&channel| is_nan(channel)) {
            let count = if per_channel { 1 } else { shape.values_per_channel() };
            for i in 0..count {
                let index = if per_channel { channel } else { shape.index(channel, i) };
                (expected.want[index], expected.tolerance[index]) = (f64::NAN, 0.0);
            }
        }
        expected
    }
}

/// Whether a channel's sum of squared deviations exceeds f32. Near the limit it would depend on the order of summation; no
/// data of the matrix is near.
pub(crate) fn overflows(statistics: &Statistics, channel: usize) -> bool {
    statistics.var[channel] * statistics.count as f64 > f32::MAX.into()
}

fn forward_training(wide: &Wide<'_>, execution: &Execution) -> Result<Vec<Expected>> {
    let shape = &wide.inputs.shape;
    let want = reference::forward_training(&wide.x, shape, &wide.layer())?;
    let bound = bound::forward_training(&wide.x, shape, &wide.layer(), execution)?;
    let y = Expected::new("y", want.y, bound.y);
    let mut expected = vec![wide.nan_where(|channel| overflows(&want.statistics, channel), y)];
    expected.extend(one_batch(wide, want.statistics, bound.statistics)?);
    Ok(expected)
}

/// The statistics of a batch, and the running statistics behind it.
fn one_batch(wide: &Wide<'_>, statistics: Statistics, bound: StatisticsBound) -> Result<Vec<Expected>> {
    let Inputs { shape, config, .. } = wide.inputs;
    let overflowing: Vec<usize> = (0..shape.channels()).filter(|&channel| overflows(&statistics, channel)).collect();
    let batch = finite_in_f32(statistics);
    let mut var = Expected::new("batch_var", batch.var.clone(), bound.var.clone());
    overflowing.into_iter().for_each(|channel| var.tolerance[channel] = 0.0);
    let mean = Expected::new("batch_mean", batch.mean.clone(), bound.mean_pair.clone());
    let exact = StatisticsBound::exact(shape.channels());
    let tolerance = bound::running(&wide.running, &exact, &batch, &bound, &config.running)?;
    let mut running = wide.running.clone();
    running.update(&batch, &config.running)?;
    let mut expected = vec![mean, var];
    expected.extend(expected_running(running, tolerance));
    Ok(expected)
}

fn expected_running(running: RunningStatistics, tolerance: StatisticsBound) -> Vec<Expected> {
    // Counts of batches stay at the largest that their word holds.
    let batches = |counts: Vec<u64>| counts.into_iter().map(|count| count.min(u32::MAX.into()));
    vec![
        Expected::new("running_mean", running.mean, tolerance.mean_pair),
        Expected::new("running_var", running.var, tolerance.var),
        Expected::exact("num_batches_tracked", batches(running.tracked)),
        Expected::exact("averaged", batches(running.averaged)),
        Expected::exact("skipped", batches(running.skipped)),
        Expected::exact("values", running.values.into_iter()),
    ]
}

fn inference(wide: &Wide<'_>, execution: &Execution) -> Result<Vec<Expected>> {
    let shape = &wide.inputs.shape;
    let (mean, var) = (&wide.running.mean, &wide.running.var);
    let want = reference::inference(&wide.x, shape, mean, var, &wide.layer())?;
    let tolerance = bound::inference(&wide.x, shape, mean, var, &wide.layer(), execution)?;
    Ok(vec![Expected::new("y", want, tolerance)])
}

fn backward(wide: &Wide<'_>, training: bool, execution: &Execution) -> Result<Vec<Expected>> {
    let shape = &wide.inputs.shape;
    let (x, dy, layer) = (&wide.x, &wide.dy, &wide.layer());
    let (mean, var) = (&wide.running.mean, &wide.running.var);
    let (want, bound) = match training {
        true => (
            reference::backward_training(x, dy, shape, layer)?,
            bound::backward_training(x, dy, shape, layer, execution)?,
        ),
        false => (
            reference::backward_frozen(x, dy, shape, mean, var, layer)?,
            bound::backward_frozen(x, dy, shape, mean, var, layer, execution)?,
        ),
    };
    let mut expected = vec![
        Expected::new("dx", want.dx, bound.dx),
        Expected::new("dweight", want.dgamma, bound.dgamma),
        Expected::new("dbias", want.dbeta, bound.dbeta),
    ];
    if wide.residual.is_some() {
        expected.push(Expected::new("dresidual", want.dresidual, bound.dresidual));
    }
    let statistics = reference::statistics(x, shape)?;
    let overflows = |channel| training && overflows(&statistics, channel);
    // From y there is no way back to x where gamma is 0.
    let x_is_lost = |channel: usize| execution.in_place && layer.gamma.is_some_and(|gamma| gamma[channel] == 0.0);
    let affected = |expected: Expected| match expected.name {
        // Without an activation to see through, they do not depend on x.
        "dbias" | "dresidual" => expected,
        "dx" if !training => expected,
        _ => wide.nan_where(|channel| overflows(channel) || x_is_lost(channel), expected),
    };
    Ok(expected.into_iter().map(affected).collect())
}

fn statistics(wide: &Wide<'_>, execution: &Execution) -> Result<Vec<Expected>> {
    let shape = &wide.inputs.shape;
    one_batch(wide, reference::statistics(&wide.x, shape)?, bound::statistics(&wide.x, shape, execution)?)
}

/// The statistics of the concatenation of all batches, within what streaming them batch by batch may add up to. A channel
/// with a batch that is not finite has those of its other batches.
fn population(wide: &Wide<'_>, parts: &FirstParts) -> Result<Vec<Expected>> {
    let Inputs { shape, config, .. } = wide.inputs;
    let mut streamed = wide.running.clone();
    let mut tolerance = StatisticsBound::exact(shape.channels());
    let mut rest = wide.x.as_slice();
    for (batch, &part) in batches(shape)?.into_iter().zip(parts) {
        let (x, behind) = rest.split_at(batch.elements());
        rest = behind;
        let statistics = finite_in_f32(reference::statistics(x, &batch)?);
        let bound = bound::statistics(x, &batch, &wide.execution(part))?;
        tolerance = bound::running(&streamed, &tolerance, &statistics, &bound, &config.running)?;
        streamed.update(&statistics, &config.running)?;
    }
    let mut whole = wide.running.clone();
    whole.update(&reference::statistics(&wide.x, shape)?, &config.running)?;
    for channel in (0..shape.channels()).filter(|&channel| streamed.skipped[channel] == 0) {
        streamed.mean[channel] = whole.mean[channel];
        streamed.var[channel] = whole.var[channel];
    }
    Ok(expected_running(streamed, tolerance))
}

/// The statistics with the variances that no f32 holds made infinite, as the kernels see them.
fn finite_in_f32(mut statistics: Statistics) -> Statistics {
    for channel in 0..statistics.var.len() {
        if overflows(&statistics, channel) {
            statistics.var[channel] = f64::INFINITY;
        }
    }
    statistics
}

#[cfg(test)]
mod tests {
    use super::position;

    #[test]
    fn finds_an_element() {
        assert_eq!(position(17, &[2, 3, 4]), [1, 1, 1]);
        assert_eq!(position(5, &[6]), [5]);
        assert_eq!(position(0, &[]), [0; 0]);
    }
}
