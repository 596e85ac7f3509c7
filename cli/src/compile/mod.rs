//! `bn compile`: what the compilers of GPUs make of the kernels, without a GPU.

pub mod record;

use crate::bench::machine::today;
use crate::output::{Claim, Folder, OutputError, Replaces, ReportKind, progress};
use crate::terminal::{Column, number, prose, table, text};
use crate::{AnyError, ExitStatus};
use batchnorm_wgpu_compile::family::{Driver, FAMILIES, Family};
use batchnorm_wgpu_compile::known::{judge, known};
use batchnorm_wgpu_compile::process::{self, Report};
use batchnorm_wgpu_compile::subject::{self, CompileSubject};
use clap::ValueEnum;
use record::{CompilerRecord, HEADER, LEAST_COLUMNS, cells};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Arguments of `bn compile`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct CompileArgs {
    /// Compile for these GPUs, separated by commas, such as navi21,gfx1100 [default: navi21, gfx1100, vangogh, vega20, polaris10]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = family)]
    family: Vec<Family>,
    /// List the GPUs that there are, and whether their drivers are installed
    #[arg(long, conflicts_with_all = ["check", "json", "record", "filter"])]
    list: bool,
    /// Compile only the kernels whose name, workgroup size after a space, contains TEXT
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Compile only what automatic plans choose, with all bindings, and fail if any of it spills registers or moves tensors in smaller pieces than its
    /// geometry promises. What is known to do so is listed, with reasons, in compile/known.toml; what is listed and does not is a
    /// failure too
    #[arg(long, conflicts_with = "record")]
    check: bool,
    /// Compile with this many processes at the same time. The default is one for each core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,
    /// Write the records, in a list, as JSON to FILE, or to standard output
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// Write a record for each GPU to DIR/COMPILER/DATE.json, for `bn report`
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "benches/records", conflicts_with = "filter")]
    record: Option<PathBuf>,
    /// Be the process that compiles
    #[arg(long, value_name = "DRIVER", hide = true)]
    worker: Option<CompilerProcess>,
}

const EXAMPLES: &str = "\
Examples:
  bn compile                          every kernel for five GPUs of AMD
  bn compile --family navi21 --filter resident
  bn compile --family gfx1100 --filter 'moments.planes4.tree 256'
  bn compile --list                   which GPUs there are
  bn compile --check --family navi21,gfx1100
                                      whether what plans choose fits the registers
  bn compile --record                 records for bn report

Nothing is run, and no GPU is needed: Mesa's drivers compile for chips that are not there, and tell what came of it. On Debian or \
Ubuntu, apt-get install mesa-vulkan-drivers libvulkan1. For GPUs of NVIDIA see scripts/compile-nvidia. Which kernels: what \
automatic plans choose for many shapes, on GPUs with all that they have and with WebGPU's default limits; and all resident kernels in \
workgroups of 256, 512 and 1024. docs/compilers.md says how each figure is counted.";

/// A driver whose process this is.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum CompilerProcess {
    Radv,
    Nvk,
}

impl CompilerProcess {
    fn of(driver: Driver) -> Self {
        match driver {
            Driver::Radv => Self::Radv,
            Driver::Nvk => Self::Nvk,
        }
    }

    fn driver(self) -> Driver {
        match self {
            Self::Radv => Driver::Radv,
            Self::Nvk => Driver::Nvk,
        }
    }
}

fn family(name: &str) -> Result<Family, String> {
    let names = || FAMILIES.map(|family| family.name).join(", ");
    Family::of(name).ok_or_else(|| format!("expected one of {}", names()))
}

/// Compiles, and prints what the compilers say.
pub fn run(arguments: &CompileArgs) -> Result<ExitStatus, AnyError> {
    if let Some(worker) = arguments.worker {
        process::serve(worker.driver())?;
        return Ok(ExitStatus::Passed);
    }
    if arguments.list {
        println!("{}", list());
        return Ok(ExitStatus::Passed);
    }
    let families = arguments.families();
    let date = today();
    let json = Claim::report(arguments.json.as_deref(), RECORDS)?;
    let folder = arguments.record.as_deref();
    let files: Vec<Claim> = match folder {
        Some(folder) => families.iter().map(|family| record_file(folder, *family, &date)).collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    let subjects = arguments.subjects()?;
    let reports = compile(&families, &subjects, arguments.jobs)?;
    let records: Vec<CompilerRecord> = reports.iter().map(|report| CompilerRecord::new(report, &date)).collect();
    for (file, record) in files.iter().zip(&records) {
        file.write_json(record)?;
        eprintln!("record: {}", file.path().display());
    }
    if let Some(json) = &json {
        json.write_json(&records)?;
    }
    if !json.as_ref().is_some_and(Claim::is_standard_output) && !arguments.check {
        records.iter().enumerate().for_each(|(i, record)| print(record, i + 1 == records.len()));
    }
    let failed = reports.iter().flat_map(|report| report.failed.iter().map(move |it| (report.family.name, it)));
    let failed: Vec<String> = failed.map(|(family, failure)| format!("{family}: {failure}")).collect();
    let status = if arguments.check { check(&reports, arguments.filter.is_none())? } else { ExitStatus::Passed };
    match failed.is_empty() {
        true => Ok(status),
        false => Err(format!("not compiled:\n  {}", failed.join("\n  ")).into()),
    }
}

/// What the records look like.
const RECORD: ReportKind = ReportKind::Json(&["schema", "compiler", "kernels"]);
const RECORDS: ReportKind = RECORD;

fn record_file(folder: &Path, family: Family, date: &str) -> Result<Claim, OutputError> {
    let path = folder.join(family.key()).join(format!("{date}.json"));
    Claim::new(&path, Replaces::Reports(RECORD), Folder::Made)
}

impl CompileArgs {
    fn families(&self) -> Vec<Family> {
        let mut families = self.family.clone();
        if families.is_empty() {
            families.extend(FAMILIES.into_iter().filter(|family| family.is_default));
        }
        let mut seen = Vec::new();
        families.retain(|family| {
            !seen.contains(family) && {
                seen.push(*family);
                true
            }
        });
        families
    }

    fn subjects(&self) -> Result<Vec<CompileSubject>, AnyError> {
        let text = self.filter.as_deref().unwrap_or_default();
        let id = |subject: &CompileSubject| format!("{} {}", subject.name, subject.workgroup_size);
        let mut subjects = subject::all();
        subjects.retain(|subject| id(subject).contains(text) && (!self.check || subject.chosen_for.is_some()));
        if subjects.is_empty() {
            let what = if self.check { "kernels that automatic plans choose" } else { "kernels" };
            return Err(format!("no {what} whose name contains {text:?}; bn compile without --filter has all").into());
        }
        if self.check {
            subjects = subjects.into_iter().map(CompileSubject::with_most_bindings).collect();
        }
        Ok(subjects)
    }
}

fn compile(families: &[Family], subjects: &[CompileSubject], jobs: Option<u16>) -> Result<Vec<Report>, AnyError> {
    let jobs = jobs.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
    // Where there is no /proc, as in a bare chroot, the name that it was called by has to do.
    let called = || std::env::args_os().next().map(PathBuf::from).ok_or("the program has no name");
    let program = std::env::current_exe().or_else(|_| called())?;
    let command = |family: Family| {
        let worker = CompilerProcess::of(family.driver).to_possible_value();
        let name = worker.map(|value| value.get_name().to_owned()).unwrap_or_default();
        let mut command = Command::new(&program);
        command.args(["compile", "--worker", &name]);
        Ok(command)
    };
    let bar = progress((families.len() * subjects.len()) as u64, "compile");
    let reports = process::compile(families, subjects, &command, jobs, &|| bar.inc(1));
    bar.finish_and_clear();
    Ok(reports?)
}

fn columns(explained: bool) -> Vec<Column> {
    let last = HEADER.len() - 1;
    let column = |(i, (name, meaning)): (usize, &(&'static str, &'static str))| {
        let column = if i == 0 || i == last { text(*name) } else { number(*name) };
        let column = if i < LEAST_COLUMNS { column } else { column.extra() };
        if explained && !meaning.is_empty() { column.means(meaning) } else { column }
    };
    HEADER.iter().enumerate().map(column).collect()
}

fn print(record: &CompilerRecord, is_last: bool) {
    let CompilerRecord { compiler, gpu, name, driver, kernels, .. } = record;
    println!("{}", prose(&format!("{compiler} ({gpu}): {name}, {driver}")));
    println!("{}", table(columns(is_last), kernels.iter().map(cells)));
    if !is_last {
        println!();
    }
}

fn list() -> String {
    let columns = [text("family"), text("GPU"), text("driver"), text("installed")];
    let rows = FAMILIES.iter().map(|family| {
        let installed = if family.is_there() { "yes" } else { "no" };
        vec![family.name.into(), family.gpu.into(), family.driver.name().into(), installed.into()]
    });
    table(columns, rows)
}

/// Holds the reports against what they should be, and says so beside standard output, which may be the records'.
fn check(reports: &[Report], is_whole: bool) -> Result<ExitStatus, AnyError> {
    let known = known()?;
    let mut passed = true;
    for Report { family, machine, kernels, .. } in reports {
        let verdict = judge(family.name, kernels, &known, is_whole);
        let name = family.name;
        eprintln!(
            "{name}: {} kernels that automatic plans choose, by {}; {} new faults, {} known, {} listed and gone",
            kernels.len(),
            machine.driver,
            verdict.new.len(),
            verdict.known,
            verdict.gone.len()
        );
        verdict.new.iter().for_each(|fault| eprintln!("  new: {fault}"));
        verdict.gone.iter().for_each(|fault| eprintln!("  gone, take it off compile/known.toml: {fault}"));
        passed &= verdict.new.is_empty() && verdict.gone.is_empty();
    }
    Ok(if passed { ExitStatus::Passed } else { ExitStatus::Failed })
}
