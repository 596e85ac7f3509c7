//! Inputs, ordinary and hostile, the same on every machine.

use batchnorm_wgpu::Shape;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fmt;

/// What the values of x are like. dy and the parameters are always ordinary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Data {
    /// Normal, deviation 1, about a mean.
    Normal {
        /// The mean.
        mean: f32,
    },
    /// Every value of channel c is `value * (c + 1)`.
    Constant {
        /// The value of channel 0.
        value: f32,
    },
    /// Normal, but the first value of each channel lies 1e4 deviations away.
    FirstIsOutlier,
    /// Normal, but the values that could serve as a shift (first, middle, last) lie 1e4 deviations away.
    ShiftsAreOutliers,
    /// The deviation of channel c is a power of ten from 1e-3 to 1e3.
    MixedScales,
    /// Mean 1000, deviation 1e-3: the variance is far below eps.
    TinyVariance,
    /// A ramp, so that no two places are exchangeable.
    Ramp,
    /// Values near 1e15: their squares are near 1e30.
    Large,
    /// Values near 1e25: their squares are infinite in f32.
    Overflowing,
    /// Normal, but one value of channel 0 is NaN.
    OneNan,
    /// Normal, but one value of channel 0 is infinite.
    OneInfinity,
    /// Values near the smallest normal f32.
    Tiny,
}

impl Data {
    /// Every kind.
    pub const ALL: [Self; 17] = [
        Self::Normal { mean: 0.0 },
        Self::Normal { mean: 1e2 },
        Self::Normal { mean: -1e4 },
        Self::Normal { mean: 1e6 },
        Self::Constant { value: 0.0 },
        Self::Constant { value: 3.0 },
        Self::Constant { value: 1.0e10 },
        Self::FirstIsOutlier,
        Self::ShiftsAreOutliers,
        Self::MixedScales,
        Self::TinyVariance,
        Self::Ramp,
        Self::Large,
        Self::Overflowing,
        Self::OneNan,
        Self::OneInfinity,
        Self::Tiny,
    ];

    /// The values of x.
    pub fn x(self, shape: &Shape, seed: u64) -> Vec<f32> {
        let mut x = normal(shape.elements(), seed);
        let m = shape.values_per_channel();
        for channel in 0..shape.channels() {
            for i in 0..m {
                let value = &mut x[shape.index(channel, i)];
                *value = self.value(*value, channel, i, m);
            }
        }
        x
    }

    /// Value `i` of `m` of a channel, made of a normal one.
    fn value(self, z: f32, channel: usize, i: usize, m: usize) -> f32 {
        let is_shift = i == 0 || i == m / 2 || i == m - 1;
        match self {
            Self::Normal { mean } => mean + z,
            Self::Constant { value } => value * (channel + 1) as f32,
            Self::FirstIsOutlier if i == 0 => 1e4,
            Self::ShiftsAreOutliers if is_shift => 1e4 + i as f32,
            Self::OneNan if channel == 0 && i == m / 3 => f32::NAN,
            Self::OneInfinity if channel == 0 && i == m / 3 => f32::INFINITY,
            Self::FirstIsOutlier | Self::ShiftsAreOutliers | Self::OneNan | Self::OneInfinity => z,
            Self::MixedScales => z * 10f32.powi(channel as i32 % 7 - 3),
            Self::TinyVariance => 1e3 + 1e-3 * z,
            Self::Ramp => 0.01 * i as f32 - 3.0 * channel as f32,
            Self::Large => 1e15 * (1.0 + 0.1 * z),
            Self::Overflowing => 1e25 * z,
            Self::Tiny => 1e-37 * z,
        }
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal { mean } => write!(f, "normal({mean:e})"),
            Self::Constant { value } => write!(f, "constant({value:e})"),
            Self::FirstIsOutlier => f.write_str("first-is-outlier"),
            Self::ShiftsAreOutliers => f.write_str("shifts-are-outliers"),
            Self::MixedScales => f.write_str("mixed-scales"),
            Self::TinyVariance => f.write_str("tiny-variance"),
            Self::Ramp => f.write_str("ramp"),
            Self::Large => f.write_str("large"),
            Self::Overflowing => f.write_str("overflowing"),
            Self::OneNan => f.write_str("one-nan"),
            Self::OneInfinity => f.write_str("one-infinity"),
            Self::Tiny => f.write_str("tiny"),
        }
    }
}

/// `count` values of a standard normal distribution (Box and Muller 1958).
pub fn normal(count: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut pair = || {
        let (u, v): (f64, f64) = (random.random(), random.random());
        let (radius, angle) = ((-2.0 * (1.0 - u).ln()).sqrt(), std::f64::consts::TAU * v);
        [(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]
    };
    let mut values: Vec<f32> = (0..count.div_ceil(2)).flat_map(|_| pair()).collect();
    values.truncate(count);
    values
}
