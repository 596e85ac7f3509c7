//! [`Reader`]: from the bytes of a file to layers.

use super::{BETA, Contents, GAMMA, LayerState, MEAN, TRACKED, VAR};
use crate::error::{Error, Result};
use crate::running::RunningStatistics;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::BTreeSet;

/// The tensors that a layer must have in a file. The default is all of them, PyTorch's `BatchNorm2d` as it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// `weight`.
    pub gamma: bool,
    /// `bias`.
    pub beta: bool,
    /// `running_mean` and `running_var`.
    pub running: bool,
    /// `num_batches_tracked`, with `running`. PyTorch wrote none before version 0.4.1: where it is not asked for, it is read
    /// if it is there, and 0 if not.
    pub tracked: bool,
}

impl Default for Parts {
    fn default() -> Self {
        Self { gamma: true, beta: true, running: true, tracked: true }
    }
}

/// A file that is read: tensors are taken out by name, in any order.
///
/// Every method that takes tensors lists all that stands against it in one [`Contents`]; [`Contents::gather`] makes one error
/// of those of several layers.
#[derive(Debug)]
pub struct Reader<'a> {
    header: Metadata,
    data: &'a [u8],
    /// Names that nobody took yet.
    remaining: BTreeSet<String>,
}

/// A tensor as it lies in the file.
struct Found<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    data: &'a [u8],
}

impl Found<'_> {
    /// An error unless the shape is as wanted and the type is `readable`; `types` names those that are.
    fn check(&self, name: &str, readable: bool, types: &str, shape: &[usize]) -> Result<(), Contents> {
        if readable && self.shape == shape {
            return Ok(());
        }
        let actual = format!("{:?} of shape {:?}", self.dtype, self.shape);
        Err(Contents::wrong(name, format!("{types} of shape {shape:?}"), actual))
    }
}

impl<'a> Reader<'a> {
    /// Reads the header of a file, given all of its bytes.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for bytes that are no `.safetensors` file, or only a part of one.
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        let cut = || damaged(format!("of {} bytes, less than its header announces", bytes.len()));
        let (length, rest) = bytes.split_first_chunk().ok_or_else(cut)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| cut())?;
        let (header, data) = rest.split_at_checked(length).ok_or_else(cut)?;
        let header: Metadata = serde_json::from_slice(header)
            .map_err(|error| damaged(format!("with this fault in its header: {error}")))?;
        if header.data_len() != data.len() {
            let (announced, actual) = (header.data_len(), data.len());
            return Err(damaged(format!("with {actual} bytes of tensors where its header announces {announced}")));
        }
        let remaining = header.offset_keys().into_iter().collect();
        Ok(Self { header, data, remaining })
    }

    /// A text of the file's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// The names that begin with `prefix` and that nobody took yet, in order.
    pub fn remaining(&self, prefix: &str) -> impl Iterator<Item = &str> {
        self.remaining.range(prefix.to_owned()..).take_while(move |name| name.starts_with(prefix)).map(String::as_str)
    }

    /// Takes a tensor of F32, F16 or BF16, in row-major order.
    ///
    /// # Errors
    /// [`Contents`] when it is missing or of another type or shape.
    pub fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Contents> {
        let found = self.take(name)?;
        let values = match found.dtype {
            Dtype::F32 => Some(floats::<f32>(found.data)),
            Dtype::F16 => Some(floats::<f16>(found.data)),
            Dtype::BF16 => Some(floats::<bf16>(found.data)),
            _ => None,
        };
        found.check(name, values.is_some(), "F32, F16 or BF16", shape)?;
        Ok(values.unwrap_or_default())
    }

    /// Takes a layer of `channels` channels whose names begin with `prefix`.
    ///
    /// # Errors
    /// [`Contents`], listing all tensors of `parts` that are missing or of another type or shape, all others under the
    /// prefix, and a `num_batches_tracked` that is negative or above `u32::MAX`.
    pub fn layer(&mut self, prefix: &str, channels: usize, parts: Parts) -> Result<LayerState, Contents> {
        let mut faults = Contents::default();
        let mut vector = |name: &str, wanted: bool| match wanted {
            true => faults.gather(self.tensor(&format!("{prefix}{name}"), &[channels])),
            false => None,
        };
        let (gamma, beta) = (vector(GAMMA, parts.gamma), vector(BETA, parts.beta));
        let (mean, var) = (vector(MEAN, parts.running), vector(VAR, parts.running));
        let name = format!("{prefix}{TRACKED}");
        let counted = parts.running && (parts.tracked || self.header.info(&name).is_some());
        let tracked = if counted { faults.gather(self.count(&name)) } else { None };
        faults.unexpected = self.remaining(prefix).map(str::to_owned).collect();
        // Told here, they need not be told by `finish` too.
        self.remaining.retain(|name| !name.starts_with(prefix));
        faults.into_result()?;
        // Both have `channels` values here.
        let running = |(mean, var): (Vec<f32>, Vec<f32>)| {
            RunningStatistics::from_mean_var(&mean, &var, tracked.unwrap_or_default()).ok()
        };
        Ok(LayerState { gamma, beta, running: mean.zip(var).and_then(running) })
    }

    /// Ends reading a file in which every tensor must have been taken.
    ///
    /// # Errors
    /// [`Contents`] with the names that nobody took.
    pub fn finish(self) -> Result<(), Contents> {
        Contents { unexpected: self.remaining.into_iter().collect(), ..Contents::default() }.into_result()
    }

    /// Takes a number of batches.
    fn count(&mut self, name: &str) -> Result<u32, Contents> {
        let found = self.take(name)?;
        found.check(name, found.dtype == Dtype::I64, "I64", &[])?;
        let count: i64 = bytemuck::pod_read_unaligned(found.data);
        u32::try_from(count).map_err(|_| Contents::wrong(name, format!("0 to {}", u32::MAX), count.to_string()))
    }

    fn take(&mut self, name: &str) -> Result<Found<'a>, Contents> {
        let info = self.header.info(name).ok_or_else(|| Contents::missing(name))?;
        let TensorInfo { dtype, shape, data_offsets: (start, end) } = info;
        self.remaining.remove(name);
        // `new` held the offsets against the data.
        Ok(Found { dtype: *dtype, shape: shape.clone(), data: self.data.get(*start..*end).unwrap_or_default() })
    }
}

fn damaged(found: String) -> Error {
    Error::Checkpoint { found }
}

fn floats<T: bytemuck::AnyBitPattern + Into<f32>>(data: &[u8]) -> Vec<f32> {
    data.chunks_exact(size_of::<T>()).map(|bytes| bytemuck::pod_read_unaligned::<T>(bytes).into()).collect()
}
