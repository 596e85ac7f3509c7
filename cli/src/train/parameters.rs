//! The parameters of the network: where each lies in the one buffer that holds them all, and their initial values.

use super::data::{CLASSES, PIXELS};
use batchnorm_wgpu::wgpu;
use rand::{Rng, RngExt};
use std::ops::Range;

/// Width of the input, of the three hidden layers and of the output, as in section 4.1 of Ioffe and Szegedy (2015).
pub const SIZES: [usize; 5] = [PIXELS, 100, 100, 100, CLASSES];
/// Number of linear layers.
pub const LAYERS: usize = SIZES.len() - 1;
/// Number of hidden layers, each followed by a sigmoid.
pub const HIDDEN: usize = LAYERS - 1;

/// Standard deviation of the initial weights: "small random Gaussian values" in the paper, which gives no number. So small
/// that sigmoids pass little of the gradient on; batch norm makes up for it.
const INITIAL_DEVIATION: f64 = 0.05;

/// gamma at the start, as in the paper; beta starts at 0.
const INITIAL_GAMMA: f32 = 1.0;

/// Slices start at multiples of so many values: 256 bytes, the largest alignment that WebGPU lets a device ask for.
const ALIGNMENT: usize = 64;

/// Where a layer's parameters lie, in values from the start of the buffer.
#[derive(Clone, Debug)]
pub struct LayerSlices {
    /// W [inputs, outputs], row-major.
    pub weights: Range<usize>,
    /// What is added last: beta with batch norm, otherwise the bias.
    pub shift: Range<usize>,
    /// gamma, with batch norm.
    pub scale: Option<Range<usize>>,
}

/// Where every parameter lies. The buffer of gradients has the same layout, so that one dispatch updates them all.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// One entry per linear layer.
    pub layers: Vec<LayerSlices>,
    /// Values in the buffer, gaps for alignment included.
    pub count: usize,
}

impl Parameters {
    /// The layout with or without batch norm after the hidden linear layers.
    pub fn new(batch_norm: bool) -> Self {
        let mut count = 0;
        let mut take = |values: usize| {
            let start = count;
            count = (start + values).next_multiple_of(ALIGNMENT);
            start..start + values
        };
        let layers = (0..LAYERS)
            .map(|layer| LayerSlices {
                weights: take(SIZES[layer] * SIZES[layer + 1]),
                shift: take(SIZES[layer + 1]),
                scale: (batch_norm && layer < HIDDEN).then(|| take(SIZES[layer + 1])),
            })
            .collect();
        Self { layers, count }
    }

    /// The buffer's initial content: the given weights, `INITIAL_GAMMA`, and 0 elsewhere.
    pub fn initial(&self, weights: &[Vec<f32>]) -> Vec<f32> {
        let mut values = vec![0.0; self.count];
        for (layer, weights) in self.layers.iter().zip(weights) {
            values[layer.weights.clone()].copy_from_slice(weights);
            if let Some(scale) = &layer.scale {
                values[scale.clone()].fill(INITIAL_GAMMA);
            }
        }
        values
    }
}

/// Binds a slice of a buffer of f32.
pub fn slice<'a>(buffer: &'a wgpu::Buffer, range: &Range<usize>) -> wgpu::BufferBinding<'a> {
    let size = wgpu::BufferSize::new(4 * range.len() as u64);
    wgpu::BufferBinding { buffer, offset: 4 * range.start as u64, size }
}

/// Gaussian weights for every linear layer, the same for both networks.
pub fn initial_weights(random: &mut impl Rng) -> Vec<Vec<f32>> {
    SIZES
        .windows(2)
        .map(|sizes| (0..sizes[0] * sizes[1]).map(|_| (INITIAL_DEVIATION * gaussian(random)) as f32).collect())
        .collect()
}

/// A standard normal number, after Box and Muller.
fn gaussian(random: &mut impl Rng) -> f64 {
    // 1 - u lies in (0, 1], where the logarithm is finite.
    let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.random::<f64>()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn slices_are_aligned_and_apart() {
        for batch_norm in [false, true] {
            let parameters = Parameters::new(batch_norm);
            let mut end = 0;
            for layer in &parameters.layers {
                for range in [Some(&layer.weights), Some(&layer.shift), layer.scale.as_ref()].into_iter().flatten() {
                    assert!(range.start % ALIGNMENT == 0 && range.start >= end, "{range:?} after {end}");
                    end = range.end;
                }
            }
            assert!(end <= parameters.count);
            assert_eq!(parameters.layers.iter().filter(|layer| layer.scale.is_some()).count(), 3 * batch_norm as usize);
        }
    }

    #[test]
    fn weights_are_gaussian_and_repeatable() {
        let draw = |seed| initial_weights(&mut ChaCha8Rng::seed_from_u64(seed));
        let weights: Vec<f64> = draw(1).concat().iter().map(|&w| f64::from(w)).collect();
        let n = weights.len() as f64;
        assert_eq!(weights.len(), 784 * 100 + 2 * 100 * 100 + 100 * 10);
        let mean = weights.iter().sum::<f64>() / n;
        let deviation = (weights.iter().map(|w| w * w).sum::<f64>() / n).sqrt();
        // Five standard errors.
        assert!(mean.abs() < 5.0 * INITIAL_DEVIATION / n.sqrt());
        assert!((deviation / INITIAL_DEVIATION - 1.0).abs() < 5.0 / (2.0 * n).sqrt());
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
