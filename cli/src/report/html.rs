//! The page. The template escapes whatever comes from files.

use super::charts::{bars, over_time, sizes, two_pass_limit};
use super::read::{Records, chosen_of, median, order, same_case};
use super::{FUSED_HEADER, count, digits, fused_cells, plan, strategy};
use crate::bench::record::{BenchRow, Record};
use crate::chart::{legend, page_style};
use crate::compile::record::{CompilerRecord, HEADER as COMPILED_HEADER, cells as compiled_cells};
use batchnorm_wgpu::Operation;
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// One HTML file that needs no other.
pub fn page(records: &Records) -> String {
    let Records { newest, .. } = records;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Batch normalization benchmarks" }
                style { (PreEscaped(include_str!("style.css"))) (PreEscaped(page_style())) }
            }
            body {
                h1 { "Batch normalization on " (count(newest.len(), "adapter")) }
                (definitions())
                h2 { "Adapters" }
                (adapters(newest))
                (overview(newest))
                h2 { "Fraction of copy by shape" }
                (fractions(newest))
                h2 { "Time per byte against tensor size" }
                (flatness(newest))
                (history(records))
                (plans(newest))
                (fused(newest))
                (compiled(&records.compiled))
                h2 { "All figures" }
                @for record in newest { (figures(record)) }
            }
        }
    };
    page.into_string()
}

/// What the figures mean.
fn definitions() -> Markup {
    let figure = |limit: Option<f64>| limit.map(|it| format!("{it:.2}")).unwrap_or_default();
    html! {
        p {
            "How fast the kernels of " code { "batchnorm-wgpu" } " run, held against a kernel that only copies a "
            "tensor on the same adapter. Made by " code { "bn report" } " from records of "
            code { "bn bench --record" } "."
        }
        dl {
            dt { "Fraction of copy" }
            dd {
                "Bytes that the operation must move at the least (2 tensors forward, 3 backward), over its time, over "
                "the same of the copy kernel. 1.0 is the limit for kernels that read every tensor once; a training "
                "forward that reads x twice can reach " (figure(two_pass_limit(Operation::ForwardTraining)))
                ", a training backward that reads x and dy twice " (figure(two_pass_limit(Operation::BackwardTraining)))
                ". Tensors that a cache holds may go beyond these."
            }
            dt { "Time" }
            dd { "Microseconds of one step, the median of several samples; the spread is between the quartiles." }
            dt { "Plan" }
            dd {
                "Which kernels run and how their work is laid out. Where nothing else is said, figures are of the plan "
                "that the library chooses by itself."
            }
        }
    }
}

/// A table that scrolls by itself where the screen is narrow. Columns from `first_number` on are aligned to the right.
fn table(header: &[&str], first_number: usize, body: Markup) -> Markup {
    html! {
        div.scroll {
            table {
                thead {
                    tr {
                        @for (column, name) in header.iter().enumerate() {
                            th.number[column >= first_number] scope="col" { (name) }
                        }
                    }
                }
                tbody { (body) }
            }
        }
    }
}

fn adapters(records: &[Record]) -> Markup {
    let header = ["adapter", "name", "driver", "backend", "processor", "clock", "version", "date", "copy GB/s"];
    let body = html! {
        @for record in records {
            tr {
                th scope="row" { (record.adapter) }
                td { (record.name) }
                td { (record.driver) }
                td { (record.backend) ", " (record.device_type) }
                td { (record.processor) }
                td { (record.clock.describe()) }
                td.number { (record.version) }
                td.number { (record.date) }
                td.number { (digits(record.copy.gigabytes_per_second)) }
            }
        }
    };
    html! { div.wrap { (table(&header, 6, body)) } }
}

/// Operations that a record has chosen rows of.
fn operations(records: &[Record]) -> Vec<Operation> {
    let measured = |operation: &Operation| records.iter().any(|record| !chosen_of(record, *operation).is_empty());
    Operation::ALL.into_iter().filter(measured).collect()
}

/// Median, lowest and highest fraction of copy by adapter and operation.
fn overview(records: &[Record]) -> Markup {
    let operations = operations(records);
    let header: Vec<&str> = ["adapter"].into_iter().chain(operations.iter().map(|it| it.name())).collect();
    let body = html! {
        @for record in records {
            tr {
                th scope="row" { (record.adapter) }
                @for &operation in &operations { td.number { (range(record, operation)) } }
            }
        }
    };
    html! {
        h3 { "Fraction of copy over all shapes, f32: median (lowest to highest)" }
        (table(&header, 1, body))
    }
}

fn range(record: &Record, operation: Operation) -> String {
    let values: Vec<f64> = chosen_of(record, operation).into_iter().map(|row| row.fraction_of_copy).collect();
    let (low, high) = (values.iter().copied().fold(f64::MAX, f64::min), values.iter().copied().fold(0.0, f64::max));
    median(values).map_or("-".into(), |median| format!("{median:.2} ({low:.2} to {high:.2})"))
}

fn fractions(records: &[Record]) -> Markup {
    html! {
        p {
            "A bar for each adapter below the name of a shape; shapes of f32 tensors from the smallest to the largest. Longer is "
            "faster. Point at a bar for its time and plan."
        }
        (legend(records.iter().map(|it| it.adapter.as_str())))
        div.charts {
            @for operation in Operation::ALL {
                @if let Some(chart) = bars(records, operation) {
                    figure {
                        figcaption { (operation) }
                        (chart)
                    }
                }
            }
        }
    }
}

fn flatness(records: &[Record]) -> Markup {
    html! {
        p {
            "A dot for each shape, a line through the medians of shapes of about one size. The dotted line is the "
            "speed of the adapter's copy kernel. A line that is flat from some size on says that only the bytes count "
            "there; where it rises to the left, dispatches cost more than bytes."
        }
        (legend(records.iter().map(|it| it.adapter.as_str())))
        div.charts {
            @for operation in [Operation::ForwardTraining, Operation::BackwardTraining] {
                @if let Some(chart) = sizes(records, operation) {
                    figure {
                        figcaption { (operation) }
                        (chart)
                    }
                }
            }
        }
    }
}

/// Adapters with more than one date.
fn history(records: &Records) -> Markup {
    let histories = records.newest.iter().map(|record| (&record.adapter, over_time(&records.history(record))));
    let charts: Vec<_> = histories.filter_map(|(adapter, chart)| Some((adapter, chart?))).collect();
    html! {
        @if !charts.is_empty() {
            h2 { "Over time" }
            p { "The median over the shapes that all records of the adapter have." }
            div.charts {
                @for (adapter, chart) in charts {
                    figure {
                        figcaption { (adapter) }
                        (chart)
                    }
                }
            }
        }
    }
}

/// Rows of one operation on one shape with several plans, the fastest first.
type ComparedPlans<'a> = Vec<&'a BenchRow>;

fn contests(record: &Record, operation: Operation) -> Vec<ComparedPlans<'_>> {
    let mut rows: Vec<&BenchRow> = record.rows.iter().filter(|row| row.operation == operation).collect();
    rows.sort_by(|a, b| order(a, b).then(a.microseconds.median.total_cmp(&b.microseconds.median)));
    let groups = rows.chunk_by(|a, b| same_case(a, b));
    groups.filter(|group| group.iter().any(|row| !row.chosen)).map(<[_]>::to_vec).collect()
}

/// Other plans beside the chosen ones, where a record has such.
fn plans(records: &[Record]) -> Markup {
    let of = |record| Operation::ALL.map(|operation| (operation, contests(record, operation)));
    let all: Vec<_> = records.iter().map(|record| (record, of(record))).collect();
    html! {
        @if all.iter().flat_map(|(_, contests)| contests).any(|(_, contests)| !contests.is_empty()) {
            h2 { "Kernels by shape" }
            p {
                "Plans that were forced, for comparison, from the fastest to the slowest. The chosen one is marked, "
                "the fastest is bold."
            }
            @for (record, operations) in &all {
                @if operations.iter().any(|(_, contests)| !contests.is_empty()) { h3 { (record.adapter) } }
                @for (operation, contests) in operations.iter().filter(|(_, contests)| !contests.is_empty()) {
                    details {
                        summary { strong { (operation) } ": " (verdict(contests)) }
                        (plan_table(contests))
                    }
                }
            }
        }
    }
}

/// How often the choice was right.
fn verdict(contests: &[ComparedPlans]) -> String {
    let pairs = contests.iter().filter_map(|rows| Some((rows.iter().find(|row| row.chosen)?, rows.first()?)));
    let times: Vec<_> = pairs.map(|(chosen, best)| (chosen.microseconds, best.microseconds)).collect();
    let near =
        times.iter().filter(|(chosen, best)| chosen.median <= best.median + chosen.spread.max(best.spread)).count();
    let worst = times.iter().map(|(chosen, best)| chosen.median / best.median).fold(1.0, f64::max);
    format!(
        "the chosen plan is the fastest, or within the spread of it, for {near} of {}; at worst it takes {worst:.2} \
         times as long",
        count(times.len(), "shape")
    )
}

fn plan_table(contests: &[ComparedPlans]) -> Markup {
    let header = [
        "shape",
        "",
        "strategy",
        "geometry",
        "reduction",
        "workgroup size",
        "held",
        "workgroups",
        "splits",
        "us",
        "spread",
        "of copy",
    ];
    let body = html! {
        @for rows in contests {
            @for (number, row) in rows.iter().enumerate() {
                tr.chosen[row.chosen] {
                    @if number == 0 { th scope="rowgroup" rowspan=(rows.len()) { (row.case()) } }
                    (plan_cells(row, number == 0))
                }
            }
        }
    };
    table(&header, 5, body)
}

fn plan_cells(row: &BenchRow, best: bool) -> Markup {
    let plan = &row.plan;
    html! {
        td { @if row.chosen { "chosen" } }
        td.best[best] { (strategy(row)) }
        td.best[best] { (plan.geometry()) }
        td.best[best] { (plan.reduction()) }
        td.number.best[best] { (plan.preference.workgroup_size()) }
        td.number.best[best] { @if let Some(held) = plan.held() { (held) } @else { "-" } }
        td.number.best[best] { (plan.preference.workgroups) }
        td.number.best[best] { (plan.splits) }
        td.number.best[best] { (digits(row.microseconds.median)) }
        td.number { (digits(row.microseconds.spread)) }
        td.number.best[best] { (format!("{:.2}", row.fraction_of_copy)) }
    }
}

/// Fused steps beside separate passes, where records have such.
fn fused(records: &[Record]) -> Markup {
    let body = html! {
        @for record in records {
            @for row in &record.fused {
                tr {
                    th scope="row" { (record.adapter) }
                    @for (column, cell) in fused_cells(row).into_iter().enumerate() {
                        td.number[column >= 4] { (cell) }
                    }
                }
            }
        }
    };
    html! {
        @if records.iter().any(|record| !record.fused.is_empty()) {
            h2 { "Fused steps" }
            p {
                "What follows a batch norm in one step with it, beside the plain batch norm and an elementwise kernel, "
                "timed in turn. Moves are tensors that the kernels read and write, one as often as they go over it."
            }
            (table(&FUSED_HEADER, 5, body))
        }
    }
}

/// What compilers say of the kernels, where there are such records.
fn compiled(records: &[CompilerRecord]) -> Markup {
    let header = COMPILED_HEADER.map(|(name, _)| name.replace('\n', " "));
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let last = header.len() - 1;
    html! {
        @if !records.is_empty() {
            h2 { "What compilers of GPUs say" }
            p {
                "From " code { "bn compile --record" } ", without a GPU. Of every figure the worst over all activations and "
                "bindings of a kernel; a kernel that spills is marked."
            }
            dl {
                @for (name, meaning) in COMPILED_HEADER.iter().filter(|(_, meaning)| !meaning.is_empty()) {
                    dt { (name.replace('\n', " ")) }
                    dd { (meaning) }
                }
            }
        }
        @for record in records {
            details {
                summary {
                    strong { (record.compiler) } ", " (record.gpu) ", " (record.driver) ", " (record.date) ": "
                    (count(record.kernels.len(), "kernel"))
                }
                (table(&header, 1, html! {
                    @for kernel in &record.kernels {
                        tr.chosen[kernel.figures.spills()] {
                            @for (column, cell) in compiled_cells(kernel).into_iter().enumerate() {
                                td.number[column > 0 && column < last] { (cell) }
                            }
                        }
                    }
                }))
            }
        }
    }
}

/// Every row of a record.
fn figures(record: &Record) -> Markup {
    let header = [
        "operation",
        "shape",
        "kernels",
        "plan",
        "MB",
        "dispatches",
        "us",
        "spread",
        "samples",
        "GB/s",
        "of copy",
        "encode us",
    ];
    let mut rows: Vec<&BenchRow> = record.rows.iter().collect();
    // The chosen plan first, others in the order of the file.
    rows.sort_by(|a, b| order(a, b).then(b.chosen.cmp(&a.chosen)));
    let body = html! { @for row in &rows { (figure_row(row)) } };
    html! {
        details {
            summary { strong { (record.adapter) } ", " (record.date) ": " (count(rows.len(), "row")) }
            (table(&header, 4, body))
        }
    }
}

fn figure_row(row: &BenchRow) -> Markup {
    html! {
        tr.chosen[row.chosen] {
            th scope="row" { (row.operation) }
            td { (row.case()) }
            td { (row.kernels.join(", ")) }
            td { (plan(row)) }
            td.number { (digits(row.bytes as f64 / 1e6)) }
            td.number { (row.kernels.len()) }
            td.number { (digits(row.microseconds.median)) }
            td.number { (digits(row.microseconds.spread)) }
            td.number { (row.microseconds.samples) " of " (row.microseconds.steps) }
            td.number { (digits(row.gigabytes_per_second)) }
            td.number { (format!("{:.2}", row.fraction_of_copy)) }
            td.number { (format!("{:.2}", row.encode_microseconds)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{record, row};

    #[test]
    fn text_from_files_is_escaped() {
        let mut hostile = record("<b>&", "2026-01-02", vec![row(Operation::Inference, &[2, 3], true, 0.5, 1.0)]);
        hostile.name = "<script>alert(1)</script>".into();
        hostile.rows[0].layout = "\"><i>".into();
        let page = page(&Records::new(vec![hostile]));
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        assert!(!page.contains("<script") && !page.contains("<b>") && !page.contains("<i>"));
    }

    #[test]
    fn what_compilers_say_has_a_table_for_each_of_them() {
        use batchnorm_wgpu_compile::figures::{CompilerFigures, KernelReport};
        let kernel = KernelReport {
            name: "moments.planes4.tree".into(),
            workgroup_size: 256,
            chosen_for: Some("statistics 2x3 <b>".into()),
            variants: 7,
            worst: "moments.planes4.tree".into(),
            figures: CompilerFigures {
                vector_registers: Some(56),
                spilled: Some(4711),
                per_element: Some(9.06),
                ..CompilerFigures::default()
            },
        };
        let of = |compiler: &str| CompilerRecord {
            schema: crate::compile::record::SCHEMA.into(),
            date: "2026-01-02".into(),
            compiler: compiler.into(),
            gpu: "a GPU".into(),
            name: "<i>null".into(),
            driver: "a driver".into(),
            version: "0.1.0".into(),
            kernels: vec![kernel.clone()],
            failed: Vec::new(),
        };
        let records = Records { compiled: vec![of("radv-one"), of("radv-two")], ..Records::new(Vec::new()) };
        let page = page(&records);
        for words in ["radv-one", "radv-two", "moments.planes4.tree", ">56<", ">4711<", ">9.1<", "spilled"] {
            assert!(page.contains(words), "{words}");
        }
        assert!(!page.contains("<b>"));
        assert!(!super::page(&Records::new(Vec::new())).contains("What compilers"));
    }

    #[test]
    fn the_page_needs_nothing_else() {
        let rows = vec![
            row(Operation::ForwardTraining, &[2, 3], true, 0.5, 2.0),
            row(Operation::ForwardTraining, &[2, 3], false, 0.8, 1.0),
        ];
        let records = ["2026-01-01", "2026-01-02"].map(|date| record("one", date, rows.clone()));
        let page = page(&Records::new(records.into()));
        assert!(["http", "src=", "href=", "url(", "@import"].iter().all(|it| !page.contains(it)));
        assert!(page.contains("Over time") && page.contains("for 0 of 1 shape; at worst it takes 2.00 times"));
    }
}
