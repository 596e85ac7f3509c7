//! The float64 CPU oracle: batch norm as the papers write it, and the error that float32 kernels may make.
//!
//! | question | function |
//! |---|---|
//! | mean and biased variance per channel | [`statistics`] |
//! | y in training (batch statistics) | [`forward_training`] |
//! | y in inference (running statistics) | [`inference`] |
//! | gradients of x, gamma, beta and the residual in training | [`backward_training`] |
//! | the same with frozen statistics | [`backward_frozen`] |
//! | running statistics after a batch | [`RunningStatistics::update`] |
//! | how far a kernel may be off | [`bound`] |
//!
//! A [`Layer`] says what follows the centring: `y = act((x - mean) * gamma / sqrt(var + eps) + beta + residual)`.
//!
//! Everything takes and returns `f64` in the order of the tensor's elements (see [`Shape`]); give it the *stored*
//! inputs, that is values rounded to the tensor's dtype. Nothing here is shared with the GPU path that it judges, and
//! clarity comes before speed.
//!
//! ```
//! use batchnorm_wgpu::reference::{self, Layer};
//! use batchnorm_wgpu::{Layout, Shape};
//! let shape = Shape::new(&[2, 1], Layout::ChannelsFirst)?;
//! let forward = reference::forward_training(&[1.0, 5.0], &shape, &Layer::default())?;
//! assert_eq!((forward.statistics.mean[0], forward.statistics.var[0]), (3.0, 4.0));
//! assert!((forward.y[1] - 1.0).abs() < 1e-5);
//! # Ok::<(), batchnorm_wgpu::Error>(())
//! ```

mod backward;
pub mod bound;
mod forward;
mod layer;
mod running;

pub use backward::{Gradients, backward_frozen, backward_training};
pub use forward::{Forward, Statistics, forward_training, inference, statistics};
pub use layer::Layer;
pub use running::RunningStatistics;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::shape::Shape;

/// Refuses a slice of the wrong length.
fn check_len<T>(name: &'static str, slice: &[T], expected: usize) -> Result<()> {
    if slice.len() == expected {
        return Ok(());
    }
    Err(Error::Mismatch { name, expected: format!("{expected} values"), actual: format!("{} values", slice.len()) })
}

/// [`check_len`] for an argument that may be absent.
fn check_optional_len(name: &'static str, slice: Option<&[f64]>, expected: usize) -> Result<()> {
    slice.map_or(Ok(()), |slice| check_len(name, slice, expected))
}

/// The rule for eps that a layer has too.
fn check_eps(eps: f64) -> Result<()> {
    Config { eps, ..Config::default() }.check()
}

/// Indices of the elements of `channel`, in index order.
fn indices(shape: &Shape, channel: usize) -> impl Iterator<Item = usize> + Clone {
    let (outer, channels, inner) = (shape.outer(), shape.channels(), shape.inner());
    (0..outer).flat_map(move |o| {
        let start = (o * channels + channel) * inner;
        start..start + inner
    })
}

/// `parameter[index]`, or the neutral value of an absent parameter.
fn at(parameter: Option<&[f64]>, index: usize, neutral: f64) -> f64 {
    parameter.map_or(neutral, |values| values[index])
}

/// Compensated sum (Neumaier 1974): its error does not grow with the number of terms.
fn sum(terms: impl Iterator<Item = f64>) -> f64 {
    let (mut total, mut lost) = (0.0f64, 0.0f64);
    for term in terms {
        let next = total + term;
        lost += if total.abs() >= term.abs() { (total - next) + term } else { (term - next) + total };
        total = next;
    }
    // An infinite term leaves NaN in the compensation, while the plain total is right.
    if total.is_finite() { total + lost } else { total }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Layout;

    #[test]
    fn compensated_sum_keeps_small_terms() {
        assert_eq!(sum([1.0, 1e100, 1.0, -1e100].into_iter()), 2.0);
        assert_eq!(sum([1.0, f64::INFINITY].into_iter()), f64::INFINITY);
        assert!(sum([f64::NEG_INFINITY, f64::INFINITY].into_iter()).is_nan());
        assert_eq!(sum(std::iter::empty()), 0.0);
    }

    #[test]
    fn indices_agree_with_the_shape() {
        for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
            let shape = Shape::new(&[2, 3, 4, 5], layout).unwrap();
            for channel in 0..shape.channels() {
                let expected: Vec<_> = (0..shape.elements_per_channel()).map(|i| shape.index(channel, i)).collect();
                assert_eq!(indices(&shape, channel).collect::<Vec<_>>(), expected);
            }
        }
    }
}
