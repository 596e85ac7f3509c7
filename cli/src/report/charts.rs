//! The charts of the page of records.

use super::read::{chosen, chosen_of, f32_lines, median};
use super::{digits, plan};
use crate::bench::record::{BenchRow, Record};
use crate::chart::{AREA, Axis, Chart, colour, legend, place};
use batchnorm_wgpu::Operation;
use maud::{Markup, html};
use std::collections::BTreeMap;

/// Where bars begin.
const BAR_LEFT: f64 = 10.0;
/// Where the axis of the bars ends; figures of the longest bars stand right of it.
const BAR_RIGHT: f64 = 348.0;
/// Where the first shape of the bars stands.
const BAR_TOP: f64 = 48.0;
/// The axis goes at most this far. Longer bars, of tensors that a cache holds, are cut there.
const LARGEST_FRACTION: f64 = 2.0;

/// The fraction of copy that kernels can reach which read the inputs of an operation twice, once for sums and once to
/// apply them. `None` where there are no sums that the output waits for.
pub fn two_pass_limit(operation: Operation) -> Option<f64> {
    let moves = f64::from(operation.least_moves());
    match operation {
        Operation::ForwardTraining => Some(moves / (moves + 1.0)),
        Operation::BackwardTraining => Some(moves / (moves + 2.0)),
        Operation::Inference | Operation::BackwardFrozen | Operation::Statistics => None,
    }
}

/// Bytes as people read them.
fn bytes(value: f64) -> String {
    let units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let (unit, name) = units.into_iter().find(|(unit, _)| value >= *unit).unwrap_or((1.0, "B"));
    format!("{} {name}", value / unit)
}

/// What a mark shows when pointed at.
fn tooltip(record: &Record, row: &BenchRow) -> String {
    format!(
        "{}, {} {}: {:.2} of copy, {} us, {} GB/s\n{}",
        record.adapter,
        row.operation,
        row.shape(),
        row.fraction_of_copy,
        digits(row.microseconds.median),
        digits(row.gigabytes_per_second),
        plan(row)
    )
}

/// A bar for every shape and adapter that has a chosen row of `operation`. `None` where none has.
pub fn bars(records: &[Record], operation: Operation) -> Option<Markup> {
    let shapes: Vec<&BenchRow> = f32_lines(records).into_iter().filter(|line| line.operation == operation).collect();
    let groups: Vec<Group> = shapes.iter().map(|line| Group::of(records, line)).collect();
    let largest = groups.iter().flat_map(|it| &it.bars).map(|(_, _, row)| row.fraction_of_copy).reduce(f64::max)?;
    let bottom = BAR_TOP + groups.iter().map(Group::height).sum::<f64>();
    let chart = Chart {
        x: Axis::linear("fraction of copy", [0.0, largest.clamp(1.25, LARGEST_FRACTION)], [BAR_LEFT, BAR_RIGHT]),
        y: Axis::bare([bottom + 4.0, BAR_TOP]),
    };
    let tops = groups.iter().scan(BAR_TOP, |y, group| {
        let own = *y;
        *y += group.height();
        Some(own)
    });
    let marks = html! {
        (chart.reference(1.0, "copy 1.0", false))
        @if let Some(limit) = two_pass_limit(operation) {
            (chart.reference(limit, &format!("two passes {limit:.2}"), true))
        }
        @for (group, y) in groups.iter().zip(tops) { (group.draw(&chart.x, y)) }
    };
    Some(chart.draw(&format!("{operation}: fraction of the copy kernel's speed, by shape and adapter"), &marks))
}

/// The bars of a shape.
struct Group<'a> {
    shape: String,
    /// Place in the legend, record and row.
    bars: Vec<(usize, &'a Record, &'a BenchRow)>,
}

impl<'a> Group<'a> {
    /// Height of the shape's name and the space around it.
    const HEAD: f64 = 24.0;
    /// From a bar to the next.
    const STEP: f64 = 13.0;

    fn of(records: &'a [Record], line: &BenchRow) -> Self {
        let bar = |(number, record)| chosen(record, line).map(|row| (number, record, row));
        Self { shape: line.shape(), bars: records.iter().enumerate().filter_map(bar).collect() }
    }

    fn height(&self) -> f64 {
        Self::HEAD + Self::STEP * self.bars.len() as f64
    }

    fn draw(&self, axis: &Axis, top: f64) -> Markup {
        html! {
            text.halo x=(BAR_LEFT) y=(place(top + Self::HEAD - 6.0)) { (self.shape) }
            @for (number, (series, record, row)) in self.bars.iter().enumerate() {
                @let y = top + Self::HEAD + Self::STEP * number as f64;
                @let end = axis.at(row.fraction_of_copy);
                @let cut = if axis.is_beyond(row.fraction_of_copy) { " \u{2192}" } else { "" };
                g {
                    title { (tooltip(record, row)) }
                    rect class=(colour(*series)) x=(BAR_LEFT) y=(place(y)) width=(place(end - BAR_LEFT))
                        height=(Self::STEP - 2.0) rx="1.5" {}
                    text.halo.value x=(place(end + 4.0)) y=(place(y + 9.5)) {
                        (format!("{:.2}{cut}", row.fraction_of_copy))
                    }
                }
            }
        }
    }
}

/// Picoseconds for each byte of x.
fn picoseconds(row: &BenchRow) -> f64 {
    row.microseconds.median * 1e6 / row.bytes as f64
}

/// Time per byte against tensor size, a line for each adapter, and one where its copy kernel's speed would lie. `None`
/// where no record has the operation.
pub fn sizes(records: &[Record], operation: Operation) -> Option<Markup> {
    let series: Vec<(usize, &Record, Vec<&BenchRow>)> =
        records.iter().enumerate().map(|(number, record)| (number, record, chosen_of(record, operation))).collect();
    let all = || series.iter().flat_map(|(_, _, rows)| rows);
    all().next()?;
    let limits = series.iter().filter(|it| !it.2.is_empty()).map(|it| copy_picoseconds(it.1, operation));
    let times = all().map(|row| picoseconds(row)).chain(limits);
    let sizes = all().map(|row| row.bytes as f64);
    let chart = Chart {
        x: Axis::around("bytes of x", sizes, [AREA[0], AREA[2]]).written(bytes),
        y: Axis::around("picoseconds per byte of x", times, [AREA[3], AREA[1]]),
    };
    let marks = html! {
        @for (number, record, rows) in series.iter().filter(|it| !it.2.is_empty()) {
            @let limit = format!("speed of the copy kernel of {}", record.adapter);
            (chart.limit(*number, copy_picoseconds(record, operation), &limit))
            (chart.curve(*number, &by_size(rows)))
            @for row in rows {
                (chart.dot(*number, (row.bytes as f64, picoseconds(row)), &tooltip(record, row)))
            }
        }
    };
    Some(chart.draw(&format!("Time per byte against tensor size, {operation}"), &marks))
}

/// What a byte of x would take at the copy kernel's speed.
fn copy_picoseconds(record: &Record, operation: Operation) -> f64 {
    f64::from(operation.least_moves()) * 1e3 / record.copy.gigabytes_per_second
}

/// A point for the shapes of about one size, between 1.4 times less and more than a power of two: their medians.
fn by_size(rows: &[&BenchRow]) -> Vec<(f64, f64)> {
    let mut sizes: BTreeMap<i64, Vec<&BenchRow>> = BTreeMap::new();
    for row in rows {
        sizes.entry((row.bytes as f64).log2().round() as i64).or_default().push(row);
    }
    let medians = |of: &[&BenchRow], figure: fn(&BenchRow) -> f64| median(of.iter().map(|row| figure(row)).collect());
    let point = |of: &Vec<&BenchRow>| Some((medians(of, |row| row.bytes as f64)?, medians(of, picoseconds)?));
    sizes.values().filter_map(point).collect()
}

/// The median fraction of copy of each operation in all records of an adapter, over the shapes that every one of them
/// has. `None` where there is one record alone, or no such shape.
pub fn over_time(history: &[&Record]) -> Option<Markup> {
    let mut common = f32_lines(history.iter().copied());
    common.retain(|line| history.iter().all(|record| chosen(record, line).is_some()));
    let mut operations: Vec<Operation> = common.iter().map(|line| line.operation).collect();
    operations.dedup();
    let last = history.len().checked_sub(1).filter(|&last| last > 0)?;
    let series: Vec<Vec<f64>> = operations.iter().map(|&operation| medians(history, &common, operation)).collect();
    let largest = series.iter().flatten().copied().reduce(f64::max)?;
    // The dates stand side by side, whatever lies between them; about four have room.
    let step = history.len().div_ceil(4);
    let dates = history.iter().enumerate().step_by(step).map(|(at, it)| (at as f64, it.date.clone())).collect();
    let chart = Chart {
        x: Axis::linear("date of the record", [0.0, last as f64], [AREA[0] + 30.0, AREA[2] - 30.0]).labelled(dates),
        y: Axis::linear("median fraction of copy", [0.0, largest.max(1.0) * 1.05], [AREA[3], AREA[1]]),
    };
    let marks = html! {
        @for (number, (operation, values)) in operations.iter().zip(&series).enumerate() {
            @let points: Vec<(f64, f64)> = values.iter().zip(0..).map(|(&it, at)| (f64::from(at), it)).collect();
            (chart.curve(number, &points))
            @for (&point, record) in points.iter().zip(history) {
                (chart.dot(number, point, &format!("{operation}: {:.2}\n{}", point.1, circumstances(record))))
            }
        }
    };
    Some(html! {
        (legend(operations.iter().map(|it| it.name())))
        (chart.draw("Median fraction of copy by date", &marks))
    })
}

/// What may differ between two dates beside the kernels.
fn circumstances(record: &Record) -> String {
    let Record { date, version, driver, processor, .. } = record;
    format!("{date}, version {version}\n{driver}\n{processor}")
}

/// A median for each record.
fn medians(history: &[&Record], lines: &[&BenchRow], operation: Operation) -> Vec<f64> {
    let of = |record: &&Record| {
        let rows = lines.iter().filter(|line| line.operation == operation).filter_map(|line| chosen(record, line));
        median(rows.map(|row| row.fraction_of_copy).collect())
    };
    history.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{record, row};

    #[test]
    fn every_figure_has_a_mark_within_the_drawing() {
        // The second is far beyond the axis, the third tiny.
        let rows = [(4, 0.5, 1.0), (64, 1e9, 1e-9), (4096, 1e-9, 1e9)];
        let rows = rows.map(|(size, fraction, time)| row(Operation::ForwardTraining, &[size, 4], true, fraction, time));
        let records = [record("a", "2026-01-01", rows.to_vec()), record("b", "2026-01-01", rows.to_vec())];
        let bars = bars(&records, Operation::ForwardTraining).unwrap().into_string();
        assert_eq!(bars.matches("<rect").count(), 6);
        assert_eq!(bars.matches("<title").count(), 6);
        let sizes = sizes(&records, Operation::ForwardTraining).unwrap().into_string();
        assert_eq!(sizes.matches("<circle").count(), 6);
        assert_eq!(sizes.matches("<polyline class=\"line c").count(), 2);
        for drawing in [bars, sizes] {
            assert!(!drawing.contains("NaN") && !drawing.contains("inf") && !drawing.contains("=\"-"), "{drawing}");
        }
    }

    #[test]
    fn nothing_to_draw_draws_nothing() {
        let records = [record("a", "2026-01-01", vec![])];
        assert!(bars(&records, Operation::Inference).is_none());
        assert!(sizes(&records, Operation::Inference).is_none());
        assert!(over_time(&[&records[0], &records[0]]).is_none());
    }

    #[test]
    fn time_is_drawn_over_shapes_that_all_dates_have() {
        let of = |size| row(Operation::Inference, &[size, 4], true, 0.5, 1.0);
        let (old, new) = (record("a", "2026-01-01", vec![of(4)]), record("a", "2026-01-02", vec![of(4), of(8)]));
        let drawing = over_time(&[&old, &new]).unwrap().into_string();
        assert_eq!(drawing.matches("<circle").count(), 2);
        assert!(over_time(&[&new]).is_none());
    }

    #[test]
    fn limits_of_two_passes() {
        assert_eq!(two_pass_limit(Operation::ForwardTraining), Some(2.0 / 3.0));
        assert_eq!(two_pass_limit(Operation::BackwardTraining), Some(0.6));
        assert_eq!(two_pass_limit(Operation::Inference), None);
    }
}
