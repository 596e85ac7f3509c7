//! From files to the text of a shader.
//!
//! The files below `shaders/` are WESL, WGSL with imports and conditions, of which they use little enough for a linker of one
//! page:
//! - `import package::common::FILE::{NAME, ..};` at the head of a file says where names come from. No two declarations that
//!   hold at the same time have the same name, so names stay as they are; a test holds the imports against what is used.
//! - `@if(CONDITION)` before a declaration or a statement at the begin of a line. A condition is made of features, `!`, `&&` and
//!   `||`, without brackets; the features are those of a variant ([`super::Variant::has`]).
//!
//! One thing is not WESL: the lines between `// unroll k {` and `// }` stand several times, and names that end in `_k` end in
//! the number of the repetition instead.
//!
//! A shader has the declarations that its entry point needs, one after the other, comments and all, and every line of it knows
//! where it comes from.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// A file of WGSL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// Path below `shaders/`.
    pub path: &'static str,
    /// What it contains.
    pub text: &'static str,
}

macro_rules! source {
    ($path:literal) => {
        $crate::kernels::Source { path: $path, text: include_str!(concat!("../../shaders/", $path)) }
    };
}
pub(crate) use source;

/// What kernels share. Of each, a shader has what it needs.
pub static COMMON: [Source; 12] = [
    source!("common/entry.wgsl"),
    source!("common/work.wgsl"),
    source!("common/walk.wgsl"),
    source!("common/values.wgsl"),
    source!("common/elements.wgsl"),
    source!("common/bindings.wgsl"),
    source!("common/reduce.wgsl"),
    source!("common/statistics.wgsl"),
    source!("common/running.wgsl"),
    source!("common/activation.wgsl"),
    source!("common/normalization.wgsl"),
    source!("common/gradients.wgsl"),
];

/// Where a line of a shader stands: in which file below `shaders/`, and its number there, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The file's path below `shaders/`.
    pub path: &'static str,
    /// Number of the line, from 1.
    pub line: usize,
}

/// The text of a shader.
#[derive(Clone, Debug, Default)]
pub struct Shader {
    /// WGSL.
    pub text: String,
    /// Where each of its lines comes from; `None` for those that no file has.
    pub places: Vec<Option<Place>>,
}

impl Shader {
    /// Appends lines.
    pub(super) fn push(&mut self, text: &str, place: Option<Place>) {
        for line in text.lines() {
            self.text += line;
            self.text.push('\n');
            self.places.push(place);
        }
    }

    /// Appends what `main` needs of `own`, and of the files that kernels share. `has` says which features hold; `unrolled` is how
    /// often repeated lines stand; `text_of` gives the texts of the files.
    pub fn link(
        &mut self,
        own: &Source,
        has: &dyn Fn(&str) -> bool,
        unrolled: u32,
        text_of: &dyn Fn(&Source) -> Cow<'static, str>,
    ) {
        let texts: Vec<_> = std::iter::once(own).chain(&COMMON).map(|source| (source.path, text_of(source))).collect();
        let declarations: Vec<Declaration<'_>> = texts
            .iter()
            .flat_map(|(path, text)| declarations(path, text))
            .filter(|declaration| declaration.condition.is_none_or(|condition| holds(condition, has)))
            .map(|declaration| Declaration { lines: lines(declaration.lines, has, unrolled), ..declaration })
            .collect();
        let needed = needed(&declarations);
        for (i, declaration) in declarations.iter().enumerate().filter(|(i, _)| needed.contains(i)) {
            let is_constant = |i: usize| declarations[i].lines.len() == 1 && needed.contains(&i);
            if i == 0 || !(is_constant(i) && is_constant(i - 1)) {
                self.push("\n", None);
            }
            for (line, text) in &declaration.lines {
                self.push(text, Some(Place { path: declaration.path, line: *line }));
            }
        }
    }
}

/// A declaration of a file, with the comment above it.
struct Declaration<'a> {
    path: &'static str,
    name: &'a str,
    condition: Option<&'a str>,
    /// Its lines and their numbers, from 1.
    lines: Vec<(usize, Cow<'a, str>)>,
}

/// The declarations of a file, but for its imports.
fn declarations<'a>(path: &'static str, text: &'a str) -> Vec<Declaration<'a>> {
    let mut found = Vec::new();
    let mut pending: Vec<(usize, Cow<'a, str>)> = Vec::new();
    let (mut name, mut condition, mut depth) = (None, None, 0);
    for (i, line) in text.lines().enumerate() {
        let (rest, own_condition) = conditional(line);
        let code = code_of(rest);
        if name.is_none() && depth == 0 {
            if line.is_empty() || line.starts_with("import ") {
                pending.clear();
                continue;
            }
            condition = condition.or(own_condition);
        }
        let is_empty = own_condition.is_some() && rest.is_empty();
        let kept = if depth == 0 { rest } else { line };
        if !is_empty || depth > 0 {
            pending.push((i + 1, kept.into()));
        }
        name = name.or_else(|| name_of(code));
        depth += depth_of(code);
        if name.is_some() && depth == 0 && code.trim_end().ends_with([';', '}']) {
            let lines = std::mem::take(&mut pending);
            found.push(Declaration { path, name: name.take().unwrap_or_default(), condition: condition.take(), lines });
        }
    }
    found
}

/// What is declared by a line that begins a declaration.
fn name_of(code: &str) -> Option<&str> {
    let mut words = words(code);
    words.find(|word| ["fn", "struct", "alias", "const", "override", "var"].contains(word))?;
    words.find(|word| !["storage", "uniform", "workgroup", "private", "read", "read_write"].contains(word))
}

/// Lines as they stand in a shader: without statements whose condition does not hold, and repeated.
fn lines<'a>(
    lines: Vec<(usize, Cow<'a, str>)>,
    has: &dyn Fn(&str) -> bool,
    unrolled: u32,
) -> Vec<(usize, Cow<'a, str>)> {
    let mut out = Vec::new();
    let mut repeated: Option<Vec<(usize, Cow<'a, str>)>> = None;
    let mut skipped = None;
    for (number, text) in lines {
        if let Some(depth) = skipped {
            let depth = depth + depth_of(code_of(&text));
            skipped = (depth > 0 || !code_of(&text).trim_end().ends_with([';', '}'])).then_some(depth);
            continue;
        }
        let (rest, condition) = conditional(text.trim_start());
        let text = match condition {
            Some(condition) if !holds(condition, has) => {
                let depth = depth_of(code_of(rest));
                skipped = (depth > 0 || !code_of(rest).trim_end().ends_with([';', '}'])).then_some(depth);
                continue;
            }
            Some(_) if rest.is_empty() => continue,
            Some(_) => {
                let indented = text.len() - text.trim_start().len();
                Cow::Owned(text[..indented].to_owned() + rest)
            }
            None => text,
        };
        match (text.trim(), &mut repeated) {
            ("// unroll k {", _) => repeated = Some(Vec::new()),
            ("// }", Some(_)) => {
                let block = repeated.take().unwrap_or_default();
                for k in 0..unrolled {
                    out.extend(block.iter().map(|(number, text)| (*number, Cow::Owned(numbered(text, k)))));
                }
            }
            (_, Some(block)) => block.push((number, text)),
            (_, None) => out.push((number, text)),
        }
    }
    out
}

/// The line with `k` for the ends of names.
fn numbered(line: &str, k: u32) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("_k") {
        out += &rest[..at];
        rest = &rest[at + 2..];
        match rest.starts_with(in_word) {
            true => out += "_k",
            false => out += &format!("_{k}"),
        }
    }
    out + rest
}

/// Which declarations `main` needs.
fn needed(declarations: &[Declaration<'_>]) -> BTreeSet<usize> {
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, declaration) in declarations.iter().enumerate() {
        by_name.entry(declaration.name).or_default().push(i);
    }
    // The first is the kernel's own, where it has one.
    let mut open: Vec<usize> = by_name.get("main").and_then(|all| all.first()).copied().into_iter().collect();
    let mut needed: BTreeSet<usize> = open.iter().copied().collect();
    while let Some(i) = open.pop() {
        for word in declarations[i].lines.iter().flat_map(|(_, line)| words(code_of(line))) {
            let uses = by_name.get(word).into_iter().flatten().filter(|_| word != "main");
            open.extend(uses.filter(|&&used| needed.insert(used)));
        }
    }
    needed
}

/// What stands after the condition at the begin of a line, and the condition.
pub(super) fn conditional(line: &str) -> (&str, Option<&str>) {
    let split = line.strip_prefix("@if(").and_then(|rest| rest.split_once(')'));
    split.map_or((line, None), |(condition, rest)| (rest.trim_start(), Some(condition)))
}

fn holds(condition: &str, has: &dyn Fn(&str) -> bool) -> bool {
    let feature = |term: &str| match term.trim().strip_prefix('!') {
        Some(feature) => !has(feature),
        None => has(term.trim()),
    };
    condition.split("||").any(|all| all.split("&&").all(feature))
}

/// A line without its comment.
fn code_of(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// How many brackets a line opens more than it closes.
fn depth_of(code: &str) -> i32 {
    let of = |c| match c {
        '{' | '(' => 1,
        '}' | ')' => -1,
        _ => 0,
    };
    code.chars().map(of).sum()
}

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Names, keywords and numbers.
fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c| !in_word(c)).filter(|word| !word.is_empty())
}
