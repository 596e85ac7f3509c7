//! What kernels bind, and its declarations in WGSL; how it is accessed stands in `shaders/common/bindings.wgsl`.

use super::Settings;
#[cfg(doc)]
use super::Variant;

/// Whether a kernel writes a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Only read.
    Read,
    /// Written, and possibly read.
    Write,
}

/// How much of what a binding holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    /// A tensor in the layer's dtype.
    Elements,
    /// A number of planes of C f32.
    Channels(u32),
    /// What a forward pass leaves for its backward pass: [`STATISTIC_PLANES`], then [`PARAMETER_PLANES`], f32.
    Saved,
    /// The running statistics as words, updated by the kernel.
    Running,
    /// Partial results: planes of C f32, as many as the plan's splits need.
    Scratch,
}

impl Extent {
    /// Whether it is an array of a number for each channel, which may begin at any of them in its buffer.
    pub fn is_small(self) -> bool {
        self == Self::Channels(1)
    }
}

/// The planes of C words of the running statistics: three of f32, then counts in u32. The last two are the number of elements
/// averaged, as low and high word. In shaders `RUNNING_MEAN` and so on.
pub const RUNNING_PLANES: [&str; 8] =
    ["mean", "remainder", "variance", "tracked", "averaged", "skipped", "elements_low", "elements_high"];
/// The planes that a forward pass saves of its statistics: the mean as shift and remainder, the biased variance, 1 / sqrt(variance
/// + eps). In shaders `STATISTIC_SHIFT` and so on.
pub const STATISTIC_PLANES: [&str; 4] = ["shift", "remainder", "variance", "inv_std"];
/// The planes that it saves of its parameters, as they were. In shaders `PARAMETER_GAMMA` and so on.
pub const PARAMETER_PLANES: [&str; 2] = ["gamma", "beta"];

/// The numbers of the planes in WGSL, so that they are named once.
pub(super) fn constants_of_planes() -> String {
    let planes = [("RUNNING", &RUNNING_PLANES[..]), ("STATISTIC", &STATISTIC_PLANES), ("PARAMETER", &PARAMETER_PLANES)];
    let constant = |name: String, value: usize| format!("const {}: u32 = {value}u;\n", name.to_uppercase());
    let of_planes = |(kind, planes): (&'static str, &'static [&'static str])| {
        planes.iter().enumerate().map(move |(i, plane)| constant(format!("{kind}_{plane}"), i))
    };
    let numbers = planes.into_iter().flat_map(of_planes);
    numbers.chain([constant("STATISTIC_PLANES".into(), STATISTIC_PLANES.len())]).collect()
}

/// A storage binding of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Binding {
    /// The binding's one name: in WGSL, in errors, in the descriptors of the operations.
    pub name: &'static str,
    /// Whether the kernel writes it.
    pub access: Access,
    /// How much it holds.
    pub extent: Extent,
    /// Whether it may be absent. Absent, it reads as 1 for gamma and as 0 otherwise, and writes go nowhere.
    pub optional: bool,
    /// The bindings whose bytes this one may overwrite in place.
    pub over: &'static [&'static str],
    /// Of a [small array](Extent::is_small), those that it may be one binding with: where both lie in one aligned block of a buffer,
    /// two bindings would overlap.
    pub joins: &'static [&'static str],
    /// Whether it may be added to what is there instead of replacing it.
    pub adds: bool,
    /// Whether it is read only to see through the activation: absent where there is none.
    pub behind_activation: bool,
    /// Whether a kernel that goes over its column twice reads it the second time only.
    pub once: bool,
}

const fn read(name: &'static str, extent: Extent) -> Binding {
    Binding {
        name,
        access: Access::Read,
        extent,
        optional: false,
        over: &[],
        joins: &[],
        adds: false,
        behind_activation: false,
        once: false,
    }
}

const fn write(name: &'static str, extent: Extent) -> Binding {
    Binding { access: Access::Write, ..read(name, extent) }
}

const fn gradient(name: &'static str, extent: Extent) -> Binding {
    Binding { adds: true, ..optional(write(name, extent)) }
}

const fn optional(binding: Binding) -> Binding {
    Binding { optional: true, ..binding }
}

const fn behind_activation(binding: Binding) -> Binding {
    Binding { behind_activation: true, ..binding }
}

pub(super) const X: Binding = read("x", Extent::Elements);
pub(super) const X_BEHIND: Binding = behind_activation(X);
pub(super) const RESIDUAL: Binding = Binding { once: true, ..optional(read("residual", Extent::Elements)) };
pub(super) const RESIDUAL_BEHIND: Binding = Binding { once: false, ..behind_activation(RESIDUAL) };
pub(super) const DY: Binding = read("dy", Extent::Elements);
pub(super) const GAMMA: Binding = optional(read("gamma", Extent::Channels(1)));
pub(super) const BETA: Binding = Binding { joins: &["gamma"], ..optional(read("beta", Extent::Channels(1))) };
pub(super) const SAVED: Binding = read("saved", Extent::Saved);
pub(super) const SAVED_OUT: Binding = write("saved", Extent::Saved);
pub(super) const SAVED_IF_WANTED: Binding = optional(SAVED_OUT);
pub(super) const RUNNING: Binding = read("running", Extent::Channels(RUNNING_PLANES.len() as u32));
pub(super) const RUNNING_UPDATE: Binding = optional(write("running", Extent::Running));
pub(super) const SCRATCH: Binding = read("scratch", Extent::Scratch);
pub(super) const SCRATCH_OUT: Binding = write("scratch", Extent::Scratch);
pub(super) const Y: Binding = Binding { over: &["x"], ..write("y", Extent::Elements) };
// No backward pass needs the residual of inference, unless there is an activation to see through.
pub(super) const Y_OF_INFERENCE: Binding = Binding { over: &["x", "residual"], ..Y };
pub(super) const DX: Binding = Binding { over: &["dy"], ..gradient("dx", Extent::Elements) };
pub(super) const DRESIDUAL: Binding = Binding { over: &["dy"], ..gradient("dresidual", Extent::Elements) };
pub(super) const DGAMMA: Binding = gradient("dgamma", Extent::Channels(1));
pub(super) const DBETA: Binding = Binding { joins: &["dgamma"], ..gradient("dbeta", Extent::Channels(1)) };

impl Binding {
    /// The declaration of a present binding. `Element` is what tensors are made of (`shaders/common/elements.wgsl`).
    pub(super) fn declaration(&self, number: u32, pooled: bool, settings: &Settings) -> String {
        let access = if pooled || self.access == Access::Write { "read_write" } else { "read" };
        let element = match self.extent {
            // Two invocations may write the halves of a word.
            Extent::Elements if self.access == Access::Write && settings.has_half_words() => "atomic<u32>",
            Extent::Elements => "Element",
            Extent::Channels(_) | Extent::Saved | Extent::Scratch => "f32",
            Extent::Running => "u32",
        };
        format!("@group(0) @binding({number}) var<storage, {access}> {}: array<{element}>;", self.name)
    }
}
