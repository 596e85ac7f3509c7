//! The comparison as Markdown. Its order depends on nothing but names and shapes, so that two versions differ in
//! figures alone.

use super::read::{chosen, lines};
use super::{FUSED_HEADER, digits, fused_cells};
use crate::bench::record::{BenchRow, FusedRow, Record};

const ABOUT: &str = "# Benchmarks

Written by `bn report`. Fraction of the copy kernel's speed on the bytes that must move (2 tensors forward, 3 backward),
then microseconds of a step, both with the plan that the library chooses by itself. 1.00 is the limit for kernels that
read every tensor once; a training forward that reads x twice can reach 0.67, a training backward that reads x and dy
twice 0.60. Where a cache holds the tensors, a figure may lie above.
";

const FUSED: &str = "
What follows a batch norm in one step with it, beside the plain batch norm and an elementwise kernel, timed in turn. Moves
are tensors that the kernels read and write, one as often as they go over it.
";

/// A table of the adapters and one of the figures.
pub fn tables(records: &[Record]) -> String {
    let header =
        ["adapter", "name", "driver", "backend", "processor", "version", "date", "copy GB/s"].map(String::from);
    let adapters = table(&header, 7, records.iter().map(adapter).collect());
    let header: Vec<String> = ["operation", "shape"]
        .into_iter()
        .map(String::from)
        .chain(records.iter().map(|it| it.adapter.clone()))
        .collect();
    let figures = table(&header, 2, lines(records).into_iter().map(|line| figures(line, records)).collect());
    format!("{ABOUT}\n{adapters}\n{figures}{}", fused(records))
}

/// A table of fused steps, where a record has such.
fn fused(records: &[Record]) -> String {
    let of = |record: &Record| record.fused.iter().map(|row| fused_line(record, row)).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> = records.iter().flat_map(of).collect();
    match lines.is_empty() {
        true => String::new(),
        false => format!("{FUSED}\n{}", table(&FUSED_HEADER.map(String::from), 5, lines)),
    }
}

fn fused_line(record: &Record, row: &FusedRow) -> Vec<String> {
    [vec![record.adapter.clone()], fused_cells(row)].concat()
}

fn adapter(record: &Record) -> Vec<String> {
    let Record { adapter, name, driver, backend, processor, version, date, copy, .. } = record;
    let speed = digits(copy.gigabytes_per_second);
    vec![adapter, name, driver, backend, processor, version, date, &speed].into_iter().cloned().collect()
}

/// The line of one operation on one shape.
fn figures(line: &BenchRow, records: &[Record]) -> Vec<String> {
    let cell = |row: &BenchRow| format!("{:.2}, {} us", row.fraction_of_copy, digits(row.microseconds.median));
    let cells = records.iter().map(|record| chosen(record, line).map_or("-".into(), cell));
    [line.operation.name().into(), line.case()].into_iter().chain(cells).collect()
}

/// A table whose columns from `first_number` on are aligned to the right.
fn table(header: &[String], first_number: usize, rows: Vec<Vec<String>>) -> String {
    let line =
        |cells: &[String]| format!("| {} |\n", cells.iter().map(|it| escape(it)).collect::<Vec<_>>().join(" | "));
    let rule = |column| if column < first_number { "---|" } else { "---:|" };
    let rules: String = (0..header.len()).map(rule).collect();
    format!("{}|{rules}\n{}", line(header), rows.iter().map(|row| line(row)).collect::<String>())
}

/// Text from a file as it can stand in a cell.
fn escape(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{fused_row, record, row};
    use batchnorm_wgpu::Operation::{ForwardTraining, Inference};

    #[test]
    fn two_records_in_one_table() {
        let one = vec![row(Inference, &[8, 4], true, 0.987, 12.34), row(ForwardTraining, &[4, 4], true, 0.5, 3.0)];
        let two = vec![row(Inference, &[8, 4], false, 0.1, 99.0), row(ForwardTraining, &[4, 4], true, 1.25, 0.75)];
        let records = [record("a|b", "2026-01-02", one), record("c", "2026-01-03", two)];
        let expected = "
| adapter | name | driver | backend | processor | version | date | copy GB/s |
|---|---|---|---|---|---|---|---:|
| a\\|b | a\\|b 1 | driver 1.2 | Vulkan | a processor, 2 cores | 0.1.0 | 2026-01-02 | 10.0 |
| c | c 1 | driver 1.2 | Vulkan | a processor, 2 cores | 0.1.0 | 2026-01-03 | 10.0 |

| operation | shape | a\\|b | c |
|---|---|---:|---:|
| forward_training | 4x4 channels_first | 0.50, 3.00 us | 1.25, 0.75 us |
| inference | 8x4 channels_first | 0.99, 12.3 us | - |
";
        assert_eq!(tables(&records), format!("{ABOUT}{expected}"));
    }

    #[test]
    fn fused_steps_have_a_table_where_there_are_some() {
        let mut record = record("a", "2026-01-02", vec![row(Inference, &[8, 4], true, 0.5, 1.0)]);
        record.fused = vec![fused_row(2.0, 3.0)];
        let expected = "| a | inference | relu_residual | 8x4 channels_first | f16 | 2.00 | 3.00 | 1.50 | 3 | 5 |\n";
        let text = tables(&[record]);
        assert!(text.ends_with(expected), "{text}");
    }
}
