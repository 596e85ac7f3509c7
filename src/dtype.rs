//! The types that tensors are stored in.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The type that x, y, dy, dx, the residual and its gradient are stored in. Arithmetic, statistics and parameters are f32
/// for all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DType {
    /// IEEE 754 binary32.
    #[default]
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16: binary32 without its low 16 bits.
    Bf16,
}

impl DType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// Name in tables, test ids and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes of an element.
    pub fn size(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Bytes of a tensor of so many elements in a buffer: a multiple of four, since buffers are bound in words. What stands
    /// behind an odd last element of two bytes is neither read nor changed. A number of bytes beyond `u64` gives its largest
    /// multiple of four, which no buffer has.
    pub fn bytes(self, elements: usize) -> u64 {
        (elements as u64).saturating_mul(self.size()).checked_next_multiple_of(4).unwrap_or(u64::MAX - 3)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_fill_words() {
        let of = |dtype: DType| (dtype.to_string(), dtype.size(), dtype.bytes(3), dtype.bytes(4));
        assert_eq!(of(DType::F32), ("f32".into(), 4, 12, 16));
        assert_eq!(of(DType::F16), ("f16".into(), 2, 8, 8));
        assert_eq!(of(DType::Bf16), ("bf16".into(), 2, 8, 8));
        for dtype in DType::ALL {
            assert!(dtype.bytes(usize::MAX) >= usize::MAX as u64 - 3 && dtype.bytes(usize::MAX).is_multiple_of(4));
        }
    }
}
