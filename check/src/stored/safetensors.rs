//! `.safetensors` files.

use super::elements::Order;
use super::{Dtype, Stored, StoredError, UnreadTensor};
use batchnorm_wgpu::checkpoint::{Entry, Header};
use safetensors::tensor::TensorInfo;
use serde_json::{Value, to_value};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Write};
use std::ops::Range;

/// The tensors of a `.safetensors` file, still in it.
#[derive(Clone, Debug)]
pub struct Tensors {
    header: Header,
}

impl Tensors {
    /// Reads what a file of `size` bytes holds, but none of the tensors.
    ///
    /// # Errors
    /// [`StoredError::Safetensors`] for anything that is not one whole file.
    pub fn read(file: &mut impl Read, size: u64) -> Result<Self, StoredError> {
        Ok(Self { header: Header::read(file, size)? })
    }

    /// The tensor of a name, where there is one.
    pub fn place(&self, name: &str) -> Option<UnreadTensor> {
        let Entry { dtype, shape, range } = self.header.entry(name)?;
        Some(UnreadTensor { dtype, dims: shape, start: range.start, order: Order::default() })
    }

    /// Names of all tensors, in order.
    pub fn names(&self) -> Vec<String> {
        self.header.names()
    }

    /// Texts of the file's metadata by their keys.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        self.header.texts().map(|(key, text)| (key.to_owned(), text.to_owned())).collect()
    }

    /// A tensor of any type, as it lies in the file.
    pub fn kept(&self, name: &str) -> Option<Kept> {
        let Entry { dtype, shape, range } = self.header.entry(name)?;
        Some(Kept { dtype, dims: shape, range })
    }
}

/// A tensor of any type that goes from one file into another.
#[derive(Clone, Debug)]
pub struct Kept {
    /// What the file holds.
    pub dtype: Dtype,
    /// Its shape.
    pub dims: Vec<usize>,
    /// Its bytes in the file.
    pub range: Range<u64>,
}

/// What writes the elements of a tensor.
pub type Elements<'a> = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + 'a>;

/// A tensor for a file: its name, type and shape, and what writes its elements.
pub struct Entering<'a> {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape.
    pub dims: Vec<usize>,
    /// Writes its elements, little-endian.
    pub write: Elements<'a>,
}

/// Writes a file of tensors.
///
/// # Errors
/// What the writer says; [`io::ErrorKind::InvalidInput`] for a name that comes twice, or a size that no file has.
pub fn write_safetensors(
    out: &mut dyn Write,
    metadata: &BTreeMap<String, String>,
    mut tensors: Vec<Entering<'_>>,
) -> io::Result<()> {
    // Wide elements first, so that all lie aligned.
    tensors.sort_by(|a, b| (Reverse(a.dtype.bitsize()), &a.name).cmp(&(Reverse(b.dtype.bitsize()), &b.name)));
    let mut header: BTreeMap<&str, Value> = BTreeMap::new();
    if !metadata.is_empty() {
        header.insert("__metadata__", to_value(metadata)?);
    }
    let mut end = 0usize;
    for Entering { name, dtype, dims, .. } in &tensors {
        let begin = end;
        let bits = dims.iter().try_fold(dtype.bitsize(), |product, &dim| product.checked_mul(dim));
        end = bits
            .and_then(|bits| begin.checked_add(bits / 8))
            .ok_or_else(|| invalid(format!("{name} of shape {dims:?}")))?;
        let info = TensorInfo { dtype: *dtype, shape: dims.clone(), data_offsets: (begin, end) };
        if header.insert(name, to_value(info)?).is_some() {
            return Err(invalid(format!("two tensors {name}")));
        }
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    tensors.into_iter().try_for_each(|tensor| (tensor.write)(out))
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

impl Stored {
    /// The tensor called `name` in the bytes of a `.safetensors` file; `None` where there is none of that name.
    ///
    /// # Errors
    /// [`StoredError::Safetensors`] for anything that is not one whole file, [`StoredError::Elements`] for elements of another
    /// type than [`READABLE`](super::READABLE) names.
    pub fn parse_safetensors(bytes: &[u8], name: &str) -> Result<Option<Self>, StoredError> {
        let mut file = Cursor::new(bytes);
        let Some(place) = Tensors::read(&mut file, bytes.len() as u64)?.place(name) else { return Ok(None) };
        let values = place.read(&mut file, |value| value)?;
        Ok(Some(Self { dtype: place.dtype, dims: place.dims, values }))
    }

    /// Names of the tensors in the bytes of a `.safetensors` file, in order.
    ///
    /// # Errors
    /// [`StoredError::Safetensors`] for anything that is not one whole file.
    pub fn names_in_safetensors(bytes: &[u8]) -> Result<Vec<String>, StoredError> {
        Ok(Tensors::read(&mut &*bytes, bytes.len() as u64)?.names())
    }

    /// The bytes of a `.safetensors` file that holds tensors by their names.
    ///
    /// # Errors
    /// [`StoredError::Tensors`] for a shape that does not match the values, [`StoredError::Io`] for a type that is not written.
    pub fn to_safetensors(tensors: &[(&str, &Self)]) -> Result<Vec<u8>, StoredError> {
        let entering = tensors.iter().map(|(name, stored)| stored.entering(name)).collect::<Result<_, _>>()?;
        let mut bytes = Vec::new();
        write_safetensors(&mut bytes, &BTreeMap::new(), entering)?;
        Ok(bytes)
    }

    /// The tensor by a name, for a file.
    ///
    /// # Errors
    /// [`StoredError::Tensors`] for a shape that does not match the values.
    pub fn entering(&self, name: &str) -> Result<Entering<'_>, StoredError> {
        let Self { dtype, dims, values } = self;
        if dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim)) != Some(values.len()) {
            let expected = format!("{name}: as many values as the shape {dims:?} has");
            return Err(StoredError::Tensors { expected, actual: values.len().to_string() });
        }
        let write = Box::new(|out: &mut dyn Write| self.write(out));
        Ok(Entering { name: name.into(), dtype: *dtype, dims: dims.clone(), write })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> (Stored, Stored, Vec<u8>) {
        let x = Stored { dtype: Dtype::BF16, dims: vec![2, 2], values: vec![1.0, -2.0, 0.5, 3.0] };
        let count = Stored { dtype: Dtype::I64, dims: vec![], values: vec![7.0] };
        let bytes = Stored::to_safetensors(&[("x", &x), ("bn.num_batches_tracked", &count)]).unwrap();
        (x, count, bytes)
    }

    #[test]
    fn survives_a_file() {
        let (x, count, bytes) = good();
        assert_eq!(Stored::names_in_safetensors(&bytes).unwrap(), ["bn.num_batches_tracked", "x"]);
        assert_eq!(Stored::parse_safetensors(&bytes, "x").unwrap(), Some(x.clone()));
        assert_eq!(Stored::parse_safetensors(&bytes, "bn.num_batches_tracked").unwrap(), Some(count));
        assert_eq!(Stored::parse_safetensors(&bytes, "y").unwrap(), None);
        // As the format's own crate reads it.
        let own = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(Stored::read(&own.tensor("x").unwrap()), Some(x.clone()));
        assert!(Stored::to_safetensors(&[("x", &x), ("x", &x)]).is_err());
        let lying = Stored { dims: vec![3, 2], ..x };
        assert!(matches!(Stored::to_safetensors(&[("x", &lying)]), Err(StoredError::Tensors { .. })));
    }

    #[test]
    fn survives_damage_anywhere() {
        let (.., good) = good();
        for length in 0..good.len() {
            assert!(Stored::parse_safetensors(&good[..length], "x").is_err(), "{length}");
        }
        for i in 0..good.len() {
            for bit in 0..8 {
                let mut flipped = good.clone();
                flipped[i] ^= 1 << bit;
                // Either an error or a tensor; never a panic.
                let _ = Stored::parse_safetensors(&flipped, "x");
            }
        }
    }
}
