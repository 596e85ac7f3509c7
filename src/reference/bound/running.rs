//! Tolerance of one update of the running statistics.

use super::{ETA, INTEGERS, StatisticsBound, U, Uncertain, flushed};
use crate::config::{Average, RunningPolicy, Spread, VarianceEstimate};
use crate::error::Result;
use crate::reference::running::{Entry, bessel};
use crate::reference::{RunningStatistics, Statistics, check_len};

/// Tolerances of the running statistics after `batch` enters `state`.
///
/// `state` is the state *before* the update and `state_bound` its tolerances ([`StatisticsBound::exact`] for a state
/// that was given), `batch_bound` those of the batch statistics; feed the result into the next call to follow a
/// training run. A step with weight w from o to b, in the form `o + w (b - o)` or `(1 - w) o + w b`, errs by
/// (1 - w) E(o) + w E(b), plus u times 10w(|o| + |b|) + 2(1 - w)|o| + |result|, worst case (the weight itself by 7u at
/// most); a batch that replaces the state adds nothing.
///
/// [`mean_pair`](StatisticsBound::mean_pair) is that of a mean o + o', o' no larger than the rounding error of o, which
/// becomes the pair nearest to o + (o' + w ((k - o) + (r - o'))), k + r being the mean of the batch. The last sum is taken
/// without an error. The others round numbers of at most |b - o| + |r| + |o'|, and E(b) is at least 10u|r|: the pair errs
/// by (1 - w) E(o) + 1.2w E(b) + 12uw|b - o| + 3u^2|o|.
///
/// The weight of pooled statistics errs by 9u where f32 does not hold their counts: 2uw(|o| + |b|) more for the mean,
/// 2uw|b - o| for the pair, 4u of the variance.
///
/// m/(m-1) costs 7u, a square root 9u. A step may flush o, b, their difference, its product with w and the result, so 5 eta;
/// that of a pair 12 eta; a pooled variance 8 eta. A flushed variance costs its square root. Pooled statistics add, to the
/// weighted errors of both variances, 2|d| E(d) + E(d)^2 for the distance d of the two means times the weights, and 24u of
/// the result.
///
/// # Errors
/// As [`RunningStatistics::update`], and [`Error::Mismatch`](crate::Error::Mismatch) for bounds of the wrong length.
pub fn running(
    state: &RunningStatistics,
    state_bound: &StatisticsBound,
    batch: &Statistics,
    batch_bound: &StatisticsBound,
    policy: &RunningPolicy,
) -> Result<StatisticsBound> {
    policy.check()?;
    state.check(batch)?;
    let channels = state.mean.len();
    for bound in [state_bound, batch_bound] {
        check_len("bound of the mean", &bound.mean, channels)?;
        check_len("bound of the mean's pair", &bound.mean_pair, channels)?;
        check_len("bound of the variance", &bound.var, channels)?;
    }
    let mut result = state_bound.clone();
    for c in 0..channels {
        match state.entry(c, batch, policy) {
            Entry::OutsideWindow | Entry::Skipped => {}
            Entry::NotFinite => (result.mean[c], result.mean_pair[c], result.var[c]) = (0.0, 0.0, 0.0),
            Entry::Enters => {
                let old = [(state.mean[c], state_bound.mean[c]), (state.var[c], state_bound.var[c])];
                let new = [(batch.mean[c], batch_bound.mean[c]), (batch.var[c], batch_bound.var[c])];
                let uncertain = |(value, error)| Uncertain { value, error };
                let counts = Counts {
                    averaged: state.averaged[c],
                    old: state.values[c],
                    new: batch.count,
                    replaces: state.replaces(c, policy),
                };
                (result.mean[c], result.var[c]) = entered(old.map(uncertain), new.map(uncertain), counts, policy);
                let pairs = [(state.mean[c], state_bound.mean_pair[c]), (batch.mean[c], batch_bound.mean_pair[c])];
                result.mean_pair[c] = entered_pair(pairs.map(uncertain), counts, policy);
            }
        }
    }
    Ok(result)
}

#[derive(Clone, Copy, Debug)]
struct Counts {
    averaged: u64,
    old: u64,
    new: u64,
    replaces: bool,
}

impl Counts {
    /// The weight of the batch.
    fn weight(self, policy: &RunningPolicy) -> f64 {
        match policy.average {
            _ if self.replaces => 1.0,
            Average::Exponential { momentum } => momentum,
            Average::Cumulative => 1.0 / (self.averaged as f64 + 1.0),
            Average::Pooled => self.new as f64 / (self.old as f64 + self.new as f64),
        }
    }

    /// Units of u that the weight errs by because f32 does not hold the counts that it is a quotient of.
    fn rounded(self, policy: &RunningPolicy) -> f64 {
        let pooled = matches!(policy.average, Average::Pooled);
        if pooled && self.old as f64 + self.new as f64 > INTEGERS { 2.0 } else { 0.0 }
    }
}

/// Tolerance of a pair of f32 after a step from one to another.
fn entered_pair([old, new]: [Uncertain; 2], counts: Counts, policy: &RunningPolicy) -> f64 {
    let weight = counts.weight(policy);
    if weight >= 1.0 || !new.error.is_finite() {
        return new.error;
    }
    let distance = (new.value - old.value).abs() + old.error + new.error;
    let rounding = U * ((12.0 + counts.rounded(policy)) * weight * distance + 3.0 * U * old.value.abs());
    let flushed = if old.value == 0.0 && new.value == 0.0 { 0.0 } else { 12.0 * ETA };
    (1.0 - weight) * old.error + 1.2 * weight * new.error + rounding + flushed
}

/// Tolerances of mean and variance after a batch that enters; `old` and `new` are mean and variance, the latter biased.
fn entered(old: [Uncertain; 2], new: [Uncertain; 2], counts: Counts, policy: &RunningPolicy) -> (f64, f64) {
    if new.iter().any(|statistic| !statistic.error.is_finite()) {
        // Whether a kernel sees a finite batch at all is open.
        return (f64::INFINITY, f64::INFINITY);
    }
    let ([old_mean, old_var], [new_mean, biased_var]) = (old, new);
    let new_var = corrected(biased_var, counts.new, policy.variance);
    if counts.replaces {
        return (new_mean.error, squared_root(new_var, policy.spread).error);
    }
    let weight = counts.weight(policy);
    let rounded = counts.rounded(policy) * U * weight * (old_mean.value.abs() + new_mean.value.abs());
    let mean = step(old_mean, new_mean, weight).error + rounded;
    let var = match (policy.average, policy.spread) {
        (Average::Pooled, _) => pooled(old, new, counts, policy),
        (_, Spread::Variance) => step(old_var, new_var, weight).error,
        (_, Spread::StandardDeviation) => square(step(root(old_var), root(new_var), weight)).error,
    };
    (mean, var)
}

/// One step of an average.
fn step(old: Uncertain, new: Uncertain, weight: f64) -> Uncertain {
    let value = old.value + weight * (new.value - old.value);
    let (kept, magnitude) = (1.0 - weight, old.value.abs() + new.value.abs());
    let rounding = U * (10.0 * weight * magnitude + 2.0 * kept * old.value.abs() + value.abs());
    let flushed = if magnitude == 0.0 { 0.0 } else { 5.0 * ETA };
    Uncertain { value, error: kept * old.error + weight * new.error + rounding + flushed }
}

/// The batch variance as it enters.
fn corrected(var: Uncertain, count: u64, estimate: VarianceEstimate) -> Uncertain {
    let factor = bessel(count, estimate);
    if factor == 1.0 {
        return var;
    }
    let value = var.value * factor;
    let error = var.error * factor + 7.0 * U * value;
    Uncertain { value, error: error + flushed(value, error) }
}

/// A square root; its error is larger downwards, except at 0.
fn root(var: Uncertain) -> Uncertain {
    let value = var.value.max(0.0).sqrt();
    let least = var.value - var.error - flushed(var.value, var.error);
    let below = value - least.max(0.0).sqrt();
    let above = (var.value + var.error).max(0.0).sqrt() - value;
    Uncertain { value, error: below.max(above) + 9.0 * U * value }
}

fn square(root: Uncertain) -> Uncertain {
    let value = root.value * root.value;
    let error = (2.0 * root.value + root.error) * root.error + U * value;
    Uncertain { value, error: error + flushed(value, error) }
}

/// What storing the square of a square root costs, when standard deviations are averaged.
fn squared_root(var: Uncertain, spread: Spread) -> Uncertain {
    match spread {
        Spread::Variance => var,
        Spread::StandardDeviation => Uncertain { error: var.error + 20.0 * U * var.value, ..var },
    }
}

/// Tolerance of a pooled variance.
fn pooled(old: [Uncertain; 2], new: [Uncertain; 2], counts: Counts, policy: &RunningPolicy) -> f64 {
    let (weight, estimate) = (counts.weight(policy), policy.variance);
    let kept = 1.0 - weight;
    let correction = bessel(counts.old, estimate);
    let distance = (new[0].value - old[0].value).abs();
    let distance_error = old[0].error + new[0].error + U * distance;
    let value = kept * old[1].value / correction + weight * new[1].value + kept * weight * distance * distance;
    let inherited = kept * old[1].error / correction
        + weight * new[1].error
        + kept * weight * (2.0 * distance + distance_error) * distance_error;
    // Both weights enter the square of the distance.
    let rounding = (24.0 + 2.0 * counts.rounded(policy)) * U * value.abs() + if value == 0.0 { 0.0 } else { 8.0 * ETA };
    (inherited + rounding) * bessel(counts.old.saturating_add(counts.new), estimate)
}
