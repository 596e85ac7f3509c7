//! `bn check --browser` with the browser that is here. Without one the tests show as ignored; where
//! `BATCHNORM_REQUIRE_ADAPTERS` names SwiftShader, which comes with Chromium, that is a failure.

use libtest_mimic::{Arguments, Failed, Trial};
use std::process::{Command, Output};

const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

fn main() {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let present = std::env::split_paths(&path).any(|folder| NAMES.iter().any(|name| folder.join(name).is_file()));
    let required = std::env::var("BATCHNORM_REQUIRE_ADAPTERS").unwrap_or_default();
    let ignored = !present && !required.split(',').any(|name| name.trim() == "swiftshader");
    let trials = [
        Trial::test("browser::compiles_what_is_asked_for", compiles_what_is_asked_for),
        Trial::test("browser::one_without_webgpu_is_an_error", one_without_webgpu_is_an_error),
    ];
    let trials = trials.map(|trial| trial.with_ignored_flag(ignored));
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit();
}

fn bn(arguments: &[&str]) -> Result<Output, Failed> {
    Ok(Command::new(env!("CARGO_BIN_EXE_bn")).args(["check", "--browser"]).args(arguments).output()?)
}

/// One kernel in every storage and reduction, with the canaries, which every run begins with.
fn compiles_what_is_asked_for() -> Result<(), Failed> {
    let checked = bn(&["--filter", "moments.scalar", "--json"])?;
    let said = String::from_utf8_lossy(&checked.stderr);
    if checked.status.code() != Some(0) {
        return Err(format!("{}: {said}", checked.status).into());
    }
    let report: serde_json::Value = serde_json::from_slice(&checked.stdout)?;
    let kernels = report["kernels"].as_array().ok_or("no kernels")?;
    let [row] = kernels.as_slice() else { return Err(format!("not one kernel: {kernels:?}").into()) };
    if row["kernel"] != "moments" || row["texts"].as_u64() < row["pipelines"].as_u64() || row["pipelines"] == 0 {
        return Err(row.to_string().into());
    }
    Ok(())
}

/// No shader has such a name, and this program is no browser: neither may look like a pass.
fn one_without_webgpu_is_an_error() -> Result<(), Failed> {
    for arguments in [&["--filter", "no shader has this name"] as &[&str], &[env!("CARGO_BIN_EXE_bn")]] {
        let status = bn(arguments)?.status;
        if status.code() != Some(2) {
            return Err(format!("{arguments:?}: {status}").into());
        }
    }
    Ok(())
}
