//! Folding an inference batch norm into the layer before it, on slices: needs no feature and no device.
//! `host::InferenceNorm` is the same for arrays of `ndarray`.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::running::RunningStatistics;

/// A batch norm by running statistics, as it follows a linear or convolution layer of C output channels.
///
/// ```
/// use batchnorm_wgpu::RunningStatistics;
/// use batchnorm_wgpu::fold::InferenceNorm;
///
/// let running = RunningStatistics::from_mean_var(&[1.0, 2.0], &[4.0, 0.25], 100)?;
/// let norm = InferenceNorm { gamma: None, beta: None, running: &running, eps: 1e-5 };
/// let linear = [2.0, 0.0, 4.0, 1.0, 1.0, 0.0]; // [output channels, inputs]
/// let folded = norm.fold_into(&linear, &[2, 3], 0, None)?;
/// assert!((folded.weight[2] - 2.0).abs() < 1e-4 && (folded.bias[1] + 4.0).abs() < 1e-4);
/// # Ok::<(), batchnorm_wgpu::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct InferenceNorm<'a> {
    /// Scale, `[C]`; `None` for 1.
    pub gamma: Option<&'a [f32]>,
    /// Shift, `[C]`; `None` for 0.
    pub beta: Option<&'a [f32]>,
    /// Running statistics of C channels.
    pub running: &'a RunningStatistics,
    /// Added to the variance before the square root.
    pub eps: f64,
}

/// A layer that computes what it computed before and the batch norm after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Folded {
    /// The weight, in the order that came.
    pub weight: Vec<f32>,
    /// The bias, `[C]`. The layer needs it even where it had none.
    pub bias: Vec<f32>,
}

impl InferenceNorm<'_> {
    /// Weight and bias of a layer that gives the normalized output by itself: for each output channel c
    ///
    /// ```text
    /// scale[c]       = gamma[c] / sqrt(running_var[c] + eps)
    /// weight'[c, ..] = weight[c, ..] * scale[c]
    /// bias'[c]       = (bias[c] - running_mean[c]) * scale[c] + beta[c]
    /// ```
    ///
    /// which is the inference of Ioffe and Szegedy 2015, algorithm 2, with y = weight * x + bias put in for its input. It is
    /// computed in f64 and rounded once.
    ///
    /// `weight` has the dimensions `dims`, the last one varying fastest. `output` is the axis of `dims` that counts the output
    /// channels, from 0:
    ///
    /// | layer | weight | axis |
    /// |---|---|---|
    /// | PyTorch `Linear` | `[out, in]` | 0 |
    /// | PyTorch `Conv` | `[out, in / groups, k..]` | 0 |
    /// | PyTorch `ConvTranspose` without groups | `[in, out, k..]` | 1 |
    /// | Keras `Dense`, `Conv` | `[k.., in, out]` | the last |
    ///
    /// A wrong axis of the right length, as in a square weight, cannot be told from the right one.
    ///
    /// # When
    /// For deployment, once training is over: it saves the dispatch and the memory traffic of the batch norm. The batch norm
    /// must follow the layer directly. An activation or a residual after the batch norm stays an operation of its own. A
    /// batch norm before a convolution is another matter: zero padding stands between them.
    ///
    /// # Accuracy
    /// The kernels of this crate subtract the mean, as two f32, before anything else. `weight' * x + bias'` does not.
    ///
    /// - A mean that comes from the layer's own bias goes away: `bias - running_mean` is taken in f64, and the folded layer
    ///   never sees the large values that the layer alone rounds to f32. Folding gains accuracy.
    /// - A mean that comes from x stays: `weight' * x` is large and `bias'` cancels it. The error is the rounding of f32 times
    ///   the sum of |weight'| * |x|, or a few times that, and so grows with |mean| / deviation. A layer in f32 with its batch
    ///   norm apart errs about as much, since its own sum of weight * x is rounded before any batch norm sees it. Where it matters,
    ///   centre x. A layer that sums in more than f32 does not help once folded: `weight'` is rounded already.
    /// - Weights that are stored in f16 or bf16 must be rounded again after folding. That error grows with the same ratio, in
    ///   units of the coarser rounding, while a batch norm apart keeps gamma, beta and statistics in f32.
    ///
    /// `bn check --accuracy` measures the first two, for a linear layer in f32.
    ///
    /// # Errors
    /// [`Error::Eps`]; [`Error::Mismatch`] for an axis that `weight` does not have or whose length is not C, for a weight of
    /// another length than its dimensions say, for gamma, beta, bias or running statistics of another length than C, for a
    /// running variance that is negative or not finite, and for anything else that makes a folded number not finite, which the
    /// layer would spread in silence.
    pub fn fold_into(&self, weight: &[f32], dims: &[usize], output: usize, bias: Option<&[f32]>) -> Result<Folded> {
        self.check()?;
        let channels = self.running.channels();
        check_weight(weight, dims, output, channels)?;
        check_length("bias", bias.map_or(channels, <[f32]>::len), channels)?;
        let mut weight = weight.to_vec();
        let mut bias = bias.map_or_else(|| vec![0.0; channels], <[f32]>::to_vec);
        // Elements of one channel that lie side by side; the product fits where there are elements at all.
        let side_by_side: usize = if weight.is_empty() { 0 } else { dims[output + 1..].iter().product() };
        for (channel, bias) in bias.iter_mut().enumerate() {
            let scale = self.scale(channel);
            for row in weight.chunks_mut((channels * side_by_side).max(1)) {
                let of_channel = &mut row[channel * side_by_side..(channel + 1) * side_by_side];
                of_channel.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * scale) as f32);
                check_finite("folded weight", of_channel, channel)?;
            }
            *bias = self.shifted(*bias, scale, channel);
            check_finite("folded bias", &[*bias], channel)?;
        }
        Ok(Folded { weight, bias })
    }

    fn scale(&self, channel: usize) -> f64 {
        let gamma = self.gamma.map_or(1.0, |gamma| f64::from(gamma[channel]));
        gamma / (f64::from(self.running.var[channel]) + self.eps).sqrt()
    }

    fn shifted(&self, bias: f32, scale: f64, channel: usize) -> f32 {
        let mean = f64::from(self.running.mean[channel]) + f64::from(self.running.mean_remainder[channel]);
        let beta = self.beta.map_or(0.0, |beta| f64::from(beta[channel]));
        ((f64::from(bias) - mean) * scale + beta) as f32
    }

    fn check(&self) -> Result<()> {
        Config { eps: self.eps, ..Config::default() }.check()?;
        let channels = self.running.channels();
        check_length("gamma", self.gamma.map_or(channels, <[f32]>::len), channels)?;
        check_length("beta", self.beta.map_or(channels, <[f32]>::len), channels)?;
        check_length("running.mean_remainder", self.running.mean_remainder.len(), channels)?;
        check_length("running.var", self.running.var.len(), channels)?;
        // An infinite variance would not show in the result: it gives a weight of zero.
        let sound = |var: f32| var.is_finite() && var >= 0.0;
        match self.running.var.iter().position(|&var| !sound(var)) {
            None => Ok(()),
            Some(channel) => Err(mismatch(
                "running.var",
                "finite variances of at least 0; train or observe on finite data first".into(),
                format!("{} in channel {channel}", self.running.var[channel]),
            )),
        }
    }
}

fn check_weight(weight: &[f32], dims: &[usize], output: usize, channels: usize) -> Result<()> {
    let Some(&length) = dims.get(output) else {
        let expected = format!("an axis of the weight {dims:?}, counted from 0");
        return Err(mismatch("output", expected, format!("axis {output}")));
    };
    if length != channels {
        return Err(mismatch(
            "weight",
            format!("{channels} output channels, as the running statistics have, on axis {output}"),
            format!("{length} in dimensions {dims:?}"),
        ));
    }
    // A product beyond usize is no length of a slice, unless a dimension of 0 follows.
    let elements = dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
    match dims.contains(&0).then_some(0).or(elements) == Some(weight.len()) {
        true => Ok(()),
        false => {
            Err(mismatch("weight", format!("as many values as dimensions {dims:?} have"), weight.len().to_string()))
        }
    }
}

fn check_length(name: &'static str, actual: usize, channels: usize) -> Result<()> {
    match actual == channels {
        true => Ok(()),
        false => Err(mismatch(name, format!("{channels} values, one per channel"), actual.to_string())),
    }
}

fn check_finite(name: &'static str, values: &[f32], channel: usize) -> Result<()> {
    match values.iter().find(|value| !value.is_finite()) {
        None => Ok(()),
        Some(value) => Err(mismatch(
            name,
            "finite values; look for NaN, infinity or overflow in the weight, bias, gamma, beta and running mean"
                .into(),
            format!("{value} in channel {channel}"),
        )),
    }
}

fn mismatch(name: &'static str, expected: String, actual: String) -> Error {
    Error::Mismatch { name, expected, actual }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running() -> RunningStatistics {
        RunningStatistics::from_mean_var(&[1.0, -2.0, 0.5], &[3.0, 15.0, 0.0], 7).unwrap()
    }

    /// Scales of 0.5, 0.5 and 1.
    fn norm(running: &RunningStatistics) -> InferenceNorm<'_> {
        InferenceNorm { gamma: Some(&[1.0, 2.0, 1.0]), beta: Some(&[0.0, 0.0, 8.0]), running, eps: 1.0 }
    }

    #[test]
    fn channels_lie_on_any_axis() {
        let running = running();
        let bias = [3.0, 0.0, 0.5];
        let weight: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let scales = [0.5, 0.5, 1.0];
        // The dimensions, the axis, and how many elements of a channel lie side by side.
        let cases = [(&[3, 4][..], 0, 4), (&[2, 3, 2], 1, 2), (&[2, 2, 3], 2, 1), (&[3, 1, 2, 2], 0, 4)];
        for (dims, output, side_by_side) in cases {
            let folded = norm(&running).fold_into(&weight, dims, output, Some(&bias)).unwrap();
            let expected: Vec<f32> = (0..12).map(|i| i as f32 * scales[i / side_by_side % 3]).collect();
            assert_eq!((folded.weight, folded.bias), (expected, vec![1.0, 1.0, 8.0]), "{dims:?} by axis {output}");
        }
    }

    #[test]
    fn a_weight_without_values_has_a_bias() {
        let running = running();
        for dims in [&[3, 0][..], &[0, 3, 4], &[usize::MAX, 3, 2, 0], &[0, 3, usize::MAX, 2]] {
            let output = dims.iter().position(|&dim| dim == 3).unwrap();
            let folded = norm(&running).fold_into(&[], dims, output, None).unwrap();
            assert_eq!((folded.weight.len(), folded.bias), (0, vec![-0.5, 1.0, 7.5]), "{dims:?}");
        }
        let none = RunningStatistics::new(0);
        let norm = InferenceNorm { gamma: None, beta: None, running: &none, eps: 1.0 };
        assert_eq!(norm.fold_into(&[], &[0, 4], 0, None).unwrap(), Folded { weight: vec![], bias: vec![] });
    }

    #[test]
    fn refuses_a_weight_that_its_dimensions_do_not_describe() {
        let running = running();
        let refused = |weight: &[f32], dims: &[usize], output| {
            norm(&running).fold_into(weight, dims, output, None).unwrap_err().to_string()
        };
        let said = refused(&[1.0; 11], &[3, 4], 0);
        assert_eq!(said, "weight: expected as many values as dimensions [3, 4] have, got 11");
        let said = refused(&[1.0; 12], &[3, usize::MAX, 2], 0);
        assert!(said.contains("as many values as dimensions [3, 18446744073709551615, 2]"), "{said}");
        let said = refused(&[1.0; 12], &[4, 3], 0);
        assert_eq!(
            said,
            "weight: expected 3 output channels, as the running statistics have, on axis 0, got 4 in dimensions [4, 3]"
        );
        assert_eq!(
            refused(&[1.0; 12], &[4, 3], 2),
            "output: expected an axis of the weight [4, 3], counted from 0, got axis 2"
        );
        assert!(refused(&[], &[], 0).contains("axis 0"));
    }
}
