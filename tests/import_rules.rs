//! The import rules of ARCHITECTURE.md and one name for one type, held against the text of the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::{fs, path::Path};

/// Modules that stand apart from the order in ARCHITECTURE.md, and all that they may import.
const APART: [(&str, &[&str]); 2] =
    [("reference", &["error", "shape", "dtype", "config"]), ("checkpoint", &["contents", "error", "running", "host"])];

/// Module by module, what the files of a folder name after one of `prefixes`: the first segments of paths.
fn imports(folder: &str, prefixes: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut paths = vec![root.clone()];
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let module = path.strip_prefix(&root).unwrap().iter().next().unwrap().to_str().unwrap();
            let code = code(&fs::read_to_string(&path).unwrap());
            let names = prefixes.iter().flat_map(|&prefix| code.split(prefix).skip(1).flat_map(heads));
            found.entry(module.trim_end_matches(".rs").into()).or_default().extend(names);
        }
    }
    found
}

/// A source without comments and unit tests, in which `super` is the module itself.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The first segments that a path goes on with: one, or those between its braces.
fn heads(text: &str) -> Vec<String> {
    let head = |text: &str| text.trim().chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect::<String>();
    let Some(list) = text.strip_prefix('{') else { return vec![head(text)] };
    let (mut depth, mut heads, mut item) = (1, Vec::new(), String::new());
    for c in list.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 || (depth == 1 && c == ',') {
            heads.push(head(&std::mem::take(&mut item)));
        } else {
            item.push(c);
        }
        if depth == 0 {
            break;
        }
    }
    heads.into_iter().filter(|head| !head.is_empty() && head != "self").collect()
}

#[test]
fn the_library_imports_one_way() {
    let text = include_str!("../ARCHITECTURE.md").split("```").find(|block| block.contains("<-")).unwrap();
    let text = text.trim_start_matches("text");
    let order: Vec<Vec<&str>> = text.split("<-").map(|group| group.split(',').map(str::trim).collect()).collect();
    let place = |module: &str| order.iter().position(|group| group.contains(&module));
    for (module, imported) in imports("src", &["crate::"]).into_iter().filter(|(module, _)| module != "lib") {
        let apart = APART.iter().find(|(name, _)| *name == module);
        assert!(apart.is_some() || place(&module).is_some(), "src/{module}: has no place in ARCHITECTURE.md");
        for other in imported.iter().filter(|other| **other != module) {
            let judges = module == "host" && *other == "reference";
            let fits = judges
                || apart
                    .map_or(place(other).is_some_and(|it| Some(it) <= place(&module)), |it| it.1.contains(&&**other));
            assert!(fits, "src/{module} imports {other}, against the import rules in ARCHITECTURE.md");
        }
    }
}

/// The names of types that files of a folder declare, and where; those of unit tests aside.
fn types(folder: &str) -> Vec<(String, String)> {
    let declared = |line: &str| {
        let line = line.strip_prefix("pub(crate) ").or(line.strip_prefix("pub(super) ")).unwrap_or(line);
        let line = line.strip_prefix("pub ").unwrap_or(line);
        let name = ["struct ", "enum ", "trait ", "type "].into_iter().find_map(|word| line.strip_prefix(word))?;
        heads(name).pop()
    };
    let mut found = Vec::new();
    let mut paths = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(path) = paths.pop() {
        let of_tests = ["tests", "simulation"].iter().any(|name| path.file_stem().is_some_and(|stem| stem == *name));
        if path.is_dir() && !of_tests {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !of_tests {
            let names = code(&fs::read_to_string(&path).unwrap()).lines().filter_map(declared).collect::<Vec<_>>();
            found.extend(names.into_iter().map(|name| (name, path.display().to_string())));
        }
    }
    found
}

/// The library's own may: `reference` has the same things in float64, `host` in arrays.
#[test]
fn types_of_the_other_crates_have_names_of_their_own() {
    let library: BTreeMap<String, String> = types("src").into_iter().collect();
    assert!(library.contains_key("BatchNorm") && library.contains_key("Description"));
    let mut known = library;
    for (name, path) in ["check/src", "compile/src", "cli/src"].into_iter().flat_map(types) {
        if let Some(other) = known.insert(name.clone(), path.clone()) {
            panic!("{path}: {name} is another type in {other}; give one of them a name that says what it is");
        }
    }
    assert!(known.contains_key("Verdict") && known.contains_key("ExitStatus"));
}

#[test]
fn what_runs_kernels_does_not_know_batch_norm() {
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gpu")).unwrap() {
        let path = entry.unwrap().path();
        let code = code(&fs::read_to_string(&path).unwrap()).to_lowercase();
        assert!(!code.contains("batch_norm") && !code.contains("batchnorm"), "{}: names batch norm", path.display());
    }
}

#[test]
fn rooms_of_the_tool_have_no_circles() {
    for room in ["bench", "train"] {
        let mut left = imports(&format!("cli/src/{room}"), &["super::", &format!("crate::{room}::")]);
        let all: BTreeSet<String> = left.keys().cloned().collect();
        // These import all the others, which is no circle as long as nobody imports them.
        for whole in ["mod", "tests"] {
            left.remove(whole);
        }
        while !left.is_empty() {
            let ready =
                |names: &BTreeSet<String>| names.iter().all(|name| all.contains(name) && !left.contains_key(name));
            let free: Vec<String> =
                left.iter().filter(|(_, names)| ready(names)).map(|(name, _)| name.clone()).collect();
            assert!(!free.is_empty(), "cli/src/{room}: a circle, or something of mod.rs, among {left:#?}");
            free.iter().for_each(|name| drop(left.remove(name)));
        }
    }
}
