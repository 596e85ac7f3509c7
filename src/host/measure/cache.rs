//! What was measured, kept from run to run in the user's cache directory.

use super::{known, measured_on, points, wanted};
use crate::capabilities::adapter_key;
use crate::error::Result;
use crate::gpu::wait::driven;
use crate::operation::Operation;
use crate::shape::Shape;
use crate::tuning::Tuning;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fs, io, process};

/// Where measured tunings are kept from run to run: in a folder, a file for each version of the crate, adapter, driver, and what a
/// device was opened with. The files may be deleted at any time.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// In the folder `batchnorm-wgpu` of the user's cache directory: `$XDG_CACHE_HOME` or `~/.cache` on Linux, `~/Library/Caches` on
    /// macOS, `%LOCALAPPDATA%` on Windows. Where there is no such directory, as in a browser, nothing is kept.
    pub fn of_user() -> Self {
        Self { folder: dirs::cache_dir().map(|folder| folder.join("batchnorm-wgpu")) }
    }

    /// In a folder of one's own, which is made when something is kept there.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(folder.into()) }
    }

    /// The file for a device, whether it is there or not; `None` where nothing is kept.
    pub fn file_for(&self, device: &wgpu::Device) -> Option<PathBuf> {
        self.file_named(&format!("{} {}", adapter_of(device), measured_on(device)))
    }

    fn file_named(&self, text: &str) -> Option<PathBuf> {
        let name = words(text);
        let name: String = name.chars().take(LONGEST_NAME).collect();
        let folder = self.folder.as_ref()?.join(env!("CARGO_PKG_VERSION"));
        Some(folder.join(format!("{}.json", name.trim_end_matches(['-', '.']))))
    }

    /// [`Tuning::measure`], but only for what is not in the cache: what is there costs nothing, and the next run measures what the budget
    /// left out. A file that is damaged or of another driver is replaced. Where none can be written, every run measures again. Both are
    /// logged at the level `warn`. Blocks; [`Cache::tuning_async`] does not.
    ///
    /// # Errors
    /// As [`Tuning::measure`].
    pub fn tuning(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        shapes: &[Shape],
        budget: Duration,
    ) -> Result<Tuning> {
        driven(device, "measuring", self.tuning_async(device, queue, shapes, budget))
    }

    /// As [`Cache::tuning`], without blocking; on native backends somebody else must poll the device while it is awaited.
    ///
    /// # Errors
    /// As [`Tuning::measure`].
    pub async fn tuning_async(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        shapes: &[Shape],
        budget: Duration,
    ) -> Result<Tuning> {
        let file = self.file_for(device);
        let kept = || {
            let empty = || Tuning { adapter: adapter_of(device), measured: measured_on(device), ..Tuning::none() };
            file.as_deref().and_then(|file| read(file, device)).unwrap_or_else(empty)
        };
        let before = kept();
        let is_kept = |(operation, shape): &(Operation, &Shape)| {
            before.points.iter().any(|point| point.is_about(*operation, shape))
        };
        let new: Vec<_> = wanted(shapes).into_iter().filter(|wanted| !is_kept(wanted)).collect();
        let found = points(device, queue, &new, budget).await?;
        if found.is_empty() {
            return Ok(Tuning { measured: before.measured, ..known(device) }.with_points(before.points));
        }
        // Another program may have written meanwhile.
        let all = kept().with_points(found);
        keep(file.as_deref(), &all);
        Ok(Tuning { measured: all.measured, ..known(device) }.with_points(all.points))
    }
}

fn adapter_of(device: &wgpu::Device) -> String {
    adapter_key(&device.adapter_info())
}

/// Characters of a file's name, which some systems limit to 255 bytes.
const LONGEST_NAME: usize = 120;

/// What a file name can hold of a text, without blanks.
fn words(text: &str) -> String {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

/// What an earlier run measured; none where there is no such file, or not of this adapter, driver and version.
fn read(file: &Path, device: &wgpu::Device) -> Option<Tuning> {
    read_of(file, &adapter_of(device), &measured_on(device))
}

fn read_of(file: &Path, adapter: &str, measured: &str) -> Option<Tuning> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return ignored(file, &error.to_string()),
    };
    let tuning = match Tuning::from_json(&text) {
        Ok(tuning) => tuning,
        Err(error) => return ignored(file, &error.to_string()),
    };
    if (tuning.adapter.as_str(), tuning.measured.as_str()) != (adapter, measured) {
        let found = format!(
            "expected what was measured on {adapter} with {measured}, found {} with {}",
            tuning.adapter, tuning.measured
        );
        return ignored(file, &found);
    }
    Some(tuning)
}

fn ignored(file: &Path, why: &str) -> Option<Tuning> {
    log::warn!("{}: ignored, and measured anew: {why}", file.display());
    None
}

/// Writes the file, or says in the log why not: measuring again is no failure.
fn keep(file: Option<&Path>, tuning: &Tuning) {
    let Some(file) = file.filter(|_| !tuning.points.is_empty()) else { return };
    if let Err(error) = write(file, &tuning.to_json()) {
        log::warn!("{}: not kept, to be measured again next time: {error}", file.display());
    }
}

/// Files written by this process: two threads must not share one.
static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// Writes beside it and renames, so that nobody reads half a file.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let folder = file.parent().ok_or(io::ErrorKind::NotFound)?;
    fs::create_dir_all(folder)?;
    let beside = file.with_extension(format!("{}-{}.new", process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed)));
    let written = fs::write(&beside, text).and_then(|()| fs::rename(&beside, file));
    if written.is_err() {
        // Whatever is left of it; the error that counts is the first one.
        fs::remove_file(&beside).ok();
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_after_what_was_measured() {
        let cache = Cache::in_folder("cache");
        let name = |text: &str| {
            let file = cache.file_named(text).unwrap();
            assert_eq!(file.parent().unwrap(), Path::new("cache").join(env!("CARGO_PKG_VERSION")));
            file.file_name().unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(name("a-card-vulkan Mesa 22.3.6 (LLVM 15), \"so\""), "a-card-vulkan-mesa-22.3.6-llvm-15-so.json");
        assert_eq!(name("card ../../etc"), "card-..-..-etc.json");
        assert!(name(&"long ".repeat(100)).len() < 130);
    }

    #[test]
    fn only_what_was_measured_here_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = Cache::in_folder(folder.path()).file_named("a card").unwrap();
        assert_eq!(read_of(&file, "a card", "driver 1"), None);
        let points = Tuning::all_built_in().unwrap()[0].1.points.clone();
        let tuning = Tuning { adapter: "a card".into(), measured: "driver 1".into(), points, ..Tuning::none() };
        keep(Some(&file), &tuning);
        assert_eq!(read_of(&file, "a card", "driver 1"), Some(tuning.clone()));
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
        // Of another driver, of another adapter, and half a file.
        assert_eq!(read_of(&file, "a card", "driver 2"), None);
        assert_eq!(read_of(&file, "another", "driver 1"), None);
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, &text[..text.len() / 2]).unwrap();
        assert_eq!(read_of(&file, "a card", "driver 1"), None);
        // A folder where a file should be cannot be replaced; that is no failure.
        let blocked = folder.path().join("blocked");
        fs::create_dir_all(blocked.join("in the way")).unwrap();
        keep(Some(&blocked), &tuning);
        assert!(blocked.is_dir());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "something was left beside it");
    }
}
