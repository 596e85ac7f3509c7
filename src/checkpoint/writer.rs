//! [`Writer`]: from layers to the bytes of a file.

use super::{LayerState, TRACKED, whole_prefix};
use crate::error::{Error, Result};
use safetensors::{Dtype, View};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

/// The tensors of a file to be, by name.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    tensors: BTreeMap<String, Tensor>,
    metadata: HashMap<String, String>,
}

#[derive(Clone, Debug)]
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl View for &Tensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.data)
    }

    fn data_len(&self) -> usize {
        self.data.len()
    }
}

impl Writer {
    /// Adds a tensor of F32, in row-major order.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the number of values is not that of the shape, or the name was given before.
    pub fn tensor(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Result<()> {
        if shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim)) != Some(values.len()) {
            let expected = format!("as many values as the shape {shape:?} of {name} has");
            return Err(Error::Mismatch { name: "tensor", expected, actual: values.len().to_string() });
        }
        let data = bytemuck::cast_slice(values).to_vec();
        self.insert(name.into(), Tensor { dtype: Dtype::F32, shape: shape.into(), data })
    }

    /// Adds what `state` has, under names that begin with `prefix`, to which a dot is added where it ends in a letter or a digit:
    /// `bn1` and `bn1.` both give `bn1.weight`. Of the running statistics it takes mean, variance and
    /// the batches tracked; the other fields have no names in PyTorch.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the vectors differ in length, the batches tracked differ by channel, or a name was given
    /// before.
    pub fn layer(&mut self, prefix: &str, state: &LayerState) -> Result<()> {
        let prefix = whole_prefix(prefix);
        let channels = state.vectors().next().map_or(0, |(_, values)| values.len());
        state.check(channels)?;
        for (name, values) in state.vectors() {
            self.tensor(&format!("{prefix}{name}"), &[channels], values)?;
        }
        let Some(running) = &state.running else { return Ok(()) };
        let count = running.tracked.first().copied().unwrap_or_default();
        if running.tracked.len() != channels || running.tracked.iter().any(|&other| other != count) {
            let (expected, actual) = (format!("{channels} times the same count"), format!("{:?}", running.tracked));
            return Err(Error::Mismatch { name: "tracked", expected, actual });
        }
        let data = i64::from(count).to_le_bytes().to_vec();
        self.insert(format!("{prefix}{TRACKED}"), Tensor { dtype: Dtype::I64, shape: Vec::new(), data })
    }

    /// Sets a text of the file's metadata, which PyTorch ignores.
    pub fn metadata(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.metadata.insert(key.into(), value.into());
    }

    /// The bytes of the file. With at most one text of metadata they are the same for the same tensors.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when names and metadata exceed the 100 MB that a header may have.
    pub fn serialize(&self) -> Result<Vec<u8>> {
        let metadata = (!self.metadata.is_empty()).then(|| self.metadata.clone());
        safetensors::serialize(&self.tensors, metadata).map_err(|error| Error::Mismatch {
            name: "checkpoint",
            expected: "tensors and metadata that the format can hold".into(),
            actual: error.to_string(),
        })
    }

    fn insert(&mut self, name: String, tensor: Tensor) -> Result<()> {
        if self.tensors.contains_key(&name) {
            return Err(Error::Mismatch { name: "tensor", expected: "a name not given before".into(), actual: name });
        }
        self.tensors.insert(name, tensor);
        Ok(())
    }
}
