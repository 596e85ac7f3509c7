//! What tensors are stored in, as a shader sees it.

use super::Geometry;
use crate::dtype::DType;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a shader sees the elements of a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// f32.
    #[default]
    F32,
    /// f16 as WGSL's own type, one element at a time: wants `wgpu::Features::SHADER_F16` and [`Geometry::Scalar`].
    F16,
    /// Two f16 in a word. Runs everywhere.
    F16Words,
    /// Two bf16 in a word. Runs everywhere.
    Bf16Words,
}

impl Storage {
    /// All, those that run everywhere among them for every dtype.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::F16Words, Self::Bf16Words];

    /// Name in tables, test ids and files; in shaders a feature (`shaders/common/elements.wgsl`).
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::F16Words => "f16_words",
            Self::Bf16Words => "bf16_words",
        }
    }

    /// What is stored.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 | Self::F16Words => DType::F16,
            Self::Bf16Words => DType::Bf16,
        }
    }

    /// Whether there is a kernel for it with values of a geometry. WGSL's own f16 is for one element at a time, where words
    /// have to be shared: four at a time are two whole words, which is as few loads.
    pub(crate) fn is_for(self, geometry: Geometry) -> bool {
        self != Self::F16 || geometry == Geometry::Scalar
    }

    /// Whether elements are taken out of words and put into them.
    pub(crate) fn in_words(self) -> bool {
        matches!(self, Self::F16Words | Self::Bf16Words)
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
