//! The one error type of the crate. Every variant says what was expected, what came, and what to do.

use crate::shape::Layout;
use std::sync::Arc;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The tensor has fewer than two dimensions.
    #[error(
        "expected a tensor of rank 2 or more, such as (N, C) or (N, C, H, W), got dimensions {dims:?}; add the batch dimension"
    )]
    Rank {
        /// The dimensions that came.
        dims: Vec<usize>,
    },
    /// The channel dimension is zero.
    #[error("expected at least one channel, got dimensions {dims:?} in layout {layout}")]
    ZeroChannels {
        /// The dimensions that came.
        dims: Vec<usize>,
        /// The layout that says which of them counts the channels.
        layout: Layout,
    },
    /// A dimension other than the channels is zero, so that no channel has a value.
    #[error("expected at least one value per channel, got dimensions {dims:?}; skip the call for an empty batch")]
    EmptyBatch {
        /// The dimensions that came.
        dims: Vec<usize>,
    },
    /// The number of elements does not fit the machine's integers.
    #[error("the product of dimensions {dims:?} overflows; split the tensor over N")]
    ShapeOverflow {
        /// The dimensions that came.
        dims: Vec<usize>,
    },
    /// Training needs a variance, and one value has none.
    #[error(
        "expected more than one value per channel in training, got dimensions {dims:?}: the variance of one value is 0 \
         and every output would be beta; use a larger batch, or inference with running statistics"
    )]
    OneValuePerChannel {
        /// The dimensions that came.
        dims: Vec<usize>,
    },
    /// eps must be a positive, finite, normal f32.
    #[error(
        "expected eps to be positive, finite and at least 1.2e-38, got {eps}; in place of 0 take 1.2e-38, which only a variance as \
         small as that notices: 1e-5, the usual value, gives other results"
    )]
    Eps {
        /// The value that came.
        eps: f64,
    },
    /// negative_slope must be a number that an f32 holds.
    #[error("expected negative_slope to be a finite number that an f32 holds, got {slope}; PyTorch's default is 0.01")]
    NegativeSlope {
        /// The value that came.
        slope: f64,
    },
    /// The weight of the new batch lies outside [0, 1].
    #[error(
        "expected momentum (the weight of the new batch) in [0, 1], got {momentum}; for the other convention, in which \
         momentum weighs the old value, use RunningPolicy::from_decay"
    )]
    Momentum {
        /// The weight of the new batch that came.
        momentum: f64,
    },
    /// The policy averages what cannot be averaged that way.
    #[error("the running-statistics policy is contradictory: {reason}")]
    Policy {
        /// What contradicts what.
        reason: &'static str,
    },
    /// y does not lead back to x.
    #[error("the backward pass cannot work from y: {reason}; keep x and leave Config::in_place off")]
    InPlace {
        /// What stands against it.
        reason: String,
    },
    /// An array or list does not have the size that the shape asks for.
    #[error("{name}: expected {expected}, got {actual}")]
    Mismatch {
        /// Which argument.
        name: &'static str,
        /// What it must be.
        expected: String,
        /// What it was.
        actual: String,
    },
    /// A binding covers fewer bytes than the kernels touch.
    #[error("{name}: expected a binding of at least {expected} bytes, got {actual}")]
    BufferTooSmall {
        /// Which binding.
        name: &'static str,
        /// Bytes needed.
        expected: u64,
        /// Bytes that came.
        actual: u64,
    },
    /// A buffer was created without a usage that the call needs.
    #[error("{name}: expected a buffer with usage {expected:?}, got {actual:?}; add it when the buffer is created")]
    BufferUsage {
        /// Which binding.
        name: &'static str,
        /// The usage that is missing.
        expected: wgpu::BufferUsages,
        /// The usages of the buffer.
        actual: wgpu::BufferUsages,
    },
    /// A binding starts where the device does not allow a binding to start.
    #[error(
        "{name}: expected an offset that is a multiple of {alignment} (of 4 for gamma, beta and their gradients, of the device's min_storage_buffer_offset_alignment for all others), got {offset}"
    )]
    MisalignedOffset {
        /// Which binding.
        name: &'static str,
        /// The offset that came, in bytes.
        offset: u64,
        /// The alignment needed, in bytes.
        alignment: u64,
    },
    /// A binding that is written shares bytes with another binding of the call.
    #[error("{first} and {second} overlap in one buffer, and one of them is written; {hint}")]
    Overlap {
        /// One binding.
        first: &'static str,
        /// The other.
        second: &'static str,
        /// What to do about it.
        hint: &'static str,
    },
    /// The call needs more than the device or the kernels allow.
    #[error("{what} needs {}, but {limit} allows {}; {hint}", amount(*needed, unit), amount(*allowed, unit))]
    Limit {
        /// What exceeds the limit.
        what: &'static str,
        /// Which limit.
        limit: &'static str,
        /// What is counted: bytes, workgroups and so on.
        unit: &'static str,
        /// What is needed.
        needed: u64,
        /// What the device allows.
        allowed: u64,
        /// What to do about it.
        hint: &'static str,
    },
    /// A kernel, or a choice that was forced, cannot run.
    #[error("{kernel} cannot run here: {reason}")]
    KernelUnavailable {
        /// The kernel, its variant or the choice.
        kernel: String,
        /// Why.
        reason: String,
    },
    /// A device computes something else than the reference: its compiler or driver is at fault, or this crate.
    #[error(
        "{what}: expected results within the tolerance of the float64 reference, got {comparison}; update the driver, and report it \
         with what `bn check` says"
    )]
    WrongResult {
        /// The operation, the shape and the plan.
        what: String,
        /// How far it is off.
        comparison: String,
    },
    /// A text is no tuning file.
    #[error("expected a tuning file as `bn tune` writes it, got one in which {reason}; write it anew with `bn tune`")]
    Tuning {
        /// What is wrong with it.
        reason: String,
    },
    /// Bytes are no checkpoint.
    #[cfg(feature = "checkpoint")]
    #[error("expected a whole .safetensors file, got one {found}; write or download it anew")]
    Checkpoint {
        /// What was found instead.
        found: String,
    },
    /// A file of another kind that is known.
    #[cfg(feature = "checkpoint")]
    #[error("expected a .safetensors file, got {found}; {hint}")]
    ForeignFile {
        /// What it is.
        found: &'static str,
        /// How to get what was wanted.
        hint: &'static str,
    },
    /// The tensors of a checkpoint are not those wanted.
    #[cfg(feature = "checkpoint")]
    #[error(transparent)]
    Contents(#[from] crate::contents::Contents),
    /// No adapter answers to the description.
    #[error("no adapter {wanted}; found: {found}. {hint}")]
    NoAdapter {
        /// What was looked for.
        wanted: String,
        /// What there is.
        found: String,
        /// What to install or change.
        hint: &'static str,
    },
    /// The adapter refused to open a device.
    #[error("adapter {adapter} gave no device: {reason}")]
    NoDevice {
        /// The adapter's name.
        adapter: String,
        /// What wgpu said.
        reason: String,
    },
    /// The device was lost or destroyed.
    #[error("the device was lost while {during}: {reason}; open a new device and bind again")]
    DeviceLost {
        /// What was going on.
        during: &'static str,
        /// What the driver said.
        reason: String,
    },
    /// The device has no memory left for a buffer.
    #[error("the device is out of memory while {during}; use smaller batches or free buffers")]
    OutOfMemory {
        /// What was going on.
        during: &'static str,
    },
    /// A layer with a label refused a call or failed.
    #[error("{layer}: {source}")]
    InLayer {
        /// The label of the layer.
        layer: Arc<str>,
        /// What happened.
        source: Box<Error>,
    },
    /// wgpu or the driver refused what this crate asked for.
    #[error(
        "the device refused {during}: {reason}; check that every buffer is of this device and not destroyed; if so, this is \
         a bug: please report it with the adapter's name"
    )]
    Device {
        /// What was going on.
        during: &'static str,
        /// What wgpu said.
        reason: String,
    },
}

impl Error {
    /// The same error, which says which layer it is of. A layer with a label does it by itself; this is for what is wrong
    /// before there is a layer. Of an error that names a layer already, that name stays.
    ///
    /// ```
    /// use batchnorm_wgpu::{Layout, Shape};
    /// let error = Shape::new(&[64], Layout::ChannelsFirst).map_err(|error| error.in_layer("layer3.bn1")).unwrap_err();
    /// assert!(error.to_string().starts_with("layer3.bn1: expected a tensor of rank 2 or more"));
    /// ```
    #[must_use]
    pub fn in_layer(self, label: impl Into<Arc<str>>) -> Self {
        match self {
            named @ Self::InLayer { .. } => named,
            source => Self::InLayer { layer: label.into(), source: Box::new(source) },
        }
    }

    /// What happened, whichever layer it happened in.
    pub fn kind(&self) -> &Self {
        match self {
            Self::InLayer { source, .. } => source,
            other => other,
        }
    }
}

/// An outcome whose error says which layer it is of, where that has a label.
pub(crate) fn of_layer<T>(outcome: Result<T>, label: Option<&Arc<str>>) -> Result<T> {
    outcome.map_err(|error| match label {
        Some(label) => error.in_layer(label.clone()),
        None => error,
    })
}

/// An amount for people: large numbers of bytes in MiB too.
fn amount(number: u64, unit: &str) -> String {
    const MIB: u64 = 1 << 20;
    match number {
        MIB.. if unit == "bytes" => format!("{number} bytes ({:.1} MiB)", number as f64 / MIB as f64),
        _ => format!("{number} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_said_in_mib_where_they_are_many() {
        assert_eq!(amount(1048575, "bytes"), "1048575 bytes");
        assert_eq!(amount(201326592, "bytes"), "201326592 bytes (192.0 MiB)");
        assert_eq!(amount(1 << 31, "workgroups"), "2147483648 workgroups");
    }

    #[test]
    fn an_error_names_the_innermost_layer() {
        let memory = Error::OutOfMemory { during: "testing" };
        let said = memory.to_string();
        let named = memory.in_layer("layer3.bn1").in_layer("the network");
        assert_eq!(named.to_string(), format!("layer3.bn1: {said}"));
        assert!(matches!(named.kind(), Error::OutOfMemory { .. }));
        assert!(matches!(named.kind().kind(), Error::OutOfMemory { .. }));
    }
}
