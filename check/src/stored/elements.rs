//! Elements between bytes and values, a chunk at a time.

use super::{Dtype, StoredError};
use half::{bf16, f16};
use ndarray::{ArrayView, IxDyn, ShapeBuilder};
use std::io::{self, Read, Write};

/// Elements that are read or written at once.
const CHUNK: usize = 1 << 16;

/// How elements lie in a file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Order {
    pub big_endian: bool,
    /// The first dimension runs fastest.
    pub fortran: bool,
}

impl Order {
    /// The same elements with the last dimension running fastest.
    pub fn arranged<T: Clone>(self, values: Vec<T>, dims: &[usize]) -> Result<Vec<T>, StoredError> {
        if !self.fortran {
            return Ok(values);
        }
        let impossible = |error| StoredError::Npy { reason: format!("with an impossible shape: {error}") };
        let array = ArrayView::from_shape(IxDyn(dims).f(), &values).map_err(impossible)?;
        Ok(array.iter().cloned().collect())
    }
}

/// What the little-endian bytes of an element stand for; `None` for a type that is not read.
pub fn value_of(dtype: Dtype) -> Option<fn(&[u8]) -> f64> {
    fn read<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> T {
        bytemuck::pod_read_unaligned(bytes)
    }
    Some(match dtype {
        Dtype::F32 => |bytes| read::<f32>(bytes).into(),
        Dtype::F64 => |bytes| read(bytes),
        Dtype::F16 => |bytes| read::<f16>(bytes).into(),
        Dtype::BF16 => |bytes| read::<bf16>(bytes).into(),
        Dtype::I64 => |bytes| read::<i64>(bytes) as f64,
        Dtype::U64 => |bytes| read::<u64>(bytes) as f64,
        Dtype::I32 => |bytes| read::<i32>(bytes).into(),
        Dtype::U32 => |bytes| read::<u32>(bytes).into(),
        Dtype::I16 => |bytes| read::<i16>(bytes).into(),
        Dtype::U16 => |bytes| read::<u16>(bytes).into(),
        Dtype::I8 => |bytes| read::<i8>(bytes).into(),
        Dtype::U8 => |bytes| read::<u8>(bytes).into(),
        Dtype::BOOL => |bytes| if read::<u8>(bytes) == 0 { 0.0 } else { 1.0 },
        _ => return None,
    })
}

/// The next `count` elements of a reader, each as `convert` makes it of its value. Their number was held against the file's
/// length.
pub fn decode<T>(
    dtype: Dtype,
    value: fn(&[u8]) -> f64,
    order: &Order,
    reader: &mut impl Read,
    count: usize,
    convert: impl Fn(f64) -> T,
) -> io::Result<Vec<T>> {
    let size = dtype.bitsize() / 8;
    let mut values = Vec::with_capacity(count);
    let mut chunk = vec![0; size * CHUNK.min(count)];
    while values.len() < count {
        let bytes = &mut chunk[..size * CHUNK.min(count - values.len())];
        reader.read_exact(bytes)?;
        if order.big_endian {
            bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        values.extend(bytes.chunks_exact(size).map(|element| convert(value(element))));
    }
    Ok(values)
}

/// Writes values as little-endian elements, rounded to the nearest of the type, ties to even.
///
/// # Errors
/// What the writer says, and [`io::ErrorKind::Unsupported`] for a type that is not written.
pub fn encode(dtype: Dtype, values: impl Iterator<Item = f64>, out: &mut dyn Write) -> io::Result<()> {
    let append: fn(&mut Vec<u8>, f64) = match dtype {
        Dtype::F32 => |bytes, value| bytes.extend((value as f32).to_le_bytes()),
        Dtype::F64 => |bytes, value| bytes.extend(value.to_le_bytes()),
        Dtype::I64 => |bytes, value| bytes.extend((value as i64).to_le_bytes()),
        Dtype::F16 => |bytes, value| bytes.extend(f16::from_f64(value).to_le_bytes()),
        Dtype::BF16 => |bytes, value| bytes.extend(bf16::from_f64(value).to_le_bytes()),
        _ => return Err(io::Error::new(io::ErrorKind::Unsupported, format!("elements of {dtype:?} are not written"))),
    };
    let mut bytes = Vec::new();
    for value in values {
        append(&mut bytes, value);
        if bytes.len() >= CHUNK {
            out.write_all(&bytes)?;
            bytes.clear();
        }
    }
    out.write_all(&bytes)
}

/// The rounding of a value to the nearest of a type, ties to even; `None` for a type that is not written.
pub fn rounding(dtype: Dtype) -> Option<fn(f64) -> f64> {
    Some(match dtype {
        Dtype::F32 => |value| f64::from(value as f32),
        Dtype::F64 => |value| value,
        Dtype::I64 => |value| (value as i64) as f64,
        Dtype::F16 => |value| f16::from_f64(value).into(),
        Dtype::BF16 => |value| bf16::from_f64(value).into(),
        _ => return None,
    })
}
