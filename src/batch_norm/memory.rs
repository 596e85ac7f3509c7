//! What a whole network needs: the limits to open a device with, and the memory that its batch norms bind.

use crate::dtype::DType;
use crate::kernels::Extent;
use crate::plan::LARGEST_BINDING;
use crate::program::{Description, planes};
use crate::shape::Shape;
use std::fmt;

/// The limits that a device must be opened with for tensors of `shape` in one binding each: WebGPU's defaults, raised where
/// the tensor is larger, to at most what wgpu binds. Take the smaller of these and the adapter's where the adapter has less: a
/// layer then goes over the tensors in parts, as long as buffers are large enough.
pub fn required_limits(shape: &Shape, dtype: DType) -> wgpu::Limits {
    required_limits_of([(shape, dtype)])
}

/// [`required_limits`] of all layers of a network, by the shape and type of their tensors.
///
/// ```
/// use batchnorm_wgpu::{DType, Layout, Shape, required_limits_of};
/// let layer = |c, size| Shape::new(&[64, c, size, size], Layout::ChannelsFirst);
/// let shapes = [layer(64, 112)?, layer(256, 56)?, layer(512, 28)?];
/// let limits = required_limits_of(shapes.iter().map(|shape| (shape, DType::F32)));
/// assert_eq!(limits.max_storage_buffer_binding_size, 4 * 64 * 64 * 112 * 112);
/// # Ok::<(), batchnorm_wgpu::Error>(())
/// ```
pub fn required_limits_of<'a>(layers: impl IntoIterator<Item = (&'a Shape, DType)>) -> wgpu::Limits {
    let largest = layers.into_iter().map(|(shape, dtype)| largest_buffer(shape, dtype)).max().unwrap_or_default();
    let defaults = wgpu::Limits::default();
    wgpu::Limits {
        max_storage_buffer_binding_size: defaults.max_storage_buffer_binding_size.max(largest.min(LARGEST_BINDING)),
        max_buffer_size: defaults.max_buffer_size.max(largest),
        ..defaults
    }
}

/// With few values per channel the running statistics, or the scratch of folded samples, are larger than the tensor.
fn largest_buffer(shape: &Shape, dtype: DType) -> u64 {
    dtype.bytes(shape.outer() * shape.widest_slice()).max(planes(12, shape))
}

/// Bytes that the batch norms of a network bind in training, by what they are for and how long they live. From [`memory_of`]; `{}`
/// prints it as a table.
///
/// Inference binds the parameters, the running statistics, x and y, which may be the same. A residual is an activation of
/// another layer and not counted, and neither is what lies between bindings that share a buffer
/// (`min_storage_buffer_offset_alignment`). A view counts as a tensor of its channels, also where several layers have views of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// gamma and beta of every layer.
    pub parameters: u64,
    /// dgamma and dbeta of every layer, from its backward pass until the optimizer has taken them.
    pub gradients: u64,
    /// The running statistics of every layer.
    pub running: u64,
    /// What every forward pass leaves for its backward pass; no other layer may write it in between.
    pub saved: u64,
    /// x and y of every layer, one of them with [`Config::in_place`](crate::Config::in_place). x lives until the backward pass; y
    /// does as long as the next layer needs it, which for a convolution is until its own backward pass.
    pub activations: u64,
    /// dy of the largest layer, over which dx may be written. Layers may share it as far as what lies between them does.
    pub activation_gradients: u64,
    /// The scratch of the layer that needs most. All layers may share it, since the steps of a queue run one after the other.
    pub scratch: u64,
}

/// What the batch norms of a network need in all. Takes layers, `memory_of(&layers)`, or
/// [`Description`]s, which need no device.
///
/// ```
/// use batchnorm_wgpu::program::Description;
/// use batchnorm_wgpu::{Capabilities, Choice, Config, Layout, Result, Shape, Tuning, memory_of};
/// use std::sync::Arc;
///
/// let describe = |c, size| {
///     let shape = Shape::new(&[32, c, size, size], Layout::ChannelsFirst)?;
///     let device = Capabilities::default_limits();
///     Description::new(shape, Config::default(), &Choice::default(), &device, Arc::new(Tuning::none()))
/// };
/// let memory = memory_of([describe(64, 28)?, describe(128, 14)?]);
/// assert_eq!(memory.parameters, 2 * 4 * (64 + 128));
/// println!("{memory}");
/// # Ok::<(), batchnorm_wgpu::Error>(())
/// ```
pub fn memory_of<L: AsRef<Description>>(layers: impl IntoIterator<Item = L>) -> MemoryPlan {
    layers.into_iter().fold(MemoryPlan::default(), |network, layer| network.and(layer.as_ref()))
}

impl MemoryPlan {
    /// All of it: what training takes.
    pub fn total(&self) -> u64 {
        self.rows().iter().fold(0, |sum, (_, bytes, _)| sum.saturating_add(*bytes))
    }

    /// The plan of a network with one more layer.
    fn and(self, layer: &Description) -> Self {
        let tensor = layer.size_of(Extent::Elements);
        let channels = layer.size_of(Extent::Channels(1));
        let kept = if layer.config().in_place { 1 } else { 2 };
        let plus = |sum: u64, count: u64, bytes: u64| sum.saturating_add(bytes.saturating_mul(count));
        Self {
            parameters: plus(self.parameters, 2, channels),
            gradients: plus(self.gradients, 2, channels),
            running: plus(self.running, 1, layer.size_of(Extent::Running)),
            saved: plus(self.saved, 1, layer.size_of(Extent::Saved)),
            activations: plus(self.activations, kept, tensor),
            activation_gradients: self.activation_gradients.max(tensor),
            scratch: self.scratch.max(layer.size_of(Extent::Scratch)),
        }
    }

    fn rows(&self) -> [(&'static str, u64, &'static str); 7] {
        [
            ("parameters", self.parameters, "always"),
            ("running statistics", self.running, "always"),
            ("gradients", self.gradients, "from the backward pass to the optimizer"),
            ("saved", self.saved, "from the forward to the backward pass of each layer"),
            ("activations", self.activations, "from the forward to the backward pass of each layer"),
            ("activation gradients", self.activation_gradients, "during a backward pass; that of the largest layer"),
            ("scratch", self.scratch, "during a step; that of the layer that needs most"),
        ]
    }
}

impl fmt::Display for MemoryPlan {
    /// A table of what lives how long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows().into_iter().chain([("in all", self.total(), "")]);
        let rows: Vec<_> = rows.map(|(what, bytes, lives)| (what, bytes.to_string(), mib(bytes), lives)).collect();
        let width = rows.iter().map(|(_, bytes, ..)| bytes.len()).max().unwrap_or_default().max("bytes".len());
        write!(f, "{:<20}  {:>width$}  {:>9}  lives", "what", "bytes", "MiB")?;
        for (what, bytes, mib, lives) in rows {
            write!(f, "\n{}", format!("{what:<20}  {bytes:>width$}  {mib:>9}  {lives}").trim_end())?;
        }
        Ok(())
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities::Capabilities;
    use crate::choice::Choice;
    use crate::config::Config;
    use crate::shape::Layout;
    use crate::tuning::Tuning;
    use std::sync::Arc;

    fn describe(dims: &[usize], config: Config) -> Description {
        let shape = Shape::new(dims, Layout::ChannelsFirst).unwrap();
        let device = Capabilities::default_limits();
        Description::new(shape, config, &Choice::default(), &device, Arc::new(Tuning::none())).unwrap()
    }

    #[test]
    fn a_network_needs_the_sum_of_what_is_kept_and_the_largest_of_what_is_shared() {
        let wide = describe(&[8, 64, 4, 4], Config::default());
        let in_place = Config { dtype: DType::F16, in_place: true, ..Config::default() };
        let large = describe(&[8, 16, 32, 32], in_place);
        let scratch = [&wide, &large].map(|layer| layer.size_of(Extent::Scratch));
        let memory = memory_of([&wide, &large]);
        let expected = MemoryPlan {
            parameters: 2 * 4 * (64 + 16),
            gradients: 2 * 4 * (64 + 16),
            running: 8 * 4 * (64 + 16),
            saved: 6 * 4 * (64 + 16),
            activations: 2 * (4 * 8 * 64 * 16) + 2 * 8 * 16 * 1024,
            activation_gradients: 2 * 8 * 16 * 1024,
            scratch: scratch[0].max(scratch[1]),
        };
        assert_eq!(memory, expected);
        assert_eq!(memory.total(), 18 * 4 * 80 + 2 * 32768 + 2 * 262144 + memory.scratch);
        assert_eq!(memory_of([&large, &wide]), expected);
        assert_eq!(memory_of::<Description>([]), MemoryPlan::default());
    }

    #[test]
    fn sums_saturate() {
        let full = MemoryPlan { saved: u64::MAX - 1, activations: 5, ..MemoryPlan::default() };
        assert_eq!(full.total(), u64::MAX);
        assert_eq!(full.and(&describe(&[2, 64], Config::default())).saved, u64::MAX);
    }

    #[test]
    fn a_plan_is_a_table() {
        let plan = MemoryPlan { parameters: 212_480, activations: 3 << 30, scratch: 8, ..MemoryPlan::default() };
        let said = plan.to_string();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), 9);
        assert_eq!(lines[0], "what                       bytes        MiB  lives");
        assert_eq!(lines[1], "parameters                212480        0.2  always");
        assert!(lines[5].starts_with("activations           3221225472     3072.0  from the"), "{}", lines[5]);
        assert_eq!(lines[8], "in all                3221437960     3072.2");
    }

    #[test]
    fn limits_of_a_network_are_those_of_its_largest_layer() {
        let of = |dims: &[usize]| Shape::new(dims, Layout::ChannelsFirst).unwrap();
        let (small, large) = (of(&[2, 3]), of(&[64, 64, 128, 128]));
        let network = required_limits_of([(&small, DType::F32), (&large, DType::F16), (&small, DType::F16)]);
        assert_eq!(network, required_limits(&large, DType::F16));
        assert_eq!(network.max_storage_buffer_binding_size, wgpu::Limits::default().max_storage_buffer_binding_size);
        assert_eq!(required_limits(&large, DType::F32).max_storage_buffer_binding_size, 4 << 26);
        assert_eq!(required_limits_of([]), wgpu::Limits::default());
    }
}
