//! What comes out of an operation, and the files that it is written to.

use super::source::open;
use crate::AnyError;
use crate::output::{self, Claim, Folder, Replaces, another_or_force};
use batchnorm_wgpu::{DType, Operation, Shape};
use batchnorm_wgpu_check::run::Results;
use batchnorm_wgpu_check::stored::{
    Dtype, Entering, Kept, Tensors, encode, file_dtype, write_npy_header, write_safetensors,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The results of an operation, named as in the golden format.
pub fn names(operation: Operation) -> &'static [&'static str] {
    match operation {
        Operation::ForwardTraining => {
            &["y", "batch_mean", "batch_var", "running_mean", "running_var", "num_batches_tracked"]
        }
        Operation::Inference => &["y"],
        Operation::BackwardTraining | Operation::BackwardFrozen => &["dx", "dweight", "dbias", "dresidual"],
        Operation::Statistics => &["batch_mean", "batch_var", "running_mean", "running_var", "num_batches_tracked"],
    }
}

/// Results of x's shape and type.
const TENSORS: [&str; 3] = ["y", "dx", "dresidual"];

/// A result, as a file holds it.
pub struct ResultTensor<'a> {
    /// Its name.
    pub name: &'static str,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape.
    pub dims: Vec<usize>,
    values: Values<'a>,
}

/// Tensors stay where they are; what a file holds otherwise is small.
enum Values<'a> {
    Tensor(&'a [f32]),
    Small(Vec<f64>),
}

impl ResultTensor<'_> {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.values {
            Values::Tensor(values) => encode(self.dtype, values.iter().map(|&value| value.into()), out),
            Values::Small(values) => encode(self.dtype, values.iter().copied(), out),
        }
    }

    fn entering(&self) -> Entering<'_> {
        let write = Box::new(|out: &mut dyn Write| self.write(out));
        Entering { name: self.name.into(), dtype: self.dtype, dims: self.dims.clone(), write }
    }
}

/// The results that came.
pub fn outcomes<'a>(operation: Operation, results: &'a Results, shape: &Shape, dtype: DType) -> Vec<ResultTensor<'a>> {
    names(operation).iter().filter_map(|&name| outcome(name, results, shape, dtype)).collect()
}

fn outcome<'a>(name: &'static str, results: &'a Results, shape: &Shape, dtype: DType) -> Option<ResultTensor<'a>> {
    let tensor = |values: &'a Vec<f32>| (file_dtype(dtype), shape.dims().to_vec(), Values::Tensor(values));
    let channels = |values: &'a Vec<f32>| (Dtype::F32, vec![shape.channels()], Values::Tensor(values));
    let running = results.running.as_ref();
    let (dtype, dims, values) = match name {
        "y" => tensor(results.y.as_ref()?),
        "dx" => tensor(results.dx.as_ref()?),
        "dresidual" => tensor(results.dresidual.as_ref()?),
        "batch_mean" => (Dtype::F32, vec![shape.channels()], Values::Small(results.batch_mean.clone()?)),
        "batch_var" => channels(results.batch_var.as_ref()?),
        "running_mean" => channels(&running?.mean),
        "running_var" => channels(&running?.var),
        "num_batches_tracked" => (Dtype::I64, Vec::new(), Values::Small(vec![f64::from(*running?.tracked.first()?)])),
        "dweight" => channels(results.dgamma.as_ref()?),
        "dbias" => channels(results.dbeta.as_ref()?),
        _ => return None,
    };
    Some(ResultTensor { name, dtype, dims, values })
}

/// Where results are written.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// A folder, in which each gets a `.npy` file.
    Folder(PathBuf),
    /// One `.safetensors` file for all.
    Safetensors(PathBuf),
    /// A `.safetensors` file that exists and keeps its tensors.
    Added(PathBuf),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = PathBuf::from(text);
        match path.extension().and_then(|extension| extension.to_str()) {
            _ if output::is_folder(&path) => Ok(Self::Folder(path)),
            Some("safetensors") => Ok(Self::Safetensors(path)),
            Some("npy") => Err("expected a folder, in which each result gets a .npy file, or FILE.safetensors".into()),
            _ => Err(output::unknown_ending(&path)),
        }
    }
}

impl Target {
    /// Claims the files, and refuses what they cannot hold, before anything runs.
    ///
    /// # Errors
    /// bf16 tensors for `.npy` files; a file that exists; a tensor that is in the file to which results are added.
    pub fn claim(&self, operation: Operation, dtype: DType) -> Result<Claimed, AnyError> {
        let claim = |name: &&'static str| Ok::<_, AnyError>((*name, Claim::result(&self.file(name), Folder::Made)?));
        match (self, dtype) {
            (Self::Folder(folder), DType::Bf16) if names(operation).iter().any(|name| TENSORS.contains(name)) => {
                let file = folder.with_extension("safetensors");
                Err(format!(".npy has no bf16: write --out {} instead", file.display()).into())
            }
            (Self::Folder(_), _) => Ok(Claimed::Npy(names(operation).iter().map(claim).collect::<Result<_, _>>()?)),
            (Self::Safetensors(file), _) => {
                let advice = format!("add the results to it by --add-to {}, {}", file.display(), another_or_force());
                Ok(Claimed::Safetensors(Claim::new(file, Replaces::Nothing(advice), Folder::Exists)?))
            }
            (Self::Added(file), _) => {
                check_added(file, names(operation))?;
                Ok(Claimed::Added(Claim::new(file, Replaces::Anything, Folder::Exists)?))
            }
        }
    }

    /// The file that a result goes to.
    pub fn file(&self, name: &str) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.join(format!("{name}.npy")),
            Self::Safetensors(file) | Self::Added(file) => file.clone(),
        }
    }
}

/// The files of a target, claimed.
pub enum Claimed {
    /// One for each result.
    Npy(Vec<(&'static str, Claim)>),
    /// A new one for all.
    Safetensors(Claim),
    /// One that keeps its tensors.
    Added(Claim),
}

impl Claimed {
    /// Writes the results, each file whole or not at all.
    ///
    /// # Errors
    /// A file that cannot be written, or that came to be while the results were computed.
    pub fn write(&self, outcomes: &[ResultTensor<'_>]) -> Result<(), AnyError> {
        match self {
            Self::Npy(claims) => claims.iter().try_for_each(|(name, claim)| {
                let outcome = outcomes.iter().find(|outcome| outcome.name == *name);
                outcome.map_or(Ok(()), |outcome| write_npy(claim, outcome))
            }),
            Self::Safetensors(claim) => {
                let entering = outcomes.iter().map(ResultTensor::entering).collect();
                Ok(claim.write_by(|out| write_safetensors(out, &BTreeMap::new(), entering))?)
            }
            Self::Added(claim) => add(claim, outcomes),
        }
    }
}

fn write_npy(claim: &Claim, outcome: &ResultTensor<'_>) -> Result<(), AnyError> {
    let mut header = Vec::new();
    write_npy_header(outcome.dtype, &outcome.dims, &mut header)?;
    Ok(claim.write_by(|out| {
        out.write_all(&header)?;
        outcome.write(out)
    })?)
}

fn header(file: &Path) -> Result<Tensors, AnyError> {
    let (mut opened, size) = open(file)?;
    Tensors::read(&mut opened, size).map_err(|error| format!("{}: {error}", file.display()).into())
}

/// Refuses results that a file has already.
fn check_added(file: &Path, results: &[&str]) -> Result<(), AnyError> {
    let there = header(file)?.names();
    match results.iter().find(|name| there.iter().any(|one| one == *name)) {
        Some(name) if !output::force() => Err(format!(
            "{}: has a tensor {name} already; write to another file by --out, or replace the tensor with --force",
            file.display()
        )
        .into()),
        _ => Ok(()),
    }
}

/// Writes a file anew with its own tensors and texts, and the results.
fn add(claim: &Claim, outcomes: &[ResultTensor<'_>]) -> Result<(), AnyError> {
    let file = claim.path();
    // Something may have been added since the claim.
    check_added(file, &outcomes.iter().map(|outcome| outcome.name).collect::<Vec<_>>())?;
    let there = header(file)?;
    let kept = |name: &String| outcomes.iter().all(|outcome| outcome.name != name);
    let names = there.names().into_iter().filter(kept);
    let mut entering: Vec<_> = names.filter_map(|name| Some(copied(file, there.kept(&name)?, name))).collect();
    entering.extend(outcomes.iter().map(ResultTensor::entering));
    Ok(claim.write_by(|out| write_safetensors(out, &there.metadata(), entering))?)
}

/// A tensor that goes over from the file as it is.
fn copied(file: &Path, kept: Kept, name: String) -> Entering<'_> {
    let Kept { dtype, dims, range } = kept;
    let write = move |out: &mut dyn Write| {
        let mut from = File::open(file)?;
        from.seek(SeekFrom::Start(range.start))?;
        let length = range.end - range.start;
        match io::copy(&mut from.take(length), out)? {
            copied if copied == length => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    };
    Entering { name, dtype, dims, write: Box::new(write) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_folder_or_one_file() {
        let target = |text: &str| text.parse::<Target>();
        assert_eq!(target("out.d/").unwrap(), Target::Folder("out.d/".into()));
        assert_eq!(target("a/b.safetensors").unwrap().file("y"), PathBuf::from("a/b.safetensors"));
        assert_eq!(target("a").unwrap().file("y"), PathBuf::from("a/y.npy"));
        assert!(target("y.npy").unwrap_err().contains("folder"));
        assert!(target("o.pt").unwrap_err().contains("got the ending .pt"));
        let check = |text: &str| target(text).unwrap().claim(Operation::Inference, DType::Bf16).map(drop);
        assert!(check("a").unwrap_err().to_string().contains("a.safetensors"));
        assert!(check("a.safetensors").is_ok());
    }
}
