//! What a layer does.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a layer does: one variant for each method of [`crate::BatchNorm`] that binds a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// [`crate::BatchNorm::forward_training`].
    ForwardTraining,
    /// [`crate::BatchNorm::inference`].
    Inference,
    /// [`crate::BatchNorm::backward_training`].
    BackwardTraining,
    /// [`crate::BatchNorm::backward_frozen`].
    BackwardFrozen,
    /// [`crate::BatchNorm::statistics`].
    Statistics,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::ForwardTraining, Self::Inference, Self::BackwardTraining, Self::BackwardFrozen, Self::Statistics];

    /// Name in tables, test ids and files: that of the method.
    pub fn name(self) -> &'static str {
        match self {
            Self::ForwardTraining => "forward_training",
            Self::Inference => "inference",
            Self::BackwardTraining => "backward_training",
            Self::BackwardFrozen => "backward_frozen",
            Self::Statistics => "statistics",
        }
    }

    /// Whether one value per channel is refused: its variance is 0 and every output would be beta.
    pub fn trains(self) -> bool {
        matches!(self, Self::ForwardTraining | Self::BackwardTraining)
    }

    /// Whether it updates the running statistics that it is given.
    pub(crate) fn tracks(self) -> bool {
        matches!(self, Self::ForwardTraining | Self::Statistics)
    }

    /// Whether it computes 1 / sqrt(variance + eps). A backward pass takes what its forward pass saved.
    pub(crate) fn takes_eps(self) -> bool {
        matches!(self, Self::ForwardTraining | Self::Inference | Self::Statistics)
    }

    /// Tensors that must be read or written at the least, with every output wanted: how fast memory lets it be.
    pub fn least_moves(self) -> u32 {
        match self {
            Self::ForwardTraining | Self::Inference => 2,
            Self::BackwardTraining | Self::BackwardFrozen => 3,
            Self::Statistics => 1,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
