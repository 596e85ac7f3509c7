//! GPUs that a compiler of Mesa compiles for without having one, and what has to be said to it.

use crate::error::CompileError;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A driver that compiles for GPUs that are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Mesa's Vulkan driver for AMD, whose null device takes the name of a chip.
    Radv,
    /// Mesa's Vulkan driver for NVIDIA, over a kernel driver that is faked by `mesa-drm-shim`.
    Nvk,
}

impl Driver {
    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Radv => "radv",
            Self::Nvk => "nvk",
        }
    }

    /// The beginning of the name of the file by which Vulkan's loader finds it.
    fn manifest(self) -> &'static str {
        match self {
            Self::Radv => "radeon_icd",
            Self::Nvk => "nouveau_icd",
        }
    }

    fn manifest_pattern(self) -> &'static str {
        match self {
            Self::Radv => "radeon_icd*.json",
            Self::Nvk => "nouveau_icd*.json",
        }
    }

    /// What to do where it is missing.
    pub(crate) fn hint(self) -> &'static str {
        match self {
            Self::Radv => {
                "install Mesa's Vulkan drivers and Vulkan's loader: on Debian or Ubuntu `apt-get install mesa-vulkan-drivers \
                 libvulkan1`. It runs on Linux only, and needs no GPU"
            }
            Self::Nvk => {
                "it comes with Mesa 24.1 or newer and needs mesa-drm-shim besides, as Debian 13 has both; \
                 scripts/compile-nvidia makes a folder with such a Debian and compiles in it"
            }
        }
    }
}

/// A GPU to compile for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name on the command line and in files.
    pub name: &'static str,
    /// What it is, for people.
    pub gpu: &'static str,
    /// Which driver compiles for it.
    pub driver: Driver,
    /// What the driver is told: `RADV_FORCE_FAMILY` or `NOUVEAU_CHIPSET`.
    code: &'static str,
    /// Whether reports are about it unless others are asked for.
    pub is_default: bool,
}

const fn amd(name: &'static str, gpu: &'static str, is_default: bool) -> Family {
    Family { name, gpu, driver: Driver::Radv, code: name, is_default }
}

const fn nvidia(name: &'static str, gpu: &'static str, code: &'static str) -> Family {
    Family { name, gpu, driver: Driver::Nvk, code, is_default: false }
}

/// The GPUs that are known. Which of them a driver has depends on its version: Debian 12's knows all of AMD's up to gfx1102.
pub const FAMILIES: [Family; 21] = [
    amd("navi21", "RX 6800 and 6900, RDNA 2", true),
    amd("gfx1100", "RX 7900, RDNA 3", true),
    amd("vangogh", "Steam Deck, RDNA 2", true),
    amd("vega20", "Radeon VII, GCN 5", true),
    amd("polaris10", "RX 480 and 580, GCN 4", true),
    amd("vega10", "RX Vega 64, GCN 5", false),
    amd("raven", "Ryzen 2000G, GCN 5", false),
    amd("renoir", "Ryzen 4000, GCN 5", false),
    amd("navi10", "RX 5700, RDNA 1", false),
    amd("navi14", "RX 5500, RDNA 1", false),
    amd("navi22", "RX 6700, RDNA 2", false),
    amd("navi23", "RX 6600, RDNA 2", false),
    amd("rembrandt", "Ryzen 6000, RDNA 2", false),
    amd("gfx1101", "RX 7800, RDNA 3, by Mesa 22", false),
    amd("gfx1102", "RX 7600, RDNA 3, by Mesa 22", false),
    amd("navi31", "RX 7900, RDNA 3, by Mesa 23 and newer", false),
    amd("gfx1150", "Ryzen AI 300, RDNA 3.5, by Mesa 24 and newer", false),
    amd("gfx1200", "RX 9060, RDNA 4, by Mesa 25 and newer", false),
    amd("gfx1201", "RX 9070, RDNA 4, by Mesa 25 and newer", false),
    nvidia("ampere", "RTX 30, by Mesa's compiler and not NVIDIA's", "0x172"),
    nvidia("turing", "RTX 20, by Mesa's compiler and not NVIDIA's", "0x162"),
];

/// Where distributions keep what Vulkan's loader reads, below each folder of data.
const MANIFESTS: &str = "vulkan/icd.d";
/// The library that fakes NVIDIA's side of the kernel.
const SHIM: &str = "libnouveau_noop_drm_shim.so";

impl Family {
    /// The one of this name.
    pub fn of(name: &str) -> Option<Self> {
        FAMILIES.into_iter().find(|family| family.name == name)
    }

    /// What a process needs in its environment to compile for it.
    ///
    /// # Errors
    /// [`CompileError::Missing`] where the driver is not installed.
    pub fn set_environment(self, command: &mut Command) -> Result<(), CompileError> {
        let manifest = self.manifest()?;
        // A driver's cache would be found, and left, in the user's home.
        command
            .env("VK_DRIVER_FILES", &manifest)
            .env("VK_ICD_FILENAMES", &manifest)
            .env("MESA_SHADER_CACHE_DISABLE", "true");
        for other in ["VK_ADD_DRIVER_FILES", "VK_INSTANCE_LAYERS", "VK_LOADER_LAYERS_ENABLE", "RADV_FORCE_FAMILY"] {
            command.env_remove(other);
        }
        match self.driver {
            Driver::Radv => command.env("RADV_FORCE_FAMILY", self.code),
            Driver::Nvk => command.env("NOUVEAU_CHIPSET", self.code).env("LD_PRELOAD", shim()?),
        };
        Ok(())
    }

    /// The driver's and its own name: `radv-navi21`.
    pub fn key(self) -> String {
        format!("{}-{}", self.driver.name(), self.name)
    }

    /// Whether its driver is installed.
    pub fn is_there(self) -> bool {
        self.manifest().is_ok() && (self.driver != Driver::Nvk || shim().is_ok())
    }

    fn manifest(self) -> Result<PathBuf, CompileError> {
        let begin = self.driver.manifest();
        let is_wanted = |name: &str| name.starts_with(begin) && name.ends_with(".json") && of_this_processor(name);
        let folders: Vec<PathBuf> = folders_of_data().into_iter().map(|folder| folder.join(MANIFESTS)).collect();
        first_file(&folders, is_wanted).ok_or_else(|| CompileError::Missing {
            wanted: self.driver.name(),
            file: self.driver.manifest_pattern(),
            folders,
            hint: self.driver.hint(),
        })
    }
}

/// A 32-bit driver stands beside the other one on some machines.
fn of_this_processor(name: &str) -> bool {
    let words = ["i686", "i386", "i586", "x86_64", "aarch64", "armv7", "armhf", "arm"];
    let named = words.into_iter().find(|word| name.contains(&format!(".{word}.")));
    named.is_none_or(|word| word == env::consts::ARCH)
}

fn folders_of_data() -> Vec<PathBuf> {
    let listed = env::var_os("XDG_DATA_DIRS").filter(|list| !list.is_empty());
    let listed = listed.unwrap_or_else(|| "/usr/local/share:/usr/share".into());
    let mut folders: Vec<PathBuf> = env::split_paths(&listed).collect();
    folders.extend(["/usr/share", "/etc"].map(PathBuf::from));
    let mut seen = Vec::new();
    folders.retain(|folder| {
        !seen.contains(folder) && {
            seen.push(folder.clone());
            true
        }
    });
    folders
}

fn first_file(folders: &[PathBuf], is_wanted: impl Fn(&str) -> bool) -> Option<PathBuf> {
    folders.iter().find_map(|folder| {
        let files = folder.read_dir().ok()?.flatten().map(|entry| entry.path());
        let mut files: Vec<PathBuf> =
            files.filter(|path| path.file_name().and_then(|it| it.to_str()).is_some_and(&is_wanted)).collect();
        files.sort();
        files.into_iter().next()
    })
}

fn shim() -> Result<PathBuf, CompileError> {
    let triplet = format!("/usr/lib/{}-linux-gnu", env::consts::ARCH);
    let folders: Vec<PathBuf> = [&*triplet, "/usr/lib64", "/usr/lib"].map(|it| Path::new(it).to_owned()).into();
    first_file(&folders, |name| name == SHIM).ok_or(CompileError::Missing {
        wanted: "mesa-drm-shim",
        file: SHIM,
        folders,
        hint: Driver::Nvk.hint(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_apart() {
        for family in FAMILIES {
            assert_eq!(Family::of(family.name), Some(family));
        }
        assert_eq!(Family::of("navi"), None);
    }

    #[test]
    fn drivers_of_other_processors_are_passed_over() {
        let own = format!("radeon_icd.{}.json", env::consts::ARCH);
        assert!(of_this_processor(&own) && of_this_processor("radeon_icd.json"));
        assert!(!of_this_processor("radeon_icd.i686.json"));
    }
}
