//! The error bound: how far a float32 kernel may be from the float64 oracle. Tests, tools and golden cases all use it.
//!
//! Each function takes the arguments of the reference function of the same name, plus the [`Execution`]: the [`DType`]
//! that x, y, dy, dx, the residual and dresidual are stored in, whether the pass works in place, and the size of a
//! split tensor's first part. It returns absolute tolerances in the shape of the result. [`compare`] applies them,
//! after [`settle_overflow`] for tensors of F16 and Bf16.
//! A tolerance is infinite where float32 may overflow, or where it is open whether the dtype of the output does: there
//! nothing is promised. [`overflows`] names the channels whose statistics overflow for certain, whatever the order of
//! summation.
//! Inputs are the stored ones: x, dy and the residual values of the dtype, gamma, beta and running statistics f32 values
//! (others are accepted, and the rounding to f32 is allowed for where it can be seen: eps, running_mean, running_var,
//! momentum).
//!
//! # What is bounded
//! The arithmetic is f32 whatever the dtype, with unit roundoff u = 2^-24. `+ - *` round to nearest; `/` is off by at
//! most 2.5 ulp, so 5u; `inverseSqrt` by 2 ulp, so 4u (WGSL); `sqrt` = 1/inverseSqrt by 9u. Multiplications and
//! additions may be fused and subnormals flushed to 0, those that go into an operation and those that come out (eta = 2^-126,
//! see below). For one channel of m values:
//!
//! 1. k = the median of the elements 0, n/2 and n-1 of the channel; d = fl(x - k). Here n = m, but where a tensor is
//!    split over N into parts with bindings of their own: there n is the number of the channel's values in the first
//!    part.
//! 2. An invocation takes at most 64 blocks of 128 values (the plan sees to it). It turns every four d of a block into
//!    (count, mean, M2), M2 about their mean, and merges these, then up to three single d, one after the other into the
//!    block's own (Chan, Golub and LeVeque 1979), and the blocks one after the other likewise: a value passes through at
//!    most t = min(m/4, 32 + 64) + 3 merges.
//! 3. Invocations, then workgroups, are merged by trees: r = sum(n_i mean_i)/n, M2 = sum(M2_i + n_i (mean_i - r)^2).
//!    A lane adds at most max(16, m / 8192 + 3) of the workgroups' results one after the other before the tree; those of
//!    all parts of a split tensor go through this one merge.
//!    A resident kernel takes r as the sum of all d over m and M2 as that of (d - r)^2. A lane adds at most 32 values one
//!    after the other: fewer than q below, and fewer errors of each other kind.
//! 4. The mean is the pair (k, r); var = M2/m; the centred value is xc = fl(fl(x - k) - r).
//! 5. z = (xc * scale + beta) + residual with scale = gamma * inv_std and inv_std = 1/sqrt(var + eps); y = act(z),
//!    rounded to the dtype.
//! 6. The backward pass computes z again and has dz = dy, or 0 where the activation is ReLU and z <= 0; dresidual = dz.
//!    S1 = sum(dz), S2 = sum(dz * xc) in the same order; dbeta = S1; dgamma = inv_std * S2;
//!    dx = scale * (dz - S1/m - xc * (inv_std^2 S2/m)).
//! 7. Where the forward pass wrote y over x, without residual and activation, the backward pass has only the stored y_s
//!    and takes xc = fl(fl(y_s - beta) * stretch) with stretch = fl(1/scale), scale the same f32 as in 5.
//!
//! Frozen statistics have k = f32(running_mean), r = f32(running_mean - k), var = running_var and dx = scale * dz.
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
//! Nothing is promised once 4 max(sum D^2, P) exceeds the largest f32, below which every sum of a kernel stays. M2 overflows
//! **for certain** where M2 - m E(var) does: a kernel that did not overflow would be closer. That takes a deviation of 1.8e19
//! / sqrt(m); the variance, the results of the channel that need it and NaN in their place follow ([`overflows`]).
//!
//! A constant channel has D = e = 0: both are exactly 0, p below is 0, and z is exactly fl(beta + residual).
//!
//! # Elements
//! - The error of xc is E(r), common to the channel, plus its own e + u|c|.
//! - V = var + eps; q = (E(var) + |eps - f32(eps)| + uV)/V. **theta = (1 + 4u)/sqrt(1 - q) - 1** bounds the relative
//!   error of inv_std (worst case); no promise when q >= 1.
//! - p = c * scale, **E(p) = |scale| E(xc) (1 + theta) + |p| (theta + 2u) + F(scale) (|c| + E(xc)) + F(p)**: gamma * inv_std
//!   and the product err by u each, and F is what flushing costs. p is exactly 0 where c = E(xc) = 0 or gamma = 0, unless
//!   theta is infinite. Where x is infinite and the mean is not, p is exactly the infinity of its sign, unless the scale may
//!   be flushed to 0.
//!
//! # Epilogue
//! - With s = p + beta and t the residual (0 where there is none): **E(s) = E(p) + add(p, beta)** and
//!   **E(z) = E(s) + add(s, t)**, where adding a float b to a result within E(a) of a costs
//!   **add(a, b) = min(u(|a + b| + E(a)), |a| + E(a), |b|)**: besides the usual u, b and the float a themselves are
//!   candidates that rounding to nearest may not be worse than. A product that is fused into the addition is no float,
//!   but then its own rounding, counted in E(p), is left over. add is 0 where a is exact and a + b an f32. (The oracle's
//!   own rounding, 2^-52 |a + b|, is added.)
//! - **E(y) = E(z) + storage**: ReLU brings no two numbers further apart. Where z + E(z) <= 0, y is 0 exactly. NaN
//!   stays NaN.
//! - The mask of an element is *in doubt* where E(z) > 0 and |z| <= E(z), E(z) before storage: a kernel may see z on
//!   the other side of 0 and take dy for 0 or 0 for dy. w = |dy| there, and 0 elsewhere and without an activation; g =
//!   max(|dz|, w) is the most that a kernel takes. **E(dresidual) = w**, since dz is a copy. z = 0 with E(z) = 0, a
//!   constant channel without beta and residual, is not in doubt, nor is a NaN, which lets dy through.
//!
//! # Work in place
//! What 7. recovers differs from c, worst case per element, by
//! - the forward pass's E(xc), of which E(r) is common to the channel as before;
//! - what happened to y on the way. With the kernel's own scale s, y_s = xc s (1 + u) + beta + add(p, beta) + storage,
//!   so that dividing by s gives u|c| + (add(p, beta) + storage)/|s|. The errors of s itself cancel; only the noise is
//!   divided by an s that may be smaller than |scale|: |s| >= |scale| / ((1 + theta)(1 + 2u)), because theta is larger
//!   above inv_std than below;
//! - u for y_s - beta, 5u for the division, u for the product.
//!
//! **E(xc) in place = E(r) + e + u|c| + 8u(|c| + E(xc)) + 1.001 (add(p, beta) + storage)(1 + theta)(1 + 2u)/|scale|**,
//! which takes the place of E(xc) in the gradients; storage is no multiple of u, hence a factor of its own for products
//! of errors. It is infinite where y may overflow, where |s| may leave [2^-126, 2^126], between which WGSL promises
//! the accuracy of a division, and where gamma may be flushed: with gamma = 0 nothing of x is left in y. A constant channel
//! whose beta the dtype holds is exact.
//!
//! # Gradients
//! - **E(S1) = R sum(g) + sum(w). E(S2) = sum(g (e + u|c|)) + E(r)(|S1| + sum(w)) + (R + u) sum(g|c|) + sum(w|c|)**, in
//!   place with what stands beside E(r) above for e + u|c|.
//!   **E(dgamma) = inv_std (E(S2) (1 + theta) + |S2|(theta + u)).**
//! - a = S1/m, b = inv_std^2 S2/m, v = dz - a - c b. E(a) = E(S1)/m + 5u|a|;
//!   E(b) = inv_std^2 E(S2) (1 + theta)^2 / m + |b|(2 theta + theta^2 + 8u);
//!   E(v) = w + E(a) + |b| E(xc) + (|c| + E(xc)) E(b) + u(|c b| + g + |a| + |v|).
//!   **E(dx) = |scale| E(v) (1 + theta) + |dx|(theta + 2u) + F(scale) (|v| + E(v)) + F(dx) + storage.** Frozen: v = dz,
//!   E(v) = w + F(dz).
//! - w and the noise of a stored y are no multiples of u, so that these sums carry the factors 1 + 2u to 1 + 8u of the
//!   operations behind them.
//!
//! # Subnormals
//! - **F(a)** is what it costs that a number within E(a) of a may be flushed: nothing where |a| - E(a) >= eta, at most |a| +
//!   E(a) and at most eta otherwise. So a result that is exactly 0 stays exact.
//! - A flush costs eta where it happens, and then whatever the lost number is multiplied with. So F of an operand is carried
//!   along: in x, k, x - k and xc with E(xc); in the running variance with E(var), beside an eps that may be as small as
//!   eta; in gamma and its product with inv_std as **F(scale)**, which is |scale| where gamma is subnormal, since the
//!   product may be a normal number that a kernel takes for 0 (inv_std reaches 2^63), and F(gamma inv_std) elsewhere; in
//!   dgamma / m and in the product with inv_std with E(b), with inv_std and c for factors.
//! - Sums flush terms and partial sums: 3 eta for every merge on a value's way to the mean, 2 eta per term of S1 and S2, whose
//!   products dz xc lose eta (|c| + E(xc)) where dz is flushed. In the variance: eta each for a square, its sum and the
//!   merge's products and sums, shared by the four values of a run, and eta n_b for delta^2, which is multiplied with n_a
//!   n_b/n, twice on the way of an invocation and once in either merge of the others, sum(n_b) <= m: 10 eta in all with the
//!   division.
//! - Constant channels flush nothing that matters but beta, the residual and k itself.
//!
//! # Storage and overflow
//! - Storage adds [`DType::storage_error`]: half an ulp, of the exact value and its error. What is below
//!   [`DType::overflow`] for certain is stored as a finite number, and what is not below it for certain as infinity,
//!   which [`settle_overflow`] demands. An intermediate result beyond f32 is allowed only where it has the sign of such
//!   a result.
//! - Subnormals of F16 are normal in f32, and the kernels convert them in integers, so that they are kept.
//!
//! Other products of errors are covered by taking u = 1.001 * 2^-24, good to q = 16000.

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
pub use gradients::{GradientsBound, backward_frozen, backward_training};
pub use running::running;

/// Room for products of errors.
const ROOM: f64 = 1.001;
/// Unit roundoff of f32, with that room.
const U: f64 = ROOM / (1u64 << 24) as f64;
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
/// The storage dtype does not enter, since sums are kept in f32. See the [module](self) for the derivation.
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
