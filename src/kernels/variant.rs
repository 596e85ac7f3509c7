//! A kernel with every choice made, and its WGSL.

use super::{Access, Binding, Extent, Geometry, Kernel, Shader, Source, Span, Storage};
use crate::capabilities::Capabilities;
use crate::config::Activation;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

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
    /// As the textbook has it, in one dispatch (`shaders/plain/`), for training and columns of few values: to be read, and checked
    /// like the others. No plan chooses it.
    Plain,
}

impl Strategy {
    /// All, the one that runs for every shape first.
    pub const ALL: [Self; 4] = [Self::Split, Self::Whole, Self::Resident, Self::Plain];

    /// How many values a lane can hold: a resident kernel exists for each, but for 32 of four elements, which no registers hold.
    pub const HELD: [u32; 4] = [4, 8, 16, 32];

    /// Name in tables, test ids and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Whole => "whole",
            Self::Resident => "resident",
            Self::Plain => "plain",
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

impl Reduction {
    /// All, the one that runs everywhere first.
    pub const ALL: [Self; 2] = [Self::Tree, Self::Subgroup];

    /// Name in tables, test ids and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tree => "tree",
            Self::Subgroup => "subgroup",
        }
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

/// What a kernel's text depends on besides its bindings. What a kernel does not depend on is left at its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// What a value is made of.
    pub geometry: Geometry,
    /// How lanes are summed; [`Reduction::Tree`] for kernels that do not reduce.
    pub reduction: Reduction,
    /// How many values a lane holds; 0 for kernels that hold none.
    pub held: u32,
    /// How tensors are stored.
    pub storage: Storage,
    /// What follows the normalization.
    pub activation: Activation,
    /// Whether the backward pass works from y instead of x.
    pub from_y: bool,
}

impl Settings {
    /// Those of a layer of f32 tensors without an activation.
    pub fn plain(geometry: Geometry, reduction: Reduction, held: u32) -> Self {
        Self { geometry, reduction, held, storage: Storage::F32, activation: Activation::None, from_y: false }
    }

    /// Whether a tensor's binding is an array of words of which a value is one half.
    pub(super) fn has_half_words(&self) -> bool {
        self.storage.in_words() && self.geometry == Geometry::Scalar
    }

    /// Without what `kernel` does not depend on.
    fn of(self, kernel: &Kernel) -> Self {
        let reads_x = kernel.bindings.iter().any(|binding| binding.name == "x" && !binding.behind_activation);
        let stores = kernel.bindings.iter().any(|binding| binding.extent == Extent::Elements);
        Self {
            geometry: self.geometry,
            reduction: if kernel.reduces { self.reduction } else { Reduction::Tree },
            held: if kernel.holds { self.held } else { 0 },
            storage: if stores { self.storage } else { Storage::F32 },
            activation: if kernel.activates { self.activation } else { Activation::None },
            from_y: self.from_y && kernel.centres && reads_x,
        }
    }
}

/// What may follow the normalization: an activation, whether the backward pass works from y. An activation loses what is
/// needed for that.
const FUSIONS: [(Activation, bool); 6] = [
    (Activation::None, false),
    (Activation::Relu, false),
    (Activation::None, true),
    (Activation::LeakyRelu, false),
    (Activation::Relu6, false),
    (Activation::Silu, false),
];

/// A kernel with its settings and its bindings: all that its WGSL text depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The row of the table.
    pub kernel: &'static Kernel,
    /// What else its text depends on.
    pub settings: Settings,
    /// Bit i: whether the i-th binding of the row is absent.
    pub absent: u32,
    /// Which bindings are accessed through which, being written over by them or joined with them: bit [`Variant::MOST_PAIRS`] * i + k
    /// says that the k-th of those that may be is accessed through the i-th binding of the row.
    pub paired: u32,
    /// Bit i: whether the i-th binding of the row is added to what is there.
    pub added: u32,
    /// Whether every binding is declared read_write, because bindings share a buffer.
    pub pooled: bool,
    /// Whether some of the tensors are [views](crate::Views).
    pub views: bool,
}

impl Variant {
    /// The variant with every binding present and apart. What the kernel does not depend on is left out.
    pub fn new(kernel: &'static Kernel, settings: Settings) -> Self {
        let settings = settings.of(kernel);
        let absent = match settings.activation {
            Activation::None => mask(kernel, |binding| binding.behind_activation),
            _ => 0,
        };
        Self { kernel, settings, absent, paired: 0, added: 0, pooled: false, views: false }
    }

    /// How many bindings may be accessed through one, one at a time.
    pub const MOST_PAIRS: u32 = 2;

    /// Every variant of every kernel that a shader test has to cover: every combination of bindings for f32 tensors without
    /// an activation, and for all others those with all and with none of what is optional. Where all are there and apart, they
    /// are also added to what is there, and are views, and small arrays lie in one binding.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::apart().flat_map(|variant| {
            let Settings { geometry, reduction, held, .. } = variant.settings;
            let plain = variant.settings == Settings::plain(geometry, reduction, held);
            let optional = mask(variant.kernel, |binding| binding.optional) & !variant.absent;
            let absences = subsets(optional).filter(move |&absent| plain || absent == 0 || absent == optional);
            let joined = variant.joined();
            let bound = absences.flat_map(move |absent| {
                let variant = Self { absent: variant.absent | absent, ..variant };
                subsets(variant.possible_pairs() & !joined).filter_map(move |set| variant.with_pairs(set))
            });
            let added = mask(variant.kernel, |binding| binding.adds);
            let adding = (added != 0).then_some(Self { added, ..variant });
            let views = variant.with_views();
            let joined = (joined != 0).then_some(Self { paired: joined, ..variant });
            bound
                .chain(adding)
                .chain(views)
                .chain(joined)
                .flat_map(|variant| [false, true].map(|pooled| Self { pooled, ..variant }))
        })
    }

    /// Of all variants with every binding present and apart, those that a check of results has to cover. None and ReLU occur with
    /// all that there is; the other activations, which are the same few lines in whatever text, by every kernel and geometry.
    pub fn apart() -> impl Iterator<Item = Self> {
        Self::every().filter(|variant| {
            let Settings { geometry, reduction, held, activation, .. } = variant.settings;
            let settings = Settings { activation, ..Settings::plain(geometry, reduction, held) };
            let is_shortest = reduction == Reduction::Tree && held <= Strategy::HELD[0] && variant.settings == settings;
            matches!(activation, Activation::None | Activation::Relu) || is_shortest
        })
    }

    /// Every variant with every binding present and apart.
    pub fn every() -> impl Iterator<Item = Self> {
        super::KERNELS.into_iter().flat_map(|kernel| {
            let mut all: Vec<Self> = Vec::new();
            for geometry in Geometry::ALL {
                if kernel.is_plain() && geometry != Geometry::Scalar {
                    continue;
                }
                for reduction in Reduction::ALL {
                    for held in Strategy::HELD.into_iter().filter(|&held| held <= geometry.most_held()) {
                        for storage in Storage::ALL.into_iter().filter(|storage| storage.is_for(geometry)) {
                            all.extend(FUSIONS.map(|(activation, from_y)| {
                                Self::new(kernel, Settings { geometry, reduction, held, storage, activation, from_y })
                            }));
                        }
                    }
                }
            }
            // What a kernel does not depend on makes equals.
            let mut seen = std::collections::HashSet::new();
            all.retain(|variant| seen.insert(*variant));
            all
        })
    }

    /// The variant with `name` accessed through `holder`, which is written over it or joined with it; as it is where it has no such
    /// bindings.
    #[must_use]
    pub fn through(self, holder: &str, name: &str) -> Self {
        let bits = self.pairs().filter(|(_, one, other)| (one.name, *other) == (holder, name));
        let bits = bits.fold(0, |bits, (bit, ..)| bits | bit);
        Self { paired: self.paired | bits, ..self }
    }

    /// The variant with one of its bindings added to what is there; as it is where it has no such binding.
    #[must_use]
    pub fn adding_to(self, name: &str) -> Self {
        Self { added: self.added | mask(self.kernel, |binding| binding.adds && binding.name == name), ..self }
    }

    /// Each pair of a binding and one that may be accessed through it, with its bit.
    fn pairs(&self) -> impl Iterator<Item = (u32, &'static Binding, &'static str)> + use<> {
        let bindings = (0u32..).zip(self.kernel.bindings);
        bindings.flat_map(|(i, binding)| {
            let pairs = (Self::MOST_PAIRS * i..).zip(binding.over.iter().chain(binding.joins));
            pairs.map(move |(bit, &name)| (1 << bit, binding, name))
        })
    }

    /// The same with tensors that are views, where the kernel binds any.
    pub fn with_views(self) -> Option<Self> {
        let has_tensors = self.kernel.bindings.iter().any(|binding| binding.extent == Extent::Elements);
        has_tensors.then_some(Self { views: true, ..self })
    }

    /// The pairs of small arrays that may be one binding.
    fn joined(&self) -> u32 {
        self.pairs().filter(|(_, holder, _)| holder.extent.is_small()).fold(0, |bits, (bit, ..)| bits | bit)
    }

    /// The pairs of which both are there.
    fn possible_pairs(&self) -> u32 {
        let there = self.pairs().filter(|(_, holder, name)| self.is_present(holder.name) && self.is_present(name));
        there.fold(0, |bits, (bit, ..)| bits | bit)
    }

    /// With these pairs, unless one binding would be accessed through two.
    fn with_pairs(self, paired: u32) -> Option<Self> {
        let mut names: Vec<_> = self.pairs().filter(|(bit, ..)| paired & bit != 0).map(|(.., name)| name).collect();
        names.sort_unstable();
        names.windows(2).all(|pair| pair[0] != pair[1]).then_some(Self { paired, ..self })
    }

    /// Its [`Variant::column_name`], then what tensors are stored in if not f32, the activation if any, and `from_y`: the
    /// name in labels and tables.
    pub fn name(&self) -> String {
        let Settings { storage, activation, from_y, .. } = self.settings;
        let mut name = self.column_name();
        if storage != Storage::F32 {
            name += &format!(".{storage}");
        }
        if activation != Activation::None {
            name += &format!(".{activation}");
        }
        if from_y {
            name += ".from_y";
        }
        name
    }

    /// How it goes about a column: `kernel.geometry`, then the reduction and the values held where they matter.
    pub fn column_name(&self) -> String {
        let Settings { geometry, reduction, held, .. } = self.settings;
        let mut name = format!("{}.{geometry}", self.kernel.name);
        if self.kernel.reduces {
            name += &format!(".{reduction}");
        }
        if self.kernel.holds {
            name += &format!(".{held}");
        }
        name
    }

    /// Tensor elements that it reads and writes per element of x; times the size of the dtype, bytes.
    pub fn moves(&self) -> u32 {
        let bindings = self.kernel.bindings.iter().enumerate().filter(|(i, _)| self.absent & (1 << i) == 0);
        let tensors = bindings.map(|(_, binding)| binding).filter(|binding| binding.extent == Extent::Elements);
        let walks = |binding: &Binding| binding.access == Access::Read && !binding.once;
        tensors.map(|binding| if walks(binding) { self.kernel.passes } else { 1 }).sum()
    }

    /// The bindings that the shader declares, with their numbers: from 1 on without a gap, since the parameters are 0.
    pub fn declared(&self) -> impl Iterator<Item = (u32, &'static Binding)> {
        let hidden = self.absent | self.held();
        let bindings = self.kernel.bindings.iter().enumerate().filter(move |(i, _)| hidden & (1 << i) == 0);
        (1..).zip(bindings.map(|(_, binding)| binding))
    }

    /// How a declared binding is bound.
    pub fn access(&self, binding: &Binding) -> Access {
        if self.pooled { Access::Write } else { binding.access }
    }

    /// Bits of the bindings that are accessed through another one.
    fn held(&self) -> u32 {
        mask(self.kernel, |binding| self.holder_of(binding.name).is_some())
    }

    /// Whether a feature holds, as conditions in `shaders/` name it; `None` for what is no feature. Features are
    /// - the names of its geometry and storage; `wide` for four elements to a value, `words` for two elements to a word,
    ///   `half_words` for a value that is one half of a word;
    /// - the name of its activation, and `activation` for any but none;
    /// - `subgroup` (the reduction), `from_y`, `frozen` and `merges_only` (what the row says), `views`;
    /// - the names of the bindings that are there, `y_over_x` where y is written over x, `beta_joins_gamma` where both are one
    ///   binding, `adds_to_dx` where dx is added to what is there, and so on.
    pub fn has(&self, feature: &str) -> Option<bool> {
        let Settings { geometry, reduction, storage, activation, from_y, .. } = self.settings;
        Some(match feature {
            "scalar" | "planes4" | "rows4" => geometry.name() == feature,
            "wide" => geometry != Geometry::Scalar,
            "f32" | "f16" | "f16_words" | "bf16_words" => storage.name() == feature,
            "words" => storage.in_words(),
            "half_words" => self.settings.has_half_words(),
            "subgroup" => reduction == Reduction::Subgroup,
            "activation" => activation != Activation::None,
            "relu" | "leaky_relu" | "relu6" | "silu" => activation.name() == feature,
            "from_y" => from_y,
            "frozen" => self.kernel.frozen,
            "merges_only" => self.kernel.span == Span::Column,
            "views" => self.views,
            _ => return self.has_binding(feature),
        })
    }

    /// The features that are about a binding.
    fn has_binding(&self, feature: &str) -> Option<bool> {
        let is = |test: &dyn Fn(&Binding) -> bool| {
            super::KERNELS.iter().flat_map(|kernel| kernel.bindings).any(test).then_some(())
        };
        if let Some(name) = feature.strip_prefix("adds_to_") {
            is(&|binding| binding.name == name && binding.adds)?;
            return Some(self.added & mask(self.kernel, |binding| binding.name == name) != 0);
        }
        if let Some((holder, name)) = feature.split_once("_over_") {
            is(&|binding| binding.name == holder && binding.over.contains(&name))?;
            return Some(self.holder_of(name) == Some(holder));
        }
        if let Some((holder, name)) = feature.split_once("_joins_") {
            is(&|binding| binding.name == holder && binding.joins.contains(&name))?;
            return Some(self.holder_of(name) == Some(holder));
        }
        is(&|binding| binding.name == feature)?;
        Some(self.is_present(feature))
    }

    fn is_present(&self, name: &str) -> bool {
        let mut bindings = self.kernel.bindings.iter().enumerate();
        bindings.any(|(i, binding)| binding.name == name && self.absent & (1 << i) == 0)
    }

    /// The binding that `name` is accessed through, if not itself.
    pub(crate) fn holder_of(&self, name: &str) -> Option<&'static str> {
        let mut pairs = self.pairs().filter(|(bit, ..)| self.paired & bit != 0);
        pairs.find(|(.., held)| *held == name).map(|(_, holder, _)| holder.name)
    }

    /// The WGSL of its shader. Its entry point is `main`.
    pub fn wgsl(&self) -> String {
        self.shader().text
    }

    /// Its shader, with the places where its lines come from.
    pub fn shader(&self) -> Shader {
        self.shader_of(None)
    }

    /// The same, with workgroups of a fixed size if one is given, instead of a pipeline constant.
    pub fn shader_of(&self, workgroup_size: Option<u32>) -> Shader {
        self.linked(workgroup_size, &|source| Cow::Borrowed(source.text))
    }

    /// Its shader with the texts that `text_of` gives for the files: for experiments on one of them, in every kernel that has it.
    pub fn shader_from(&self, text_of: &dyn Fn(&Source) -> Cow<'static, str>) -> Shader {
        self.linked(None, text_of)
    }

    fn linked(&self, workgroup_size: Option<u32>, text_of: &dyn Fn(&Source) -> Cow<'static, str>) -> Shader {
        let mut shader = Shader::default();
        shader.push(&format!("// {}", self.name()), None);
        if self.settings.storage == Storage::F16 {
            shader.push("enable f16;", None);
        }
        shader.push("", None);
        match workgroup_size {
            Some(size) => shader.push(&format!("const WORKGROUP: u32 = {size}u;"), None),
            None => shader.push("override WORKGROUP: u32 = 256u;", None),
        }
        for (number, binding) in self.declared() {
            shader.push(&binding.declaration(number, self.pooled, &self.settings), None);
        }
        // Tests see to it that the files name features only.
        let has = |feature: &str| self.has(feature).unwrap_or_default();
        shader.link(&self.kernel.source, &has, self.settings.held, text_of);
        shader
    }

    /// Whether the variant runs on a device.
    ///
    /// # Errors
    /// [`Error::KernelUnavailable`] or [`Error::Limit`] that says what is missing.
    pub fn check(&self, capabilities: &Capabilities) -> Result<()> {
        let unavailable = |feature: &str| Error::KernelUnavailable {
            kernel: self.name(),
            reason: format!("the device was opened without wgpu::Features::{feature}"),
        };
        if self.settings.reduction == Reduction::Subgroup && !capabilities.subgroups {
            return Err(unavailable("SUBGROUP"));
        }
        if self.settings.storage == Storage::F16 && !capabilities.shader_f16 {
            return Err(unavailable("SHADER_F16"));
        }
        let (needed, allowed) = (self.declared().count(), capabilities.limits.max_storage_buffers_per_shader_stage);
        if needed > allowed as usize {
            return Err(Error::Limit {
                what: "a kernel",
                limit: "the device's max_storage_buffers_per_shader_stage",
                unit: "storage buffers",
                needed: needed as u64,
                allowed: allowed.into(),
                hint: "open the device with WebGPU's default limits, which allow 8",
            });
        }
        Ok(())
    }
}

/// The pipeline-overridable constants of every kernel.
pub(crate) fn constants(workgroup_size: u32) -> [(&'static str, f64); 1] {
    [("WORKGROUP", f64::from(workgroup_size))]
}

/// Bits of the bindings for which `test` holds.
fn mask(kernel: &Kernel, test: impl Fn(&Binding) -> bool) -> u32 {
    kernel.bindings.iter().enumerate().filter(|(_, binding)| test(binding)).fold(0, |bits, (i, _)| bits | 1 << i)
}

/// Every subset of the bits of `set`.
fn subsets(set: u32) -> impl Iterator<Item = u32> {
    (0..=set).filter(move |subset| subset & !set == 0)
}
