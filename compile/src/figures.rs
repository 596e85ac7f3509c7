//! What a compiler says of a kernel, in one form for all compilers.

use crate::assembly::{Listing, MemoryAccess};
use crate::subject::CompileSubject;
use crate::vulkan::PipelineReport;
use batchnorm_wgpu::kernels::{Extent, Geometry, Variant};
use serde::{Deserialize, Serialize};

/// What a compiler says of a kernel in a size of workgroups: of every figure the worst over the activations and bindings that it
/// was compiled with. `None` is what the driver does not tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelReport {
    /// How it goes about a column, and what tensors are stored in if not f32.
    pub name: String,
    /// Invocations in a workgroup.
    pub workgroup_size: u32,
    /// The first operation and shape that an automatic plan chose it for; `None` where none did.
    pub chosen_for: Option<String>,
    /// How many it is: with different activations and bindings, and with tensors that are views.
    pub variants: usize,
    /// Which of them spills the most, or takes the most registers.
    pub worst: String,
    /// The figures.
    #[serde(flatten)]
    pub figures: CompilerFigures,
}

/// The figures of one pipeline, or the worst of several.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CompilerFigures {
    /// Registers that each invocation has of its own.
    pub vector_registers: Option<u32>,
    /// Registers that a wave shares.
    pub scalar_registers: Option<u32>,
    /// Vector registers that do not fit and lie in memory; for NVIDIA, words.
    pub spilled: Option<u32>,
    /// Scalar registers that do not fit and lie in vector registers.
    pub spilled_scalars: Option<u32>,
    /// Bytes of memory that a workgroup shares.
    pub workgroup_bytes: Option<u32>,
    /// Waves that a SIMD unit may have in flight.
    pub waves: Option<u32>,
    /// Bytes of instructions.
    pub code_bytes: Option<u32>,
    /// Instructions.
    pub instructions: Option<u32>,
    /// Instructions for each element in the innermost loop that loads a tensor: see [`per_element`].
    pub per_element: Option<f64>,
    /// Bytes of the narrowest load of a tensor: see [`narrowest_load`].
    pub load_bytes: Option<u32>,
    /// Bytes of the narrowest store to a tensor.
    pub store_bytes: Option<u32>,
    /// Bytes in which the geometry promises to load and store; `None` where it promises nothing.
    pub promised_bytes: Option<u32>,
}

impl CompilerFigures {
    /// Those of a pipeline.
    pub fn of(variant: &Variant, answer: &PipelineReport) -> Self {
        let named = |names: &[&str]| {
            let found = answer.statistics.iter().find(|(name, _)| names.contains(&name.as_str()));
            found.map(|(_, value)| *value as u32)
        };
        // Only the instructions of AMD's GPUs can be read.
        let assembly = answer.assembly.as_deref().filter(|_| named(&["VGPRs"]).is_some());
        let spills = named(&["Spilled VGPRs"]).is_some_and(|spilled| spilled > 0);
        let listing = assembly.map(Listing::read).filter(|it| !it.instructions.is_empty());
        let listing = listing.map(|listing| if spills { listing.known_only() } else { listing });
        let slm = named(&["SLM Size"]).map(|bytes| bytes / 4);
        Self {
            vector_registers: named(&["VGPRs", "Number of GPRs"]),
            scalar_registers: named(&["SGPRs"]),
            spilled: named(&["Spilled VGPRs"]).or(slm),
            spilled_scalars: named(&["Spilled SGPRs"]),
            workgroup_bytes: named(&["LDS size", "LDS Size"]),
            waves: named(&["Subgroups per SIMD", "SubGroups per SIMD"]),
            code_bytes: named(&["Code size", "Code Size"]),
            instructions: named(&["Instructions", "Instruction count", "Instruction Count"]),
            per_element: listing.as_ref().and_then(|listing| per_element(variant, listing)),
            load_bytes: listing.as_ref().and_then(|listing| narrowest_load(variant, listing)),
            store_bytes: listing.as_ref().and_then(|listing| narrowest_store(variant, listing)),
            promised_bytes: listing.as_ref().and(promised(variant)),
        }
    }

    /// The worst of each figure.
    #[must_use]
    pub fn worst(self, other: &Self) -> Self {
        let most = |a: Option<u32>, b: Option<u32>| a.max(b);
        let least = |a: Option<u32>, b: Option<u32>| a.into_iter().chain(b).min();
        let longest = self.per_element.into_iter().chain(other.per_element).max_by(f64::total_cmp);
        Self {
            vector_registers: most(self.vector_registers, other.vector_registers),
            scalar_registers: most(self.scalar_registers, other.scalar_registers),
            spilled: most(self.spilled, other.spilled),
            spilled_scalars: most(self.spilled_scalars, other.spilled_scalars),
            workgroup_bytes: most(self.workgroup_bytes, other.workgroup_bytes),
            waves: least(self.waves, other.waves),
            code_bytes: most(self.code_bytes, other.code_bytes),
            instructions: most(self.instructions, other.instructions),
            per_element: longest,
            load_bytes: least(self.load_bytes, other.load_bytes),
            store_bytes: least(self.store_bytes, other.store_bytes),
            promised_bytes: most(self.promised_bytes, other.promised_bytes),
        }
    }

    /// Whether the compiler keeps in memory what a lane should have in registers.
    pub fn spills(&self) -> bool {
        self.spilled.is_some_and(|spilled| spilled > 0)
    }

    /// Whether tensors are loaded or stored in less than the geometry promises.
    pub fn is_narrow(&self) -> bool {
        let moved = self.load_bytes.into_iter().chain(self.store_bytes).min();
        moved.zip(self.promised_bytes).is_some_and(|(moved, promised)| moved < promised)
    }
}

impl KernelReport {
    /// The report of a subject, given what was found of each of its variants; `None` if nothing was.
    pub fn new(subject: &CompileSubject, found: &[(Variant, CompilerFigures)]) -> Option<Self> {
        let worth = |(_, figures): &&(Variant, CompilerFigures)| {
            (figures.spilled, figures.vector_registers, figures.instructions)
        };
        let (worst, _) = found.iter().max_by_key(worth)?;
        let figures =
            found.iter().map(|(_, figures)| figures.clone()).reduce(|worst, figures| worst.worst(&figures))?;
        Some(Self {
            name: subject.name.clone(),
            workgroup_size: subject.workgroup_size,
            chosen_for: subject.chosen_for.clone(),
            variants: found.len(),
            worst: described(worst),
            figures,
        })
    }
}

/// A variant's name, and what of it the name does not say.
fn described(variant: &Variant) -> String {
    let absent = variant.kernel.bindings.iter().filter(|it| it.optional && variant.has(it.name) == Some(false));
    let absent: Vec<&str> = absent.map(|binding| binding.name).collect();
    let mut text = variant.name();
    if variant.views {
        text += " of views";
    }
    if !absent.is_empty() {
        text += &format!(" without {}", absent.join(", "));
    }
    text
}

/// Bytes that one value is loaded in: one element of two in a word is loaded with the word.
fn value_bytes(variant: &Variant) -> u32 {
    let storage = variant.settings.storage;
    let bytes = (variant.settings.geometry.elements() as u32) * storage.dtype().size() as u32;
    if variant.has("words") == Some(true) { bytes.max(4) } else { bytes }
}

/// Bytes in which every tensor is loaded and stored where a value is four elements.
fn promised(variant: &Variant) -> Option<u32> {
    let has_tensors = tensors(variant).next().is_some();
    (has_tensors && variant.settings.geometry != Geometry::Scalar).then(|| value_bytes(variant))
}

/// The numbers of the bindings that are tensors.
fn tensors(variant: &Variant) -> impl Iterator<Item = u32> {
    variant.declared().filter(|(_, binding)| binding.extent == Extent::Elements).map(|(number, _)| number)
}

/// Whether an access is to a tensor. One whose descriptor could not be followed counts as one, so that nothing is passed over.
fn is_to(variant: &Variant, access: &MemoryAccess) -> bool {
    access.binding.is_none_or(|binding| tensors(variant).any(|tensor| tensor == binding))
}

/// Elements that the instructions load of the tensor of which they load the most.
fn loaded(variant: &Variant, accesses: impl Iterator<Item = MemoryAccess>) -> u32 {
    let loads: Vec<MemoryAccess> = accesses.filter(|access| !access.is_store).collect();
    let of = |tensor| {
        let bytes = loads.iter().filter(|load| load.binding == Some(tensor)).map(|load| load.bytes);
        bytes.sum::<u32>() * (variant.settings.geometry.elements() as u32) / value_bytes(variant)
    };
    tensors(variant).map(of).max().unwrap_or_default()
}

/// The instructions of the innermost loop that loads a tensor, over the elements that one round of it takes.
///
/// A round takes as many elements as it loads of one tensor, of the one of which it loads the most, whatever the compiler unrolled.
/// Of several such loops those count that take the most elements in a round, since the others are for what is left over at the end
/// of a column; among these the one with the most instructions. All instructions of a loop count, whether a round runs them or not.
/// A kernel that holds its values has no such loop: there all instructions of the kernel count, over the elements that a lane holds.
pub fn per_element(variant: &Variant, listing: &Listing) -> Option<f64> {
    if variant.kernel.holds {
        let held = f64::from(variant.settings.held * (variant.settings.geometry.elements() as u32));
        return Some(listing.instructions.len() as f64 / held);
    }
    let rounds = listing.loops.iter().map(|range| {
        let instructions = range.end() - range.start() + 1;
        (loaded(variant, listing.accesses(range.clone())), instructions)
    });
    let (elements, instructions) = rounds.max()?;
    (elements > 0).then(|| instructions as f64 / f64::from(elements))
}

/// Bytes of the narrowest load of a tensor in a loop. Outside of loops a kernel loads single elements to choose the shift from,
/// which are not counted.
///
/// A kernel that holds its values loads them outside of loops: there, of each tensor, the widest loads count, as many as a lane
/// holds values.
pub fn narrowest_load(variant: &Variant, listing: &Listing) -> Option<u32> {
    if variant.kernel.holds {
        let held = variant.settings.held as usize;
        let of = |tensor| {
            let loads = listing.all_accesses().filter(|access| !access.is_store && access.binding == Some(tensor));
            let mut widths: Vec<u32> = loads.map(|load| load.bytes).collect();
            widths.sort_unstable_by(|a, b| b.cmp(a));
            widths.into_iter().take(held).next_back()
        };
        return tensors(variant).filter_map(of).min();
    }
    let looped = listing.loops.iter().flat_map(|range| listing.accesses(range.clone()));
    looped.filter(|access| !access.is_store && is_to(variant, access)).map(|load| load.bytes).min()
}

/// Bytes of the narrowest store to a tensor.
pub fn narrowest_store(variant: &Variant, listing: &Listing) -> Option<u32> {
    listing.all_accesses().filter(|access| access.is_store && is_to(variant, access)).map(|store| store.bytes).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchnorm_wgpu::kernels::Storage;

    fn variant(name: &str) -> Variant {
        Variant::every().find(|variant| variant.name() == name).unwrap()
    }

    fn answer(statistics: &[(&str, f64)], assembly: Option<&str>) -> PipelineReport {
        let statistics = statistics.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        PipelineReport { statistics, assembly: assembly.map(Into::into) }
    }

    #[test]
    fn what_radv_says_is_read() {
        let said = [
            ("Driver pipeline hash", 4.6e18),
            ("SGPRs", 128.0),
            ("VGPRs", 56.0),
            ("Spilled SGPRs", 0.0),
            ("Spilled VGPRs", 3.0),
            ("Code size", 3468.0),
            ("LDS size", 8192.0),
            ("Scratch size", 0.0),
            ("Subgroups per SIMD", 18.0),
            ("Instructions", 737.0),
        ];
        let text = include_str!("../samples/moments.planes4.tree.navi21.txt");
        let figures = CompilerFigures::of(&variant("moments.planes4.tree"), &answer(&said, Some(text)));
        let wanted = CompilerFigures {
            vector_registers: Some(56),
            scalar_registers: Some(128),
            spilled: Some(3),
            spilled_scalars: Some(0),
            workgroup_bytes: Some(8192),
            waves: Some(18),
            code_bytes: Some(3468),
            instructions: Some(737),
            // Four loads of four elements.
            per_element: Some(145.0 / 16.0),
            load_bytes: Some(16),
            store_bytes: None,
            promised_bytes: Some(16),
        };
        assert_eq!(figures, wanted);
        assert!(figures.spills() && !figures.is_narrow());
    }

    #[test]
    fn what_nvk_says_is_read() {
        let said =
            [("Instruction count", 900.0), ("Code Size", 14_400.0), ("Number of GPRs", 104.0), ("SLM Size", 396.0)];
        let figures =
            CompilerFigures::of(&variant("moments.planes4.tree"), &answer(&said, Some("block 0:\n  mov r1 r2\n")));
        assert_eq!((figures.vector_registers, figures.spilled, figures.instructions), (Some(104), Some(99), Some(900)));
        // Without instructions of its machine nothing is said of loops and widths.
        assert_eq!((figures.per_element, figures.load_bytes, figures.promised_bytes), (None, None, None));
        assert!(!figures.is_narrow());
    }

    /// Their scratch memory has no binding.
    #[test]
    fn what_spilled_registers_move_is_no_tensor() {
        let text = "BB0:\n\tbuffer_store_dword v1, off, s[0:3], s4 offset:8\n";
        for (spilled, store) in [(0.0, Some(4)), (7.0, None)] {
            let said = answer(&[("VGPRs", 64.0), ("Spilled VGPRs", spilled)], Some(text));
            assert_eq!(CompilerFigures::of(&variant("infer.planes4"), &said).store_bytes, store);
        }
    }

    /// A loop that loads so, then a store.
    fn listing(load: &str, store: &str) -> Listing {
        Listing::read(&format!(
            "BB0:\n\ts_load_dwordx4 s[4:7], s[2:3], 0x10\n\ts_load_dwordx4 s[8:11], s[2:3], 0x20\nBB1:\n\t{load} v[0:3], v9, s[4:7], 0 \
             offen\n\ts_branch BB1\n\tbuffer_load_dword v0, v9, s[4:7], 0 offen\n\t{store} v[0:3], v9, s[8:11], 0 offen\n"
        ))
    }

    #[test]
    fn narrow_accesses_are_seen_where_four_elements_are_promised() {
        let absent = |name: &str| {
            // Of infer x and y alone, bindings 1 and 2.
            let mut variant = variant(name);
            for (i, binding) in variant.kernel.bindings.iter().enumerate() {
                variant.absent |= u32::from(!["x", "y"].contains(&binding.name)) << i;
            }
            variant
        };
        for (name, load, store, narrow) in [
            ("infer.planes4", "buffer_load_dwordx4", "buffer_store_dwordx4", false),
            ("infer.planes4", "buffer_load_dwordx2", "buffer_store_dwordx4", true),
            ("infer.planes4", "buffer_load_dwordx4", "buffer_store_dword", true),
            ("infer.rows4", "buffer_load_b128", "buffer_store_b96", true),
            ("infer.rows4.f16_words", "buffer_load_b64", "buffer_store_b64", false),
            ("infer.rows4.f16_words", "buffer_load_b32", "buffer_store_b64", true),
            ("infer.scalar", "buffer_load_dword", "buffer_store_dword", false),
        ] {
            let (variant, listing) = (absent(name), listing(load, store));
            let figures = CompilerFigures {
                load_bytes: narrowest_load(&variant, &listing),
                store_bytes: narrowest_store(&variant, &listing),
                promised_bytes: promised(&variant),
                ..CompilerFigures::default()
            };
            assert_eq!(figures.is_narrow(), narrow, "{name} {load} {store}: {figures:?}");
        }
    }

    #[test]
    fn kernels_that_hold_are_counted_whole() {
        let variant = variant("forward_resident.planes4.tree.4");
        let loads = |width: &str, number| format!("\tbuffer_load_{width} v[0:3], v9, s[4:7], 0 offen\n").repeat(number);
        let text = |wide, narrow| {
            format!("BB0:\n\ts_load_dwordx4 s[4:7], s[2:3], 0x10\n{}{}", loads("dwordx4", wide), loads("dword", narrow))
        };
        // Single elements are for the shift; one held value too few is one that was loaded in pieces.
        assert_eq!(narrowest_load(&variant, &Listing::read(&text(4, 3))), Some(16));
        assert_eq!(narrowest_load(&variant, &Listing::read(&text(3, 7))), Some(4));
        assert_eq!(per_element(&variant, &Listing::read(&text(4, 3))), Some(0.5));
    }

    #[test]
    fn an_element_of_two_in_a_word_is_one() {
        let variant = variant("infer.scalar.f16_words");
        assert_eq!(variant.settings.storage, Storage::F16Words);
        let listing = listing("buffer_load_dword", "buffer_store_dword");
        assert_eq!(per_element(&variant, &listing), Some(2.0));
    }
}
