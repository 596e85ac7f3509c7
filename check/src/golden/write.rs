//! Golden cases into files.

use super::{ACTIVATIONS, CUMULATIVE, FORMAT, Golden, LAYOUTS, MODES, Problem, VARIANCES, stored_as};
use crate::judge::widen;
use crate::stored::{READABLE, Stored, StoredError, write_safetensors};
use batchnorm_wgpu::{Activation, Average, Config};
use safetensors::Dtype;
use std::collections::BTreeMap;

impl Golden {
    /// The bytes of a file; equal cases have equal files.
    ///
    /// # Errors
    /// [`Problem::Wrong`] for a running-statistics policy that the format has no words for.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Problem> {
        let tensors = self.tensors();
        let unwritable = |error: StoredError| Problem::wrong("the tensors", READABLE, error.to_string());
        let entering = tensors.iter().map(|(name, stored)| stored.entering(name));
        let entering = entering.collect::<Result<_, _>>().map_err(unwritable)?;
        let metadata = self.metadata()?.into_iter().map(|(key, text)| (key.to_owned(), text)).collect();
        let mut bytes = Vec::new();
        write_safetensors(&mut bytes, &metadata, entering)?;
        Ok(bytes)
    }

    pub(super) fn metadata(&self) -> Result<BTreeMap<&'static str, String>, Problem> {
        let Config { eps, running, activation, negative_slope, .. } = self.inputs.config;
        let momentum = match running.average {
            Average::Exponential { momentum } => momentum.to_string(),
            Average::Cumulative => CUMULATIVE.into(),
            Average::Pooled => return Err(Problem::wrong("momentum", "a number or cumulative", "pooled statistics")),
        };
        let mut metadata = BTreeMap::from([
            ("format", FORMAT.to_owned()),
            ("mode", name_of(&MODES, self.mode)),
            ("layout", name_of(&LAYOUTS, self.inputs.shape.layout())),
            ("eps", eps.to_string()),
            ("momentum", momentum),
            ("running_var", name_of(&VARIANCES, running.variance)),
            ("activation", name_of(&ACTIVATIONS, activation)),
            ("source", self.source.clone()),
        ]);
        if activation == Activation::LeakyRelu {
            metadata.insert("negative_slope", negative_slope.to_string());
        }
        if let Some(tolerance) = self.tolerance {
            metadata.extend([("rtol", tolerance.relative.to_string()), ("atol", tolerance.absolute.to_string())]);
        }
        Ok(metadata)
    }

    /// Inputs and answers by name.
    pub(super) fn tensors(&self) -> Vec<(String, Stored)> {
        let inputs = &self.inputs;
        let tensor = |values: &[f32]| Stored {
            dtype: stored_as(inputs.config.dtype),
            dims: inputs.shape.dims().to_vec(),
            values: widen(values),
        };
        let parameter = |values: &[f32]| Stored { dtype: Dtype::F32, dims: vec![values.len()], values: widen(values) };
        let tracked = inputs.running.tracked.iter().take(1).map(|&count| count.into()).collect();
        let given = [
            ("x", Some(tensor(&inputs.x))),
            ("weight", inputs.gamma.as_deref().map(parameter)),
            ("bias", inputs.beta.as_deref().map(parameter)),
            ("running_mean", Some(parameter(&inputs.running.mean))),
            ("running_var", Some(parameter(&inputs.running.var))),
            ("num_batches_tracked", Some(Stored { dtype: Dtype::I64, dims: Vec::new(), values: tracked })),
            ("residual", inputs.residual.as_deref().map(tensor)),
            ("dy", self.gradient.then(|| tensor(&inputs.dy))),
        ];
        let given = given.into_iter().filter_map(|(name, stored)| Some((name.to_owned(), stored?)));
        given.chain(self.answers.iter().map(|(name, stored)| (format!("expected.{name}"), stored.clone()))).collect()
    }
}

/// The name of a value in a table that has them all.
fn name_of<T: PartialEq>(table: &[(&str, T)], value: T) -> String {
    table.iter().find(|(_, one)| *one == value).map_or(String::new(), |(name, _)| (*name).to_owned())
}
