//! Files into golden cases. A file may hold anything: nothing it says is believed before it is checked against its length.

use super::{
    ACTIVATIONS, CUMULATIVE, Extent, FORMAT, Golden, GoldenError, LARGEST, LAYOUTS, MODES, OUTPUTS, Output, Problem,
    Tolerance, VARIANCES, stored_as,
};
use crate::case::Inputs;
use crate::stored::Stored;
use batchnorm_wgpu::{Activation, Config, DType, Layout, RunningPolicy, RunningStatistics, Shape};
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorView},
};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::marker::PhantomData;
use std::path::Path;

/// Bytes of the largest header that is read; one with every tensor has some 2000.
const LARGEST_HEADER: u64 = 1 << 20;
/// What answers are stored in; a count also in I64.
const ANSWERS: [Dtype; 5] = [Dtype::F32, Dtype::F64, Dtype::F16, Dtype::BF16, Dtype::I64];
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
        let reader = Reader::new(bytes)?;
        reader.key("format", None, &[(FORMAT, ())])?;
        let mode = reader.key("mode", None, &MODES)?;
        let layout = reader.key("layout", Some(Layout::ChannelsFirst), &LAYOUTS)?;
        let mut golden = Self {
            inputs: reader.inputs(layout, mode.trains())?,
            mode,
            gradient: reader.view("dy").is_some(),
            answers: BTreeMap::new(),
            tolerance: reader.tolerance()?,
            source: reader.metadata.get("source").cloned().unwrap_or_default(),
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
struct Reader<'a> {
    header: Metadata,
    metadata: HashMap<String, String>,
    /// What stands behind the header.
    data: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Takes the bytes apart. The crate's own reader adds up offsets before it compares them with the file's length, and
    /// keeps the last of several tensors or keys of one name.
    fn new(bytes: &'a [u8]) -> Result<Self, Problem> {
        let empty = || Problem::wrong("the file", "the length of a header, 8 bytes", format!("{} bytes", bytes.len()));
        let (length, rest) = bytes.split_first_chunk().ok_or_else(empty)?;
        let length = u64::from_le_bytes(*length);
        let most = LARGEST_HEADER.min(rest.len() as u64);
        if length > most {
            return Err(Problem::wrong("the header", format!("at most {most} bytes"), length.to_string()));
        }
        let (header, data) = rest.split_at(length as usize);
        serde_json::from_slice::<Distinct<Distinct<IgnoredAny>>>(header)?;
        let header: Metadata = serde_json::from_slice(header)?;
        if header.data_len() != data.len() {
            let expected = format!("{} bytes in all, as the file has", data.len());
            return Err(Problem::wrong("the tensors", expected, header.data_len().to_string()));
        }
        Ok(Self { metadata: header.metadata().clone().unwrap_or_default(), header, data })
    }

    /// A tensor, or `None` when the file has none of that name.
    fn view(&self, name: &str) -> Option<TensorView<'a>> {
        let info = self.header.info(name)?;
        let data = self.data.get(info.data_offsets.0..info.data_offsets.1)?;
        TensorView::new(info.dtype, info.shape.clone(), data).ok()
    }

    /// A metadata key with a fixed set of values.
    fn key<T: Copy>(&self, key: &str, absent: Option<T>, values: &[(&str, T)]) -> Result<T, Problem> {
        let names = || values.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" or ");
        let Some(given) = self.metadata.get(key) else {
            return absent.ok_or_else(|| Problem::wrong(key, names(), "no such metadata key"));
        };
        let found = values.iter().find(|(name, _)| name == given);
        found.map(|(_, value)| *value).ok_or_else(|| Problem::wrong(key, names(), format!("{given:?}")))
    }

    /// A metadata key that holds a number from 0 to `most`.
    fn number(&self, key: &str, most: f64) -> Result<Option<f64>, Problem> {
        let Some(given) = self.metadata.get(key) else { return Ok(None) };
        let number = given.parse().ok().filter(|number| (0.0..=most).contains(number));
        let wrong = || Problem::wrong(key, format!("a decimal number from 0 to {most:?}"), format!("{given:?}"));
        number.ok_or_else(wrong).map(Some)
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
        let policy = match self.metadata.get("momentum").map(String::as_str) {
            Some(CUMULATIVE) => RunningPolicy::cumulative(),
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
            ..Config::default()
        };
        let mean = self.floats("running_mean", &[channels])?;
        let var = self.floats("running_var", &[channels])?;
        if !training && (mean.is_none() || var.is_none()) {
            return Err(Problem::wrong("running_mean, running_var", "both, in mode eval", "not both"));
        }
        let (mean, var) = (mean.unwrap_or(vec![0.0; channels]), var.unwrap_or(vec![1.0; channels]));
        let tensor = |name| self.stored(name, config.dtype, shape.dims());
        Ok(Inputs {
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
        read(name, &view, &[Dtype::I64], &ONE)?;
        // In float64 a large count would not be exact.
        let count = i64::from_le_bytes(view.data().try_into().unwrap_or_default());
        if count < 0 {
            return Err(Problem::wrong(name, "a count", count.to_string()));
        }
        u32::try_from(count)
            .map_err(|_| Problem::Unsupported(format!("{count} batches tracked: they are counted in 32 bits")))
    }

    /// Parameters; `None` when the file has none of that name.
    fn floats(&self, name: &str, dims: &[usize]) -> Result<Option<Vec<f32>>, Problem> {
        self.stored(name, DType::F32, dims)
    }

    /// What the kernels read, stored in `dtype`; `None` when the file has none of that name.
    fn stored(&self, name: &str, dtype: DType, dims: &[usize]) -> Result<Option<Vec<f32>>, Problem> {
        let Some(view) = self.view(name) else { return Ok(None) };
        let stored = read(name, &view, &[stored_as(dtype)], &[dims])?;
        // An f32 holds every value of the three types.
        Ok(Some(stored.values.into_iter().map(|value| value as f32).collect()))
    }

    /// The tensors called `expected.NAME`.
    fn answers(&self, golden: &Golden) -> Result<BTreeMap<&'static str, Stored>, Problem> {
        let shape = &golden.inputs.shape;
        let mut answers = BTreeMap::new();
        for full in self.header.offset_keys() {
            let Some(name) = full.strip_prefix("expected.") else { continue };
            let Some(view) = self.view(&full) else { continue };
            let output = Output::named(name).ok_or_else(|| Problem::wrong(&full, outputs(), "another name"))?;
            if let Some(missing) = golden.lacks(output.needs) {
                return Err(Problem::wrong(&full, format!("an answer only with {missing}"), "one without"));
            }
            let answer = match output.extent {
                Extent::Tensor => read(&full, &view, &ANSWERS[..4], &[shape.dims()]),
                Extent::Channels => read(&full, &view, &ANSWERS[..4], &[&[shape.channels()]]),
                Extent::One => read(&full, &view, &ANSWERS, &ONE),
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

/// A JSON object that has no key twice, and whose values are `V`.
struct Distinct<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Distinct<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self(PhantomData))
    }
}

impl<'de, V: Deserialize<'de>> Visitor<'de> for Distinct<V> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<V>()?;
            if let Some(twice) = seen.replace(key) {
                return Err(A::Error::custom(format!("{twice:?} comes twice")));
            }
        }
        Ok(self)
    }
}
