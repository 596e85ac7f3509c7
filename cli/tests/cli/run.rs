//! `bn run` as scripts call it: files in, files out, messages.

use batchnorm_wgpu_check::data::normal;
use batchnorm_wgpu_check::stored::{Dtype, Stored};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs `bn run` with arguments separated by spaces, in a folder.
fn bn_run(folder: &Path, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bn"))
        .arg("run")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// The JSON of a run that must succeed, and agree with the reference where it is compared.
fn good(folder: &Path, arguments: &str) -> Value {
    let output = bn_run(folder, &format!("{arguments} --json"));
    assert_eq!(code(&output), 0, "{arguments}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a run says that must be refused.
fn refused(folder: &Path, arguments: &str) -> String {
    let output = bn_run(folder, arguments);
    assert_eq!(code(&output), 2, "{arguments}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A folder with the tensors of a layer, one `.npy` file each, and all of them in `all.safetensors`. Those of x's shape are of
/// `dtype`.
fn folder(name: &str, dims: &[usize], channels: usize, dtype: Dtype) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("bn-run-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let of = |dtype, dims: &[usize], seed, positive: bool| {
        let values = normal(dims.iter().product(), seed).into_iter().map(|z| if positive { z.exp() } else { z }.into());
        Stored { dtype, dims: dims.to_vec(), values: values.collect() }.rounded(dtype).unwrap()
    };
    let tensors = [
        ("x", of(dtype, dims, 1, false)),
        ("dy", of(dtype, dims, 2, false)),
        ("residual", of(dtype, dims, 3, false)),
        ("weight", of(Dtype::F32, &[channels], 4, true)),
        ("bias", of(Dtype::F32, &[channels], 5, false)),
        ("running_mean", of(Dtype::F32, &[channels], 6, false)),
        ("running_var", of(Dtype::F32, &[channels], 7, true)),
        ("num_batches_tracked", Stored { dtype: Dtype::I64, dims: Vec::new(), values: vec![7.0] }),
    ];
    for (name, stored) in tensors.iter().filter(|(_, stored)| stored.dtype != Dtype::BF16) {
        std::fs::write(folder.join(format!("{name}.npy")), stored.to_npy().unwrap()).unwrap();
    }
    let all: Vec<(&str, &Stored)> = tensors.iter().map(|(name, stored)| (*name, stored)).collect();
    std::fs::write(folder.join("all.safetensors"), Stored::to_safetensors(&all).unwrap()).unwrap();
    let state: Vec<(String, &Stored)> =
        tensors[3..].iter().map(|(name, stored)| (format!("bn1.{name}"), stored)).collect();
    let state: Vec<(&str, &Stored)> = state.iter().map(|(name, stored)| (name.as_str(), *stored)).collect();
    std::fs::write(folder.join("state.safetensors"), Stored::to_safetensors(&state).unwrap()).unwrap();
    folder
}

fn npy(path: PathBuf) -> Stored {
    Stored::parse_npy(&std::fs::read(path).unwrap()).unwrap()
}

const STATE: &str = "--running-mean running_mean.npy --running-var running_var.npy";
const TRACKED: &str = "--num-batches-tracked num_batches_tracked.npy";
const AFFINE: &str = "--weight weight.npy --bias bias.npy --residual residual.npy";

/// The operations, how to name their inputs as `.npy` files, and their results.
fn operations() -> [(&'static str, String, &'static [&'static str]); 5] {
    [
        (
            "forward_training",
            format!("{AFFINE} {STATE} {TRACKED}"),
            &["y", "batch_mean", "batch_var", "running_mean", "running_var", "num_batches_tracked"],
        ),
        ("inference", format!("{AFFINE} {STATE}"), &["y"]),
        ("backward_training", format!("--dy dy.npy {AFFINE}"), &["dx", "dweight", "dbias", "dresidual"]),
        ("backward_frozen", format!("--dy dy.npy {AFFINE} {STATE}"), &["dx", "dweight", "dbias", "dresidual"]),
        (
            "statistics",
            format!("{STATE} {TRACKED}"),
            &["batch_mean", "batch_var", "running_mean", "running_var", "num_batches_tracked"],
        ),
    ]
}

#[test]
fn every_operation_over_every_file_agrees_with_the_reference() {
    for (dtype, dims, layout) in [
        (Dtype::F32, [5, 3, 7], "channels_first"),
        (Dtype::F16, [5, 7, 3], "channels_last"),
        (Dtype::BF16, [5, 3, 7], "channels_first"),
    ] {
        let folder = folder(&format!("{dtype:?}"), &dims, 3, dtype);
        let layer = format!("--layout {layout} --activation relu --momentum cumulative --biased --eps 1e-3 --compare");
        for (operation, inputs, names) in operations() {
            let from =
                good(&folder, &format!("{operation} --from all.safetensors --out {operation}.safetensors {layer}"));
            assert_eq!(from["passed"], true, "{from}");
            let bytes = std::fs::read(folder.join(format!("{operation}.safetensors"))).unwrap();
            for name in names {
                let stored = Stored::parse_safetensors(&bytes, name).unwrap().unwrap();
                let expected = if ["y", "dx", "dresidual"].contains(name) { dtype } else { Dtype::F32 };
                assert_eq!(stored.dtype, if *name == "num_batches_tracked" { Dtype::I64 } else { expected });
            }
            assert_eq!(from["outputs"].as_array().unwrap().len(), names.len());
            assert_eq!(Stored::names_in_safetensors(&bytes).unwrap().len(), names.len());
            if dtype == Dtype::BF16 {
                continue;
            }
            let named = good(&folder, &format!("{operation} --x x.npy {inputs} --out {operation} {layer}"));
            assert_eq!(named["passed"], true, "{named}");
            assert_eq!(std::fs::read_dir(folder.join(operation)).unwrap().count(), names.len(), "nothing else is left");
            for name in names {
                let stored = Stored::parse_safetensors(&bytes, name).unwrap().unwrap();
                assert_eq!(npy(folder.join(operation).join(format!("{name}.npy"))), stored, "{operation} {name}");
            }
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn every_activation_agrees_with_the_reference() {
    let folder = folder("activations", &[5, 3, 7], 3, Dtype::F16);
    for activation in ["leaky_relu", "leaky_relu --negative-slope -0.5", "relu6", "silu"] {
        for (i, operation) in
            ["forward_training", "inference", "backward_training", "backward_frozen"].into_iter().enumerate()
        {
            let out = format!("{}-{i}", activation.replace([' ', '.'], "_"));
            let call = format!("{operation} --from all.safetensors --out {out} --activation {activation} --compare");
            let report = good(&folder, &call);
            assert_eq!(report["passed"], true, "{report}");
            assert_eq!(report["activation"], activation.split(' ').next().unwrap());
        }
    }
    let idle = refused(&folder, "inference --from all.safetensors --activation silu --negative-slope 0.1 --out idle");
    assert!(idle.contains("--negative-slope is for leaky_relu") && idle.contains("silu"), "{idle}");
    let infinite =
        refused(&folder, "inference --from all.safetensors --activation leaky_relu --negative-slope inf --out inf");
    assert!(infinite.contains("expected negative_slope to be a finite number"), "{infinite}");
}

#[test]
fn results_go_in_again() {
    let folder = folder("again", &[4, 3, 5], 3, Dtype::F32);
    let first = "forward_training --x x.npy --from state.safetensors --prefix bn1. --out state --compare";
    assert_eq!(good(&folder, first)["passed"], true);
    // Weight and bias came from the checkpoint, and what inference takes from what the first call wrote.
    let state = "--running-mean state/running_mean.npy --running-var state/running_var.npy";
    let inference =
        format!("inference --x x.npy {state} --from state.safetensors --prefix bn1. --out y.safetensors --compare");
    let report = good(&folder, &inference);
    assert_eq!(report["passed"], true);
    assert_eq!(report["inputs"].as_array().unwrap().len(), 5, "{report}");
    let tracked = format!("{state} --num-batches-tracked state/num_batches_tracked.npy");
    good(&folder, &format!("statistics --x state/y.npy {tracked} --out state --force --compare"));
    assert_eq!(npy(folder.join("state/num_batches_tracked.npy")).values, [9.0]);
    // With momentum 1 the running mean is that of the batch.
    good(&folder, "forward_training --x x.npy --momentum 1 --out new");
    let read = |name: &str| npy(folder.join(format!("new/{name}.npy"))).values;
    assert_eq!((read("running_mean"), read("num_batches_tracked")), (read("batch_mean"), vec![1.0]));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn float64_is_rounded_only_when_asked() {
    let folder = folder("float64", &[4, 3], 3, Dtype::F64);
    let said = refused(&folder, "statistics --x x.npy");
    assert!(said.contains("got F64") && said.contains("--dtype"), "{said}");
    for dtype in ["f32", "f16", "bf16"] {
        let run = format!("forward_training --x x.npy --weight x.safetensors:w --dtype {dtype} --compare");
        let weight = Stored { dtype: Dtype::F64, dims: vec![3], values: vec![0.1, 0.2, 0.3] };
        std::fs::write(folder.join("x.safetensors"), Stored::to_safetensors(&[("w", &weight)]).unwrap()).unwrap();
        let report = good(&folder, &run);
        assert_eq!((&report["passed"], &report["outputs"][0]["dtype"]), (&true.into(), &dtype.to_uppercase().into()));
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// Writes values to a `.npy` file of f32.
fn write(folder: &Path, name: &str, dims: &[usize], values: Vec<f64>) {
    let stored = Stored { dtype: Dtype::F32, dims: dims.to_vec(), values }.rounded(Dtype::F32).unwrap();
    std::fs::write(folder.join(name), stored.to_npy().unwrap()).unwrap();
}

/// The verdict on an output, and how many elements are not representable.
fn verdict<'a>(report: &'a Value, output: &str) -> (&'a str, u64) {
    let outputs = report["outputs"].as_array().unwrap();
    let held = &outputs.iter().find(|found| found["name"] == output).unwrap()["compared"];
    (held["verdict"].as_str().unwrap(), held["not_representable"].as_u64().unwrap())
}

#[test]
fn what_overflows_on_the_way_does_not_pass() {
    let folder = folder("overflow", &[4, 2, 8, 8], 2, Dtype::F32);
    // A deviation that f32 holds, and whose variance it holds too, but not the sum of squares of so many values.
    for (dims, deviation) in [([4, 2, 8, 8], 3e18), ([4, 2, 128, 128], 1.5e17)] {
        let count: usize = dims.iter().product();
        let plane = dims[2] * dims[3];
        let scaled = |(i, z): (usize, f32)| f64::from(z) * if i / plane % 2 == 1 { deviation } else { 1.0 };
        write(&folder, "x.npy", &dims, normal(count, 1).into_iter().enumerate().map(scaled).collect());
        write(&folder, "dy.npy", &dims, normal(count, 2).into_iter().map(f64::from).collect());
        let per_channel = (count / 2) as u64;
        for (operation, expected) in [
            ("forward_training", &[("y", per_channel), ("batch_var", 1), ("running_mean", 1), ("running_var", 1)][..]),
            ("backward_training --dy dy.npy", &[("dx", per_channel), ("dweight", 1)]),
            ("statistics", &[("batch_var", 1), ("running_var", 1)]),
        ] {
            let output = bn_run(&folder, &format!("{operation} --x x.npy --compare --json"));
            assert_eq!(code(&output), 1, "{operation}: {output:?}");
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(report["passed"], false);
            for &(name, count) in expected {
                assert_eq!(verdict(&report, name), ("not_representable", count), "{operation} {name}");
            }
        }
        let shown = bn_run(&folder, "forward_training --x x.npy --compare");
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(shown.contains(&format!("not representable: {per_channel}")), "{shown}");
        assert!(shown.contains("[0, 1, 0, 0]: got NaN, want "), "{shown}");
        assert!(shown.contains("1 channel (1) stay as they were: the variance of the batch overflows f32"), "{shown}");
    }
    // A fifth of the deviation does not overflow.
    let small: Vec<f64> = npy(folder.join("x.npy")).values.iter().map(|x| x * 0.2).collect();
    write(&folder, "x.npy", &[4, 2, 128, 128], small);
    assert_eq!(good(&folder, "forward_training --x x.npy --compare")["passed"], true);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn nan_and_infinity_of_the_inputs_pass_and_are_counted() {
    let folder = folder("not-finite", &[2, 2, 3], 2, Dtype::F32);
    let mut values = npy(folder.join("x.npy")).values;
    values[1] = f64::NAN;
    write(&folder, "x.npy", &[2, 2, 3], values.clone());
    let output = bn_run(&folder, "forward_training --x x.npy --compare");
    let shown = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(code(&output), 0, "{shown}");
    assert!(shown.contains("pass, 6 NaN as in float64") && !shown.contains("overflow"), "{shown}");
    values[1] = f64::INFINITY;
    write(&folder, "x.npy", &[2, 2, 3], values);
    let output = bn_run(&folder, &format!("inference --x x.npy {STATE} --compare"));
    let shown = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(code(&output), 0, "{shown}");
    assert!(shown.contains("pass, 1 infinite as in float64"), "{shown}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_skipped_channel_is_told_why() {
    let folder = folder("skipped", &[4, 5, 3], 5, Dtype::F32);
    let mut x = npy(folder.join("x.npy")).values;
    // Channel 2 holds an infinity, and channel 4 lies far from what was before.
    (0..4).for_each(|n| (12..15).for_each(|i| x[n * 15 + i] = 2e38));
    x[6] = f64::INFINITY;
    write(&folder, "x.npy", &[4, 5, 3], x);
    write(&folder, "mean.npy", &[5], vec![f64::NAN, 0.0, 0.0, 1.0, -3e38]);
    write(&folder, "var.npy", &[5], vec![1.0, f64::INFINITY, 1.0, 1.0, 1.0]);
    let run = "--x x.npy --running-mean mean.npy --running-var var.npy";
    for operation in ["forward_training", "statistics"] {
        let output = bn_run(&folder, &format!("{operation} {run}"));
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(shown.contains("2 channels (0, 1) stay as they were: they were NaN or infinite before"), "{shown}");
        assert!(shown.contains("Reset them: give finite --running-mean"), "{shown}");
        assert!(shown.contains("1 channel (2) stay as they were: x holds NaN or infinity there"), "{shown}");
        assert!(shown.contains("1 channel (4) stay as they were: they lie so far from those of the batch"), "{shown}");
        let report = good(&folder, &format!("{operation} {run}"));
        assert_eq!(report["skipped_channels"], 4);
        let expected = serde_json::json!({"cause": "running_not_finite", "channels": [0, 1]});
        assert!(report["skipped"].as_array().unwrap().contains(&expected), "{report}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_nan_of_any_bits_is_data() {
    let folder = folder("nan", &[4, 3], 3, Dtype::F32);
    let mut bytes = std::fs::read(folder.join("x.npy")).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&0xffc5_ffc5u32.to_le_bytes());
    std::fs::write(folder.join("x.npy"), bytes).unwrap();
    let report = good(&folder, &format!("inference --x x.npy {STATE} --out out --compare"));
    assert_eq!(report["passed"], true);
    assert!(npy(folder.join("out/y.npy")).values[11].is_nan());
    let report = good(&folder, &format!("statistics --x x.npy {STATE} --compare"));
    assert_eq!((&report["passed"], &report["skipped_channels"]), (&true.into(), &1.into()));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn wrong_inputs_are_named() {
    let folder = folder("wrong", &[4, 3, 5], 3, Dtype::F32);
    let half = Stored { dtype: Dtype::F16, dims: vec![4, 3, 5], values: vec![0.0; 60] };
    std::fs::write(folder.join("half.npy"), half.to_npy().unwrap()).unwrap();
    std::fs::write(folder.join("cut.npy"), &half.to_npy().unwrap()[..140]).unwrap();
    let one = Stored { dims: vec![1, 3], values: vec![0.0; 3], ..half };
    std::fs::write(folder.join("one.npy"), one.to_npy().unwrap()).unwrap();
    for (arguments, expected) in [
        ("forward", "forward_training"),
        ("inference", "inference needs x: give --x FILE"),
        ("inference --x x.npy", "needs running_mean"),
        ("inference --x x.npy --running-mean running_mean.npy", "needs running_var"),
        ("forward_training --x x.npy --running-mean running_mean.npy", "needs running_var"),
        ("backward_training --x x.npy", "needs dy"),
        ("backward_training --x x.npy --dy weight.npy", "expected [4, 3, 5], the shape of x, got [3]"),
        ("backward_training --x x.npy --dy half.npy", "expected elements of F32, as x has, got F16"),
        ("inference --x x.npy --dy dy.npy", "--dy: not an input of inference"),
        (
            "forward_training --x x.npy --weight weight.npy --layout channels_last",
            "expected [5], one value per channel",
        ),
        ("forward_training --x one.npy", "more than one value per channel"),
        ("forward_training --x weight.npy", "rank 2"),
        ("forward_training --x num_batches_tracked.npy", "got I64"),
        ("forward_training --x x.npy --num-batches-tracked weight.npy", "expected one whole number"),
        ("forward_training --x cut.npy", "cut.npy: expected a .npy file"),
        ("forward_training --x none.npy", "cannot read none.npy"),
        ("forward_training --x x.txt", "FILE.safetensors:NAME"),
        ("forward_training --x all.safetensors:z", "no tensor \"z\"; it has bias, dy"),
        ("inference --x x.npy --from state.safetensors", "no tensor \"running_mean\", it has bn1.bias"),
        ("forward_training --x x.npy --from state.safetensors", "it has bn1.bias"),
        ("forward_training --x x.npy --prefix bn1.", "--from"),
        ("forward_training --x x.npy --out y.npy", "expected a folder"),
        ("forward_training --x x.npy --dtype bf16 --out y", "write --out y.safetensors"),
        ("forward_training --x x.npy --eps 0", "eps"),
        ("forward_training --x x.npy --momentum 2", "[0, 1]"),
        ("forward_training --x x.npy --momentum often", "a number in [0, 1], or cumulative"),
        ("forward_training --x x.npy --momentum None", "or cumulative, which is PyTorch's None"),
        ("forward_training --x x.npy --momentum 1.5", "give 1 minus it"),
        ("forward_training --x x.npy --eps 0", "in place of 0 take 1.2e-38"),
        ("forward_training --x x.npy --out o.pt", "got the ending .pt"),
        ("forward_training --x network.pt", "save_file"),
        ("forward_training --x x.npy --adapter none-of-that-name", "none-of-that-name"),
    ] {
        let said = refused(&folder, arguments);
        assert!(said.contains(expected), "{arguments}: {said}");
        assert!(!said.contains("RunningPolicy") && !said.contains("o.pt/y"), "{arguments}: {said}");
    }
    assert!(!folder.join("o.pt").exists());
    assert!(!folder.join("y").exists() && !folder.join("y.npy").exists());
    std::fs::remove_dir_all(folder).unwrap();
}

/// Writes a `.safetensors` file of F32 tensors, of one value per channel unless a shape is given.
fn write_model(file: &Path, tensors: &[(&str, &[f64])]) {
    let stored: Vec<_> = tensors
        .iter()
        .map(|(name, values)| (*name, Stored { dtype: Dtype::F32, dims: vec![values.len()], values: values.to_vec() }))
        .collect();
    let all: Vec<(&str, &Stored)> = stored.iter().map(|(name, stored)| (*name, stored)).collect();
    std::fs::write(file, Stored::to_safetensors(&all).unwrap()).unwrap();
}

#[test]
fn nothing_that_exists_is_replaced() {
    let folder = folder("exists", &[4, 3, 5], 3, Dtype::F32);
    let inference = format!("inference --x x.npy {STATE}");
    let network = folder.join("state.safetensors");
    let before = std::fs::read(&network).unwrap();
    let said = refused(&folder, &format!("{inference} --from state.safetensors --prefix bn1. --out state.safetensors"));
    assert!(
        said.contains("state.safetensors exists") && said.contains("--add-to") && said.contains("--force"),
        "{said}"
    );
    std::fs::create_dir(folder.join("out")).unwrap();
    std::fs::write(folder.join("out/y.npy"), "precious").unwrap();
    assert!(refused(&folder, &format!("{inference} --out out")).contains("y.npy exists"));
    // A report replaces an earlier report, and no tensors.
    assert!(refused(&folder, &format!("{inference} --json state.safetensors")).contains("state.safetensors exists"));
    assert_eq!(std::fs::read(&network).unwrap(), before);
    assert_eq!(std::fs::read(folder.join("out/y.npy")).unwrap(), b"precious");
    for _ in 0..2 {
        assert_eq!(code(&bn_run(&folder, &format!("{inference} --json report.json"))), 0);
    }
    good(&folder, &format!("{inference} --out out --force"));
    assert_eq!(npy(folder.join("out/y.npy")).dims, [4, 3, 5]);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn results_are_added_to_a_file() {
    let folder = folder("add", &[4, 3, 5], 3, Dtype::F32);
    let file = folder.join("network.safetensors");
    // A tensor of a type that is not read, and a text.
    let header = r#"{"__metadata__":{"note":"kept"},"embedding":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[0,3]}}"#;
    std::fs::write(&file, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[1, 2, 3]].concat()).unwrap();
    let inference = format!("inference --x x.npy {STATE}");
    good(&folder, &format!("{inference} --out out"));
    good(&folder, &format!("{inference} --add-to network.safetensors"));
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(Stored::names_in_safetensors(&bytes).unwrap(), ["embedding", "y"]);
    assert_eq!(Stored::parse_safetensors(&bytes, "y").unwrap().unwrap(), npy(folder.join("out/y.npy")));
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("\"note\":\"kept\"") && bytes.ends_with(&[1, 2, 3]), "{text}");
    assert!(refused(&folder, &format!("{inference} --add-to network.safetensors")).contains("has a tensor y already"));
    good(&folder, &format!("{inference} --activation relu --add-to network.safetensors --force"));
    let bytes = std::fs::read(&file).unwrap();
    let y = Stored::parse_safetensors(&bytes, "y").unwrap().unwrap();
    assert!(y.values.iter().all(|&y| y >= 0.0) && bytes.ends_with(&[1, 2, 3]));
    assert!(
        refused(&folder, &format!("{inference} --add-to none.safetensors")).contains("cannot read none.safetensors")
    );
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn parameters_of_other_names_are_taken_or_refused() {
    let folder = folder("names", &[4, 3, 5], 3, Dtype::F32);
    let values = |name: &str| npy(folder.join(format!("{name}.npy"))).values;
    let (gamma, beta, mean, var) = (values("weight"), values("bias"), values("running_mean"), values("running_var"));
    let explicit = format!("inference --x x.npy --weight weight.npy --bias bias.npy {STATE} --out expected");
    good(&folder, &explicit);
    let expected = npy(folder.join("expected/y.npy"));
    for (i, (prefix, names)) in [
        ("bn.", ["bn.gamma", "bn.beta", "bn.running_mean", "bn.running_var"]),
        ("batchnorm0_", ["batchnorm0_gamma", "batchnorm0_beta", "batchnorm0_running_mean", "batchnorm0_running_var"]),
        ("bn/", ["bn/gamma", "bn/beta", "bn/moving_mean", "bn/moving_variance"]),
    ]
    .into_iter()
    .enumerate()
    {
        let tensors: Vec<(&str, &[f64])> =
            names.into_iter().zip([&gamma, &beta, &mean, &var]).map(|(name, values)| (name, &values[..])).collect();
        write_model(&folder.join("named.safetensors"), &tensors);
        let report = good(
            &folder,
            &format!("inference --x x.npy --from named.safetensors --prefix {prefix} --compare --out y{i}"),
        );
        assert_eq!((&report["passed"], report["inputs"].as_array().unwrap().len()), (&true.into(), 5), "{report}");
        assert_eq!(npy(folder.join(format!("y{i}/y.npy"))), expected, "{prefix}");
        assert!(report["unused"].as_array().unwrap().is_empty(), "{report}");
    }
    // A name that nobody knows may be gamma's.
    let run = "inference --x x.npy --from odd.safetensors --prefix bn.";
    write_model(
        &folder.join("odd.safetensors"),
        &[("bn.scale", &gamma), ("bn.bias", &beta), ("bn.running_mean", &mean), ("bn.running_var", &var)],
    );
    let said = refused(&folder, run);
    assert!(said.contains("weight is absent") && said.contains("--weight odd.safetensors:bn.scale"), "{said}");
    good(&folder, &format!("{run} --weight odd.safetensors:bn.scale"));
    // Without gamma and beta nothing is left out, and what is no parameter is told.
    write_model(
        &folder.join("odd.safetensors"),
        &[("bn.other", &[1.0]), ("bn.running_mean", &mean), ("bn.running_var", &var), ("fc.bias", &gamma)],
    );
    assert_eq!(good(&folder, run)["unused"], serde_json::json!(["bn.other"]));
    assert!(String::from_utf8(bn_run(&folder, run).stdout).unwrap().contains("not used: bn.other"));
    write_model(
        &folder.join("odd.safetensors"),
        &[("bn.weight", &gamma), ("bn.gamma", &gamma), ("bn.running_mean", &mean), ("bn.running_var", &var)],
    );
    assert!(refused(&folder, run).contains("may both be the weight"));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn wrong_files_are_told_as_a_whole() {
    let folder = folder("whole", &[4, 3, 5], 3, Dtype::F32);
    let put = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    put("lfs.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 46830571\n");
    put("lfs.npy", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 46830571\n");
    put("net.pt", &[b"PK\x03\x04", &[0; 22][..], &[12, 0, 0, 0], b"net/data.pkl", &[0; 100]].concat());
    let tensor = r#""bn.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let twice = format!("{{{tensor},{tensor}}}");
    put("twice.safetensors", &[&(twice.len() as u64).to_le_bytes()[..], twice.as_bytes(), &[0; 4]].concat());
    for (arguments, expected) in [
        ("--x x.npy --from lfs.safetensors --prefix bn.", "git lfs pull"),
        ("--x x.npy --from net.pt --prefix bn.", "save_file"),
        ("--x x.npy --from twice.safetensors --prefix bn.", "\"bn.weight\" comes twice"),
        ("--x lfs.npy", "git lfs pull"),
    ] {
        let said = refused(&folder, &format!("inference {arguments}"));
        // No tensor is named: what is wrong is the file.
        assert!(said.contains(expected) && !said.contains("residual") && !said.contains("running"), "{said}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_wrong_prefix_is_met_with_names() {
    let folder = folder("prefix", &[4, 3, 5], 3, Dtype::F32);
    let names: Vec<String> = (0..60)
        .flat_map(|layer| ["weight", "running_mean", "running_var"].map(|name| format!("layer{layer}.bn.{name}")))
        .collect();
    let tensors: Vec<(&str, &[f64])> = names.iter().map(|name| (name.as_str(), &[1.0, 1.0, 1.0][..])).collect();
    write_model(&folder.join("net.safetensors"), &tensors);
    let said =
        |prefix: &str| refused(&folder, &format!("inference --x x.npy --from net.safetensors --prefix {prefix}"));
    let typo = said("layer42.bm.");
    assert!(typo.contains("layer42.bn.running_mean") && typo.contains("168 more"), "{typo}");
    assert!(said("layer42.bn").contains("give --prefix layer42.bn."), "{}", said("layer42.bn"));
    let listed = bn_run(&folder, "--list net.safetensors");
    let table = String::from_utf8(listed.stdout.clone()).unwrap();
    assert!(code(&listed) == 0 && names.iter().all(|name| table.contains(name.as_str())), "{table}");
    let rows: Value = serde_json::from_slice(&bn_run(&folder, "--list net.safetensors --json").stdout).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 180);
    assert_eq!(rows[0], serde_json::json!({"name": "layer0.bn.running_mean", "dtype": "F32", "shape": [3]}));
    assert!(String::from_utf8(bn_run(&folder, "--list x.npy").stdout).unwrap().contains("[4, 3, 5]"));
    assert_eq!(code(&bn_run(&folder, "--list none.safetensors")), 2);
    std::fs::remove_dir_all(folder).unwrap();
}

/// A `.npy` file with a header as given.
fn npy_file(path: &Path, descr: &str, data: &[u8]) {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (4, 3), }}\n");
    let bytes = [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn arrays_of_every_exact_type_are_taken() {
    let folder = folder("types", &[4, 3], 3, Dtype::F32);
    let values: Vec<u8> = (0..12).map(|i| i * i).collect();
    let wide = |bytes: fn(f32) -> Vec<u8>| values.iter().flat_map(|&value| bytes(value.into())).collect::<Vec<u8>>();
    npy_file(&folder.join("f4.npy"), "<f4", &wide(|value| value.to_le_bytes().into()));
    npy_file(&folder.join("big.npy"), ">f4", &wide(|value| value.to_be_bytes().into()));
    npy_file(&folder.join("native.npy"), "=f4", &wide(|value| value.to_ne_bytes().into()));
    npy_file(&folder.join("u1.npy"), "|u1", &values);
    npy_file(&folder.join("i2.npy"), "<i2", &wide(|value| (value as i16).to_le_bytes().into()));
    npy_file(&folder.join("bf16.npy"), "|V2", &wide(|value| value.to_le_bytes()[2..].into()));
    npy_file(&folder.join("i4.npy"), "<i4", &wide(|value| (value as i32).to_le_bytes().into()));
    let mean = |x: &str| {
        let report = good(&folder, &format!("statistics --x {x}.npy --out {x} --compare"));
        assert_eq!(report["passed"], true);
        npy(folder.join(x).join("batch_mean.npy")).values
    };
    let expected = mean("f4");
    for x in ["big", "native", "u1", "i2", "bf16"] {
        assert_eq!(mean(x), expected, "{x}");
    }
    assert!(refused(&folder, "statistics --x i4.npy").contains("got I32; convert them"));
    good(&folder, "statistics --x i4.npy --dtype f32");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_makes_results_worthless_is_told() {
    let folder = folder("worthless", &[4, 3], 3, Dtype::F32);
    for (values, shown) in [([1.0, f64::NAN, 1.0], "NaN"), ([1.0, -0.5, 1.0], "-0.5")] {
        let var = Stored { dtype: Dtype::F32, dims: vec![3], values: values.to_vec() };
        std::fs::write(folder.join("var.npy"), var.to_npy().unwrap()).unwrap();
        let run = "inference --x x.npy --running-mean running_mean.npy --running-var var.npy";
        let said = String::from_utf8(bn_run(&folder, run).stderr).unwrap();
        assert!(
            said.contains(&format!(
                "warning: running_var (var.npy): expected finite values of at least 0, got {shown} in channel 1"
            )),
            "{said}"
        );
        assert_eq!(good(&folder, run)["warnings"].as_array().unwrap().len(), 1);
    }
    let full = Stored { dtype: Dtype::I64, dims: vec![1], values: vec![u32::MAX.into()] };
    std::fs::write(folder.join("full.npy"), full.to_npy().unwrap()).unwrap();
    let report = good(&folder, "forward_training --x x.npy --num-batches-tracked full.npy");
    assert!(report["warnings"][0].as_str().unwrap().contains("is full at 4294967295"), "{report}");
    assert!(good(&folder, &format!("inference --x x.npy {STATE}"))["warnings"].as_array().unwrap().is_empty());
    std::fs::remove_dir_all(folder).unwrap();
}

/// Kilobytes of memory that a run held at its peak.
#[cfg(target_os = "linux")]
fn peak(folder: &Path, arguments: &str) -> u64 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bn"));
    let mut child = command
        .arg("run")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(peak);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(child.wait().unwrap().success(), "{arguments}");
    peak
}

/// On a software adapter the device's own copies of x and y count too.
#[cfg(target_os = "linux")]
#[test]
fn memory_is_a_few_times_that_of_the_tensor() {
    const BYTES: usize = 96 << 20;
    let folder = folder("memory", &[2, 3, 64], 3, Dtype::F32);
    let header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, 3, 8192), }}\n", BYTES / 4 / 3 / 8192);
    let values = normal(3 * 8192, 1).into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
    let start = [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes()].concat();
    let blocks = vec![values.as_slice(); BYTES / 4 / 3 / 8192].concat();
    std::fs::write(folder.join("large.npy"), [start, blocks].concat()).unwrap();
    let of = |x: &str| peak(&folder, &format!("inference --x {x}.npy {STATE} --out {x}"));
    let times = (of("large") - of("x")) as f64 * 1024.0 / BYTES as f64;
    assert!(times < 8.0, "{times:.1} times the tensor");
    println!("{times:.1} times the tensor");
    std::fs::remove_dir_all(folder).unwrap();
}
