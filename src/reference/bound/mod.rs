//! The error bound: how far a float32 kernel may be from the float64 oracle. Tests, tools and golden cases all use it.
//!
//! Each function takes the arguments of the reference function of the same name, plus the [`DType`] that x, y, dy and
//! dx are stored in, and returns absolute tolerances in the shape of the result. [`compare`] applies them.
//! A tolerance is infinite where float32, or the dtype of the output, overflows: there nothing is promised.
//! Inputs are the stored ones: x and dy values of the dtype, gamma, beta and running statistics f32 values (others are
//! accepted, and the rounding to f32 is allowed for where it can be seen: eps, running_mean, running_var, momentum).
//!
//! # What is bounded
//! The arithmetic is f32 whatever the dtype, with unit roundoff u = 2^-24. `+ - *` round to nearest; `/` is off by at
//! most 2.5 ulp, so 5u; `inverseSqrt` by 2 ulp, so 4u (WGSL); `sqrt` = 1/inverseSqrt by 9u. Multiplications and
//! additions may be fused and subnormals flushed (eta = 2^-126 per operation). For one channel of m values:
//!
//! 1. k = the median of the elements 0, m/2 and m-1 of the channel; d = fl(x - k).
//! 2. An invocation takes at most 64 blocks of 128 values (the plan sees to it). It turns every four d of a block into
//!    (count, mean, M2), M2 about their mean, and merges these, then up to three single d, one after the other into the
//!    block's own (Chan, Golub and LeVeque 1979), and the blocks one after the other likewise: a value passes through at
//!    most t = min(m/4, 32 + 64) + 3 merges.
//! 3. Invocations, then workgroups, are merged by trees: r = sum(n_i mean_i)/n, M2 = sum(M2_i + n_i (mean_i - r)^2).
//!    A lane adds at most max(16, m / 8192 + 3) of the workgroups' results one after the other before the tree.
//!    A resident kernel takes r as the sum of all d over m and M2 as that of (d - r)^2. A lane adds at most 32 values one
//!    after the other: fewer than q below, and fewer errors of each other kind.
//! 4. The mean is the pair (k, r); var = M2/m; the centred value is xc = fl(fl(x - k) - r).
//! 5. y = xc * scale + beta with scale = gamma * inv_std and inv_std = 1/sqrt(var + eps).
//! 6. S1 = sum(dy), S2 = sum(dy * xc) in the same order; dbeta = S1; dgamma = inv_std * S2;
//!    dx = scale * (dy - S1/m - xc * (inv_std^2 S2/m)).
//!
//! Frozen statistics have k = f32(running_mean), r = f32(running_mean - k), var = running_var and dx = scale * dy.
//!
//! # One sum: [`reduction`]
//! A value passes through 2 additions in its four, t in sequence, s = max(16, m / 8192 + 3) in the merge of workgroups,
//! ceil(log2 m) in trees and 2 over the components of a vector, in any case fewer than m:
//! q = min(m, t + s + 4 + ceil(log2 m)).
//! The error of the sum is sum_j(rho_j s_j) over the partial sums s_j, |rho_j| <= u, and every partial sum is at most
//! the sum of absolute values below it. With P = sum|a|:
//! - worst case (Higham 1993): q u P;
//! - probabilistic (Higham and Mary 2019): independent rho_j of mean 0 give lambda sqrt(q) u P. Rounding errors
//!   uniform in [-u, u] are sub-Gaussian with variance u^2/3, so the bound fails with probability
//!   2 exp(-1.5 lambda^2), 8e-11 for our lambda = 4;
//! - equal addends are no such case: they round the same way as long as the partial sum keeps its exponent, and the
//!   sum drifts. With s growing by a to s = f 2^e, 1 <= f < 2, an addition errs by up to u 2^e in the last binade
//!   (a share 1 - 1/f of them), half in the one before and so on; relative to s this is u q (1/f)(1 - 2/(3f)),
//!   largest at f = 4/3: 3/8 q u P.
//!
//! The bound is R = u min(q, max(lambda sqrt(q), 3/8 q)). P, not |sum a|: a sum that cancels has no relative accuracy.
//!
//! # Mean and variance
//! D = x - k, delta = mean - k, c = x - mean (exact); A = mean|D|. Sums run over the channel.
//! - The error e of d is 0 when D is an f32 (all neighbouring floats, Sterbenz), at most u|D| otherwise. Worst case,
//!   since equal values round equally. It moves the mean by at most mean(e).
//! - The mean of an invocation errs by at most eps_1 = (R + 2u) A + 14u sigma, weighted over invocations: R for its
//!   additions (n_j mean_j is a partial sum of d); 2u for the products n_i mean_i of workgroups and splits; worst case
//!   14u sigma for the rest of the merges, sigma^2 = M2/m. One that adds n_b values to n_a >= n_b errs by 7u |delta_b|
//!   n_b/n. The n_a n_b/n delta_b^2 of all merges sum to at most M2, and n_b <= sqrt(2 n_b) sqrt(n_a n_b/n); each value
//!   is added in a block and in the merge of blocks, so the n_b sum to 2m. By Cauchy-Schwarz the sum of n_b |delta_b| is
//!   at most sqrt(4m M2) = 2m sigma. The two divisions by n: 10u |delta|.
//!   **E(r) = mean(e) + eps_1 + 10u |delta|**, mostly probabilistic.
//! - M2 is stationary in the mean, so an error of the final mean enters squared: at most m E(r)^2. Errors of partial
//!   means enter to first order, 2 sum(w delta_j eps_1) with sum(w delta_j^2) <= M2, w <= 4: by Cauchy-Schwarz at
//!   most 2 sqrt(m M2) eps_1, and since rounding errors do not know the deltas that follow, with the probability
//!   above at most 4 lambda eps_1 sqrt(M2); the smaller counts.
//! - The errors e of the data: 2 sum(|c| e) + sum(e^2), worst case. The rounding of M2's own terms and their sum: R M2,
//!   and 16u M2 worst case (10u for delta^2 n_a n_b/n, 6u for the division by m and a product).
//!
//! **E(var) = (2 sum(|c| e) + sum(e^2) + min(2 sqrt(m), 4 lambda) eps_1 sqrt(M2) + m E(r)^2 + (R + 16u) M2) / m.**
//!
//! A constant channel has D = e = 0: both are exactly 0, and y is exactly beta.
//!
//! # Elements
//! - The error of xc is E(r), common to the channel, plus its own e + u|c|.
//! - V = var + eps; q = (E(var) + |eps - f32(eps)| + uV)/V. **theta = (1 + 4u)/sqrt(1 - q) - 1** bounds the relative
//!   error of inv_std (worst case); no promise when q >= 1.
//! - p = c * scale. **E(y) = |scale| E(xc) (1 + theta) + |p| (theta + 2u) + min(u|y|, |p|) + storage**: gamma *
//!   inv_std and the product err by u each; an addition to beta errs by no more than p, since beta is a float. (The
//!   oracle's own rounding, 2^-52 |y|, is added.)
//! - **E(S1) = R sum|dy|. E(S2) = sum(|dy|(e + u|c|)) + E(r)|S1| + (R + u) sum|dy c|.**
//!   **E(dgamma) = inv_std (E(S2) (1 + theta) + |S2|(theta + u)).**
//! - a = S1/m, b = inv_std^2 S2/m, z = dy - a - c b. E(a) = E(S1)/m + 5u|a|;
//!   E(b) = inv_std^2 E(S2) (1 + theta)^2 / m + |b|(2 theta + theta^2 + 8u);
//!   E(z) = E(a) + |b| E(xc) + |c| E(b) + u(|c b| + |dy| + |a| + |z|).
//!   **E(dx) = |scale| E(z) (1 + theta) + |dx|(theta + 2u) + storage.** Frozen: E(z) = 0.
//! - Storage adds [`DType::storage_error`]. Where an operation can meet a subnormal, eta is added for it.
//!
//! Products of errors are covered by taking u = 1.001 * 2^-24, good to q = 16000.

mod channel;
mod compare;
mod dtype;
mod elements;
mod running;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use crate::dtype::DType;
pub use compare::{Comparison, compare};
pub use elements::{
    ForwardBound, GradientsBound, StatisticsBound, backward_frozen, backward_training, forward_training, inference,
    statistics,
};
pub use running::running;

/// Unit roundoff of f32, with room for products of errors.
const U: f64 = 1.001 / (1u64 << 24) as f64;
/// Smallest normal f32: what flushing a subnormal can cost.
const ETA: f64 = f32::MIN_POSITIVE as f64;
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

/// Relative error of a kernel's f32 sum of `m` terms, on the sum of the terms' absolute values.
///
/// The storage dtype does not enter, since sums are kept in f32. See the [module](self) for the derivation.
///
/// ```
/// use batchnorm_wgpu::reference::bound::reduction;
/// assert!(reduction(100) < 2e-6);
/// assert!(reduction(1_000_000) < 6e-6);
/// ```
pub fn reduction(m: u64) -> f64 {
    let m = m as f64;
    let steps = (m / 4.0).floor().min(BLOCK_STEPS + BLOCKS) + 3.0;
    let merges = (m / (4.0 * BLOCK_STEPS * BLOCKS) + 3.0).max(MERGES);
    let depth = m.min(steps + merges + 4.0 + m.max(1.0).log2().ceil());
    U * depth.min((LAMBDA * depth.sqrt()).max(DRIFT * depth))
}
