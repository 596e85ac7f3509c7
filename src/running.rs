//! The running statistics as they lie in a buffer, and as numbers on the host.

use crate::error::{Error, Result};
use crate::kernels::RUNNING_PLANES;

/// Running statistics of C channels.
///
/// In a buffer they are eight planes of C little-endian words, in the order of the fields; the number of values takes two,
/// the low one first. A caller who keeps PyTorch-style `running_mean` and `running_var` copies planes 0 and 2 out.
#[derive(Clone, Debug, PartialEq)]
pub struct RunningStatistics {
    /// Running mean: the nearest f32.
    pub mean: Vec<f32>,
    /// What the running mean lost by rounding to f32: inference subtracts both.
    pub mean_remainder: Vec<f32>,
    /// Running variance, biased or unbiased as the policy says.
    pub var: Vec<f32>,
    /// Training batches seen, PyTorch's `num_batches_tracked`. The same for all channels. It stays at `u32::MAX` once it is full.
    pub tracked: Vec<u32>,
    /// Batches that entered the averages.
    pub averaged: Vec<u32>,
    /// Batches that did not enter the averages, which stayed as they were ([`NonFinite::Skip`](crate::NonFinite::Skip)): the
    /// batch holds NaN or infinity; or its variance overflows f32; or it lies so far from the running statistics that f32
    /// overflows between them; or the running mean or variance was NaN or infinite before. No batch that is averaged changes
    /// the last: a channel that is skipped every time although its batches are finite has to be reset to mean 0, remainder 0
    /// and variance 1, as [`RunningStatistics::new`] has it.
    pub skipped: Vec<u32>,
    /// Values that entered the averages.
    pub values: Vec<u64>,
}

impl RunningStatistics {
    /// Those of a new layer: mean 0, variance 1, nothing tracked.
    ///
    /// # Panics
    /// As `vec!` does, where memory does not hold so many channels: check a number that comes from a file first.
    pub fn new(channels: usize) -> Self {
        Self {
            mean: vec![0.0; channels],
            mean_remainder: vec![0.0; channels],
            var: vec![1.0; channels],
            tracked: vec![0; channels],
            averaged: vec![0; channels],
            skipped: vec![0; channels],
            values: vec![0; channels],
        }
    }

    /// Those of a trained layer, as PyTorch stores them. How many values entered is not known: a policy that pools starts
    /// anew from them, the others go on.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the lengths differ.
    pub fn from_mean_var(mean: &[f32], var: &[f32], num_batches_tracked: u32) -> Result<Self> {
        if mean.len() != var.len() {
            return Err(Error::Mismatch {
                name: "running_var",
                expected: format!("{} channels, as running_mean has", mean.len()),
                actual: format!("{}", var.len()),
            });
        }
        let counts = vec![num_batches_tracked; mean.len()];
        let fresh = Self::new(mean.len());
        Ok(Self { mean: mean.to_vec(), var: var.to_vec(), tracked: counts.clone(), averaged: counts, ..fresh })
    }

    /// The first statistic that gives no result in inference: a mean that is not finite, or a variance that is negative or not
    /// finite. PyTorch's name of it, the channel and the value.
    pub fn first_unusable(&self) -> Option<(&'static str, usize, f32)> {
        let find = |name, values: &[f32], sound: fn(f32) -> bool| {
            values.iter().position(|&value| !sound(value)).map(|channel| (name, channel, values[channel]))
        };
        let mean = find("running_mean", &self.mean, f32::is_finite);
        mean.or_else(|| find("running_var", &self.var, |var| var.is_finite() && var >= 0.0))
    }

    /// Bytes that `channels` channels take in a buffer; `u64::MAX`, which no buffer has, where there are too many for a `u64`.
    pub fn size(channels: usize) -> u64 {
        (channels as u64).saturating_mul(4 * RUNNING_PLANES.len() as u64)
    }

    /// Whether there is anything in it but zeros, which a buffer holds that was never written. A new layer has variance 1
    /// ([`RunningStatistics::new`]), a trained one a number of batches.
    pub fn is_initialized(&self) -> bool {
        let floats = [&self.mean, &self.mean_remainder, &self.var].into_iter().flatten();
        let counts = [&self.tracked, &self.averaged, &self.skipped].into_iter().flatten();
        let none = floats.copied().all(|value| value == 0.0) && counts.copied().all(|count| count == 0);
        self.channels() == 0 || !none || self.values.iter().any(|&count| count > 0)
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.mean.len()
    }

    /// The contents of the buffer.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the fields differ in length.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let channels = self.channels();
        let floats = [("mean_remainder", self.mean_remainder.len()), ("var", self.var.len())];
        let counts = [("tracked", self.tracked.len()), ("averaged", self.averaged.len())];
        let rest = [("skipped", self.skipped.len()), ("values", self.values.len())];
        if let Some((name, actual)) = [floats, counts, rest].into_iter().flatten().find(|(_, len)| *len != channels) {
            let expected = format!("{channels} channels, as mean has");
            return Err(Error::Mismatch { name, expected, actual: actual.to_string() });
        }
        let floats = [&self.mean, &self.mean_remainder, &self.var].into_iter().flatten().map(|v| v.to_bits());
        let counts = [&self.tracked, &self.averaged, &self.skipped].into_iter().flatten().copied();
        let low = self.values.iter().map(|&v| v as u32);
        let high = self.values.iter().map(|&v| (v >> 32) as u32);
        Ok(floats.chain(counts).chain(low).chain(high).flat_map(u32::to_le_bytes).collect())
    }

    /// Reads the contents of a buffer.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the number of bytes is not a multiple of 32, or all of them are 0: the buffer was never
    /// written, and what inference made of it means nothing.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let per_channel = RUNNING_PLANES.len() * 4;
        if !bytes.len().is_multiple_of(per_channel) {
            return Err(Error::Mismatch {
                name: "running",
                expected: format!("a multiple of {per_channel} bytes"),
                actual: format!("{}", bytes.len()),
            });
        }
        let channels = bytes.len() / per_channel;
        let words: Vec<u32> = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let plane = |i: usize| words[i * channels..(i + 1) * channels].iter().copied();
        let floats = |i| plane(i).map(f32::from_bits).collect();
        let running = Self {
            mean: floats(0),
            mean_remainder: floats(1),
            var: floats(2),
            tracked: plane(3).collect(),
            averaged: plane(4).collect(),
            skipped: plane(5).collect(),
            values: plane(6).zip(plane(7)).map(|(low, high)| (u64::from(high) << 32) + u64::from(low)).collect(),
        };
        if !running.is_initialized() {
            return Err(Error::Mismatch {
                name: "running",
                expected: "running statistics, which begin with variance 1".into(),
                actual:
                    "zeros only, as in a buffer that was never written; call BatchNorm::initialize_running, or upload \
                         RunningStatistics::new(channels).to_bytes()"
                        .into(),
            });
        }
        Ok(running)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_statistics_that_are_of_no_use() {
        let of = |mean: f32, var: f32| RunningStatistics::from_mean_var(&[0.0, mean], &[0.0, var], 0).unwrap();
        assert_eq!(of(-3.0, 0.0).first_unusable(), None);
        assert_eq!(of(f32::INFINITY, 1.0).first_unusable(), Some(("running_mean", 1, f32::INFINITY)));
        for var in [-1e-9, f32::INFINITY] {
            assert_eq!(of(0.0, var).first_unusable(), Some(("running_var", 1, var)));
        }
        assert!(
            of(0.0, f32::NAN).first_unusable().is_some_and(|(name, channel, _)| (name, channel) == ("running_var", 1))
        );
    }

    #[test]
    fn survives_the_buffer() {
        let mut running = RunningStatistics::from_mean_var(&[1.5, -2.0, 3e20], &[0.5, 1.0, 2.0], 7).unwrap();
        assert_eq!((running.channels(), &running.tracked, &running.averaged), (3, &vec![7; 3], &vec![7; 3]));
        assert_eq!((&running.mean, &running.var), (&vec![1.5, -2.0, 3e20], &vec![0.5, 1.0, 2.0]));
        running.values = vec![1, u64::from(u32::MAX) + 5, 0];
        running.skipped = vec![0, 1, 2];
        let bytes = running.to_bytes().unwrap();
        assert_eq!(bytes.len() as u64, RunningStatistics::size(3));
        assert_eq!(RunningStatistics::from_bytes(&bytes).unwrap(), running);
        assert!(RunningStatistics::from_bytes(&bytes[4..]).is_err());
        running.var.pop();
        assert!(matches!(running.to_bytes(), Err(Error::Mismatch { name: "var", .. })));
        assert_eq!(RunningStatistics::size(usize::MAX), u64::MAX);
        let uneven = RunningStatistics::from_mean_var(&[1.0, 2.0], &[1.0], 0);
        assert!(matches!(uneven, Err(Error::Mismatch { name: "running_var", .. })));
    }

    #[test]
    fn a_buffer_that_was_never_written_is_told_apart() {
        let refused = RunningStatistics::from_bytes(&[0; 96]).unwrap_err().to_string();
        assert!(refused.contains("never written") && refused.contains("initialize_running"), "{refused}");
        let new = RunningStatistics::new(3);
        assert!(new.is_initialized());
        assert_eq!(RunningStatistics::from_bytes(&new.to_bytes().unwrap()).unwrap(), new);
        let zeros = RunningStatistics { var: vec![0.0; 3], ..new };
        assert!(!zeros.is_initialized());
        // Any word tells that somebody wrote.
        for (i, byte) in [(0, 1), (31, 0x80), (95, 1)] {
            let mut bytes = [0; 96];
            bytes[i] = byte;
            assert_eq!(RunningStatistics::from_bytes(&bytes).is_ok(), i != 31, "{i}");
        }
        let constant = RunningStatistics { tracked: vec![1; 3], ..zeros };
        assert!(constant.is_initialized());
        assert!(RunningStatistics::from_bytes(&[]).is_ok());
    }
}
