//! Files and progress that all commands share.

use crate::{AnyError, stream};
use batchnorm_wgpu::Tuning;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    /// It has the name of a folder.
    #[error("{} is a folder, and nothing was written; name a file", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// There is no folder for it.
    #[error("{}: there is no folder {}; make it, or name another file", path.display(), folder.display())]
    NoFolder {
        /// The file.
        path: PathBuf,
        /// The folder that is missing, or is none.
        folder: PathBuf,
    },
    /// Two results would be written to one file.
    #[error("{} is named twice; name a file of its own for each output", path.display())]
    Twice {
        /// The file, or `-`.
        path: PathBuf,
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

/// What tells reports of one kind from every other file.
#[derive(Clone, Copy, Debug)]
pub enum ReportKind {
    /// JSON: the keys of the object, or of the first in a list of objects, that reports of this kind always have.
    Json(&'static [&'static str]),
    /// Text: words near its beginning.
    Text(&'static str),
}

impl ReportKind {
    /// Whether a file is of this kind. One that holds nothing, or an empty list, is of every kind.
    fn is_of(self, file: &[u8]) -> bool {
        match self {
            _ if file.is_empty() => true,
            Self::Json(keys) => serde_json::from_slice(file).is_ok_and(|value| has_keys(&value, keys)),
            Self::Text(words) => file[..file.len().min(300)].windows(words.len()).any(|text| text == words.as_bytes()),
        }
    }
}

fn has_keys(value: &serde_json::Value, keys: &[&str]) -> bool {
    match value {
        serde_json::Value::Array(list) => list.first().is_none_or(|first| has_keys(first, keys)),
        other => keys.iter().all(|key| other.get(key).is_some()),
    }
}

/// What a file may replace without `--force`.
#[derive(Clone, Debug)]
pub enum Replaces {
    /// An earlier report of its kind: CI servers write the same file again and again.
    Reports(ReportKind),
    /// Nothing; and what to do where something is there.
    Nothing(String),
    /// What is there: the file that the command goes on with.
    Anything,
}

/// What becomes of a folder that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folder {
    /// It is refused.
    Exists,
    /// It is made when the file is written.
    Made,
}

/// The files that are going to be written, and `-` for standard output.
static CLAIMED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn claimed() -> MutexGuard<'static, Vec<PathBuf>> {
    CLAIMED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a file is still going to be written.
pub fn is_awaited() -> bool {
    claimed().iter().any(|path| path != STANDARD_OUTPUT)
}

const STANDARD_OUTPUT: &str = "-";

/// A file that is going to be written. Commands claim their files before they begin, so that what cannot be written is told
/// before the work and not after it.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    replaces: Replaces,
    folder: Folder,
    /// As it stands in [`CLAIMED`].
    whole: PathBuf,
    /// Whether what is there is ours.
    written: Cell<bool>,
}

impl Claim {
    /// Claims a file.
    ///
    /// # Errors
    /// [`OutputError`]: the file exists and is not to be replaced, cannot be written, or is claimed already.
    pub fn new(path: &Path, replaces: Replaces, folder: Folder) -> Result<Self, OutputError> {
        let whole = whole(path);
        let claim = Self { path: path.into(), replaces, folder, whole: whole.clone(), written: Cell::new(false) };
        let checked = claim.check_replaced().and_then(|()| claim.check_writable());
        let mut claimed = claimed();
        let twice = claimed.contains(&whole) && !is_device(path);
        // Released when it is dropped, with an error too.
        claimed.push(whole);
        drop(claimed);
        match twice {
            true => Err(OutputError::Twice { path: path.into() }),
            false => checked.map(|()| claim),
        }
    }

    /// Claims the file of a report, where one was asked for; `-` is standard output.
    ///
    /// # Errors
    /// As for [`Claim::new`].
    pub fn report(path: Option<&Path>, kind: ReportKind) -> Result<Option<Self>, OutputError> {
        path.map(|path| Self::new(path, Replaces::Reports(kind), Folder::Exists)).transpose()
    }

    /// Claims the file of a result, which replaces nothing.
    ///
    /// # Errors
    /// As for [`Claim::new`].
    pub fn result(path: &Path, folder: Folder) -> Result<Self, OutputError> {
        Self::new(path, Replaces::Nothing(another_or_force()), folder)
    }

    /// The file, or `-`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is standard output, which holds nothing else then.
    pub fn is_standard_output(&self) -> bool {
        self.path == Path::new(STANDARD_OUTPUT) && matches!(self.replaces, Replaces::Reports(_))
    }

    /// Refuses to replace what is there and must stay. A device or a pipe loses nothing.
    fn check_replaced(&self) -> Result<(), OutputError> {
        let path = &self.path;
        let exists = |advice: String| Err(OutputError::Exists { path: path.clone(), advice });
        if self.is_standard_output() || self.written.get() || is_device(path) {
            return Ok(());
        }
        let Ok(there) = path.symlink_metadata() else { return Ok(()) };
        if path.is_dir() {
            return Err(OutputError::Folder { path: path.clone() });
        }
        match &self.replaces {
            _ if force() => Ok(()),
            _ if there.is_file() && there.permissions().readonly() => {
                exists(format!("it is read-only: {}", another_or_force()))
            }
            Replaces::Anything => Ok(()),
            // Reading anything but a file would wait for somebody to write.
            Replaces::Reports(kind) if path.is_file() && fs::read(path).is_ok_and(|file| kind.is_of(&file)) => Ok(()),
            Replaces::Reports(_) => exists(format!("it is no report of this kind: {}", another_or_force())),
            Replaces::Nothing(advice) => exists(advice.clone()),
        }
    }

    /// Refuses what the system will not write, by making the temporary file that comes first.
    fn check_writable(&self) -> Result<(), OutputError> {
        if self.is_standard_output() || is_device(&self.path) {
            return Ok(());
        }
        let folder = match self.folder {
            Folder::Exists => parent(&self.path),
            // The nearest that there is. Of a relative path that is the current folder in the end.
            Folder::Made => parent(&self.path).ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("")),
        };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        if !folder.is_dir() {
            return Err(OutputError::NoFolder { path: self.path.clone(), folder: folder.into() });
        }
        let probe = folder.join(temporary(&self.path).file_name().unwrap_or_default());
        File::create_new(&probe)
            .and_then(|_| fs::remove_file(&probe))
            .map_err(|source| OutputError::Write { path: self.path.clone(), source })
    }

    /// Writes the file, whole or not at all. What came to be there since the claim is not replaced either.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn write(&self, contents: &[u8]) -> Result<(), OutputError> {
        match self.is_standard_output() {
            true => {
                stream::bytes(contents);
                Ok(())
            }
            false => self.write_by(|file| file.write_all(contents)),
        }
    }

    /// The same as JSON.
    ///
    /// # Errors
    /// [`OutputError`], or what cannot be JSON.
    pub fn write_json(&self, contents: &impl Serialize) -> Result<(), AnyError> {
        Ok(self.write((serde_json::to_string_pretty(contents)? + "\n").as_bytes())?)
    }

    /// The same for a file, piece by piece.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn write_by(&self, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<(), OutputError> {
        self.check_replaced()?;
        if self.folder == Folder::Made {
            let folder = parent(&self.path);
            fs::create_dir_all(folder).map_err(|source| OutputError::Write { path: folder.into(), source })?;
        }
        replace_by(&self.path, write)?;
        self.written.set(true);
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claimed = claimed();
        if let Some(i) = claimed.iter().position(|path| *path == self.whole) {
            claimed.swap_remove(i);
        }
    }
}

/// One name for a file, however it is called.
fn whole(path: &Path) -> PathBuf {
    let folder = parent(path);
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    match (path == Path::new(STANDARD_OUTPUT), folder.canonicalize(), path.file_name()) {
        (false, Ok(folder), Some(name)) => folder.join(name),
        _ => path.into(),
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// Whether it is a device or a pipe, perhaps behind a link such as `/dev/stdout`.
fn is_device(path: &Path) -> bool {
    path.metadata().is_ok_and(|about| !about.is_file() && !about.is_dir())
}

/// What to do about a result whose file exists.
pub fn another_or_force() -> String {
    "name another file, or replace it with --force".into()
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
fn replace_by(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<(), OutputError> {
    let failed = |source| OutputError::Write { path: path.into(), source };
    if is_device(path) {
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

/// A file name that ends as the format does that is written, or has no ending.
fn named(text: &str, format: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension() {
        Some(ending) if !ending.eq_ignore_ascii_case(format) => {
            Err(format!("expected FILE.{format}, which is what is written, got the ending .{}", ending.display()))
        }
        _ => Ok(path),
    }
}

/// The name of a file of tensors.
pub fn safetensors(text: &str) -> Result<PathBuf, String> {
    named(text, "safetensors")
}

/// The name of a drawing.
pub fn svg(text: &str) -> Result<PathBuf, String> {
    named(text, "svg")
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

    const NUMBERS: ReportKind = ReportKind::Json(&["operation", "number"]);

    fn report(path: &Path) -> Result<Claim, OutputError> {
        Claim::new(path, Replaces::Reports(NUMBERS), Folder::Exists)
    }

    #[test]
    fn a_report_replaces_only_its_like() {
        let folder = folder("report");
        let file = folder.join("report");
        for old in [b"" as &[u8], b"[]", b"{\"number\": 1, \"operation\": 1, \"more\": 1}"] {
            fs::write(&file, old).unwrap();
            report(&file).unwrap().write_json(&"new").unwrap();
            assert_eq!(fs::read(&file).unwrap(), b"\"new\"\n");
        }
        for other in [b"{\"operation\": 1}" as &[u8], b"[3]", b"3", b"\x93NUMPY", b"{", b"# Notes"] {
            fs::write(&file, other).unwrap();
            let error = report(&file).unwrap_err().to_string();
            assert!(error.contains("--force") && error.contains("report exists"), "{error}");
            assert_eq!(fs::read(&file).unwrap(), other);
        }
        let text = ReportKind::Text("<title>Mine</title>");
        assert!(text.is_of(b"<html><title>Mine</title>") && !text.is_of(b"<html><title>Other</title>"));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_result_replaces_nothing() {
        let folder = folder("result");
        let file = folder.join("y.npy");
        let first = Claim::result(&file, Folder::Exists).unwrap();
        first.write(b"first").unwrap();
        first.write(b"first again").unwrap();
        drop(first);
        let error = Claim::result(&file, Folder::Exists).unwrap_err();
        assert!(matches!(&error, OutputError::Exists { .. }), "{error}");
        Claim::new(&file, Replaces::Anything, Folder::Exists).unwrap().write(b"third").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"third");
        // What comes to be there meanwhile stays too.
        let late = folder.join("late");
        let claim = Claim::result(&late, Folder::Exists).unwrap();
        fs::write(&late, "other").unwrap();
        assert!(matches!(claim.write(b"late").unwrap_err(), OutputError::Exists { .. }));
        assert_eq!(fs::read(&late).unwrap(), b"other");
        let failed = Claim::result(&folder.join("half"), Folder::Exists).unwrap().write_by(|file| {
            file.write_all(b"half")?;
            Err(io::Error::other("no more"))
        });
        assert!(failed.unwrap_err().to_string().contains("no more"));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "no partial file is left");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_cannot_be_written_cannot_be_claimed() {
        let folder = folder("claim");
        let missing = folder.join("missing").join("y.npy");
        let error = Claim::result(&missing, Folder::Exists).unwrap_err();
        assert!(matches!(&error, OutputError::NoFolder { .. }), "{error}");
        let made = Claim::result(&missing, Folder::Made).unwrap();
        assert!(!folder.join("missing").exists(), "nothing is made before it is needed");
        made.write(b"y").unwrap();
        assert_eq!(fs::read(&missing).unwrap(), b"y");
        for made in [Folder::Exists, Folder::Made] {
            // A file is no folder.
            let error = Claim::result(&missing.join("y.npy"), made).unwrap_err();
            assert!(matches!(&error, OutputError::NoFolder { .. }), "{error}");
            let error = Claim::result(&folder, made).unwrap_err();
            assert!(matches!(&error, OutputError::Folder { .. }), "{error}");
        }
        let old = folder.join("old");
        fs::write(&old, "[]").unwrap();
        let mut permissions = old.metadata().unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&old, permissions).unwrap();
        assert!(report(&old).unwrap_err().to_string().contains("read-only"));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_is_claimed_once_at_a_time() {
        let folder = folder("twice");
        let claim = report(&folder.join("one")).unwrap();
        let again = report(&folder.join(".").join("one")).unwrap_err();
        assert!(matches!(&again, OutputError::Twice { .. }), "{again}");
        assert!(is_awaited());
        drop(claim);
        report(&folder.join("one")).unwrap();
        fs::remove_dir_all(folder).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_device_takes_everything() {
        let link = folder("device").join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        for device in [Path::new("/dev/null"), &link] {
            report(device).unwrap().write(b"{}").unwrap();
            Claim::result(device, Folder::Exists).unwrap().write(b"{}").unwrap();
        }
        assert!(link.is_symlink());
        fs::remove_dir_all(link.parent().unwrap()).unwrap();
    }

    #[test]
    fn endings_say_what_is_written() {
        assert!(svg("a/b.svg").is_ok() && svg("a.d/b").is_ok() && safetensors("a.SAFETENSORS").is_ok());
        assert!(svg("chart.png").unwrap_err().contains("FILE.svg"));
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
