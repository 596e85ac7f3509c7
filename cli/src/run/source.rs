//! Where a tensor is: in which file, and by which name.

use crate::AnyError;
use batchnorm_wgpu_check::stored::Stored;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A tensor in a file: `FILE.npy`, `FILE.safetensors` or `FILE.safetensors:NAME`.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// The only tensor of a `.npy` file.
    Npy(PathBuf),
    /// One of the tensors of a `.safetensors` file; without a name, the one that is called like the input.
    Safetensors {
        /// The file.
        file: PathBuf,
        /// The tensor.
        name: Option<String>,
    },
}

impl Source {
    /// The same, with a name where it has none and needs one.
    pub fn or_called(self, called: &str) -> Self {
        match self {
            Self::Safetensors { file, name: None } => Self::Safetensors { file, name: Some(called.into()) },
            named => named,
        }
    }
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXTENSION: &str = ".safetensors";
        // The colon of a Windows drive does not follow the extension.
        if let Some((stem, name)) = text.split_once(".safetensors:") {
            return Ok(Self::Safetensors { file: format!("{stem}{EXTENSION}").into(), name: Some(name.into()) });
        }
        match text {
            _ if text.ends_with(".npy") => Ok(Self::Npy(text.into())),
            _ if text.ends_with(EXTENSION) => Ok(Self::Safetensors { file: text.into(), name: None }),
            _ => Err("expected FILE.npy, FILE.safetensors or FILE.safetensors:NAME".into()),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Npy(file) | Self::Safetensors { file, name: None } => write!(f, "{}", file.display()),
            Self::Safetensors { file, name: Some(name) } => write!(f, "{}:{name}", file.display()),
        }
    }
}

/// Reads tensors. A file of several tensors is read once.
#[derive(Default)]
pub struct Files {
    read: HashMap<PathBuf, Vec<u8>>,
}

impl Files {
    /// The tensor at `source`, which has a name where its file has several.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged; a name that the file does not have, with those that it has.
    pub fn tensor(&mut self, source: &Source) -> Result<Stored, AnyError> {
        match source {
            Source::Npy(file) => {
                Stored::parse_npy(&read(file)?).map_err(|error| format!("{}: {error}", file.display()).into())
            }
            Source::Safetensors { file, name } => {
                let name = name.as_deref().unwrap_or_default();
                let found = self.find(file, name)?;
                found.ok_or_else(|| match self.names(file) {
                    Ok(names) => format!("{}: no tensor {name:?}; it has {names}", file.display()).into(),
                    Err(error) => error,
                })
            }
        }
    }

    /// The tensor of a `.safetensors` file by its name, where there is one.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged.
    pub fn find(&mut self, file: &Path, name: &str) -> Result<Option<Stored>, AnyError> {
        let found = Stored::parse_safetensors(self.bytes(file)?, name);
        found.map_err(|error| format!("{}: {name}: {error}", file.display()).into())
    }

    /// Names of some tensors of a `.safetensors` file, in a sentence.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged.
    pub fn names(&mut self, file: &Path) -> Result<String, AnyError> {
        const SHOWN: usize = 12;
        let names = Stored::names_in_safetensors(self.bytes(file)?);
        let names = names.map_err(|error| format!("{}: {error}", file.display()))?;
        let shown = names[..names.len().min(SHOWN)].join(", ");
        Ok(match names.len() {
            0 => "none".into(),
            1..=SHOWN => shown,
            more => format!("{shown} and {} more", more - SHOWN),
        })
    }

    fn bytes(&mut self, file: &Path) -> Result<&[u8], AnyError> {
        Ok(match self.read.entry(file.into()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => free.insert(read(file)?),
        })
    }
}

fn read(file: &Path) -> Result<Vec<u8>, AnyError> {
    Ok(std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_prints() {
        let named =
            |file: &str, name: Option<&str>| Source::Safetensors { file: file.into(), name: name.map(str::to_owned) };
        for (text, source) in [
            ("dir/x.npy", Source::Npy("dir/x.npy".into())),
            ("C:\\x.npy", Source::Npy("C:\\x.npy".into())),
            ("C:\\a.safetensors", named("C:\\a.safetensors", None)),
            ("a.safetensors:bn1.weight", named("a.safetensors", Some("bn1.weight"))),
            ("C:\\a.safetensors:x:0", named("C:\\a.safetensors", Some("x:0"))),
        ] {
            assert_eq!(text.parse::<Source>().unwrap(), source);
            assert_eq!(source.to_string(), text);
        }
        assert!("x.npz".parse::<Source>().is_err());
        assert!("x".parse::<Source>().is_err());
    }
}
