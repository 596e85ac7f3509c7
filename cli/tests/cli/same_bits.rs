//! `bn check --same-bits`: the same results pass, other bits and other files do not.

use std::process::{Command, Output};

fn check(arguments: &[&str]) -> Output {
    let filter = ["check", "--full", "--filter", "inference 2x9x2x2 channels_first normal(5e-1)"];
    Command::new(env!("CARGO_BIN_EXE_bn")).args(filter).args(arguments).output().unwrap()
}

#[test]
fn other_bits_are_found() {
    let folder = std::env::temp_dir().join(format!("bn-test-{}-same-bits", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("earlier.json");
    let file = path.to_str().unwrap();
    assert_eq!(check(&["--json", file]).status.code(), Some(0));
    let same = check(&["--same-bits", file]);
    let said = String::from_utf8_lossy(&same.stderr).into_owned();
    assert!(same.status.code() == Some(0) && said.contains(" 0 have other bits"), "{said}");

    let mut reports: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let outcome = &mut reports[0]["outcomes"][0];
    assert_eq!(outcome["bits"].as_str().unwrap().len(), 16);
    outcome["bits"] = "0000000000000000".into();
    let case = outcome["case"].as_str().unwrap().to_owned();
    std::fs::write(&path, reports.to_string()).unwrap();
    let other = check(&["--same-bits", file]);
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    assert_eq!(other.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("OTHER BITS {case}\n")) && said.contains(" 1 have other bits"), "{said}");

    // Nothing in common is no agreement; another file is no report.
    std::fs::write(&path, "[]").unwrap();
    assert_eq!(check(&["--same-bits", file]).status.code(), Some(1));
    std::fs::write(&path, "{}").unwrap();
    let wrong = check(&["--same-bits", file]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("expected a report of `bn check --json`"));
    std::fs::remove_dir_all(folder).unwrap();
}
