//! `bn check --same-bits`: whether results are those of an earlier run to the bit.

use crate::AnyError;
use batchnorm_wgpu_check::suite::Outcome;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;

/// What is read of a report of `bn check --json`.
#[derive(Deserialize)]
struct Earlier {
    adapter: String,
    outcomes: Vec<EarlierCase>,
}

#[derive(Deserialize)]
struct EarlierCase {
    case: String,
    bits: String,
}

/// The bits of an earlier run, by adapter and case.
pub struct Bits(HashMap<String, HashMap<String, String>>);

/// How the cases of one adapter compare with those of the earlier run.
pub struct BitComparison<'a> {
    /// Cases of both runs.
    pub compared: usize,
    /// Those whose results differ.
    pub differing: Vec<&'a str>,
}

impl Bits {
    /// Reads a report.
    pub fn read(path: &Path) -> Result<Self, AnyError> {
        let refused = |error: &dyn std::fmt::Display| {
            format!("{}: expected a report of `bn check --json`, got: {error}", path.display())
        };
        let text = std::fs::read_to_string(path).map_err(|error| refused(&error))?;
        let reports: Vec<Earlier> = serde_json::from_str(&text).map_err(|error| refused(&error))?;
        let cases = |report: Earlier| {
            let cases = report.outcomes.into_iter().map(|outcome| (outcome.case, outcome.bits)).collect();
            (report.adapter, cases)
        };
        Ok(Self(reports.into_iter().map(cases).collect()))
    }

    /// Compares the outcomes of an adapter.
    pub fn compare<'a>(&self, adapter: &str, outcomes: &'a [Outcome]) -> BitComparison<'a> {
        let earlier = self.0.get(adapter);
        let of =
            |outcome: &Outcome| earlier.and_then(|cases| cases.get(&outcome.case)).map(|bits| *bits == outcome.bits);
        let compared: Vec<_> = outcomes.iter().filter_map(|outcome| Some((outcome, of(outcome)?))).collect();
        let differing = compared.iter().filter(|(_, same)| !same).map(|(outcome, _)| outcome.case.as_str()).collect();
        BitComparison { compared: compared.len(), differing }
    }
}
