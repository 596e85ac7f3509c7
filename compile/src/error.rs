//! What may go wrong.

use std::path::PathBuf;

/// Why there is no report of a compiler.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// naga does not take a shader.
    #[error("{0}")]
    Shader(String),
    /// naga does not write a shader in a language.
    #[error("naga cannot write this shader as {language}: {reason}")]
    Language {
        /// The language.
        language: &'static str,
        /// What naga says.
        reason: String,
    },
    /// A driver is not installed.
    #[error("{wanted} is not there: expected {file} in {}; {hint}", folders.iter().map(|it| it.display().to_string()).collect::<Vec<_>>().join(" or "))]
    Missing {
        /// What is missing.
        wanted: &'static str,
        /// The file that was looked for.
        file: &'static str,
        /// Where.
        folders: Vec<PathBuf>,
        /// What to do.
        hint: &'static str,
    },
    /// No Vulkan loader, or a driver that offers no such GPU.
    #[error("{driver} offers no {family}: {reason}. {hint}")]
    NoDevice {
        /// The driver.
        driver: &'static str,
        /// The GPU that was asked for.
        family: String,
        /// What the driver said.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// A process that compiles could not be started, or said what cannot be read.
    #[error("a process that compiles for {family}: {reason}")]
    Process {
        /// The GPU that it compiles for.
        family: String,
        /// What went wrong.
        reason: String,
    },
    /// The list of known faults is not one.
    #[error("the list of known faults: {0}")]
    Known(String),
}
