//! What a value is made of.

use crate::shape::Shape;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a value of the shader's inner loops is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Geometry {
    /// One element. Runs for every shape.
    Scalar,
    /// Four neighbouring elements of one channel: inner a multiple of four.
    Planes4,
    /// Four neighbouring elements of a row of channels: inner 1, and N * C a multiple of four such that the samples can be
    /// taken two or four at a time where C alone is not. With [views](crate::Views), C and all their numbers multiples of four.
    Rows4,
}

impl Geometry {
    /// All, the widest first.
    pub const ALL: [Self; 3] = [Self::Planes4, Self::Rows4, Self::Scalar];

    /// Name in tables, test ids and files; in shaders a feature (`shaders/common/values.wgsl`).
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Planes4 => "planes4",
            Self::Rows4 => "rows4",
        }
    }

    /// How many samples of a shape count as one, so that values fill its rows: 1 but for [`Geometry::Rows4`] where C is no
    /// multiple of four. `None` where the geometry does not run for the shape.
    pub fn fold(self, shape: &Shape) -> Option<usize> {
        match self {
            Self::Scalar => Some(1),
            Self::Planes4 => shape.inner().is_multiple_of(4).then_some(1),
            Self::Rows4 if shape.inner() == 1 => {
                let fold = [1, 2, 4].into_iter().find(|fold| (shape.channels() * fold).is_multiple_of(4));
                let fold = fold.filter(|&fold| shape.elements_per_channel().is_multiple_of(fold))?;
                let in_views = !shape.has_views() || fold == 1 && shape.views_are_multiples_of(4);
                let in_parts = shape.slices_per_micro_batch().is_none_or(|slices| slices.is_multiple_of(fold));
                (in_views && in_parts).then_some(fold)
            }
            Self::Rows4 => None,
        }
    }

    /// How many values a lane can hold at the most. More of four elements do not fit the registers of GPUs: what their compilers
    /// spill to memory is read again, which is what holding values is there to avoid.
    pub(crate) fn most_held(self) -> u32 {
        if self == Self::Scalar { 32 } else { 16 }
    }

    /// Channels that a value spans.
    pub(crate) fn channels_per_value(self) -> usize {
        if self == Self::Rows4 { 4 } else { 1 }
    }

    /// Elements of one channel that a value holds.
    pub(crate) fn elements_per_value(self) -> usize {
        if self == Self::Planes4 { 4 } else { 1 }
    }

    /// Elements of a value.
    pub fn elements(self) -> usize {
        self.channels_per_value() * self.elements_per_value()
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
