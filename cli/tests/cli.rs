//! `bn` as people and CI servers call it: exit codes, reports, messages.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn bn(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bn")).args(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("bn-test-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

#[test]
fn usage_errors_exit_with_2() {
    assert_eq!(code(&bn(&["check", "--no-such-flag"])), 2);
    assert_eq!(code(&bn(&["check", "--adapter", "none of that name"])), 2);
    let missing = bn(&["check", "--require", "none-of-that-name"]);
    assert_eq!(code(&missing), 2);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("none-of-that-name"));
    assert_eq!(code(&bn(&["check", "--filter", "no case has this text"])), 2);
    assert_eq!(code(&bn(&["check", "--golden", "no such folder"])), 2);
    assert_eq!(code(&bn(&["train", "--data", "no such folder"])), 2);
}

#[test]
fn info_lists_the_adapters_that_check_takes() {
    let info = bn(&["info", "--json"]);
    assert_eq!(code(&info), 0);
    let rows: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
    for row in rows.as_array().unwrap() {
        let key = row["key"].as_str().unwrap();
        let check = bn(&["check", "--adapter", key, "--filter", "inference 2x3x7x7"]);
        assert_eq!(code(&check), 0, "{key}: {}", String::from_utf8_lossy(&check.stdout));
    }
}

#[test]
fn check_writes_reports() {
    let folder = folder("reports");
    let (json, junit) = (folder.join("check.json"), folder.join("check.xml"));
    let arguments = [
        "check",
        "--filter",
        "forward_training 5x3",
        "--json",
        json.to_str().unwrap(),
        "--junit",
        junit.to_str().unwrap(),
    ];
    let check = bn(&arguments);
    assert_eq!(code(&check), 0, "{}", String::from_utf8_lossy(&check.stderr));
    let reports: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let outcomes = reports[0]["outcomes"].as_array().unwrap();
    assert!(!outcomes.is_empty() && outcomes.iter().all(|outcome| outcome["failure"].is_null()));
    let junit = std::fs::read_to_string(junit).unwrap();
    assert_eq!(junit.matches("<testcase ").count(), outcomes.len());
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2, "no partial file is left");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn accuracy_is_reported_for_kernels_and_folded_layers() {
    let check = bn(&["check", "--accuracy", "--json"]);
    assert_eq!(code(&check), 0, "{}", String::from_utf8_lossy(&check.stderr));
    let report: serde_json::Value = serde_json::from_slice(&check.stdout).unwrap();
    let (outputs, folded) = (report["outputs"].as_array().unwrap(), report["folded"].as_array().unwrap());
    assert_eq!(outputs.len(), folded.len());
    for errors in folded.iter().flat_map(|row| [&row["from_bias"], &row["from_inputs"]]) {
        // NaN and infinity are null in JSON.
        assert!(errors["apart"].is_f64() && errors["folded"].is_f64(), "{errors}");
    }
}

#[test]
fn bench_verifies_and_times() {
    let bench = bn(&["bench", "--quick", "--shapes", "8x16x7x7", "--json"]);
    assert_eq!(code(&bench), 0, "{}", String::from_utf8_lossy(&bench.stderr));
    let record: serde_json::Value = serde_json::from_slice(&bench.stdout).unwrap();
    let rows = record["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|row| row["microseconds"]["median"].as_f64().unwrap() > 0.0));
    // Seven by seven is not a multiple of four: a forced kernel that cannot run is an error.
    assert_eq!(code(&bn(&["bench", "--quick", "--shapes", "8x16x7x7", "--geometry", "planes4"])), 2);
}

#[test]
fn bench_times_every_dtype_and_fused_steps() {
    let shape = ["bench", "--quick", "--shapes", "8x16x7x7", "--json"];
    let bench = bn(&[&shape as &[&str], &["--dtype", "f16"]].concat());
    assert_eq!(code(&bench), 0, "{}", String::from_utf8_lossy(&bench.stderr));
    let record: serde_json::Value = serde_json::from_slice(&bench.stdout).unwrap();
    let rows = record["rows"].as_array().unwrap();
    assert!(rows.len() == 4 && rows.iter().all(|row| row["dtype"] == "f16" && row["bytes"] == 2 * 8 * 16 * 7 * 7));
    assert!(record.get("fused").is_none(), "nothing was fused");
    let fused = bn(&[&shape as &[&str], &["--fused", "--dtype", "f32,bf16", "--operation", "inference"]].concat());
    assert_eq!(code(&fused), 0, "{}", String::from_utf8_lossy(&fused.stderr));
    let record: serde_json::Value = serde_json::from_slice(&fused.stdout).unwrap();
    let rows = record["fused"].as_array().unwrap();
    let kinds: Vec<_> = rows.iter().map(|row| (row["dtype"].as_str(), row["fusion"].as_str())).collect();
    let of = |dtype| ["relu", "relu_residual"].map(|fusion| (Some(dtype), Some(fusion)));
    assert_eq!(kinds, [of("f32"), of("bf16")].concat());
    let moves = |row: &serde_json::Value| (row["fused_moves"].as_u64(), row["separate_moves"].as_u64());
    assert_eq!((moves(&rows[0]), moves(&rows[1])), ((Some(2), Some(4)), (Some(3), Some(5))));
    // A storage is of one dtype, and a dtype has a name.
    assert_eq!(code(&bn(&[&shape as &[&str], &["--storage", "f16_words"]].concat())), 2);
    assert_eq!(code(&bn(&[&shape as &[&str], &["--dtype", "f64"]].concat())), 2);
}

/// The whole way of a figure: tuned, timed by the tuning, recorded, reported.
#[test]
fn tunings_and_records_are_read_again() {
    let folder = folder("records");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (tuning, records, page) = (path("tuning.json"), path("records"), path("report.html"));
    let tune = bn(&["tune", "--quick", "--shapes", "8x16x7x7", "--out", &tuning]);
    assert_eq!(code(&tune), 0, "{}", String::from_utf8_lossy(&tune.stderr));
    let dtypes = ["--kernels", "--fused", "--dtype", "f32,bf16", "--record", &records];
    for rest in [&["--tuning", &tuning] as &[&str], &dtypes] {
        let bench = bn(&[&["bench", "--quick", "--shapes", "8x16x7x7"], rest].concat());
        assert_eq!(code(&bench), 0, "{}", String::from_utf8_lossy(&bench.stderr));
    }
    let report = bn(&["report", &records, "--html", &page, "--markdown", "-"]);
    assert_eq!(code(&report), 0, "{}", String::from_utf8_lossy(&report.stderr));
    let table = String::from_utf8_lossy(&report.stdout);
    assert!(table.contains("8x16x7x7 channels_first bf16") && table.contains("relu_residual"), "{table}");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(
        page.contains("<svg") && page.contains("resident") && page.contains("Fused steps") && !page.contains("http://"),
        "self-contained"
    );
    // What is no tuning and no record is refused, and said to be none.
    std::fs::write(&tuning, "{}").unwrap();
    let refused = bn(&["bench", "--quick", "--shapes", "8x16x7x7", "--tuning", &tuning]);
    assert_eq!(code(&refused), 2);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("tuning.json"));
    std::fs::write(folder.join("records/other.json"), "{}").unwrap();
    let refused = bn(&["report", &records, "--html", &path("again.html")]);
    assert_eq!(code(&refused), 2);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("other.json"));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn golden_cases_pass_or_are_unsupported() {
    let all = bn(&["check", "--golden", golden().to_str().unwrap()]);
    assert_eq!(code(&all), 0, "{}", String::from_utf8_lossy(&all.stdout));
    // One value per channel has no variance to train with.
    let header = r#"{"__metadata__":{"format":"batchnorm-golden-1","mode":"train"},
        "x":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},
        "expected.y":{"dtype":"F32","shape":[1,2],"data_offsets":[8,16]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 16]].concat();
    let folder = folder("unsupported");
    std::fs::write(folder.join("one_value.safetensors"), bytes).unwrap();
    let path = folder.to_str().unwrap();
    let refused = bn(&["check", "--golden", path]);
    assert_eq!(code(&refused), 1);
    assert!(String::from_utf8_lossy(&refused.stdout).contains("not supported"));
    let allowed = bn(&["check", "--golden", path, "--allow-unsupported"]);
    assert_eq!(code(&allowed), 0, "{}", String::from_utf8_lossy(&allowed.stdout));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_wrong_answer_exits_with_1() {
    let folder = folder("golden");
    let mut bytes = std::fs::read(golden().join("nc_train.safetensors")).unwrap();
    // The last bytes belong to some tensor of answers or inputs; another value there cannot agree with the rest.
    let end = bytes.len();
    bytes[end - 8..].copy_from_slice(&1e9f64.to_le_bytes());
    std::fs::write(folder.join("tampered.safetensors"), bytes).unwrap();
    let check = bn(&["check", "--golden", folder.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert_eq!(code(&check), 1, "{said}");
    assert!(said.contains("outside the tolerance"), "{said}");
    std::fs::remove_dir_all(folder).unwrap();
}
