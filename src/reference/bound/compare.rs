//! Holding a result against the oracle, with a tolerance per element.

use crate::error::Result;
use crate::reference::check_len;
use std::fmt;

/// An element of a result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Element {
    /// Its index.
    pub index: usize,
    /// Its value.
    pub got: f64,
    /// What the oracle says.
    pub want: f64,
}

/// Outcome of [`compare`]. The `worst_` fields describe the element with the largest ratio of error to tolerance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Number of elements compared.
    pub elements: usize,
    /// Number of elements outside their tolerance.
    pub failures: usize,
    /// Number of elements without a tolerance that are NaN or infinite where a number is wanted: the kernels could not
    /// represent it, or what leads to it.
    pub unrepresentable: usize,
    /// The first of them.
    pub first_unrepresentable: Option<Element>,
    /// Number of the other elements whose tolerance is infinite, for which nothing was promised and nothing checked.
    pub unbounded: usize,
    /// Number of elements that are NaN, as wanted.
    pub nan: usize,
    /// Number of elements that are the infinity that is wanted.
    pub infinite: usize,
    /// Largest error over tolerance; at most 1 when all pass. 0 where both are 0.
    pub worst_ratio: f64,
    /// Index of the worst element, the first of equals.
    pub worst_index: usize,
    /// Its value.
    pub worst_got: f64,
    /// What the oracle says.
    pub worst_want: f64,
    /// Their distance; NaN when one of them is NaN, infinite for mismatched infinities.
    pub worst_error: f64,
    /// Its tolerance.
    pub worst_tolerance: f64,
    /// Largest error, whatever the tolerances; infinite where an element fails that is or should be NaN or infinite.
    pub max_error: f64,
    /// Largest absolute value wanted, among pairs of numbers.
    pub max_want: f64,
}

impl Comparison {
    /// Whether every element lies within its tolerance, and none is NaN or infinite where a number is wanted.
    pub fn passed(&self) -> bool {
        self.failures == 0 && self.unrepresentable == 0
    }

    /// The worst element; `None` where nothing was compared.
    pub fn worst(&self) -> Option<Element> {
        let Self { worst_index: index, worst_got: got, worst_want: want, .. } = *self;
        (self.elements > 0).then_some(Element { index, got, want })
    }

    /// Largest error over largest value wanted: one figure to put in a table.
    pub fn error_over_max(&self) -> f64 {
        if self.max_error == 0.0 { 0.0 } else { self.max_error / self.max_want }
    }

    /// The outcome for the elements of both comparisons, those of `next` coming after the others.
    pub fn followed_by(self, next: Self) -> Self {
        let shifted = |element: Element| Element { index: self.elements + element.index, ..element };
        let worst = if self.elements == 0 || next.worst_ratio > self.worst_ratio {
            Self { worst_index: self.elements + next.worst_index, ..next }
        } else {
            self
        };
        Self {
            elements: self.elements + next.elements,
            failures: self.failures + next.failures,
            unrepresentable: self.unrepresentable + next.unrepresentable,
            first_unrepresentable: self.first_unrepresentable.or(next.first_unrepresentable.map(shifted)),
            unbounded: self.unbounded + next.unbounded,
            nan: self.nan + next.nan,
            infinite: self.infinite + next.infinite,
            max_error: self.max_error.max(next.max_error),
            max_want: self.max_want.max(next.max_want),
            ..worst
        }
    }

    /// Counts an element that is not representable.
    pub fn add_unrepresentable(&mut self, element: Element) {
        self.unrepresentable += 1;
        let first = self.first_unrepresentable.get_or_insert(element);
        if element.index < first.index {
            *first = element;
        }
    }

    /// Counts an element that nothing is left to be checked of, and tells whether it is one.
    fn settles(&mut self, element: Element, tolerance: f64) -> bool {
        let Element { got, want, .. } = element;
        if got.is_nan() && want.is_nan() {
            self.nan += 1;
        } else if got.is_infinite() && got == want {
            self.infinite += 1;
        } else if tolerance != f64::INFINITY || want.is_nan() {
            return false;
        } else if want.is_finite() && !got.is_finite() {
            self.add_unrepresentable(element);
        } else {
            self.unbounded += 1;
        }
        true
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} outside the tolerance; worst at {}: got {:e}, want {:e}, \
             error {:.2e}, tolerance {:.2e}, ratio {:.3}",
            self.failures,
            self.elements,
            self.worst_index,
            self.worst_got,
            self.worst_want,
            self.worst_error,
            self.worst_tolerance,
            self.worst_ratio
        )?;
        if let Some(Element { index, got, want }) = self.first_unrepresentable {
            let count = self.unrepresentable;
            write!(f, "; {count} not representable, the first at {index}: got {got:e}, want {want:e}")?;
        }
        let counts = [(self.unbounded, "without a tolerance"), (self.nan, "NaN"), (self.infinite, "infinite")];
        counts.iter().filter(|(count, _)| *count > 0).try_for_each(|(count, what)| write!(f, "; {count} {what}"))
    }
}

/// Holds `got` (f32 or f64) against `want`, element by element, within `tolerance`.
///
/// - Where NaN is wanted NaN must come, whatever the tolerance.
/// - Where the tolerance is infinite, NaN or infinity in place of a number is counted in [`Comparison::unrepresentable`] and
///   does not pass; everything else passes, and is counted in [`Comparison::unbounded`].
/// - Otherwise NaN fails, an infinity passes only where the same infinity is wanted, and the rest passes unless
///   `!(error <= tolerance)`, so that a NaN tolerance fails.
///
/// # Errors
/// [`Error::Mismatch`](crate::Error::Mismatch) when the slices differ in length.
///
/// ```
/// use batchnorm_wgpu::reference::bound::compare;
/// let outcome = compare(&[1.0f32, 2.5], &[1.0, 2.0], &[0.0, 0.25])?;
/// assert!(!outcome.passed());
/// assert_eq!((outcome.worst_index, outcome.worst_ratio), (1, 2.0));
/// # Ok::<(), batchnorm_wgpu::Error>(())
/// ```
pub fn compare<T: Copy + Into<f64>>(got: &[T], want: &[f64], tolerance: &[f64]) -> Result<Comparison> {
    check_len("got", got, want.len())?;
    check_len("tolerance", tolerance, want.len())?;
    let mut outcome = Comparison {
        elements: want.len(),
        failures: 0,
        unrepresentable: 0,
        first_unrepresentable: None,
        unbounded: 0,
        nan: 0,
        infinite: 0,
        worst_ratio: -1.0,
        worst_index: 0,
        worst_got: 0.0,
        worst_want: 0.0,
        worst_error: 0.0,
        worst_tolerance: 0.0,
        max_error: 0.0,
        max_want: 0.0,
    };
    for (index, ((&got, &want), &tolerance)) in got.iter().zip(want).zip(tolerance).enumerate() {
        let got = got.into();
        let error = distance(got, want);
        let settled = outcome.settles(Element { index, got, want }, tolerance);
        let numbers = got.is_finite() && want.is_finite();
        if numbers {
            outcome.max_want = outcome.max_want.max(want.abs());
        }
        if numbers || !settled {
            // `max` would drop a NaN.
            outcome.max_error = outcome.max_error.max(if error.is_nan() { f64::INFINITY } else { error });
        }
        let ratio = if settled { 0.0 } else { ratio(error, tolerance) };
        outcome.failures += usize::from(ratio > 1.0);
        if ratio > outcome.worst_ratio {
            outcome.worst_ratio = ratio;
            outcome.worst_index = index;
            (outcome.worst_got, outcome.worst_want) = (got, want);
            (outcome.worst_error, outcome.worst_tolerance) = (error, tolerance);
        }
    }
    outcome.worst_ratio = outcome.worst_ratio.max(0.0);
    Ok(outcome)
}

/// Distance of two numbers, of which NaN and infinity never reach the subtraction.
fn distance(got: f64, want: f64) -> f64 {
    if want.is_nan() {
        return if got.is_nan() { 0.0 } else { f64::NAN };
    }
    if got.is_nan() {
        return f64::NAN;
    }
    if got.is_infinite() || want.is_infinite() {
        return if got == want { 0.0 } else { f64::INFINITY };
    }
    (got - want).abs()
}

/// Error over tolerance, infinite exactly when `!(error <= tolerance)` cannot be expressed by a quotient.
fn ratio(error: f64, tolerance: f64) -> f64 {
    if error == 0.0 {
        return 0.0;
    }
    #[allow(clippy::neg_cmp_op_on_partial_ord)] // NaN must fail
    let outside = !(error <= tolerance);
    let quotient = error / tolerance;
    match outside {
        true if quotient > 1.0 => quotient,
        true => f64::INFINITY,
        false => quotient.min(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAN: f64 = f64::NAN;
    const INF: f64 = f64::INFINITY;

    #[test]
    fn an_error_over_the_largest_value_excuses_no_nan() {
        let figure = |got: [f64; 2], want: [f64; 2], tolerance: [f64; 2]| {
            compare(&got, &want, &tolerance).unwrap().error_over_max()
        };
        assert_eq!(figure([1.5, -4.0], [1.0, -4.0], [1.0; 2]), 0.125);
        assert_eq!(figure([1.5, NAN], [1.0, -4.0], [1.0; 2]), INF);
        assert_eq!(figure([1.5, INF], [1.0, -4.0], [1.0; 2]), INF);
        assert_eq!(figure([1.5, 2.0], [1.0, NAN], [1.0; 2]), INF);
        // As wanted, or counted apart.
        assert_eq!(figure([1.5, NAN], [1.0, NAN], [1.0; 2]), 0.5);
        assert_eq!(figure([1.5, -INF], [1.0, -INF], [1.0; 2]), 0.5);
        assert_eq!(figure([1.5, NAN], [1.0, -4.0], [1.0, INF]), 0.5);
    }

    #[test]
    fn comparisons_add_up_as_if_they_were_one() {
        let got = [1.0, 2.5, NAN, 4.0, INF, NAN, -7.0, 8.0];
        let want = [1.0, 2.0, 3.0, NAN, INF, NAN, -6.0, 9.0];
        let tolerance = [0.0, 0.25, INF, 1.0, 0.0, 1.0, INF, 0.5];
        let part = |from: usize, to: usize| compare(&got[from..to], &want[from..to], &tolerance[from..to]).unwrap();
        for from in 0..got.len() {
            for to in from..=got.len() {
                for middle in from..=to {
                    let added = part(from, middle).followed_by(part(middle, to));
                    // A NaN is no equal of itself.
                    assert_eq!(format!("{added:?}"), format!("{:?}", part(from, to)), "{from} {middle} {to}");
                }
            }
        }
        assert_eq!(part(0, 0).worst(), None);
        assert_eq!(part(0, 2).worst(), Some(Element { index: 1, got: 2.5, want: 2.0 }));
    }
}
