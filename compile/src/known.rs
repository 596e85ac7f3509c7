//! What a compiler's report is judged by: no kernel that an automatic plan chooses spills, or moves tensors in small pieces; but for
//! those that are known to, each with a reason.

use crate::error::CompileError;
use crate::figures::KernelReport;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What is wrong with a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelFault {
    /// Registers lie in memory.
    Spills,
    /// Tensors are loaded or stored in less than the geometry promises.
    Narrow,
}

impl fmt::Display for KernelFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spills => "spills",
            Self::Narrow => "narrow",
        })
    }
}

/// Kernels that are known to have a fault. One that has it no longer is taken off the list.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// The GPUs.
    pub families: Vec<String>,
    /// The fault.
    pub fault: KernelFault,
    /// The kernels, by the names in the table.
    pub kernels: Vec<String>,
    /// The sizes of workgroups.
    pub workgroup_sizes: Vec<u32>,
    /// Why it is so, and what has to change.
    pub reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    known: Vec<Known>,
}

const KNOWN: &str = include_str!("../known.toml");

/// The list that comes with this crate, `compile/known.toml`.
///
/// # Errors
/// [`CompileError::Known`] when it cannot be read.
pub fn known() -> Result<Vec<Known>, CompileError> {
    let file: File = toml::from_str(KNOWN).map_err(|error| CompileError::Known(error.to_string()))?;
    if let Some(entry) = file.known.iter().find(|entry| entry.reason.trim().is_empty()) {
        return Err(CompileError::Known(format!("expected a reason, got none for {}", entry.kernels.join(", "))));
    }
    Ok(file.known)
}

/// The faults of a kernel.
pub fn faults(kernel: &KernelReport) -> Vec<KernelFault> {
    let all = [(KernelFault::Spills, kernel.figures.spills()), (KernelFault::Narrow, kernel.figures.is_narrow())];
    all.into_iter().filter(|(_, is_so)| *is_so).map(|(fault, _)| fault).collect()
}

/// What was found wrong on a GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultsFound {
    /// Faults that are not on the list.
    pub new: Vec<String>,
    /// What is on the list, and is not so.
    pub gone: Vec<String>,
    /// Faults that are on the list.
    pub known: usize,
}

/// Judges the report of a GPU. `is_whole` says that all kernels were compiled, so that what the list has and the report has not is
/// gone.
pub fn judge(family: &str, kernels: &[KernelReport], known: &[Known], is_whole: bool) -> FaultsFound {
    let is_known = |kernel: &KernelReport, fault: KernelFault| {
        known.iter().any(|entry| {
            entry.fault == fault
                && entry.families.iter().any(|it| it == family)
                && entry.kernels.contains(&kernel.name)
                && entry.workgroup_sizes.contains(&kernel.workgroup_size)
        })
    };
    let chosen = || kernels.iter().filter(|kernel| kernel.chosen_for.is_some());
    let mut verdict = FaultsFound::default();
    for kernel in chosen() {
        for fault in faults(kernel) {
            match is_known(kernel, fault) {
                true => verdict.known += 1,
                false => verdict.new.push(told(kernel, fault)),
            }
        }
    }
    for entry in known.iter().filter(|entry| entry.families.iter().any(|it| it == family)) {
        for (name, size) in
            entry.kernels.iter().flat_map(|name| entry.workgroup_sizes.iter().map(move |size| (name, *size)))
        {
            let found = chosen().find(|kernel| kernel.name == *name && kernel.workgroup_size == size);
            let is_so = match found {
                Some(kernel) => faults(kernel).contains(&entry.fault),
                None => !is_whole,
            };
            if !is_so {
                let why = if found.is_some() { "has the fault no longer" } else { "is not chosen by any plan" };
                verdict.gone.push(format!("{name} in workgroups of {size} ({}): {why}", entry.fault));
            }
        }
    }
    verdict
}

/// A fault in words.
fn told(kernel: &KernelReport, fault: KernelFault) -> String {
    let KernelReport { name, workgroup_size, worst, figures, .. } = kernel;
    let chosen_for = kernel.chosen_for.as_deref().unwrap_or("no plan");
    let number = |figure: Option<u32>| figure.map_or("-".into(), |it| it.to_string());
    let what = match fault {
        KernelFault::Spills => format!(
            "{} of its registers lie in memory, beside {} in registers (worst: {worst})",
            number(figures.spilled),
            number(figures.vector_registers)
        ),
        KernelFault::Narrow => format!(
            "tensors are loaded in {} and stored in {} bytes, expected {}",
            number(figures.load_bytes),
            number(figures.store_bytes),
            number(figures.promised_bytes)
        ),
    };
    format!("{name} in workgroups of {workgroup_size}, which a plan chooses for {chosen_for}: {what}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::CompilerFigures;
    use crate::subject;

    fn kernel(name: &str, size: u32, spilled: u32, is_chosen: bool) -> KernelReport {
        KernelReport {
            name: name.into(),
            workgroup_size: size,
            chosen_for: is_chosen.then(|| "inference 2x3 channels_first f32".into()),
            variants: 1,
            worst: name.into(),
            figures: CompilerFigures { spilled: Some(spilled), ..CompilerFigures::default() },
        }
    }

    #[test]
    fn faults_are_new_known_or_gone() {
        let entry = Known {
            families: vec!["a".into()],
            fault: KernelFault::Spills,
            kernels: vec!["one".into()],
            workgroup_sizes: vec![256, 512],
            reason: "because".into(),
        };
        let judged = |family, kernels: &[KernelReport], is_whole| {
            let verdict = judge(family, kernels, std::slice::from_ref(&entry), is_whole);
            (verdict.new.len(), verdict.known, verdict.gone.len())
        };
        let both = [kernel("one", 256, 8, true), kernel("one", 512, 8, true), kernel("two", 256, 0, true)];
        assert_eq!(judged("a", &both, true), (0, 2, 0));
        assert_eq!(judged("b", &both, true), (2, 0, 0));
        // What no plan chooses may spill.
        assert_eq!(judged("b", &[kernel("one", 256, 8, false)], true), (0, 0, 0));
        // Mended, and left out by a filter or for good.
        assert_eq!(judged("a", &[kernel("one", 256, 0, true)], false), (0, 0, 1));
        assert_eq!(judged("a", &[kernel("one", 256, 0, true)], true), (0, 0, 2));
        assert_eq!(judged("a", &[kernel("one", 1024, 8, true)], false), (1, 0, 0));
        let narrow = CompilerFigures { load_bytes: Some(8), promised_bytes: Some(16), ..CompilerFigures::default() };
        let narrow = KernelReport { figures: narrow, ..kernel("one", 256, 0, true) };
        assert_eq!(faults(&narrow), [KernelFault::Narrow]);
        assert_eq!(judged("a", &[narrow], false), (1, 0, 1));
    }

    #[test]
    fn the_list_names_kernels_and_gpus_that_there_are() {
        let subjects = subject::all();
        for entry in known().unwrap() {
            for family in &entry.families {
                assert!(crate::family::Family::of(family).is_some(), "{family}");
            }
            for name in &entry.kernels {
                assert!(subjects.iter().any(|subject| subject.name == *name && subject.chosen_for.is_some()), "{name}");
            }
        }
    }
}
