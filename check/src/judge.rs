//! What a call should have returned, from the float64 reference, and the verdict on what it did return.

use crate::case::{Before, Inputs, Operation};
use crate::run::{Results, batches};
use batchnorm_wgpu::reference::bound::{
    self, Comparison, Element, Execution, StatisticsBound, compare, settle_overflow,
};
use batchnorm_wgpu::reference::{self, Layer, RunningStatistics, Statistics};
use batchnorm_wgpu::{Activation, Config, DType, Result};
use serde::Serialize;
use std::collections::BTreeMap;

/// What one output should be.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Name of the output, as in the golden format.
    pub name: &'static str,
    /// The values wanted.
    pub want: Vec<f64>,
    /// How far each may be off.
    pub tolerance: Vec<f64>,
    /// What the kernels promise of some elements in place of the value wanted, by index: NaN, an infinite variance, running
    /// statistics as they were. Something on the way to these does not fit f32.
    pub instead: BTreeMap<usize, f64>,
    /// Whether elements may come as NaN or infinity in place of the value wanted, or have no tolerance: the inputs are made
    /// for that.
    pub may_exceed: bool,
}

/// The verdict on one output.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Name of the output.
    pub name: &'static str,
    /// Whether every element is within its tolerance, or is not representable where that is expected.
    pub passed: bool,
    /// Number of elements that are NaN or infinite, or stayed as they were, where float64 has another number.
    pub unrepresentable: usize,
    /// Largest error over tolerance.
    pub ratio: f64,
    /// Largest error over largest value wanted; infinite where an element fails that is NaN or infinite.
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

impl Worst {
    fn of(comparison: &Comparison) -> Option<Self> {
        let Element { index, got, want } = comparison.worst()?;
        let Comparison { worst_error: error, worst_tolerance: bound, failures, elements, .. } = *comparison;
        Some(Self { index, got, want, error, bound, failures, elements })
    }
}

impl Expected {
    fn exact(name: &'static str, want: impl Iterator<Item = u64>) -> Self {
        let want: Vec<f64> = want.map(|count| count as f64).collect();
        let tolerance = vec![0.0; want.len()];
        Self::new(name, want, tolerance)
    }

    fn new(name: &'static str, want: Vec<f64>, tolerance: Vec<f64>) -> Self {
        Self { name, want, tolerance, instead: BTreeMap::new(), may_exceed: false }
    }

    /// Has the kernels promise the values of `kept` where these differ from those wanted.
    fn or_instead(mut self, kept: &[f64]) -> Self {
        let differs = |(want, kept): (&f64, &f64)| want != kept && !(want.is_nan() && kept.is_nan());
        let pairs = self.want.iter().zip(kept).enumerate();
        self.instead = pairs.filter(|(_, pair)| differs(*pair)).map(|(index, (_, &kept))| (index, kept)).collect();
        self
    }

    /// Holds what the call returned against it. An output that did not come fails.
    pub fn judge(&self, results: &Results) -> Verdict {
        match self.compare(results) {
            Err(detail) => {
                let ratio = f64::INFINITY;
                let (name, unrepresentable) = (self.name, 0);
                Verdict { name, passed: false, unrepresentable, ratio, error_over_max: ratio, detail, worst: None }
            }
            Ok(outcome) => Verdict {
                name: self.name,
                // Where nothing is promised a check would be empty.
                passed: match self.may_exceed {
                    true => outcome.failures == 0,
                    false => outcome.passed() && outcome.unbounded == 0,
                },
                unrepresentable: outcome.unrepresentable,
                ratio: outcome.worst_ratio,
                error_over_max: outcome.error_over_max(),
                detail: outcome.to_string(),
                worst: Worst::of(&outcome),
            },
        }
    }

    /// Holds what the call returned against it, element by element.
    ///
    /// # Errors
    /// What is wrong, in words, where the output did not come or has another size.
    pub fn compare(&self, results: &Results) -> Result<Comparison, String> {
        let got = output(results, self.name).ok_or("the call returned none")?;
        let (mut want, mut tolerance) = (self.want.clone(), self.tolerance.clone());
        if self.is_statistic() {
            // Which of NaN and infinity a non-finite batch leads to depends on the order of summation: nothing is promised.
            for ((want, tolerance), got) in want.iter_mut().zip(&mut tolerance).zip(&got) {
                if !got.is_finite() && !want.is_finite() && got.is_nan() != want.is_nan() {
                    *want = if want.is_nan() { -got } else { *want };
                    *tolerance = f64::INFINITY;
                }
            }
        }
        let mut stayed = Vec::new();
        for (&index, &instead) in self.instead.iter().filter(|(index, _)| **index < got.len()) {
            // A NaN is no tolerance that anything keeps.
            let kept = self.came_instead(got[index], instead, tolerance[index]);
            tolerance[index] = if kept { f64::INFINITY } else { f64::NAN };
            if kept && got[index].is_finite() {
                stayed.push(Element { index, got: got[index], want: want[index] });
            }
        }
        let mut outcome = compare(&got, &want, &tolerance).map_err(|error| error.to_string())?;
        outcome.unbounded -= stayed.len();
        stayed.into_iter().for_each(|element| outcome.add_unrepresentable(element));
        Ok(outcome)
    }

    /// Whether an element is what the kernels promise in place of the value wanted.
    fn came_instead(&self, got: f64, instead: f64, tolerance: f64) -> bool {
        if instead.is_finite() {
            return (got - instead).abs() <= tolerance;
        }
        got.is_nan() || (self.is_statistic() && got.is_infinite())
    }

    fn is_statistic(&self) -> bool {
        self.name.ends_with("mean") || self.name.ends_with("var")
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
    for expected in &mut expected {
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
            negative_slope: self.inputs.config.negative_slope,
        }
    }

    fn execution(&self, first_part: Option<u64>) -> Execution {
        let Config { dtype, in_place, .. } = self.inputs.config;
        Execution { dtype, in_place, first_part, adds: self.inputs.before.dx.is_some() }
    }

    /// Expects NaN in some channels, where the kernels promise it in place of a value that looks sound.
    fn nan_where(&self, is_nan: impl Fn(usize) -> bool, mut expected: Expected) -> Expected {
        let shape = &self.inputs.shape;
        let per_channel = expected.want.len() == shape.channels();
        for channel in (0..shape.channels()).filter(|&channel| is_nan(channel)) {
            let count = if per_channel { 1 } else { shape.elements_per_channel() };
            for i in 0..count {
                let index = if per_channel { channel } else { shape.index(channel, i) };
                if !expected.want[index].is_nan() {
                    expected.instead.insert(index, f64::NAN);
                }
            }
        }
        expected
    }
}

fn forward_training(wide: &Wide<'_>, execution: &Execution) -> Result<Vec<Expected>> {
    let shape = &wide.inputs.shape;
    let want = reference::forward_training(&wide.x, shape, &wide.layer())?;
    let bound = bound::forward_training(&wide.x, shape, &wide.layer(), execution)?;
    let overflows = bound::overflows(&wide.x, shape, execution)?;
    let y = Expected::new("y", want.y, bound.y);
    let mut expected = vec![wide.nan_where(|channel| overflows[channel], y)];
    expected.extend(one_batch(wide, want.statistics, bound.statistics, &overflows)?);
    Ok(expected)
}

/// The statistics of a batch, and the running statistics after it.
fn one_batch(
    wide: &Wide<'_>,
    statistics: Statistics,
    bound: StatisticsBound,
    overflows: &[bool],
) -> Result<Vec<Expected>> {
    let Inputs { shape, config, .. } = wide.inputs;
    let found = as_found(&statistics, overflows);
    let mean = Expected::new("batch_mean", statistics.mean.clone(), bound.mean_pair.clone());
    let var = Expected::new("batch_var", statistics.var.clone(), bound.var.clone()).or_instead(&found.var);
    let exact = StatisticsBound::exact(shape.channels());
    let tolerance = bound::running(&wide.running, &exact, &found, &bound, &config.running)?;
    let (mut want, mut kept) = (wide.running.clone(), wide.running.clone());
    want.update(&statistics, &config.running)?;
    kept.update(&found, &config.running)?;
    let mut expected = vec![mean, var];
    expected.extend(expected_running(want, &kept, tolerance));
    Ok(expected)
}

/// The running statistics `want`, where the kernels have those of `kept` instead.
fn expected_running(want: RunningStatistics, kept: &RunningStatistics, tolerance: StatisticsBound) -> Vec<Expected> {
    // Counts of batches stay at the largest that their word holds.
    let batches = |count: &u64| (*count).min(u32::MAX.into());
    let counts = |name, want: &[u64], kept: &[u64]| {
        let kept: Vec<f64> = kept.iter().map(|count| batches(count) as f64).collect();
        Expected::exact(name, want.iter().map(batches)).or_instead(&kept)
    };
    let values: Vec<f64> = kept.values.iter().map(|&count| count as f64).collect();
    vec![
        Expected::new("running_mean", want.mean, tolerance.mean_pair).or_instead(&kept.mean),
        Expected::new("running_var", want.var, tolerance.var).or_instead(&kept.var),
        counts("num_batches_tracked", &want.tracked, &kept.tracked),
        counts("averaged", &want.averaged, &kept.averaged),
        counts("skipped", &want.skipped, &kept.skipped),
        Expected::exact("values", want.values.into_iter()).or_instead(&values),
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
    for expected in &mut expected {
        let Before { dx, dresidual, dgamma, dbeta } = &wide.inputs.before;
        let (before, dtype) = match expected.name {
            "dx" => (dx, wide.inputs.config.dtype),
            "dresidual" => (dresidual, wide.inputs.config.dtype),
            "dweight" => (dgamma, DType::F32),
            _ => (dbeta, DType::F32),
        };
        if let Some(before) = before {
            bound::add_to(&widen(before), &mut expected.want, &mut expected.tolerance, dtype);
        }
    }
    let overflowing = bound::overflows(x, shape, execution)?;
    let overflows = |channel: usize| training && overflowing[channel];
    // From y there is no way back to x where gamma is 0.
    let x_is_lost = |channel: usize| execution.in_place && layer.gamma.is_some_and(|gamma| gamma[channel] == 0.0);
    // A mask lets dy through at a NaN; a product with the derivative does not.
    let dz_depends_on_z = layer.activation == Activation::Silu;
    let affected = |expected: Expected| match expected.name {
        "dbias" | "dresidual" if !dz_depends_on_z => expected,
        "dx" if !training => expected,
        _ => wide.nan_where(|channel| overflows(channel) || x_is_lost(channel), expected),
    };
    Ok(expected.into_iter().map(affected).collect())
}

fn statistics(wide: &Wide<'_>, execution: &Execution) -> Result<Vec<Expected>> {
    let shape = &wide.inputs.shape;
    let bound = bound::statistics(&wide.x, shape, execution)?;
    one_batch(wide, reference::statistics(&wide.x, shape)?, bound, &bound::overflows(&wide.x, shape, execution)?)
}

/// The statistics of the concatenation of all batches, within what streaming them batch by batch may add up to. A channel
/// with a batch that is not finite has those of its other batches.
fn population(wide: &Wide<'_>, parts: &FirstParts) -> Result<Vec<Expected>> {
    let Inputs { shape, config, .. } = wide.inputs;
    let (mut streamed, mut kept) = (wide.running.clone(), wide.running.clone());
    let mut tolerance = StatisticsBound::exact(shape.channels());
    let mut rest = wide.x.as_slice();
    for (batch, &part) in batches(shape)?.into_iter().zip(parts) {
        let (x, behind) = rest.split_at(batch.elements());
        rest = behind;
        let (statistics, execution) = (reference::statistics(x, &batch)?, wide.execution(part));
        let found = as_found(&statistics, &bound::overflows(x, &batch, &execution)?);
        let bound = bound::statistics(x, &batch, &execution)?;
        tolerance = bound::running(&kept, &tolerance, &found, &bound, &config.running)?;
        streamed.update(&statistics, &config.running)?;
        kept.update(&found, &config.running)?;
    }
    let mut whole = wide.running.clone();
    whole.update(&reference::statistics(&wide.x, shape)?, &config.running)?;
    for channel in 0..shape.channels() {
        for streamed in [&mut streamed, &mut kept].into_iter().filter(|streamed| streamed.skipped[channel] == 0) {
            streamed.mean[channel] = whole.mean[channel];
            streamed.var[channel] = whole.var[channel];
        }
    }
    Ok(expected_running(streamed, &kept, tolerance))
}

/// The statistics as kernels find them: with an infinite variance where they overflow.
fn as_found(statistics: &Statistics, overflows: &[bool]) -> Statistics {
    let var = statistics.var.iter().zip(overflows);
    let var = var.map(|(&var, &overflows)| if overflows { f64::INFINITY } else { var }).collect();
    Statistics { var, ..statistics.clone() }
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
