//! Inputs, ordinary and hostile, the same on every machine.

use batchnorm_wgpu::Shape;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fmt;
use std::str::FromStr;

/// What the values of x are like. dy, the parameters and the running statistics are ordinary almost always.
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
    /// Normal about a mean of 1e6 * (c + 1) in channel c: what is taken from another channel is far away.
    MeansApart,
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
    /// Normal, but one value of channel 0 is infinite, and one of channel 1 minus infinity.
    OneInfinity,
    /// A constant whose normalized values are -0: gamma is negative, beta and the residual are -0.
    NegativeZero,
    /// Normal, but gamma is 0 in every other channel.
    ZeroGamma,
    /// Normal, but gamma is about 8 or 60, so that z lies where activations bend and saturate; and in some channels 0, where beta
    /// and a residual add up to 6.
    Corners,
    /// Constants so far from the running mean that f32 holds neither the difference, in one channel, nor, in the next, its
    /// square.
    FarApart,
    /// Values near the smallest normal f32.
    Tiny,
    /// Three of four gammas are subnormal, which a device may take for 0, and 1 / sqrt(variance + eps) is large: their product
    /// is a normal number.
    SubnormalGamma,
    /// Subnormal numbers elsewhere, by channel in turn: x; dy; beta and the residual, where x is constant; the product of gamma
    /// and 1 / sqrt(variance + eps), where dy is large.
    Subnormals,
}

impl Data {
    /// Every kind.
    pub const ALL: [Self; 24] = [
        Self::Normal { mean: 0.0 },
        Self::Normal { mean: 1e2 },
        Self::Normal { mean: -1e4 },
        Self::Normal { mean: 1e6 },
        Self::Constant { value: 0.0 },
        Self::Constant { value: 3.0 },
        Self::Constant { value: 1.0e10 },
        Self::FirstIsOutlier,
        Self::ShiftsAreOutliers,
        Self::MeansApart,
        Self::MixedScales,
        Self::TinyVariance,
        Self::Ramp,
        Self::Large,
        Self::Overflowing,
        Self::OneNan,
        Self::OneInfinity,
        Self::NegativeZero,
        Self::ZeroGamma,
        Self::Corners,
        Self::FarApart,
        Self::Tiny,
        Self::SubnormalGamma,
        Self::Subnormals,
    ];

    /// Whether it is made to overflow f32, or holds what is not finite.
    pub fn exceeds_f32(self) -> bool {
        matches!(self, Self::Overflowing | Self::FarApart | Self::OneNan | Self::OneInfinity)
    }

    /// The values of x.
    pub fn x(self, shape: &Shape, seed: u64) -> Vec<f32> {
        let mut x = normal(shape.elements(), seed);
        let m = shape.elements_per_channel();
        for channel in 0..shape.channels() {
            for i in 0..m {
                let value = &mut x[shape.index(channel, i)];
                *value = self.value(*value, channel, i, m);
            }
        }
        x
    }

    /// Whether some gamma is 0, or small enough for a device to take it, or its product with the deviation, for 0.
    pub(crate) fn loses_gamma(self) -> bool {
        matches!(self, Self::ZeroGamma | Self::Corners | Self::SubnormalGamma | Self::Subnormals)
    }

    /// gamma of a channel, made of an ordinary one.
    pub(crate) fn gamma(self, channel: usize, ordinary: f32) -> f32 {
        match (self, channel % 4) {
            (Self::NegativeZero, _) => -1.0,
            (Self::ZeroGamma, 0 | 2) => 0.0,
            (Self::Corners, 0) => 8.0 * ordinary,
            (Self::Corners, 2) => 0.0,
            (Self::Corners, _) => 60.0 * ordinary,
            (Self::SubnormalGamma, 0) => 1e-38,
            (Self::SubnormalGamma, 1) => -5e-39,
            (Self::SubnormalGamma, 2) => 1.1e-38,
            (Self::Subnormals, 3) => 2e-38,
            _ => ordinary,
        }
    }

    /// beta, or an element of the residual, of a channel, made of an ordinary one.
    pub(crate) fn beta_or_residual(self, channel: usize, ordinary: f32) -> f32 {
        match (self, channel % 4) {
            (Self::NegativeZero, _) => -0.0,
            (Self::Subnormals, 2) => 1e-39 * ordinary,
            (Self::Corners, 2) => 3.0,
            _ => ordinary,
        }
    }

    /// An element of dy of a channel, made of an ordinary one.
    pub(crate) fn dy(self, channel: usize, ordinary: f32) -> f32 {
        match (self, channel % 4) {
            (Self::Subnormals, 1) => 1e-39 * ordinary,
            (Self::Subnormals, 3) => 1e4 * ordinary,
            _ => ordinary,
        }
    }

    /// The running variance of a channel, made of an ordinary one.
    pub(crate) fn running_var(self, channel: usize, ordinary: f32) -> f32 {
        match (self, channel % 4) {
            (Self::SubnormalGamma, _) => 1e-6 * ordinary,
            (Self::Subnormals, 3) => 1e6 * ordinary,
            _ => ordinary,
        }
    }

    /// Value `i` of `m` of a channel, made of a normal one.
    pub(crate) fn value(self, z: f32, channel: usize, i: usize, m: usize) -> f32 {
        let is_shift = i == 0 || i == m / 2 || i == m - 1;
        // Outliers lie above in one channel and below in the next.
        let side = if channel.is_multiple_of(2) { 1.0 } else { -1.0 };
        match self {
            Self::Normal { mean } => mean + z,
            Self::Constant { value } => value * (channel + 1) as f32,
            Self::FirstIsOutlier if i == 0 => side * 1e4,
            Self::ShiftsAreOutliers if is_shift => side * (1e4 + i as f32),
            Self::OneNan if channel == 0 && i == m / 3 => f32::NAN,
            Self::OneInfinity if channel == 0 && i == m / 3 => f32::INFINITY,
            Self::OneInfinity if channel == 1 && i == m / 3 => f32::NEG_INFINITY,
            Self::NegativeZero => 3.0,
            Self::FirstIsOutlier
            | Self::ShiftsAreOutliers
            | Self::OneNan
            | Self::OneInfinity
            | Self::ZeroGamma
            | Self::Corners => z,
            Self::FarApart => {
                if channel.is_multiple_of(2) {
                    2e38
                } else {
                    1e20
                }
            }
            Self::MeansApart => 1e6 * (channel + 1) as f32 + z,
            Self::MixedScales => z * 10f32.powi(channel as i32 % 7 - 3),
            Self::TinyVariance => 1e3 + 1e-3 * z,
            Self::Ramp => 0.01 * i as f32 - 3.0 * channel as f32,
            Self::Large => 1e15 * (1.0 + 0.1 * z),
            Self::Overflowing => 1e25 * z,
            Self::Tiny => 1e-37 * z,
            Self::SubnormalGamma => 1e-3 * z,
            Self::Subnormals => match channel % 4 {
                0 => 1e-39 * z,
                1 => 1e-3 * z,
                2 => 3.0,
                _ => 1e3 * z,
            },
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
            Self::MeansApart => f.write_str("means-apart"),
            Self::MixedScales => f.write_str("mixed-scales"),
            Self::TinyVariance => f.write_str("tiny-variance"),
            Self::Ramp => f.write_str("ramp"),
            Self::Large => f.write_str("large"),
            Self::Overflowing => f.write_str("overflowing"),
            Self::OneNan => f.write_str("one-nan"),
            Self::OneInfinity => f.write_str("one-infinity"),
            Self::NegativeZero => f.write_str("negative-zero"),
            Self::ZeroGamma => f.write_str("zero-gamma"),
            Self::Corners => f.write_str("corners"),
            Self::FarApart => f.write_str("far-apart"),
            Self::Tiny => f.write_str("tiny"),
            Self::SubnormalGamma => f.write_str("subnormal-gamma"),
            Self::Subnormals => f.write_str("subnormals"),
        }
    }
}

/// A text that names no kind of data.
#[derive(Debug, thiserror::Error)]
#[error("expected {}, normal(MEAN) or constant(VALUE), got {text:?}", names())]
pub struct UnknownData {
    text: String,
}

/// Names of the kinds that have one value only.
fn names() -> String {
    let names = Data::ALL.map(|data| data.to_string());
    names.into_iter().filter(|name| !name.contains('(')).collect::<Vec<_>>().join(", ")
}

impl FromStr for Data {
    type Err = UnknownData;

    /// The inverse of [`Display`](fmt::Display).
    fn from_str(text: &str) -> Result<Self, UnknownData> {
        let unknown = || UnknownData { text: text.into() };
        let Some((kind, value)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) else {
            return Self::ALL.into_iter().find(|data| data.to_string() == text).ok_or_else(unknown);
        };
        let value = value.parse().ok().filter(|value: &f32| value.is_finite()).ok_or_else(unknown)?;
        match kind {
            "normal" => Ok(Self::Normal { mean: value }),
            "constant" => Ok(Self::Constant { value }),
            _ => Err(unknown()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for data in Data::ALL {
            assert_eq!(data.to_string().parse::<Data>().unwrap(), data);
        }
        for text in ["", "normal", "normal(", "normal(nan)", "normal(1e99)", "ramp(1)", "none"] {
            assert!(text.parse::<Data>().unwrap_err().to_string().contains("first-is-outlier"), "{text}");
        }
    }
}
