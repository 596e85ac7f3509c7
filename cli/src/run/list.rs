//! `bn run --list`: what a file holds.

use super::source::{Files, TensorSource};
use crate::output::Claim;
use crate::terminal::{table, text};
use crate::{AnyError, ExitStatus};
use serde::Serialize;
use std::path::Path;

/// A tensor of a file.
#[derive(Serialize)]
struct TensorRow {
    /// Its name; none in a `.npy` file.
    name: Option<String>,
    dtype: String,
    shape: Vec<usize>,
}

/// Prints the tensors of a file, in the order of their names.
pub fn run(file: &Path, json: Option<&Claim>) -> Result<ExitStatus, AnyError> {
    let rows = rows(file)?;
    match json {
        Some(json) => json.write_json(&rows)?,
        None => {
            let cells = |row: &TensorRow| {
                vec![row.name.clone().unwrap_or_default(), row.dtype.clone(), format!("{:?}", row.shape)]
            };
            println!("{}", table(["name", "type", "shape"].map(text), rows.iter().map(cells)));
        }
    }
    Ok(ExitStatus::Passed)
}

fn rows(file: &Path) -> Result<Vec<TensorRow>, AnyError> {
    let mut files = Files::default();
    if file.extension().is_some_and(|ending| ending == "npy") {
        let place = files.tensor(&TensorSource::Npy(file.into()), "x")?.place;
        return Ok(vec![TensorRow { name: None, dtype: format!("{:?}", place.dtype), shape: place.dims }]);
    }
    let header = files.header(file)?;
    let names = header.names().into_iter();
    Ok(names
        .filter_map(|name| {
            let kept = header.kept(&name)?;
            Some(TensorRow { name: Some(name), dtype: format!("{:?}", kept.dtype), shape: kept.dims })
        })
        .collect())
}
