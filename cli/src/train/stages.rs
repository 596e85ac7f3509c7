//! Every stage of a training step in float64, and how far an f32 stage may be from it.
//!
//! Each stage is given the very inputs that the GPU's stage had, so that no error is carried from stage to stage and
//! each has a bound of its own, derived from its arithmetic and from nothing that was measured:
//!
//! - u = 2^-24 is the unit roundoff; additions, subtractions and products are correctly rounded.
//! - A sum of n terms, in any order, with or without fused multiply-add, errs by at most n u sum|terms|. With rounding
//!   errors of independent sign the factor is lambda sqrt(n) u except with probability 2 exp(-lambda^2 / 2) (Higham and
//!   Mary 2019); lambda = 8 makes that 3e-14 per value. The bound takes the smaller of the two.
//! - Division errs by 2.5 ULP, exp(x) by 3 + 2 |x| ULP, log by 3 ULP or by 2^-21 between 0.5 and 2, as WGSL demands
//!   of every implementation. An ULP is at most 2 u of the value.
//! - What may be flushed to zero adds `TINY`.
//!
//! The formulas are first-order; `SECOND_ORDER` covers the rest. Batch norm has bounds of its own, in the library.

use batchnorm_wgpu::Result;
use batchnorm_wgpu::reference::bound::{self, Comparison};

/// Unit roundoff of f32.
const U: f64 = 1.0 / (1u32 << 24) as f64;
/// Relative error of a division.
const DIVISION: f64 = 5.0 * U;
/// More than any sum of flushed values in this network, less than any value that matters.
const TINY: f64 = 1e-33;
/// Products of two roundoffs, which the formulas leave out, add far less than this.
const SECOND_ORDER: f64 = 1.001;

/// What a stage should give, and how far each value may be off.
#[derive(Debug, Default, PartialEq)]
pub struct BoundedValues {
    /// The values.
    pub values: Vec<f64>,
    /// The largest error allowed for each.
    pub bounds: Vec<f64>,
}

impl BoundedValues {
    /// Adds a value and its first-order bound.
    fn push(&mut self, value: f64, bound: f64) {
        self.values.push(value);
        self.bounds.push(bound * SECOND_ORDER + TINY);
    }

    /// Values that come exactly as they are.
    pub fn exact(values: Vec<f64>) -> Self {
        let bounds = vec![0.0; values.len()];
        Self { values, bounds }
    }

    /// Holds `actual` against it.
    ///
    /// # Errors
    /// [`batchnorm_wgpu::Error::Mismatch`] for another number of values.
    pub fn compare<T: Copy + Into<f64>>(&self, actual: &[T]) -> Result<Comparison> {
        bound::compare(actual, &self.values, &self.bounds)
    }
}

/// The factor by which a sum of `terms` terms may err, relative to the sum of their absolute values.
fn summation(terms: usize) -> f64 {
    let n = terms as f64;
    n.min(8.0 * n.sqrt()) * U
}

/// Relative error of exp(x).
fn exponential(x: f64) -> f64 {
    (3.0 + 2.0 * x.abs()) * 2.0 * U
}

/// Absolute error of log(x).
fn logarithm(x: f64) -> f64 {
    if (0.5..=2.0).contains(&x) { 1.0 / f64::from(1u32 << 21) } else { 6.0 * U * x.ln().abs() }
}

/// Pixels to [0, 1].
pub fn scale_pixels(pixels: impl Iterator<Item = u8>) -> BoundedValues {
    let mut expected = BoundedValues::default();
    for pixel in pixels {
        let value = f64::from(pixel) / 255.0;
        expected.push(value, DIVISION * value);
    }
    expected
}

/// y = x w + bias, with x `[rows, inner]`, w `[inner, cols]` and bias `[cols]` or none.
pub fn linear(x: &[f64], w: &[f64], bias: Option<&[f64]>, inner: usize, cols: usize) -> BoundedValues {
    let mut expected = BoundedValues::default();
    for row in x.chunks_exact(inner) {
        let mut sums: Vec<(f64, f64)> = match bias {
            Some(bias) => bias.iter().map(|&b| (b, b.abs())).collect(),
            None => vec![(0.0, 0.0); cols],
        };
        for (&x, w) in row.iter().zip(w.chunks_exact(cols)) {
            for ((sum, absolute), &w) in sums.iter_mut().zip(w) {
                *sum += x * w;
                *absolute += (x * w).abs();
            }
        }
        for (sum, absolute) in sums {
            // Where f32 overflows on the way nothing is promised.
            let bound = summation(inner + 1) * absolute;
            expected.push(sum, if absolute > f64::from(f32::MAX) { f64::INFINITY } else { bound });
        }
    }
    expected
}

/// The transpose of a matrix with `cols` columns.
pub fn transposed(matrix: &[f64], cols: usize) -> Vec<f64> {
    (0..cols).flat_map(|col| matrix.iter().skip(col).step_by(cols).copied()).collect()
}

/// a = sigmoid(u).
pub fn sigmoid(u: &[f64]) -> BoundedValues {
    let mut expected = BoundedValues::default();
    for &u in u {
        let e = (-u.abs()).exp();
        let larger = 1.0 / (1.0 + e);
        let a = if u >= 0.0 { larger } else { e * larger };
        // The error of e counts by the derivative of log(a) by log(e), which is 1 - a on both sides of zero.
        expected.push(a, a * (exponential(u) * (1.0 - a) + U + DIVISION));
    }
    expected
}

/// du = da a (1 - a), where da comes with the bounds of the product that made it.
pub fn through_sigmoid(da: &BoundedValues, a: &[f64]) -> BoundedValues {
    let mut expected = BoundedValues::default();
    for ((&da, &bound), &a) in da.values.iter().zip(&da.bounds).zip(a) {
        let slope = a * (1.0 - a);
        expected.push(da * slope, (bound + 3.0 * U * da.abs()) * slope);
    }
    expected
}

/// Loss and gradient of softmax and cross-entropy.
#[derive(Debug)]
pub struct Loss {
    /// The sum of the losses over the batch: one value.
    pub total: BoundedValues,
    /// The gradient of the mean loss by the logits.
    pub dlogits: BoundedValues,
    /// Rows whose first largest logit is the label's. Comparisons do not round: no bound.
    pub correct: u32,
}

/// The loss of `logits` [rows, classes].
pub fn cross_entropy(logits: &[f64], labels: &[u32], classes: usize) -> Loss {
    let rows = labels.len() as f64;
    let mut dlogits = BoundedValues::default();
    let (mut total, mut magnitude, mut bound, mut correct) = (0.0, 0.0, 0.0, 0);
    for (row, &label) in logits.chunks_exact(classes).zip(labels) {
        let label = label as usize;
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let distances: Vec<f64> = row.iter().map(|&logit| logit - largest).collect();
        let sum: f64 = distances.iter().map(|d| d.exp()).sum();
        // The distance is rounded before exp sees it.
        let errors: Vec<f64> = distances.iter().map(|&d| exponential(d) + U * d.abs()).collect();
        let weighted: f64 = distances.iter().zip(&errors).map(|(d, error)| d.exp() / sum * error).sum();
        let sum_error = weighted + summation(classes);
        for (class, (d, error)) in distances.iter().zip(&errors).enumerate() {
            let p = d.exp() / sum;
            let gradient = (p - if class == label { 1.0 } else { 0.0 }) / rows;
            dlogits.push(gradient, p * (error + sum_error + DIVISION) / rows + gradient.abs() * (U + DIVISION));
        }
        let loss = sum.ln() - distances[label];
        total += loss;
        magnitude += loss.abs();
        bound += sum_error + logarithm(sum) + U * distances[label].abs() + U * loss.abs();
        correct += u32::from(row.iter().position(|&logit| logit == largest) == Some(label));
    }
    let mut loss = BoundedValues::default();
    loss.push(total, bound + summation(labels.len()) * magnitude);
    Loss { total: loss, dlogits, correct }
}

/// p - rate g.
pub fn descend(parameters: &[f64], gradients: &[f64], rate: f64) -> BoundedValues {
    let mut expected = BoundedValues::default();
    for (&p, &g) in parameters.iter().zip(gradients) {
        let value = p - rate * g;
        expected.push(value, U * (rate * g).abs() + U * value.abs());
    }
    expected
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest error of `actual` as a share of its bound.
    fn worst(expected: &BoundedValues, actual: &[f32]) -> f64 {
        expected.compare(actual).unwrap().worst_ratio
    }

    #[test]
    fn products_agree_by_hand() {
        // [1 2; 3 4] [5 6; 7 8] + [1 -1]
        let x = [1.0, 2.0, 3.0, 4.0];
        let w = [5.0, 6.0, 7.0, 8.0];
        assert_eq!(linear(&x, &w, Some(&[1.0, -1.0]), 2, 2).values, [20.0, 21.0, 44.0, 49.0]);
        assert_eq!(transposed(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }

    #[test]
    fn gradients_agree_with_differences() {
        let logits = [0.3, -1.2, 2.0, 0.5, 0.4, -0.1];
        let labels = [2, 0];
        let loss = cross_entropy(&logits, &labels, 3);
        assert_eq!(loss.correct, 2);
        for i in 0..logits.len() {
            let at = |h: f64| {
                let mut moved = logits;
                moved[i] += h;
                cross_entropy(&moved, &labels, 3).total.values[0] / 2.0
            };
            let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((difference - loss.dlogits.values[i]).abs() < 1e-9, "{i}");
        }
        let ones = BoundedValues::exact(vec![1.0; 3]);
        let u = [-2.0, 0.1, 3.0];
        let slopes = through_sigmoid(&ones, &sigmoid(&u).values).values;
        for (u, slope) in u.iter().zip(slopes) {
            let difference = (sigmoid(&[u + 1e-5]).values[0] - sigmoid(&[u - 1e-5]).values[0]) / 2e-5;
            assert!((difference - slope).abs() < 1e-9);
        }
    }

    #[test]
    fn bounds_hold_for_f32_and_are_not_idle() {
        let numbers = |n: usize, k: f64| -> Vec<f64> {
            (0..n).map(|i| f64::from((((i * i) as f64 * 0.7310 + k).sin() * 3.0) as f32)).collect()
        };
        let (x, w) = (numbers(500, 0.1), numbers(500, 0.2));
        let sum: f32 = x.iter().zip(&w).fold(0.0, |sum, (&x, &w)| sum + x as f32 * w as f32);
        let share = worst(&linear(&x, &w, None, 500, 1), &[sum]);
        assert!(share > 1e-4 && share < 1.0, "{share}");
        let a: Vec<f32> = x.iter().map(|&u| 1.0 / (1.0 + (-u as f32).exp())).collect();
        let share = worst(&sigmoid(&x), &a);
        assert!(share > 0.01 && share < 1.0, "{share}");
        let moved: Vec<f32> = x.iter().zip(&w).map(|(&p, &g)| p as f32 - 0.5 * g as f32).collect();
        let share = worst(&descend(&x, &w, 0.5), &moved);
        assert!(share > 0.1 && share <= 1.0, "{share}");
    }

    #[test]
    fn extreme_sigmoids_stay_finite() {
        let expected = sigmoid(&[-1e4, -100.0, 0.0, 100.0, 1e4]);
        assert_eq!((expected.values[0], expected.values[2], expected.values[4]), (0.0, 0.5, 1.0));
        assert!(expected.bounds.iter().all(|bound| bound.is_finite() && *bound > 0.0));
    }
}
