//! Mutants of the shaders: every small change to every line of WGSL, one at a time. The cross-check has to tell each from
//! the shaders as they are, but for those that do the same.

mod line;

use batchnorm_wgpu::kernels::{COMMON, KERNELS, Place, Source, Variant};
use batchnorm_wgpu::{Edit, Kernels, Options, wgpu};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// One change to one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mutant {
    /// The file below `shaders/`.
    pub file: &'static str,
    /// Number of the line in the file, from 1.
    pub number: usize,
    /// The line without its indentation.
    pub line: String,
    /// What it becomes.
    pub becomes: String,
}

impl Mutant {
    /// All of them, file by file.
    pub fn all() -> Vec<Self> {
        let lines =
            sources().flat_map(|source| source.text.lines().enumerate().map(move |(i, line)| (source, i, line)));
        lines
            .flat_map(|(source, i, line)| {
                let line = line.trim();
                let mutant = |becomes| Self { file: source.path, number: i + 1, line: line.to_owned(), becomes };
                line::mutations(line).into_iter().map(mutant).collect::<Vec<_>>()
            })
            .collect()
    }

    /// The kernels with the mutant in them. Loops end after [`FUEL`] rounds, so that none hangs.
    pub fn plant(&self, device: &wgpu::Device) -> Kernels {
        let mutant = self.clone();
        kernels(device, move |variant| mutant.wgsl(variant))
    }

    /// The text of a file with the mutant in it, where it is in that file.
    pub fn text_of(&self, source: &Source) -> Cow<'static, str> {
        match source.path == self.file {
            true => Cow::Owned(with_line(source.text, self.number, &self.becomes)),
            false => Cow::Borrowed(source.text),
        }
    }

    fn wgsl(&self, variant: &Variant) -> String {
        variant.shader_from(&|source| self.text_of(source)).text
    }

    fn place(&self) -> Place {
        Place { path: self.file, line: self.number }
    }
}

impl fmt::Display for Mutant {
    /// `common/walk.wgsl:9: while (i < end) { -> while (i <= end) {`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let becomes = if self.becomes.is_empty() { "(nothing)" } else { &self.becomes };
        write!(f, "{}:{}: {} -> {becomes}", self.file, self.number, self.line)
    }
}

/// The kernels as mutants are planted in them, without one: what a case has to pass for its failure to mean something.
pub fn unchanged(device: &wgpu::Device) -> Kernels {
    kernels(device, Variant::wgsl)
}

fn kernels(device: &wgpu::Device, wgsl: impl Fn(&Variant) -> String + Send + Sync + 'static) -> Kernels {
    let edit: Arc<Edit> = Arc::new(move |variant: &Variant, _: String| with_fuel(&wgsl(variant)));
    Kernels::with_options(device, Options { edit: Some(edit), ..Options::default() })
}

/// Every file of every kernel.
fn sources() -> impl Iterator<Item = Source> {
    COMMON.into_iter().chain(KERNELS.iter().map(|kernel| kernel.source))
}

/// Where lines stand: the [names](Variant::name) of the variants that have them.
pub struct Reach(HashMap<Place, HashSet<String>>);

impl Reach {
    /// Looks through all variants.
    pub fn new() -> Self {
        let mut names: HashMap<Place, HashSet<String>> = HashMap::new();
        for variant in Variant::all().chain(Variant::every()) {
            let places: BTreeSet<Place> = variant.shader().places.into_iter().flatten().collect();
            for place in places {
                let of_place = names.entry(place).or_default();
                if !of_place.contains(&variant.name()) {
                    of_place.insert(variant.name());
                }
            }
        }
        Self(names)
    }

    /// Whether a mutant's line stands in the text of some variant of that name.
    pub fn has(&self, mutant: &Mutant, variant: &str) -> bool {
        self.0.get(&mutant.place()).is_some_and(|names| names.contains(variant))
    }
}

impl Default for Reach {
    fn default() -> Self {
        Self::new()
    }
}

/// The text with another line in place of one, as far indented; a condition of the line stays.
fn with_line(text: &str, number: usize, becomes: &str) -> String {
    let lines = text.lines().enumerate();
    lines
        .map(|(i, line)| if i + 1 == number { becomes } else { line })
        .fold(String::new(), |text, line| text + line + "\n")
}

/// Rounds after which loops end: more than any case of the matrix needs in all of an invocation's loops together.
pub const FUEL: u32 = 16_384;

/// The text with loops that end. A mutant that never ends would be found by waiting only, and takes its driver along.
fn with_fuel(wgsl: &str) -> String {
    let bounded = |line: &str| match line.trim_start() {
        start if start.starts_with("while (") => line.replacen("while (", "while (burns() && ", 1),
        start if start.starts_with("for (") => {
            let mut clauses = line.splitn(2, "; ");
            let (first, rest) = (clauses.next().unwrap_or_default(), clauses.next().unwrap_or_default());
            format!("{first}; burns() && {rest}")
        }
        _ => line.to_owned(),
    };
    let guard = format!(
        "var<private> fuel: u32 = {FUEL}u;\nfn burns() -> bool {{\n    fuel = max(fuel, 1u) - 1u;\n    return fuel > 0u;\n}}\n"
    );
    wgsl.lines().map(|line| bounded(line) + "\n").collect::<String>() + &guard
}

/// A mutant that does what the shaders do, and why.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Equivalent {
    /// As in [`Mutant::file`].
    pub file: String,
    /// As in [`Mutant::line`].
    pub line: String,
    /// As in [`Mutant::becomes`].
    pub becomes: String,
    /// Why no result can differ.
    pub reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    mutant: Vec<Equivalent>,
}

impl Equivalent {
    /// Those that are known, `check/equivalent-mutants.toml`.
    ///
    /// # Errors
    /// What is wrong with the file, or with an entry that is no mutant any more.
    pub fn known() -> Result<Vec<Self>, String> {
        let List { mutant: known } = toml::from_str(include_str!("../../equivalent-mutants.toml"))
            .map_err(|error| format!("check/equivalent-mutants.toml: {error}"))?;
        let all = Mutant::all();
        match known.iter().find(|equivalent| !all.iter().any(|mutant| equivalent.is(mutant))) {
            None => Ok(known),
            Some(stale) => Err(format!(
                "check/equivalent-mutants.toml: expected lines of the shaders, got `{}` -> `{}` in {}; remove the entry",
                stale.line, stale.becomes, stale.file
            )),
        }
    }

    /// Whether it is this mutant. (Equal lines of a file are alike.)
    pub fn is(&self, mutant: &Mutant) -> bool {
        self.file == mutant.file && self.line == mutant.line && self.becomes == mutant.becomes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_changes_a_shader() {
        let reach = Reach::new();
        let variants: Vec<(Variant, String)> =
            Variant::all().step_by(5).map(|variant| (variant, variant.wgsl())).collect();
        let mutants = Mutant::all();
        assert!(mutants.len() > 1000, "{}", mutants.len());
        for mutant in mutants.iter().step_by(7) {
            let reached = variants.iter().filter(|(variant, _)| reach.has(mutant, &variant.name()));
            assert!(reached.into_iter().any(|(variant, wgsl)| mutant.wgsl(variant) != *wgsl), "{mutant}");
        }
    }

    #[test]
    fn loops_burn_fuel() {
        let text = with_fuel("    while (i < n) {\n    for (var i = 0u; i < n; i += 1u) {\n");
        assert!(text.contains("while (burns() && i < n)"), "{text}");
        assert!(text.contains("for (var i = 0u; burns() && i < n; i += 1u)"), "{text}");
    }

    #[test]
    fn the_list_of_equivalents_is_true() {
        Equivalent::known().unwrap();
    }
}
