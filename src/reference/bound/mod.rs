//! The error bound: how far a float32 kernel may be from the float64 reference. Tests, tools and golden cases all use it.
//!
//! Each function takes the arguments of the reference function of the same name, plus the [`Execution`]: what tensors are
//! stored in, whether the pass works in place, and the size of a split tensor's first part. It returns absolute tolerances in
//! the shape of the result. [`compare`] applies them, after [`settle_overflow`] for tensors of F16 and Bf16. A tolerance is
//! infinite where float32 may overflow, or where it is open whether the dtype of the output does: nothing is promised there.
//! [`overflows`] names the channels whose statistics overflow for certain, whatever the order of summation.
//!
//! Inputs are the stored ones: x, dy and the residual are values of the dtype, gamma, beta and running statistics f32 values.
//! Others are accepted, and the rounding to f32 is allowed for where it can be seen: eps, running_mean, running_var, momentum.
//!
//! The derivation, with an example in numbers and what it does not cover, is `docs/error-bound.md`
//! ([on docs.rs](https://docs.rs/crate/batchnorm-wgpu/latest/source/docs/error-bound.md)). It has every constant of this
//! module in a sentence, and the symbols in the comments here (k, r, delta, e, q, R, theta, F, E) are its notation.

mod activation;
mod channel;
mod compare;
mod dtype;
mod execution;
mod forward;
mod gradients;
mod normalization;
mod running;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use crate::dtype::DType;
pub use compare::{Comparison, Element, compare};
pub use dtype::settle_overflow;
pub use execution::Execution;
pub use forward::{ForwardBound, StatisticsBound, forward_training, inference, overflows, statistics};
pub use gradients::{GradientsBound, add_to, backward_frozen, backward_training};
pub use running::running;

/// Room for products of errors.
const ROOM: f64 = 1.001;
/// Unit roundoff of f32, with that room.
const U: f64 = ROOM / (1u64 << 24) as f64;
/// Smallest normal f32: what flushing a subnormal can cost.
const ETA: f64 = f32::MIN_POSITIVE as f64;
/// f32 holds every integer up to this one.
const INTEGERS: f64 = (1u32 << 24) as f64;
/// Rounding errors that add up are taken to stay within this many times the root of their number.
const LAMBDA: f64 = 4.0;
/// Merges of a block of 128 values, four at a time.
const BLOCK_STEPS: f64 = 32.0;
/// Most blocks of an invocation: [`crate::plan::LONGEST_RUN`] values.
const BLOCKS: f64 = 64.0;
/// Most results of workgroups that a lane merges in sequence, [`crate::plan::LONGEST_MERGE`], unless there are more blocks.
const MERGES: f64 = 16.0;
/// Share of the worst case that equal addends can reach.
const DRIFT: f64 = 0.375;

/// A value and its error.
#[derive(Clone, Copy, Debug)]
struct Uncertain {
    value: f64,
    error: f64,
}

/// F: what it costs that a device may flush a number within `error` of `value`.
fn flushed(value: f64, error: f64) -> f64 {
    if value.abs() - error >= ETA { 0.0 } else { (value.abs() + error).min(ETA) }
}

/// Whether f32 holds numbers up to this magnitude, which a NaN is not.
fn fits(magnitude: f64) -> bool {
    magnitude <= f32::MAX.into()
}

/// An error that cannot be told is unbounded.
fn promise(error: f64) -> f64 {
    if error.is_nan() { f64::INFINITY } else { error }
}

/// Relative error of a kernel's f32 sum of `m` terms, on the sum of the terms' absolute values.
///
/// The storage dtype does not enter, since sums are kept in f32. The [module](self) says where the derivation is.
///
/// ```
/// use batchnorm_wgpu::reference::bound::reduction;
/// assert!(reduction(100) < 2e-6);
/// assert!(reduction(1_000_000) < 6e-6);
/// ```
pub fn reduction(m: u64) -> f64 {
    let depth = depth(m);
    U * depth.min((LAMBDA * depth.sqrt()).max(DRIFT * depth))
}

/// q, the most additions on the way of one of `m` values.
fn depth(m: u64) -> f64 {
    let m = m as f64;
    let steps = (m / 4.0).floor().min(BLOCK_STEPS + BLOCKS) + 3.0;
    let merges = (m / (4.0 * BLOCK_STEPS * BLOCKS) + 3.0).max(MERGES);
    m.min(steps + merges + 4.0 + m.max(1.0).log2().ceil())
}
