//! Finds and checks records, and looks rows up in them.

use super::count;
use crate::AnyError;
use crate::bench::record::{BenchRow, Record, SCHEMA};
use crate::compile::record::{CompilerRecord, SCHEMA as COMPILED};
use batchnorm_wgpu::{DType, Operation};
use serde_json::Value;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::Path;
use walkdir::WalkDir;

/// Records of several adapters.
pub struct Records {
    /// The newest of each adapter, in the order of the adapters' short names.
    pub newest: Vec<Record>,
    /// The others: by adapter, then by date.
    pub older: Vec<Record>,
    /// Of each compiler the newest record of `bn compile`, in the order of their names.
    pub compiled: Vec<CompilerRecord>,
}

/// What was found below a folder.
pub struct Read {
    /// The records.
    pub records: Records,
    /// Files that are none, and why.
    problems: Vec<String>,
}

/// Reads every `*.json` below `directory`. It is an error where there is no record.
pub fn read(directory: &Path) -> Result<Read, AnyError> {
    // By adapter and date: one machine measures once a day, a second file would be a copy of the first.
    let mut found: BTreeMap<(String, String), Record> = BTreeMap::new();
    let mut compiled: BTreeMap<String, CompilerRecord> = BTreeMap::new();
    let mut problems = Vec::new();
    for entry in WalkDir::new(directory).follow_links(true).sort_by_file_name() {
        let entry = entry.map_err(|error| format!("cannot read {}: {error}", directory.display()))?;
        let path = entry.path();
        if !entry.file_type().is_file() || path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let checked = record(path).and_then(|record| {
            let record = match record {
                AnyRecord::Timed(record) => record,
                AnyRecord::Compiled(record) => {
                    let newest = compiled.entry(record.compiler.clone()).or_insert_with(|| record.clone());
                    if newest.date < record.date {
                        *newest = record;
                    }
                    return Ok(());
                }
            };
            let key = (record.adapter.clone(), record.date.clone());
            if found.contains_key(&key) {
                return Err(format!(
                    "expected one record of an adapter and day, got a second of {} on {}",
                    key.0, key.1
                ));
            }
            found.insert(key, record);
            Ok(())
        });
        if let Err(problem) = checked {
            problems.push(format!("{}: {problem}", path.display()));
        }
    }
    let records = Records { compiled: compiled.into_values().collect(), ..Records::new(found.into_values().collect()) };
    let read = Read { records, problems };
    if !read.records.newest.is_empty() || !read.records.compiled.is_empty() {
        return Ok(read);
    }
    Err(read.left_out(directory).unwrap_or_else(|| {
        let directory = directory.display();
        format!("no record (*.json) below {directory}; `bn bench --record` makes one, on every adapter to be compared")
    }))?
}

impl Read {
    /// What to say about files that are no records, where there are such.
    pub fn left_out(&self, directory: &Path) -> Option<String> {
        let files = count(self.problems.len(), "file");
        let list = self.problems.join("\n  ");
        let text = || format!("{files} below {} left out:\n  {list}", directory.display());
        (!self.problems.is_empty()).then(text)
    }
}

/// A record of either kind.
enum AnyRecord {
    /// Of `bn bench`.
    Timed(Record),
    /// Of `bn compile`.
    Compiled(CompilerRecord),
}

/// The record in a file, or what was expected and what came.
fn record(path: &Path) -> Result<AnyRecord, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("expected a text file, got: {error}"))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| format!("expected JSON, got: {error}"))?;
    match value.get("schema") {
        Some(Value::String(schema)) if schema == SCHEMA => (),
        Some(Value::String(schema)) if schema == COMPILED => {
            let record: CompilerRecord = serde_json::from_str(&text)
                .map_err(|error| format!("expected a record of {COMPILED}, got: {error}"))?;
            check_date(&record.date)?;
            return Ok(AnyRecord::Compiled(record));
        }
        Some(other) => return Err(format!("expected schema {SCHEMA:?}, got {other}")),
        None => return Err(format!("expected schema {SCHEMA:?}, got JSON without a schema")),
    }
    // From the text once more, since errors then tell the line.
    let record: Record =
        serde_json::from_str(&text).map_err(|error| format!("expected a record of {SCHEMA}, got: {error}"))?;
    check(&record)?;
    Ok(AnyRecord::Timed(record))
}

/// What order and charts rely on: a date that sorts as text, and figures that a logarithmic axis can hold.
fn check(record: &Record) -> Result<(), String> {
    check_date(&record.date)?;
    plausible("copy.gigabytes_per_second", record.copy.gigabytes_per_second)?;
    for (number, row) in record.rows.iter().enumerate() {
        plausible(&format!("rows[{number}].bytes"), row.bytes as f64)?;
        plausible(&format!("rows[{number}].microseconds.median"), row.microseconds.median)?;
        plausible(&format!("rows[{number}].fraction_of_copy"), row.fraction_of_copy)?;
    }
    for (number, row) in record.fused.iter().enumerate() {
        plausible(&format!("fused[{number}].fused_microseconds.median"), row.fused_microseconds.median)?;
        plausible(&format!("fused[{number}].separate_microseconds.median"), row.separate_microseconds.median)?;
    }
    Ok(())
}

fn check_date(date: &str) -> Result<(), String> {
    let digit_or_dash =
        |(place, it): (usize, char)| if [4, 7].contains(&place) { it == '-' } else { it.is_ascii_digit() };
    let fits = date.len() == 10 && date.chars().enumerate().all(digit_or_dash);
    if fits { Ok(()) } else { Err(format!("expected date as YYYY-MM-DD, got {date:?}")) }
}

fn plausible(key: &str, value: f64) -> Result<(), String> {
    let fits = (1e-12..1e15).contains(&value);
    if fits { Ok(()) } else { Err(format!("expected {key} from 1e-12 to 1e15, got {value:e}")) }
}

impl Records {
    /// Parts `all`.
    pub fn new(mut all: Vec<Record>) -> Self {
        all.sort_by(|a, b| (&a.adapter, &a.date).cmp(&(&b.adapter, &b.date)));
        let (mut newest, mut older): (Vec<Record>, _) = (Vec::new(), Vec::new());
        for record in all {
            match newest.last_mut() {
                Some(last) if last.adapter == record.adapter => older.push(std::mem::replace(last, record)),
                _ => newest.push(record),
            }
        }
        Self { newest, older, compiled: Vec::new() }
    }

    /// All records of the adapter of `newest`, from the oldest.
    pub fn history<'a>(&'a self, newest: &'a Record) -> Vec<&'a Record> {
        self.older.iter().filter(|it| it.adapter == newest.adapter).chain([newest]).collect()
    }
}

/// Rows go by operation, by dtype, by size and by shape, whatever the order in the files: figures of two days then stand in
/// the same line.
pub fn order(a: &BenchRow, b: &BenchRow) -> Ordering {
    let place = |row: &BenchRow| Operation::ALL.iter().position(|&it| it == row.operation);
    let dtype = |row: &BenchRow| DType::ALL.iter().position(|&it| it == row.dtype);
    let key = |row: &BenchRow| (place(row), dtype(row), row.bytes);
    key(a)
        .cmp(&key(b))
        .then_with(|| a.dims.cmp(&b.dims))
        .then_with(|| (&a.layout, &a.views).cmp(&(&b.layout, &b.views)))
}

/// One row for each operation and shape that any of the records has a chosen row of, in order.
pub fn lines<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<&'a BenchRow> {
    let mut lines: Vec<&BenchRow> =
        records.into_iter().flat_map(|record| &record.rows).filter(|row| row.chosen).collect();
    lines.sort_by(|a, b| order(a, b));
    lines.dedup_by(|a, b| same_case(a, b));
    lines
}

/// Those of f32 tensors, which charts compare.
pub fn f32_lines<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<&'a BenchRow> {
    lines(records).into_iter().filter(|row| row.dtype == DType::F32).collect()
}

/// Whether two rows are of one operation on one shape and dtype.
pub fn same_case(a: &BenchRow, b: &BenchRow) -> bool {
    order(a, b).is_eq()
}

/// The figures of the plan that the library chooses for the operation, shape and dtype of `line`.
pub fn chosen<'a>(record: &'a Record, line: &BenchRow) -> Option<&'a BenchRow> {
    record.rows.iter().find(|row| row.chosen && same_case(row, line))
}

/// The chosen rows of an operation on f32 tensors, in order.
pub fn chosen_of(record: &Record, operation: Operation) -> Vec<&BenchRow> {
    f32_lines([record]).into_iter().filter(|row| row.operation == operation).collect()
}

/// The median, where there is a value.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().saturating_sub(1) / 2)?, values.get(values.len() / 2)?);
    Some((low + high) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{record as sample, row};

    #[test]
    fn the_newest_of_each_adapter_is_compared() {
        let all = [("b", "2026-01-01"), ("a", "2026-03-01"), ("b", "2026-02-01"), ("b", "2025-12-31")];
        let records = Records::new(all.map(|(adapter, date)| sample(adapter, date, vec![])).into());
        let dates = |records: &[Record]| records.iter().map(|it| it.date.clone()).collect::<Vec<_>>();
        assert_eq!(dates(&records.newest), ["2026-03-01", "2026-02-01"]);
        assert_eq!(dates(&records.older), ["2025-12-31", "2026-01-01"]);
        assert_eq!(records.history(&records.newest[1]).len(), 3);
    }

    #[test]
    fn wrong_records_are_told_what_was_expected() {
        let good = || sample("a", "2026-01-01", vec![row(Operation::Inference, &[2, 3], true, 0.5, 1.0)]);
        assert_eq!(check(&good()), Ok(()));
        let date = check(&Record { date: "1/2/2026".into(), ..good() }).unwrap_err();
        assert_eq!(date, "expected date as YYYY-MM-DD, got \"1/2/2026\"");
        let mut still = good();
        still.rows[0].microseconds.median = 0.0;
        assert_eq!(check(&still).unwrap_err(), "expected rows[0].microseconds.median from 1e-12 to 1e15, got 0e0");
    }

    #[test]
    fn records_that_name_no_dtype_are_of_f32() {
        let new = sample("a", "2026-01-01", vec![row(Operation::Inference, &[2, 3], true, 0.5, 1.0)]);
        let mut value = serde_json::to_value(&new).unwrap();
        assert!(value.get("fused").is_none());
        value["rows"][0].as_object_mut().unwrap().remove("dtype").unwrap();
        let old: Record = serde_json::from_value(value).unwrap();
        assert_eq!((old.rows[0].dtype, old.fused.len()), (DType::F32, 0));
        assert!(same_case(&old.rows[0], &new.rows[0]));
    }

    #[test]
    fn dtypes_are_apart_and_only_f32_is_charted() {
        let plain = row(Operation::Inference, &[2, 3], true, 0.5, 1.0);
        let half = BenchRow { dtype: DType::F16, bytes: plain.bytes / 2, ..plain.clone() };
        let record = sample("a", "2026-01-01", vec![half, plain]);
        let cases: Vec<String> = lines([&record]).into_iter().map(BenchRow::case).collect();
        assert_eq!(cases, ["2x3 channels_first", "2x3 channels_first f16"]);
        assert_eq!(chosen_of(&record, Operation::Inference).len(), 1);
    }

    #[test]
    fn the_median_of_few() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }
}
