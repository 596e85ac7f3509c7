//! `bn compile`, and what other commands make of a GPU that is not there. Ignored where Mesa's driver for AMD is not installed; where
//! `BATCHNORM_REQUIRE_ADAPTERS` names lavapipe, which is of the same package, it has to be.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn bn(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bn"));
    command.args(arguments).env_remove("COLUMNS");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether Mesa's driver for AMD is there.
fn has_radv() -> bool {
    let output = bn(&["compile", "--list"]).output().unwrap();
    let is_there = text(&output.stdout).lines().any(|line| line.contains("navi21") && line.contains("yes"));
    let required = std::env::var("BATCHNORM_REQUIRE_ADAPTERS").unwrap_or_default();
    assert!(is_there || !required.contains("lavapipe"), "RADV is not installed; scripts/setup installs it");
    if !is_there {
        eprintln!("skipped: RADV is not installed");
    }
    is_there
}

fn json(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_kernel_is_compiled_for_two_gpus() {
    if !has_radv() {
        return;
    }
    let arguments = ["compile", "--family", "navi21,vega20", "--filter", "moments.planes4.tree 256", "--json"];
    let records = json(&bn(&arguments).output().unwrap());
    let records = records.as_array().unwrap();
    let compilers: Vec<&str> = records.iter().map(|record| record["compiler"].as_str().unwrap()).collect();
    assert_eq!(compilers, ["radv-navi21", "radv-vega20"]);
    for record in records {
        let kernel = &record["kernels"][0];
        assert_eq!(kernel["name"], "moments.planes4.tree");
        // Far apart from what a wrong reading would give: registers of an invocation, and four elements in a load.
        let of = |key: &str| kernel[key].as_f64().unwrap();
        assert!((16.0..256.0).contains(&of("vector_registers")), "{kernel}");
        assert!((4.0..40.0).contains(&of("per_element")), "{kernel}");
        assert_eq!((of("spilled"), of("load_bytes"), of("promised_bytes")), (0.0, 16.0, 16.0));
        assert!(of("waves") >= 1.0 && of("instructions") > 300.0 && of("code_bytes") > of("instructions"), "{kernel}");
    }
}

#[test]
fn what_is_wrong_is_told() {
    let refused = |arguments: &[&str]| {
        let output = bn(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
        text(&output.stderr)
    };
    assert!(refused(&["compile", "--family", "navi"]).contains("expected one of navi21"));
    assert!(refused(&["compile", "--filter", "no such kernel"]).contains("no kernels whose name contains"));
    // A machine without the driver.
    let mut without = bn(&["compile", "--family", "ampere", "--filter", "collect.scalar"]);
    let output = without.env("XDG_DATA_DIRS", "/nonexistent").output().unwrap();
    let said = text(&output.stderr);
    if !Path::new("/usr/share/vulkan/icd.d/nouveau_icd.x86_64.json").exists() {
        assert!(said.contains("nvk is not there") && said.contains("scripts/compile-nvidia"), "{said}");
    }
}

#[test]
fn a_gpu_that_the_driver_does_not_know_is_named() {
    // What is newer than Debian 12 is known to others.
    let Some(output) =
        has_radv().then(|| bn(&["compile", "--family", "gfx1201", "--filter", "collect.scalar"]).output().unwrap())
    else {
        return;
    };
    if output.status.code() != Some(0) {
        let said = text(&output.stderr);
        assert!(said.contains("radv offers no gfx1201") && said.contains("bn compile --list"), "{said}");
    }
}

/// Mesa lists one where `RADV_FORCE_FAMILY` is set; no device of it can be opened.
#[test]
fn no_command_takes_a_gpu_that_is_not_there() {
    if !has_radv() {
        return;
    }
    let with_null = |arguments: &[&str]| {
        bn(arguments).env("RADV_FORCE_FAMILY", "navi21").env_remove("VK_DRIVER_FILES").output().unwrap()
    };
    let info = json(&with_null(&["info", "--json"]));
    let names: Vec<&str> = info.as_array().unwrap().iter().map(|adapter| adapter["name"].as_str().unwrap()).collect();
    assert!(!names.iter().any(|name| name.to_lowercase().contains("null")), "{names:?}");
    assert!(!names.is_empty(), "lavapipe is of the same package");
    let check = with_null(&["check", "--all-adapters", "--filter", "inference 2x3", "--jobs", "1"]);
    let said = text(&check.stdout) + &text(&check.stderr);
    assert!(!said.to_lowercase().contains("null hardware") && !said.contains("navi21"), "{said}");
    // By name neither, though a forced name is.
    let named = with_null(&["plan", "32x64x28x28", "--adapter", "navi21"]);
    assert_eq!(named.status.code(), Some(2), "{}", text(&named.stdout));
    assert!(text(&named.stderr).contains("lavapipe"), "{}", text(&named.stderr));
}
