//! Files and progress that all commands share.

use crate::AnyError;
use batchnorm_wgpu::Tuning;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write;
use std::path::Path;

/// A progress bar on a terminal; elsewhere nothing.
pub fn progress(length: u64, label: &str) -> ProgressBar {
    let bar = ProgressBar::new(length).with_prefix(label.to_owned());
    // The template is a constant; should it ever be wrong, the default style serves.
    if let Ok(style) = ProgressStyle::with_template("{prefix:>12} {bar:40} {pos}/{len} {eta} {wide_msg}") {
        bar.set_style(style);
    }
    bar
}

/// Writes a file whole or not at all: under a temporary name first, then renamed. `-` is standard output.
pub fn write(path: &Path, contents: &[u8]) -> Result<(), AnyError> {
    if path == Path::new("-") {
        std::io::stdout().write_all(contents)?;
        return Ok(());
    }
    let temporary = path.with_extension("partial");
    let failed = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
    std::fs::write(&temporary, contents).map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)?;
    Ok(())
}

/// Reads a tuning file.
pub fn read_tuning(path: &Path) -> Result<Tuning, AnyError> {
    let failed = |error: &dyn std::fmt::Display| format!("cannot read {}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    Ok(Tuning::from_json(&text).map_err(|error| failed(&error))?)
}

/// A figure with three digits, short where it is short: `0`, `0.123`, `4.5e-8`.
pub fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if (1e-2..1e4).contains(&size) => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    }
}
