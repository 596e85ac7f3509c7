//! Tensors as files hold them, `.npy` or `.safetensors`: read into float64 or float32, and written from them. A file of any size
//! is read and written piece by piece.

mod elements;
mod npy;
mod safetensors;

use ::safetensors::tensor::TensorView;
use batchnorm_wgpu::DType;
use elements::{Order, decode};
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};

pub use elements::{encode, rounding};
pub use npy::{place as npy_place, write_header as write_npy_header};
pub use safetensors::{Entering, Kept, Tensors, write_safetensors};

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

/// A tensor that is still in its file.
#[derive(Clone, Debug)]
pub struct UnreadTensor {
    /// What the file holds.
    pub dtype: Dtype,
    /// Its shape; none for a scalar.
    pub dims: Vec<usize>,
    /// Where its first byte is.
    start: u64,
    order: Order,
}

/// The element types that are read, in words.
pub const READABLE: &str = "F32, F64, F16, BF16, an integer or BOOL";

/// Why bytes give no tensor, or a tensor no bytes.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// The bytes are no `.npy` file.
    #[error("expected a .npy file, got one {reason}; write it anew with numpy.save")]
    Npy {
        /// What is wrong with it.
        reason: String,
    },
    /// The file is of a kind of its own.
    #[error("expected a .npy file, got {found}; {hint}")]
    ForeignFile {
        /// What it is.
        found: &'static str,
        /// How to get what was wanted.
        hint: &'static str,
    },
    /// The bytes are no `.safetensors` file.
    #[error(transparent)]
    Safetensors(#[from] batchnorm_wgpu::Error),
    /// Tensors make no file.
    #[error("expected {expected}, got {actual}")]
    Tensors {
        /// What they must be.
        expected: String,
        /// What they are.
        actual: String,
    },
    /// The elements are of a type that is not read or not written.
    #[error("expected elements of {expected}, got {actual}; convert them (numpy: .astype(numpy.float32))")]
    Elements {
        /// The types that are.
        expected: &'static str,
        /// The type that came.
        actual: String,
    },
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// The type that files hold a layer's tensors in.
pub fn file_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
    }
}

/// The type in which a layer holds every value of a file's type as it is: its own, or F32 for small integers. `None` where
/// values would have to be rounded.
pub fn layer_dtype(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::U8 | Dtype::I8 | Dtype::U16 | Dtype::I16 | Dtype::BOOL => Some(DType::F32),
        own => DType::ALL.into_iter().find(|&one| file_dtype(one) == own),
    }
}

impl UnreadTensor {
    /// Number of elements. It was held against the length of the file.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// Reads the elements, each as `convert` makes it of its value, the last dimension running fastest.
    ///
    /// # Errors
    /// [`StoredError::Elements`] for a type that [`READABLE`] does not name, [`StoredError::Io`].
    pub fn read<T: Clone>(
        &self,
        file: &mut (impl Read + Seek),
        convert: impl Fn(f64) -> T,
    ) -> Result<Vec<T>, StoredError> {
        file.seek(SeekFrom::Start(self.start))?;
        let value = elements::value_of(self.dtype).ok_or_else(|| unreadable(format!("{:?}", self.dtype)))?;
        let values = decode(self.dtype, value, &self.order, file, self.elements(), convert)?;
        self.order.arranged(values, &self.dims)
    }
}

impl Stored {
    /// The same tensor with every value rounded to the nearest of `dtype`, ties to even.
    ///
    /// # Errors
    /// [`StoredError::Elements`] for a type that is not written.
    pub fn rounded(self, dtype: Dtype) -> Result<Self, StoredError> {
        let rounded = elements::rounding(dtype).ok_or_else(|| unreadable(format!("{dtype:?}")))?;
        Ok(Self { dtype, values: self.values.into_iter().map(rounded).collect(), ..self })
    }

    /// The tensor of a safetensors file; `None` when its elements are of another type than [`READABLE`] names.
    pub fn read(view: &TensorView<'_>) -> Option<Self> {
        let (dtype, dims) = (view.dtype(), view.shape().to_vec());
        let place = UnreadTensor { dtype, dims: dims.clone(), start: 0, order: Order::default() };
        Some(Self { dtype, dims, values: place.read(&mut Cursor::new(view.data()), |value| value).ok()? })
    }

    /// The little-endian bytes of a file, every value rounded to the nearest of the type, ties to even; `None` for a type
    /// that is not written.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.write(&mut bytes).ok().map(|()| bytes)
    }

    /// Writes these bytes.
    ///
    /// # Errors
    /// What the writer says, and [`io::ErrorKind::Unsupported`] for a type that is not written.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        encode(self.dtype, self.values.iter().copied(), out)
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
        assert_eq!(Stored::read(&TensorView::new(Dtype::F8_E4M3, vec![1], &[0]).unwrap()), None);
    }

    #[test]
    fn small_integers_are_taken_as_they_are() {
        let read = |dtype, bytes: &[u8]| {
            let count = bytes.len() * 8 / dtype_bits(dtype);
            Stored::read(&TensorView::new(dtype, vec![count], bytes).unwrap()).unwrap().values
        };
        assert_eq!(read(Dtype::U8, &[0, 255]), [0.0, 255.0]);
        assert_eq!(read(Dtype::I8, &[128, 127]), [-128.0, 127.0]);
        assert_eq!(read(Dtype::U16, &[255, 255]), [65535.0]);
        assert_eq!(read(Dtype::I16, &[0, 128]), [-32768.0]);
        assert_eq!(read(Dtype::BOOL, &[0, 1]), [0.0, 1.0]);
        assert_eq!(read(Dtype::I32, &(-7i32).to_le_bytes()), [-7.0]);
        assert_eq!(read(Dtype::U32, &u32::MAX.to_le_bytes()), [f64::from(u32::MAX)]);
        assert_eq!(read(Dtype::U64, &7u64.to_le_bytes()), [7.0]);
        for (dtype, kept) in [(Dtype::U8, Some(DType::F32)), (Dtype::F16, Some(DType::F16)), (Dtype::I32, None)] {
            assert_eq!(layer_dtype(dtype), kept);
        }
        assert_eq!((layer_dtype(Dtype::F64), layer_dtype(Dtype::I64)), (None, None));
    }

    fn dtype_bits(dtype: Dtype) -> usize {
        dtype.bitsize()
    }
}
