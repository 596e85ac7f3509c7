//! What tensors are stored in, as a shader sees it, and the WGSL that loads and stores their elements.

use super::{Access, Geometry, Part, part};
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
    /// f16 as WGSL's own type: wants `wgpu::Features::SHADER_F16`.
    F16,
    /// Two f16 in a word. Runs everywhere.
    F16Words,
    /// Two bf16 in a word. Runs everywhere.
    Bf16Words,
}

impl Storage {
    /// All, those that run everywhere among them for every dtype.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::F16Words, Self::Bf16Words];

    /// Name in tables, test ids and files.
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

    /// Whether elements are taken out of words and put into them.
    pub(crate) fn in_words(self) -> bool {
        matches!(self, Self::F16Words | Self::Bf16Words)
    }

    /// The part that converts elements of 16 bits.
    pub(super) fn part(self) -> Option<Part> {
        match self.dtype() {
            DType::F32 => None,
            DType::F16 => Some(part!("common/f16.wgsl")),
            DType::Bf16 => Some(part!("common/bf16.wgsl")),
        }
    }

    /// What the shader must enable first.
    pub(super) fn enable(self) -> &'static str {
        if self == Self::F16 { "enable f16;\n" } else { "" }
    }

    /// What a binding is an array of. A word whose halves two invocations may write is atomic.
    pub(super) fn element(self, geometry: Geometry, access: Access) -> &'static str {
        match (self, geometry.is_wide(), access) {
            (Self::F32, ..) => "Value",
            (Self::F16, false, _) => "f16",
            (Self::F16, true, _) => "vec4<f16>",
            (Self::F16Words | Self::Bf16Words, true, _) => "vec2<u32>",
            (Self::F16Words | Self::Bf16Words, false, Access::Read) => "u32",
            (Self::F16Words | Self::Bf16Words, false, Access::Write) => "atomic<u32>",
        }
    }

    /// Body of a function that loads value `i` of `array`, a binding of the given access.
    pub(super) fn load(self, geometry: Geometry, array: &str, access: Access) -> String {
        match (self.in_words(), geometry.is_wide(), access) {
            (false, ..) => format!("return Value({array}[i]);"),
            (true, true, _) => format!("return Value(halves({array}[i].x), halves({array}[i].y));"),
            (true, false, Access::Read) => format!("return halves({array}[i / 2u])[i % 2u];"),
            (true, false, Access::Write) => format!("return halves(atomicLoad(&{array}[i / 2u]))[i % 2u];"),
        }
    }

    /// Body of a function that stores `v` as value `i` of `array`.
    pub(super) fn store(self, geometry: Geometry, array: &str) -> String {
        // The conversion of what is an f16 already leaves nothing to the device's rounding.
        match (self, geometry.is_wide()) {
            (Self::F32, _) => format!("{array}[i] = v;"),
            (Self::F16, false) => format!("{array}[i] = f16(halves(narrow(v)).x);"),
            (Self::F16, true) => format!(
                "let bits = narrow(v); let words = bits.xz | (bits.yw << vec2<u32>(16u)); \
                 {array}[i] = vec4<f16>(vec4<f32>(halves(words.x), halves(words.y)));"
            ),
            (Self::F16Words | Self::Bf16Words, true) => {
                format!("let bits = narrow(v); {array}[i] = bits.xz | (bits.yw << vec2<u32>(16u));")
            }
            // The other half of the word is another invocation's, and keeps its value; of its own half nobody else writes.
            (Self::F16Words | Self::Bf16Words, false) => format!(
                "let at = 16u * (i % 2u); let old = atomicLoad(&{array}[i / 2u]) >> at; \
                 atomicXor(&{array}[i / 2u], ((old ^ narrow(v)) & 0xffffu) << at);"
            ),
        }
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
