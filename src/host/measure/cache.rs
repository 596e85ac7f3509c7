//! What was measured, kept from run to run in the user's cache directory.

use super::{OPERATIONS, known, measured_on, points};
use crate::capabilities::adapter_key;
use crate::error::Result;
use crate::gpu::wait::driven;
use crate::operation::Operation;
use crate::shape::Shape;
use crate::tuning::Tuning;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io, process};

/// Where measured tunings are kept from run to run: in a folder, a file for each version of the crate, adapter and driver. The files
/// may be deleted at any time.
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

    /// The file for an adapter, whether it is there or not; `None` where nothing is kept.
    pub fn file_for(&self, info: &wgpu::AdapterInfo) -> Option<PathBuf> {
        let name = words(&format!("{} {} {}", adapter_key(info), info.driver, info.driver_info));
        let name: String = name.chars().take(LONGEST_NAME).collect();
        let folder = self.folder.as_ref()?.join(env!("CARGO_PKG_VERSION"));
        Some(folder.join(format!("{}.json", name.trim_end_matches(['-', '.']))))
    }

    /// [`Tuning::measure`], but only for what is not in the cache; what is there costs nothing, and what a budget left out is measured
    /// by the next run. What it finds is kept. A file
    /// that is damaged, or of another driver, is replaced; where none can be written, all is measured again in every run. The log
    /// says either at the level `warn`. Blocks; [`Cache::tuning_async`] does not.
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
        driven(device, self.tuning_async(device, queue, shapes, budget))
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
        let info = device.adapter_info();
        let file = self.file_for(&info);
        let empty = || Tuning { adapter: adapter_key(&info), measured: measured_on(&info), ..Tuning::none() };
        let kept = file.as_deref().and_then(|file| read(file, &info)).unwrap_or_else(empty);
        let wanted = shapes.iter().flat_map(|shape| OPERATIONS.map(|operation| (operation, shape)));
        let is_new = |(operation, shape): &(Operation, &Shape)| {
            !kept.points.iter().any(|point| point.is_about(*operation, shape))
        };
        let new: Vec<(Operation, &Shape)> = wanted.filter(is_new).collect();
        let found = points(device, queue, &new, budget).await?;
        let all = match found.is_empty() {
            true => kept,
            false => kept.with_points(found),
        };
        if !new.is_empty() {
            keep(file.as_deref(), &all);
        }
        Ok(Tuning { measured: all.measured, ..known(device) }.with_points(all.points))
    }
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
fn read(file: &Path, info: &wgpu::AdapterInfo) -> Option<Tuning> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return ignored(file, &error.to_string()),
    };
    let tuning = match Tuning::from_json(&text) {
        Ok(tuning) => tuning,
        Err(error) => return ignored(file, &error.to_string()),
    };
    let (adapter, measured) = (adapter_key(info), measured_on(info));
    if (&tuning.adapter, &tuning.measured) != (&adapter, &measured) {
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

/// At once, so that no other process reads half a file.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let folder = file.parent().ok_or(io::ErrorKind::NotFound)?;
    fs::create_dir_all(folder)?;
    let beside = file.with_extension(format!("{}.new", process::id()));
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

    fn info(driver_info: &str) -> wgpu::AdapterInfo {
        wgpu::AdapterInfo {
            name: "A Card/2 (of \"many\")".into(),
            driver: "Driver".into(),
            driver_info: driver_info.into(),
            ..wgpu::AdapterInfo::new(wgpu::DeviceType::DiscreteGpu, wgpu::Backend::Vulkan)
        }
    }

    #[test]
    fn files_are_named_after_adapter_and_driver() {
        let cache = Cache::in_folder("cache");
        let name = |driver_info: &str| {
            let file = cache.file_for(&info(driver_info)).unwrap();
            assert_eq!(file.parent().unwrap(), Path::new("cache").join(env!("CARGO_PKG_VERSION")));
            file.file_name().unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(name("Mesa 22.3.6 (LLVM 15)"), "a-card-2-of-many-vulkan-driver-mesa-22.3.6-llvm-15.json");
        assert_eq!(name("../../etc"), "a-card-2-of-many-vulkan-driver-..-..-etc.json");
        assert_ne!(name("1"), name("2"));
        assert!(name(&"long ".repeat(100)).len() < 130);
    }

    #[test]
    fn only_what_was_measured_here_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = Cache::in_folder(folder.path()).file_for(&info("1")).unwrap();
        assert_eq!(read(&file, &info("1")), None);
        let tuning = Tuning { adapter: adapter_key(&info("1")), measured: measured_on(&info("1")), ..Tuning::none() };
        let tuning = tuning.with_points(Tuning::all_built_in().unwrap()[0].1.points.clone());
        keep(Some(&file), &tuning);
        assert_eq!(read(&file, &info("1")), Some(tuning.clone()));
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
        // Of another driver, of another adapter, and half a file.
        assert_eq!(read(&file, &info("2")), None);
        assert_eq!(read(&file, &wgpu::AdapterInfo { name: "another".into(), ..info("1") }), None);
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, &text[..text.len() / 2]).unwrap();
        assert_eq!(read(&file, &info("1")), None);
        // A folder where a file should be cannot be replaced; that is no failure.
        let blocked = folder.path().join("blocked");
        fs::create_dir_all(blocked.join("in the way")).unwrap();
        keep(Some(&blocked), &tuning);
        assert!(blocked.is_dir());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "something was left beside it");
    }
}
