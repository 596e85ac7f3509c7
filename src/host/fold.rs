//! Folding an inference batch norm into the layer before it, on arrays: a shell over [`crate::fold`].

use crate::error::{Error, Result};
use crate::fold;
use crate::running::RunningStatistics;
use ndarray::{Array, Array1, ArrayView, ArrayView1, Axis, Dimension, RemoveAxis};

/// A batch norm by running statistics, as it follows a linear or convolution layer of C output channels.
///
/// [`HostBatchNorm::fold_into`](super::HostBatchNorm::fold_into) makes one of a layer, [`fold::InferenceNorm`] takes slices.
/// Without a device:
///
/// ```
/// use batchnorm_wgpu::RunningStatistics;
/// use batchnorm_wgpu::host::InferenceNorm;
/// use ndarray::{Axis, array};
///
/// let running = RunningStatistics::from_mean_var(&[1.0, 2.0], &[4.0, 0.25], 100)?;
/// let norm = InferenceNorm { gamma: None, beta: None, running: &running, eps: 1e-5 };
/// let linear = array![[2.0, 0.0, 4.0], [1.0, 1.0, 0.0]]; // [output channels, inputs]
/// let folded = norm.fold_into(linear.view(), Axis(0), None)?;
/// assert!((folded.weight[[0, 2]] - 2.0).abs() < 1e-4 && (folded.bias[1] + 4.0).abs() < 1e-4);
/// # Ok::<(), batchnorm_wgpu::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct InferenceNorm<'a> {
    /// Scale, `[C]`; `None` for 1.
    pub gamma: Option<ArrayView1<'a, f32>>,
    /// Shift, `[C]`; `None` for 0.
    pub beta: Option<ArrayView1<'a, f32>>,
    /// Running statistics of C channels.
    pub running: &'a RunningStatistics,
    /// Added to the variance before the square root.
    pub eps: f64,
}

/// A layer that computes what it computed before and the batch norm after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Folded<D: Dimension> {
    /// The weight, in the shape that came.
    pub weight: Array<f32, D>,
    /// The bias, `[C]`. The layer needs it even where it had none.
    pub bias: Array1<f32>,
}

impl InferenceNorm<'_> {
    /// Weight and bias of a layer that gives the normalized output by itself. `output` is the axis of `weight` that counts the
    /// output channels. [`fold::InferenceNorm::fold_into`] has the formula, the axes of common layers, when to fold, and what
    /// that does to accuracy.
    ///
    /// # Errors
    /// As [`fold::InferenceNorm::fold_into`].
    pub fn fold_into<D: RemoveAxis>(
        &self,
        weight: ArrayView<'_, f32, D>,
        output: Axis,
        bias: Option<ArrayView1<'_, f32>>,
    ) -> Result<Folded<D>> {
        let [gamma, beta, bias] = [self.gamma, self.beta, bias].map(|values| values.map(|values| values.to_vec()));
        let norm = fold::InferenceNorm {
            gamma: gamma.as_deref(),
            beta: beta.as_deref(),
            running: self.running,
            eps: self.eps,
        };
        let in_order: Vec<f32> = weight.iter().copied().collect();
        let folded = norm.fold_into(&in_order, weight.shape(), output.index(), bias.as_deref())?;
        let weight = Array::from_shape_vec(weight.raw_dim(), folded.weight).map_err(|error| Error::Mismatch {
            name: "weight",
            expected: "the shape that came".into(),
            actual: error.to_string(),
        })?;
        Ok(Folded { weight, bias: folded.bias.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchnorm_wgpu_check::data::normal;
    use ndarray::{Array2, Array4, ArrayD, Ix2};

    const CHANNELS: usize = 5;
    const EPS: f64 = 1e-5;

    /// A trained layer: parameters and statistics of [`CHANNELS`] channels, the mean with a remainder.
    struct Trained {
        gamma: Array1<f32>,
        beta: Array1<f32>,
        bias: Array1<f32>,
        running: RunningStatistics,
    }

    impl Trained {
        fn new() -> Self {
            let var: Vec<f32> = normal(CHANNELS, 1).iter().map(|z| 0.1 + z * z).collect();
            let mean: Vec<f32> = normal(CHANNELS, 2).iter().map(|z| 1e3 * z).collect();
            let mut running = RunningStatistics::from_mean_var(&mean, &var, 7).unwrap();
            running.mean_remainder = mean.iter().map(|mean| mean * 2e-8).collect();
            let [gamma, beta, bias] = [3, 4, 5].map(|seed| Array1::from(normal(CHANNELS, seed)));
            Self { gamma, beta, bias, running }
        }

        fn norm(&self) -> InferenceNorm<'_> {
            let (gamma, beta) = (Some(self.gamma.view()), Some(self.beta.view()));
            InferenceNorm { gamma, beta, running: &self.running, eps: EPS }
        }

        /// Batch norm of the value `y` of a channel, in f64 and by the kernels' order: the mean first.
        fn normalized(&self, norm: &InferenceNorm<'_>, y: f64, c: usize) -> f64 {
            let gamma = norm.gamma.map_or(1.0, |gamma| f64::from(gamma[c]));
            let beta = norm.beta.map_or(0.0, |beta| f64::from(beta[c]));
            let centred = y - f64::from(self.running.mean[c]) - f64::from(self.running.mean_remainder[c]);
            centred / (f64::from(self.running.var[c]) + EPS).sqrt() * gamma + beta
        }
    }

    fn weights<D: RemoveAxis>(shape: D, seed: u64) -> Array<f32, D> {
        Array::from_shape_vec(shape.clone(), normal(shape.size(), seed)).unwrap()
    }

    /// The layer's product in f64, and the sum of its magnitudes. Any linear or convolution layer is such a product for each
    /// output channel, of the values under the kernel and `weight[c, ..]`.
    fn product<'a>(weight: impl Iterator<Item = &'a f32>, x: &[f32]) -> (f64, f64) {
        let terms = weight.zip(x).map(|(&weight, &x)| f64::from(weight) * f64::from(x));
        terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
    }

    /// Half a unit of rounding, relative to `size`. A thousandth of that is for the f64 arithmetic of both sides.
    fn assert_close(got: f64, want: f64, size: f64) {
        let bound = 1.001 * f64::from(f32::EPSILON) / 2.0 * size;
        assert!((got - want).abs() <= bound, "{got} for {want}, bound {bound:e}");
    }

    /// Holds the folded layer against layer and batch norm in f64: only one rounding of each weight and bias may differ.
    fn hold<D: RemoveAxis>(
        trained: &Trained,
        norm: &InferenceNorm<'_>,
        weight: &Array<f32, D>,
        axis: Axis,
        bias: Option<&Array1<f32>>,
    ) {
        let folded = norm.fold_into(weight.view(), axis, bias.map(|bias| bias.view())).unwrap();
        assert_eq!(folded.weight.shape(), weight.shape());
        let x = normal(weight.len() / CHANNELS, 6);
        for c in 0..CHANNELS {
            let (y, _) = product(weight.index_axis(axis, c).iter(), &x);
            let want = trained.normalized(norm, y + bias.map_or(0.0, |bias| f64::from(bias[c])), c);
            let (folded_y, size) = product(folded.weight.index_axis(axis, c).iter(), &x);
            let got = folded_y + f64::from(folded.bias[c]);
            assert_close(got, want, size + f64::from(folded.bias[c]).abs());
            let scale = trained.normalized(norm, 1.0, c) - trained.normalized(norm, 0.0, c);
            for (&got, &before) in folded.weight.index_axis(axis, c).iter().zip(weight.index_axis(axis, c)) {
                assert_close(f64::from(got), f64::from(before) * scale, f64::from(got).abs());
            }
        }
    }

    #[test]
    fn a_folded_linear_layer_is_the_layer_and_its_batch_norm() {
        let trained = Trained::new();
        let weight: Array2<f32> = weights(Ix2(CHANNELS, 64), 8);
        hold(&trained, &trained.norm(), &weight, Axis(0), Some(&trained.bias));
    }

    #[test]
    fn what_is_absent_is_one_or_zero() {
        let trained = Trained::new();
        let weight: Array2<f32> = weights(Ix2(CHANNELS, 64), 8);
        for (gamma, beta, bias) in (0..8).map(|bits| (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0)) {
            let all = trained.norm();
            let norm = InferenceNorm { gamma: all.gamma.filter(|_| gamma), beta: all.beta.filter(|_| beta), ..all };
            hold(&trained, &norm, &weight, Axis(0), bias.then_some(&trained.bias));
        }
    }

    #[test]
    fn folds_convolutions_by_any_axis() {
        let trained = Trained::new();
        let bias = Some(&trained.bias);
        for (shape, axis) in [([CHANNELS, 4, 3, 3], 0), ([4, CHANNELS, 3, 3], 1), ([3, 3, 4, CHANNELS], 3)] {
            let weight: Array4<f32> = weights(ndarray::Dim(shape), 9);
            hold(&trained, &trained.norm(), &weight, Axis(axis), bias);
            let transposed = weight.t().to_owned();
            hold(&trained, &trained.norm(), &transposed, Axis(3 - axis), bias);
            hold(&trained, &trained.norm(), &weight.into_dyn(), Axis(axis), bias);
        }
    }

    #[test]
    fn views_that_are_not_in_standard_order_fold_alike() {
        let trained = Trained::new();
        let weight: Array4<f32> = weights(ndarray::Dim([CHANNELS, 4, 3, 3]), 9);
        let fold = |view, axis| trained.norm().fold_into(view, Axis(axis), Some(trained.bias.view())).unwrap();
        let (plain, reversed) = (fold(weight.view(), 0), fold(weight.t(), 3));
        assert_eq!(plain.weight.t(), reversed.weight);
        assert_eq!(plain.bias, reversed.bias);
    }

    #[test]
    fn a_bias_near_the_mean_leaves_the_remainder() {
        let trained = Trained::new();
        let norm = InferenceNorm { beta: None, ..trained.norm() };
        let bias = Array1::from(trained.running.mean.clone());
        hold(&trained, &norm, &weights(Ix2(CHANNELS, 8), 8), Axis(0), Some(&bias));
    }

    #[test]
    fn a_channel_without_variance_folds() {
        let mut trained = Trained::new();
        trained.running.var[2] = 0.0;
        hold(&trained, &trained.norm(), &weights(Ix2(CHANNELS, 8), 8), Axis(0), None);
    }

    /// The message of a refusal that names `wanted`.
    fn refused<D: Dimension>(result: Result<Folded<D>>, wanted: &str) -> String {
        match result {
            Err(error @ Error::Mismatch { name, .. }) if name == wanted => error.to_string(),
            Err(error) => panic!("{wanted}: refused otherwise: {error}"),
            Ok(_) => panic!("{wanted}: not refused"),
        }
    }

    #[test]
    fn refuses_a_wrong_axis() {
        let trained = Trained::new();
        let weight: Array2<f32> = weights(Ix2(CHANNELS, 8), 8);
        let message = refused(trained.norm().fold_into(weight.view(), Axis(2), None), "output");
        assert!(message.contains("axis 2") && message.contains("[5, 8]"), "{message}");
        let message = refused(trained.norm().fold_into(weight.view(), Axis(1), None), "weight");
        assert!(message.contains("5 output channels") && message.contains("got 8"), "{message}");
        let scalar = ArrayD::<f32>::zeros(vec![]);
        refused(trained.norm().fold_into(scalar.view(), Axis(0), None), "output");
    }

    #[test]
    fn refuses_wrong_lengths() {
        let trained = Trained::new();
        let weight: Array2<f32> = weights(Ix2(CHANNELS, 8), 8);
        let short = Array1::<f32>::ones(CHANNELS - 1);
        let fold = |norm: InferenceNorm<'_>| norm.fold_into(weight.view(), Axis(0), None);
        refused(trained.norm().fold_into(weight.view(), Axis(0), Some(short.view())), "bias");
        refused(fold(InferenceNorm { gamma: Some(short.view()), ..trained.norm() }), "gamma");
        refused(fold(InferenceNorm { beta: Some(short.view()), ..trained.norm() }), "beta");
        let (mut var, mut remainder) = (trained.running.clone(), trained.running.clone());
        var.var.pop();
        remainder.mean_remainder.pop();
        refused(fold(InferenceNorm { running: &var, ..trained.norm() }), "running.var");
        refused(fold(InferenceNorm { running: &remainder, ..trained.norm() }), "running.mean_remainder");
    }

    #[test]
    fn refuses_eps_that_the_layer_refuses() {
        let trained = Trained::new();
        let weight: Array2<f32> = weights(Ix2(CHANNELS, 8), 8);
        for eps in [0.0, -1e-5, f64::NAN] {
            let folded = InferenceNorm { eps, ..trained.norm() }.fold_into(weight.view(), Axis(0), None);
            assert!(matches!(folded, Err(Error::Eps { .. })), "{eps}");
        }
    }

    #[test]
    fn names_the_channel_that_would_spread_nan() {
        let weight: Array2<f32> = weights(Ix2(CHANNELS, 8), 8);
        let spoilt = |name, spoil: &dyn Fn(&mut Trained, &mut Array2<f32>)| {
            let (mut trained, mut weight) = (Trained::new(), weight.clone());
            spoil(&mut trained, &mut weight);
            let message = refused(trained.norm().fold_into(weight.view(), Axis(0), Some(trained.bias.view())), name);
            assert!(message.contains("channel 3"), "{message}");
        };
        for var in [f32::NAN, f32::INFINITY, -1.0] {
            spoilt("running.var", &|trained, _| trained.running.var[3] = var);
        }
        spoilt("folded weight", &|_, weight| weight[[3, 5]] = f32::NAN);
        spoilt("folded weight", &|trained, _| trained.gamma[3] = f32::INFINITY);
        spoilt("folded weight", &|trained, weight| {
            trained.running.var[3] = 0.0;
            weight[[3, 5]] = f32::MAX;
            trained.gamma[3] = 1.0;
        });
        spoilt("folded bias", &|trained, _| trained.running.mean[3] = f32::NAN);
        spoilt("folded bias", &|trained, _| trained.running.mean_remainder[3] = f32::NEG_INFINITY);
        spoilt("folded bias", &|trained, _| trained.beta[3] = f32::NAN);
        spoilt("folded bias", &|trained, _| trained.bias[3] = f32::INFINITY);
    }
}
