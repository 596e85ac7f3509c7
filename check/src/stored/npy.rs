//! `.npy` files, as `numpy.save` writes them.

use super::elements::Order;
use super::{Dtype, Stored, StoredError, UnreadTensor};
use batchnorm_wgpu::checkpoint::Foreign;
use ndarray_npy::npy::header::{Header, Layout};
use std::fmt::Display;
use std::io::{Cursor, Read, Write};

/// The types that are read, and numpy's codes for them. ml_dtypes, which JAX uses, has no code for its bfloat16: it is saved as
/// two bytes of no type.
const TYPES: [(Dtype, &str); 13] = [
    (Dtype::F32, "f4"),
    (Dtype::F64, "f8"),
    (Dtype::F16, "f2"),
    (Dtype::I64, "i8"),
    (Dtype::U64, "u8"),
    (Dtype::I32, "i4"),
    (Dtype::U32, "u4"),
    (Dtype::I16, "i2"),
    (Dtype::U16, "u2"),
    (Dtype::I8, "i1"),
    (Dtype::U8, "u1"),
    (Dtype::BOOL, "b1"),
    (Dtype::BF16, "V2"),
];

/// Those that are written.
const WRITTEN: usize = 4;

/// The types that are read, in numpy's words.
const NAMES: &str = "float32, float64, float16, bfloat16, bool or an integer";

/// Bytes of the longest header that is read; numpy's own limit.
const LONGEST_HEADER: usize = 10_000;

const MAGIC: &[u8] = b"\x93NUMPY";

/// Where the array of a `.npy` file of `size` bytes is, in C or Fortran order, little or big endian.
///
/// # Errors
/// [`StoredError::Npy`] for anything that is not one whole `.npy` file, [`StoredError::ForeignFile`] for a file of another kind
/// that is known, [`StoredError::Elements`] for elements of a type that is not read.
pub fn place(file: &mut impl Read, size: u64) -> Result<UnreadTensor, StoredError> {
    let mut head = Vec::new();
    file.take(12 + LONGEST_HEADER as u64).read_to_end(&mut head)?;
    if let Some(Foreign { found, hint }) = Foreign::recognize(&head).filter(|_| !head.starts_with(MAGIC)) {
        return Err(StoredError::ForeignFile { found, hint });
    }
    check_header(&head, size)?;
    let mut rest = head.as_slice();
    let header = Header::from_reader(&mut rest).map_err(|error| damaged(format!("in which: {error}")))?;
    let start = (head.len() - rest.len()) as u64;
    let (dtype, big_endian) = element(&header)?;
    let (dims, actual) = (header.shape, size.saturating_sub(start));
    let expected = dims.iter().try_fold(dtype.bitsize() / 8, |product, &dim| product.checked_mul(dim));
    if expected.map(|bytes| bytes as u64) != Some(actual) {
        return Err(damaged(format!("whose shape {dims:?} does not match its {actual} bytes of {dtype:?}")));
    }
    let fortran = matches!(header.layout, Layout::Fortran);
    Ok(UnreadTensor { dtype, dims, start, order: Order { big_endian, fortran } })
}

/// Writes the header of a `.npy` file, which the elements in C order follow.
///
/// # Errors
/// [`StoredError::Elements`] for bfloat16, which `.npy` does not have, and what is not written.
pub fn write_header(dtype: Dtype, dims: &[usize], out: &mut dyn Write) -> Result<(), StoredError> {
    let found = TYPES[..WRITTEN].iter().find(|(one, _)| *one == dtype);
    let (_, code) = found.ok_or_else(|| unreadable(format!("{dtype:?}")))?;
    let type_descriptor = format!("'<{code}'").parse().map_err(|error| damaged(of_shape(error)))?;
    let header = Header { type_descriptor, layout: Layout::Standard, shape: dims.to_vec() };
    Ok(out.write_all(&header.to_bytes().map_err(|error| damaged(of_shape(error)))?)?)
}

impl Stored {
    /// The array in the bytes of a `.npy` file.
    ///
    /// # Errors
    /// As [`place`].
    pub fn parse_npy(bytes: &[u8]) -> Result<Self, StoredError> {
        let mut file = Cursor::new(bytes);
        let place = place(&mut file, bytes.len() as u64)?;
        let values = place.read(&mut file, |value| value)?;
        Ok(Self { dtype: place.dtype, dims: place.dims, values })
    }

    /// The bytes of a `.npy` file that holds the tensor, in C order.
    ///
    /// # Errors
    /// As [`write_header`].
    pub fn to_npy(&self) -> Result<Vec<u8>, StoredError> {
        let mut bytes = Vec::new();
        write_header(self.dtype, &self.dims, &mut bytes)?;
        self.write(&mut bytes)?;
        Ok(bytes)
    }
}

/// Refuses headers that would cost the parser more than they are worth: it allocates the length that they claim, and takes
/// time exponential in the depth of brackets. A plain array has one dictionary and one tuple.
fn check_header(bytes: &[u8], size: u64) -> Result<(), StoredError> {
    let claimed = match bytes {
        [_, _, _, _, _, _, 1, _, low, high, ..] => usize::from(u16::from_le_bytes([*low, *high])),
        [_, _, _, _, _, _, _, _, a, b, c, d, ..] => u32::from_le_bytes([*a, *b, *c, *d]) as usize,
        _ => return Err(damaged(format!("of {size} bytes"))),
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
    let known = |code: &str| TYPES.iter().find(|(_, known)| *known == code).map(|(dtype, _)| *dtype);
    let (order, code) = descriptor.split_at_checked(1).ok_or_else(unknown)?;
    let dtype = known(code).ok_or_else(unknown)?;
    match order {
        "<" => Ok((dtype, false)),
        ">" if dtype != Dtype::BF16 => Ok((dtype, true)),
        // The machine's own order, as numpy reads it.
        "=" => Ok((dtype, cfg!(target_endian = "big"))),
        "|" if dtype.bitsize() == 8 || dtype == Dtype::BF16 => Ok((dtype, false)),
        _ => Err(unknown()),
    }
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
        for (dtype, _) in &TYPES[..WRITTEN] {
            let dtype = *dtype;
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
    fn reads_every_type_that_numpy_has() {
        let read = |descr: &str, data: &[u8]| {
            let count = data.len() / descr[2..].parse::<usize>().unwrap();
            let stored = Stored::parse_npy(&file(&header(descr, "False", &format!("({count},)")), data)).unwrap();
            (stored.dtype, stored.values)
        };
        assert_eq!(read("|u1", &[0, 255]), (Dtype::U8, vec![0.0, 255.0]));
        assert_eq!(read("|i1", &[255]), (Dtype::I8, vec![-1.0]));
        assert_eq!(read("|b1", &[1, 0]), (Dtype::BOOL, vec![1.0, 0.0]));
        assert_eq!(read(">u2", &[1, 0]), (Dtype::U16, vec![256.0]));
        assert_eq!(read("<i4", &[254, 255, 255, 255]), (Dtype::I32, vec![-2.0]));
        assert_eq!(read(">f4", &1.5f32.to_be_bytes()), (Dtype::F32, vec![1.5]));
        assert_eq!(read(">f2", &[0x3c, 0]), (Dtype::F16, vec![1.0]));
        assert_eq!(read("=f4", &1.5f32.to_ne_bytes()), (Dtype::F32, vec![1.5]));
        for bf16 in ["|V2", "<V2"] {
            assert_eq!(read(bf16, &[0x80, 0x3f, 0, 0xc0]), (Dtype::BF16, vec![1.0, -2.0]));
        }
    }

    #[test]
    fn files_of_other_kinds_are_named() {
        let refused = |bytes: &[u8]| Stored::parse_npy(bytes).unwrap_err().to_string();
        assert!(
            refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n").contains("git lfs pull")
        );
        let npz = [b"PK\x03\x04", &[0; 22][..], &[5, 0, 0, 0], b"x.npy"].concat();
        assert!(refused(&npz).contains("numpy.save"), "{}", refused(&npz));
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
        for descr in ["|O", "|V4", "|f4", ">V2", "<U3", "f4", ""] {
            assert!(refused(&header(descr, "False", "(1,)")).contains("float32"), "{descr}");
        }
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
