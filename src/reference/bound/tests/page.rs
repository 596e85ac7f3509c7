//! The worked example of docs/error-bound.md: its numbers are computed here. And what the page says of large weights.

use super::*;

const PAGE: &str = include_str!("../../../../docs/error-bound.md");

/// Values of mean 1e6 and deviation 1, each a float32.
const VALUES: usize = 1000;

/// Mean, variance and y.
struct Result {
    mean: f64,
    var: f64,
    y: Vec<f32>,
}

/// y from a mean that is one float32.
fn normalized(x: &[f32], mean: f32, var: f32) -> Result {
    let inv_std = 1.0 / (var.max(0.0) + AFFINE[2]).sqrt();
    Result { mean: mean.into(), var: var.into(), y: x.iter().map(|x| (x - mean) * inv_std).collect() }
}

/// mean = sum(x) / m and var = sum(x^2) / m - mean^2, added up one after the other.
fn one_pass(x: &[f32]) -> Result {
    let m = x.len() as f32;
    let mean = x.iter().sum::<f32>() / m;
    normalized(x, mean, x.iter().map(|x| x * x).sum::<f32>() / m - mean * mean)
}

/// var = sum((x - mean)^2) / m with the exact mean, rounded to one float32: the best that one float32 can do.
fn two_passes(x: &[f32], mean: f64) -> Result {
    let mean = mean as f32;
    normalized(x, mean, x.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / x.len() as f32)
}

/// What the kernels' algorithm gives on a roughly computing GPU.
fn kernels(task: &Task) -> Result {
    let gpu = Gpu { lanes: 64, splits: 2, rounding: Rounding::Rough, fault: None };
    let found = gpu.statistics(&task.x, None);
    let mean = f64::from(found.shift) + f64::from(found.remainder);
    Result { mean, var: found.var.into(), y: gpu.run(task).y }
}

fn largest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(0.0, |largest: f64, value| largest.max(value.abs()))
}

/// The largest error of y.
fn of_y(got: &Result, judge: &Judge) -> f64 {
    largest(got.y.iter().zip(&judge.want[0]).map(|(got, want)| f64::from(*got) - want))
}

/// A row of the page with the errors of mean, variance and y.
fn errors(name: &str, got: &Result, judge: &Judge) -> String {
    let y = of_y(got, judge);
    let (mean, var) = ((got.mean - judge.want[1][0]).abs(), (got.var - judge.want[2][0]).abs());
    format!("| {name} | {mean:.1e} | {var:.1e} | {y:.1e} |")
}

#[test]
fn the_page_has_these_numbers() {
    let x = data("offset 1e6", VALUES, 1);
    let task = Task { parameters: [1.0, 0.0, AFFINE[2]], ..task(&x, &vec![1.0; VALUES]) };
    let judge = Judge::new(&task);
    let shape = Shape::new(&[VALUES, 1], Layout::ChannelsFirst).unwrap();
    let channel = forward::of_batch(&widen(&x), &shape, 0, &Execution::default());
    let (mean, var, m) = (judge.want[1][0], judge.want[2][0], VALUES as u64);
    let (rounding, mut sorted) = (reduction(m), [x[0], x[VALUES / 2], x[VALUES - 1]]);
    sorted.sort_by(f32::total_cmp);
    let shift = f64::from(sorted[1]);
    let absolute = x.iter().map(|&x| (f64::from(x) - shift).abs()).sum::<f64>() / VALUES as f64;
    let tolerance = largest(judge.tolerance[0].iter().copied());
    let (one_pass, two_passes, kernels) = (one_pass(&x), two_passes(&x, mean), kernels(&task));
    let partial = (rounding + 7.0 * U) * absolute + 14.0 * U * var.sqrt();
    let rows = [
        format!("| mean, var | {mean:.5}, {var:.5} |"),
        format!("| $k$, $\\delta$ | {shift:.4}, {:.4} |", mean - shift),
        format!("| $A$, $\\sigma$ | {absolute:.4}, {:.4} |", var.sqrt()),
        format!("| $q$ | {} |", depth(m)),
        format!("| $R$ | {rounding:.2e} |"),
        format!("| $\\varepsilon_1$ | {partial:.2e} |"),
        format!("| $E(r)$ | {:.2e} |", channel.delta_error),
        format!("| $E(\\mathrm{{var}})$ | {:.2e} |", channel.var_error),
        format!("| $\\theta$ | {:.2e} |", channel.inv_std(AFFINE[2].into()).theta),
        format!("| $E(y)$, the largest | {tolerance:.2e} |"),
        errors("one pass", &one_pass, &judge),
        errors("two passes", &two_passes, &judge),
        errors("the kernels' arithmetic", &kernels, &judge),
        format!("| the bound | {:.1e} | {:.1e} | {tolerance:.1e} |", channel.mean_pair_error(), channel.var_error),
        format!("exactly {}", one_pass.mean),
        format!("{:.0} times their error", tolerance / of_y(&kernels, &judge)),
        format!("by a factor of {:.0}", of_y(&two_passes, &judge) / tolerance),
    ];
    let missing: Vec<_> = rows.iter().filter(|row| !PAGE.contains(row.as_str())).collect();
    assert!(missing.is_empty(), "docs/error-bound.md lacks: {missing:#?}\nof all: {rows:#?}");
}

/// The variance of a channel of two halves that are far from the shift and far apart, for their spread, errs by more than a
/// bound allows whose first-order term falls with the root of m; the arithmetic is exact to half an ulp.
#[test]
fn errors_of_large_weights_do_not_average_out() {
    let (m, spread, far) = (1_000_000, 7.8e-4, 200.0);
    let mut random = Random(m as u64);
    let half = |i: usize| if 2 * i < m { -spread } else { spread };
    let mut x: Vec<f32> = (0..m).map(|i| (1.3 + half(i) + 0.05 * spread * random.normal()) as f32).collect();
    let shift = (1.3 - far * spread) as f32;
    (x[0], x[m / 2], x[m - 1]) = (shift, shift, shift);
    let gpu = Gpu { lanes: 256, splits: 2, rounding: Rounding::Nearest, fault: None };
    assert!(gpu.longest_run(m) <= 8192, "no plan would do this");
    let shape = Shape::new(&[m, 1], Layout::ChannelsFirst).unwrap();
    let want = reference::statistics(&widen(&x), &shape).unwrap();
    let bound = statistics(&widen(&x), &shape, &Execution::default()).unwrap();
    let error = (f64::from(gpu.statistics(&x, None).var) - want.var[0]).abs();
    let (count, deviation) = (m as f64, want.var[0].sqrt());
    let partial = reduction(m as u64) * far * spread;
    let averaged = 4.0 * LAMBDA * partial * deviation / count.sqrt() + (reduction(m as u64) + 20.0 * U) * want.var[0];
    println!("{error:e}, averaged {averaged:e}, bound {:e}", bound.var[0]);
    assert!(error > averaged && error <= bound.var[0], "{error}, averaged {averaged}, bound {}", bound.var[0]);
}
