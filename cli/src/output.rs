//! Files and progress that all commands share.

use crate::AnyError;
use batchnorm_wgpu::Tuning;
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A progress bar on a terminal; elsewhere nothing.
pub fn progress(length: u64, label: &str) -> ProgressBar {
    let bar = ProgressBar::new(length).with_prefix(label.to_owned());
    // The template is a constant; should it ever be wrong, the default style serves.
    if let Ok(style) = ProgressStyle::with_template("{prefix:>12} {bar:40} {pos}/{len} {eta} {wide_msg}") {
        bar.set_style(style);
    }
    bar
}

/// Whether files that exist may be replaced.
static FORCE: AtomicBool = AtomicBool::new(false);

/// What `--force` says, once for all commands.
pub fn set_force(force: bool) {
    FORCE.store(force, Ordering::Relaxed);
}

/// Whether `--force` was given.
pub fn force() -> bool {
    FORCE.load(Ordering::Relaxed)
}

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// It would replace another.
    #[error("{} exists, and nothing was written; {advice}", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
        /// What to do.
        advice: String,
    },
    /// The system refused.
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Writes a report, whole or not at all; `-` is standard output. It replaces an earlier report of its kind, since CI servers
/// write the same file again and again; any other file only with `--force`.
///
/// # Errors
/// [`OutputError`].
pub fn write(path: &Path, contents: &[u8]) -> Result<(), AnyError> {
    if path == Path::new("-") {
        io::stdout().write_all(contents)?;
        return Ok(());
    }
    // A device or a pipe loses nothing, and reading it would wait for somebody to write.
    let is_file = path.metadata().is_ok_and(|about| about.is_file());
    if force() || (is_file && std::fs::read(path).is_ok_and(|old| is_alike(&old, contents))) {
        return Ok(replace(path, contents)?);
    }
    Ok(write_new(path, contents, || {
        "it is no report of this kind: name another file, or replace it with --force".into()
    })?)
}

/// Whether two reports are of one kind: JSON with mostly the same keys, or text that opens alike. A file that holds nothing is of
/// every kind.
fn is_alike(old: &[u8], new: &[u8]) -> bool {
    let keys = |text: &[u8]| serde_json::from_slice(text).ok().and_then(|value| keys(&value));
    match keys(new) {
        _ if old.is_empty() => true,
        Some(new) => keys(old).is_some_and(|old| {
            // Some keys are left out where there is nothing to say.
            let common = old.iter().filter(|key| new.contains(key)).count();
            3 * common >= 2 * old.len().max(new.len()) || old.is_empty() || new.is_empty()
        }),
        None => {
            // An HTML page says what it is in its title, other formats do at once.
            let opening = &new[..new.len().min(if new.starts_with(b"<!") { 200 } else { 60 })];
            old.starts_with(opening)
        }
    }
}

/// The keys of an object, or of the first of a list of objects; none of an empty list.
fn keys(value: &serde_json::Value) -> Option<Vec<String>> {
    match value {
        serde_json::Value::Array(list) => list.first().map_or(Some(Vec::new()), keys),
        other => other.as_object().map(|one| one.keys().cloned().collect()),
    }
}

/// Refuses a file that exists, unless there is `--force`. Asked before anything is computed, and again when it is written.
///
/// # Errors
/// [`OutputError::Exists`].
pub fn check_new(path: &Path, advice: impl FnOnce() -> String) -> Result<(), OutputError> {
    match path.symlink_metadata() {
        // Nothing is lost by writing to a device or a pipe.
        Ok(about) if !force() && (about.is_file() || about.is_symlink() || about.is_dir()) => {
            Err(OutputError::Exists { path: path.into(), advice: advice() })
        }
        _ => Ok(()),
    }
}

/// What to do about a result whose file exists.
pub fn another_or_force() -> String {
    "name another file, or replace it with --force".into()
}

/// Writes a result, whole or not at all, that replaces nothing but with `--force`.
///
/// # Errors
/// [`OutputError`].
pub fn write_new(path: &Path, contents: &[u8], advice: impl FnOnce() -> String) -> Result<(), OutputError> {
    check_new(path, advice)?;
    replace(path, contents)
}

/// Writes a file whole or not at all, whatever was there: under a temporary name first, then renamed.
///
/// # Errors
/// [`OutputError::Write`].
pub fn replace(path: &Path, contents: &[u8]) -> Result<(), OutputError> {
    replace_by(path, |file| file.write_all(contents))
}

/// The same, for contents that are written piece by piece.
///
/// # Errors
/// [`OutputError::Write`].
pub fn replace_by(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<(), OutputError> {
    let failed = |source| OutputError::Write { path: path.into(), source };
    if path.metadata().is_ok_and(|about| !about.is_file() && !about.is_dir()) {
        // A device or a pipe cannot be renamed to.
        return File::create(path).and_then(|file| finish(file, write)).map(drop).map_err(failed);
    }
    let temporary = temporary(path);
    let written = || {
        let file = finish(File::create_new(&temporary)?, write)?;
        // Renamed before its content is on the disk, the file would be empty after a loss of power.
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    written().map_err(|source| {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
        failed(source)
    })
}

fn finish(file: File, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<File> {
    let mut writer = BufWriter::new(file);
    write(&mut writer)?;
    writer.into_inner().map_err(io::IntoInnerError::into_error)
}

/// A name beside `path` that nothing else has.
fn temporary(path: &Path) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}

/// Whether a name that is given for results means a folder: it exists as one, ends in a slash, or has no ending.
pub fn is_folder(path: &Path) -> bool {
    let text = path.as_os_str().to_string_lossy();
    path.is_dir() || text.ends_with(['/', std::path::MAIN_SEPARATOR]) || path.extension().is_none()
}

/// Why a name that is given for results means neither a folder nor a file that can be written.
pub fn unknown_ending(path: &Path) -> String {
    let ending = path.extension().unwrap_or_default().display();
    format!(
        "expected FILE.safetensors, or a folder, got the ending .{ending}; a folder whose name has an ending is written with a \
         slash after it: {}/",
        path.display()
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("bn-output-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_report_replaces_only_its_like() {
        let folder = folder("report");
        let file = folder.join("report");
        for old in [b"" as &[u8], b"{\n  \"operation\": 1}"] {
            fs::write(&file, old).unwrap();
            write(&file, b"{\n  \"operation\": 2}").unwrap();
            assert_eq!(fs::read(&file).unwrap(), b"{\n  \"operation\": 2}");
        }
        for other in [b"{\n  \"operation\": 1, \"name\": \"package\"}" as &[u8], b"\x93NUMPY", b"{", b"# Notes"] {
            fs::write(&file, other).unwrap();
            let error = write(&file, b"{\n  \"operation\": 3}").unwrap_err().to_string();
            assert!(error.contains("--force") && error.contains("report exists"), "{error}");
            assert_eq!(fs::read(&file).unwrap(), other);
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_result_replaces_nothing() {
        let folder = folder("result");
        let file = folder.join("y.npy");
        write_new(&file, b"first", another_or_force).unwrap();
        let error = write_new(&file, b"second", another_or_force).unwrap_err();
        assert!(matches!(&error, OutputError::Exists { .. }), "{error}");
        assert_eq!(fs::read(&file).unwrap(), b"first");
        replace(&file, b"third").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"third");
        assert!(
            check_new(&folder, another_or_force).is_err() && check_new(&folder.join("new"), another_or_force).is_ok()
        );
        let missing = replace(&folder.join("missing").join("y.npy"), b"").unwrap_err().to_string();
        assert!(missing.contains("cannot be written"), "{missing}");
        let failed = replace_by(&folder.join("half"), |file| {
            file.write_all(b"half")?;
            Err(io::Error::other("no more"))
        });
        assert!(failed.unwrap_err().to_string().contains("no more"));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no partial file is left");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn reports_are_told_apart() {
        let page = |title: &str| {
            format!("<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>{:200}", "")
        };
        assert!(is_alike(page("Benchmarks").as_bytes(), page("Benchmarks").as_bytes()));
        assert!(!is_alike(page("My pages").as_bytes(), page("Benchmarks").as_bytes()));
        let junit = |root: &str| format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{root}");
        assert!(!is_alike(junit("<project>").as_bytes(), junit("<testsuites name=\"bn check\">").as_bytes()));
        assert!(is_alike(b"[]", b"[{\"a\": 1}]") && is_alike(b"[{\"a\": 2}]", b"[{\"a\": 1}]"));
        assert!(!is_alike(b"[{\"b\": 2}]", b"[{\"a\": 1}]") && !is_alike(b"{\"a\": 2}", b"{\"a\": 1, \"b\": 1}"));
        assert!(!is_alike(b"3", b"[{\"a\": 1}]") && !is_alike(b"[3]", b"[{\"a\": 1}]"));
        assert!(is_alike(b"{\"a\": 1, \"b\": 1, \"c\": 1}", b"{\"a\": 1, \"b\": 1}"), "a key left out");
    }

    #[cfg(unix)]
    #[test]
    fn a_device_takes_everything() {
        write(Path::new("/dev/null"), b"{}").unwrap();
        write_new(Path::new("/dev/null"), b"{}", another_or_force).unwrap();
    }

    #[test]
    fn names_without_an_ending_are_folders() {
        let folder = folder("with.ending");
        assert!(["out", "a/b", "out.d/", "."].iter().all(|name| is_folder(Path::new(name))) && is_folder(&folder));
        assert!(["o.pt", "a/b.npz", "o.safetensors"].iter().all(|name| !is_folder(Path::new(name))));
        assert!(unknown_ending(Path::new("o.pt")).contains("got the ending .pt"));
        fs::remove_dir_all(folder).unwrap();
    }
}
