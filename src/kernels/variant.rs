//! A kernel with every choice made, and its WGSL.

use super::{Access, Binding, Extent, Kernel, Part, part};
use crate::capabilities::Capabilities;
use crate::error::{Error, Result};
use crate::shape::Shape;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a value of the shader's inner loops is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Geometry {
    /// One element. Runs for every shape.
    Scalar,
    /// Four neighbouring elements of one channel: inner a multiple of four.
    Planes4,
    /// Four neighbouring elements of a row of channels: inner 1, and N * C a multiple of four such that the samples can be
    /// taken two or four at a time where C alone is not.
    Rows4,
}

/// How an operation goes about a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Several workgroups share a column; a first dispatch leaves partial sums, a second merges and applies them. Runs for
    /// every shape.
    Split,
    /// One workgroup has a column whole and goes over it twice, in one dispatch.
    Whole,
    /// One workgroup holds a column in registers, one dispatch does it all: each lane has at most
    /// [`Strategy::HELD`] values.
    Resident,
}

impl Strategy {
    /// All, the one that runs for every shape first.
    pub const ALL: [Self; 3] = [Self::Split, Self::Whole, Self::Resident];

    /// How many values a lane can hold: a resident kernel exists for each.
    pub const HELD: [u32; 4] = [4, 8, 16, 32];

    /// Name in tables, test ids and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Whole => "whole",
            Self::Resident => "resident",
        }
    }
}

/// How a workgroup sums over its lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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

    /// How many samples of a shape count as one, so that values fill its rows: 1 but for [`Geometry::Rows4`] where C is no
    /// multiple of four. `None` where the geometry does not run for the shape.
    pub fn fold(self, shape: &Shape) -> Option<usize> {
        match self {
            Self::Scalar => Some(1),
            Self::Planes4 => shape.inner().is_multiple_of(4).then_some(1),
            Self::Rows4 if shape.inner() == 1 => {
                let fold = [1, 2, 4].into_iter().find(|fold| (shape.channels() * fold).is_multiple_of(4));
                fold.filter(|&fold| shape.values_per_channel().is_multiple_of(fold))
            }
            Self::Rows4 => None,
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

    /// What stands in WGSL for each part of the work's channels.
    fn channels(self) -> &'static [&'static str] {
        match self {
            Self::Scalar => &["work.channel"],
            Self::Planes4 => &["work.channel.x"],
            Self::Rows4 => &["work.channel.x", "work.channel.y", "work.channel.z", "work.channel.w"],
        }
    }

    /// Body of a function that loads the value of `work`'s channels in a plane of C.
    pub(super) fn load_plane(self, array: &str) -> String {
        let at = |channel: &&str| format!("{array}[plane * params.channels + {channel}]");
        format!("return Value({});", self.channels().iter().map(at).collect::<Vec<_>>().join(", "))
    }

    /// Body of a function that stores the value of `work`'s channels in a plane of C. Of the channels of folded samples only
    /// the first are stored.
    pub(super) fn store_plane(self, array: &str) -> String {
        let parts = self.parts_of_value().iter().enumerate().map(|(i, part)| {
            let channel = format!("work.column * CHANNELS + {i}u");
            format!("if ({channel} < params.channels) {{ {array}[plane * params.channels + {channel}] = v{part}; }}")
        });
        parts.collect::<Vec<_>>().join(" ")
    }

    /// Body of a function that stores a value in a row of all columns.
    pub(super) fn store_row(self, array: &str) -> String {
        let parts = self.parts_of_value().iter().enumerate();
        let stores = parts
            .map(|(i, part)| format!("{array}[(row * params.columns + work.column) * CHANNELS + {i}u] = v{part};"));
        stores.collect::<Vec<_>>().join(" ")
    }

    /// The parts of a value that belong to channels of their own.
    fn parts_of_value(self) -> &'static [&'static str] {
        match self {
            Self::Scalar => &[""],
            Self::Planes4 => &[".x"],
            Self::Rows4 => &[".x", ".y", ".z", ".w"],
        }
    }

    /// Body of a function that loads one element of each of `work`'s channels from a tensor.
    pub(super) fn load_element(self, array: &str) -> String {
        match self {
            Self::Scalar => format!("return {array}[index_of(work.column, element)];"),
            Self::Planes4 => format!("return Value({array}[index_of(work.column, element / 4u)][element % 4u]);"),
            Self::Rows4 => {
                let part = |part: &&str| format!("{array}[at{part} / 4u][at{part} % 4u]");
                let parts = self.parts_of_value().iter().map(part).collect::<Vec<_>>().join(", ");
                format!("let at = element * params.channels + work.channel; return Value({parts});")
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

impl fmt::Display for Strategy {
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
    /// How many values a lane holds; 0 for kernels that hold none.
    pub held: u32,
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
    /// The variant with every binding present and apart. What the kernel does not depend on is left out.
    pub fn new(kernel: &'static Kernel, geometry: Geometry, reduction: Reduction, held: u32) -> Self {
        let reduction = if kernel.reduces { reduction } else { Reduction::Tree };
        let held = if kernel.holds { held } else { 0 };
        Self { kernel, geometry, reduction, held, absent: 0, in_place: 0, pooled: false }
    }

    /// Every variant of every kernel: what a shader test has to cover.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::apart().flat_map(|variant| {
            let optional = mask(variant.kernel, |binding| binding.optional);
            let over = mask(variant.kernel, |binding| binding.over.is_some());
            subsets(optional).flat_map(move |absent| {
                subsets(over & !absent)
                    .flat_map(move |in_place| [false, true].map(|pooled| Self { absent, in_place, pooled, ..variant }))
            })
        })
    }

    /// Every variant with every binding present and apart: what a check of results has to cover.
    pub fn apart() -> impl Iterator<Item = Self> {
        super::KERNELS.into_iter().flat_map(|kernel| {
            let reductions = &Reduction::ALL[..if kernel.reduces { 2 } else { 1 }];
            let held: &[u32] = if kernel.holds { &Strategy::HELD } else { &[0] };
            Geometry::ALL.into_iter().flat_map(move |geometry| {
                reductions.iter().flat_map(move |&reduction| {
                    held.iter().map(move |&held| Self::new(kernel, geometry, reduction, held))
                })
            })
        })
    }

    /// `kernel.geometry`, then the reduction and the values held where they matter: the name in labels and tables.
    pub fn name(&self) -> String {
        let mut name = format!("{}.{}", self.kernel.name, self.geometry);
        if self.kernel.reduces {
            name += &format!(".{}", self.reduction);
        }
        if self.kernel.holds {
            name += &format!(".{}", self.held);
        }
        name
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
            text += &match part.again {
                true => renamed(part.text),
                false => repeated(part.text, self.held),
            };
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

/// What the parts of a walk have in common (`common/walk.wgsl`).
const WALKED: [&str; 6] = ["State", "Inputs", "inputs_at", "four", "one", "walk"];

/// Appends `_again` to the names in [`WALKED`].
fn renamed(text: &str) -> String {
    let in_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = rest.find(in_name) {
        let end = rest[begin..].find(|c| !in_name(c)).map_or(rest.len(), |length| begin + length);
        out += &rest[..end];
        if WALKED.contains(&&rest[begin..end]) {
            out += "_again";
        }
        rest = &rest[end..];
    }
    out + rest
}

/// Writes the lines between `// repeat k {` and `// }` once for each k below `times`, `$k` being its number: registers are
/// only held under names of their own, not as an array with a loop over it.
fn repeated(text: &str, times: u32) -> String {
    let mut rest = text;
    let mut out = String::with_capacity(text.len());
    while let Some((before, behind)) = rest.split_once("// repeat k {\n")
        && let Some((block, after)) = behind.split_once("// }\n")
    {
        out += before.trim_end_matches(' ');
        (0..times).for_each(|k| out += block.trim_end_matches(' ').replace("$k", &k.to_string()).as_str());
        rest = after;
    }
    out + rest
}

/// Bits of the bindings for which `test` holds.
fn mask(kernel: &Kernel, test: impl Fn(&Binding) -> bool) -> u32 {
    kernel.bindings.iter().enumerate().filter(|(_, binding)| test(binding)).fold(0, |bits, (i, _)| bits | 1 << i)
}

/// Every subset of the bits of `set`.
fn subsets(set: u32) -> impl Iterator<Item = u32> {
    (0..=set).filter(move |subset| subset & !set == 0)
}
