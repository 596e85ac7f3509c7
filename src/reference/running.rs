//! Running statistics, in every convention that [`RunningPolicy`] names.

use super::{Statistics, check_len};
use crate::config::{Average, NonFinite, RunningPolicy, Spread, VarianceEstimate, Window};
use crate::error::{Error, Result};

/// Running statistics of a layer, one entry per channel.
///
/// The counts are per channel because a batch may be non-finite in one channel and good in another.
#[derive(Clone, Debug, PartialEq)]
pub struct RunningStatistics {
    /// Running mean, `[C]`.
    pub mean: Vec<f64>,
    /// Running variance, `[C]`, of the estimate that the policy names.
    pub var: Vec<f64>,
    /// Batches seen in training, `[C]`.
    pub tracked: Vec<u64>,
    /// Batches that entered mean and var, `[C]`.
    pub averaged: Vec<u64>,
    /// Batches left out because their statistics were not finite, `[C]`.
    pub skipped: Vec<u64>,
    /// Values that entered, `[C]`: the count that pooled statistics merge with.
    pub values: Vec<u64>,
}

/// Mean, variance and number of values of one channel.
#[derive(Clone, Copy, Debug)]
struct Moments {
    mean: f64,
    var: f64,
    count: u64,
}

impl RunningStatistics {
    /// The state before training: mean 0, variance 1, all counts 0.
    ///
    /// # Panics
    /// As `vec!` does, where memory does not hold so many channels.
    pub fn new(channels: usize) -> Self {
        let zeros = vec![0; channels];
        Self {
            mean: vec![0.0; channels],
            var: vec![1.0; channels],
            tracked: zeros.clone(),
            averaged: zeros.clone(),
            skipped: zeros.clone(),
            values: zeros,
        }
    }

    /// Lets one batch enter, channel by channel:
    ///
    /// 1. `number = tracked; tracked += 1`. Outside the window `skip .. skip + take` nothing else happens.
    /// 2. A mean or variance that is not finite, or that lies too far from the running one for the result or the distance
    ///    of the means to fit an f32: with [`NonFinite::Skip`] `skipped += 1` and nothing else; with
    ///    [`NonFinite::Propagate`] mean and var become NaN, and step 5 follows.
    /// 3. The batch variance enters as it is or times m/(m-1), by policy; with m = 1 as it is.
    /// 4. [`Average::Exponential`] and [`Average::Cumulative`]: `running += weight * (batch - running)` with the
    ///    momentum or 1/(averaged + 1) as weight, for the mean and for the variance (or for its square root, and the
    ///    square is stored). [`Average::Pooled`]: the two sets of values are merged (Chan, Golub and LeVeque 1979),
    ///    which gives the statistics of the concatenation. A batch of weight 1 (momentum 1, and the first of the other
    ///    two) replaces the state, whatever it was.
    /// 5. `averaged += 1; values += m`.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when batch and state differ in their number of channels or the batch has no values,
    /// [`Error::Momentum`] and [`Error::Policy`] as [`RunningPolicy::check`]. Nothing is changed then.
    pub fn update(&mut self, batch: &Statistics, policy: &RunningPolicy) -> Result<()> {
        policy.check()?;
        self.check(batch)?;
        for c in 0..self.mean.len() {
            let entry = self.entry(c, batch, policy);
            self.tracked[c] = self.tracked[c].saturating_add(1);
            match entry {
                Entry::OutsideWindow => continue,
                Entry::Skipped => {
                    self.skipped[c] = self.skipped[c].saturating_add(1);
                    continue;
                }
                Entry::NotFinite => (self.mean[c], self.var[c]) = (f64::NAN, f64::NAN),
                Entry::Enters => (self.mean[c], self.var[c]) = self.average(c, batch, policy),
            }
            self.averaged[c] = self.averaged[c].saturating_add(1);
            self.values[c] = self.values[c].saturating_add(batch.count);
        }
        Ok(())
    }

    /// Refuses a state or batch whose arrays differ in length.
    pub(super) fn check(&self, batch: &Statistics) -> Result<()> {
        let channels = self.mean.len();
        check_len("running_var", &self.var, channels)?;
        for counts in [&self.tracked, &self.averaged, &self.skipped, &self.values] {
            check_len("counts of the running statistics", counts, channels)?;
        }
        check_len("batch mean", &batch.mean, channels)?;
        check_len("batch var", &batch.var, channels)?;
        if batch.count == 0 {
            let (expected, actual) = ("at least one value per channel".into(), "0".into());
            return Err(Error::Mismatch { name: "batch count", expected, actual });
        }
        Ok(())
    }

    /// What the next batch does to channel `c`.
    pub(super) fn entry(&self, c: usize, batch: &Statistics, policy: &RunningPolicy) -> Entry {
        if !contains(policy.window, self.tracked[c]) {
            Entry::OutsideWindow
        } else if self.fits(c, batch, policy) {
            Entry::Enters
        } else if policy.non_finite == NonFinite::Skip {
            Entry::Skipped
        } else {
            Entry::NotFinite
        }
    }

    /// Whether a batch that enters leaves nothing of the state: its weight is 1.
    pub(super) fn replaces(&self, c: usize, policy: &RunningPolicy) -> bool {
        match policy.average {
            Average::Exponential { momentum } => momentum >= 1.0,
            Average::Cumulative => self.averaged[c] == 0,
            Average::Pooled => self.values[c] == 0,
        }
    }

    /// Whether f32 holds the statistics of channel `c` after a batch that enters, and what leads to them; not those of a batch
    /// that is not finite.
    fn fits(&self, c: usize, batch: &Statistics, policy: &RunningPolicy) -> bool {
        let (mean, var) = self.average(c, batch, policy);
        let distance = if self.replaces(c, policy) { 0.0 } else { batch.mean[c] - self.mean[c] };
        [mean, var, distance].iter().all(|value| value.abs() <= f32::MAX.into())
    }

    /// Mean and variance of channel `c` after a batch that enters.
    fn average(&self, c: usize, batch: &Statistics, policy: &RunningPolicy) -> (f64, f64) {
        let old = Moments { mean: self.mean[c], var: self.var[c], count: self.values[c] };
        let new = Moments {
            mean: batch.mean[c],
            var: batch.var[c] * bessel(batch.count, policy.variance),
            count: batch.count,
        };
        match policy.average {
            _ if self.replaces(c, policy) => (new.mean, new.var),
            Average::Exponential { momentum } => step(old, new, momentum, policy.spread),
            Average::Cumulative => step(old, new, 1.0 / (self.averaged[c] as f64 + 1.0), policy.spread),
            Average::Pooled => merge(old, new, policy.variance),
        }
    }
}

/// What a batch does to one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    OutsideWindow,
    Skipped,
    NotFinite,
    Enters,
}

/// Whether the batch of this number counts.
fn contains(window: Window, number: u64) -> bool {
    let skip = u64::from(window.skip);
    number >= skip && window.take.is_none_or(|take| number - skip < u64::from(take))
}

/// What turns the biased variance of `count` values into the estimate that enters.
pub(super) fn bessel(count: u64, estimate: VarianceEstimate) -> f64 {
    match estimate {
        VarianceEstimate::Unbiased if count > 1 => count as f64 / (count - 1) as f64,
        _ => 1.0,
    }
}

/// One step of an average with the given weight of the new batch.
fn step(old: Moments, new: Moments, weight: f64, spread: Spread) -> (f64, f64) {
    let toward = |old: f64, new: f64| old + weight * (new - old);
    let var = match spread {
        Spread::Variance => toward(old.var, new.var),
        Spread::StandardDeviation => toward(old.var.sqrt(), new.var.sqrt()).powi(2),
    };
    (toward(old.mean, new.mean), var)
}

/// The statistics of two sets of values together.
fn merge(old: Moments, new: Moments, estimate: VarianceEstimate) -> (f64, f64) {
    let (n, m) = (old.count as f64, new.count as f64);
    let (total, count) = (n + m, old.count.saturating_add(new.count));
    let delta = new.mean - old.mean;
    let biased = |moments: Moments| moments.var / bessel(moments.count, estimate);
    // M2 / total, written with weights that sum to 1.
    let var = biased(old) * (n / total) + biased(new) * (m / total) + delta * delta * (n / total) * (m / total);
    (old.mean + delta * (m / total), var * bessel(count, estimate))
}
