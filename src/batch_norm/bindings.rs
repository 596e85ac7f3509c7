//! What each operation binds.

use super::Saved;
#[cfg(doc)]
use super::{BatchNorm, Step};
#[cfg(doc)]
use crate::{config::Config, running::RunningStatistics};
use wgpu::BufferBinding;

/// Bindings of [`BatchNorm::forward_training`].
#[derive(Clone, Debug)]
pub struct ForwardTraining<'a> {
    /// Input, a tensor. Read.
    pub x: BufferBinding<'a>,
    /// Output, a tensor: `act(bn(x) + residual)`. Written. The same binding as `x` only with [`Config::in_place`].
    pub y: BufferBinding<'a>,
    /// A tensor that is added before the activation; `None` for none. Read.
    pub residual: Option<BufferBinding<'a>>,
    /// Scale, `[C]` f32; `None` for 1. Read.
    pub gamma: Option<BufferBinding<'a>>,
    /// Shift, `[C]` f32; `None` for 0. Read.
    pub beta: Option<BufferBinding<'a>>,
    /// Where the backward pass finds what it needs besides x ([`Step::saved`]), `[6][C]` f32: the mean as shift and remainder, the biased variance,
    /// 1 / sqrt(variance + eps), gamma, beta. Written.
    pub saved: BufferBinding<'a>,
    /// Running statistics ([`RunningStatistics`]); `None` to track none. A new buffer holds zeros, which are no running
    /// statistics: initialize it ([`BatchNorm::initialize_running`]). Read and written.
    pub running: Option<BufferBinding<'a>>,
    /// At least [`BatchNorm::scratch_size`] bytes whose contents do not matter; checked even where the plan uses none. Written.
    pub scratch: BufferBinding<'a>,
}

/// Bindings of [`BatchNorm::inference`].
#[derive(Clone, Debug)]
pub struct Inference<'a> {
    /// Input, a tensor. Read.
    pub x: BufferBinding<'a>,
    /// Output, a tensor: `act(bn(x) + residual)`. Written. The same binding as `x` runs in place.
    pub y: BufferBinding<'a>,
    /// A tensor that is added before the activation; `None` for none. Read.
    pub residual: Option<BufferBinding<'a>>,
    /// Scale, `[C]` f32; `None` for 1. Read.
    pub gamma: Option<BufferBinding<'a>>,
    /// Shift, `[C]` f32; `None` for 0. Read.
    pub beta: Option<BufferBinding<'a>>,
    /// Running statistics ([`RunningStatistics`]). A buffer of zeros, which was never initialized
    /// ([`BatchNorm::initialize_running`]) nor written by training, has variance 0, and y is x / sqrt(eps). Read.
    pub running: BufferBinding<'a>,
    /// What [`BatchNorm::backward_frozen`] needs besides x, laid out as in [`ForwardTraining::saved`] with the running
    /// statistics; `None` where no backward pass follows. Written.
    pub saved: Option<BufferBinding<'a>>,
}

/// Bindings of [`BatchNorm::backward_training`] and [`BatchNorm::backward_frozen`].
#[derive(Clone, Debug)]
pub struct Backward<'a> {
    /// What the forward pass left, [`Step::saved`]: x (or y, with [`Config::in_place`]), the residual, the statistics. Read.
    pub saved: &'a Saved,
    /// Gradient of the loss by y, a tensor. Read.
    pub dy: BufferBinding<'a>,
    /// Gradient by x, a tensor; `None` if not wanted. Written. The same binding as `dy` runs in place.
    pub dx: Option<BufferBinding<'a>>,
    /// Gradient by the residual, a tensor; `None` if not wanted. Written. The same binding as `dy` runs in place, where `dx`
    /// does not; but with f16 or bf16 and leaky ReLU or SiLU not beside a `dx`, which is computed from `dy`. Without an
    /// activation it is a copy of `dy`.
    pub dresidual: Option<BufferBinding<'a>>,
    /// Gradient by gamma, `[C]` f32; `None` if not wanted. Written, not added to.
    pub dgamma: Option<BufferBinding<'a>>,
    /// Gradient by beta, `[C]` f32; `None` if not wanted. Written, not added to.
    pub dbeta: Option<BufferBinding<'a>>,
    /// At least [`BatchNorm::scratch_size`] bytes whose contents do not matter; checked even where the plan uses none. Written.
    pub scratch: BufferBinding<'a>,
}

/// Bindings of [`BatchNorm::training`]: those of [`ForwardTraining`] and [`Backward`], each once.
#[derive(Clone, Debug)]
pub struct Training<'a> {
    /// Input, a tensor. Read by both passes; with [`Config::in_place`] only forward.
    pub x: BufferBinding<'a>,
    /// Output, a tensor: `act(bn(x) + residual)`. Written. The same binding as `x` only with [`Config::in_place`], where the
    /// backward pass reads it.
    pub y: BufferBinding<'a>,
    /// Gradient of the loss by y, a tensor. Read.
    pub dy: BufferBinding<'a>,
    /// [`Backward::dx`]. Written.
    pub dx: Option<BufferBinding<'a>>,
    /// A tensor that is added before the activation; `None` for none. Read by both passes.
    pub residual: Option<BufferBinding<'a>>,
    /// [`Backward::dresidual`]. Written.
    pub dresidual: Option<BufferBinding<'a>>,
    /// Scale, `[C]` f32; `None` for 1. Read.
    pub gamma: Option<BufferBinding<'a>>,
    /// Shift, `[C]` f32; `None` for 0. Read.
    pub beta: Option<BufferBinding<'a>>,
    /// [`Backward::dgamma`]. Written.
    pub dgamma: Option<BufferBinding<'a>>,
    /// [`Backward::dbeta`]. Written.
    pub dbeta: Option<BufferBinding<'a>>,
    /// [`ForwardTraining::saved`]. Written forward, read backward: no other layer may write it in between.
    pub saved: BufferBinding<'a>,
    /// [`ForwardTraining::running`]. Read and written.
    pub running: Option<BufferBinding<'a>>,
    /// [`ForwardTraining::scratch`]. Written by both passes.
    pub scratch: BufferBinding<'a>,
}

/// Bindings of [`BatchNorm::statistics`].
#[derive(Clone, Debug)]
pub struct Statistics<'a> {
    /// Input, a tensor. Read.
    pub x: BufferBinding<'a>,
    /// The batch's statistics, laid out as in [`ForwardTraining::saved`], with gamma 1 and beta 0; `None` if not wanted.
    /// Written.
    pub saved: Option<BufferBinding<'a>>,
    /// Running statistics that the batch enters by the layer's policy; `None` if not wanted. Initialized before the first batch
    /// ([`BatchNorm::initialize_running`]). Read and written.
    pub running: Option<BufferBinding<'a>>,
    /// At least [`BatchNorm::scratch_size`] bytes whose contents do not matter; checked even where the plan uses none. Written.
    pub scratch: BufferBinding<'a>,
}
