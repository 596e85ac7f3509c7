//! `bn bench`: the time of every operation beside a copy kernel on the same device in the same run.

mod candidates;
mod clock;
mod copy;
mod epilogue;
mod fused;
pub mod record;
pub mod tune;
mod workload;

use crate::adapter::AdapterArgs;
use crate::deadline::{Deadline, TimeLimit};
use crate::names::{dtype, named, operation};
use crate::output::{Claim, Folder, Kind, OutputError, Replaces, figure, progress, read_tuning};
use crate::terminal::{Column, number, prose, table, text};
use crate::{AnyError, Verdict};
use batchnorm_wgpu::host::Gpu;
use batchnorm_wgpu::kernels::{Geometry, Reduction, Storage, Strategy};
use batchnorm_wgpu::{
    BatchNorm, Choice, Config, DType, Kernels, Layout, Operation, Options, Plan, RuntimeChecks, Shape,
};
use batchnorm_wgpu_check::case::{Case, Setup};
use batchnorm_wgpu_check::suite::{Expectations, Suite};
use clock::{Stopwatch, encoding, quantile};
use copy::CopyKernel;
use epilogue::Epilogues;
use indicatif::ProgressBar;
use record::{FusedRow, Fusion, PlanFigures, Record, Row, SCHEMA, dims_and_layout};
use std::path::{Path, PathBuf};
use std::time::Duration;
use workload::{OPERATIONS, Subject, Tensors, Use, job, subjects};

/// Names and texts of the shaders of `bn bench` itself.
pub fn shaders() -> impl Iterator<Item = (String, String)> {
    std::iter::once(("copy".into(), copy::TEXT.into())).chain(epilogue::texts())
}

/// Arguments of `bn bench`.
#[derive(clap::Args)]
pub struct BenchArgs {
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Time only the small shapes, with fewer samples
    #[arg(long)]
    quick: bool,
    /// Time only these shapes, separated by commas, in this order: parts of the text of listed ones, such as `32x64` or
    /// `channels_last`, or a shape of your own. Each can have a layout and types of its own after colons, such as
    /// `8x5x5x3:channels_last:f16`
    #[arg(long, value_name = "TEXTS")]
    shapes: Option<String>,
    #[command(flatten)]
    limit: TimeLimit,
    /// Also force every strategy, on the shapes whose text contains one of these, separated by commas; without a value on
    /// all shapes
    #[arg(long, value_name = "TEXTS", num_args = 0..=1, default_missing_value = "")]
    strategies: Option<String>,
    /// Time only this operation, such as forward_training
    #[arg(long, value_name = "NAME", value_parser = operation)]
    operation: Option<Operation>,
    /// The type of tensors: f32, f16, bf16 or several, separated by commas, which are timed on the same values
    #[arg(long, value_name = "LIST", value_parser = dtype, value_delimiter = ',', default_value = "f32")]
    dtype: Vec<DType>,
    /// Also time relu(bn(x)) and relu(bn(x) + residual), in one step and in separate passes
    #[arg(long)]
    fused: bool,
    /// Time every kernel that can run, not only the one that the plan chooses; for small shapes
    #[arg(long)]
    kernels: bool,
    /// Force the strategy, how the work on a channel is divided: split, whole or resident
    #[arg(long, value_name = "NAME", value_parser = strategy)]
    strategy: Option<Strategy>,
    /// Force the geometry, which elements are loaded together: scalar, planes4 or rows4
    #[arg(long, value_name = "NAME", value_parser = geometry)]
    geometry: Option<Geometry>,
    /// Force the reduction, how a workgroup sums: tree or subgroup
    #[arg(long, value_name = "NAME", value_parser = reduction)]
    reduction: Option<Reduction>,
    /// Force the number of invocations in a workgroup, a power of two
    #[arg(long, value_name = "N")]
    workgroup_size: Option<u32>,
    /// Force the number of workgroups that share a channel; for the strategy split
    #[arg(long, value_name = "N")]
    splits: Option<u32>,
    /// Force the number of values that a lane holds in registers; for the strategy resident
    #[arg(long, value_name = "N")]
    held: Option<u32>,
    /// Force whether the second dispatch reads the tensor backwards; for the strategy split
    #[arg(long, value_name = "BOOL")]
    reverse: Option<bool>,
    /// Force how shaders load and store elements, such as f16_words; for tensors of the type that it belongs to
    #[arg(long, value_name = "NAME", value_parser = storage)]
    storage: Option<Storage>,
    /// Choose plans by a tuning file that `bn tune` wrote
    #[arg(long, value_name = "FILE")]
    tuning: Option<PathBuf>,
    /// The checks that compiled kernels make while they run
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = Checks::Safe)]
    runtime_checks: Checks,
    /// Write the record as JSON to FILE, or to standard output
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// Write the record to DIR/ADAPTER/DATE.json, for `bn report`
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "benches/records")]
    #[arg(conflicts_with_all = ["tuning", "runtime_checks"])]
    record: Option<PathBuf>,
}

/// What compiled kernels check while they run.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Checks {
    /// wgpu's checks of bounds and loops; workgroup memory is not zeroed, since every kernel writes before it reads
    Safe,
    /// The same, with workgroup memory zeroed
    All,
    /// The same as safe, without checks of bounds
    NoBounds,
    /// The same as safe, without counters that end loops
    NoLoopBounding,
    /// No checks
    None,
}

impl Checks {
    fn options(self) -> RuntimeChecks {
        let safe = RuntimeChecks::default();
        match self {
            Self::Safe => safe,
            Self::All => RuntimeChecks { zero_workgroup_memory: true, ..safe },
            Self::NoBounds => RuntimeChecks { bounds: false, ..safe },
            Self::NoLoopBounding => RuntimeChecks { loop_bounding: false, ..safe },
            Self::None => RuntimeChecks { bounds: false, loop_bounding: false, ..safe },
        }
    }
}

impl BenchArgs {
    /// What is forced for tensors of a dtype. A storage is forced on those of its own.
    fn choice(&self, dtype: DType) -> Choice {
        let Self { strategy, geometry, reduction, workgroup_size, splits, held, reverse, .. } = *self;
        let storage = self.storage.filter(|storage| storage.dtype() == dtype);
        Choice { strategy, geometry, reduction, workgroup_size, splits, held, reverse, storage }
    }

    /// What else than the chosen plan is timed on a shape.
    fn others(&self, shape: &Shape) -> Others {
        let text = shape.to_string();
        let named = |texts: &String| texts.split(',').any(|part| text.contains(part));
        match self.strategies.as_ref().is_some_and(named) {
            _ if self.kernels && workload::is_small(shape) => Others::Kernels,
            true => Others::Strategies,
            false => Others::None,
        }
    }

    fn operations(&self) -> Vec<Operation> {
        self.operation.map_or(OPERATIONS.to_vec(), |one| vec![one])
    }

    /// What is fused, and how; nothing unless asked for.
    fn fusions(&self) -> Vec<(Operation, Fusion)> {
        let operations = self.operations().into_iter().filter(|operation| fused::OPERATIONS.contains(operation));
        let all = operations.flat_map(|operation| Fusion::ALL.map(|fusion| (operation, fusion)));
        if self.fused { all.collect() } else { Vec::new() }
    }

    /// The dtypes, each once, in the order given.
    fn dtypes(&self) -> Result<Vec<DType>, AnyError> {
        let mut dtypes: Vec<DType> = Vec::new();
        for &dtype in &self.dtype {
            if !dtypes.contains(&dtype) {
                dtypes.push(dtype);
            }
        }
        match self.storage {
            Some(storage) if !dtypes.contains(&storage.dtype()) => {
                Err(format!("--storage {storage} wants --dtype {}", storage.dtype()).into())
            }
            _ => Ok(dtypes),
        }
    }
}

fn strategy(name: &str) -> Result<Strategy, String> {
    named(name, &Strategy::ALL, Strategy::name)
}

fn geometry(name: &str) -> Result<Geometry, String> {
    named(name, &Geometry::ALL, Geometry::name)
}

fn reduction(name: &str) -> Result<Reduction, String> {
    named(name, &Reduction::ALL, Reduction::name)
}

fn storage(name: &str) -> Result<Storage, String> {
    named(name, &Storage::ALL, Storage::name)
}

/// What is timed beside the plan that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    None,
    /// One plan for each strategy.
    Strategies,
    /// Every kernel.
    Kernels,
}

/// What all rows of a run share.
struct Bench<'a> {
    gpu: &'a Gpu,
    kernels: Kernels,
    copy: &'a CopyKernel,
    watch: Stopwatch<'a>,
    rounds: usize,
    least: Duration,
    copy_times: Vec<f64>,
    /// The day on which it began.
    date: String,
    deadline: Deadline,
    /// What the results of a shape must be, whatever the plan.
    expectations: Expectations,
}

/// A result that the reference does not bear out.
#[derive(Debug, thiserror::Error)]
#[error("the result is wrong: {0}")]
pub struct WrongResult(String);

/// What a run found.
#[derive(Default)]
struct Found {
    rows: Vec<Row>,
    fused: Vec<FusedRow>,
    failures: Vec<String>,
    /// Whether one of the failures is a result that is wrong.
    wrong: bool,
    /// What the time limit left out.
    left_out: Vec<String>,
}

/// Verifies and times every operation.
pub fn run(arguments: &BenchArgs) -> Result<Verdict, AnyError> {
    let deadline = arguments.limit.start();
    let json = Claim::report(arguments.json.as_deref(), RECORD)?;
    let gpu = arguments.adapter.open_with(clock::FEATURES)?;
    let date = today();
    let file = arguments.record.as_ref().map(|folder| record_file(folder, &gpu.key(), &date)).transpose()?;
    let (subjects, too_large) = subjects(&gpu, !arguments.quick, arguments.shapes.as_deref())?;
    let dtypes = arguments.dtypes()?;
    let tuning = arguments.tuning.as_deref().map(read_tuning).transpose()?;
    let options = Options { tuning, runtime_checks: arguments.runtime_checks.options(), edit: None };
    let copy = CopyKernel::fastest(&gpu)?;
    let mut bench = Bench {
        gpu: &gpu,
        kernels: Kernels::with_options(&gpu.device, options),
        copy: &copy,
        watch: Stopwatch::new(&gpu, &copy.job())?,
        rounds: if arguments.quick { 5 } else { 7 },
        least: Duration::from_millis(if arguments.quick { 20 } else { 30 }),
        copy_times: Vec::new(),
        date,
        deadline,
        expectations: Expectations::default(),
    };
    let epilogues = Epilogues::new(&gpu, &copy, if arguments.fused { &dtypes } else { &[] })?;
    let timed: Vec<(&Shape, DType)> = subjects
        .iter()
        .flat_map(|Subject { shape, dtypes: own }| {
            let dtypes = if own.is_empty() { &dtypes } else { own };
            dtypes.iter().map(move |&dtype| (shape, dtype))
        })
        .collect();
    let steps = arguments.operations().len() + arguments.fusions().len();
    let others = timed.iter().filter(|(shape, _)| arguments.others(shape) != Others::None).count();
    let steps = timed.len() * steps + others * arguments.operations().len();
    let bar = progress(steps as u64, &gpu.key());
    let mut found = Found { failures: too_large, ..Found::default() };
    for &(shape, dtype) in &timed {
        bench.time(shape, dtype, arguments, &bar, &mut found);
        bench.time_fused(shape, dtype, arguments, &epilogues, &bar, &mut found);
        save_so_far(&bench.record(&found), json.as_ref())?;
    }
    // What the library would not choose comes last: it matters least.
    for &(shape, dtype) in timed.iter().filter(|(shape, _)| arguments.others(shape) != Others::None) {
        bench.time_others(shape, dtype, arguments, &bar, &mut found);
        save_so_far(&bench.record(&found), json.as_ref())?;
    }
    bar.finish_and_clear();
    let record = bench.record(&found);
    if !record.is_empty() {
        [&json, &file].into_iter().flatten().try_for_each(|file| file.write_json(&record))?;
    }
    if record.is_empty() && found.failures.is_empty() {
        return Err("nothing was timed before the time limit; give it more seconds".into());
    }
    if !record.is_empty() && !json.as_ref().is_some_and(Claim::is_standard_output) {
        print(&record);
    }
    if let Some(file) = file.filter(|_| !record.is_empty()) {
        eprintln!("record: {}", file.path().display());
    }
    if let Some(left_out) = arguments.limit.left_out(&found.left_out) {
        eprintln!("{left_out}");
    }
    // What could be timed is delivered all the same.
    let failures = format!("not timed:\n  {}", found.failures.join("\n  "));
    match found.failures.is_empty() {
        true => Ok(Verdict::Passed),
        false if found.wrong => {
            eprintln!("{failures}");
            Ok(Verdict::Failed)
        }
        false => Err(failures.into()),
    }
}

/// Writes the file of `--json` after every shape: whatever ends the run early, what was measured is there. Standard output
/// takes one document, and a record of the day is replaced only by a whole one.
fn save_so_far(record: &Record, json: Option<&Claim>) -> Result<(), AnyError> {
    match json {
        Some(json) if !json.is_standard_output() && !record.is_empty() => json.write_json(record),
        _ => Ok(()),
    }
}

/// What the records look like.
const RECORD: Kind = Kind::Json(&["schema", "adapter", "copy", "rows"]);

/// The file of a record, named after the day on which the timing began.
fn record_file(folder: &Path, adapter: &str, date: &str) -> Result<Claim, OutputError> {
    let path = folder.join(adapter).join(format!("{date}.json"));
    Claim::new(&path, Replaces::Reports(RECORD), Folder::Made)
}

impl Bench<'_> {
    /// Every operation on a shape and dtype. What fails, for want of memory too, does not end the run.
    fn time(&mut self, shape: &Shape, dtype: DType, arguments: &BenchArgs, bar: &ProgressBar, found: &mut Found) {
        let choice = arguments.choice(dtype);
        let chosen = choice == Choice::default();
        self.of_operations(shape, dtype, arguments, bar, found, |bench, tensors, operation, what, found| {
            let row = bench.unless_late(what, found, |bench| bench.row(tensors, operation, &choice, chosen));
            found.rows.extend(row);
        });
    }

    /// The plans beside those that were asked for, of every operation on a shape and dtype.
    fn time_others(
        &mut self,
        shape: &Shape,
        dtype: DType,
        arguments: &BenchArgs,
        bar: &ProgressBar,
        found: &mut Found,
    ) {
        let (choice, others) = (arguments.choice(dtype), arguments.others(shape));
        self.of_operations(shape, dtype, arguments, bar, found, |bench, tensors, operation, what, found| {
            for other in bench.others(tensors, operation, &choice, others) {
                let what = format!("{what}, {}", describe_choice(&other));
                let row = bench.unless_late(&what, found, |bench| bench.row(tensors, operation, &other, false));
                found.rows.extend(row);
            }
        });
    }

    /// Does something with the tensors of a shape and dtype for each operation, which it is told in words too.
    fn of_operations(
        &mut self,
        shape: &Shape,
        dtype: DType,
        arguments: &BenchArgs,
        bar: &ProgressBar,
        found: &mut Found,
        mut work: impl FnMut(&mut Self, &Tensors, Operation, &str, &mut Found),
    ) {
        self.expectations = Expectations::default();
        let tensors =
            self.unless_late(&format!("{shape} {dtype}"), found, |bench| Tensors::new(bench.gpu, shape, dtype));
        for operation in arguments.operations() {
            if let Some(tensors) = &tensors {
                let what = format!("{operation} {shape} {dtype}");
                bar.set_message(what.clone());
                work(self, tensors, operation, &what, found);
            }
            bar.inc(1);
        }
    }

    /// What is fused, on a shape and dtype.
    fn time_fused(
        &mut self,
        shape: &Shape,
        dtype: DType,
        arguments: &BenchArgs,
        epilogues: &Epilogues,
        bar: &ProgressBar,
        found: &mut Found,
    ) {
        let fusions = arguments.fusions();
        if fusions.is_empty() {
            return;
        }
        let what = format!("fused {shape} {dtype}");
        let tensors = self.unless_late(&what, found, |bench| Tensors::apart(bench.gpu, shape, dtype));
        for (operation, fusion) in fusions {
            if let Some(tensors) = &tensors {
                let what = format!("{operation} {} {shape} {dtype}", fusion.name());
                bar.set_message(what.clone());
                let choice = arguments.choice(dtype);
                let row = self.unless_late(&what, found, |bench| {
                    bench.fused_row(tensors, epilogues, (operation, fusion), &choice)
                });
                found.fused.extend(row);
            }
            bar.inc(1);
        }
    }

    /// Does what `work` says, unless the time limit has passed; notes what was left out and what failed.
    fn unless_late<T>(
        &mut self,
        what: &str,
        found: &mut Found,
        work: impl FnOnce(&mut Self) -> Result<T, AnyError>,
    ) -> Option<T> {
        if self.deadline.passed() {
            found.left_out.push(what.into());
            return None;
        }
        let noted = |error: AnyError| {
            found.wrong |= error.is::<WrongResult>();
            found.failures.push(format!("{what}: {error}"));
        };
        work(self).map_err(noted).ok()
    }

    /// Plans to be timed beside the chosen one.
    fn others(&self, tensors: &Tensors, operation: Operation, choice: &Choice, others: Others) -> Vec<Choice> {
        let (shape, dtype) = (tensors.shape(), tensors.dtype());
        let config = Config { dtype, ..Config::default() };
        let plan =
            |choice: &Choice| self.layer(shape, &config, choice).and_then(|layer| Ok(layer.plan(operation)?)).ok();
        let own = plan(choice).map(|plan| plan.choice());
        let mut all = match others {
            Others::None => Vec::new(),
            Others::Kernels => candidates::variants(operation, shape, dtype, choice.storage, &self.kernels),
            Others::Strategies => {
                candidates::strategies(choice).filter_map(|forced| Some(plan(&forced)?.choice())).collect()
            }
        };
        all.retain(|other| Some(*other) != own);
        all.dedup();
        all
    }

    fn layer(&self, shape: &Shape, config: &Config, choice: &Choice) -> Result<BatchNorm, AnyError> {
        Ok(BatchNorm::with_choice(&self.kernels, shape.clone(), *config, choice)?)
    }

    fn row(&mut self, tensors: &Tensors, operation: Operation, choice: &Choice, chosen: bool) -> Result<Row, AnyError> {
        let (shape, dtype) = (tensors.shape(), tensors.dtype());
        let config = Config { dtype, ..Config::default() };
        let layer = self.layer(shape, &config, choice)?;
        let steps = tensors.steps(self.gpu, &layer, operation, Use::Plain)?;
        let plan = layer.plan(operation)?;
        verify(self.gpu, &self.kernels, (operation, false), shape, &config, &plan, &mut self.expectations)?;
        let (copy, own) = (self.copy.job(), job(&steps));
        let samples = self.watch.measure(&[&copy, &own], self.rounds, self.least)?;
        self.copy_times.extend(&samples[0].times);
        let microseconds = samples[1].timing();
        let bytes = shape.elements() as u64 * dtype.size();
        let moved = u64::from(operation.least_moves()) * bytes;
        let (dims, layout) = dims_and_layout(shape);
        Ok(Row {
            operation,
            dims,
            layout,
            dtype,
            bytes,
            chosen,
            kernels: steps[0].kernels().map(str::to_owned).collect(),
            plan: PlanFigures::from(&plan),
            microseconds,
            encode_microseconds: encoding(self.gpu, &own),
            gigabytes_per_second: moved as f64 / microseconds.median / 1e3,
            fraction_of_copy: self.copy.fraction(&samples[0], &samples[1], moved),
        })
    }

    fn record(&self, found: &Found) -> Record {
        let info = &self.gpu.info;
        Record {
            schema: SCHEMA.into(),
            date: self.date.clone(),
            adapter: self.gpu.key(),
            name: info.name.clone(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().into(),
            backend: format!("{:?}", info.backend),
            device_type: format!("{:?}", info.device_type),
            processor: processor(),
            version: env!("CARGO_PKG_VERSION").into(),
            clock: self.watch.clock(),
            copy: self.copy.record(quantile(&self.copy_times, 0.5)),
            rows: found.rows.clone(),
            fused: found.fused.clone(),
            not_timed: [&found.failures[..], &found.left_out].concat(),
        }
    }
}

/// Holds the results of the kernels of `plan` against the reference, with a residual or without. Tensors that the reference
/// would take too long for are cut first; a column then has other splits.
fn verify(
    gpu: &Gpu,
    kernels: &Kernels,
    (operation, residual): (Operation, bool),
    shape: &Shape,
    config: &Config,
    plan: &Plan,
    expectations: &mut Expectations,
) -> Result<(), AnyError> {
    let small = cut(shape)?;
    let whole = plan.choice();
    let choices = [whole, Choice { splits: None, ..whole }, Choice { splits: None, workgroup_size: None, ..whole }];
    let runs = |choice: &Choice| {
        let layer = BatchNorm::with_choice(kernels, small.clone(), *config, choice);
        layer.and_then(|layer| layer.plan(operation)).is_ok()
    };
    let choice = choices.into_iter().find(runs).ok_or("its plan cannot be verified on a smaller tensor")?;
    let ordinary = Case::new(operation, &small);
    let config = Config { running: ordinary.config.running, ..*config };
    let case = Case { config, residual, setup: Setup { choice, ..Setup::default() }, ..ordinary };
    let outcome = Suite::new(kernels.clone(), gpu.queue.clone(), expectations).run(&case);
    match outcome.failure {
        None => Ok(()),
        Some(failure) if outcome.refused => Err(failure.into()),
        Some(failure) => Err(WrongResult(format!("{}: {failure}", outcome.case)).into()),
    }
}

/// The shape with fewer samples, and if those are few, with smaller ones: channels and layout stay.
fn cut(shape: &Shape) -> Result<Shape, AnyError> {
    const MOST_ELEMENTS: usize = 1 << 19;
    let mut dims = shape.dims().to_vec();
    let per_sample = shape.elements() / dims[0];
    dims[0] = dims[0].min((MOST_ELEMENTS / per_sample).max(2));
    let channels = if shape.layout() == Layout::ChannelsFirst { 1 } else { dims.len() - 1 };
    while dims.iter().product::<usize>() > MOST_ELEMENTS {
        let spatial = (1..dims.len()).filter(|&i| i != channels);
        match spatial.max_by_key(|&i| dims[i]) {
            // Halves of multiples of eight stay multiples of four.
            Some(largest) if dims[largest] > 8 => dims[largest] /= 2,
            _ => break,
        }
    }
    Ok(Shape::new(&dims, shape.layout())?)
}

/// Today, `YYYY-MM-DD`.
pub fn today() -> String {
    jiff::Zoned::now().date().to_string()
}

/// The processor and its cores.
pub fn processor() -> String {
    use sysinfo::{CpuRefreshKind, RefreshKind, System};
    let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()));
    let cpus = system.cpus();
    let brand = cpus.first().map_or("unknown", |cpu| cpu.brand());
    format!("{}, {} cores", brand.trim(), cpus.len())
}

fn print(record: &Record) {
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
        fused::print(&record.fused);
    }
}

fn print_rows(rows: &[Row]) {
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
fn print_dtypes(rows: &[Row]) {
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
fn relative_to_f32(rows: &[Row], operation: Operation, dtype: DType) -> Option<f64> {
    let mut shapes: Vec<String> = Vec::new();
    let mut logarithms = Vec::new();
    for row in rows.iter().filter(|row| (row.operation, row.dtype) == (operation, dtype)) {
        let same = |other: &&Row| (other.operation, other.dtype, other.shape()) == (operation, DType::F32, row.shape());
        // The first row of a shape is that of the plan that was asked for.
        if let Some(plain) = rows.iter().find(same).filter(|_| !shapes.contains(&row.shape())) {
            let cost = |row: &Row| row.bytes as f64 / row.fraction_of_copy;
            logarithms.push((cost(row) / cost(plain)).ln());
            shapes.push(row.shape());
        }
    }
    (!logarithms.is_empty()).then(|| (logarithms.iter().sum::<f64>() / logarithms.len() as f64).exp())
}

fn describe_choice(choice: &Choice) -> String {
    let Choice { strategy, geometry, reduction, held, .. } = *choice;
    let words = [
        strategy.map(|it| it.name().to_owned()),
        held.map(|it| it.to_string()),
        geometry.map(|it| it.to_string()),
        reduction.map(|it| it.to_string()),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn describe(plan: &PlanFigures) -> String {
    let held = if plan.held > 0 { format!(" {}", plan.held) } else { String::new() };
    let reverse = if plan.reverse { " reverse" } else { "" };
    let PlanFigures { strategy, workgroups, workgroup_size, geometry, reduction, .. } = plan;
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
            Row { dtype, bytes: plain.bytes / 4 * dtype.size(), ..plain }
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
