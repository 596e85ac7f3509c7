//! Where a tensor is: in which file, and by which name.

use crate::AnyError;
use batchnorm_wgpu::checkpoint::{Foreign, spellings};
use batchnorm_wgpu_check::stored::{Tensors, UnreadTensor, npy_place};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A tensor in a file: `FILE.npy`, `FILE.safetensors` or `FILE.safetensors:NAME`.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorSource {
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

impl FromStr for TensorSource {
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
            _ => {
                let ending = Path::new(text).extension().and_then(|ending| ending.to_str());
                let hint = match ending.and_then(foreign) {
                    Some(Foreign { found, hint }) => format!("; {text} looks like {found}; {hint}"),
                    None => String::new(),
                };
                Err(format!("expected FILE.npy, FILE.safetensors or FILE.safetensors:NAME{hint}"))
            }
        }
    }
}

/// What files of an ending are that are not read.
fn foreign(ending: &str) -> Option<Foreign> {
    match ending {
        "pt" | "pth" | "ckpt" | "bin" => Some(Foreign::PICKLE),
        "npz" => Some(Foreign::NPZ),
        _ => None,
    }
}

impl fmt::Display for TensorSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Npy(file) | Self::Safetensors { file, name: None } => write!(f, "{}", file.display()),
            Self::Safetensors { file, name: Some(name) } => write!(f, "{}:{name}", file.display()),
        }
    }
}

/// A tensor that was found, still in its file.
#[derive(Debug)]
pub struct FoundTensor {
    /// Where, with its name.
    pub source: TensorSource,
    pub place: UnreadTensor,
}

impl FoundTensor {
    fn file(&self) -> &Path {
        match &self.source {
            TensorSource::Npy(file) | TensorSource::Safetensors { file, .. } => file,
        }
    }

    /// Its elements, each as `convert` makes it of its value.
    ///
    /// # Errors
    /// A file that cannot be read, or a type of elements that is not read.
    pub fn values<T: Clone>(&self, convert: impl Fn(f64) -> T) -> Result<Vec<T>, AnyError> {
        let (mut file, _) = open(self.file())?;
        self.place.read(&mut file, convert).map_err(|error| format!("{}: {error}", self.source).into())
    }
}

/// Finds tensors. Of a file of several only the header is read, once.
#[derive(Default)]
pub struct Files {
    headers: HashMap<PathBuf, Tensors>,
}

impl Files {
    /// The tensor at `source`: the only one, the one of its name, or the one that is called like the input.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged; a name that the file does not have, with those that it has.
    pub fn tensor(&mut self, source: &TensorSource, input: &str) -> Result<FoundTensor, AnyError> {
        let (file, found) = match source {
            TensorSource::Npy(path) => {
                let (mut file, size) = open(path)?;
                let place = npy_place(&mut file, size).map_err(|error| format!("{}: {error}", path.display()))?;
                return Ok(FoundTensor { source: source.clone(), place });
            }
            TensorSource::Safetensors { file, name: Some(name) } => (file, self.named(file, name)?),
            TensorSource::Safetensors { file, name: None } => (file, self.find(file, "", input)?),
        };
        let wanted = match source {
            TensorSource::Safetensors { name: Some(name), .. } => name,
            _ => input,
        };
        match found {
            Some(found) => Ok(found),
            None => {
                Err(format!("{}: no tensor {wanted:?}; it has {}", file.display(), self.names(file, wanted)?).into())
            }
        }
    }

    /// The tensor of a `.safetensors` file that an input may be, by PyTorch's name or another framework's after the prefix.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged; several tensors that could be meant.
    pub fn find(&mut self, file: &Path, prefix: &str, input: &str) -> Result<Option<FoundTensor>, AnyError> {
        let mut all = Vec::new();
        for name in spellings(input) {
            all.extend(self.named(file, &format!("{prefix}{name}"))?);
        }
        match all.as_slice() {
            [first, second, ..] => Err(format!(
                "{} and {} may both be the {input}; say which: --{} FILE:NAME",
                first.source,
                second.source,
                input.replace('_', "-")
            )
            .into()),
            _ => Ok(all.pop()),
        }
    }

    fn named(&mut self, file: &Path, name: &str) -> Result<Option<FoundTensor>, AnyError> {
        let source = TensorSource::Safetensors { file: file.into(), name: Some(name.into()) };
        Ok(self.header(file)?.place(name).map(|place| FoundTensor { source, place }))
    }

    /// The names of a `.safetensors` file in a sentence: all, or those that are most like the one that is wanted.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged.
    pub fn names(&mut self, file: &Path, wanted: &str) -> Result<String, AnyError> {
        const SHOWN: usize = 12;
        let mut names = self.header(file)?.names();
        let count = names.len();
        if count > SHOWN {
            names.sort_by(|a, b| similarity(wanted, b).total_cmp(&similarity(wanted, a)));
        }
        let shown = names[..count.min(SHOWN)].join(", ");
        Ok(match count {
            0 => "none".into(),
            1..=SHOWN => shown,
            more => format!("{shown} and {} more (bn run --list {} shows all)", more - SHOWN, file.display()),
        })
    }

    /// What to do about a prefix after which all names of the file go on with a separator; nothing where that is not so.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged.
    pub fn separator_hint(&mut self, file: &Path, prefix: &str) -> Result<String, AnyError> {
        let names = self.header(file)?.names();
        let follows = |separator: &str| names.iter().any(|name| name.starts_with(&format!("{prefix}{separator}")));
        let found = [".", "_", "/"].into_iter().find(|separator| !prefix.is_empty() && follows(separator));
        Ok(found.map_or(String::new(), |separator| {
            format!("; the prefix lacks its {separator:?}: give --prefix {prefix}{separator}")
        }))
    }

    /// What a `.safetensors` file holds.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged.
    pub fn header(&mut self, file: &Path) -> Result<&Tensors, AnyError> {
        Ok(match self.headers.entry(file.into()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => {
                let (mut opened, size) = open(file)?;
                let header = Tensors::read(&mut opened, size);
                free.insert(header.map_err(|error| format!("{}: {error}", file.display()))?)
            }
        })
    }
}

/// How alike two names are. What they end in counts as much as what they begin with.
fn similarity(wanted: &str, name: &str) -> f64 {
    strsim::normalized_damerau_levenshtein(wanted, name)
}

/// A file and its size.
///
/// # Errors
/// One that cannot be read.
pub fn open(path: &Path) -> Result<(BufReader<File>, u64), AnyError> {
    let failed = |error| format!("cannot read {}: {error}", path.display());
    let file = File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    match about.is_file() {
        true => Ok((BufReader::new(file), about.len())),
        false => {
            Err(format!("cannot read {}: expected a regular file, got a folder, a pipe or a device", path.display())
                .into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_prints() {
        let named = |file: &str, name: Option<&str>| TensorSource::Safetensors {
            file: file.into(),
            name: name.map(str::to_owned),
        };
        for (text, source) in [
            ("dir/x.npy", TensorSource::Npy("dir/x.npy".into())),
            ("C:\\x.npy", TensorSource::Npy("C:\\x.npy".into())),
            ("C:\\a.safetensors", named("C:\\a.safetensors", None)),
            ("a.safetensors:bn1.weight", named("a.safetensors", Some("bn1.weight"))),
            ("C:\\a.safetensors:x:0", named("C:\\a.safetensors", Some("x:0"))),
        ] {
            assert_eq!(text.parse::<TensorSource>().unwrap(), source);
            assert_eq!(source.to_string(), text);
        }
        assert!("x.npz".parse::<TensorSource>().unwrap_err().contains("numpy.save"));
        assert!("x.pt".parse::<TensorSource>().unwrap_err().contains("save_file"));
        assert!("x".parse::<TensorSource>().is_err());
    }
}
