//! What centring and reduction get wrong in one channel. Symbols as in the documentation of the [parent](super).

use super::{ETA, INTEGERS, U, depth, flushed, reduction};
use crate::reference::sum;

/// A channel's exact centre, and the errors of the one that a kernel finds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channel {
    /// k.
    shift: f64,
    /// delta, mean - k.
    delta: f64,
    /// Whether a kernel subtracts an r that is exactly 0.
    no_remainder: bool,
    /// E(r).
    pub delta_error: f64,
    pub var: f64,
    /// E(var).
    pub var_error: f64,
    /// Whether a kernel's M2 exceeds f32 for certain.
    pub overflows: bool,
}

/// 1/sqrt(var + eps), and theta, its relative error.
#[derive(Clone, Copy, Debug)]
pub(super) struct InvStd {
    pub value: f64,
    pub theta: f64,
}

impl Channel {
    /// The statistics of `values`, of which there are `m`, the shift being taken from the first `n`; `pick` gives the value
    /// of an index.
    pub fn of_batch(values: impl Iterator<Item = f64> + Clone, m: u64, n: u64, pick: impl Fn(u64) -> f64) -> Self {
        let shift = median(pick(0), pick(n / 2), pick(n - 1));
        let count = m as f64;
        let distances = values.clone().map(|x| x - shift);
        let delta = sum(distances.clone()) / count;
        let largest = distances.clone().fold(0.0, |max: f64, d| max.max(d.abs()));
        let mut channel =
            Self { shift, delta, no_remainder: false, delta_error: 0.0, var: 0.0, var_error: 0.0, overflows: false };
        if largest == 0.0 && delta == 0.0 {
            return channel; // constant: every operation is exact
        }
        let second_moment = sum(distances.clone().map(|d| d * d));
        let m2 = sum(values.clone().map(|x| channel.centered(x).powi(2)));
        channel.var = m2 / count;
        let absolute = sum(distances.map(f64::abs));
        let data = |f: &dyn Fn(f64, f64) -> f64| {
            sum(values.clone().map(|x| f(channel.centered(x).abs(), subtraction_error(x, shift))))
        };
        let rounding = reduction(m);
        let spread = channel.var.sqrt();
        // Beyond this f32 does not hold every count, and sums of counts round too.
        let counting = if count > INTEGERS { rounding + U } else { 0.0 };
        // Partial means err by this much of the distance that they have from the shift.
        let partial = rounding + 7.0 * U + counting;
        // Each merge on a value's way may flush a difference, a product and a sum.
        let merges_flush = 3.0 * ETA * (1.0 + depth(m));
        let delta_error = data(&|_, e| e) / count
            + partial * absolute / count
            + 14.0 * U * spread
            + (5.0 * U + counting) * delta.abs()
            + merges_flush;
        // epsilon2: the kernels' M2 is that of values which lie so far from where they are.
        let moved = partial * (second_moment / count).sqrt() + 17.5 * U * spread;
        let m2_error = data(&|c, e| (2.0 * c + 4.0 * e) * e)
            + count * ((2.0 * spread + 4.0 * moved) * moved + delta_error * delta_error)
            + (rounding + 20.0 * U) * m2;
        // Every sum that a kernel forms stays below these.
        let fits = 4.0 * second_moment.max(absolute) < f64::from(f32::MAX);
        if !fits {
            channel.overflows = m2 - m2_error > f32::MAX.into();
            (channel.delta_error, channel.var_error) = (f64::INFINITY, f64::INFINITY);
            return channel;
        }
        channel.delta_error = delta_error;
        channel.var_error = m2_error / count + 10.0 * ETA;
        channel
    }

    /// Given statistics, as a kernel holds them.
    pub fn of_running(running_mean: f64, running_var: f64) -> Self {
        let shift = f64::from(running_mean as f32);
        let delta = running_mean - shift;
        Self {
            shift,
            delta,
            no_remainder: delta == 0.0,
            delta_error: U * delta.abs() + flushed(delta, 0.0),
            var: running_var,
            var_error: (running_var - f64::from(running_var as f32)).abs() + flushed(running_var, 0.0),
            overflows: false,
        }
    }

    /// c, the exact centred value.
    pub fn centered(&self, x: f64) -> f64 {
        (x - self.shift) - self.delta
    }

    /// e + u|c|: the error of the centred value apart from that of the mean.
    pub fn own_error(&self, x: f64) -> f64 {
        let of_shift = subtraction_error(x, self.shift);
        if self.no_remainder {
            return of_shift;
        }
        let centered = self.centered(x);
        let error = of_shift + U * centered.abs();
        error + flushed(centered, error + self.delta_error)
    }

    /// E(xc).
    pub fn centered_error(&self, x: f64) -> f64 {
        self.own_error(x) + self.delta_error
    }

    /// Tolerance of the mean as one f32.
    pub fn mean_error(&self) -> f64 {
        let rounding = if self.delta_error == 0.0 { 0.0 } else { U * (self.shift + self.delta).abs() };
        self.mean_pair_error() + rounding
    }

    /// Tolerance of the pair (k, r).
    pub fn mean_pair_error(&self) -> f64 {
        if self.delta_error == 0.0 {
            // k itself, which a kernel may flush.
            return flushed(self.shift, 0.0);
        }
        self.delta_error + flushed(self.shift, 0.0) + flushed(self.delta, self.delta_error)
    }

    /// inv_std and its relative error, infinite where nothing can be promised.
    pub fn inv_std(&self, eps: f64) -> InvStd {
        let total = self.var + eps;
        let relative = (self.var_error + (eps - f64::from(eps as f32)).abs()) / total + U;
        // Written so that NaN is caught too.
        let theta = if relative < 1.0 { (1.0 + 4.0 * U) / (1.0 - relative).sqrt() - 1.0 } else { f64::INFINITY };
        let fits = total < f64::from(f32::MAX);
        InvStd { value: 1.0 / total.sqrt(), theta: if fits { theta } else { f64::INFINITY } }
    }
}

/// Error of fl(x - k): none when the difference is an f32, at most u of it otherwise; subnormals may be flushed.
fn subtraction_error(x: f64, k: f64) -> f64 {
    let difference = x - k;
    if difference == 0.0 {
        return 0.0;
    }
    let rounding = if difference == f64::from(difference as f32) { 0.0 } else { U * difference.abs() };
    rounding + [x, k, difference].iter().map(|&value| flushed(value, 0.0)).sum::<f64>()
}

fn median(a: f64, b: f64, c: f64) -> f64 {
    a.min(b).max(a.max(b).min(c))
}
