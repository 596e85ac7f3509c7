//! `bn check --browser`: every shader through the compiler of a browser's WebGPU. Chromium's is Tint, which knows rules
//! that naga, wgpu's own, does not check: uniform control flow above all.
//!
//! | module | what it holds |
//! |---|---|
//! | `shaders` | the texts, and those that the browser must refuse |
//! | `session` | the program, and the server that `page.html` talks to |

mod session;
mod shaders;

use crate::check::ReportFiles;
use crate::junit::{self, Status};
use crate::output::{ReportKind, progress};
use crate::terminal::{number, prose, table, text};
use crate::{AnyError, ExitStatus};
use indicatif::ProgressBar;
use serde::Serialize;
use session::{BrowserDevice, CompileJob, Finding, Severity, Supervisor};
use shaders::BrowserShader;
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the page may say nothing: a chunk takes seconds, but minutes beside other work.
const PATIENCE: Duration = Duration::from_secs(600);
/// Shaders that the page is given at a time.
const CHUNK: usize = 32;
/// What became of a shader that wants f16 where the device has none.
const AS_F32: &str = "compiled with f32 in place of f16, which this device does not have";
/// Most failures that are printed; the files have all.
const PRINTED: usize = 10;

/// What the reports look like, JSON and JUnit.
pub const REPORTS: [ReportKind; 2] = [
    ReportKind::Json(&["seconds", "kernels", "messages"]),
    ReportKind::Text("<testsuites name=\"bn check --browser\""),
];

/// What the browser made of all shaders.
#[derive(Serialize)]
struct BrowserReport {
    #[serde(flatten)]
    device: BrowserDevice,
    seconds: f64,
    kernels: Vec<KernelRow>,
    messages: Vec<KernelMessage>,
}

/// What it made of a kernel's.
#[derive(Default, Serialize)]
struct KernelRow {
    kernel: String,
    texts: usize,
    /// Those of them that wanted f16 and were compiled with f32.
    f16_as_f32: usize,
    pipelines: usize,
    errors: usize,
    warnings: usize,
}

/// What the compiler said, and of what.
#[derive(Serialize)]
struct KernelMessage {
    shader: String,
    bindings: String,
    severity: Severity,
    message: String,
    line: usize,
    /// What stands in that line.
    wgsl: String,
}

/// Compiles the shaders whose name contains `filter` in a browser, by default the first found.
///
/// # Errors
/// No browser, one without WebGPU, or one that takes what it must refuse.
pub fn run(program: Option<&Path>, filter: Option<&str>, files: &ReportFiles) -> Result<ExitStatus, AnyError> {
    let program = program.map_or_else(session::find, |path| Ok(path.into()))?;
    let mut shaders = shaders::all()?;
    shaders.retain(|shader| filter.is_none_or(|text| shader.name.contains(text)));
    if shaders.is_empty() {
        return Err(format!("no shader's name contains {:?}; `bn info --json` lists them", filter.unwrap_or("")).into());
    }
    let begin = Instant::now();
    let mut compilation = Compilation::new(shaders);
    let outcome = session::run(&program, PATIENCE, &mut compilation);
    compilation.bar.finish_and_clear();
    outcome?;
    let report = compilation.report(begin.elapsed().as_secs_f64())?;
    if !files.is_quiet() {
        print(&report);
    }
    if let Some(json) = &files.json {
        json.write_json(&report)?;
    }
    if let Some(file) = &files.junit {
        junit::write(file, "bn check --browser", &[compilation.suite(&report)])?;
    }
    let failed = report.kernels.iter().any(|row| row.errors > 0);
    Ok(if failed { ExitStatus::Failed } else { ExitStatus::Passed })
}

/// The shaders on their way through the browser.
struct Compilation {
    shaders: Vec<BrowserShader>,
    device: Option<BrowserDevice>,
    /// The number of the next shader that the page gets.
    next: usize,
    findings: HashMap<usize, Vec<session::Message>>,
    bar: ProgressBar,
}

impl Compilation {
    fn new(shaders: Vec<BrowserShader>) -> Self {
        let shaders: Vec<BrowserShader> = shaders::canaries().chain(shaders).collect();
        let bar = progress(shaders.len() as u64, "browser");
        Self { shaders, device: None, next: 0, findings: HashMap::new(), bar }
    }

    fn has(&self, feature: &str) -> bool {
        self.device.as_ref().is_some_and(|device| device.features.iter().any(|one| one == feature))
    }

    /// Whether a shader is compiled with f32 for f16.
    fn as_f32(&self, shader: &BrowserShader) -> bool {
        shader.wants_f16() && !self.has("shader-f16")
    }

    /// The shaders that count, with what was said of each.
    fn judged(&self) -> impl Iterator<Item = (&BrowserShader, &[session::Message])> {
        let numbered = self.shaders.iter().enumerate().filter(|(_, shader)| !shader.canary);
        numbered.map(|(id, shader)| (shader, self.findings.get(&id).map_or(&[][..], Vec::as_slice)))
    }

    fn report(&self, seconds: f64) -> Result<BrowserReport, AnyError> {
        let device = self.device.clone().ok_or("the browser's page opened no device")?;
        let mut kernels: Vec<KernelRow> = Vec::new();
        let mut messages = Vec::new();
        for (shader, said) in self.judged() {
            if kernels.last().is_none_or(|row| row.kernel != shader.kernel) {
                kernels.push(KernelRow { kernel: shader.kernel.clone(), ..KernelRow::default() });
            }
            if let Some(row) = kernels.last_mut() {
                let count = |severity| said.iter().filter(|message| message.severity == severity).count();
                row.texts += 1;
                row.f16_as_f32 += usize::from(self.as_f32(shader));
                row.pipelines += usize::from(shader.constants.is_some());
                row.errors += count(Severity::Error);
                row.warnings += count(Severity::Warning);
            }
            messages.extend(said.iter().map(|message| KernelMessage {
                shader: shader.name.clone(),
                bindings: shader.bindings.clone(),
                severity: message.severity,
                message: message.message.clone(),
                line: message.line,
                wgsl: message.line.checked_sub(1).and_then(|line| shader.wgsl.lines().nth(line)).unwrap_or("").into(),
            }));
        }
        Ok(BrowserReport { device, seconds, kernels, messages })
    }

    /// A case for each name, which fails with the errors of all its texts. One that was compiled with f32 for f16 counts
    /// as skipped.
    fn suite(&self, report: &BrowserReport) -> junit::TestSuite {
        let mut cases: Vec<junit::TestCase> = Vec::new();
        for (shader, said) in self.judged() {
            if cases.last().is_none_or(|case| case.name != shader.name) {
                let (name, class) = (shader.name.clone(), format!("browser.{}", shader.kernel));
                let status = if self.as_f32(shader) { Status::Skipped(AS_F32.into()) } else { Status::Passed };
                cases.push(junit::TestCase { name, class, seconds: None, status });
            }
            let errors = said.iter().filter(|message| message.severity == Severity::Error);
            let errors: Vec<&str> = errors.map(|message| message.message.as_str()).collect();
            if let (Some(case), false) = (cases.last_mut(), errors.is_empty()) {
                case.status = Status::Failed(errors.join("\n"));
            }
        }
        junit::TestSuite { name: "browser".into(), seconds: report.seconds, cases }
    }
}

impl Supervisor for Compilation {
    fn open(&mut self, device: BrowserDevice) -> Result<(), AnyError> {
        self.device = Some(device);
        let lacking = self.shaders.iter().filter(|shader| shader.wants_subgroups).count();
        if lacking > 0 && !self.has("subgroups") {
            return Err(format!(
                "its WebGPU has no subgroups, which {lacking} shaders want; leave them out by --filter"
            )
            .into());
        }
        Ok(())
    }

    fn jobs(&mut self) -> Vec<CompileJob> {
        let first = self.next;
        self.next = (first + CHUNK).min(self.shaders.len());
        let job = |id: usize| {
            let shader = &self.shaders[id];
            let wgsl = if self.as_f32(shader) { shader.text_as_f32() } else { shader.text() };
            CompileJob { id, wgsl, constants: shader.constants.clone() }
        };
        (first..self.next).map(job).collect()
    }

    fn take(&mut self, findings: Vec<Finding>) -> Result<(), AnyError> {
        self.bar.inc(findings.len() as u64);
        for Finding { id, messages } in findings {
            let shader =
                self.shaders.get(id).ok_or_else(|| format!("its page answered for a shader {id}; there is none"))?;
            if shader.canary && !messages.iter().any(|message| message.severity == Severity::Error) {
                let name = &shader.name;
                return Err(format!("it accepted {name}, which it must refuse: its other verdicts mean nothing").into());
            }
            self.findings.insert(id, messages);
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.findings.len() == self.shaders.len()
    }
}

fn print(report: &BrowserReport) {
    let BrowserDevice { browser, adapter, features } = &report.device;
    println!("{}", prose(&format!("browser: {browser}\nadapter: {adapter}; features: {}", features.join(", "))));
    let cells = report.kernels.iter().map(|row| {
        let KernelRow { kernel, texts, f16_as_f32, pipelines, errors, warnings } = row;
        let verdict = if *errors == 0 { "ok" } else { "FAILED" };
        let numbers = [errors, warnings, texts, pipelines, f16_as_f32].map(usize::to_string);
        [vec![kernel.clone(), verdict.into()], numbers.into()].concat()
    });
    let columns = [
        text("kernel"),
        text("verdict"),
        number("errors"),
        number("warnings"),
        number("texts").extra(),
        number("pipelines").extra(),
        number("f16 as f32").extra(),
    ];
    println!("{}", table(columns, cells));
    for KernelMessage { shader, bindings, severity, message, line, wgsl } in report.messages.iter().take(PRINTED) {
        println!("{} {shader} ({bindings})\n       {message}", format!("{severity:?}").to_uppercase());
        if *line > 0 {
            println!("       line {line}: {}", wgsl.trim());
        }
    }
    if report.messages.len() > PRINTED {
        println!("... and {} more; --json FILE has all", report.messages.len() - PRINTED);
    }
    let sum = |of: fn(&KernelRow) -> usize| report.kernels.iter().map(of).sum::<usize>();
    let (texts, as_f32, pipelines) = (sum(|row| row.texts), sum(|row| row.f16_as_f32), sum(|row| row.pipelines));
    if as_f32 > 0 {
        println!("{as_f32} texts were {AS_F32}");
    }
    let (errors, warnings, seconds) = (sum(|row| row.errors), sum(|row| row.warnings), report.seconds);
    println!("{texts} texts, {pipelines} pipelines: {errors} errors, {warnings} warnings, in {seconds:.1} s");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(features: &[&str]) -> BrowserDevice {
        let features = features.iter().map(|&feature| feature.into()).collect();
        BrowserDevice { browser: "a browser".into(), adapter: "an adapter".into(), features }
    }

    fn said(id: usize, severity: Severity) -> Finding {
        Finding { id, messages: vec![session::Message { severity, line: 1, message: "no".into() }] }
    }

    /// All shaders, given to a browser that refuses the canaries and `refused` others.
    fn compiled(features: &[&str], refused: usize) -> Compilation {
        let mut compilation = Compilation::new(shaders::all().unwrap());
        compilation.open(device(features)).unwrap();
        let refused = shaders::canaries().count() + refused;
        while !compilation.is_done() {
            let jobs = compilation.jobs();
            let severity = |id| if id < refused { Severity::Error } else { Severity::Warning };
            compilation.take(jobs.iter().map(|job| said(job.id, severity(job.id))).collect()).unwrap();
        }
        compilation
    }

    #[test]
    fn what_the_browser_refuses_is_counted() {
        let compilation = compiled(&["subgroups", "shader-f16"], 3);
        let report = compilation.report(1.0).unwrap();
        let sum = |of: fn(&KernelRow) -> usize| report.kernels.iter().map(of).sum::<usize>();
        let texts = compilation.shaders.len() - shaders::canaries().count();
        assert_eq!((sum(|row| row.errors), sum(|row| row.warnings)), (3, texts - 3));
        assert_eq!((sum(|row| row.texts), sum(|row| row.f16_as_f32)), (texts, 0));
        // A row for every kernel of the library and of the tool, canaries in none.
        assert_eq!(report.kernels.len(), batchnorm_wgpu::kernels::KERNELS.len() + 9);
        let failed = |case: &&junit::TestCase| matches!(case.status, Status::Failed(_));
        assert!(compilation.suite(&report).cases.iter().any(|case| failed(&case)));
    }

    #[test]
    fn f32_in_place_of_f16_is_no_pass() {
        let compilation = compiled(&["subgroups"], 0);
        let report = compilation.report(1.0).unwrap();
        let as_f32 = report.kernels.iter().map(|row| row.f16_as_f32).sum::<usize>();
        assert_eq!(as_f32, compilation.shaders.iter().filter(|shader| shader.wants_f16()).count());
        let skipped = |case: &&junit::TestCase| matches!(case.status, Status::Skipped(_));
        assert!(as_f32 > 0 && compilation.suite(&report).cases.iter().any(|case| skipped(&case)));
    }

    #[test]
    fn a_browser_that_takes_anything_is_refused() {
        let mut compilation = Compilation::new(shaders::all().unwrap());
        let taken = compilation.take(vec![Finding { id: 0, messages: vec![] }]).unwrap_err().to_string();
        assert!(taken.contains("barrier_not_uniform"), "{taken}");
        assert!(compilation.take(vec![said(1, Severity::Warning)]).is_err(), "a warning refuses nothing");
        assert!(compilation.take(vec![said(usize::MAX, Severity::Error)]).is_err(), "there is no such shader");
        assert!(compilation.open(device(&["shader-f16"])).is_err(), "no subgroups");
    }
}
