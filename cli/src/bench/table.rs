//! A record as tables for the terminal.

use super::record::{BenchRow, FusedRow, PlanFigures, Record};
use super::subjects::OPERATIONS;
use crate::output::figure;
use crate::terminal::{Column, number, prose, table, text};
use batchnorm_wgpu::{DType, Operation, Preference};

/// Prints what was found.
pub fn print(record: &Record) {
    let device = format!("{}: {} ({}) {}", record.adapter, record.name, record.backend, record.driver);
    println!("{}", prose(&device));
    println!("{}", prose(&format!("{}; {}, version {}", record.processor, record.date, record.version)));
    let copy = &record.copy;
    let speed = format!(
        "copy kernel: {:.2} GB/s, read and write ({} workgroups of {}); clock: {}\n",
        copy.gigabytes_per_second,
        copy.workgroups,
        copy.workgroup_size,
        record.clock.describe()
    );
    println!("{}", prose(&speed));
    if !record.rows.is_empty() {
        print_rows(&record.rows);
        print_dtypes(&record.rows);
    }
    if !record.fused.is_empty() {
        print_fused(&record.fused);
    }
}

fn print_rows(rows: &[BenchRow]) {
    let lines = rows.iter().map(|row| {
        vec![
            row.operation.to_string(),
            row.shape(),
            row.dtype.to_string(),
            format!("{:.0}", row.microseconds.median),
            format!("{:.2}", row.fraction_of_copy),
            describe(&row.plan),
            figure(row.gigabytes_per_second),
            format!("{:.0}", row.microseconds.spread),
            figure(row.nanoseconds_per_element()),
            format!("{:.1}", row.bytes as f64 / 1e6),
            row.kernels.len().to_string(),
            format!("{:.1}", row.encode_microseconds),
        ]
    });
    let columns = [
        text("operation"),
        text("shape"),
        text("dtype"),
        number("us").means("the median time of a step"),
        number("of copy").means("the speed over that of a copy kernel, timed in turn with it, 1 for as fast"),
        text("plan").means("strategy, workgroups x size, what a value is, how sums are taken").extra(),
        number("GB/s").means("the speed on the bytes that must move, 2 tensors forward and 3 backward").extra(),
        number("spread").means("half of the samples lie in a range of so many us").extra(),
        number("ns/element").means("the time for each element of x").extra(),
        number("MB").means("the size of a tensor").extra(),
        number("dispatches").extra(),
        number("encode us").means("the host's time to record a step").extra(),
    ];
    println!("{}", table(columns, lines));
}

/// How the time of an element goes down with its bytes: a line for each operation, where f32 and another dtype were timed.
fn print_dtypes(rows: &[BenchRow]) {
    let others: Vec<DType> = DType::ALL.into_iter().filter(|&dtype| dtype != DType::F32).collect();
    let of = |operation| others.iter().map(move |&dtype| relative_to_f32(rows, operation, dtype)).collect::<Vec<_>>();
    let all: Vec<_> = OPERATIONS.into_iter().map(|operation| (operation, of(operation))).collect();
    let lines: Vec<Vec<String>> = all
        .into_iter()
        .filter(|(_, ratios)| ratios.iter().any(Option::is_some))
        .map(|(operation, ratios)| {
            let cells = ratios.into_iter().map(|ratio| ratio.map_or("-".into(), |ratio| format!("{ratio:.2}")));
            [operation.to_string()].into_iter().chain(cells).collect()
        })
        .collect();
    if lines.is_empty() {
        return;
    }
    let of_others = others.iter().map(|dtype| number(dtype.name()));
    let columns: Vec<Column> = [text("operation")].into_iter().chain(of_others).collect();
    println!("\n{}", table(columns, lines));
    let note = "The time of an element over that of an f32 element, each as a multiple of the time of the copy kernel, \
         which took turns with both. The geometric mean over the shapes.";
    println!("{}", prose(note));
}

/// The geometric mean, over the shapes that both were timed on, of the time of an element over that of an f32 one. Both are
/// taken in times of the copy kernel, which was timed in turn with each: a machine may change its speed between the two.
fn relative_to_f32(rows: &[BenchRow], operation: Operation, dtype: DType) -> Option<f64> {
    let mut shapes: Vec<String> = Vec::new();
    let mut logarithms = Vec::new();
    for row in rows.iter().filter(|row| (row.operation, row.dtype) == (operation, dtype)) {
        let same =
            |other: &&BenchRow| (other.operation, other.dtype, other.shape()) == (operation, DType::F32, row.shape());
        // The first row of a shape is that of the plan that was asked for.
        if let Some(plain) = rows.iter().find(same).filter(|_| !shapes.contains(&row.shape())) {
            let cost = |row: &BenchRow| row.bytes as f64 / row.fraction_of_copy;
            logarithms.push((cost(row) / cost(plain)).ln());
            shapes.push(row.shape());
        }
    }
    (!logarithms.is_empty()).then(|| (logarithms.iter().sum::<f64>() / logarithms.len() as f64).exp())
}

/// What is fused, beside its separate passes.
fn print_fused(rows: &[FusedRow]) {
    let lines = rows.iter().map(|row| {
        vec![
            row.operation.to_string(),
            row.fusion.name().into(),
            row.shape(),
            row.dtype.to_string(),
            figure(row.separate_over_fused),
            format!("{:.0}", row.fused_microseconds.median),
            format!("{:.0}", row.separate_microseconds.median),
            row.fused_moves.to_string(),
            row.separate_moves.to_string(),
        ]
    });
    let columns = [
        text("operation"),
        text("fused with"),
        text("shape"),
        text("dtype"),
        number("separate\n/ fused").means("the median of samples taken in turn, above 1 where fusing is faster"),
        number("fused\nus").means("the time of the fused step").extra(),
        number("separate\nus").means("the time of the plain batch norm and an elementwise kernel").extra(),
        number("fused\nmoves").means("tensors read and written, each as often as a kernel goes over it").extra(),
        number("separate\nmoves").extra(),
    ];
    println!("\n{}", table(columns, lines));
}

fn describe(plan: &PlanFigures) -> String {
    let Preference { workgroups, .. } = plan.preference;
    let (strategy, workgroup_size) = (plan.preference.strategy(), plan.preference.workgroup_size());
    let (geometry, reduction) = (plan.geometry(), plan.reduction());
    let held = plan.held().map_or_else(String::new, |held| format!(" {held}"));
    let reverse = if plan.reverse() { " reverse" } else { "" };
    format!("{strategy}{held} {workgroups} x {workgroup_size} {geometry} {reduction}{reverse}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::row;

    #[test]
    fn time_per_element_is_held_against_f32() {
        let timed = |dtype: DType, size, fraction| {
            let plain = row(Operation::Inference, &[size, 4], true, fraction, 4.0);
            BenchRow { dtype, bytes: plain.bytes / 4 * dtype.size(), ..plain }
        };
        let rows = [
            timed(DType::F32, 8, 0.5),
            timed(DType::F16, 8, 0.5),
            // A forced plan of the same shape does not count.
            timed(DType::F16, 8, 0.1),
            timed(DType::F32, 16, 1.0),
            timed(DType::F16, 16, 0.25),
            // No f32 of this shape.
            timed(DType::F16, 32, 0.3),
        ];
        let ratio = relative_to_f32(&rows, Operation::Inference, DType::F16).unwrap();
        assert!((ratio - 1.0).abs() < 1e-12, "{ratio}");
        assert!(relative_to_f32(&rows, Operation::Inference, DType::Bf16).is_none());
        assert!((rows[0].nanoseconds_per_element() - 125.0).abs() < 1e-12);
    }
}
