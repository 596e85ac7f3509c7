//! Exit codes, reports, messages.

use batchnorm_wgpu_check::stored::{Dtype, Stored};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bn"));
    command.args(arguments).env_remove("COLUMNS");
    command
}

fn bn(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

/// Standard output in lines of so many characters.
fn said(arguments: &[&str], columns: usize) -> String {
    let output = command(arguments).env("COLUMNS", columns.to_string()).output().unwrap();
    assert_eq!(code(&output), 0, "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn assert_fits(text: &str, columns: usize) {
    let too_long: Vec<&str> = text.lines().filter(|line| line.chars().count() > columns).collect();
    assert!(too_long.is_empty(), "longer than {columns}:\n{}", too_long.join("\n"));
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

/// The subcommands, as `bn --help` lists them.
fn subcommands() -> Vec<String> {
    let help = said(&["--help"], 120);
    let list = help.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    let named = list.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    named.map(|line| line.split_whitespace().next().unwrap().to_owned()).filter(|name| name != "help").collect()
}

#[test]
fn help_fits_the_terminal() {
    let all = subcommands();
    assert!(all.len() >= 9, "{all:?}");
    for columns in [80, 100, 120] {
        assert_fits(&said(&["--help"], columns), columns);
        for subcommand in &all {
            assert_fits(&said(&[subcommand, "--help"], columns), columns);
            assert_fits(&said(&[subcommand, "-h"], columns), columns);
        }
    }
    // Where it goes to a pipe, it is not longer either than people read.
    assert_fits(&String::from_utf8(bn(&["run", "--help"]).stdout).unwrap(), 120);
}

const BENCH: [&str; 6] = ["bench", "--quick", "--shapes", "8x16x7x7", "--operation", "inference"];

#[test]
fn tables_fit_the_terminal() {
    let check = ["check", "--filter", "inference 2x3x7x7"];
    let golden = golden();
    let cases = ["check", "--golden", golden.to_str().unwrap(), "--filter", "nc_"];
    let accuracy = ["check", "--accuracy"];
    for (arguments, columns) in
        [(&["info"] as &[&str], 80), (&["info"], 120), (&check, 80), (&cases, 80), (&accuracy, 80), (&BENCH, 80)]
    {
        assert_tables_fit(arguments, columns);
    }
}

#[track_caller]
fn assert_tables_fit(arguments: &[&str], columns: usize) {
    let text = said(arguments, columns);
    assert!(text.contains('│'), "{text}");
    assert_fits(&text, columns);
}

/// The names in the first line of a table's header.
fn header(text: &str) -> Vec<&str> {
    let line = text.lines().find(|line| line.starts_with('│')).unwrap();
    line.split(['│', '┆']).map(str::trim).filter(|name| !name.is_empty()).collect()
}

#[test]
fn wide_tables_and_pipes_have_every_column() {
    let narrow = said(&["info"], 80);
    assert!(narrow.contains("Left out for lack of room: ") && narrow.contains("--wide"), "{narrow}");
    let wide = said(&["info", "--wide"], 80);
    let piped = String::from_utf8(bn(&["info"]).stdout).unwrap();
    assert!(header(&narrow).len() < header(&wide).len(), "{narrow}\n{wide}");
    for name in
        ["adapter", "name", "kind", "kernels", "subgroups", "f16", "timestamps", "invocations", "offset", "driver"]
    {
        assert!(header(&wide).contains(&name) && header(&piped).contains(&name), "{name}: {wide}");
    }
    for text in [&wide, &piped] {
        assert!(!text.contains("Left out"), "{text}");
        // A line of its own for each adapter, which grep finds whole.
        let rows = text.lines().filter(|line| line.contains(" of ") && line.starts_with('│')).count();
        let adapters: serde_json::Value = serde_json::from_slice(&bn(&["info", "--json"]).stdout).unwrap();
        assert_eq!(rows, adapters.as_array().unwrap().len());
    }
    let bench = said(&[&BENCH[..], &["--wide"]].concat(), 80);
    for name in ["us", "of copy", "plan", "GB/s", "spread", "ns/element", "MB", "dispatches", "encode us"] {
        assert!(header(&bench).contains(&name), "{name}: {bench}");
    }
    let check = said(&["check", "--wide", "--filter", "inference 2x3x7x7"], 80);
    assert!(header(&check).contains(&"worst case"), "{check}");
}

/// On a server no variable names a folder for sockets, which Mesa complains of.
#[test]
#[cfg(target_os = "linux")]
fn nothing_is_said_of_wayland() {
    for arguments in [&["info"] as &[&str], &["check", "--all-adapters", "--filter", "inference 2x3x7x7"]] {
        let output = command(arguments).env_remove("XDG_RUNTIME_DIR").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
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

/// The texts of a member of each object of a list.
fn texts(list: &serde_json::Value, member: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|object| object[member].as_str().unwrap().to_owned()).collect()
}

/// The short names of the adapters that are there.
fn adapters() -> Vec<String> {
    texts(&serde_json::from_slice(&bn(&["info", "--json"]).stdout).unwrap(), "key")
}

/// They run side by side, and whoever is done first waits to be shown.
#[test]
fn check_shows_adapters_in_their_order() {
    let keys = adapters();
    let file = folder("order").join("check.json");
    let check = bn(&["check", "--all-adapters", "--filter", "inference 2x3x7x7", "--json", file.to_str().unwrap()]);
    assert_eq!(code(&check), 0, "{}", String::from_utf8_lossy(&check.stderr));
    let shown = String::from_utf8(check.stdout).unwrap();
    let shown = shown.lines().filter_map(|line| line.split_once(": ").filter(|(_, rest)| rest.contains(" passed, ")));
    assert_eq!(shown.map(|(key, _)| key).collect::<Vec<_>>(), keys);
    let reports: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(texts(&reports, "adapter"), keys);
    std::fs::remove_dir_all(file.parent().unwrap()).unwrap();
}

/// OpenGL has no subgroups, and so no case of that name.
#[test]
fn an_adapter_that_cannot_be_checked_leaves_the_others_their_reports() {
    let keys = adapters();
    let checked: Vec<String> = keys.iter().filter(|key| *key != "gl").cloned().collect();
    if checked.len() == keys.len() || checked.is_empty() {
        let required = std::env::var("BATCHNORM_REQUIRE_ADAPTERS").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name.trim() == "gl"),
            "OpenGL and another adapter are needed: {keys:?}"
        );
        eprintln!("skipped: OpenGL and another adapter are needed");
        return;
    }
    let file = folder("refused").join("check.json");
    let filter = "backward_frozen 3x65x3x3 channels_first normal(5e-1) whole scalar subgroup";
    let check = bn(&["check", "--all-adapters", "--filter", filter, "--json", file.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&check.stderr);
    assert!(code(&check) == 2 && said.contains("gl: no case contains"), "{said}");
    let reports: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(texts(&reports, "adapter"), checked);
    std::fs::remove_dir_all(file.parent().unwrap()).unwrap();
}

#[test]
fn check_writes_reports() {
    let folder = folder("reports");
    let (json, junit) = (folder.join("check.json"), folder.join("check.xml"));
    let arguments = [
        "check",
        "--filter",
        "inference 2x3x7x7",
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

/// The results of a view are verified before it is timed.
#[test]
fn bench_times_views() {
    let bench = bn(&["bench", "--quick", "--shapes", "8x16x7x7:x=16/48:y=1/20,8x16x7x7", "--json"]);
    assert_eq!(code(&bench), 0, "{}", String::from_utf8_lossy(&bench.stderr));
    let record: serde_json::Value = serde_json::from_slice(&bench.stdout).unwrap();
    let rows = record["rows"].as_array().unwrap();
    let views: Vec<_> = rows.iter().map(|row| row["views"].as_str()).collect();
    assert_eq!(views, [[Some("x=16/48 y=1/20"); 4], [None; 4]].concat());
    assert!(rows.iter().all(|row| row["bytes"] == 4 * 8 * 16 * 49), "the bytes of its channels");
    let beyond = bn(&["bench", "--quick", "--shapes", "8x16x7x7:x=40/48"]);
    assert!(code(&beyond) == 2 && String::from_utf8_lossy(&beyond.stderr).contains("within those of the wider tensor"));
    let out = folder("tuned-views").join("tuning.json");
    let tune = bn(&["tune", "--quick", "--shapes", "8x16x7x7:x=16/48", "--out", out.to_str().unwrap()]);
    assert!(code(&tune) == 2 && String::from_utf8_lossy(&tune.stderr).contains("expected whole tensors"));
    let fused = bn(&["bench", "--quick", "--shapes", "8x16x7x7:y=1/20", "--fused", "--operation", "inference"]);
    assert!(code(&fused) == 2 && String::from_utf8_lossy(&fused.stderr).contains("leave out views of y"));
}

#[test]
#[ignore = "takes long: .ci/run runs it"]
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
    assert_tables_fit(&[&BENCH[..], &["--fused", "--dtype", "f32,f16"]].concat(), 120);
    let moves = |row: &serde_json::Value| (row["fused_moves"].as_u64(), row["separate_moves"].as_u64());
    assert_eq!((moves(&rows[0]), moves(&rows[1])), ((Some(2), Some(4)), (Some(3), Some(5))));
    // A storage is of one dtype, and a dtype has a name.
    assert_eq!(code(&bn(&[&shape as &[&str], &["--storage", "f16_words"]].concat())), 2);
    assert_eq!(code(&bn(&[&shape as &[&str], &["--dtype", "f64"]].concat())), 2);
}

/// The whole way of a figure: tuned, timed by the tuning, recorded, reported.
#[test]
#[ignore = "takes long: .ci/run runs it"]
fn tunings_and_records_are_read_again() {
    let folder = folder("records");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (tuning, records, page) = (path("tuning.json"), path("records"), path("report.html"));
    let tune = bn(&["tune", "--quick", "--shapes", "8x16x7x7", "--out", &tuning]);
    assert_eq!(code(&tune), 0, "{}", String::from_utf8_lossy(&tune.stderr));
    let before = std::fs::read(&tuning).unwrap();
    let again = bn(&["tune", "--quick", "--shapes", "8x16x7x7", "--out", &tuning]);
    assert_eq!(code(&again), 2);
    assert!(String::from_utf8_lossy(&again.stderr).contains("tuning.json exists"));
    assert_eq!(std::fs::read(&tuning).unwrap(), before);
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
fn training_does_not_begin_anew_over_a_checkpoint() {
    let folder = folder("save");
    let file = folder.join("trained.safetensors");
    std::fs::write(&file, "trained for a night").unwrap();
    let train = bn(&["train", "--epochs", "1", "--save", file.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&train.stderr);
    assert_eq!(code(&train), 2);
    assert!(said.contains("trained.safetensors exists") && said.contains("--resume"), "{said}");
    assert_eq!(std::fs::read(&file).unwrap(), b"trained for a night");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn evaluation_of_a_network_without_a_loss_fails() {
    let folder = folder("evaluate");
    let file = folder.join("nan.safetensors");
    let sizes = [784, 100, 100, 100, 10];
    let tensor = |dims: &[usize]| {
        let count = dims.iter().product();
        Stored { dtype: Dtype::F32, dims: dims.to_vec(), values: vec![f64::NAN; count] }
    };
    let layers = sizes.windows(2).enumerate().flat_map(|(layer, sizes)| {
        let name = |kind: &str| format!("plain.fc{}.{kind}", layer + 1);
        [(name("weight"), tensor(&[sizes[1], sizes[0]])), (name("bias"), tensor(&[sizes[1]]))]
    });
    let layers: Vec<(String, Stored)> = layers.collect();
    let tensors: Vec<(&str, &Stored)> = layers.iter().map(|(name, stored)| (name.as_str(), stored)).collect();
    std::fs::write(&file, Stored::to_safetensors(&tensors).unwrap()).unwrap();
    let evaluate = bn(&["train", "--evaluate", file.to_str().unwrap()]);
    assert_eq!(code(&evaluate), 2);
    let said = String::from_utf8_lossy(&evaluate.stderr);
    assert!(said.contains("the loss of the network plain on the test images is NaN"), "{said}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_report_replaces_no_other_file() {
    let folder = folder("report");
    let file = folder.join("network.safetensors");
    std::fs::write(&file, "weights").unwrap();
    let path = file.to_str().unwrap();
    for report in ["--json", "--junit"] {
        let check = bn(&["check", "--filter", "inference 2x3x7x7", report, path]);
        assert_eq!(code(&check), 2, "{report}");
        assert!(String::from_utf8_lossy(&check.stderr).contains("network.safetensors exists"), "{report}");
        assert_eq!(std::fs::read(&file).unwrap(), b"weights");
    }
    let check = bn(&["check", "--filter", "inference 2x3x7x7", "--json", path, "--force"]);
    assert_eq!(code(&check), 0);
    assert!(std::fs::read(&file).unwrap().starts_with(b"["));
    std::fs::remove_dir_all(folder).unwrap();
}

/// Runs the golden cases of a folder: exit code, standard output, and the JSON report.
fn check_golden(folder: &Path, arguments: &[&str]) -> (i32, String, serde_json::Value) {
    let json = folder.join("report.json");
    let fixed = ["check", "--golden", folder.to_str().unwrap(), "--json", json.to_str().unwrap()];
    let check = bn(&[&fixed, arguments].concat());
    let report = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    (code(&check), String::from_utf8(check.stdout).unwrap(), report)
}

/// A case with one value per channel, which has no variance to train with.
fn one_value() -> Vec<u8> {
    let header = r#"{"__metadata__":{"format":"batchnorm-golden-1","mode":"train"},
        "x":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},
        "expected.y":{"dtype":"F32","shape":[1,2],"data_offsets":[8,16]}}"#;
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 16]].concat()
}

#[test]
fn golden_cases_pass() {
    // The cross-check runs all of them.
    let some = bn(&["check", "--golden", golden().to_str().unwrap(), "--filter", "nc_"]);
    assert_eq!(code(&some), 0, "{}", String::from_utf8_lossy(&some.stdout));
    assert!(String::from_utf8_lossy(&some.stdout).contains("4 passed, 0 failed, 0 unsupported"));
    let one = bn(&["check", "--golden", golden().join("nc_eval.safetensors").to_str().unwrap(), "--json"]);
    assert_eq!(code(&one), 0);
    let reports: serde_json::Value = serde_json::from_slice(&one.stdout).unwrap();
    let outputs = reports[0]["files"][0]["outputs"].as_array().unwrap();
    let names: Vec<&str> = outputs.iter().map(|output| output["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["y", "dx", "dweight", "dbias"]);
    assert!(outputs.iter().all(|output| output["passed"] == true && output["ratio"].as_f64().unwrap() <= 1.0));
}

#[test]
fn golden_usage_errors_exit_with_2() {
    let folder = folder("golden-usage");
    let path = folder.to_str().unwrap();
    std::fs::write(folder.join("README.md"), "no case").unwrap();
    for arguments in [
        &["check", "--golden", path] as &[&str],
        &["check", "--golden", "no such folder"],
        &["check", "--golden", golden().to_str().unwrap(), "--filter", "no such name"],
        &["check", "--golden", golden().to_str().unwrap(), "--require", "none-of-that-name"],
        &["check", "--golden", golden().to_str().unwrap(), "--accuracy"],
        &["check", "--allow-unsupported"],
    ] {
        assert_eq!(code(&bn(arguments)), 2, "{arguments:?}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// A case that passes, one that is wrong, one that is not supported, and two that are none: one run, every report.
#[test]
fn golden_reports_tell_what_came_of_each_file() {
    let folder = folder("golden-reports");
    let good = std::fs::read(golden().join("nc_train.safetensors")).unwrap();
    let mut wrong = good.clone();
    // The last bytes are values of x: with others no answer can agree.
    let end = wrong.len();
    wrong[end - 8..].copy_from_slice(&1e9f64.to_le_bytes());
    let files =
        [("cut", &good[..end / 2]), ("good", &good), ("text", b"text"), ("value", &one_value()), ("wrong", &wrong)];
    for (name, bytes) in files {
        std::fs::write(folder.join(name).with_extension("safetensors"), bytes).unwrap();
    }
    let junit_file = folder.join("report.xml");
    let junit = || std::fs::read_to_string(&junit_file).unwrap();
    let arguments = ["--junit", junit_file.to_str().unwrap()];

    let (code, said, report) = check_golden(&folder, &arguments);
    assert_eq!(code, 1, "{said}");
    let files = report[0]["files"].as_array().unwrap();
    let verdicts: Vec<_> = files.iter().map(|file| (file["case"].as_str(), file["verdict"].as_str())).collect();
    let expected = [("cut", "fail"), ("good", "pass"), ("text", "fail"), ("value", "unsupported"), ("wrong", "fail")];
    assert_eq!(verdicts, expected.map(|(case, verdict)| (Some(case), Some(verdict))));
    let counts = ["passed", "failed", "unsupported"].map(|key| report[0][key].as_u64().unwrap());
    assert_eq!(counts, [1, 3, 1]);
    assert!(files[0]["reason"].as_str().unwrap().contains("where its header announces"), "{}", files[0]);
    assert!(files[2]["reason"].as_str().unwrap().contains("4 bytes"), "{}", files[2]);
    let y = files[4]["outputs"].as_array().unwrap().iter().find(|output| output["name"] == "y").unwrap();
    assert!(y["passed"] == false && y["position"].as_array().unwrap().len() == 2 && y["worst"]["want"].is_f64(), "{y}");
    assert!(said.contains("outside the tolerance") && said.contains("1 passed, 3 failed, 1 unsupported"), "{said}");
    assert!(said.contains("unsupported") && said.contains("more than one value per channel"), "{said}");
    assert_eq!((junit().matches("<testcase ").count(), junit().matches("<failure ").count()), (5, 4));

    // Unsupported cases may be allowed; the others are still failures.
    let (code, _, _) = check_golden(&folder, &[&arguments[..], &["--allow-unsupported"]].concat());
    assert_eq!(code, 1);
    assert_eq!((junit().matches("<skipped ").count(), junit().matches("<failure ").count()), (1, 3));
    assert!(junit().contains("outside the tolerance"), "{}", junit());

    let only = |name: &str, allow: &[&str]| check_golden(&folder, &[&["--filter", name], allow].concat());
    assert_eq!(only("good", &[]).0, 0);
    assert_eq!(only("value", &[]).0, 1);
    assert_eq!(only("value", &["--allow-unsupported"]).0, 0);
    assert_eq!(only("cut", &["--allow-unsupported"]).0, 1);
    assert_eq!(only("good", &[]).2[0]["files"].as_array().unwrap().len(), 1);
    std::fs::remove_dir_all(folder).unwrap();
}

/// Every case of the set is written, read and run; and what is written twice is the same.
#[test]
#[ignore = "takes long: .ci/run runs it"]
fn every_golden_case_that_is_written_passes() {
    golden_set_passes("golden-set", "");
}

#[test]
fn golden_cases_that_are_written_pass() {
    golden_set_passes("golden-some", "nc_");
}

/// Writes the set, and runs the cases with `filter` in their names.
fn golden_set_passes(name: &str, filter: &str) {
    let folder = folder(name);
    let path = folder.to_str().unwrap();
    let written = bn(&["golden", "--set", "--out", path]);
    assert_eq!(code(&written), 0, "{}", String::from_utf8_lossy(&written.stderr));
    let file = folder.join("nhwc_train_add_relu.safetensors");
    let first = std::fs::read(&file).unwrap();
    assert_eq!(code(&bn(&["golden", "--set", "--out", path])), 2, "files that exist are replaced only with --force");
    assert_eq!(code(&bn(&["golden", "--set", "--out", path, "--force"])), 0);
    assert_eq!(std::fs::read(&file).unwrap(), first);
    let (code, said, report) = check_golden(&folder, &["--filter", filter]);
    assert_eq!(code, 0, "{said}");
    let names = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let cases = names.filter(|name| name != "report.json" && name.contains(filter)).count();
    assert!(cases > 1 && report[0]["files"].as_array().unwrap().len() == cases, "no partial file is left: {report}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
#[ignore = "takes long: .ci/run runs it"]
fn golden_cases_are_written_as_they_are_described() {
    let folder = folder("golden-recipe");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (many, one) = (path("many"), path("one.safetensors"));
    let shapes =
        ["golden", "--shape", "8,16,7,7", "--shape", "2x3x4", "--layout", "channels_last", "--dtype", "bf16,f16"];
    let options =
        ["--mode", "train,eval", "--momentum", "cumulative", "--residual", "--activation", "relu", "--seed", "3"];
    let written = bn(&[&shapes[..], &options, &["--out", &many]].concat());
    assert_eq!(code(&written), 0, "{}", String::from_utf8_lossy(&written.stderr));
    assert_eq!(std::fs::read_dir(&many).unwrap().count(), 8);
    assert!(
        String::from_utf8_lossy(&written.stdout).contains("nhwc_eval_8x16x7x7_bf16_cumulative_add_relu.safetensors")
    );
    let data = ["--data", "constant(3)", "--no-weight", "--no-bias", "--no-gradient", "--source", "nobody"];
    assert_eq!(code(&bn(&[&["golden", "--out", &one], &data[..]].concat())), 0);
    assert!(String::from_utf8_lossy(&std::fs::read(&one).unwrap()).contains("\"source\":\"nobody\""));
    for cases in [&many, &one] {
        let check = bn(&["check", "--golden", cases]);
        assert_eq!(code(&check), 0, "{}", String::from_utf8_lossy(&check.stdout));
    }
    let again = bn(&["golden", "--out", &one]);
    assert_eq!(code(&again), 2);
    assert!(String::from_utf8_lossy(&again.stderr).contains("one.safetensors exists"));
    assert!(String::from_utf8_lossy(&std::fs::read(&one).unwrap()).contains("\"source\":\"nobody\""));
    let both = path("both");
    assert_eq!(code(&bn(&["golden", "--layout", "both", "--mode", "both", "--out", &both])), 0);
    assert_eq!(std::fs::read_dir(&both).unwrap().count(), 4);
    for wrong in [
        &["--out", &path("o.pt")] as &[&str],
        &["--mode", "train,eval", "--out", &path("two.safetensors")],
        &["--shape", "8", "--out", &many],
        &["--shape", "1,4", "--out", &many],
        &["--shape", "1000000,1000000", "--out", &many],
        &["--momentum", "2", "--out", &many],
        &["--eps", "0", "--out", &many],
        &["--data", "ordinary", "--out", &many],
        &["--set", "--residual", "--out", &many],
    ] {
        assert_eq!(code(&bn(&[&["golden"], wrong].concat())), 2, "{wrong:?}");
    }
    assert_eq!(std::fs::read_dir(&many).unwrap().count(), 8, "nothing of what was refused is written");
    std::fs::remove_dir_all(folder).unwrap();
}

/// Every command that writes a file, with the file that it writes.
fn writing(file: &str, missing: &Path) -> Vec<Vec<String>> {
    let (golden, x) = (golden(), missing.join("x.npy"));
    let [golden, x] = [golden.to_str().unwrap(), x.to_str().unwrap()];
    let commands: [&[&str]; 15] = [
        &["check", "--json", file],
        &["check", "--junit", file],
        &["check", "--accuracy", "--json", file],
        &["check", "--golden", golden, "--json", file],
        &["check", "--golden", golden, "--junit", file],
        &["check", "--browser", "no such browser", "--json", file],
        &["mutate", "--json", file],
        &["bench", "--json", file],
        &["bench", "--record", file],
        &["report", missing.to_str().unwrap(), "--html", file],
        &["report", missing.to_str().unwrap(), "--markdown", file],
        &["tune", "--out", file],
        &["golden", "--out", file],
        &["train", "--save", file],
        &["run", "inference", "--x", x, "--json", file],
    ];
    commands.into_iter().map(|words| words.iter().map(|&word| word.to_owned()).collect()).collect()
}

fn refused(arguments: &[String]) -> String {
    let begin = std::time::Instant::now();
    let output = bn(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(code(&output), 2, "{arguments:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}: nothing has begun");
    assert!(begin.elapsed().as_secs() < 20, "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// What cannot be written is told before the work, which here would take minutes or fail for another reason.
#[test]
fn files_that_cannot_be_written_are_told_first() {
    let folder = folder("told-first");
    let nothing = folder.join("nothing");
    let text = folder.join("text.safetensors");
    std::fs::write(&text, "of another").unwrap();
    let is_made = |arguments: &[String]| arguments.iter().any(|word| word == "--record" || word == "golden");
    for arguments in writing(nothing.join("file.safetensors").to_str().unwrap(), &nothing) {
        if !is_made(&arguments) {
            let said = refused(&arguments);
            assert!(said.contains("there is no folder") && said.contains("nothing"), "{arguments:?}: {said}");
        }
    }
    for arguments in writing(text.to_str().unwrap(), &nothing) {
        let said = refused(&arguments);
        let why = if arguments[1] == "--record" { "there is no folder" } else { "text.safetensors exists" };
        assert!(said.contains(why), "{arguments:?}: {said}");
    }
    for arguments in writing(text.join("file.safetensors").to_str().unwrap(), &nothing) {
        assert!(refused(&arguments).contains("there is no folder"), "{arguments:?}");
    }
    assert_eq!(std::fs::read(&text).unwrap(), b"of another");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing is left");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn outputs_have_files_and_endings_of_their_own() {
    let both = ["check", "--json", "-", "--junit", "-"].map(str::to_owned);
    assert!(refused(&both).contains("- is named twice"));
    let folder = folder("endings");
    let file = folder.join("one");
    let same = ["check", "--json", file.to_str().unwrap(), "--junit", file.to_str().unwrap()].map(str::to_owned);
    assert!(refused(&same).contains("is named twice"));
    assert!(refused(&["train", "--plot", "chart.png"].map(str::to_owned)).contains("FILE.svg"));
    assert!(refused(&["train", "--save", "both.pt"].map(str::to_owned)).contains("FILE.safetensors"));
    std::fs::remove_dir_all(folder).unwrap();
}

/// A CI server writes its reports again and again.
#[test]
#[ignore = "takes long: .ci/run runs it"]
fn reports_replace_their_like() {
    let folder = folder("again");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let records = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/records");
    let records = records.to_str().unwrap().to_owned();
    let golden = golden().to_str().unwrap().to_owned();
    let (json, junit, record) = (path("report.json"), path("junit.xml"), path("records"));
    let case = path("case.safetensors");
    assert_eq!(code(&bn(&["golden", "--out", &case])), 0);
    let bench = [&BENCH[..], &["--json", &json, "--record", &record]].concat();
    let commands: [(&str, &[&str]); 7] = [
        ("check", &["check", "--filter", "inference 2x3x7x7", "--json", &json, "--junit", &junit]),
        ("accuracy", &["check", "--accuracy", "--json", &json]),
        ("golden", &["check", "--golden", &golden, "--filter", "nc_", "--json", &json, "--junit", &junit]),
        ("bench", &bench),
        ("report", &["report", &records, "--html", &json, "--markdown", &junit]),
        ("list", &["run", "--list", &case, "--json", &json]),
        ("run", &["run", "statistics", "--from", &case, "--json", &json]),
    ];
    for (name, arguments) in commands {
        // Whatever the command before this one wrote is of another kind.
        for force in [&["--force"] as &[&str], &[]] {
            let output = bn(&[arguments, force].concat());
            assert_eq!(code(&output), 0, "{name} {force:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let other = bn(&["mutate", "--json", &json]);
        assert!(String::from_utf8_lossy(&other.stderr).contains("no report of this kind"), "{name}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// As in `bn ... | head -1`, with the reader gone before anything is said.
#[cfg(unix)]
fn without_reader(arguments: &[&str], errors: bool) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = command(arguments);
    match errors {
        true => command.stdout(std::process::Stdio::piped()).stderr(writer),
        false => command.stdout(writer).stderr(std::process::Stdio::piped()),
    };
    command.spawn().unwrap().wait_with_output().unwrap()
}

#[test]
#[cfg(unix)]
fn a_reader_that_goes_ends_the_program_quietly() {
    let golden = golden();
    for arguments in [
        &["info"] as &[&str],
        &["info", "--json"],
        &["check", "--filter", "inference 2x3x7x7"],
        &["check", "--filter", "inference 2x3x7x7", "--json"],
        &["check", "--golden", golden.to_str().unwrap(), "--filter", "nc_"],
        &BENCH,
        &["mutate", "--list"],
        &["train"],
    ] {
        let output = without_reader(arguments, false);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
        assert_eq!(code(&output), 141, "{arguments:?}");
    }
    for help in [&["--help"] as &[&str], &["check", "--help"], &["--version"]] {
        let output = without_reader(help, false);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{help:?}");
        assert_eq!(code(&output), 0, "{help:?}");
    }
    assert_eq!(code(&without_reader(&["check", "--adapter", "none of that name"], true)), 141);
}

/// The files that were asked for are written all the same.
#[test]
#[cfg(unix)]
fn a_reader_that_goes_costs_no_file() {
    let folder = folder("no-reader");
    let file = folder.join("check.xml");
    let arguments = ["check", "--filter", "inference 2x3x7x7", "--junit", file.to_str().unwrap()];
    let output = without_reader(&arguments, false);
    assert_eq!((code(&output), String::from_utf8_lossy(&output.stderr).as_ref()), (0, ""));
    assert!(std::fs::read_to_string(&file).unwrap().ends_with("</testsuites>\n"));
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "no partial file is left");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_told() {
    let full = std::fs::File::create("/dev/full").unwrap();
    let output = command(&["info", "--json"]).stdout(full).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let output = output.wait_with_output().unwrap();
    assert_eq!(code(&output), 2);
    assert!(String::from_utf8_lossy(&output.stderr).contains("standard output: cannot be written"));
}
