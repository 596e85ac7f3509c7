//! Mutants of the shaders: every small change to every line of WGSL, one at a time. The cross-check has to tell each from
//! the shaders as they are, but for those that do the same.

mod line;

use batchnorm_wgpu::kernels::{Part, Variant};
use batchnorm_wgpu::{Edit, Kernels, Options, wgpu};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// One change to one line, wherever the line stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mutant {
    /// The file below `shaders/`; [`ACCESSORS`] for the functions that `src/kernels` writes for the bindings.
    pub file: &'static str,
    /// Number of the line in the file, from 1; of an accessor, among their lines.
    pub number: usize,
    /// The line without its indentation. In an accessor the binding is called `NAME`.
    pub line: String,
    /// What it becomes.
    pub becomes: String,
}

/// Stands for a file in the mutants of generated functions.
pub const ACCESSORS: &str = "accessors";
/// Stands for the binding's name in generated functions.
const NAME: &str = "NAME";

impl Mutant {
    /// All of them, file by file.
    pub fn all() -> Vec<Self> {
        let texts = parts().into_values().flat_map(|part| {
            part.text.lines().enumerate().map(move |(i, line)| (part.path, i + 1, line.trim().to_owned()))
        });
        let accessors: BTreeSet<String> = Variant::all().flat_map(|variant| accessors(&variant)).collect();
        let accessors = accessors.into_iter().enumerate().map(|(i, line)| (ACCESSORS, i + 1, line));
        texts
            .chain(accessors)
            .flat_map(|(file, number, line)| {
                let mutant = |becomes| Self { file, number, line: line.clone(), becomes };
                line::mutations(&line).into_iter().map(mutant).collect::<Vec<_>>()
            })
            .collect()
    }

    /// The kernels with the mutant in them. Loops end after [`FUEL`] rounds, so that none hangs.
    pub fn plant(&self, device: &wgpu::Device) -> Kernels {
        let mutant = self.clone();
        kernels(device, move |variant| mutant.wgsl(variant))
    }

    /// The text of a part with the mutant in it, where it is in that part.
    pub fn text_of(&self, part: &Part) -> Cow<'static, str> {
        match part.path == self.file {
            true => Cow::Owned(with_line(part.text, self.number, &self.becomes)),
            false => Cow::Borrowed(part.text),
        }
    }

    fn wgsl(&self, variant: &Variant) -> String {
        if self.file != ACCESSORS {
            return variant.wgsl_from(|part| self.text_of(part));
        }
        let changed = |line: &str| match accessor(line) {
            Some((name, shape)) if shape == self.line => renamed(&self.becomes, NAME, name),
            _ => line.to_owned(),
        };
        variant.wgsl().lines().map(|line| changed(line) + "\n").collect()
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

/// Every part of every kernel, by path.
fn parts() -> BTreeMap<&'static str, Part> {
    Variant::all().flat_map(|variant| variant.parts()).map(|part| (part.path, part)).collect()
}

/// The shapes of all generated functions of a variant.
fn accessors(variant: &Variant) -> Vec<String> {
    let text = variant.wgsl_from(|_| Cow::Borrowed(""));
    text.lines().filter_map(|line| Some(accessor(line)?.1)).collect()
}

/// Where lines stand: by file, or by shape of a generated function, the [names](Variant::name) of the variants that have it.
pub struct Reach(BTreeMap<String, BTreeSet<String>>);

impl Reach {
    /// Looks through all variants.
    pub fn new() -> Self {
        let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for variant in Variant::all() {
            let files = variant.parts().into_iter().map(|part| part.path.to_owned());
            for place in files.chain(accessors(&variant)) {
                names.entry(place).or_default().insert(variant.name());
            }
        }
        Self(names)
    }

    /// Whether a mutant's line stands in the text of some variant of that name.
    pub fn has(&self, mutant: &Mutant, variant: &str) -> bool {
        let place = if mutant.file == ACCESSORS { mutant.line.as_str() } else { mutant.file };
        self.0.get(place).is_some_and(|names| names.contains(variant))
    }
}

impl Default for Reach {
    fn default() -> Self {
        Self::new()
    }
}

/// The binding that a generated function is for, and the function with [`NAME`] in its place.
fn accessor(line: &str) -> Option<(&str, String)> {
    let prefix = ["fn load_", "fn store_", "fn element_of_"].iter().find(|prefix| line.starts_with(**prefix))?;
    // Functions on a line of their own are generated; those of parts have bodies below.
    line.ends_with('}').then_some(())?;
    let name = line[prefix.len()..].split('(').next()?;
    Some((name, renamed(line, name, NAME)))
}

/// The line with another name for a binding: its variable, and the ends of the names of its functions.
fn renamed(line: &str, from: &str, to: &str) -> String {
    let in_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = String::new();
    let mut rest = line;
    while let Some(at) = rest.find(from) {
        let (before, behind) = (&rest[..at], &rest[at + from.len()..]);
        let begins = ["load_", "store_", "element_of_"].iter().any(|prefix| before.ends_with(prefix))
            || !before.ends_with(|c| in_name(c) || c == '.');
        let whole = begins && !behind.starts_with(in_name);
        out += before;
        out += if whole { to } else { from };
        rest = behind;
    }
    out + rest
}

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
    fn accessors_of_all_bindings_are_alike() {
        let shape = |line: &str| accessor(line).unwrap().1;
        let of_x = shape("fn element_of_x(work: Work) -> Value { return load_x(index_of(work.column, at.x)); }");
        assert_eq!(of_x, "fn element_of_NAME(work: Work) -> Value { return load_NAME(index_of(work.column, at.x)); }");
        assert_eq!(
            shape("fn load_dy(i: u32) -> Value { return Value(dy[i]); }"),
            shape("fn load_x(i: u32) -> Value { return Value(x[i]); }")
        );
        assert_eq!(renamed(&of_x, NAME, "x"), of_x.replace(NAME, "x"));
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
