//! What comes out of an operation, and the files that it is written to.

use crate::{AnyError, output};
use batchnorm_wgpu::{DType, Operation, Shape};
use batchnorm_wgpu_check::run::Results;
use batchnorm_wgpu_check::stored::{Dtype, Stored, file_dtype};
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

/// The results that came, as files hold them.
pub fn outputs(operation: Operation, results: &Results, shape: &Shape, dtype: DType) -> Vec<(&'static str, Stored)> {
    let of = |name: &&'static str| Some((*name, output_of(name, results, shape, dtype)?));
    names(operation).iter().filter_map(of).collect()
}

fn output_of(name: &str, results: &Results, shape: &Shape, dtype: DType) -> Option<Stored> {
    let tensor = |values: &Vec<f32>| (file_dtype(dtype), shape.dims().to_vec(), widen(values));
    let channels = |values: Vec<f64>| (Dtype::F32, vec![shape.channels()], values);
    let running = results.running.as_ref();
    let (dtype, dims, values) = match name {
        "y" => tensor(results.y.as_ref()?),
        "dx" => tensor(results.dx.as_ref()?),
        "dresidual" => tensor(results.dresidual.as_ref()?),
        "batch_mean" => channels(results.batch_mean.clone()?),
        "batch_var" => channels(widen(results.batch_var.as_ref()?)),
        "running_mean" => channels(widen(&running?.mean)),
        "running_var" => channels(widen(&running?.var)),
        "num_batches_tracked" => (Dtype::I64, Vec::new(), vec![f64::from(*running?.tracked.first()?)]),
        "dweight" => channels(widen(results.dgamma.as_ref()?)),
        "dbias" => channels(widen(results.dbeta.as_ref()?)),
        _ => return None,
    };
    Some(Stored { dtype, dims, values })
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

/// Where results are written.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// A folder, in which each gets a `.npy` file.
    Folder(PathBuf),
    /// One `.safetensors` file for all.
    Safetensors(PathBuf),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match Path::new(text).extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") => Ok(Self::Safetensors(text.into())),
            Some("npy") => Err("expected a folder, in which each result gets a .npy file, or FILE.safetensors".into()),
            _ => Ok(Self::Folder(text.into())),
        }
    }
}

impl Target {
    /// Refuses, before anything runs, what the files cannot hold.
    ///
    /// # Errors
    /// bf16 tensors for `.npy` files.
    pub fn check(&self, dtype: DType) -> Result<(), AnyError> {
        match (self, dtype) {
            (Self::Folder(folder), DType::Bf16) => {
                let file = folder.with_extension("safetensors");
                Err(format!(".npy has no bf16: write --out {} instead", file.display()).into())
            }
            _ => Ok(()),
        }
    }

    /// The file that a result goes to.
    pub fn file(&self, name: &str) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.join(format!("{name}.npy")),
            Self::Safetensors(file) => file.clone(),
        }
    }

    /// Writes the results, each file whole or not at all.
    ///
    /// # Errors
    /// A folder or file that cannot be written.
    pub fn write(&self, outputs: &[(&'static str, Stored)]) -> Result<(), AnyError> {
        match self {
            Self::Folder(folder) => {
                std::fs::create_dir_all(folder)
                    .map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
                outputs.iter().try_for_each(|(name, stored)| output::write(&self.file(name), &stored.to_npy()?))
            }
            Self::Safetensors(file) => {
                let tensors: Vec<_> = outputs.iter().map(|(name, stored)| (*name, stored)).collect();
                output::write(file, &Stored::to_safetensors(&tensors)?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_folder_or_one_file() {
        let target = |text: &str| text.parse::<Target>();
        assert_eq!(target("out.d").unwrap(), Target::Folder("out.d".into()));
        assert_eq!(target("a/b.safetensors").unwrap().file("y"), PathBuf::from("a/b.safetensors"));
        assert_eq!(target("a").unwrap().file("y"), PathBuf::from("a/y.npy"));
        assert!(target("y.npy").unwrap_err().contains("folder"));
        assert!(target("a").unwrap().check(DType::Bf16).unwrap_err().to_string().contains("a.safetensors"));
        assert!(target("a.safetensors").unwrap().check(DType::Bf16).is_ok());
    }
}
