//! Tensors as files hold them, `.npy` or `.safetensors`: any of five element types, read into float64 and written from it.

mod npy;
mod safetensors;

use ::safetensors::{SafeTensorError, tensor::TensorView};
use batchnorm_wgpu::DType;
use half::{bf16, f16};

/// Types of elements, by the names that safetensors gives them.
pub use ::safetensors::Dtype;

/// A tensor out of a file, or for one.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// What the file holds.
    pub dtype: Dtype,
    /// Its shape; none for a scalar.
    pub dims: Vec<usize>,
    /// Its elements, the last dimension running fastest. Every value of the types that are read is one of f64, but for
    /// counts beyond 2^53.
    pub values: Vec<f64>,
}

/// The element types that are read and written, in words.
pub const READABLE: &str = "F32, F64, F16, BF16 or I64";

/// Why bytes give no tensor, or a tensor no bytes.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// The bytes are no `.npy` file.
    #[error("expected a .npy file, got one {reason}; write it anew with numpy.save")]
    Npy {
        /// What is wrong with it.
        reason: String,
    },
    /// The bytes are no `.safetensors` file, or tensors make none.
    #[error("expected a safetensors file: {0}")]
    Safetensors(#[from] SafeTensorError),
    /// The elements are of a type that is not read or not written.
    #[error("expected elements of {expected}, got {actual}")]
    Elements {
        /// The types that are.
        expected: &'static str,
        /// The type that came.
        actual: String,
    },
}

/// The type that files hold a layer's tensors in.
pub fn file_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
    }
}

/// The type of a layer's tensors that a file holds; `None` where no kernel reads such elements.
pub fn layer_dtype(dtype: Dtype) -> Option<DType> {
    DType::ALL.into_iter().find(|&one| file_dtype(one) == dtype)
}

impl Stored {
    /// The same tensor with every value rounded to the nearest of `dtype`, ties to even.
    ///
    /// # Errors
    /// [`StoredError::Elements`] for a type that is not written.
    pub fn rounded(self, dtype: Dtype) -> Result<Self, StoredError> {
        let rounded = Self { dtype, ..self };
        let values = rounded.bytes().and_then(|bytes| Self::decode(dtype, &bytes));
        let values = values.ok_or_else(|| unreadable(format!("{dtype:?}")))?;
        Ok(Self { values, ..rounded })
    }

    /// The tensor of a safetensors file; `None` when its elements are of another type than [`READABLE`] names.
    pub fn read(view: &TensorView<'_>) -> Option<Self> {
        let (dtype, dims) = (view.dtype(), view.shape().to_vec());
        Some(Self { dtype, dims, values: Self::decode(dtype, view.data())? })
    }

    /// The values in the little-endian `data`; `None` for a type that is not read.
    fn decode(dtype: Dtype, data: &[u8]) -> Option<Vec<f64>> {
        fn all<const N: usize>(data: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
            data.as_chunks().0.iter().map(|&bytes| value(bytes)).collect()
        }
        Some(match dtype {
            Dtype::F32 => all(data, |bytes| f32::from_le_bytes(bytes).into()),
            Dtype::F64 => all(data, f64::from_le_bytes),
            Dtype::I64 => all(data, |bytes| i64::from_le_bytes(bytes) as f64),
            Dtype::F16 => all(data, |bytes| f16::from_le_bytes(bytes).into()),
            Dtype::BF16 => all(data, |bytes| bf16::from_le_bytes(bytes).into()),
            _ => return None,
        })
    }

    /// The little-endian bytes of a file, every value rounded to the nearest of the type, ties to even; `None` for a type
    /// that is not written.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        fn all<const N: usize>(values: &[f64], bytes: impl Fn(f64) -> [u8; N]) -> Vec<u8> {
            values.iter().flat_map(|&value| bytes(value)).collect()
        }
        let values = &self.values;
        Some(match self.dtype {
            Dtype::F32 => all(values, |value| (value as f32).to_le_bytes()),
            Dtype::F64 => all(values, f64::to_le_bytes),
            Dtype::I64 => all(values, |value| (value as i64).to_le_bytes()),
            Dtype::F16 => all(values, |value| f16::from_f64(value).to_le_bytes()),
            Dtype::BF16 => all(values, |value| bf16::from_f64(value).to_le_bytes()),
            _ => return None,
        })
    }
}

fn unreadable(actual: String) -> StoredError {
    StoredError::Elements { expected: READABLE, actual }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_nearest() {
        let stored = |dtype, values: &[f64]| Stored { dtype, dims: vec![values.len()], values: values.to_vec() };
        let rounded = stored(Dtype::F64, &[2049.0, 1e9, f64::NAN]).rounded(Dtype::F16).unwrap();
        assert_eq!(rounded.values[..2], [2048.0, f64::INFINITY]);
        assert!(rounded.values[2].is_nan());
        assert!(stored(Dtype::F32, &[1.0]).rounded(Dtype::U8).is_err());
    }

    #[test]
    fn survives_a_file() {
        let values = [-1.5, 0.0, 3.0, 2048.0];
        for dtype in [Dtype::F32, Dtype::F64, Dtype::F16, Dtype::BF16, Dtype::I64] {
            let values: Vec<f64> =
                values.iter().map(|v: &f64| if dtype == Dtype::I64 { v.round() } else { *v }).collect();
            let stored = Stored { dtype, dims: vec![2, 2], values };
            let bytes = stored.bytes().unwrap();
            let view = TensorView::new(dtype, vec![2, 2], &bytes).unwrap();
            assert_eq!(Stored::read(&view).unwrap(), stored);
        }
        assert_eq!(Stored::read(&TensorView::new(Dtype::U8, vec![1], &[0]).unwrap()), None);
    }
}
