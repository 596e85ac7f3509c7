//! Charts as SVG inside the page.
//!
//! Drawn here and not by a crate: colours are the page's own (CSS classes, so that they follow light and dark mode) and
//! every mark carries a `<title>` that browsers show as a tooltip. `plotters`, the crate for charts, writes fixed
//! colours into its SVG and no titles.
//!
//! A drawing is as wide as a phone's screen; wider screens place several in a row.

use super::read::{chosen, chosen_of, f32_lines, median};
use super::{digits, plan};
use crate::bench::record::{Record, Row};
use batchnorm_wgpu::Operation;
use maud::{Markup, html};
use std::collections::BTreeMap;

/// Colours that the page's style has, `c0` and on; with more series they come again.
const COLOURS: usize = 8;
/// Width of every drawing.
const WIDTH: f64 = 400.0;
/// Where bars begin.
const BAR_LEFT: f64 = 10.0;
/// Where the axis of the bars ends; figures of the longest bars stand right of it.
const BAR_RIGHT: f64 = 348.0;
/// The axis goes at most this far. Longer bars, of tensors that a cache holds, are cut there.
const LARGEST_FRACTION: f64 = 2.0;

/// Name of the class that colours the series of a place.
pub fn colour(place: usize) -> String {
    format!("c{}", place % COLOURS)
}

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

/// A number as text in a drawing: a tenth of a unit is less than anyone sees.
fn place(value: f64) -> String {
    format!("{value:.1}")
}

/// From figures to places in a drawing.
struct Axis {
    /// The lowest and the highest figure.
    figures: [f64; 2],
    /// Where they lie.
    places: [f64; 2],
    logarithmic: bool,
}

impl Axis {
    fn at(&self, figure: f64) -> f64 {
        let scale = |it: f64| if self.logarithmic { it.ln() } else { it };
        let [low, high] = self.figures.map(scale);
        let share = if high > low { ((scale(figure) - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 };
        self.places[0] + share * (self.places[1] - self.places[0])
    }

    fn linear(figures: [f64; 2], places: [f64; 2]) -> Self {
        Self { figures, places, logarithmic: false }
    }

    /// An axis that has room around `values`, which are above 0.
    fn around(values: impl Iterator<Item = f64> + Clone, places: [f64; 2]) -> Self {
        let (low, high) = (values.clone().fold(f64::MAX, f64::min), values.fold(f64::MIN_POSITIVE, f64::max));
        Self { figures: [low / 1.5, high * 1.5], places, logarithmic: true }
    }

    /// At most about eight round figures, and how many digits each has after the point.
    fn ticks(&self) -> Vec<(f64, usize)> {
        let [low, high] = self.figures;
        let ticks = if self.logarithmic { powers(low, high) } else { multiples(high) };
        let inside: Vec<_> = ticks.into_iter().filter(|&(tick, _)| tick >= low && tick <= high * 1.0001).collect();
        let step = inside.len().div_ceil(8).max(1);
        inside.into_iter().step_by(step).collect()
    }

    /// Those, as they are written.
    fn labels(&self) -> Vec<(f64, String)> {
        self.ticks().into_iter().map(|(tick, decimals)| (tick, format!("{tick:.decimals$}"))).collect()
    }
}

/// Digits after the point of a figure whose first digit stands for a power of ten.
fn decimals(power: i32) -> usize {
    usize::try_from(-power).unwrap_or(0)
}

/// From 0 to `high` in steps of 1, 2 or 5 of a power of ten.
fn multiples(high: f64) -> Vec<(f64, usize)> {
    let rough = high / 7.0;
    let power = rough.log10().floor() as i32;
    let unit = 10f64.powi(power);
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|it| it * unit).find(|&it| it >= rough).unwrap_or(rough);
    (0..=7).map(|number| (f64::from(number) * step, decimals(power))).collect()
}

/// The powers of ten from `low` to `high`; where they are few, their twofold and fivefold too.
fn powers(low: f64, high: f64) -> Vec<(f64, usize)> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let digits: &[f64] = if high / low < 500.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let of = |power: i32| digits.iter().map(move |digit| (digit * 10f64.powi(power), decimals(power)));
    (first..=last).flat_map(of).collect()
}

/// Bytes as people read them.
fn bytes(value: f64) -> String {
    let units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let (unit, name) = units.into_iter().find(|(unit, _)| value >= *unit).unwrap_or((1.0, "B"));
    format!("{} {name}", value / unit)
}

/// What a mark shows when pointed at.
fn tooltip(record: &Record, row: &Row) -> String {
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

/// Names of series beside their colours.
pub fn legend<'a>(names: impl IntoIterator<Item = &'a str>) -> Markup {
    html! {
        ul.legend {
            @for (number, name) in names.into_iter().enumerate() {
                li { span class={ "swatch " (colour(number)) } {} (name) }
            }
        }
    }
}

/// A bar for every shape and adapter that has a chosen row of `operation`. `None` where none has.
pub fn bars(records: &[Record], operation: Operation) -> Option<Markup> {
    let shapes: Vec<&Row> = f32_lines(records).into_iter().filter(|line| line.operation == operation).collect();
    let groups: Vec<Group> = shapes.iter().map(|line| Group::of(records, line)).collect();
    let largest = groups.iter().flat_map(|it| &it.bars).map(|(_, _, row)| row.fraction_of_copy).reduce(f64::max)?;
    let axis = Axis::linear([0.0, largest.clamp(1.25, LARGEST_FRACTION)], [BAR_LEFT, BAR_RIGHT]);
    let top = 48.0;
    let bottom = top + groups.iter().map(Group::height).sum::<f64>();
    let tops = groups.iter().scan(top, |y, group| {
        let own = *y;
        *y += group.height();
        Some(own)
    });
    Some(html! {
        svg viewBox=(format!("0 0 {WIDTH} {}", bottom + 24.0)) role="img"
            aria-label={ (operation) ": fraction of the copy kernel's speed, by shape and adapter" } {
            (bar_grid(&axis, top, bottom))
            (reference(&axis, 1.0, "copy 1.0", "start", top, bottom))
            @if let Some(limit) = two_pass_limit(operation) {
                (reference(&axis, limit, &format!("two passes {limit:.2}"), "end", top, bottom))
            }
            @for (group, y) in groups.iter().zip(tops) { (group.draw(&axis, y)) }
        }
    })
}

/// The bars of a shape.
struct Group<'a> {
    shape: String,
    /// Place in the legend, record and row.
    bars: Vec<(usize, &'a Record, &'a Row)>,
}

impl<'a> Group<'a> {
    /// Height of the shape's name and the space around it.
    const HEAD: f64 = 24.0;
    /// From a bar to the next.
    const STEP: f64 = 13.0;

    fn of(records: &'a [Record], line: &Row) -> Self {
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
                @let cut = if row.fraction_of_copy > axis.figures[1] { " \u{2192}" } else { "" };
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

/// The grid behind bars, with figures above and below.
fn bar_grid(axis: &Axis, top: f64, bottom: f64) -> Markup {
    html! {
        @for (tick, label) in axis.labels() {
            @let x = place(axis.at(tick));
            line.grid x1=(x) x2=(x) y1=(place(top)) y2=(place(bottom + 4.0)) {}
            @for y in [top - 6.0, bottom + 18.0] {
                text.tick x=(x) y=(place(y)) text-anchor="middle" { (label) }
            }
        }
    }
}

/// A line that bars are held against, and its name above the axis.
fn reference(axis: &Axis, at: f64, name: &str, anchor: &str, top: f64, bottom: f64) -> Markup {
    let x = place(axis.at(at));
    html! {
        line.reference x1=(x) x2=(x) y1=(place(top)) y2=(place(bottom + 4.0)) {}
        text.value x=(place(axis.at(at) + if anchor == "end" { -5.0 } else { 5.0 })) y=(place(top - 24.0))
            text-anchor=(anchor) { (name) }
    }
}

/// The area of a chart of lines: left, top, right, bottom.
const AREA: [f64; 4] = [54.0, 26.0, 390.0, 240.0];

/// An axis of a chart of lines.
struct Side<'a> {
    axis: &'a Axis,
    name: &'a str,
    /// Figures and how they are written.
    ticks: Vec<(f64, String)>,
}

/// The grid of a chart of lines, with the names of its axes.
fn frame(x: &Side, y: &Side) -> Markup {
    let [left, top, right, bottom] = AREA;
    html! {
        @for (figure, label) in &x.ticks {
            @let at = place(x.axis.at(*figure));
            line.grid x1=(at) x2=(at) y1=(top) y2=(bottom) {}
            text.tick x=(at) y=(bottom + 16.0) text-anchor="middle" { (label) }
        }
        @for (figure, label) in &y.ticks {
            @let at = y.axis.at(*figure);
            line.grid x1=(left) x2=(right) y1=(place(at)) y2=(place(at)) {}
            text.tick x=(left - 6.0) y=(place(at + 4.0)) text-anchor="end" { (label) }
        }
        text.value x=((left + right) / 2.0) y=(bottom + 34.0) text-anchor="middle" { (x.name) }
        text.value x="4" y="13" { (y.name) }
    }
}

/// A line through `points`.
fn curve(series: usize, points: &[(f64, f64)]) -> Markup {
    let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    html! { polyline class={ "line " (colour(series)) } points=(points.join(" ")) {} }
}

/// A mark with its tooltip.
fn dot(series: usize, at: (f64, f64), text: &str) -> Markup {
    html! { circle class=(colour(series)) cx=(place(at.0)) cy=(place(at.1)) r="3.5" { title { (text) } } }
}

/// Picoseconds for each byte of x.
fn picoseconds(row: &Row) -> f64 {
    row.microseconds.median * 1e6 / row.bytes as f64
}

/// Time per byte against tensor size, a line for each adapter, and one where its copy kernel's speed would lie. `None`
/// where no record has the operation.
pub fn sizes(records: &[Record], operation: Operation) -> Option<Markup> {
    let series: Vec<(usize, &Record, Vec<&Row>)> =
        records.iter().enumerate().map(|(number, record)| (number, record, chosen_of(record, operation))).collect();
    let all = || series.iter().flat_map(|(_, _, rows)| rows);
    all().next()?;
    let x = Axis::around(all().map(|row| row.bytes as f64), [AREA[0], AREA[2]]);
    let limits = series.iter().filter(|it| !it.2.is_empty()).map(|it| copy_picoseconds(it.1, operation));
    let y = Axis::around(all().map(|row| picoseconds(row)).chain(limits), [AREA[3], AREA[1]]);
    let x_ticks = x.ticks().into_iter().map(|(tick, _)| (tick, bytes(tick))).collect();
    let x_side = Side { axis: &x, name: "bytes of x", ticks: x_ticks };
    let y_side = Side { axis: &y, name: "picoseconds per byte of x", ticks: y.labels() };
    Some(html! {
        svg viewBox=(format!("0 0 {WIDTH} {}", AREA[3] + 40.0)) role="img"
            aria-label={ "Time per byte against tensor size, " (operation) } {
            (frame(&x_side, &y_side))
            @for (number, record, rows) in series.iter().filter(|it| !it.2.is_empty()) {
                @let limit = place(y.at(copy_picoseconds(record, operation)));
                line class={ "limit " (colour(*number)) } x1=(AREA[0]) x2=(AREA[2]) y1=(limit) y2=(limit) {
                    title { "speed of the copy kernel of " (record.adapter) }
                }
                (curve(*number, &by_size(rows, &x, &y)))
                @for row in rows {
                    (dot(*number, (x.at(row.bytes as f64), y.at(picoseconds(row))), &tooltip(record, row)))
                }
            }
        }
    })
}

/// What a byte of x would take at the copy kernel's speed.
fn copy_picoseconds(record: &Record, operation: Operation) -> f64 {
    f64::from(operation.least_moves()) * 1e3 / record.copy.gigabytes_per_second
}

/// A point for the shapes of about one size, between 1.4 times less and more than a power of two: their medians.
fn by_size(rows: &[&Row], x: &Axis, y: &Axis) -> Vec<(f64, f64)> {
    let mut sizes: BTreeMap<i64, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        sizes.entry((row.bytes as f64).log2().round() as i64).or_default().push(row);
    }
    let medians = |of: &[&Row], figure: fn(&Row) -> f64| median(of.iter().map(|row| figure(row)).collect());
    let point = |of: &Vec<&Row>| Some((x.at(medians(of, |row| row.bytes as f64)?), y.at(medians(of, picoseconds)?)));
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
    let x = Axis::linear([0.0, last as f64], [AREA[0] + 30.0, AREA[2] - 30.0]);
    let y = Axis::linear([0.0, largest.max(1.0) * 1.05], [AREA[3], AREA[1]]);
    // The dates stand side by side, whatever lies between them; about four have room.
    let step = history.len().div_ceil(4);
    let x_ticks = history.iter().enumerate().step_by(step).map(|(at, it)| (at as f64, it.date.clone())).collect();
    let x_side = Side { axis: &x, name: "date of the record", ticks: x_ticks };
    let y_side = Side { axis: &y, name: "median fraction of copy", ticks: y.labels() };
    Some(html! {
        (legend(operations.iter().map(|it| it.name())))
        svg viewBox=(format!("0 0 {WIDTH} {}", AREA[3] + 40.0)) role="img"
            aria-label="Median fraction of copy by date" {
            (frame(&x_side, &y_side))
            @for (number, (operation, values)) in operations.iter().zip(&series).enumerate() {
                @let points = values.iter().zip(0..).map(|(&it, at)| (x.at(f64::from(at)), y.at(it)));
                @let points: Vec<(f64, f64)> = points.collect();
                (curve(number, &points))
                @for ((point, value), record) in points.iter().zip(values).zip(history) {
                    (dot(number, *point, &format!("{operation}: {value:.2}\n{}", circumstances(record))))
                }
            }
        }
    })
}

/// What may differ between two dates beside the kernels.
fn circumstances(record: &Record) -> String {
    let Record { date, version, driver, processor, .. } = record;
    format!("{date}, version {version}\n{driver}\n{processor}")
}

/// A median for each record.
fn medians(history: &[&Record], lines: &[&Row], operation: Operation) -> Vec<f64> {
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
    fn ticks_are_round() {
        let linear = Axis::linear([0.0, 1.25], [0.0, 1.0]).labels();
        assert_eq!(
            linear.iter().map(|(_, label)| label.as_str()).collect::<Vec<_>>(),
            ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0", "1.2"]
        );
        let log = Axis { figures: [3.0, 40.0], places: [0.0, 1.0], logarithmic: true }.ticks();
        assert_eq!(log.into_iter().map(|(tick, _)| tick).collect::<Vec<_>>(), [5.0, 10.0, 20.0]);
    }

    #[test]
    fn limits_of_two_passes() {
        assert_eq!(two_pass_limit(Operation::ForwardTraining), Some(2.0 / 3.0));
        assert_eq!(two_pass_limit(Operation::BackwardTraining), Some(0.6));
        assert_eq!(two_pass_limit(Operation::Inference), None);
    }
}
