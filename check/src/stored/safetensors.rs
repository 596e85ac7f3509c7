//! `.safetensors` files.

use super::{Stored, StoredError, unreadable};
use safetensors::tensor::{TensorView, serialize};
use safetensors::{SafeTensorError, SafeTensors};

impl Stored {
    /// The tensor called `name` in the bytes of a `.safetensors` file; `None` where there is none of that name.
    ///
    /// # Errors
    /// [`StoredError::Safetensors`] for anything that is not one whole file, [`StoredError::Elements`] for elements of another
    /// type than [`READABLE`](super::READABLE) names.
    pub fn parse_safetensors(bytes: &[u8], name: &str) -> Result<Option<Self>, StoredError> {
        match SafeTensors::deserialize(bytes)?.tensor(name) {
            Ok(view) => Self::read(&view).map(Some).ok_or_else(|| unreadable(format!("{:?}", view.dtype()))),
            Err(SafeTensorError::TensorNotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Names of the tensors in the bytes of a `.safetensors` file, in order.
    ///
    /// # Errors
    /// [`StoredError::Safetensors`] for anything that is not one whole file.
    pub fn names_in_safetensors(bytes: &[u8]) -> Result<Vec<String>, StoredError> {
        let tensors = SafeTensors::deserialize(bytes)?;
        let mut names: Vec<String> = tensors.names().into_iter().map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// The bytes of a `.safetensors` file that holds tensors by their names.
    ///
    /// # Errors
    /// [`StoredError::Elements`] for a type that is not written, [`StoredError::Safetensors`] for a shape that does not match
    /// the values.
    pub fn to_safetensors(tensors: &[(&str, &Self)]) -> Result<Vec<u8>, StoredError> {
        let bytes =
            |(_, stored): &(&str, &Self)| stored.bytes().ok_or_else(|| unreadable(format!("{:?}", stored.dtype)));
        let data = tensors.iter().map(bytes).collect::<Result<Vec<_>, _>>()?;
        let views = tensors.iter().zip(&data).map(|((name, stored), data)| {
            TensorView::new(stored.dtype, stored.dims.clone(), data).map(|view| (*name, view))
        });
        Ok(serialize(views.collect::<Result<Vec<_>, _>>()?, None)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Dtype;
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
        let lying = Stored { dims: vec![3, 2], ..x };
        assert!(matches!(Stored::to_safetensors(&[("x", &lying)]), Err(StoredError::Safetensors(_))));
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
