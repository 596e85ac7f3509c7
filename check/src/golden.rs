//! Golden cases, format `batchnorm-golden-1`: one `.safetensors` file holds the inputs of a call and what a trusted
//! implementation answered. The format is described in `tests/golden/README.md`.

use crate::case::{Inputs, Operation, Setup};
use crate::judge::{Expected, expected};
use crate::run::first_parts;
use crate::stored::{READABLE, Stored};
use crate::suite::{Outcome, judge};
use batchnorm_wgpu::{Activation, Config, DType, Kernels, Layout, RunningPolicy, RunningStatistics, Shape, wgpu};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::collections::HashMap;
use std::path::Path;

/// Why a file is no golden case that can be run.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// The file cannot be read.
    #[error("{file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{file}: {what}: expected {expected}, got {actual}")]
    Wrong {
        /// The file.
        file: String,
        /// Which key or tensor.
        what: String,
        /// What it must be.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// The case asks for what the library does not do.
    #[error("{file}: not supported: {what}")]
    Unsupported {
        /// The file.
        file: String,
        /// What is missing.
        what: String,
    },
}

/// A golden case.
#[derive(Debug)]
pub struct Golden {
    file: String,
    inputs: Inputs,
    training: bool,
    has_gradient: bool,
    answers: HashMap<String, Vec<f64>>,
    /// The case's own tolerance: relative to the value wanted, and to the largest of them but at least 1.
    tolerance: Option<[f64; 2]>,
}

/// A file that is being read; errors name it.
struct Reader<'a> {
    file: &'a str,
    metadata: HashMap<String, String>,
    tensors: SafeTensors<'a>,
}

impl Golden {
    /// Reads a case from a file.
    ///
    /// # Errors
    /// [`GoldenError`].
    pub fn load(path: &Path) -> Result<Self, GoldenError> {
        let file = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|source| GoldenError::Io { file: file.clone(), source })?;
        Self::parse(&file, &bytes)
    }

    /// Reads a case from the bytes of a file called `file`.
    ///
    /// # Errors
    /// [`GoldenError`].
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, GoldenError> {
        let damaged = |error: safetensors::SafeTensorError| GoldenError::Wrong {
            file: file.into(),
            what: "the file".into(),
            expected: "safetensors".into(),
            actual: error.to_string(),
        };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
        let reader = Reader {
            file,
            metadata: header.metadata().clone().unwrap_or_default(),
            tensors: SafeTensors::deserialize(bytes).map_err(damaged)?,
        };
        reader.key("format", None, &[("batchnorm-golden-1", ())])?;
        let training = reader.key("mode", None, &[("train", true), ("eval", false)])?;
        let layout = [("channels_first", Layout::ChannelsFirst), ("channels_last", Layout::ChannelsLast)];
        let layout = reader.key("layout", Some(Layout::ChannelsFirst), &layout)?;
        let inputs = reader.inputs(layout, training)?;
        if training && inputs.shape.values_per_channel() == 1 {
            return Err(reader.unsupported("one value per channel in training"));
        }
        let answers = reader.answers(&inputs)?;
        Ok(Self {
            file: file.into(),
            training,
            has_gradient: reader.tensors.tensor("dy").is_ok(),
            tolerance: reader.tolerance()?,
            answers,
            inputs,
        })
    }

    /// Runs the case on a device and holds every answer in the file against the result.
    pub fn run(&self, kernels: &Kernels, queue: &wgpu::Queue) -> Outcome {
        let (forward, backward) = match self.training {
            true => (Operation::ForwardTraining, Operation::BackwardTraining),
            false => (Operation::Inference, Operation::BackwardFrozen),
        };
        let mut outcome = Outcome {
            case: self.file.clone(),
            operation: forward.name(),
            tensors: String::new(),
            kernels: Vec::new(),
            verdicts: Vec::new(),
            failure: None,
            refused: false,
        };
        let operations = if self.has_gradient { vec![forward, backward] } else { vec![forward] };
        let mut failures = Vec::new();
        for operation in operations {
            let judged = self
                .expectations(kernels, operation)
                .map_err(crate::run::RunError::from)
                .and_then(|expected| judge(kernels, queue, operation, &self.inputs, &Setup::default(), &expected));
            match judged {
                Err(error) => failures.push(error.to_string()),
                Ok(judged) => {
                    outcome.kernels.extend(judged.kernels);
                    outcome.verdicts.extend(judged.verdicts);
                    failures.extend(judged.failure);
                }
            }
        }
        let checked: Vec<&str> = outcome.verdicts.iter().map(|verdict| verdict.name).collect();
        let forgotten = self.answers.keys().filter(|name| !checked.contains(&name.as_str()) && !self.given(name));
        failures.extend(forgotten.map(|name| format!("expected.{name} was not computed")));
        outcome.failure = (!failures.is_empty()).then(|| failures.join("; "));
        outcome
    }

    /// Whether an answer merely repeats an input: inference does not change the running statistics.
    fn given(&self, name: &str) -> bool {
        let running = &self.inputs.running;
        let same = |values: Vec<f64>| self.answers.get(name) == Some(&values);
        let widen = |values: &[f32]| values.iter().map(|&value| value.into()).collect();
        match name {
            _ if self.training => false,
            "running_mean" => same(widen(&running.mean)),
            "running_var" => same(widen(&running.var)),
            "num_batches_tracked" => same(vec![running.tracked[0].into()]),
            _ => false,
        }
    }

    /// What the file says, with the bound of the library's own reference, or with the file's tolerance.
    fn expectations(&self, kernels: &Kernels, operation: Operation) -> batchnorm_wgpu::Result<Vec<Expected>> {
        let parts = first_parts(kernels, operation, &self.inputs, &Setup::default())?;
        let mut known = expected(operation, &self.inputs, &parts)?;
        known.retain(|expected| self.answers.contains_key(expected.name));
        for expected in &mut known {
            let answer = &self.answers[expected.name];
            expected.want = match answer.len() {
                1 => vec![answer[0]; expected.want.len()],
                _ => answer.clone(),
            };
            if let Some([relative, absolute]) = self.tolerance {
                let largest = expected.want.iter().fold(1.0f64, |largest, want| largest.max(want.abs()));
                let tolerance = |want: &f64| absolute * largest + relative * want.abs();
                expected.tolerance = expected.want.iter().map(tolerance).collect();
            }
        }
        Ok(known)
    }
}

impl Reader<'_> {
    fn wrong(&self, what: &str, expected: impl Into<String>, actual: impl Into<String>) -> GoldenError {
        let (expected, actual) = (expected.into(), actual.into());
        GoldenError::Wrong { file: self.file.into(), what: what.into(), expected, actual }
    }

    fn unsupported(&self, what: impl Into<String>) -> GoldenError {
        GoldenError::Unsupported { file: self.file.into(), what: what.into() }
    }

    /// A metadata key with a fixed set of values.
    fn key<T: Copy>(&self, key: &str, absent: Option<T>, values: &[(&str, T)]) -> Result<T, GoldenError> {
        let names = || values.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" or ");
        let Some(given) = self.metadata.get(key) else {
            return absent.ok_or_else(|| self.wrong(key, names(), "no such metadata key"));
        };
        let found = values.iter().find(|(name, _)| name == given);
        found.map(|(_, value)| *value).ok_or_else(|| self.wrong(key, names(), format!("{given:?}")))
    }

    /// A metadata key that holds a number.
    fn number(&self, key: &str) -> Result<Option<f64>, GoldenError> {
        let parse =
            |given: &String| given.parse().map_err(|_| self.wrong(key, "a decimal number", format!("{given:?}")));
        self.metadata.get(key).map(parse).transpose()
    }

    fn tolerance(&self) -> Result<Option<[f64; 2]>, GoldenError> {
        Ok(match (self.number("rtol")?, self.number("atol")?) {
            (None, None) => None,
            (relative, absolute) => Some([relative.unwrap_or(0.0), absolute.unwrap_or(0.0)]),
        })
    }

    fn policy(&self) -> Result<RunningPolicy, GoldenError> {
        let policy = match self.metadata.get("momentum").map(String::as_str) {
            Some("cumulative") => RunningPolicy::cumulative(),
            _ => RunningPolicy::exponential(self.number("momentum")?.unwrap_or(0.1)),
        };
        let biased = self.key("running_var", Some(false), &[("unbiased", false), ("biased", true)])?;
        Ok(if biased { policy.biased() } else { policy })
    }

    fn inputs(&self, layout: Layout, training: bool) -> Result<Inputs, GoldenError> {
        let library =
            |error: batchnorm_wgpu::Error| self.wrong("x", "a call that the library takes", error.to_string());
        let x = self.tensors.tensor("x").map_err(|error| self.wrong("x", "a tensor", error.to_string()))?;
        let shape = Shape::new(x.shape(), layout).map_err(library)?;
        let channels = shape.channels();
        let activation = [("none", Activation::None), ("relu", Activation::Relu)];
        let config = Config {
            eps: self.number("eps")?.unwrap_or(1e-5),
            running: self.policy()?,
            dtype: self.dtype(&x)?,
            activation: self.key("activation", Some(Activation::None), &activation)?,
            ..Config::default()
        };
        config.check().map_err(library)?;
        let tracked = match self.tensors.tensor("num_batches_tracked") {
            Ok(view) => self.count(&view)?,
            Err(_) => 0,
        };
        let mean = self.floats("running_mean", &[channels])?;
        let var = self.floats("running_var", &[channels])?;
        if !training && (mean.is_none() || var.is_none()) {
            return Err(self.wrong("running_mean, running_var", "both, in mode eval", "not both"));
        }
        let (mean, var) = (mean.unwrap_or(vec![0.0; channels]), var.unwrap_or(vec![1.0; channels]));
        let tensor = |name| self.stored(name, config.dtype, shape.dims());
        Ok(Inputs {
            x: tensor("x")?.unwrap_or_default(),
            dy: tensor("dy")?.unwrap_or(vec![0.0; shape.elements()]),
            residual: tensor("residual")?,
            gamma: self.floats("weight", &[channels])?,
            beta: self.floats("bias", &[channels])?,
            running: RunningStatistics::from_mean_var(&mean, &var, tracked).map_err(library)?,
            config,
            shape,
        })
    }

    fn count(&self, view: &TensorView<'_>) -> Result<u32, GoldenError> {
        let name = "num_batches_tracked";
        let bytes: [u8; 8] = match (view.dtype(), view.data().try_into()) {
            (Dtype::I64, Ok(bytes)) => bytes,
            _ => return Err(self.wrong(name, "one I64", format!("{:?} {:?}", view.dtype(), view.shape()))),
        };
        let count = i64::from_le_bytes(bytes);
        u32::try_from(count).map_err(|_| self.wrong(name, "0 to 4294967295", count.to_string()))
    }

    fn dtype(&self, x: &TensorView<'_>) -> Result<DType, GoldenError> {
        match x.dtype() {
            Dtype::F32 => Ok(DType::F32),
            Dtype::F16 => Ok(DType::F16),
            Dtype::BF16 => Ok(DType::Bf16),
            other => Err(self.wrong("x", "F32, F16 or BF16", format!("{other:?}"))),
        }
    }

    /// Parameters; `None` when the file has none of that name.
    fn floats(&self, name: &str, dims: &[usize]) -> Result<Option<Vec<f32>>, GoldenError> {
        self.stored(name, DType::F32, dims)
    }

    /// What the kernels read, stored in `dtype`; `None` when the file has none of that name.
    fn stored(&self, name: &str, dtype: DType, dims: &[usize]) -> Result<Option<Vec<f32>>, GoldenError> {
        let Ok(view) = self.tensors.tensor(name) else { return Ok(None) };
        if view.shape() != dims {
            return Err(self.wrong(name, format!("shape {dims:?}"), format!("{:?}", view.shape())));
        }
        let expected = match dtype {
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::Bf16 => Dtype::BF16,
        };
        if view.dtype() != expected {
            return Err(self.wrong(name, format!("{expected:?}"), format!("{:?}", view.dtype())));
        }
        // An f64 holds all of them, and so an f32 does.
        Ok(Some(self.wide(name, &view)?.into_iter().map(|value| value as f32).collect()))
    }

    /// The tensors called `expected.NAME`, in float64.
    fn answers(&self, inputs: &Inputs) -> Result<HashMap<String, Vec<f64>>, GoldenError> {
        let (channels, elements) = (inputs.shape.channels(), inputs.shape.elements());
        let mut answers = HashMap::new();
        for full in self.tensors.names() {
            let Some(name) = full.strip_prefix("expected.") else { continue };
            let view = self.tensors.tensor(full).map_err(|error| self.wrong(full, "a tensor", error.to_string()))?;
            let expected = match name {
                "y" | "dx" | "dresidual" => elements,
                "batch_mean" | "batch_var" | "running_mean" | "running_var" | "dweight" | "dbias" => channels,
                "num_batches_tracked" => 1,
                _ => return Err(self.wrong(full, "the name of an output", "another name")),
            };
            let values = self.wide(full, &view)?;
            if values.len() != expected {
                return Err(self.wrong(full, format!("{expected} values"), values.len().to_string()));
            }
            answers.insert(name.to_owned(), values);
        }
        match answers.is_empty() {
            true => Err(self.wrong("expected.*", "at least one answer", "none")),
            false => Ok(answers),
        }
    }

    fn wide(&self, name: &str, view: &TensorView<'_>) -> Result<Vec<f64>, GoldenError> {
        let stored = Stored::read(view).ok_or_else(|| self.wrong(name, READABLE, format!("{:?}", view.dtype())))?;
        Ok(stored.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::serialize;

    fn file(metadata: &[(&str, &str)], x: &[f32]) -> Vec<u8> {
        let bytes: Vec<u8> = x.iter().flat_map(|value| value.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, vec![x.len() / 2, 2], &bytes).unwrap();
        let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        serialize([("x", &view), ("expected.y", &view)], Some(metadata)).unwrap()
    }

    const GOOD: [(&str, &str); 2] = [("format", "batchnorm-golden-1"), ("mode", "train")];

    #[test]
    fn reads_a_case() {
        let golden = Golden::parse("good", &file(&GOOD, &[1.0, 2.0, 3.0, 4.0])).unwrap();
        assert_eq!(golden.inputs.shape.dims(), [2, 2]);
        assert_eq!(golden.answers["y"], [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn refuses_what_is_no_case() {
        let refused = |metadata: &[(&str, &str)]| {
            Golden::parse("bad", &file(metadata, &[1.0, 2.0, 3.0, 4.0])).unwrap_err().to_string()
        };
        assert!(refused(&[]).contains("format"));
        assert!(refused(&GOOD[..1]).contains("mode"));
        assert!(refused(&[GOOD[0], ("mode", "test")]).contains("\"test\""));
        assert!(refused(&[GOOD[0], GOOD[1], ("eps", "tiny")]).contains("decimal"));
        assert!(refused(&[GOOD[0], GOOD[1], ("eps", "-1")]).contains("eps"));
        assert!(refused(&[GOOD[0], ("mode", "eval")]).contains("running_mean"));
        assert!(refused(&[GOOD[0], GOOD[1], ("activation", "gelu")]).contains("none or relu"));
    }

    #[test]
    fn survives_damage_anywhere() {
        let good = file(&GOOD, &[1.0, 2.0, 3.0, 4.0]);
        for length in 0..good.len() {
            assert!(Golden::parse("cut", &good[..length]).is_err(), "{length}");
        }
        let mut huge = good.clone();
        huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(Golden::parse("huge header", &huge).is_err());
        for i in 0..good.len() {
            for bit in 0..8 {
                let mut flipped = good.clone();
                flipped[i] ^= 1 << bit;
                // Either an error or a case; never a panic.
                let _ = Golden::parse("flipped", &flipped);
            }
        }
    }
}
