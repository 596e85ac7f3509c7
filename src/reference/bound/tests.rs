//! The bound against the simulated kernels: it holds, it is not idle, and planted faults break it.

mod activation;
mod epilogue;
mod page;
mod search;

use super::simulation::{Fault, Gpu, Output, Rounding, Task};
use super::*;
use crate::config::Activation;
use crate::reference::{self, Layer};
use crate::shape::{Layout, Shape};

/// gamma, beta, eps.
const AFFINE: [f32; 3] = [1.25, -0.5, 1e-5];

/// splitmix64, so that the data are the same everywhere.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let (radius, angle) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * radius.ln()).sqrt() * (2.0 * std::f64::consts::PI * angle).cos()
    }
}

const DATA: [&str; 18] = [
    "ordinary",
    "offset 1e2",
    "offset 1e4",
    "offset 1e6",
    "offset -1e4 small",
    "constant",
    "tiny variance",
    "outlier first",
    "outliers at k",
    "mixed magnitudes",
    "ramp",
    "two values",
    "two values offset",
    "step",
    "f16 values",
    "one large",
    "tiny numbers",
    "large numbers",
];

fn data(kind: &str, m: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    let mut value = |i: usize| {
        let z = random.normal();
        match kind {
            "ordinary" | "outlier first" | "outliers at k" | "one large" => z,
            "offset 1e2" => 1e2 + z,
            "offset 1e4" => 1e4 + z,
            "offset 1e6" => 1e6 + z,
            "offset -1e4 small" => -1e4 + 1e-2 * z,
            "constant" => 0.1,
            "tiny variance" => 1.0 + 3e-7 * z,
            "mixed magnitudes" => z * 10f64.powf(12.0 * random.uniform() - 6.0),
            "ramp" => i as f64 / m as f64 * 3.3 - 0.7,
            "two values" => [0.1, 0.7][i % 2],
            "two values offset" => [1e3 + 0.1, 1e3 + 0.7][i / 3 % 2],
            "step" => [0.3, 5.7][2 * i / m],
            "f16 values" => DType::F16.round(z),
            "tiny numbers" => z * 1e-18,
            "large numbers" => z * 1e15,
            _ => unreachable!("{kind}"),
        }
    };
    let mut x: Vec<f32> = (0..m).map(|i| value(i) as f32).collect();
    match kind {
        "outlier first" => x[0] = 1e4,
        "outliers at k" => (x[0], x[m / 2], x[m - 1]) = (1e4, 1.2e4, 0.9e4),
        "one large" => x[m / 3] = 1e6,
        _ => {}
    }
    x
}

const GRADIENTS: [&str; 5] = ["ordinary", "equal", "mean loss", "positive", "blocks"];

fn gradient(kind: &str, m: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    let mut value = |i: usize| match kind {
        "ordinary" => random.normal(),
        "equal" => 0.1,
        "mean loss" => 1.0 / m as f64,
        "positive" => random.uniform(),
        "blocks" => (8 * i / m) as f64 * 0.37 - 1.1,
        _ => unreachable!("{kind}"),
    };
    (0..m).map(|i| value(i) as f32).collect()
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

/// Outcomes for y, mean, var, dx, dgamma, dbeta, dresidual.
type Outcome = [Comparison; 7];
const NAMES: [&str; 7] = ["y", "mean", "var", "dx", "dgamma", "dbeta", "dresidual"];

/// A plain training step.
fn task(x: &[f32], dy: &[f32]) -> Task {
    Task { x: x.to_vec(), dy: dy.to_vec(), parameters: AFFINE, ..Task::default() }
}

/// The oracle's answer and the tolerances, for one channel.
struct Judge {
    want: [Vec<f64>; 7],
    tolerance: [Vec<f64>; 7],
}

impl Judge {
    fn new(task: &Task) -> Self {
        let first_part = task.first_part.map(|n| n as u64);
        Self::with(task, &Execution { dtype: task.dtype, in_place: task.in_place, first_part, adds: false })
    }

    /// A judge who may be wrong about how the task is done.
    fn with(task: &Task, execution: &Execution) -> Self {
        let shape = Shape::new(&[task.x.len(), 1], Layout::ChannelsFirst).unwrap();
        let (x, dy, residual) = (widen(&task.x), widen(&task.dy), task.residual.as_deref().map(widen));
        let [gamma, beta, eps] = task.parameters.map(f64::from);
        let layer = Layer {
            gamma: Some(&[gamma]),
            beta: Some(&[beta]),
            eps,
            residual: residual.as_deref(),
            activation: task.activation,
            negative_slope: task.negative_slope.into(),
        };
        let (y, gradients, y_bound, bounds, statistics, statistics_bound) = match task.running {
            None => {
                let forward = reference::forward_training(&x, &shape, &layer).unwrap();
                let bound = forward_training(&x, &shape, &layer, execution).unwrap();
                let gradients = reference::backward_training(&x, &dy, &shape, &layer).unwrap();
                let bounds = backward_training(&x, &dy, &shape, &layer, execution).unwrap();
                (forward.y, gradients, bound.y, bounds, forward.statistics, bound.statistics)
            }
            Some(running) => {
                let [mean, var] = running.map(|value| vec![f64::from(value)]);
                let y = reference::inference(&x, &shape, &mean, &var, &layer).unwrap();
                let y_bound = inference(&x, &shape, &mean, &var, &layer, execution).unwrap();
                let gradients = reference::backward_frozen(&x, &dy, &shape, &mean, &var, &layer).unwrap();
                let bounds = backward_frozen(&x, &dy, &shape, &mean, &var, &layer, execution).unwrap();
                let count = x.len() as u64;
                (y, gradients, y_bound, bounds, reference::Statistics { mean, var, count }, StatisticsBound::exact(1))
            }
        };
        let reference::Gradients { dx, dgamma, dbeta, dresidual } = gradients;
        let (tolerances, found) = (bounds, statistics_bound);
        let mut judge = Self {
            want: [y, statistics.mean, statistics.var, dx, dgamma, dbeta, dresidual],
            tolerance: [
                y_bound,
                found.mean,
                found.var,
                tolerances.dx,
                tolerances.dgamma,
                tolerances.dbeta,
                tolerances.dresidual,
            ],
        };
        for i in [0, 3, 6] {
            settle_overflow(&mut judge.want[i], &mut judge.tolerance[i], execution.dtype);
        }
        judge
    }

    fn compare(&self, got: &Output) -> Outcome {
        let got: [&[f32]; 7] = [&got.y, &[got.mean], &[got.var], &got.dx, &[got.dgamma], &[got.dbeta], &got.dresidual];
        std::array::from_fn(|i| compare(got[i], &self.want[i], &self.tolerance[i]).unwrap())
    }
}

const ROUNDINGS: [Rounding; 4] = [Rounding::Nearest, Rounding::Rough, Rounding::Low, Rounding::High];

/// Spreads that the plan would allow for m values.
fn gpus(m: usize) -> Vec<Gpu> {
    let spread = [(1, 1), (4, 2), (64, 1), (128, 3), (256, 1), (64, 8), (256, 8)];
    let all = spread
        .into_iter()
        .flat_map(|(lanes, splits)| ROUNDINGS.map(|rounding| Gpu { lanes, splits, rounding, fault: None }));
    all.filter(|gpu| gpu.longest_run(m) <= 4 * (64 + m.isqrt())).collect()
}

fn median(ratios: &mut [f64]) -> f64 {
    ratios.sort_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).copied().unwrap_or(0.0)
}

fn check(kind: &str, dy_kind: &str, m: usize, ratios: &mut [Vec<f64>; 7]) {
    let seed = (m * 31 + kind.len() * 7 + dy_kind.len()) as u64;
    let (x, dy) = (data(kind, m, seed), gradient(dy_kind, m, seed + 1));
    let task = task(&x, &dy);
    let judge = Judge::new(&task);
    for gpu in gpus(m) {
        let outcome = judge.compare(&gpu.run(&task));
        for ((name, comparison), ratios) in NAMES.iter().zip(&outcome).zip(ratios.iter_mut()) {
            // The last rounding of the mean far from zero, and of y near beta, is all of their error and may reach the
            // half ulp that it is bounded by; all else keeps a margin.
            let limit = if matches!(*name, "mean" | "y") { 1.0 } else { 0.8 };
            assert!(comparison.worst_ratio < limit, "{kind}, dy {dy_kind}, m {m}, {gpu:?}, {name}: {comparison}");
            assert_eq!(comparison.unbounded, 0, "{kind}, dy {dy_kind}, m {m}, {name}");
            ratios.push(comparison.worst_ratio);
        }
    }
}

#[test]
fn holds_with_margin() {
    for kind in DATA {
        let mut ratios: [Vec<f64>; 7] = Default::default();
        for (i, m) in [2, 3, 5, 8, 17, 64, 100, 333, 1000, 4097, 10_000, 40_000].into_iter().enumerate() {
            check(kind, GRADIENTS[i % 5], m, &mut ratios);
            check(kind, GRADIENTS[(i + 2) % 5], m, &mut ratios);
        }
        report(kind, &mut ratios);
    }
}

#[test]
fn holds_for_long_sums() {
    for (kind, dy, m) in [
        ("ordinary", "equal", 1_000_000),
        ("ramp", "ordinary", 1_000_000),
        ("offset 1e6", "mean loss", 200_000),
        ("two values", "blocks", 200_000),
    ] {
        let mut ratios: [Vec<f64>; 7] = Default::default();
        check(kind, dy, m, &mut ratios);
        report(&format!("{kind}, {m}"), &mut ratios);
    }
}

fn report(kind: &str, ratios: &mut [Vec<f64>; 7]) {
    let figures = NAMES
        .iter()
        .zip(ratios)
        .map(|(name, ratios)| format!("{name} {:.3}/{:.3}", median(ratios), ratios.last().copied().unwrap_or(0.0)));
    println!("{kind:>20} median/max: {}", figures.collect::<Vec<_>>().join("  "));
}

#[test]
fn ordinary_data_use_the_bound() {
    let mut ratios: [Vec<f64>; 7] = Default::default();
    for m in [64, 100, 256, 1000, 4097, 10_000] {
        check("ordinary", "ordinary", m, &mut ratios);
    }
    let y = median(&mut ratios[0]);
    let dx = median(&mut ratios[3]);
    assert!(y > 0.02 && dx > 0.01, "y {y}, dx {dx}");
}

#[test]
fn holds_for_frozen_statistics() {
    for (kind, running) in
        [("ordinary", [0.1, 1.3]), ("offset 1e6", [1e6, 0.9]), ("constant", [0.1, 0.0]), ("ramp", [1e3, 1e-3])]
    {
        for m in [1, 3, 100, 4097] {
            let (x, dy) = (data(kind, m, 7), gradient("ordinary", m, 8));
            let task = Task { running: Some(running), ..task(&x, &dy) };
            let judge = Judge::new(&task);
            for gpu in gpus(m) {
                let outcome = judge.compare(&gpu.run(&task));
                for (name, comparison) in NAMES.iter().zip(&outcome) {
                    assert!(comparison.passed(), "{kind}, m {m}, {gpu:?}, {name}: {comparison}");
                }
            }
        }
    }
}

#[test]
fn constant_channels_have_no_tolerance() {
    for value in [0.1f32, -3e7, 0.0, 1e20] {
        let x = vec![value; 777];
        let judge = Judge::new(&task(&x, &gradient("ordinary", 777, 3)));
        assert!(judge.tolerance[..3].iter().flatten().all(|&tolerance| tolerance == 0.0), "{value}");
        assert!(judge.want[0].iter().all(|&y| y == f64::from(AFFINE[1])), "{value}");
        assert_eq!((judge.want[1][0], judge.want[2][0]), (f64::from(value), 0.0));
    }
}

#[test]
fn overflow_is_unbounded_and_nan_is_not_excused() {
    let judge = Judge::new(&task(&[1e25, -2e25, 3e25], &[1.0, 2.0, 3.0]));
    assert!(judge.tolerance.iter().take(3).flatten().all(|&tolerance| tolerance == f64::INFINITY));
    let judge = Judge::new(&task(&[1.0, f32::NAN, 3.0], &[1.0, 2.0, 3.0]));
    assert!(judge.want[0].iter().all(|y| y.is_nan()));
    assert!(!compare(&[0.0f32; 3], &judge.want[0], &judge.tolerance[0]).unwrap().passed());
    assert!(compare(&[f32::NAN; 3], &judge.want[0], &judge.tolerance[0]).unwrap().passed());
}

#[test]
fn overflow_is_certain_from_a_deviation_on_that_falls_with_the_root_of_m() {
    for m in [2u32, 256, 1 << 16] {
        let certain = |deviation: f64| {
            let x: Vec<f64> = (0..m).map(|i| if i % 2 == 0 { deviation } else { -deviation }).collect();
            let shape = Shape::new(&[m as usize, 1], Layout::ChannelsFirst).unwrap();
            overflows(&x, &shape, &Execution::default()).unwrap()[0]
        };
        let most = (f64::from(f32::MAX) / f64::from(m)).sqrt();
        assert!(certain(1.001 * most) && !certain(0.999 * most), "m {m}");
    }
    // NaN and infinity are no overflow: float64 has no number either.
    let shape = Shape::new(&[3, 1], Layout::ChannelsFirst).unwrap();
    for x in [f64::NAN, f64::INFINITY] {
        assert_eq!(overflows(&[1.0, x, 3.0], &shape, &Execution::default()).unwrap(), [false]);
    }
}

#[test]
fn an_infinite_input_has_an_infinite_output() {
    let shape = Shape::new(&[4, 1], Layout::ChannelsFirst).unwrap();
    let x = [f64::NEG_INFINITY, 1.0, f64::INFINITY, 2.0];
    let tolerance = |gamma: f64, mean: f64, activation| {
        let layer = Layer { gamma: Some(&[gamma]), activation, ..Layer::default() };
        inference(&x, &shape, &[mean], &[4.0], &layer, &Execution::default()).unwrap()
    };
    let infinite = |tolerance: Vec<f64>| tolerance.iter().filter(|error| error.is_infinite()).count();
    for activation in [Activation::None, Activation::Relu] {
        let found = tolerance(-2.0, 1.0, activation);
        assert_eq!([found[0], found[2]], [0.0; 2]);
        assert_eq!(infinite(found), 0);
    }
    // The scale may be flushed, and infinity times 0 is NaN; an infinite mean leaves NaN.
    assert_eq!(infinite(tolerance(1e-40, 1.0, Activation::None)), 2);
    assert!(infinite(tolerance(1.0, f64::INFINITY, Activation::None)) > 0);
}

/// Whether any of the outputs gives the fault away.
fn caught(fault: Fault, kind: &str, m: usize) -> bool {
    let (x, dy) = (data(kind, m, 11), gradient("positive", m, 12));
    let gpu = Gpu { lanes: 64, splits: 3, rounding: Rounding::Nearest, fault: Some(fault) };
    let task = task(&x, &dy);
    let outcome = Judge::new(&task).compare(&gpu.run(&task));
    // y alone must tell, since a forward pass may be all there is.
    !outcome[0].passed() && outcome.iter().any(|comparison| comparison.worst_ratio > 2.0)
}

#[test]
fn planted_faults_break_it() {
    for m in [5, 100, 1001, 10_003] {
        for fault in [Fault::DroppedTail, Fault::Unbiased] {
            assert!(caught(fault, "ordinary", m), "{fault:?}, m {m}");
            assert!(caught(fault, "offset 1e4", m), "{fault:?}, m {m}");
        }
    }
    for m in [100, 1001, 10_003, 100_001] {
        for fault in [Fault::DroppedChunk, Fault::DroppedSplit] {
            assert!(caught(fault, "ordinary", m), "{fault:?}, m {m}");
        }
    }
    for m in [100, 1001, 10_003] {
        for kind in ["offset 1e2", "offset 1e4", "offset 1e6"] {
            assert!(caught(Fault::RawMoments, kind, m), "{kind}, m {m}");
        }
        assert!(caught(Fault::SingleMean, "offset 1e6", m), "m {m}");
        assert!(caught(Fault::SingleMean, "offset 1e4", m), "m {m}");
        assert!(caught(Fault::NoEps, "offset -1e4 small", m), "m {m}");
        assert!(caught(Fault::NoEps, "constant", m), "m {m}");
    }
}

#[test]
fn dropped_elements_break_the_sums() {
    for m in [5, 100, 1001, 10_003] {
        let (x, dy) = (data("ordinary", m, 21), gradient("ordinary", m, 22));
        let gpu = Gpu { lanes: 64, splits: 2, rounding: Rounding::Nearest, fault: Some(Fault::DroppedTail) };
        let task = task(&x, &dy);
        let outcome = Judge::new(&task).compare(&gpu.run(&task));
        for i in [0, 1, 3, 5] {
            assert!(!outcome[i].passed(), "m {m}, {}: {}", NAMES[i], outcome[i]);
        }
    }
}

/// y and the gradients of inference with a flushed number, within the tolerance, and what they would be if the tolerance were
/// twice too large.
fn holds_flushed(x: [f64; 2], dy: [f64; 2], [gamma, beta, mean, var]: [f64; 4], flushed: [[f64; 2]; 2]) {
    let shape = Shape::new(&[2, 1], Layout::ChannelsFirst).unwrap();
    let layer = Layer { gamma: Some(&[gamma]), beta: Some(&[beta]), ..Layer::default() };
    let want = reference::inference(&x, &shape, &[mean], &[var], &layer).unwrap();
    let bound = inference(&x, &shape, &[mean], &[var], &layer, &Execution::default()).unwrap();
    let gradients = reference::backward_frozen(&x, &dy, &shape, &[mean], &[var], &layer).unwrap();
    let bounds = backward_frozen(&x, &dy, &shape, &[mean], &[var], &layer, &Execution::default()).unwrap();
    for (got, want, bound) in [(flushed[0], want, bound), (flushed[1], gradients.dx, bounds.dx)] {
        assert!(compare(&got, &want, &bound).unwrap().passed(), "{got:?}, want {want:?}, bound {bound:?}");
        // No more is allowed than a few times what was lost, or than what an operation may flush.
        let lost = got.iter().zip(&want).map(|(got, want)| (got - want).abs());
        let most = lost.map(|lost| 2.0 * lost + 4.0 * ETA * (1.0 + 316.0));
        assert!(bound.iter().zip(most).all(|(bound, most)| *bound <= most), "{got:?}, want {want:?}, {bound:?}");
    }
}

#[test]
fn subnormal_numbers_may_be_flushed_wherever_they_are() {
    let (x, dy) = ([0.5, -0.5], [1.0, -2.0]);
    // gamma, whose product with 1 / sqrt(eps) is normal; dx goes with it.
    holds_flushed(x, dy, [1e-38, 0.0, 0.0, 0.0], [[0.0; 2]; 2]);
    holds_flushed(x, dy, [-1.1e-38, 0.0, 0.0, 0.0], [[0.0; 2]; 2]);
    // The product, where gamma is normal.
    holds_flushed([1e7, -1e7], [1e6, -1e6], [2e-38, 0.0, 0.0, 1e8], [[0.0; 2]; 2]);
    // x, beta, dy.
    holds_flushed([1e-39, -1e-39], dy, [0.0, 0.0, 0.0, 1.0], [[0.0; 2]; 2]);
    holds_flushed([0.0; 2], [0.0; 2], [1.0, 1e-39, 0.0, 1.0], [[0.0; 2]; 2]);
    holds_flushed([0.0; 2], [1e-39, -1e-38], [1.0, 0.0, 0.0, 0.0], [[0.0; 2]; 2]);
    // A running variance beside an eps that is as small.
    let channel = channel::Channel::of_running(0.0, 1e-38);
    let inv_std = channel.inv_std(2e-38);
    let taken = 1.0 / f64::from(2e-38f32).sqrt();
    assert!((taken - inv_std.value).abs() <= inv_std.value * inv_std.theta, "{inv_std:?}");
}

#[test]
fn normal_numbers_are_not_excused_by_flushing() {
    let shape = Shape::new(&[2, 1], Layout::ChannelsFirst).unwrap();
    for gamma in [1.2e-38, 1e-30, 1.0] {
        let layer = Layer { gamma: Some(&[gamma]), ..Layer::default() };
        let bounds = backward_frozen(&[0.5, -0.5], &[1.0, -2.0], &shape, &[0.0], &[0.0], &layer, &Execution::default());
        let scale = gamma / 1e-5f64.sqrt();
        assert!(bounds.unwrap().dx.iter().all(|bound| *bound < 1e-5 * scale), "{gamma}");
    }
}

#[test]
fn storage_types_round_and_widen_the_tolerance() {
    for (dtype, value, want) in [
        (DType::F32, 0.1, f64::from(0.1f32)),
        (DType::F32, 1e-42, f64::from(1e-42f32)),
        (DType::F32, 1e39, f64::INFINITY),
        (DType::F16, 65504.0, 65504.0),
        (DType::F16, 65519.9, 65504.0),
        (DType::F16, -65520.0, f64::NEG_INFINITY),
        (DType::F16, 6e-8, 2f64.powi(-24)),
        (DType::F16, 0.1, 0.0999755859375),
        (DType::Bf16, 1.0 + 1.0 / 256.0, 1.0),
        (DType::Bf16, 1.0 + 3.0 / 256.0, 1.0 + 4.0 / 256.0),
    ] {
        assert_eq!(dtype.round(value), want, "{dtype} {value}");
    }
    let shape = Shape::new(&[50, 1], Layout::ChannelsFirst).unwrap();
    for dtype in [DType::F16, DType::Bf16] {
        let x: Vec<_> = data("ordinary", 50, 1).iter().map(|&x| dtype.round(f64::from(x))).collect();
        let bound = |layer: &Layer<'_>, dtype| {
            forward_training(&x, &shape, layer, &Execution { dtype, ..Execution::default() }).unwrap().y
        };
        let want = reference::forward_training(&x, &shape, &Layer::default()).unwrap().y;
        let got: Vec<_> = want.iter().map(|&y| dtype.round(y)).collect();
        assert!(compare(&got, &want, &bound(&Layer::default(), dtype)).unwrap().passed());
        assert!(!compare(&got, &want, &bound(&Layer::default(), DType::F32)).unwrap().passed());
        // Half an ulp and no more.
        let truncated: Vec<_> = want.iter().zip(&got).map(|(y, got)| 2.0 * y - got).collect();
        assert!(compare(&truncated, &want, &bound(&Layer::default(), dtype)).unwrap().passed());
        let further: Vec<_> = want.iter().zip(&got).map(|(y, got)| y + 4.0 * (got - y)).collect();
        assert!(!compare(&further, &want, &bound(&Layer::default(), dtype)).unwrap().passed());
    }
    assert_eq!(DType::F16.storage_error(1.5, 0.0), 0.0);
    assert_eq!(DType::F16.storage_error(0.1, 0.0), 0.1 * 2f64.powi(-11));
    assert_eq!(DType::F16.storage_error(1e-6, 0.0), 2f64.powi(-25));
    assert_eq!(DType::Bf16.storage_error(0.1, 0.0), 0.1 * 2f64.powi(-8) + ETA);
}

/// A gradient is added in f32 and rounded once more where it is stored.
#[test]
fn added_gradients_stay_within_the_tolerance_and_use_it() {
    let mut random = Random(7);
    for dtype in DType::ALL {
        let mut largest = 0.0f64;
        for _ in 0..2000 {
            let scale = 2f64.powi((random.uniform() * 20.0) as i32 - 10);
            let before = dtype.round(random.normal() * scale);
            let (exact, error) = (random.normal(), 1e-7);
            let computed = (exact + (2.0 * random.uniform() - 1.0) * error) as f32;
            let got = dtype.round(f64::from(before as f32 + computed));
            let (mut want, mut tolerance) = ([exact], [error + U * exact.abs()]);
            add_to(&[before], &mut want, &mut tolerance, dtype);
            assert_eq!(want, [before + exact]);
            largest = largest.max((got - want[0]).abs() / tolerance[0]);
        }
        assert!(largest > 0.7 && largest <= 1.0, "{dtype}: {largest}");
    }
    let (mut want, mut tolerance) = ([1.0], [1.0]);
    add_to(&[65000.0], &mut want, &mut tolerance, DType::F16);
    assert!(tolerance[0].is_finite());
    add_to(&[1000.0], &mut want, &mut tolerance, DType::F16);
    assert!(want[0] - tolerance[0] >= DType::F16.overflow() && tolerance[0].is_finite(), "{tolerance:?}");
    add_to(&[f64::from(f32::MAX)], &mut want, &mut tolerance, DType::F32);
    assert_eq!(tolerance, [f64::INFINITY]);
}

/// Beyond the counts that f32 holds, the tolerances of pooled statistics allow for a weight that errs by 2u more, and only
/// there.
#[test]
fn pooled_weights_allow_for_counts_that_f32_does_not_hold() {
    use crate::config::{Average, RunningPolicy};
    let policy = RunningPolicy { average: Average::Pooled, ..RunningPolicy::default() };
    let relative = |values: u64| {
        let state = reference::RunningStatistics {
            mean: vec![1.0],
            var: vec![1.0],
            tracked: vec![1],
            averaged: vec![1],
            skipped: vec![0],
            values: vec![values],
        };
        let batch = reference::Statistics { mean: vec![-1.0], var: vec![1.0], count: values };
        running(&state, &StatisticsBound::exact(1), &batch, &StatisticsBound::exact(1), &policy).unwrap()
    };
    let (small, large) = (relative(1 << 23), relative((1 << 23) + 1));
    let more = |of: fn(&StatisticsBound) -> f64| (of(&large) - of(&small)) / U;
    // 2u w (|o| + |b|), 2u w |b - o| and 4u of the variance, which is 2, at a weight of a half.
    for (found, want) in [(more(|b| b.mean[0]), 2.0), (more(|b| b.mean_pair[0]), 2.0), (more(|b| b.var[0]), 8.0)] {
        assert!((found - want).abs() < 1e-3, "{found}, want {want}");
    }
}

#[test]
fn compare_knows_nan_and_infinity() {
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let passes = |got: f64, want: f64, tolerance: f64| compare(&[got], &[want], &[tolerance]).unwrap().passed();
    assert!(passes(1.0, 1.0, 0.0) && passes(1.5, 1.0, 0.5) && !passes(1.5, 1.0, 0.49) && !passes(1.0, 1.5, 0.0));
    assert!(passes(nan, nan, 0.0) && !passes(0.0, nan, inf) && !passes(inf, nan, inf) && !passes(nan, 0.0, 1e300));
    assert!(passes(inf, inf, 0.0) && !passes(-inf, inf, 1.0) && !passes(inf, 1.0, 1e300) && !passes(1.0, inf, 1e300));
    assert!(!passes(1.0, 1.5, nan) && !passes(1.0, 1.5, -1.0));
    let outcome = compare(&[1e30, 2.0], &[1e38, 2.0], &[inf, 0.0]).unwrap();
    assert_eq!((outcome.passed(), outcome.unbounded, outcome.worst_ratio), (true, 1, 0.0));
    for got in [nan, inf, -inf] {
        let outcome = compare(&[2.0, got, got], &[2.0, 1e38, 1.0], &[0.0, inf, inf]).unwrap();
        assert_eq!((outcome.passed(), outcome.failures, outcome.unrepresentable, outcome.unbounded), (false, 0, 2, 0));
        assert_eq!(outcome.first_unrepresentable.map(|element| (element.index, element.want)), Some((1, 1e38)));
    }
    let outcome = compare(&[nan, inf, -inf, nan], &[nan, inf, inf, inf], &[inf; 4]).unwrap();
    assert_eq!((outcome.passed(), outcome.nan, outcome.infinite, outcome.unbounded), (true, 1, 1, 2));
    assert!(compare(&[1.0f32], &[1.0, 2.0], &[0.0, 0.0]).is_err());
    assert!(compare::<f32>(&[], &[], &[]).unwrap().passed());
}
