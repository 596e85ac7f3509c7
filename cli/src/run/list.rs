//! `bn run --list`: what a file holds.

use super::source::{Files, Source};
use crate::output::Claim;
use crate::terminal::{table, text};
use crate::{AnyError, Verdict};
use serde::Serialize;
use std::path::Path;

/// A tensor of a file.
#[derive(Serialize)]
struct Row {
    /// Its name; none in a `.npy` file.
    name: Option<String>,
    dtype: String,
    shape: Vec<usize>,
}

/// Prints the tensors of a file, in the order of their names.
pub fn run(file: &Path, json: Option<&Claim>) -> Result<Verdict, AnyError> {
    let rows = rows(file)?;
    match json {
        Some(json) => json.write_json(&rows)?,
        None => {
            let cells =
                |row: &Row| vec![row.name.clone().unwrap_or_default(), row.dtype.clone(), format!("{:?}", row.shape)];
            println!("{}", table(["name", "type", "shape"].map(text), rows.iter().map(cells)));
        }
    }
    Ok(Verdict::Passed)
}

fn rows(file: &Path) -> Result<Vec<Row>, AnyError> {
    let mut files = Files::default();
    if file.extension().is_some_and(|ending| ending == "npy") {
        let place = files.tensor(&Source::Npy(file.into()), "x")?.place;
        return Ok(vec![Row { name: None, dtype: format!("{:?}", place.dtype), shape: place.dims }]);
    }
    let header = files.header(file)?;
    let names = header.names().into_iter();
    Ok(names
        .filter_map(|name| {
            let kept = header.kept(&name)?;
            Some(Row { name: Some(name), dtype: format!("{:?}", kept.dtype), shape: kept.dims })
        })
        .collect())
}
