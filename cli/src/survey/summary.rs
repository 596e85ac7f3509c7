//! The summary of a survey: at most forty lines.

use super::results::{Checks, Peers, Survey, chosen, find, same};
use super::step::StepEnd;
use crate::bench::record::{BenchRow, Record};
use crate::terminal::{Column, number, prose, table, text as column, whole_table};
use batchnorm_wgpu::Operation::{BackwardTraining, ForwardTraining, Inference};
use batchnorm_wgpu::{DType, Operation};
use serde_json::Value;

/// Lines that a summary has at the most.
pub const LINES: usize = 40;

/// Shapes that are shown at the most: the first ones matter most.
const SHAPES: usize = 16;

/// A plan, or a peer, that is so much faster than the chosen plan is a surprise.
const SURPRISE: f64 = 1.1;
/// Fractions of the copy kernel's speed beyond these are surprises: slow, or too fast to be true.
const PLAUSIBLE: [f64; 2] = [0.2, 1.15];

/// All that a survey found.
#[derive(Clone, Copy)]
pub struct SurveyResults<'a> {
    pub survey: &'a Survey,
    pub checks: &'a Checks,
    pub bench: Option<&'a Record>,
    pub peers: &'a Peers,
    pub tuned: Option<&'a Record>,
}

/// The text for the file, with every column.
pub fn text(found: &SurveyResults<'_>) -> String {
    drawn(found, whole_table)
}

/// The text for a terminal, which may have no room for every column.
pub fn text_to_width(found: &SurveyResults<'_>) -> String {
    let text = drawn(found, table);
    // Tables have their width already.
    let fitted = |line: &str| if line.starts_with(['┌', '│', '╞', '└']) { line.into() } else { prose(line) };
    text.lines().map(fitted).collect::<Vec<_>>().join("\n") + "\n"
}

fn drawn(found: &SurveyResults<'_>, draw: fn(Vec<Column>, Vec<Vec<String>>) -> String) -> String {
    let mut lines = head(found);
    if let Some(bench) = found.bench {
        lines.push(String::new());
        lines.extend(figures(bench, found, draw).lines().map(str::to_owned));
    }
    let surprises = surprises(found);
    let room = LINES.saturating_sub(lines.len() + 2);
    lines.push(match surprises.len() {
        0 => "Surprises: none.".into(),
        number => format!("Surprises ({number}):"),
    });
    lines.extend(surprises.iter().take(room).map(|line| format!("- {line}")));
    if surprises.len() > room {
        lines.push(format!("- and {} more, in the files", surprises.len() - room));
    }
    lines.join("\n") + "\n"
}

fn head(found: &SurveyResults<'_>) -> Vec<String> {
    let Survey { date, version, minutes, processor, adapter, steps, pytorch, .. } = found.survey;
    let took: f64 = steps.iter().map(|step| step.seconds).sum();
    let mut lines = vec![match found.bench {
        Some(Record { name, backend, driver, .. }) => format!("{adapter}: {name} ({backend}), {driver}"),
        None => format!("{adapter}: nothing was timed"),
    }];
    lines.push(format!("{processor}; {date}; batchnorm-wgpu {version}; {:.1} of {minutes} minutes", took / 60.0));
    lines.push(format!("golden cases: {}", golden(&found.checks.golden)));
    lines.push(format!("cross-check: {}", matrix(&found.checks.matrix)));
    if let Some(Record { copy, clock, .. }) = found.bench {
        lines.push(format!(
            "copy kernel: {:.1} GB/s, read and write; clock: {}",
            copy.gigabytes_per_second,
            clock.describe()
        ));
    }
    lines.push(format!("PyTorch: {pytorch}"));
    lines
}

fn golden(report: &Value) -> String {
    let Some(report) = report.get(0) else { return "did not run".into() };
    let count = |key: &str| report[key].as_u64().unwrap_or(0);
    let words =
        [("passed", "passed"), ("failed", "failed"), ("unsupported", "not supported"), ("left_out", "left out")];
    words.map(|(key, word)| format!("{} {word}", count(key))).join(", ")
}

fn matrix(report: &Value) -> String {
    let Some(report) = report.get(0) else { return "did not run to its end".into() };
    let outcomes = report["outcomes"].as_array().map_or(&[][..], Vec::as_slice);
    let failed = outcomes.iter().filter(|outcome| !outcome["failure"].is_null()).count();
    let variants = report["variants"].as_u64().unwrap_or(0);
    let holes = report["holes"].as_array().map_or(0, |holes| holes.len() as u64);
    let cases = report["cases_in_all"].as_u64().unwrap_or(0);
    format!(
        "{} passed, {failed} failed, of {cases} cases; {} of {variants} kernel variants ran",
        outcomes.len() - failed,
        variants.saturating_sub(holes)
    )
}

/// A line for each shape: forward, backward and inference.
fn figures(bench: &Record, found: &SurveyResults<'_>, draw: fn(Vec<Column>, Vec<Vec<String>>) -> String) -> String {
    let lines = chosen(bench, ForwardTraining).take(SHAPES).map(|forward| {
        let of = |operation| {
            bench.rows.iter().find(|row| row.chosen && same(row, &BenchRow { operation, ..forward.clone() }))
        };
        let rows = [Some(forward), of(BackwardTraining)];
        let time = |row: Option<&BenchRow>| row.map_or("-".into(), |row| format!("{:.0}", row.microseconds.median));
        let fraction = |row: Option<&BenchRow>| row.map_or("-".into(), |row| format!("{:.2}", row.fraction_of_copy));
        let peer = |row: Option<&BenchRow>| {
            row.and_then(|row| found.peers.best(row)).map_or("-".into(), |(name, ratio)| {
                format!("{ratio:.2} {}", name.trim_start_matches("pytorch-").trim_start_matches("cuda-"))
            })
        };
        let plan = |row: Option<&BenchRow>| {
            row.and_then(|row| best_plan(bench, row)).map_or("-".into(), |(ratio, _)| format!("{ratio:.2}"))
        };
        let inference = of(Inference);
        vec![
            label(forward),
            time(rows[0]),
            fraction(rows[0]),
            peer(rows[0]),
            plan(rows[0]),
            time(rows[1]),
            fraction(rows[1]),
            peer(rows[1]),
            plan(rows[1]),
            time(inference),
            fraction(inference),
        ]
    });
    let figures = ["fwd us", "copy", "peer", "plan", "bwd us", "copy", "peer", "plan", "inf us", "copy"];
    // What inference takes, and what the plan could have been, matter least.
    let figures = figures.into_iter().enumerate().map(|(i, name)| match i {
        3 | 7..=9 => number(name).extra(),
        _ => number(name),
    });
    let columns: Vec<_> = std::iter::once(column("shape")).chain(figures).collect();
    let legend = "copy: fraction of the copy kernel's speed. peer: time of the fastest other over ours. plan: ours over that\n\
                  of the fastest forced strategy.";
    format!("{}\n{legend}", draw(columns, lines.collect()))
}

fn label(row: &BenchRow) -> String {
    let dims = row.dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
    let last = if row.layout == "channels_last" { " last" } else { "" };
    let dtype = if row.dtype == DType::F32 { String::new() } else { format!(" {}", row.dtype) };
    let views = if row.views.is_empty() { String::new() } else { format!(" {}", row.views) };
    format!("{dims}{last}{views}{dtype}")
}

/// The time of a chosen plan over that of the fastest that was forced, and the name of the faster; none where none was forced.
/// Both in times of the copy kernel, which took turns with each.
fn best_plan(record: &Record, row: &BenchRow) -> Option<(f64, String)> {
    let forced = record.rows.iter().filter(|other| !other.chosen && same(other, row));
    let best = forced.max_by(|one, other| one.fraction_of_copy.total_cmp(&other.fraction_of_copy))?;
    let held = best.plan.held().map_or_else(String::new, |held| format!(" {held}"));
    let name = format!("{}{held}", best.plan.preference.strategy());
    match best.fraction_of_copy > row.fraction_of_copy {
        true => Some((best.fraction_of_copy / row.fraction_of_copy, name)),
        false => Some((1.0, row.plan.preference.strategy().to_string())),
    }
}

fn surprises(found: &SurveyResults<'_>) -> Vec<String> {
    let mut all = Vec::new();
    for (report, what) in [(&found.checks.golden, "files"), (&found.checks.matrix, "outcomes")] {
        let items = report.get(0).and_then(|report| report[what].as_array()).map_or(&[][..], Vec::as_slice);
        let reason =
            |item: &Value| item.get("failure").or(item.get("reason")).and_then(Value::as_str).map(str::to_owned);
        all.extend(items.iter().filter_map(|item| {
            let case = item["case"].as_str().unwrap_or_default();
            reason(item).map(|reason| format!("wrong: {case}: {}", short(&reason)))
        }));
    }
    all.extend(found.survey.steps.iter().filter_map(|step| step.trouble()));
    let Some(bench) = found.bench else { return all };
    all.extend(bench.not_timed.iter().map(|what| format!("not timed: {}", short(what))));
    // How far each is from what was expected, as a factor, and what it is.
    let mut measured: Vec<(f64, String)> = Vec::new();
    for row in bench.rows.iter().filter(|row| row.chosen) {
        let what = format!("{} {}", short_operation(row.operation), label(row));
        if let Some((ratio, name)) = best_plan(bench, row).filter(|(ratio, _)| *ratio > SURPRISE) {
            let text =
                format!("{what}: {name} is {ratio:.2} times as fast as the chosen {}", row.plan.preference.strategy());
            measured.push((ratio, text));
        }
        if let Some((name, ratio)) = found.peers.best(row).filter(|(_, ratio)| *ratio < 1.0) {
            measured.push((1.0 / ratio, format!("{what}: {name} takes {ratio:.2} of our time")));
        }
        let tuned = found.tuned.and_then(|tuned| find(tuned, row));
        if let Some(tuned) = tuned.filter(|tuned| tuned.fraction_of_copy > SURPRISE * row.fraction_of_copy) {
            let ratio = tuned.fraction_of_copy / row.fraction_of_copy;
            let text =
                format!("{what}: the tuned plan ({}) is {ratio:.2} times as fast", tuned.plan.preference.strategy());
            measured.push((ratio, text));
        }
        let fraction = row.fraction_of_copy;
        let off = (PLAUSIBLE[0] / fraction).max(fraction / PLAUSIBLE[1]);
        // What is small takes as long as a dispatch.
        if off > 1.0 && row.bytes >= 1 << 20 {
            measured.push((off, format!("{what}: {fraction:.2} of the copy kernel's speed")));
        }
    }
    measured.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    all.extend(measured.into_iter().map(|(_, text)| text));
    all
}

fn short_operation(operation: Operation) -> &'static str {
    match operation {
        ForwardTraining => "fwd",
        BackwardTraining => "bwd",
        other => other.name(),
    }
}

/// The first line of a text, and of that no more than a terminal shows.
fn short(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(110) {
        None => line.into(),
        Some((end, _)) => format!("{}...", &line[..end]),
    }
}

/// Whether golden cases and cross-check were judged, and nothing was found wrong by them or by the bench.
pub fn passed(found: &SurveyResults<'_>) -> bool {
    let judged = |report: &Value| report.get(0).is_some();
    let wrong = found.survey.steps.iter().any(|step| step.ending == StepEnd::Failed(MISMATCH));
    judged(&found.checks.golden) && judged(&found.checks.matrix) && !wrong
}

/// The exit code of `bn` where it found a mismatch.
const MISMATCH: i32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::Timing;
    use crate::report::tests::{record, row};
    use crate::survey::results::{Peer, PeerRow};
    use crate::survey::step::Done;
    use serde_json::json;

    fn peer(name: &str, shape: &str, median: f64) -> Peer {
        let microseconds = Timing { median, spread: 0.0, steps: 1, samples: 1 };
        let row = PeerRow { shape: shape.into(), dtype: None, operation: "forward_training".into(), microseconds };
        let (peer, rows) = (name.into(), vec![row]);
        Peer { peer, version: "2".into(), adapter: "a card".into(), clock: "c".into(), notes: vec![], rows }
    }

    #[test]
    fn the_best_peer_is_of_the_same_layout_and_of_all_rounds() {
        let first = row(ForwardTraining, &[8, 4, 5, 5], true, 0.5, 10.0);
        let last = BenchRow { layout: "channels_last".into(), dims: vec![8, 5, 5, 4], ..first.clone() };
        let ours = |median| {
            let timed =
                |row: &BenchRow| BenchRow { microseconds: Timing { median, ..row.microseconds }, ..row.clone() };
            record("a", "2026-01-01", vec![timed(&first), timed(&last)])
        };
        let others = |native, cudnn, channels_last| {
            vec![
                peer("pytorch-cuda-native", "8x4x5x5", native),
                peer("pytorch-cuda-cudnn", "8x4x5x5", cudnn),
                peer("pytorch-cuda-channels-last", "8x4x5x5", channels_last),
            ]
        };
        let peers =
            Peers { ours: vec![ours(8.0), ours(12.0)], others: vec![others(21.0, 10.0, 5.0), others(19.0, 40.0, 5.0)] };
        assert_eq!(peers.best(&first), Some(("pytorch-cuda-native".into(), 2.0)));
        assert_eq!(peers.best(&last), Some(("pytorch-cuda-channels-last".into(), 0.5)));
        assert_eq!(peers.best(&row(Inference, &[8, 4, 5, 5], true, 0.5, 1.0)), None);
    }

    #[test]
    fn a_summary_says_what_was_found_in_forty_lines() {
        let forced = |fraction| row(ForwardTraining, &[8, 4], false, fraction, 1.0);
        let mut rows = vec![row(ForwardTraining, &[8, 4], true, 0.4, 10.0), forced(0.3), forced(0.6)];
        rows.extend((0..20).map(|n| row(ForwardTraining, &[8192, 100 + n], true, 1.5, 1.0)));
        rows.push(row(Inference, &[8, 4], true, 0.9, 3.0));
        let mut bench = record("a", "2026-01-01", rows);
        bench.not_timed = vec!["inference 9x9: out of memory".into()];
        let tuned = record("a", "2026-01-01", vec![row(ForwardTraining, &[8, 4], true, 0.8, 5.0)]);
        let failed = Done { ending: StepEnd::OutOfTime, limit: 7.0, ..Done::left_out("tune", "") };
        let survey = Survey { adapter: "a".into(), steps: vec![failed], ..Survey::default() };
        let checks = Checks {
            golden: json!([{ "passed": 24, "failed": 1, "unsupported": 0, "left_out": 0, "files": [
                { "case": "one", "reason": null }, { "case": "two", "reason": "y[3] is off" }] }]),
            matrix: json!([{ "variants": 10, "holes": ["h"], "cases_in_all": 9, "outcomes": [
                { "case": "c", "failure": null }, { "case": "d", "failure": "dx[0]: NaN" }] }]),
        };
        let peers = Peers { ours: vec![bench.clone()], others: vec![vec![peer("pytorch-cuda-cudnn", "8x4", 5.0)]] };
        let found =
            SurveyResults { survey: &survey, checks: &checks, bench: Some(&bench), peers: &peers, tuned: Some(&tuned) };
        let text = text(&found);
        assert_eq!(text.lines().count(), LINES, "{text}");
        for line in [
            "golden cases: 24 passed, 1 failed, 0 not supported, 0 left out",
            "cross-check: 1 passed, 1 failed, of 9 cases; 9 of 10 kernel variants ran",
            "- wrong: two: y[3] is off",
            "- wrong: d: dx[0]: NaN",
            "- tune: stopped after its 7 s",
            "- not timed: inference 9x9: out of memory",
            "- fwd 8x4: split is 1.50 times as fast as the chosen split",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(text.lines().last().unwrap().ends_with(" more, in the files"), "{text}");
        let all = surprises(&found).join("\n");
        assert!(all.contains("fwd 8x4: pytorch-cuda-cudnn takes 0.50 of our time"), "{all}");
        assert!(all.contains("fwd 8x4: the tuned plan (split) is 2.00 times as fast"), "{all}");
        assert!(all.contains("fwd 8192x100: 1.50 of the copy kernel's speed"), "{all}");
        let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(longest <= 120, "{longest}: {text}");
    }

    #[test]
    fn nothing_found_is_said_too() {
        let found = SurveyResults {
            survey: &Survey::default(),
            checks: &Checks::default(),
            bench: None,
            peers: &Peers::default(),
            tuned: None,
        };
        let text = text(&found);
        assert!(text.contains("golden cases: did not run") && text.contains("nothing was timed"), "{text}");
        assert!(!passed(&found));
        let checks = Checks { golden: json!([{}]), matrix: json!([{}]) };
        assert!(passed(&SurveyResults { checks: &checks, ..found }));
        let wrong = Done { ending: StepEnd::Failed(1), ..Done::left_out("bench", "") };
        let survey = Survey { steps: vec![wrong], ..Survey::default() };
        assert!(!passed(&SurveyResults { survey: &survey, checks: &checks, ..found }));
    }
}
