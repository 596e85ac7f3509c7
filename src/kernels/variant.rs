//! A kernel with every choice made, and its WGSL.

use super::{Access, Binding, Extent, Kernel, Part, part};
use crate::capabilities::Capabilities;
use crate::error::{Error, Result};
use std::fmt;

/// What a value of the shader's inner loops is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Geometry {
    /// One element. Runs for every shape.
    Scalar,
    /// Four neighbouring elements of one channel: inner a multiple of four.
    Planes4,
    /// One element of each of four neighbouring channels: inner 1, C a multiple of four.
    Rows4,
}

/// How a workgroup sums over its lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// A tree in workgroup memory. Runs everywhere.
    Tree,
    /// Within subgroups first: wants `wgpu::Features::SUBGROUP`, and one column per workgroup.
    Subgroup,
}

impl Geometry {
    /// All, the widest first.
    pub const ALL: [Self; 3] = [Self::Planes4, Self::Rows4, Self::Scalar];

    /// Name, also the stem of its WGSL part.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Planes4 => "planes4",
            Self::Rows4 => "rows4",
        }
    }

    fn part(self) -> Part {
        match self {
            Self::Scalar => part!("common/scalar.wgsl"),
            Self::Planes4 => part!("common/planes4.wgsl"),
            Self::Rows4 => part!("common/rows4.wgsl"),
        }
    }

    /// Channels that a value spans.
    pub(crate) fn channels_per_value(self) -> usize {
        if self == Self::Rows4 { 4 } else { 1 }
    }

    /// Elements of one channel that a value holds.
    pub(crate) fn elements_per_value(self) -> usize {
        if self == Self::Planes4 { 4 } else { 1 }
    }

    /// Body of a function that loads the value of the channels from `i` on.
    pub(super) fn load_channels(self, array: &str) -> String {
        match self {
            Self::Scalar | Self::Planes4 => format!("return Value({array}[i]);"),
            Self::Rows4 => {
                format!("return Value({array}[i], {array}[i + 1u], {array}[i + 2u], {array}[i + 3u]);")
            }
        }
    }

    /// Body of a function that stores the value of the channels from `i` on.
    pub(super) fn store_channels(self, array: &str) -> String {
        match self {
            Self::Scalar => format!("{array}[i] = v;"),
            Self::Planes4 => format!("{array}[i] = v.x;"),
            Self::Rows4 => {
                format!("{array}[i] = v.x; {array}[i + 1u] = v.y; {array}[i + 2u] = v.z; {array}[i + 3u] = v.w;")
            }
        }
    }
}

impl Reduction {
    /// All, the one that runs everywhere first.
    pub const ALL: [Self; 2] = [Self::Tree, Self::Subgroup];

    /// Name, also the end of the stems of its WGSL parts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tree => "tree",
            Self::Subgroup => "subgroup",
        }
    }

    fn parts(self) -> [Part; 2] {
        match self {
            Self::Tree => [part!("common/reduce_tree.wgsl"), part!("common/main_tree.wgsl")],
            Self::Subgroup => [part!("common/reduce_subgroup.wgsl"), part!("common/main_subgroup.wgsl")],
        }
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Reduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A kernel with its geometry, its reduction and its bindings settled: all that its WGSL text depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The row of the table.
    pub kernel: &'static Kernel,
    /// What a value is made of.
    pub geometry: Geometry,
    /// How lanes are summed; [`Reduction::Tree`] for kernels that do not reduce.
    pub reduction: Reduction,
    /// Bit i: whether the i-th binding of the row is absent.
    pub absent: u32,
    /// Bit i: whether the i-th binding of the row is written over the one it names.
    pub in_place: u32,
    /// Whether every binding is declared read_write, because bindings share a buffer.
    pub pooled: bool,
}

const WORK: Part = part!("common/work.wgsl");
const RUNNING: Part = part!("common/running.wgsl");
const RUNNING_NONE: Part = part!("common/running_none.wgsl");

impl Variant {
    /// The variant with every binding present and apart.
    pub fn new(kernel: &'static Kernel, geometry: Geometry, reduction: Reduction) -> Self {
        let reduction = if kernel.reduces { reduction } else { Reduction::Tree };
        Self { kernel, geometry, reduction, absent: 0, in_place: 0, pooled: false }
    }

    /// Every variant of every kernel: what a shader test has to cover.
    pub fn all() -> impl Iterator<Item = Self> {
        super::KERNELS.iter().flat_map(|kernel| {
            let reductions = &Reduction::ALL[..if kernel.reduces { 2 } else { 1 }];
            let optional = mask(kernel, |binding| binding.optional);
            let over = mask(kernel, |binding| binding.over.is_some());
            Geometry::ALL
                .into_iter()
                .flat_map(move |geometry| reductions.iter().map(move |&reduction| (geometry, reduction)))
                .flat_map(move |(geometry, reduction)| {
                    subsets(optional).flat_map(move |absent| {
                        subsets(over & !absent).flat_map(move |in_place| {
                            [false, true].map(|pooled| Self { kernel, geometry, reduction, absent, in_place, pooled })
                        })
                    })
                })
        })
    }

    /// `kernel.geometry`, and the reduction where it matters: the name in labels and tables.
    pub fn name(&self) -> String {
        match self.kernel.reduces {
            true => format!("{}.{}.{}", self.kernel.name, self.geometry, self.reduction),
            false => format!("{}.{}", self.kernel.name, self.geometry),
        }
    }

    /// The bindings that the shader declares, with their numbers.
    pub fn declared(&self) -> impl Iterator<Item = (u32, &'static Binding)> {
        let hidden = self.absent | self.overwritten();
        let bindings = self.kernel.bindings.iter().enumerate();
        bindings.filter(move |(i, _)| hidden & (1 << i) == 0).map(|(i, binding)| (i as u32 + 1, binding))
    }

    /// How a declared binding is bound.
    pub fn access(&self, binding: &Binding) -> Access {
        if self.pooled { Access::Write } else { binding.access }
    }

    /// Bits of the bindings that another one is written over: they are accessed through it.
    fn overwritten(&self) -> u32 {
        let writers = self.kernel.bindings.iter().enumerate().filter(|(i, _)| self.in_place & (1 << i) != 0);
        writers.fold(0, |bits, (_, writer)| bits | mask(self.kernel, |binding| writer.over == Some(binding.name)))
    }

    /// The parts of the shader that are files, in order.
    pub fn parts(&self) -> Vec<Part> {
        let mut parts = vec![self.geometry.part(), WORK];
        parts.extend(self.reduction.parts());
        for (i, binding) in self.kernel.bindings.iter().enumerate() {
            if binding.extent == Extent::Running {
                parts.push(if self.absent & (1 << i) == 0 { RUNNING } else { RUNNING_NONE });
            }
        }
        parts.extend(self.kernel.parts);
        parts
    }

    /// The whole shader. Its entry point is `main`.
    pub fn wgsl(&self) -> String {
        let mut text = format!("// {}\n", self.name());
        for (number, binding) in self.declared() {
            text += &binding.declaration(number as usize, self.pooled);
        }
        for (i, binding) in self.kernel.bindings.iter().enumerate() {
            let writer = self
                .kernel
                .bindings
                .iter()
                .enumerate()
                .find(|(w, writer)| self.in_place & (1 << w) != 0 && writer.over == Some(binding.name));
            let array = match writer {
                Some((_, writer)) => Some(writer.name),
                None if self.absent & (1 << i) != 0 => None,
                None => Some(binding.name),
            };
            text += &binding.accessors(array, self.geometry);
        }
        for part in self.parts() {
            text += "\n";
            text += part.text;
        }
        text
    }

    /// Whether the variant runs on a device.
    ///
    /// # Errors
    /// [`Error::KernelUnavailable`] or [`Error::Limit`] that says what is missing.
    pub fn check(&self, capabilities: &Capabilities) -> Result<()> {
        if self.reduction == Reduction::Subgroup && !capabilities.subgroups {
            return Err(Error::KernelUnavailable {
                kernel: self.name(),
                reason: "the device was opened without wgpu::Features::SUBGROUP".into(),
            });
        }
        let (needed, allowed) = (self.declared().count(), capabilities.limits.max_storage_buffers_per_shader_stage);
        if needed > allowed as usize {
            return Err(Error::Limit {
                what: "the bindings of a kernel",
                limit: "max_storage_buffers_per_shader_stage",
                needed: needed as u64,
                allowed: allowed.into(),
                hint: "open the device with WebGPU's default limits, which allow 8",
            });
        }
        Ok(())
    }
}

/// Bits of the bindings for which `test` holds.
fn mask(kernel: &Kernel, test: impl Fn(&Binding) -> bool) -> u32 {
    kernel.bindings.iter().enumerate().filter(|(_, binding)| test(binding)).fold(0, |bits, (i, _)| bits | 1 << i)
}

/// Every subset of the bits of `set`.
fn subsets(set: u32) -> impl Iterator<Item = u32> {
    (0..=set).filter(move |subset| subset & !set == 0)
}
