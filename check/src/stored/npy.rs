//! `.npy` files, as `numpy.save` writes them.

use super::{Dtype, Stored, StoredError};
use ndarray::{ArrayView, IxDyn, ShapeBuilder};
use ndarray_npy::npy::header::{Header, Layout};
use std::fmt::Display;

/// The types that are read and written, and numpy's codes for them.
const TYPES: [(Dtype, &str); 4] = [(Dtype::F32, "f4"), (Dtype::F64, "f8"), (Dtype::F16, "f2"), (Dtype::I64, "i8")];

/// The same, in numpy's words.
const NAMES: &str = "float32, float64, float16 or int64";

/// Bytes of the longest header that is read; numpy's own limit.
const LONGEST_HEADER: usize = 10_000;

impl Stored {
    /// The array in the bytes of a `.npy` file: C or Fortran order, little or big endian.
    ///
    /// # Errors
    /// [`StoredError::Npy`] for anything that is not one whole `.npy` file, [`StoredError::Elements`] for elements other than
    /// float32, float64, float16 and int64.
    pub fn parse_npy(bytes: &[u8]) -> Result<Self, StoredError> {
        check_header(bytes)?;
        let mut data = bytes;
        let header = Header::from_reader(&mut data).map_err(|error| damaged(format!("in which: {error}")))?;
        let (dtype, big_endian) = element(&header)?;
        let size = dtype.bitsize() / 8;
        let (dims, actual) = (header.shape, data.len());
        let expected = dims.iter().try_fold(size, |product, &dim| product.checked_mul(dim));
        if expected != Some(actual) {
            return Err(damaged(format!("whose shape {dims:?} does not match its {actual} bytes of {dtype:?}")));
        }
        let swapped: Vec<u8>;
        let little_endian = match big_endian {
            true => {
                swapped = data.chunks_exact(size).flat_map(|element| element.iter().rev().copied()).collect();
                &swapped
            }
            false => data,
        };
        let values = Self::decode(dtype, little_endian).ok_or_else(|| unreadable(format!("{dtype:?}")))?;
        let values = match header.layout {
            Layout::Standard => values,
            Layout::Fortran => {
                let array =
                    ArrayView::from_shape(IxDyn(&dims).f(), &values).map_err(|error| damaged(of_shape(error)))?;
                array.iter().copied().collect()
            }
        };
        Ok(Self { dtype, dims, values })
    }

    /// The bytes of a `.npy` file that holds the tensor, in C order.
    ///
    /// # Errors
    /// [`StoredError::Elements`] for bfloat16, which `.npy` does not have, and what is not written.
    pub fn to_npy(&self) -> Result<Vec<u8>, StoredError> {
        let actual = || unreadable(format!("{:?}", self.dtype));
        let (_, code) = TYPES.iter().find(|(dtype, _)| *dtype == self.dtype).ok_or_else(actual)?;
        let type_descriptor = format!("'<{code}'").parse().map_err(|error| damaged(of_shape(error)))?;
        let header = Header { type_descriptor, layout: Layout::Standard, shape: self.dims.clone() };
        let mut bytes = header.to_bytes().map_err(|error| damaged(of_shape(error)))?;
        bytes.extend(self.bytes().ok_or_else(actual)?);
        Ok(bytes)
    }
}

/// Refuses headers that would cost the parser more than they are worth: it allocates the length that they claim, and takes
/// time exponential in the depth of brackets. A plain array has one dictionary and one tuple.
fn check_header(bytes: &[u8]) -> Result<(), StoredError> {
    let claimed = match bytes {
        [_, _, _, _, _, _, 1, _, low, high, ..] => usize::from(u16::from_le_bytes([*low, *high])),
        [_, _, _, _, _, _, _, _, a, b, c, d, ..] => u32::from_le_bytes([*a, *b, *c, *d]) as usize,
        _ => return Err(damaged(format!("of {} bytes", bytes.len()))),
    };
    if claimed > LONGEST_HEADER {
        return Err(damaged(format!("with a header of {claimed} bytes, more than {LONGEST_HEADER}")));
    }
    let header = &bytes[..bytes.len().min(12 + claimed)];
    match header.iter().filter(|byte| b"([{".contains(byte)).count() {
        0..=2 => Ok(()),
        _ => Err(unreadable("records".into())),
    }
}

/// The type of the elements, and whether they are big endian.
fn element(header: &Header) -> Result<(Dtype, bool), StoredError> {
    let unknown = || unreadable(header.type_descriptor.to_string());
    let descriptor = header.type_descriptor.as_string().ok_or_else(unknown)?;
    let (little, big) = (descriptor.strip_prefix('<'), descriptor.strip_prefix('>'));
    let code = little.or(big).ok_or_else(unknown)?;
    let (dtype, _) = TYPES.iter().find(|(_, known)| *known == code).ok_or_else(unknown)?;
    Ok((*dtype, big.is_some()))
}

fn of_shape(error: impl Display) -> String {
    format!("with an impossible shape: {error}")
}

fn damaged(reason: String) -> StoredError {
    StoredError::Npy { reason }
}

fn unreadable(actual: String) -> StoredError {
    StoredError::Elements { expected: NAMES, actual }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with a header as given.
    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let length = (header.len() as u16 + 1).to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), b"\n", data].concat()
    }

    fn header(descr: &str, fortran: &str, shape: &str) -> String {
        format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}")
    }

    fn good() -> Vec<u8> {
        Stored { dtype: Dtype::F32, dims: vec![2, 3], values: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0] }.to_npy().unwrap()
    }

    #[test]
    fn survives_a_file() {
        for (dtype, _) in TYPES {
            for dims in [vec![], vec![4], vec![2, 2], vec![0, 3]] {
                let values = (0..dims.iter().product::<usize>()).map(|i| i as f64 - 2.0).collect();
                let stored = Stored { dtype, dims, values };
                assert_eq!(Stored::parse_npy(&stored.to_npy().unwrap()).unwrap(), stored);
            }
        }
        let bf16 = Stored { dtype: Dtype::BF16, dims: vec![1], values: vec![1.0] };
        assert!(bf16.to_npy().unwrap_err().to_string().contains("BF16"));
    }

    #[test]
    fn reads_every_order() {
        let values = |bytes: &[u8]| Stored::parse_npy(bytes).unwrap().values;
        let little: Vec<u8> = [1i64, 2, 3, 4, 5, 6].iter().flat_map(|value| value.to_le_bytes()).collect();
        let big: Vec<u8> = [1i64, 2, 3, 4, 5, 6].iter().flat_map(|value| value.to_be_bytes()).collect();
        assert_eq!(values(&file(&header("<i8", "False", "(2, 3)"), &little)), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(values(&file(&header(">i8", "False", "(2, 3)"), &big)), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(values(&file(&header("<i8", "True", "(2, 3)"), &little)), [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
    }

    #[test]
    fn refuses_what_is_no_array_of_numbers() {
        let refused = |header: &str| Stored::parse_npy(&file(header, &[0; 10])).unwrap_err().to_string();
        assert!(refused(&header("<f4", "False", "(1000000000000,)")).contains("10 bytes"));
        assert!(refused(&header("<f4", "True", "(1000000000000, 0)")).contains("10 bytes"));
        assert!(refused(&header("<f4", "False", "(4294967296, 4294967296, 4294967296)")).contains("10 bytes"));
        assert!(refused(&header("<f4", "False", "(36893488147419103232,)")).contains("shape"));
        assert!(refused(&header("<f4", "False", "(-1,)")).contains("shape"));
        assert!(refused(&header("<c8", "False", "(1,)")).contains("<c8"));
        assert!(refused(&header("|O", "False", "(1,)")).contains("float32"));
        assert!(refused("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }").contains("records"));
        // Nested lists take py_literal twice as long for each further bracket.
        assert!(refused(&"[".repeat(9_000)).contains("records"));
        assert!(refused(&"1".repeat(20_000)).contains("20001 bytes"));
        let long = [b"\x93NUMPY\x03\x00", &u32::MAX.to_le_bytes()[..]].concat();
        assert!(Stored::parse_npy(&long).unwrap_err().to_string().contains("4294967295"));
    }

    #[test]
    fn survives_damage_anywhere() {
        let good = good();
        for length in 0..good.len() {
            assert!(Stored::parse_npy(&good[..length]).is_err(), "{length}");
        }
        assert!(Stored::parse_npy(&[&good[..], &[0]].concat()).is_err());
        for i in 0..good.len() {
            for bit in 0..8 {
                let mut flipped = good.clone();
                flipped[i] ^= 1 << bit;
                // Either an error or an array; never a panic.
                let _ = Stored::parse_npy(&flipped);
            }
        }
    }
}
