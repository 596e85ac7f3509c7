//! What errors depend on besides the layer.

use super::DType;
use crate::config::Activation;
use crate::error::{Error, Result};
use crate::reference::Layer;

/// How the kernels go about it, as far as errors depend on it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Execution {
    /// What x, y, dy, dx, the residual and dresidual are stored in. Default f32.
    pub dtype: DType,
    /// Whether the backward pass works from y, as the forward pass stored it. Only for layers without residual and
    /// activation, and of no effect on forward passes. Default false.
    pub in_place: bool,
    /// Values per channel in the first part of a tensor that is split over N into several bindings; `None` where the
    /// whole channel lies in one. The shift of the statistics is taken from the first part. Default none.
    pub first_part: Option<u64>,
    /// Whether dx and dresidual are added to what is there: their tolerances are those before storage then, which
    /// [`add_to`](super::add_to) needs. Of no effect on forward passes. Default false.
    pub adds: bool,
}

impl Execution {
    /// What dx and dresidual are stored in, as far as their tolerances know.
    pub(super) fn stored_gradient(&self) -> DType {
        if self.adds { DType::F32 } else { self.dtype }
    }

    /// Refuses a layer that cannot run in place.
    pub(super) fn check(&self, layer: &Layer<'_>) -> Result<()> {
        if !self.in_place || (layer.residual.is_none() && layer.activation == Activation::None) {
            return Ok(());
        }
        let (expected, actual) = ("a layer without residual and activation", "one that has either");
        Err(Error::Mismatch { name: "in_place", expected: expected.into(), actual: actual.into() })
    }
}
