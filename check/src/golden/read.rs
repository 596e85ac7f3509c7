//! Files into golden cases. A file may hold anything: nothing it says is believed before it is checked against its length.

use super::{
    ACTIVATIONS, CUMULATIVE, FORMAT, Golden, GoldenError, GoldenOutput, LARGEST, LAYOUTS, MODES, OUTPUTS, OutputExtent,
    Problem, Tolerance, VARIANCES, stored_as,
};
use crate::case::{Before, Inputs};
use crate::stored::Stored;
use batchnorm_wgpu::checkpoint::{Entry, Header};
use batchnorm_wgpu::{Activation, Config, DType, Layout, RunningPolicy, RunningStatistics, Shape};
use safetensors::{Dtype, tensor::TensorView};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// What answers are stored in; a count also in I64.
const ANSWERS: [Dtype; 5] = [Dtype::F32, Dtype::F64, Dtype::F16, Dtype::BF16, Dtype::I64];
/// What parameters and running statistics are stored in: what widens to F32.
const PARAMETERS: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];
/// What a count is stored in.
const COUNTS: [Dtype; 8] =
    [Dtype::I64, Dtype::I32, Dtype::U64, Dtype::U32, Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16];
/// Shapes of a single value: that of a scalar, and what some exporters make of it.
const ONE: [&[usize]; 2] = [&[], &[1]];

impl Golden {
    /// Reads a case from a file.
    ///
    /// # Errors
    /// [`GoldenError`].
    pub fn load(path: &Path) -> Result<Self, GoldenError> {
        let golden = contents(path).and_then(|bytes| Self::from_bytes(&bytes));
        golden.map_err(|problem| GoldenError { file: path.display().to_string(), problem })
    }

    /// Reads a case from the bytes of a file.
    ///
    /// # Errors
    /// [`Problem`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Problem> {
        let reader = GoldenReader::new(bytes)?;
        reader.key("format", None, &[(FORMAT, ())])?;
        let mode = reader.key("mode", None, &MODES)?;
        let layout = reader.key("layout", Some(Layout::ChannelsFirst), &LAYOUTS)?;
        let mut golden = Self {
            inputs: reader.inputs(layout, mode.trains())?,
            mode,
            gradient: reader.view("dy").is_some(),
            answers: BTreeMap::new(),
            tolerance: reader.tolerance()?,
            source: reader.header.metadata("source").unwrap_or_default().to_owned(),
        };
        golden.answers = reader.answers(&golden)?;
        golden.check_supported()?;
        Ok(golden)
    }
}

/// The bytes of a file that may be a case.
fn contents(path: &Path) -> Result<Vec<u8>, Problem> {
    // Asked before the file is opened, since a pipe would wait for somebody to write.
    let about = std::fs::metadata(path)?;
    if !about.is_file() {
        return Err(Problem::wrong("the file", "a regular file", "a folder, a pipe or a device"));
    }
    if about.len() > LARGEST {
        return Err(Problem::wrong("the file", format!("at most {LARGEST} bytes"), about.len().to_string()));
    }
    let mut bytes = Vec::new();
    // Some files have more than they say.
    File::open(path)?.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A file that is being read.
struct GoldenReader<'a> {
    header: Header,
    /// The whole file.
    bytes: &'a [u8],
}

impl<'a> GoldenReader<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, Problem> {
        let header = Header::read(&mut &*bytes, bytes.len() as u64).map_err(Problem::File)?;
        Ok(Self { header, bytes })
    }

    /// A tensor, or `None` when the file has none of that name.
    fn view(&self, name: &str) -> Option<TensorView<'a>> {
        let Entry { dtype, shape, range } = self.header.entry(name)?;
        TensorView::new(dtype, shape, self.bytes.get(range.start as usize..range.end as usize)?).ok()
    }

    /// A metadata key with a fixed set of values.
    fn key<T: Copy>(&self, key: &str, absent: Option<T>, values: &[(&str, T)]) -> Result<T, Problem> {
        let names = || values.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" or ");
        let Some(given) = self.header.metadata(key) else {
            return absent.ok_or_else(|| Problem::wrong(key, names(), "no such metadata key"));
        };
        let found = values.iter().find(|(name, _)| *name == given);
        found.map(|(_, value)| *value).ok_or_else(|| Problem::wrong(key, names(), format!("{given:?}")))
    }

    /// A metadata key that holds a number from 0 to `most`.
    fn number(&self, key: &str, most: f64) -> Result<Option<f64>, Problem> {
        let Some(given) = self.header.metadata(key) else { return Ok(None) };
        let number = given.parse().ok().filter(|number| (0.0..=most).contains(number));
        let wrong = || Problem::wrong(key, format!("a decimal number from 0 to {most:?}"), format!("{given:?}"));
        number.ok_or_else(wrong).map(Some)
    }

    fn negative_slope(&self) -> Result<f64, Problem> {
        let key = "negative_slope";
        let Some(given) = self.header.metadata(key) else { return Ok(Config::default().negative_slope) };
        let number = given.parse().ok().filter(|number: &f64| number.is_finite());
        number.ok_or_else(|| Problem::wrong(key, "a finite decimal number", format!("{given:?}")))
    }

    fn tolerance(&self) -> Result<Option<Tolerance>, Problem> {
        Ok(match (self.number("rtol", f64::MAX)?, self.number("atol", f64::MAX)?) {
            (None, None) => None,
            (relative, absolute) => {
                Some(Tolerance { relative: relative.unwrap_or(0.0), absolute: absolute.unwrap_or(0.0) })
            }
        })
    }

    /// What is not finite enters the running statistics, as it does in the formula.
    fn policy(&self) -> Result<RunningPolicy, Problem> {
        let policy = match self.header.metadata("momentum") {
            Some(CUMULATIVE) => RunningPolicy::cumulative(),
            // PyTorch's word for it, which exporters write down.
            Some(given @ ("None" | "null")) => {
                let expected = format!("a decimal number from 0 to 1.0, or {CUMULATIVE}, which is PyTorch's None");
                return Err(Problem::wrong("momentum", expected, format!("{given:?}")));
            }
            _ => RunningPolicy::exponential(self.number("momentum", 1.0)?.unwrap_or(0.1)),
        };
        let policy = policy.propagate_non_finite();
        Ok(RunningPolicy { variance: self.key("running_var", Some(policy.variance), &VARIANCES)?, ..policy })
    }

    fn inputs(&self, layout: Layout, training: bool) -> Result<Inputs, Problem> {
        let wrong = |error: batchnorm_wgpu::Error| Problem::wrong("x", "a batch", error.to_string());
        let x = self.view("x").ok_or_else(|| Problem::wrong("x", "a tensor", "none"))?;
        let shape = Shape::new(x.shape(), layout).map_err(wrong)?;
        let channels = shape.channels();
        let config = Config {
            eps: self.number("eps", f64::MAX)?.unwrap_or(Config::default().eps),
            running: self.policy()?,
            dtype: dtype(&x)?,
            activation: self.key("activation", Some(Activation::None), &ACTIVATIONS)?,
            negative_slope: self.negative_slope()?,
            ..Config::default()
        };
        let mean = self.floats("running_mean", &[channels])?;
        let var = self.floats("running_var", &[channels])?;
        if !training && (mean.is_none() || var.is_none()) {
            return Err(Problem::wrong("running_mean, running_var", "both, in mode eval", "not both"));
        }
        let (mean, var) = (mean.unwrap_or(vec![0.0; channels]), var.unwrap_or(vec![1.0; channels]));
        let tensor = |name| self.stored(name, &[stored_as(config.dtype)], shape.dims());
        Ok(Inputs {
            before: Before::default(),
            x: tensor("x")?.unwrap_or_default(),
            dy: tensor("dy")?.unwrap_or(vec![0.0; shape.elements()]),
            residual: tensor("residual")?,
            gamma: self.floats("weight", &[channels])?,
            beta: self.floats("bias", &[channels])?,
            running: RunningStatistics::from_mean_var(&mean, &var, self.tracked()?)?,
            config,
            shape,
        })
    }

    fn tracked(&self) -> Result<u32, Problem> {
        let name = "num_batches_tracked";
        let Some(view) = self.view(name) else { return Ok(0) };
        // Exporters that convert a file as a whole store it as they store all else.
        let stored = read(name, &view, &COUNTS, &ONE)?;
        let count = stored.values.first().copied().unwrap_or_default();
        match count {
            _ if count < 0.0 || count.fract() != 0.0 => Err(Problem::wrong(name, "a count", count.to_string())),
            _ if count <= f64::from(u32::MAX) => Ok(count as u32),
            _ => Err(Problem::Unsupported(format!("{count} batches tracked: they are counted in 32 bits"))),
        }
    }

    /// Parameters; `None` when the file has none of that name.
    fn floats(&self, name: &str, dims: &[usize]) -> Result<Option<Vec<f32>>, Problem> {
        self.stored(name, &PARAMETERS, dims)
    }

    /// What the kernels read, stored in one of `dtypes`; `None` when the file has none of that name.
    fn stored(&self, name: &str, dtypes: &[Dtype], dims: &[usize]) -> Result<Option<Vec<f32>>, Problem> {
        let Some(view) = self.view(name) else { return Ok(None) };
        let stored = read(name, &view, dtypes, &[dims])?;
        // An f32 holds every value of the three types.
        Ok(Some(stored.values.into_iter().map(|value| value as f32).collect()))
    }

    /// The tensors called `expected.NAME`.
    fn answers(&self, golden: &Golden) -> Result<BTreeMap<&'static str, Stored>, Problem> {
        let shape = &golden.inputs.shape;
        let mut answers = BTreeMap::new();
        for full in self.header.names() {
            let Some(name) = full.strip_prefix("expected.") else { continue };
            let Some(view) = self.view(&full) else { continue };
            let output = GoldenOutput::named(name).ok_or_else(|| Problem::wrong(&full, outputs(), "another name"))?;
            if let Some(missing) = golden.lacks(output.needs) {
                return Err(Problem::wrong(&full, format!("an answer only with {missing}"), "one without"));
            }
            let answer = match output.extent {
                OutputExtent::Tensor => read(&full, &view, &ANSWERS[..4], &[shape.dims()]),
                OutputExtent::Channels => read(&full, &view, &ANSWERS[..4], &[&[shape.channels()]]),
                OutputExtent::One => read(&full, &view, &ANSWERS, &ONE),
            };
            answers.insert(output.name, answer?);
        }
        match answers.is_empty() {
            true => Err(Problem::wrong("expected.*", "at least one answer", "none")),
            false => Ok(answers),
        }
    }
}

/// Names of all outputs.
fn outputs() -> String {
    let names: Vec<String> = OUTPUTS.iter().map(|output| format!("expected.{}", output.name)).collect();
    format!("one of {}", names.join(", "))
}

fn dtype(x: &TensorView<'_>) -> Result<DType, Problem> {
    let found = DType::ALL.into_iter().find(|&dtype| stored_as(dtype) == x.dtype());
    found.ok_or_else(|| Problem::wrong("x", "F32, F16 or BF16", format!("{:?}", x.dtype())))
}

/// The values of a tensor that has one of these dtypes and one of these shapes.
fn read(name: &str, view: &TensorView<'_>, dtypes: &[Dtype], shapes: &[&[usize]]) -> Result<Stored, Problem> {
    if !shapes.contains(&view.shape()) {
        return Err(Problem::wrong(name, format!("shape {:?}", shapes[0]), format!("{:?}", view.shape())));
    }
    let names = || dtypes.iter().map(|dtype| format!("{dtype:?}")).collect::<Vec<_>>().join(" or ");
    let stored = Stored::read(view).filter(|stored| dtypes.contains(&stored.dtype));
    stored.ok_or_else(|| Problem::wrong(name, names(), format!("{:?}", view.dtype())))
}
