//! The activations besides ReLU: the bound holds for them, is not idle, and planted faults break it.

use super::super::activation::{activated, through_activation};
use super::super::dtype::stored;
use super::epilogue::{broken, holds, stored_task, with_residual};
use super::*;

/// The activations, leaky ReLU with slopes of every kind.
const ACTIVATIONS: [(Activation, f32); 8] = [
    (Activation::LeakyRelu, 0.01),
    (Activation::LeakyRelu, 0.0),
    (Activation::LeakyRelu, -0.5),
    (Activation::LeakyRelu, 3.0),
    (Activation::LeakyRelu, 1e-41),
    (Activation::Relu, 0.0),
    (Activation::Relu6, 0.0),
    (Activation::Silu, 0.0),
];

/// A gradient whose products are rounded.
const DY: f32 = 1.3;

fn layer(activation: Activation, negative_slope: f32) -> Layer<'static> {
    Layer { activation, negative_slope: negative_slope.into(), ..Layer::default() }
}

/// z of every size and sign, near the corners too, and where exponentials become subnormal.
fn preactivations() -> Vec<f64> {
    let mut random = Random(3);
    let wide = (-1150..1150).map(|i| f64::from(i) * 0.1);
    let corners =
        [0.0, 6.0].map(|corner| (0..300).map(move |i| corner + 1e-8 * 1.1f64.powi(i / 2) * f64::from(1 - i % 2 * 2)));
    let random = std::iter::repeat_with(|| 3.0 * random.normal()).take(3000).collect::<Vec<_>>();
    let sizes = (-44..39).flat_map(|power| [1.0, -1.0].map(|sign| sign * 10f64.powi(power)));
    wide.chain(corners.into_iter().flatten()).chain(random).chain(sizes).collect()
}

/// The largest error over bound of y and of dz for kernels that see z up to `error` away, and the largest error relative to
/// what is computed.
fn ratios(activation: (Activation, f32), error: impl Fn(f64) -> f64) -> [f64; 2] {
    let layer = layer(activation.0, activation.1);
    let task = Task { activation: activation.0, negative_slope: activation.1, ..Task::default() };
    let mut worst = [0.0f64; 2];
    for z in preactivations() {
        let seen = Uncertain { value: z, error: error(z) + U * (z.abs() + error(z)) + flushed(z, 0.0) };
        let y = activated(&layer, seen, DType::F32);
        let dz = through_activation(&layer, seen, DY.into());
        for at in [-1.0, -0.37, 0.0, 0.61, 1.0] {
            let kernel = (z + at * error(z)) as f32;
            for rounding in [Rounding::Nearest, Rounding::Rough] {
                let gpu = Gpu { lanes: 1, splits: 1, rounding, fault: None };
                let found = [
                    (f64::from(gpu.activated(&task, kernel)) - y.value, stored(y.value, y.error, DType::F32)),
                    (f64::from(gpu.through_activation(&task, kernel, DY)) - dz.dz.value, dz.dz.error),
                ];
                for (i, (off, bound)) in found.into_iter().enumerate() {
                    assert!(
                        off.abs() <= bound,
                        "{activation:?}: z {z:e}, seen as {kernel:e}: {i} off by {off:e}, bound {bound:e}"
                    );
                    // In the subnormal range flushing is all.
                    if bound > 1e-30 {
                        worst[i] = worst[i].max(off.abs() / bound);
                    }
                }
                assert!(
                    gpu.through_activation(&task, kernel, DY).abs() <= dz.magnitude as f32 * 1.001,
                    "{activation:?} {z:e}"
                );
            }
        }
    }
    worst
}

#[test]
fn activations_stay_within_their_bound_and_come_near() {
    for activation in ACTIVATIONS {
        for error in [0.0, 1e-6, 1e-3, 0.3] {
            let [y, dz] = ratios(activation, |_| error);
            ratios(activation, |z| error * z.abs());
            // A z that is off is most of the error, or else the arithmetic is, which is bounded step by step.
            let least = if error > 0.0 { 0.5 } else { 0.1 };
            assert!(y >= least, "{activation:?} {error:e}: y {y}");
            // A product with other slopes is exact.
            let rounds = activation.0 == Activation::Silu || activation.1 == 0.01;
            assert!(dz >= least || !(rounds || error > 0.0), "{activation:?} {error:e}: dz {dz}");
        }
    }
}

#[test]
fn hold_for_every_storage_type() {
    for dtype in DType::ALL {
        for (i, kind) in DATA.into_iter().enumerate() {
            for (j, m) in [2, 5, 64, 333, 4097].into_iter().enumerate() {
                let Some(plain) = stored_task(kind, GRADIENTS[j], m, dtype) else { continue };
                for (k, (activation, negative_slope)) in ACTIVATIONS.into_iter().enumerate() {
                    let residual = ["ordinary", "f16 values", "constant", "tiny numbers"][(i + j + k) % 4];
                    let with = with_residual(Task { parameters: [4.0, 1.0, 1e-5], ..plain.clone() }, residual);
                    let full = Task { activation, negative_slope, ..with };
                    let what = format!("{activation} {negative_slope} {kind} + {residual}, m {m}");
                    let outcome = holds(&full, 1.0, &what);
                    assert!(outcome.iter().all(|comparison| comparison.unbounded == 0), "{what}, {dtype}");
                    let mean = full.x[0];
                    holds(&Task { running: Some([mean, 1.3]), ..full }, 1.0, &format!("frozen {what}"));
                }
            }
        }
    }
}

#[test]
fn the_bound_is_used_by_ordinary_data() {
    for (activation, negative_slope) in ACTIVATIONS {
        let plain = stored_task("ordinary", "ordinary", 1000, DType::F32).unwrap();
        let task = Task { activation, negative_slope, parameters: [4.0, 1.0, 1e-5], ..plain };
        let outcome = holds(&task, 1.0, "ordinary");
        assert!(
            outcome[0].worst_ratio > 0.02 && outcome[3].worst_ratio > 0.01,
            "{activation}: {:?}",
            outcome.map(|one| one.worst_ratio)
        );
        // Of dz relative to dy: a few units of the last place, and what z is off by.
        let judge = Judge::new(&task);
        let loosest = judge.tolerance[6].iter().zip(&task.dy).map(|(tolerance, dy)| tolerance / f64::from(dy.abs()));
        let doubts = loosest.filter(|&loose| loose > 1e-4).count();
        assert!(doubts < 3, "{activation}: {doubts}");
    }
}

#[test]
fn corners_are_in_doubt_at_zero_and_at_six() {
    let in_doubt = |activation, z: f64| {
        let seen = Uncertain { value: z, error: 1e-6 };
        through_activation(&layer(activation, 0.01), seen, 2.0).dz.error > 1.0
    };
    for (activation, corners) in [
        (Activation::Relu, &[0.0][..]),
        (Activation::LeakyRelu, &[0.0]),
        (Activation::Relu6, &[0.0, 6.0]),
        (Activation::Silu, &[]),
    ] {
        for z in
            [-6.0, -1.0, -2e-6, -5e-7, 0.0, 5e-7, 2e-6, 1.0, 6.0 - 2e-6, 6.0 - 5e-7, 6.0, 6.0 + 5e-7, 6.0 + 2e-6, 7.0]
        {
            let near = corners.iter().any(|corner| f64::abs(z - corner) <= 1e-6);
            assert_eq!(in_doubt(activation, z), near, "{activation} {z}");
        }
    }
    // A z that is exact is in no doubt, and saturated values are exact.
    for (z, want) in [(0.0, 0.0), (6.0, 0.0), (5.9, 2.0)] {
        let exact = through_activation(&layer(Activation::Relu6, 0.01), Uncertain { value: z, error: 0.0 }, 2.0);
        assert_eq!((exact.dz.value, exact.dz.error), (want, 0.0), "{z}");
    }
    for (z, y) in [(-1.0, 0.0), (7.0, 6.0), (1e30, 6.0)] {
        let saturated = activated(&layer(Activation::Relu6, 0.01), Uncertain { value: z, error: 0.5 }, DType::F16);
        assert_eq!((saturated.value, saturated.error), (y, 0.0), "{z}");
    }
}

#[test]
fn infinities_have_their_limits() {
    let exact = |value| Uncertain { value, error: 0.0 };
    for (activation, slope, below, above) in [
        (Activation::Relu, 0.01, 0.0, f64::INFINITY),
        (Activation::LeakyRelu, 0.01, f64::NEG_INFINITY, f64::INFINITY),
        (Activation::LeakyRelu, -2.0, f64::INFINITY, f64::INFINITY),
        (Activation::Relu6, 0.01, 0.0, 6.0),
        (Activation::Silu, 0.01, 0.0, f64::INFINITY),
    ] {
        for (z, want) in [(f64::NEG_INFINITY, below), (f64::INFINITY, above)] {
            let found = activated(&layer(activation, slope), exact(z), DType::F32);
            assert_eq!(found.value, want, "{activation} {z}");
            assert!(found.error < 1e-35, "{activation} {z}: {found:?}");
        }
    }
    for (z, want) in [(f64::NEG_INFINITY, 0.0), (f64::INFINITY, 3.0)] {
        let found = through_activation(&layer(Activation::Silu, 0.01), exact(z), 3.0).dz;
        assert!(found.value == want && found.error < 1e-5, "{z}: {found:?}");
    }
    // Infinity times 0 is NaN, and a slope that a device may flush leaves both open.
    assert!(activated(&layer(Activation::LeakyRelu, 0.0), exact(f64::NEG_INFINITY), DType::F32).value.is_nan());
    let flushed = activated(&layer(Activation::LeakyRelu, 1e-41), exact(f64::NEG_INFINITY), DType::F32);
    assert_eq!(flushed.error, f64::INFINITY);
    // A z that f32 may not hold is infinite in a kernel; only where it is multiplied does that show in what is stored.
    let large = Uncertain { value: -3e39, error: 1e33 };
    assert_eq!(activated(&layer(Activation::LeakyRelu, 0.01), large, DType::F32).error, f64::INFINITY);
    assert!(activated(&layer(Activation::LeakyRelu, 0.01), large, DType::F16).error < 1e35);
    assert!(activated(&layer(Activation::Silu, 0.01), large, DType::F32).error < 1e-35);
}

#[test]
fn faults_of_the_activations_break_it() {
    let with = |activation, scale: f32, m, dtype| Task {
        activation,
        negative_slope: 0.01,
        parameters: [scale, 1.0, 1e-5],
        ..with_residual(stored_task("ordinary", "positive", m, dtype).unwrap(), "ordinary")
    };
    let gradients = ["dx", "dgamma", "dbeta", "dresidual"];
    for dtype in DType::ALL {
        for m in [64, 1000] {
            let leaky = broken(Fault::SlopeForgotten, &with(Activation::LeakyRelu, 2.0, m, dtype));
            assert_eq!(leaky, gradients, "{dtype}, m {m}");
            let six = broken(Fault::SixForgotten, &with(Activation::Relu6, 4.0, m, dtype));
            assert!(six.contains(&"y") && six.contains(&"dresidual"), "{dtype}, m {m}: {six:?}");
            let gate = broken(Fault::GateAlone, &with(Activation::Silu, 2.0, m, dtype));
            assert_eq!(gate, gradients, "{dtype}, m {m}");
        }
    }
    // Where exp(-z) is infinite, z / (1 + exp(-z)) is 0, which is near enough; at minus infinity it is NaN.
    let mut far = with(Activation::Silu, 1.0, 64, DType::F32);
    far.residual.as_mut().unwrap()[3] = f32::NEG_INFINITY;
    assert_eq!(broken(Fault::ExponentialOfMinusZ, &Task { running: Some([0.0, 1.0]), ..far }), ["y"]);
}
