//! `bn shader` and `bn plan`: what they print, and what they say of what they cannot.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn bn(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bn")).args(arguments).env_remove("COLUMNS").output().unwrap()
}

/// Standard output of a run that ends well.
#[track_caller]
fn said(arguments: &[&str]) -> String {
    let output = bn(arguments);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Standard error of a run that is refused.
#[track_caller]
fn refused(arguments: &[&str]) -> String {
    let output = bn(arguments);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

/// What `--json` says of a plan, in alphabetical order.
const PLAN_KEYS: [&str; 19] = [
    "columns",
    "fold",
    "geometry",
    "held",
    "inner",
    "interleaved",
    "lanes",
    "part_values",
    "parts",
    "reduction",
    "reverse",
    "scratch_planes",
    "segment",
    "splits",
    "storage",
    "strategy",
    "tile",
    "values",
    "workgroup_size",
];

#[track_caller]
fn assert_says(text: &str, words: &[&str]) {
    words.iter().for_each(|word| assert!(text.contains(word), "{word:?} is not in:\n{text}"));
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("bn-test-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn places_are_those_of_the_files() {
    let text = said(&["shader", "normalize"]);
    assert!(text.starts_with("// normalize.planes4.tree\n"), "{text}");
    naga::front::wgsl::parse_str(&text).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let lines: Vec<&str> = text.lines().collect();
    let mut files = std::collections::BTreeSet::new();
    for (comment, line) in lines.iter().zip(&lines[1..]) {
        let Some(place) = comment.trim_start().strip_prefix("// ").filter(|place| place.starts_with("shaders/")) else {
            continue;
        };
        let (path, number) = place.rsplit_once(':').unwrap();
        let file = std::fs::read_to_string(root.join(path)).unwrap();
        let there = file.lines().nth(number.parse::<usize>().unwrap() - 1).unwrap();
        // A condition that holds is not in the shader.
        assert!(there.ends_with(line.trim_start()), "{place}: {there:?} is not {line:?}");
        files.insert(path.to_owned());
    }
    assert!(files.len() > 5 && files.contains("shaders/normalize.wgsl"), "{files:?}");
}

#[test]
fn names_are_listed_and_found() {
    let all = said(&["shader", "--list"]);
    let names: Vec<&str> = all.lines().collect();
    assert!(names.len() > 100 && names.iter().all(|name| !name.contains(' ')));
    let some = said(&["shader", "--list", "infer."]);
    assert!(some.lines().eq(names.iter().copied().filter(|name| name.starts_with("infer."))));
    assert_says(&refused(&["shader", "--list", "inver"]), &["\"inver\"", "infer"]);

    assert_says(
        &refused(&["shader", "normalise"]),
        &["\"normalise\"", "the nearest are normalize", "bn shader --list"],
    );
    assert_says(&refused(&["shader", "infer.scalar.f8"]), &["infer.scalar.f16"]);
    let several = refused(&["shader", "forward"]);
    assert_says(
        &several,
        &["one kernel, got \"forward\", which 2 begin with", "\n  forward_resident\n", "\n  forward_whole\n"],
    );
    let several = refused(&["shader", "infer.sc"]);
    assert_says(
        &several,
        &[
            "one variant, got \"infer.sc\", which 20 begin with",
            "\n  infer.scalar\n",
            "\n  infer.scalar.f16_words.relu",
        ],
    );
    assert_says(
        &refused(&["shader", "backward_resident."]),
        &["more, which bn shader --list backward_resident. shows"],
    );
    assert_says(&refused(&["shader"]), &["NAME"]);
}

#[test]
fn bindings_are_as_asked_for() {
    let declared = |arguments: &[&str]| -> Vec<String> {
        let text = said(&[&["shader"], arguments].concat());
        naga::front::wgsl::parse_str(&text).unwrap();
        text.lines()
            .filter(|line| line.starts_with("@group(0)") && line.contains("var<storage"))
            .map(str::to_owned)
            .collect()
    };
    let has = |lines: &[String], name: &str| lines.iter().any(|line| line.contains(&format!("> {name}: ")));
    let all = declared(&["infer.scalar"]);
    assert!(["x", "gamma", "beta", "y"].iter().all(|name| has(&all, name)), "{all:?}");
    let fewer = declared(&["infer.scalar", "--without", "gamma,beta"]);
    assert!(!has(&fewer, "gamma") && !has(&fewer, "beta") && fewer.len() == all.len() - 2, "{fewer:?}");
    let over = declared(&["infer.scalar", "--in-place"]);
    assert!(!has(&over, "x") && has(&over, "y"), "{over:?}");
    let pooled = declared(&["infer.scalar", "--pooled"]);
    assert!(pooled.len() == all.len() && pooled.iter().all(|line| line.contains("read_write")), "{pooled:?}");
    let dx = declared(&["backward_whole.scalar.tree", "--in-place"]);
    assert!(!has(&dx, "dy") && has(&dx, "dx") && has(&dx, "dresidual"), "{dx:?}");

    let required = refused(&["shader", "infer.scalar", "--without", "x"]);
    assert_says(&required, &["infer always has x", "residual, gamma, beta"]);
    assert_says(&refused(&["shader", "infer.scalar", "--without", "dx"]), &["infer has no binding dx"]);
    assert_says(&refused(&["shader", "moments", "--without", "x"]), &["none of its bindings may be left out"]);
    assert_says(&refused(&["shader", "moments", "--in-place"]), &["--in-place", "moments"]);
}

#[test]
fn sizes_and_languages_are_as_asked_for() {
    assert_says(&said(&["shader", "moments", "--workgroup-size", "64"]), &["const WORKGROUP: u32 = 64u;"]);
    for size in ["0", "65", "2048", "4294967296", "many"] {
        assert_says(&refused(&["shader", "moments", "--workgroup-size", size]), &["a power of two from 1 to 1024"]);
    }
    let as_language =
        |name: &str, language: &str| said(&["shader", name, "--workgroup-size", "64", "--language", language]);
    for name in ["moments.scalar.tree", "moments.scalar.subgroup", "infer.scalar.f16.relu"] {
        assert_says(&as_language(name, "spirv"), &["OpEntryPoint GLCompute", "LocalSize 64 1 1", "\"params\""]);
        assert_says(&as_language(name, "msl"), &["kernel void main_", "[[buffer(0)]]", "[[buffer(1)]]"]);
        assert_says(&as_language(name, "hlsl"), &["[numthreads(64, 1, 1)]"]);
    }
    assert_says(&refused(&["shader", "moments", "--language", "glsl"]), &["wgsl, spirv, msl, hlsl"]);
}

#[test]
fn shaders_go_to_files_that_are_new() {
    let folder = folder("shader");
    let (binary, text) = (folder.join("moments.spv"), folder.join("moments.wgsl"));
    let to = |path: &Path, more: &[&str]| bn(&[&["shader", "moments", "--out", path.to_str().unwrap()], more].concat());
    assert_eq!(to(&binary, &["--language", "spirv"]).status.code(), Some(0));
    let words = std::fs::read(&binary).unwrap();
    assert_eq!((&words[..4], words.len() % 4), (&0x0723_0203_u32.to_le_bytes()[..], 0));
    assert_eq!(to(&text, &[]).status.code(), Some(0));
    let kept = std::fs::read_to_string(&text).unwrap();
    assert_eq!(kept, said(&["shader", "moments"]));
    let again = to(&text, &["--pooled"]);
    assert_eq!(again.status.code(), Some(2));
    assert_says(&String::from_utf8_lossy(&again.stderr), &["moments.wgsl", "--force"]);
    assert_eq!(std::fs::read_to_string(&text).unwrap(), kept);
    assert_eq!(to(&text, &["--pooled", "--force"]).status.code(), Some(0));
    assert_ne!(std::fs::read_to_string(&text).unwrap(), kept);
    std::fs::remove_dir_all(folder).unwrap();
}

fn records(arguments: &[&str]) -> Vec<Value> {
    let text = said(&[&["plan"], arguments, &["--json"]].concat());
    serde_json::from_str::<Value>(&text).unwrap().as_array().unwrap().clone()
}

/// Names of what a dispatch binds.
fn names(dispatch: &Value) -> Vec<&str> {
    dispatch["bindings"].as_array().unwrap().iter().map(|binding| binding["name"].as_str().unwrap()).collect()
}

#[test]
fn plans_say_what_would_be_dispatched() {
    let text = said(&["plan", "32x64x14x14", "8x5x5x3:channels_last:f16"]);
    assert_says(
        &text,
        &[
            "For a GPU with WebGPU's default limits, by an estimate.",
            "\nforward_training 32x64x14x14 channels_first f32\n",
            "\nstatistics 8x5x5x3 channels_last f16\n",
            "Strategy resident: ",
            "Geometry planes4: ",
            "1605632",
        ],
    );
    assert_eq!(text.matches("bindings: number, name and bytes").count(), 1, "{text}");
    let records = records(&["32x64x14x14", "8x5x5x3:channels_last:f16"]);
    assert_eq!(records.len(), 10);
    for record in &records {
        let (plan, dispatches) = (&record["plan"], record["dispatches"].as_array().unwrap());
        let number = |key: &str| plan[key].as_u64().unwrap();
        assert_eq!(number("lanes") * number("tile"), number("workgroup_size"), "{record}");
        assert!(record["refused"].is_null() && !dispatches.is_empty());
        let keys: Vec<&str> = plan.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, PLAN_KEYS, "{record}");
        for dispatch in dispatches {
            // The text for people has the same.
            assert!(text.contains(dispatch["kernel"].as_str().unwrap()), "{dispatch}");
            let grid: Vec<u64> = dispatch["grid"].as_array().unwrap().iter().map(|it| it.as_u64().unwrap()).collect();
            assert!(grid[0] * grid[1] >= dispatch["workgroups"].as_u64().unwrap());
            assert_eq!(dispatch["params"]["groups"], dispatch["workgroups"]);
            assert_eq!(dispatch["params"].as_object().unwrap().len(), size_of::<batchnorm_wgpu::plan::Params>() / 4);
        }
    }
    let forward = &records[0]["dispatches"][0];
    assert_eq!(names(forward), ["x", "gamma", "beta", "saved", "running", "y"]);
    assert_eq!(forward["bindings"][0]["bytes"], 32 * 64 * 14 * 14 * 4);
    assert_eq!((&forward["params"]["count"], &forward["params"]["eps"]), (&6272.into(), &f64::from(1e-5f32).into()));
}

#[test]
fn plans_follow_the_layer_and_the_device() {
    let forced = ["8x16x7x7", "--operation", "forward_training", "--strategy", "split", "--splits", "2"];
    let record = &records(&forced)[0];
    assert_eq!((&record["plan"]["strategy"], &record["plan"]["splits"]), (&"split".into(), &2.into()));
    let kernels: Vec<&Value> = record["dispatches"].as_array().unwrap().iter().map(|it| &it["kernel"]).collect();
    assert_eq!(kernels, ["moments.scalar.tree", "normalize.scalar.tree"]);
    assert_says(
        &said(&[&["plan"], &forced[..]].concat()),
        &["Splits 2: ", "2 dispatches", "3 elements are read or written"],
    );

    let fused =
        &records(&["8x16x8x8", "--operation", "inference", "--activation", "relu", "--residual", "--without", "gamma"])
            [0];
    assert_eq!(fused["dispatches"][0]["kernel"], "infer.planes4.relu");
    assert!(names(&fused["dispatches"][0]).contains(&"residual") && !names(&fused["dispatches"][0]).contains(&"gamma"));
    let over = &records(&["8x16x8x8", "--operation", "inference", "--in-place"])[0];
    assert!(!names(&over["dispatches"][0]).contains(&"x"), "{over}");
    let from_y = &records(&["8x16x8x8", "--operation", "backward_training", "--in-place"])[0];
    assert!(from_y["dispatches"][0]["kernel"].as_str().unwrap().ends_with(".from_y"), "{from_y}");

    let with = &records(&["2x3x512x512", "--operation", "forward_training", "--subgroups"])[0];
    assert_eq!(with["plan"]["reduction"], "subgroup");
    let software = &records(&["8x16x7x7", "--operation", "inference", "--device", "cpu"])[0];
    assert_eq!(software["plan"]["workgroup_size"], 8);
    // A binding of WebGPU's default limits does not hold the tensor.
    let parts = &records(&["64x64x112x112", "--operation", "inference"])[0];
    let begins: Vec<u64> = parts["dispatches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|dispatch| dispatch["bindings"][0]["begin"].as_u64().unwrap())
        .collect();
    assert!(begins.len() == 2 && begins[0] == 0 && begins[1] > 0, "{begins:?}");
    assert_says(&said(&["plan", "64x64x112x112", "--operation", "inference"]), &["in 2 parts", " at "]);
}

#[test]
fn plans_of_views_bind_the_wider_tensor() {
    let shape = "8x16x6x6:x=4/48";
    let record = &records(&[shape, "--operation", "forward_training"])[0];
    assert_eq!(record["views"], serde_json::json!({ "x": { "first": 4, "of": 48 } }));
    let bytes = |name: &str| {
        let bindings =
            record["dispatches"].as_array().unwrap().iter().flat_map(|it| it["bindings"].as_array().unwrap());
        let bound = bindings.into_iter().find(|binding| binding["name"] == name).unwrap();
        bound["begin"].as_u64().unwrap() + bound["bytes"].as_u64().unwrap()
    };
    assert!(bytes("x") > bytes("y") && bytes("x") <= 8 * 48 * 36 * 4 && bytes("y") == 8 * 16 * 36 * 4, "{record}");
    assert_says(
        &said(&["plan", shape, "--operation", "inference"]),
        &["\ninference 8x16x6x6 channels_first x=4/48 f32\n", "infer.planes4"],
    );
    assert_says(&refused(&["plan", "8x16x6x6:x=40/48"]), &["within those of the wider tensor", "from 40 on of 48"]);
    assert_says(&refused(&["plan", "8x16x6x6:z=4/48"]), &["x, y or residual", "\"z\""]);
    let in_place = ["plan", shape, "--in-place", "--operation", "forward_training"];
    assert_says(&refused(&in_place), &["8x16x6x6 channels_first x=4/48"]);
}

#[test]
fn plans_of_micro_batches_reduce_all_before_any_is_finished() {
    let arguments = ["20x16x6x6", "--micro-batches", "8", "--operation", "forward_training"];
    let record = &records(&arguments)[0];
    let dispatches = record["dispatches"].as_array().unwrap();
    let of = |stage: &str| -> Vec<u64> {
        let dispatches = dispatches.iter().filter(|dispatch| dispatch["stage"] == stage);
        dispatches.map(|dispatch| dispatch["micro_batch"].as_u64().unwrap()).collect()
    };
    assert_eq!((record["micro_batches"].as_u64(), of("reduce"), of("apply")), (Some(8), vec![0, 1, 2], vec![0, 1, 2]));
    let stages: Vec<&str> = dispatches.iter().map(|dispatch| dispatch["stage"].as_str().unwrap()).collect();
    let first_apply = stages.iter().position(|stage| *stage == "apply").unwrap();
    assert!(stages[..first_apply].iter().all(|stage| *stage != "apply") && !stages[first_apply..].contains(&"reduce"));
    // The last has four samples.
    let last = dispatches.iter().rfind(|dispatch| dispatch["stage"] == "reduce").unwrap();
    assert_eq!(last["bindings"][0]["bytes"], 4 * 16 * 36 * 4);
    assert_says(
        &said(&[&["plan"], &arguments[..]].concat()),
        &["20x16x6x6 channels_first by 8 f32", "in 3 micro-batches of up to 8 samples", "micro-batch: whose"],
    );
    assert_eq!(records(&["20x16x6x6", "--micro-batches", "8"]).len(), 2, "forward and backward");
    assert_says(&refused(&["plan", "20x16x6x6", "--micro-batches", "20"]), &["between 1 and 19", "got 20"]);
    let inference = ["plan", "20x16x6x6", "--micro-batches", "8", "--operation", "inference"];
    assert_says(&refused(&inference), &["--micro-batches is for forward_training and backward_training"]);
}

#[test]
fn an_adapter_is_planned_for_where_it_is_asked_for() {
    let adapters: Value = serde_json::from_str(&said(&["info", "--json"])).unwrap();
    let key = adapters[0]["key"].as_str().unwrap();
    let record = &records(&["8x16x7x7", "--operation", "inference", "--adapter", key])[0];
    assert!(record["device"].as_str().unwrap().starts_with(key), "{record}");
    assert_says(&refused(&["plan", "8x3", "--adapter", "none of that name"]), &["none of that name", key]);
    refused(&["plan", "8x3", "--adapter", key, "--device", "gpu"]);
}

#[test]
fn what_cannot_be_planned_is_said() {
    let some = said(&["plan", "8x16x7x7", "--strategy", "resident"]);
    assert_says(&some, &["\ninference 8x16x7x7 channels_first f32\nrefused: ", "Strategy resident: "]);
    let none = refused(&["plan", "8x16x7x7", "--strategy", "resident", "--operation", "inference"]);
    assert_says(&none, &["inference", "resident"]);
    assert_says(&refused(&["plan", "8x0"]), &["8x0", "at least one channel"]);
    assert_says(&refused(&["plan", "8x3:f64"]), &["f32, f16, bf16 or a view", "\"f64\""]);
    assert_says(&refused(&["plan", "1x3", "--operation", "forward_training"]), &["more than one value per channel"]);
    assert_says(&refused(&["plan", "8x3", "--without", "x"]), &["gamma, beta"]);
    assert_says(&refused(&["plan", "8x3", "--storage", "f16_words"]), &["f16_words", "SHAPE:f16"]);
    for (flags, said) in [
        (&["--splits", "2"][..], "--splits is for the strategy split: give it with --strategy split"),
        (&["--strategy", "whole", "--splits", "1"], "--splits is for the strategy split"),
        (&["--strategy", "resident", "--reverse", "false"], "--reverse is for the strategy split"),
        (
            &["--strategy", "split", "--held", "8"],
            "--held is for the strategy resident: give it with --strategy resident",
        ),
    ] {
        assert_says(&refused(&[&["plan", "8x3"], flags].concat()), &[said]);
        assert_says(&refused(&[&["bench", "--shapes", "8x3"], flags].concat()), &[said]);
    }
    assert_says(&refused(&["plan", "8x3", "--in-place", "--activation", "relu"]), &["--in-place", "--activation"]);
    let gradients = ["plan", "8x3", "--operation", "backward_training", "--without", "dx,dgamma,dbeta"];
    assert_says(&refused(&gradients), &["at least one of them"]);
    assert_says(&refused(&["plan", "4x128x1024x1024"]), &["one sample", "128.0 MiB"]);
    assert_says(&refused(&["plan"]), &["<SHAPE>"]);
}

#[test]
fn tables_of_plans_fit_the_terminal() {
    for columns in ["80", "120"] {
        let output = Command::new(env!("CARGO_BIN_EXE_bn"))
            .args(["plan", "32x64x28x28", "--residual", "--activation", "relu"])
            .env("COLUMNS", columns)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(text.contains('│') && longest <= columns.parse().unwrap(), "{longest}: {text}");
    }
}
