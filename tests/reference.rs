//! The float64 oracle against hand-computed cases, laws, finite differences and brute force.

use batchnorm_wgpu::reference::bound::{self, Execution, StatisticsBound, compare};
use batchnorm_wgpu::reference::{
    Layer, RunningStatistics, Statistics, backward_frozen, backward_training, forward_training, inference, statistics,
};
use batchnorm_wgpu::{Activation, Average, Error, Layout, RunningPolicy, Shape, Spread};
use proptest::prelude::*;

const EPS: f64 = 1e-5;

fn shape(dims: &[usize], layout: Layout) -> Shape {
    Shape::new(dims, layout).unwrap()
}

fn assert_close(got: &[f64], want: &[f64], tolerance: f64, what: &str) {
    let tolerance: Vec<f64> = want.iter().map(|want| tolerance * want.abs().max(1.0)).collect();
    let outcome = compare(got, want, &tolerance).unwrap();
    assert!(outcome.passed() && outcome.nan == 0, "{what}: {outcome}");
}

#[test]
fn hand_computed_training_step() {
    // NCHW 2x2x1x2: channel 0 holds 1, 3, 5, 7 (mean 4, variance 5), channel 1 holds -2, -2, 2, 2 (mean 0, variance 4).
    let nchw = shape(&[2, 2, 1, 2], Layout::ChannelsFirst);
    let x = [1.0, 3.0, -2.0, -2.0, 5.0, 7.0, 2.0, 2.0];
    let (gamma, beta) = ([2.0, 0.5], [10.0, -1.0]);
    let layer = Layer { gamma: Some(&gamma), beta: Some(&beta), eps: 4.0, ..Layer::default() };
    let forward = forward_training(&x, &nchw, &layer).unwrap();
    assert_eq!(forward.statistics, Statistics { mean: vec![4.0, 0.0], var: vec![5.0, 4.0], count: 4 });
    // Channel 0: (x - 4) / 3 * 2 + 10.
    let r = 8f64.sqrt();
    let want =
        [8.0, 10.0 - 2.0 / 3.0, -1.0 / r - 1.0, -1.0 / r - 1.0, 10.0 + 2.0 / 3.0, 12.0, 1.0 / r - 1.0, 1.0 / r - 1.0];
    assert_close(&forward.y, &want, 1e-15, "y");
    assert_eq!(inference(&x, &nchw, &[4.0, 0.0], &[5.0, 4.0], &layer).unwrap(), forward.y);

    // dy is 1 at the first element of channel 0: S1 = 1, S2 = -3, dx = 2/3 * (dy - 1/4 - c * (-3/4) / 9).
    let mut dy = [0.0; 8];
    dy[0] = 1.0;
    let gradients = backward_training(&x, &dy, &nchw, &layer).unwrap();
    assert_close(&gradients.dbeta, &[1.0, 0.0], 1e-15, "dbeta");
    assert_close(&gradients.dgamma, &[-1.0, 0.0], 1e-15, "dgamma");
    let dx = [1.0 / 3.0, -2.0 / 9.0, 0.0, 0.0, -1.0 / 9.0, 0.0, 0.0, 0.0];
    assert_close(&gradients.dx, &dx, 1e-15, "dx");
    let frozen = backward_frozen(&x, &dy, &nchw, &[4.0, 0.0], &[5.0, 4.0], &layer).unwrap();
    assert_close(&frozen.dx, &dy.map(|dy| dy * 2.0 / 3.0), 1e-15, "frozen dx");
    assert_eq!((frozen.dgamma, frozen.dbeta), (gradients.dgamma, gradients.dbeta));
    assert_eq!((&gradients.dresidual[..], &frozen.dresidual[..]), (&dy[..], &dy[..]));
}

#[test]
fn hand_computed_residual_and_relu() {
    // Channel 0 of the step above: bn(x) is 8, 10 - 2/3, 10 + 2/3, 12. The residual takes it to -1, 0, 2/3, NaN.
    let nc = shape(&[4, 1], Layout::ChannelsFirst);
    let x = [1.0, 3.0, 5.0, 7.0];
    let third = 2.0 / 3.0;
    let layer = Layer { gamma: Some(&[2.0]), beta: Some(&[10.0]), eps: 4.0, ..Layer::default() };
    let plain = forward_training(&x, &nc, &layer).unwrap().y;
    let residual = [-9.0, -plain[1], -10.0, f64::NAN];
    let layer = Layer { residual: Some(&residual), activation: Activation::Relu, ..layer };
    for y in [forward_training(&x, &nc, &layer).unwrap().y, inference(&x, &nc, &[4.0], &[5.0], &layer).unwrap()] {
        assert_close(&y[..3], &[0.0, 0.0, third], 1e-14, "y");
        assert!(y[3].is_nan(), "a NaN stays a NaN");
    }
    // Nothing passes at -1 and at exactly 0; a NaN lets dy through.
    let dy = [1.0, 2.0, 3.0, 4.0];
    let dz = [0.0, 0.0, 3.0, 4.0];
    let bare = Layer { residual: None, activation: Activation::None, ..layer };
    for (got, want) in [
        (backward_training(&x, &dy, &nc, &layer), backward_training(&x, &dz, &nc, &bare)),
        (backward_frozen(&x, &dy, &nc, &[4.0], &[5.0], &layer), backward_frozen(&x, &dz, &nc, &[4.0], &[5.0], &bare)),
    ] {
        assert_eq!(got.unwrap(), want.unwrap());
    }
    // A constant channel without beta: z is 0, and so is the derivative.
    let relu = Layer { activation: Activation::Relu, ..Layer::default() };
    let gradients = backward_training(&[0.1; 4], &dy, &nc, &relu).unwrap();
    assert_eq!((gradients.dresidual, gradients.dx, gradients.dbeta), (vec![0.0; 4], vec![0.0; 4], vec![0.0]));
}

/// y and dz of a frozen layer that leaves x as it is, with dy 2.
fn activated(activation: Activation, negative_slope: f64, x: &[f64]) -> [Vec<f64>; 2] {
    let nc = shape(&[x.len(), 1], Layout::ChannelsFirst);
    let layer = Layer { activation, negative_slope, ..Layer::default() };
    let (mean, var) = (&[0.0][..], &[1.0 - EPS][..]);
    let y = inference(x, &nc, mean, var, &layer).unwrap();
    [y, backward_frozen(x, &vec![2.0; x.len()], &nc, mean, var, &layer).unwrap().dresidual]
}

#[test]
fn activations_are_as_defined() {
    const Z: [f64; 8] = [-8.0, -0.5, -0.0, 0.0, 0.5, 6.0, 7.0, 1000.0];
    let of = |activation, slope| activated(activation, slope, &Z);
    let [y, dz] = of(Activation::LeakyRelu, 0.25);
    assert_eq!(y, [-2.0, -0.125, 0.0, 0.0, 0.5, 6.0, 7.0, 1000.0]);
    assert_eq!(dz, [0.5, 0.5, 0.5, 0.5, 2.0, 2.0, 2.0, 2.0]);
    let [y, dz] = of(Activation::LeakyRelu, -3.0);
    assert_eq!((y[0], dz[0], dz[4]), (24.0, -6.0, 2.0));
    let [y, dz] = of(Activation::Relu6, 0.25);
    assert_eq!(y, [0.0, 0.0, 0.0, 0.0, 0.5, 6.0, 6.0, 6.0]);
    assert_eq!(dz, [0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0]);
    let [y, dz] = of(Activation::Silu, 0.25);
    // z / (1 + exp(-z)), which does not overflow for these.
    assert_close(&y, &Z.map(|z| z / (1.0 + (-z).exp())), 1e-15, "silu");
    assert_eq!((dz[2], dz[3], dz[7]), (1.0, 1.0, 2.0));
    // PyTorch's form of the derivative: sigmoid * (1 + z * (1 - sigmoid)).
    let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
    assert_close(&dz, &Z.map(|z| 2.0 * sigmoid(z) * (1.0 + z * (1.0 - sigmoid(z)))), 1e-14, "its derivative");
    // silu(z) - silu(-z) = z, and the derivatives add up to 1.
    let [opposite, its] = activated(Activation::Silu, 0.25, &Z.map(|z| -z));
    assert_close(&y.iter().zip(opposite).map(|(y, opposite)| y - opposite).collect::<Vec<_>>(), &Z, 1e-15, "odd part");
    assert_close(&dz.iter().zip(its).map(|(dz, its)| dz + its).collect::<Vec<_>>(), &[2.0; 8], 1e-15, "even part");
}

#[test]
fn activations_have_limits_and_keep_nan() {
    let z = [f64::NEG_INFINITY, f64::INFINITY, f64::NAN, -1e300, 1e300];
    let of = |activation| activated(activation, 0.25, &z);
    for (activation, below, above, its_below, its_above) in [
        (Activation::None, f64::NEG_INFINITY, f64::INFINITY, 2.0, 2.0),
        (Activation::Relu, 0.0, f64::INFINITY, 0.0, 2.0),
        (Activation::LeakyRelu, f64::NEG_INFINITY, f64::INFINITY, 0.5, 2.0),
        (Activation::Relu6, 0.0, 6.0, 0.0, 0.0),
        (Activation::Silu, 0.0, f64::INFINITY, 0.0, 2.0),
    ] {
        let [y, dz] = of(activation);
        assert_eq!((y[0], y[1]), (below, above), "{activation}");
        assert_eq!((dz[0], dz[1], dz[3], dz[4]), (its_below, its_above, its_below, its_above), "{activation}");
        assert!(y[2].is_nan(), "{activation}");
    }
    let at_nan = Activation::ALL.map(|activation| of(activation)[1][2]);
    assert_eq!(at_nan[..4], [2.0, 2.0, 0.5, 2.0]);
    assert!(at_nan[4].is_nan());
    let refused = Layer { negative_slope: f64::NAN, ..Layer::default() };
    let nc = shape(&[4, 1], Layout::ChannelsFirst);
    assert!(matches!(forward_training(&[0.0; 4], &nc, &refused), Err(Error::NegativeSlope { .. })));
}

#[test]
fn keeps_digits_far_from_zero() {
    let nc = shape(&[4, 1], Layout::ChannelsFirst);
    let offset = 2f64.powi(40);
    let x = [0.0, 1.0, 2.0, 5.0].map(|x| offset + x / 8.0);
    let found = statistics(&x, &nc).unwrap();
    assert_eq!((found.mean[0] - offset, found.var[0]), (0.25, 3.5 / 64.0));
    let constant = forward_training(&[0.1; 4], &nc, &Layer { beta: Some(&[0.7]), ..Layer::default() }).unwrap();
    assert_eq!((constant.y, constant.statistics.mean, constant.statistics.var), (vec![0.7; 4], vec![0.1], vec![0.0]));
}

#[test]
fn non_finite_values_stay_in_their_channel() {
    let nc = shape(&[2, 3], Layout::ChannelsFirst);
    for x in [[1.0, f64::INFINITY, f64::NAN, 2.0, 5.0, 6.0], [1.0, 5.0, 6.0, 2.0, f64::INFINITY, f64::NAN]] {
        let found = statistics(&x, &nc).unwrap();
        assert_eq!((found.mean[0], found.var[0], found.mean[1]), (1.5, 0.25, f64::INFINITY));
        assert!(found.var[1].is_nan() && found.mean[2].is_nan() && found.var[2].is_nan());
        let y = forward_training(&x, &nc, &Layer::default()).unwrap().y;
        assert!(y[0].is_finite() && y[3].is_finite() && y[1].is_nan() && y[4].is_nan() && y[2].is_nan());
    }
}

#[test]
fn wrong_calls_are_errors() {
    let (nc, one) = (shape(&[3, 2], Layout::ChannelsFirst), shape(&[1, 2], Layout::ChannelsFirst));
    let (x, c, none) = ([0.0; 6], [1.0; 2], &Layer::default());
    let mismatch = |result: Result<(), Error>, expected: &str| match result {
        Err(Error::Mismatch { name, .. }) => assert_eq!(name, expected),
        other => panic!("{expected}: {other:?}"),
    };
    mismatch(statistics(&x[1..], &nc).map(drop), "x");
    mismatch(forward_training(&x[1..], &nc, none).map(drop), "x");
    let short = Layer { gamma: Some(&c[1..]), ..Layer::default() };
    mismatch(forward_training(&x, &nc, &short).map(drop), "gamma");
    let long = Layer { beta: Some(&x), ..Layer::default() };
    mismatch(inference(&x, &nc, &c, &c, &long).map(drop), "beta");
    mismatch(backward_frozen(&x, &x, &nc, &c, &c, &long).map(drop), "beta");
    let per_channel = Layer { residual: Some(&c), ..Layer::default() };
    mismatch(forward_training(&x, &nc, &per_channel).map(drop), "residual");
    mismatch(backward_training(&x, &x, &nc, &per_channel).map(drop), "residual");
    mismatch(inference(&x, &nc, &x, &c, none).map(drop), "running_mean");
    mismatch(inference(&x, &nc, &c, &x, none).map(drop), "running_var");
    mismatch(backward_training(&x, &x[1..], &nc, none).map(drop), "dy");
    mismatch(backward_training(&x, &x, &nc, &Layer { gamma: Some(&x), ..Layer::default() }).map(drop), "gamma");
    mismatch(backward_frozen(&x, &x, &nc, &c, &x, none).map(drop), "running_var");
    mismatch(bound::statistics(&x[1..], &nc, &Execution::default()).map(drop), "x");
    mismatch(RunningStatistics::new(3).update(&statistics(&x, &nc).unwrap(), &RunningPolicy::default()), "batch mean");
    let empty = Statistics { count: 0, ..statistics(&x, &nc).unwrap() };
    mismatch(RunningStatistics::new(2).update(&empty, &RunningPolicy::default()), "batch count");
    for eps in [0.0, -1.0, f64::NAN] {
        let layer = Layer { eps, ..Layer::default() };
        assert!(matches!(forward_training(&x, &nc, &layer), Err(Error::Eps { .. })));
        assert!(matches!(backward_training(&x, &x, &nc, &layer), Err(Error::Eps { .. })));
    }
    assert!(matches!(forward_training(&c, &one, none), Err(Error::OneValuePerChannel { .. })));
    assert!(matches!(backward_training(&c, &c, &one, none), Err(Error::OneValuePerChannel { .. })));
    assert_eq!(statistics(&c, &one).unwrap().var, vec![0.0; 2]);
    let contradictory = RunningPolicy::pooled().average_standard_deviation();
    let batch = statistics(&x, &nc).unwrap();
    assert!(matches!(RunningStatistics::new(2).update(&batch, &contradictory), Err(Error::Policy { .. })));
}

/// dims, layout, and per-element x and dy, gamma and beta.
type Case = (Shape, Vec<f64>, Vec<f64>, Vec<f64>, Vec<f64>);

fn cases() -> impl Strategy<Value = Case> {
    let dims = (2usize..5, 1usize..4, 1usize..4, any::<bool>());
    dims.prop_flat_map(|(n, c, inner, last)| {
        let shape = if last {
            shape(&[n, inner, c], Layout::ChannelsLast)
        } else {
            shape(&[n, c, inner], Layout::ChannelsFirst)
        };
        let values = |count| prop::collection::vec(-3.0..3.0f64, count);
        let elements = shape.elements();
        (Just(shape), values(elements), values(elements), values(c), values(c))
    })
}

/// Central differences of `loss` at `at`.
fn differences(at: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let h = 1e-5;
    let moved = |i: usize, by: f64| {
        let mut moved = at.to_vec();
        moved[i] += by;
        loss(&moved)
    };
    (0..at.len()).map(|i| (moved(i, h) - moved(i, -h)) / (2.0 * h)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn training_gradients_match_finite_differences((shape, x, dy, gamma, beta) in cases()) {
        // A wide eps keeps the second derivative small where a channel is nearly constant.
        let loss = |x: &[f64], gamma: &[f64], beta: &[f64]| {
            let layer = Layer { gamma: Some(gamma), beta: Some(beta), eps: 0.1, ..Layer::default() };
            dot(&forward_training(x, &shape, &layer).unwrap().y, &dy)
        };
        let layer = Layer { gamma: Some(&gamma), eps: 0.1, ..Layer::default() };
        let gradients = backward_training(&x, &dy, &shape, &layer).unwrap();
        assert_close(&gradients.dx, &differences(&x, |x| loss(x, &gamma, &beta)), 1e-6, "dx");
        assert_close(&gradients.dgamma, &differences(&gamma, |gamma| loss(&x, gamma, &beta)), 1e-8, "dgamma");
        assert_close(&gradients.dbeta, &differences(&beta, |beta| loss(&x, &gamma, beta)), 1e-8, "dbeta");
    }

    #[test]
    fn frozen_gradients_match_finite_differences((shape, x, dy, gamma, beta) in cases()) {
        let (mean, var): (Vec<_>, Vec<_>) = gamma.iter().map(|g| (g * 0.7, g * g + 0.1)).unzip();
        let loss = |x: &[f64], gamma: &[f64], beta: &[f64]| {
            let layer = Layer { gamma: Some(gamma), beta: Some(beta), ..Layer::default() };
            dot(&inference(x, &shape, &mean, &var, &layer).unwrap(), &dy)
        };
        let layer = Layer { gamma: Some(&gamma), ..Layer::default() };
        let gradients = backward_frozen(&x, &dy, &shape, &mean, &var, &layer).unwrap();
        assert_close(&gradients.dx, &differences(&x, |x| loss(x, &gamma, &beta)), 1e-7, "dx");
        assert_close(&gradients.dgamma, &differences(&gamma, |gamma| loss(&x, gamma, &beta)), 1e-8, "dgamma");
        assert_close(&gradients.dbeta, &differences(&beta, |beta| loss(&x, &gamma, beta)), 1e-8, "dbeta");
    }

    #[test]
    fn gradients_through_residual_and_activation_match_finite_differences(
        (shape, x, dy, gamma, beta) in cases(),
        seed in prop::collection::vec(-9.0..9.0f64, 48),
        frozen in any::<bool>(),
        activation in prop::sample::select(Activation::ALL.to_vec()),
        negative_slope in -2.0..2.0f64,
    ) {
        let (mean, var): (Vec<_>, Vec<_>) = gamma.iter().map(|g| (g * 0.7, g * g + 0.1)).unzip();
        let forward = |x: &[f64], layer: &Layer<'_>| match frozen {
            true => inference(x, &shape, &mean, &var, layer).unwrap(),
            false => forward_training(x, &shape, layer).unwrap().y,
        };
        // Away from the corners, where no difference is a derivative.
        let bare = Layer { gamma: Some(&gamma), beta: Some(&beta), eps: 0.1, ..Layer::default() };
        let at_corner = |z: f64| [0.0, 6.0].iter().any(|corner| (z - corner).abs() < 1e-2);
        let away = |(bn, r): (&f64, &f64)| if at_corner(bn + r) { r + 0.1 } else { *r };
        let residual: Vec<_> = forward(&x, &bare).iter().zip(&seed).map(away).collect();
        let layer = Layer { residual: Some(&residual), activation, negative_slope, ..bare };
        let loss = |x: &[f64], layer: &Layer<'_>| dot(&forward(x, layer), &dy);
        let gradients = match frozen {
            true => backward_frozen(&x, &dy, &shape, &mean, &var, &layer).unwrap(),
            false => backward_training(&x, &dy, &shape, &layer).unwrap(),
        };
        assert_close(&gradients.dx, &differences(&x, |x| loss(x, &layer)), 1e-6, "dx");
        let by_gamma = differences(&gamma, |gamma| loss(&x, &Layer { gamma: Some(gamma), ..layer }));
        assert_close(&gradients.dgamma, &by_gamma, 1e-8, "dgamma");
        let by_beta = differences(&beta, |beta| loss(&x, &Layer { beta: Some(beta), ..layer }));
        assert_close(&gradients.dbeta, &by_beta, 1e-8, "dbeta");
        let by_residual = differences(&residual, |residual| loss(&x, &Layer { residual: Some(residual), ..layer }));
        assert_close(&gradients.dresidual, &by_residual, 1e-8, "dresidual");
    }

    #[test]
    fn a_residual_alone_is_added_and_its_gradient_is_dy((shape, x, dy, gamma, beta) in cases()) {
        let bare = Layer { gamma: Some(&gamma), beta: Some(&beta), ..Layer::default() };
        let layer = Layer { residual: Some(&dy), ..bare };
        let y = forward_training(&x, &shape, &bare).unwrap().y;
        let want: Vec<_> = y.iter().zip(&dy).map(|(y, residual)| y + residual).collect();
        assert_close(&forward_training(&x, &shape, &layer).unwrap().y, &want, 1e-14, "y");
        let gradients = backward_training(&x, &dy, &shape, &layer).unwrap();
        prop_assert_eq!(&gradients.dresidual, &dy);
        prop_assert_eq!(gradients, backward_training(&x, &dy, &shape, &bare).unwrap());
    }

    #[test]
    fn shifting_and_scaling_a_channel_changes_its_statistics_only(
        (shape, x, ..) in cases(),
        shift in -50.0..50.0f64,
        scale in 0.5..4.0f64,
    ) {
        let before = forward_training(&x, &shape, &Layer::default()).unwrap();
        let moved: Vec<_> = x.iter().map(|x| x * scale + shift).collect();
        // eps has to follow the scale.
        let after = forward_training(&moved, &shape, &Layer { eps: EPS * scale * scale, ..Layer::default() }).unwrap();
        assert_close(&after.y, &before.y, 1e-9, "y");
        let mean: Vec<_> = before.statistics.mean.iter().map(|mean| mean * scale + shift).collect();
        let var: Vec<_> = before.statistics.var.iter().map(|var| var * scale * scale).collect();
        assert_close(&after.statistics.mean, &mean, 1e-12, "mean");
        assert_close(&after.statistics.var, &var, 1e-12, "var");
    }

    #[test]
    fn permuting_the_batch_permutes_the_result((shape, x, dy, gamma, beta) in cases()) {
        let layer = Layer { gamma: Some(&gamma), beta: Some(&beta), ..Layer::default() };
        let wide = Layer { eps: 0.1, ..Layer::default() };
        let slice = x.len() / shape.dims()[0];
        let rotated = |values: &[f64]| [&values[slice..], &values[..slice]].concat();
        let y = forward_training(&x, &shape, &layer).unwrap().y;
        let y_rotated = forward_training(&rotated(&x), &shape, &layer).unwrap().y;
        assert_close(&y_rotated, &rotated(&y), 1e-9, "y");
        let dx = backward_training(&x, &dy, &shape, &wide).unwrap().dx;
        let dx_rotated = backward_training(&rotated(&x), &rotated(&dy), &shape, &wide).unwrap().dx;
        assert_close(&dx_rotated, &rotated(&dx), 1e-9, "dx");
    }

    #[test]
    fn layouts_agree((shape, x, dy, gamma, _) in cases()) {
        let (c, m) = (shape.channels(), shape.elements_per_channel());
        let last = Shape::new(&[m, c], Layout::ChannelsLast).unwrap();
        let transposed = |values: &[f64]| {
            let mut out = vec![0.0; values.len()];
            for channel in 0..c {
                for i in 0..m {
                    out[last.index(channel, i)] = values[shape.index(channel, i)];
                }
            }
            out
        };
        let layer = Layer { gamma: Some(&gamma), ..Layer::default() };
        let first = backward_training(&x, &dy, &shape, &layer).unwrap();
        let second = backward_training(&transposed(&x), &transposed(&dy), &last, &layer).unwrap();
        prop_assert_eq!(transposed(&first.dx), second.dx);
        prop_assert_eq!((first.dgamma, first.dbeta), (second.dgamma, second.dbeta));
    }

    #[test]
    fn the_outputs_of_training_are_normalized_and_gradients_orthogonal((shape, x, dy, ..) in cases()) {
        let forward = forward_training(&x, &shape, &Layer::default()).unwrap();
        let normalized = statistics(&forward.y, &shape).unwrap();
        let var: Vec<_> = forward.statistics.var.iter().map(|var| var / (var + EPS)).collect();
        assert_close(&normalized.mean, &vec![0.0; var.len()], 1e-12, "mean of y");
        assert_close(&normalized.var, &var, 1e-12, "variance of y");
        // A shift of x does not change y, so dx sums to 0.
        let dx = backward_training(&x, &dy, &shape, &Layer { eps: 0.1, ..Layer::default() }).unwrap().dx;
        let sums = statistics(&dx, &shape).unwrap().mean;
        assert_close(&sums, &vec![0.0; sums.len()], 1e-12, "mean of dx");
    }

    #[test]
    fn pooled_statistics_are_those_of_the_concatenation(
        sizes in prop::collection::vec(1usize..6, 1..6),
        values in prop::collection::vec(-3.0..3.0f64, 50),
        offset in prop::sample::select(vec![0.0, 1e3, 1e6]),
        biased in any::<bool>(),
    ) {
        let policy = if biased { RunningPolicy::pooled().biased() } else { RunningPolicy::pooled() };
        let x: Vec<_> = values.iter().map(|x| x + offset).collect();
        let mut running = RunningStatistics::new(2);
        let mut rows = 0;
        for size in sizes {
            running.update(&batch(&x[rows * 2..(rows + size) * 2]), &policy).unwrap();
            rows += size;
            let all = batch(&x[..rows * 2]);
            let unbiased = if biased || rows == 1 { 1.0 } else { rows as f64 / (rows as f64 - 1.0) };
            let var: Vec<_> = all.var.iter().map(|var| var * unbiased).collect();
            assert_close(&running.mean, &all.mean, 1e-14, "mean");
            assert_close(&running.var, &var, 1e-8, "var");
            prop_assert_eq!(&running.values, &vec![rows as u64; 2]);
        }
    }
}

/// Statistics of rows of two channels.
fn batch(x: &[f64]) -> Statistics {
    statistics(x, &shape(&[x.len() / 2, 2], Layout::ChannelsFirst)).unwrap()
}

/// Three batches of different sizes, the last of one row.
fn batches() -> [Statistics; 3] {
    [batch(&[1.0, -4.0, 3.0, 2.0, 8.0, 0.5]), batch(&[0.0, 1.0, 0.5, 1.0, 2.0, 3.0, -1.0, 5.0]), batch(&[7.0, 9.0])]
}

fn updated(policy: RunningPolicy, batches: &[Statistics]) -> RunningStatistics {
    let mut running = RunningStatistics::new(2);
    for batch in batches {
        running.update(batch, &policy).unwrap();
    }
    running
}

fn unbiased(batch: &Statistics) -> Vec<f64> {
    let m = batch.count as f64;
    batch.var.iter().map(|var| if m > 1.0 { var * m / (m - 1.0) } else { *var }).collect()
}

#[test]
fn exponential_average_is_pytorchs() {
    let found = updated(RunningPolicy::exponential(0.3), &batches());
    let (mut mean, mut var) = (vec![0.0; 2], vec![1.0; 2]);
    for batch in batches() {
        for c in 0..2 {
            mean[c] = 0.3 * batch.mean[c] + 0.7 * mean[c];
            var[c] = 0.3 * unbiased(&batch)[c] + 0.7 * var[c];
        }
    }
    assert_close(&found.mean, &mean, 1e-15, "mean");
    assert_close(&found.var, &var, 1e-15, "var");
    assert_eq!(
        updated(RunningPolicy::from_decay(0.75), &batches()),
        updated(RunningPolicy::exponential(0.25), &batches())
    );
    let biased = updated(RunningPolicy::exponential(1.0).biased(), &batches()[..2]);
    assert_close(&biased.var, &batches()[1].var, 1e-15, "biased var");
}

#[test]
fn cumulative_average_is_the_papers_expectation_over_batches() {
    let found = updated(RunningPolicy::cumulative(), &batches());
    let deviations = updated(RunningPolicy::cumulative().biased().average_standard_deviation(), &batches());
    for c in 0..2 {
        let over_batches = |f: &dyn Fn(&Statistics) -> f64| batches().iter().map(f).sum::<f64>() / 3.0;
        assert_close(&[found.mean[c]], &[over_batches(&|batch| batch.mean[c])], 1e-15, "mean");
        assert_close(&[found.var[c]], &[over_batches(&|batch| unbiased(batch)[c])], 1e-15, "var");
        let squared = over_batches(&|batch| batch.var[c].sqrt()).powi(2);
        assert_close(&[deviations.var[c]], &[squared], 1e-15, "squared mean deviation");
    }
}

#[test]
fn windows_and_counts() {
    let policy = RunningPolicy::cumulative().window(1, Some(1));
    let found = updated(policy, &batches());
    let alone = updated(RunningPolicy::cumulative(), &batches()[1..2]);
    assert_eq!((&found.mean, &found.var), (&alone.mean, &alone.var));
    assert_eq!((found.tracked, found.averaged, found.values), (vec![3; 2], vec![1; 2], vec![4; 2]));
    let rest = updated(RunningPolicy::pooled().window(1, None), &batches());
    assert_eq!(rest.values, vec![5; 2]);
    assert_eq!(updated(RunningPolicy::cumulative().window(0, Some(0)), &batches()).mean, vec![0.0; 2]);
    let mut huge = RunningStatistics::new(2);
    huge.tracked = vec![u64::MAX; 2];
    huge.update(&batches()[0], &RunningPolicy::cumulative().window(u32::MAX, Some(u32::MAX))).unwrap();
    assert_eq!((huge.averaged, huge.tracked), (vec![0; 2], vec![u64::MAX; 2]));
}

#[test]
fn non_finite_batches_are_skipped_or_propagate() {
    let [first, mut bad, last] = batches();
    bad.var[1] = f64::INFINITY;
    bad.mean[1] = f64::NAN;
    let sequence = [first.clone(), bad.clone(), last.clone()];
    for policy in [RunningPolicy::exponential(0.1), RunningPolicy::cumulative(), RunningPolicy::pooled()] {
        let found = updated(policy, &sequence);
        let without = updated(policy, &[first.clone(), last.clone()]);
        let all = updated(policy, &batches());
        assert_eq!((found.mean[0], found.mean[1]), (all.mean[0], without.mean[1]));
        assert_eq!((found.var[0], found.var[1]), (all.var[0], without.var[1]));
        assert_eq!((found.tracked, found.averaged, found.skipped), (vec![3; 2], vec![3, 2], vec![0, 1]));
        let propagated = updated(policy.propagate_non_finite(), &sequence);
        assert!(propagated.mean[1].is_nan() && propagated.var[1].is_nan() && propagated.mean[0].is_finite());
        assert_eq!((propagated.averaged, propagated.skipped), (vec![3; 2], vec![0; 2]));
    }
}

/// One step in f32, in the form `o + w (b - o)` or `w b + (1 - w) o`.
fn step(old: f32, new: f32, weight: f32, difference_form: bool) -> f32 {
    if difference_form { old + weight * (new - old) } else { weight * new + (1.0 - weight) * old }
}

/// An update of (mean, var) in f32, as a kernel would do it; `n` batches and `n * m` values came before.
fn update(state: (f32, f32), batch: (f32, f32), n: u32, m: u32, policy: &RunningPolicy, form: bool) -> (f32, f32) {
    let unbiased = |var: f32, count: u32| var * (count as f32 / (count - 1) as f32);
    let new = (batch.0, unbiased(batch.1, m));
    match policy.average {
        Average::Exponential { momentum } => {
            (step(state.0, new.0, momentum as f32, form), step(state.1, new.1, momentum as f32, form))
        }
        _ if n == 0 => new,
        Average::Cumulative => {
            let weight = 1.0 / (n + 1) as f32;
            let var = match policy.spread {
                Spread::Variance => step(state.1, new.1, weight, form),
                Spread::StandardDeviation => step(state.1.sqrt(), new.1.sqrt(), weight, form).powi(2),
            };
            (step(state.0, new.0, weight, form), var)
        }
        Average::Pooled => {
            let (old, total) = (n * m, (n + 1) * m);
            let (weight, delta) = (m as f32 / total as f32, batch.0 - state.0);
            let m2 = state.1 * (old - 1) as f32 + batch.1 * m as f32 + delta * delta * weight * old as f32;
            (step(state.0, batch.0, weight, form), m2 / (total - 1) as f32)
        }
    }
}

#[test]
fn the_running_bound_holds_for_f32_updates() {
    let rows = shape(&[7, 2], Layout::ChannelsFirst);
    let deviations = RunningPolicy::cumulative().average_standard_deviation();
    for policy in [RunningPolicy::default(), RunningPolicy::cumulative(), deviations, RunningPolicy::pooled()] {
        for form in [true, false] {
            let (mut state, mut tolerance) = (RunningStatistics::new(2), StatisticsBound::exact(2));
            let (mut mean, mut var) = ([0.0f32; 2], [1.0f32; 2]);
            for n in 0..200u32 {
                let x: Vec<_> =
                    (0..14).map(|i| f64::from((f64::from(i * 37 + n * 11) * 0.73).sin() as f32 + 1e3)).collect();
                let (found, found_bound) = (batch(&x), bound::statistics(&x, &rows, &Execution::default()).unwrap());
                tolerance = bound::running(&state, &tolerance, &found, &found_bound, &policy).unwrap();
                state.update(&found, &policy).unwrap();
                for c in 0..2 {
                    let new = (found.mean[c] as f32, found.var[c] as f32);
                    (mean[c], var[c]) = update((mean[c], var[c]), new, n, 7, &policy, form);
                }
                for (got, want, tolerance) in [(mean, &state.mean, &tolerance.mean), (var, &state.var, &tolerance.var)]
                {
                    let outcome = compare(&got, want, tolerance).unwrap();
                    assert!(outcome.passed(), "{policy:?}, batch {n}: {outcome}");
                }
            }
            // Faults such as a forgotten m/(m-1), a seventh of the variance here, lie far outside.
            let tight = |(tolerance, var): (&f64, &f64)| *tolerance < 1e-2 * var;
            assert!(tolerance.var.iter().zip(&state.var).all(tight), "{policy:?}: {tolerance:?}");
        }
    }
}

#[test]
fn a_batch_of_weight_one_replaces_any_state() {
    let batch = Statistics { mean: vec![2.0], var: vec![3.0], count: 4 };
    for (policy, var) in [
        (RunningPolicy::exponential(1.0), 4.0),
        (RunningPolicy::cumulative(), 4.0),
        (RunningPolicy::pooled().biased(), 3.0),
    ] {
        for old in [f64::NAN, f64::INFINITY, -3e38] {
            let mut state = RunningStatistics { mean: vec![old], var: vec![old], ..RunningStatistics::new(1) };
            state.update(&batch, &policy).unwrap();
            assert_eq!((state.mean[0], state.var[0], state.skipped[0]), (2.0, var, 0), "{policy:?} {old}");
        }
    }
}

#[test]
fn batches_too_far_away_for_f32_are_skipped() {
    let skips = |policy: RunningPolicy, old: f64, mean: f64, var: f64| {
        let mut state =
            RunningStatistics { mean: vec![old], averaged: vec![5], values: vec![4], ..RunningStatistics::new(1) };
        state.update(&Statistics { mean: vec![mean], var: vec![var], count: 4 }, &policy).unwrap();
        state.skipped[0] == 1
    };
    for policy in [RunningPolicy::default(), RunningPolicy::cumulative(), RunningPolicy::pooled()] {
        // The distance of the means is what does not fit; the means do.
        assert!(skips(policy, -3e38, 3e38, 1.0) && !skips(policy, 3e38, 3e38, 1.0), "{policy:?}");
        for (mean, var) in [(f64::NAN, 1.0), (f64::INFINITY, 1.0), (1.0, f64::INFINITY), (1.0, f64::NAN)] {
            assert!(skips(policy, 0.0, mean, var), "{policy:?} {mean} {var}");
        }
    }
    // The square of the distance enters the pooled variance.
    assert!(skips(RunningPolicy::pooled(), -2e20, 2e20, 1.0) && !skips(RunningPolicy::default(), -2e20, 2e20, 1.0));
}

/// The pair of f32 nearest to a sum of two.
fn nearest_pair(a: f32, b: f32) -> (f32, f32) {
    let sum = f64::from(a) + f64::from(b);
    (sum as f32, (sum - f64::from(sum as f32)) as f32)
}

#[test]
fn the_running_bound_of_a_pair_holds_and_one_f32_breaks_it() {
    let (rows, policy) = (shape(&[7, 1], Layout::ChannelsFirst), RunningPolicy::default());
    for keeps_remainder in [true, false] {
        let (mut state, mut tolerance) = (RunningStatistics::new(1), StatisticsBound::exact(1));
        let (mut mean, mut remainder) = (0.0f32, 0.0f32);
        let mut broken = 0;
        for n in 0..100 {
            let x: Vec<_> = (0..7).map(|i| f64::from((f64::from(i * 37 + n * 11) * 0.73).sin() as f32 + 1e3)).collect();
            let found = statistics(&x, &rows).unwrap();
            let found_bound = bound::statistics(&x, &rows, &Execution::default()).unwrap();
            tolerance = bound::running(&state, &tolerance, &found, &found_bound, &policy).unwrap();
            state.update(&found, &policy).unwrap();
            let shift = x[0] as f32;
            let delta = (shift - mean) + ((found.mean[0] - f64::from(shift)) as f32 - remainder);
            (mean, remainder) = nearest_pair(mean, remainder + 0.1 * delta);
            if !keeps_remainder {
                remainder = 0.0;
            }
            let got = f64::from(mean) + f64::from(remainder);
            broken += usize::from(!compare(&[got], &state.mean, &tolerance.mean_pair).unwrap().passed());
        }
        assert_eq!(broken == 0, keeps_remainder, "{broken}");
    }
}
