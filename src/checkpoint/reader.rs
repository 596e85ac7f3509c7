//! [`Reader`]: from the bytes of a file to layers.

use super::{BETA, Contents, Entry, GAMMA, Header, LayerState, MEAN, TRACKED, VAR, spellings, whole_prefix};
use crate::error::Result;
use crate::running::RunningStatistics;
use half::{bf16, f16};
use safetensors::Dtype;
use std::collections::BTreeSet;

const CONVERT: &str = "convert F64 to F32, which rounds it: in PyTorch by .float(), in numpy by .astype(numpy.float32)";

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
    header: Header,
    /// The whole file.
    bytes: &'a [u8],
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
        let wrong = Contents::wrong(name, format!("{types} of shape {shape:?}"), actual);
        Err(if self.dtype == Dtype::F64 && self.shape == shape { wrong.advising(CONVERT) } else { wrong })
    }
}

impl<'a> Reader<'a> {
    /// Reads the header of a file, given all of its bytes.
    ///
    /// # Errors
    /// As [`Header::read`].
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        let header = Header::read(&mut &*bytes, bytes.len() as u64)?;
        let remaining = header.names().into_iter().collect();
        Ok(Self { header, bytes, remaining })
    }

    /// A text of the file's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata(key)
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

    /// Takes a layer of `channels` channels whose names begin with `prefix`, to which a dot is added where it ends in a letter or
    /// a digit. Where a name is absent, [another framework's](super::spellings) is taken.
    ///
    /// # Errors
    /// [`Contents`], listing all tensors of `parts` that are missing or of another type or shape, all others under the
    /// prefix, and a `num_batches_tracked` that is negative, above `u32::MAX`, or not whole.
    pub fn layer(&mut self, prefix: &str, channels: usize, parts: Parts) -> Result<LayerState, Contents> {
        let prefix = whole_prefix(prefix);
        let mut faults = Contents::default();
        let mut vector = |name: &str, wanted: bool| match wanted {
            true => {
                let name = self.spelling(&prefix, name);
                faults.gather(self.tensor(&name, &[channels]))
            }
            false => None,
        };
        let (gamma, beta) = (vector(GAMMA, parts.gamma), vector(BETA, parts.beta));
        let (mean, var) = (vector(MEAN, parts.running), vector(VAR, parts.running));
        let name = format!("{prefix}{TRACKED}");
        let counted = parts.running && (parts.tracked || self.header.entry(&name).is_some());
        let tracked = if counted { faults.gather(self.count(&name)) } else { None };
        faults.unexpected = self.remaining(&prefix).map(str::to_owned).collect();
        // Told here, they need not be told by `finish` too.
        self.remaining.retain(|name| !name.starts_with(&*prefix));
        faults.into_result()?;
        // Both have `channels` values here.
        let running = |(mean, var): (Vec<f32>, Vec<f32>)| {
            RunningStatistics::from_mean_var(&mean, &var, tracked.unwrap_or_default()).ok()
        };
        Ok(LayerState { gamma, beta, running: mean.zip(var).and_then(running) })
    }

    /// The name that the file has for one of a layer's tensors: PyTorch's where it has none.
    fn spelling(&self, prefix: &str, name: &str) -> String {
        let full = |name: &str| format!("{prefix}{name}");
        let found = spellings(name).into_iter().map(full).find(|name| self.header.entry(name).is_some());
        found.unwrap_or_else(|| full(name))
    }

    /// Ends reading a file in which every tensor must have been taken.
    ///
    /// # Errors
    /// [`Contents`] with the names that nobody took.
    pub fn finish(self) -> Result<(), Contents> {
        Contents { unexpected: self.remaining.into_iter().collect(), ..Contents::default() }.into_result()
    }

    /// Takes a number of batches: a scalar, or an array of one as some exporters make of it, of any type. Files that were
    /// converted as a whole hold it in F32 or F16.
    fn count(&mut self, name: &str) -> Result<u32, Contents> {
        let found = self.take(name)?;
        let count = match found.shape.as_slice() {
            [] | [1] => number(found.dtype, found.data),
            _ => None,
        };
        let Some(count) = count else {
            found.check(name, false, "a number", &[])?;
            return Err(Contents::missing(name));
        };
        // An f64 holds every u32.
        let whole = (0.0..=f64::from(u32::MAX)).contains(&count) && count.fract() == 0.0;
        let wrong = || Contents::wrong(name, format!("a whole number from 0 to {}", u32::MAX), count.to_string());
        whole.then_some(count as u32).ok_or_else(wrong)
    }

    fn take(&mut self, name: &str) -> Result<Found<'a>, Contents> {
        let Entry { dtype, shape, range } = self.header.entry(name).ok_or_else(|| Contents::missing(name))?;
        self.remaining.remove(name);
        // The header's ranges were held against the length of the file.
        let data = self.bytes.get(range.start as usize..range.end as usize).unwrap_or_default();
        Ok(Found { dtype, shape, data })
    }
}

/// The only element of a tensor; `None` for a type that holds no count.
fn number(dtype: Dtype, data: &[u8]) -> Option<f64> {
    fn read<T: bytemuck::AnyBitPattern>(data: &[u8]) -> Option<T> {
        bytemuck::try_pod_read_unaligned(data).ok()
    }
    match dtype {
        // Beyond 2^53 it is rounded, and refused all the same.
        Dtype::I64 => read::<i64>(data).map(|count| count as f64),
        Dtype::U64 => read::<u64>(data).map(|count| count as f64),
        Dtype::I32 => read::<i32>(data).map(f64::from),
        Dtype::U32 => read::<u32>(data).map(f64::from),
        Dtype::F64 => read::<f64>(data),
        Dtype::F32 => read::<f32>(data).map(f64::from),
        Dtype::F16 => read::<f16>(data).map(f64::from),
        Dtype::BF16 => read::<bf16>(data).map(f64::from),
        _ => None,
    }
}

fn floats<T: bytemuck::AnyBitPattern + Into<f32>>(data: &[u8]) -> Vec<f32> {
    data.chunks_exact(size_of::<T>()).map(|bytes| bytemuck::pod_read_unaligned::<T>(bytes).into()).collect()
}
