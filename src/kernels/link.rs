//! From files to the text of a shader.
//!
//! The files below `shaders/` are WESL, WGSL with imports and conditions, of which they use little enough for a small linker:
//! - `import package::common::FILE::{NAME, ..};` at the head of a file says where names come from. No two declarations that
//!   hold at the same time have the same name, so names stay as they are; a test holds the imports against what is used.
//! - `@if(CONDITION)` before a declaration or a statement, at the beginning of a line. A condition is made of features, `!`,
//!   `&&` and `||`, without brackets; the features are those of a variant ([`super::Variant::has`]).
//!
//! Three things are not WESL:
//! - the names of `package::table`, which is no file but the declarations that the table of kernels makes: of the bindings, and
//!   of the numbers of planes;
//! - `kernel`, which `entry.wgsl` calls in the file of whichever kernel;
//! - the lines between `// unroll k {` and `// }`: they stand several times, and names that end in `_k` end in the number of the
//!   repetition instead.
//!
//! A shader has the declarations that its entry point needs, one after the other, comments and all, and every line of it knows
//! where it comes from.

use super::KERNELS;
use super::binding::constants_of_planes;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

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

/// What stands for a path where the table of kernels made a declaration.
const TABLE: &str = "";

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
    /// Appends a line.
    pub(super) fn push(&mut self, line: &str, place: Option<Place>) {
        self.text += line;
        self.text.push('\n');
        self.places.push(place);
    }

    /// Appends what `main`, and what stands there already, need of `own` and of the files that kernels share. `has` says which
    /// features hold; `unrolled` is how often repeated lines stand; `text_of` gives the texts of the files.
    pub fn link(
        &mut self,
        own: &Source,
        has: &dyn Fn(&str) -> bool,
        unrolled: u32,
        text_of: &dyn Fn(&Source) -> Cow<'static, str>,
    ) {
        let files = std::iter::once(own).chain(&COMMON).map(|source| (source.path, text_of(source)));
        let texts: Vec<_> = files.chain([(TABLE, constants_of_planes().into())]).collect();
        let of_files: Vec<Cow<'_, [Declaration<'_>]>> = texts
            .iter()
            .map(|(path, text)| known(path, text).unwrap_or_else(|| declarations(path, text).into()))
            .collect();
        let declarations: Vec<&Declaration<'_>> = of_files
            .iter()
            .flat_map(|declarations| declarations.iter())
            .filter(|declaration| declaration.condition.is_none_or(|condition| holds(condition, has)))
            .collect();
        let stands_already = self.text.lines().flat_map(|line| words(code_of(line)));
        let roots = stands_already.chain(["main"]);
        let needed = needed(&declarations, roots, |lines| as_it_stands(lines, has, unrolled));
        let mut after_constant = false;
        for (i, lines) in needed {
            let is_constant = lines.len() == 1;
            if !(is_constant && after_constant) {
                self.push("", None);
            }
            after_constant = is_constant;
            for (line, text) in &lines {
                let path = declarations[i].path;
                self.push(text, (path != TABLE).then_some(Place { path, line: *line }));
            }
        }
    }
}

/// Lines of a file with their numbers, from 1.
type Lines<'a> = Vec<(usize, Cow<'a, str>)>;

/// A declaration of a file, with the comment above it.
#[derive(Clone)]
struct Declaration<'a> {
    path: &'static str,
    name: &'a str,
    condition: Option<&'a str>,
    lines: Lines<'a>,
}

/// The declarations of the files that come with the crate. Thousands of shaders are made of the same ones.
static KNOWN: LazyLock<HashMap<&str, (&str, Vec<Declaration<'static>>)>> = LazyLock::new(|| {
    let sources = COMMON.iter().chain(KERNELS.map(|kernel| &kernel.source));
    sources.map(|source| (source.path, (source.text, declarations(source.path, source.text)))).collect()
});

/// The declarations of a file whose text nobody has changed.
fn known<'a>(path: &str, text: &str) -> Option<Cow<'a, [Declaration<'a>]>> {
    let (own, declarations) = KNOWN.get(path)?;
    std::ptr::eq(*own, text).then_some(Cow::Borrowed(declarations))
}

/// The declarations of a file, but for its imports.
fn declarations<'a>(path: &'static str, text: &'a str) -> Vec<Declaration<'a>> {
    let mut found = Vec::new();
    let mut pending: Lines<'a> = Vec::new();
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
fn as_it_stands<'a>(lines: &Lines<'a>, has: &dyn Fn(&str) -> bool, unrolled: u32) -> Lines<'a> {
    let mut out = Vec::new();
    let mut repeated: Option<Lines<'a>> = None;
    let mut skipped = None;
    for (number, text) in lines.iter().cloned() {
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

/// Which declarations the roots need, and their lines as they stand.
fn needed<'a, 'b>(
    declarations: &[&Declaration<'a>],
    roots: impl Iterator<Item = &'b str>,
    as_it_stands: impl Fn(&Lines<'a>) -> Lines<'a>,
) -> BTreeMap<usize, Lines<'a>> {
    let mut by_name: HashMap<&str, usize> = HashMap::new();
    // A text may bring a `main` of its own, as that of a test of the conversions does. It wins over that of `entry.wgsl`.
    declarations.iter().enumerate().for_each(|(i, declaration)| {
        by_name.entry(declaration.name).or_insert(i);
    });
    let mut open: Vec<usize> = roots.filter_map(|name| by_name.get(name).copied()).collect();
    let mut needed = BTreeMap::new();
    while let Some(i) = open.pop() {
        if needed.contains_key(&i) {
            continue;
        }
        let lines = as_it_stands(&declarations[i].lines);
        open.extend(lines.iter().flat_map(|(_, line)| words(code_of(line))).filter_map(|name| by_name.get(name)));
        needed.insert(i, lines);
    }
    needed
}

/// What stands after the condition at the beginning of a line, and the condition.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Variant;
    use std::collections::HashSet;

    const OWN: Source = Source {
        path: "own.wgsl",
        text: "\
// What the file is about.
import package::common::work::{Work};

// Says so.
@if(loud && !mute)
fn say() -> u32 {
    return LOUD;
}

@if(!loud || mute) fn say() -> u32 { return 0u; }
const LOUD: u32 = 11u; // Up to here.
const UNUSED: u32 = 1u;

fn main() {
    @if(loud) let volume = say();
    @if(!loud) let volume = min(
        say(),
        2u);
    // unroll k {
    let x_k = volume; // x_key stays
    // }
    @if(mute)
    return;
}
",
    };

    fn linked(features: &[&str], unrolled: u32) -> Shader {
        let mut shader = Shader::default();
        shader.link(&OWN, &|feature| features.contains(&feature), unrolled, &|source| Cow::Borrowed(source.text));
        shader
    }

    #[test]
    fn conditions_choose_and_lines_repeat() {
        let loud = linked(&["loud"], 2);
        let text = "
// Says so.
fn say() -> u32 {
    return LOUD;
}

const LOUD: u32 = 11u; // Up to here.

fn main() {
    let volume = say();
    let x_0 = volume; // x_key stays
    let x_1 = volume; // x_key stays
}
";
        assert_eq!(loud.text, text);
        let numbers: Vec<_> = loud.places.iter().map(|place| place.map_or(0, |place| place.line)).collect();
        assert_eq!(numbers, [0, 4, 6, 7, 8, 0, 11, 0, 14, 15, 20, 20, 24]);
        let quiet = linked(&["mute"], 0).text;
        assert!(quiet.contains("fn say() -> u32 { return 0u; }") && !quiet.contains("LOUD"), "{quiet}");
        assert!(quiet.contains("let volume = min(\n        say(),\n        2u);\n    return;\n}\n"), "{quiet}");
    }

    #[test]
    fn no_two_declarations_of_a_name_hold() {
        for variant in Variant::apart() {
            let has = |feature: &str| variant.has(feature).unwrap();
            let mut names = HashSet::new();
            for source in std::iter::once(&variant.kernel.source).chain(&COMMON) {
                let declared = declarations(source.path, source.text).into_iter();
                for declaration in declared.filter(|one| one.condition.is_none_or(|condition| holds(condition, &has))) {
                    assert!(names.insert(declaration.name), "{}: {}", variant.name(), declaration.name);
                }
            }
            assert!(names.contains("kernel") && names.contains("main"));
        }
        assert_eq!(KERNELS.len(), 17);
    }
}
