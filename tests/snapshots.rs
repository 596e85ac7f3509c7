//! The text of some shaders against what is kept of it in `tests/snapshots/`, so that a change of what kernels share is seen in
//! the shaders that it changes. `BATCHNORM_UPDATE_SNAPSHOTS=1 cargo test --test snapshots` writes them anew; the difference is then
//! git's to show, and yours to judge.

use batchnorm_wgpu::kernels::Variant;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Names of variants with every binding present and apart, and of those that are not.
const NAMES: [&str; 14] = [
    "plain_forward.scalar",
    "plain_backward.scalar",
    "moments.planes4.tree",
    "normalize.planes4.tree",
    "forward_whole.planes4.subgroup",
    "forward_resident.planes4.tree.4",
    "gradient_sums.planes4.tree",
    "gradient_input.rows4.tree",
    "gradient_input.planes4.tree.from_y",
    "collect.scalar.tree",
    "infer.scalar.f16_words.relu",
    "infer.planes4.bf16_words",
    "frozen_input.scalar.silu",
    BOUND_OTHERWISE,
];

/// y over x, every binding writable, and nothing optional.
const BOUND_OTHERWISE: &str = "infer.scalar.in_place.pooled";

fn variant(name: &str) -> Variant {
    let plain = name.strip_suffix(".in_place.pooled").unwrap_or(name);
    let variant = Variant::apart().find(|variant| variant.name() == plain);
    let variant = variant.unwrap_or_else(|| panic!("{plain} is no variant: bn shader --list has them all"));
    if name == plain {
        return variant;
    }
    let optional = variant.kernel.bindings.iter().enumerate().filter(|(_, binding)| binding.optional);
    let absent = optional.fold(variant.absent, |bits, (i, _)| bits | 1 << i);
    Variant { absent, pooled: true, ..variant.through("y", "x") }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots")
}

/// Where two texts part: the number of the line, and the line in each.
fn first_difference(kept: &str, now: &str) -> Option<String> {
    let number = 1 + kept.lines().zip(now.lines()).take_while(|(kept, now)| kept == now).count();
    let line = |text: &str| text.lines().nth(number - 1).unwrap_or("(its end)").to_owned();
    // A checkout may have other ends of lines.
    (!kept.lines().eq(now.lines())).then(|| format!("line {number}\n    kept: {}\n    now:  {}", line(kept), line(now)))
}

#[test]
fn shaders_are_as_they_were() {
    let update = std::env::var_os("BATCHNORM_UPDATE_SNAPSHOTS").is_some_and(|value| value == "1");
    let mut changed = Vec::new();
    for name in NAMES {
        let (path, now) = (folder().join(format!("{name}.wgsl")), variant(name).wgsl());
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        match first_difference(&kept, &now) {
            Some(_) if update => std::fs::write(&path, now).unwrap(),
            Some(difference) => changed.push(format!("  tests/snapshots/{name}.wgsl, {difference}")),
            None => {}
        }
    }
    assert!(
        changed.is_empty(),
        "shaders have changed:\n{}\nif they should have, BATCHNORM_UPDATE_SNAPSHOTS=1 cargo test --test snapshots writes them \
         anew; read the difference before you commit it",
        changed.join("\n")
    );
    let files = std::fs::read_dir(folder()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let names: BTreeSet<String> = NAMES.iter().map(|name| format!("{name}.wgsl")).collect();
    assert_eq!(files.collect::<BTreeSet<_>>(), names, "tests/snapshots/ has a file for each name and no other");
}
