//! What each operation binds.

use super::Saved;
#[cfg(doc)]
use super::{BatchNorm, Step};
#[cfg(doc)]
use crate::{config::Config, running::RunningStatistics};
use wgpu::BufferBinding;

/// Where a gradient goes, and how. The setters of [`Backward`] and [`Training`] make it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Gradient<'a> {
    /// Where it goes.
    pub binding: BufferBinding<'a>,
    /// Whether it is added to what is there, in f32 and rounded once where the dtype is narrower; otherwise it replaces it. So
    /// gradients of several micro-batches add up, and those of a parameter or an input that several layers share. What is added
    /// to is read, and therefore is never over dy.
    pub adds: bool,
}

/// Setters of the bindings that may be left out.
macro_rules! setters {
    ($type:ident: $($name:ident),+) => {
        impl<'a> $type<'a> {
            $(
                #[doc = concat!("The same with this `", stringify!($name), "`, or with none.")]
                #[must_use]
                pub fn $name(self, $name: impl Into<Option<BufferBinding<'a>>>) -> Self {
                    Self { $name: $name.into(), ..self }
                }
            )+
        }
    };
}

/// Setters of gradients, each of which may be left out.
macro_rules! gradients {
    ($type:ident: $($name:ident $add:ident),+) => {
        impl<'a> $type<'a> {
            $(
                #[doc = concat!("The same with `", stringify!($name), "` written, or not wanted.")]
                #[must_use]
                pub fn $name(self, $name: impl Into<Option<BufferBinding<'a>>>) -> Self {
                    Self { $name: $name.into().map(|binding| Gradient { binding, adds: false }), ..self }
                }

                #[doc = concat!("The same with `", stringify!($name), "` added to what is there, or not wanted.")]
                #[must_use]
                pub fn $add(self, $name: impl Into<Option<BufferBinding<'a>>>) -> Self {
                    Self { $name: $name.into().map(|binding| Gradient { binding, adds: true }), ..self }
                }
            )+
        }
    };
}

/// Bindings of [`BatchNorm::forward_training`].
#[derive(Clone, Debug)]
#[non_exhaustive]
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
    /// Where the backward pass finds what it needs besides x ([`Step::saved`]), `[6][C]` f32: four planes of
    /// statistics, which are the mean as shift and remainder, the biased variance and 1 / sqrt(variance + eps), then gamma and
    /// beta. Written.
    pub saved: BufferBinding<'a>,
    /// Running statistics ([`RunningStatistics`]); `None` to track none. A new buffer holds zeros, which are no running
    /// statistics: initialize it ([`BatchNorm::initialize_running`]). Read and written.
    pub running: Option<BufferBinding<'a>>,
    /// At least [`BatchNorm::scratch_size`] bytes whose contents do not matter; checked even where the plan uses none. Written.
    pub scratch: BufferBinding<'a>,
}

impl<'a> ForwardTraining<'a> {
    /// What every training forward has: no residual, gamma 1, beta 0, nothing tracked.
    pub fn new(
        x: BufferBinding<'a>,
        y: BufferBinding<'a>,
        saved: BufferBinding<'a>,
        scratch: BufferBinding<'a>,
    ) -> Self {
        Self { x, y, residual: None, gamma: None, beta: None, saved, running: None, scratch }
    }
}

setters!(ForwardTraining: residual, gamma, beta, running);

/// Bindings of [`BatchNorm::inference`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Inference<'a> {
    /// Input, a tensor. Read.
    pub x: BufferBinding<'a>,
    /// Output, a tensor: `act(bn(x) + residual)`. Written. The same binding as `x` or as `residual` runs in place.
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

impl<'a> Inference<'a> {
    /// What every inference has: no residual, gamma 1, beta 0, nothing saved.
    pub fn new(x: BufferBinding<'a>, y: BufferBinding<'a>, running: BufferBinding<'a>) -> Self {
        Self { x, y, residual: None, gamma: None, beta: None, running, saved: None }
    }
}

setters!(Inference: residual, gamma, beta, saved);

/// Bindings of [`BatchNorm::backward_training`] and [`BatchNorm::backward_frozen`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Backward<'a> {
    /// What the forward pass left, [`Step::saved`]: x (or y, with [`Config::in_place`]), the residual, the statistics. Read.
    pub saved: &'a Saved,
    /// Gradient of the loss by y, a tensor. Read.
    pub dy: BufferBinding<'a>,
    /// Gradient by x, a tensor; `None` if not wanted. Written or added to. The same binding as `dy` runs in place, where it is
    /// written.
    pub dx: Option<Gradient<'a>>,
    /// Gradient by the residual, a tensor; `None` if not wanted. Written or added to. The same binding as `dy` runs in place,
    /// where it is written and `dx` does not; but with f16 or bf16 and leaky ReLU or SiLU not beside a `dx`, which is computed
    /// from `dy`. Without an activation it is a copy of `dy`.
    pub dresidual: Option<Gradient<'a>>,
    /// Gradient by gamma, `[C]` f32; `None` if not wanted. Written or added to.
    pub dgamma: Option<Gradient<'a>>,
    /// Gradient by beta, `[C]` f32; `None` if not wanted. Written or added to.
    pub dbeta: Option<Gradient<'a>>,
    /// At least [`BatchNorm::scratch_size`] bytes whose contents do not matter; checked even where the plan uses none. Written.
    pub scratch: BufferBinding<'a>,
}

impl<'a> Backward<'a> {
    /// What every backward pass has; at least one of the gradients has to be set too.
    pub fn new(saved: &'a Saved, dy: BufferBinding<'a>, scratch: BufferBinding<'a>) -> Self {
        Self { saved, dy, dx: None, dresidual: None, dgamma: None, dbeta: None, scratch }
    }
}

gradients!(Backward: dx add_to_dx, dresidual add_to_dresidual, dgamma add_to_dgamma, dbeta add_to_dbeta);

/// Bindings of [`BatchNorm::training`]: those of [`ForwardTraining`] and [`Backward`], each once.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Training<'a> {
    /// Input, a tensor. Read by both passes; with [`Config::in_place`] only forward.
    pub x: BufferBinding<'a>,
    /// Output, a tensor: `act(bn(x) + residual)`. Written. The same binding as `x` only with [`Config::in_place`], where the
    /// backward pass reads it.
    pub y: BufferBinding<'a>,
    /// Gradient of the loss by y, a tensor. Read.
    pub dy: BufferBinding<'a>,
    /// As in [`Backward`]. Written or added to.
    pub dx: Option<Gradient<'a>>,
    /// A tensor that is added before the activation; `None` for none. Read by both passes.
    pub residual: Option<BufferBinding<'a>>,
    /// As in [`Backward`]. Written or added to.
    pub dresidual: Option<Gradient<'a>>,
    /// Scale, `[C]` f32; `None` for 1. Read.
    pub gamma: Option<BufferBinding<'a>>,
    /// Shift, `[C]` f32; `None` for 0. Read.
    pub beta: Option<BufferBinding<'a>>,
    /// As in [`Backward`]. Written or added to.
    pub dgamma: Option<Gradient<'a>>,
    /// As in [`Backward`]. Written or added to.
    pub dbeta: Option<Gradient<'a>>,
    /// As in [`ForwardTraining`]. Written forward, read backward: no other layer may write it in between.
    pub saved: BufferBinding<'a>,
    /// As in [`ForwardTraining`]. Read and written.
    pub running: Option<BufferBinding<'a>>,
    /// As in [`ForwardTraining`]. Written by both passes.
    pub scratch: BufferBinding<'a>,
}

impl<'a> Training<'a> {
    /// What every training step has: no residual, gamma 1, beta 0, nothing tracked. At least one of the gradients has to be set
    /// too.
    pub fn new(
        x: BufferBinding<'a>,
        y: BufferBinding<'a>,
        dy: BufferBinding<'a>,
        saved: BufferBinding<'a>,
        scratch: BufferBinding<'a>,
    ) -> Self {
        let (residual, gamma, beta, running) = (None, None, None, None);
        let (dx, dresidual, dgamma, dbeta) = (None, None, None, None);
        Self { x, y, dy, dx, residual, dresidual, gamma, beta, dgamma, dbeta, saved, running, scratch }
    }
}

setters!(Training: residual, gamma, beta, running);
gradients!(Training: dx add_to_dx, dresidual add_to_dresidual, dgamma add_to_dgamma, dbeta add_to_dbeta);

/// Bindings of [`BatchNorm::statistics`].
#[derive(Clone, Debug)]
#[non_exhaustive]
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

impl<'a> Statistics<'a> {
    /// What every call has; `saved` or `running` has to be set too.
    pub fn new(x: BufferBinding<'a>, scratch: BufferBinding<'a>) -> Self {
        Self { x, saved: None, running: None, scratch }
    }
}

setters!(Statistics: saved, running);
