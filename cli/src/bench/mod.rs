//! `bn bench`: the time of every operation beside a copy kernel on the same device in the same run.

mod copy;
mod timing;

use crate::adapter::AdapterArgs;
use crate::output::{figure, progress, table, write};
use crate::{AnyError, Verdict};
use batchnorm_wgpu::host::{Gpu, storage, upload};
use batchnorm_wgpu::kernels::{Geometry, Reduction};
use batchnorm_wgpu::{
    BackwardFrozen, BackwardTraining, BatchNorm, Choice, Config, ForwardTraining, Inference, Kernels, Layout, Plan,
    RunningStatistics, Shape, Step, wgpu,
};
use batchnorm_wgpu_check::case::{Case, Operation, Setup};
use batchnorm_wgpu_check::data::normal;
use batchnorm_wgpu_check::suite::{Expectations, Suite};
use serde::Serialize;
use std::path::PathBuf;
use timing::{Timing, measure};

/// Arguments of `bn bench`.
#[derive(clap::Args)]
pub struct BenchArgs {
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Only the small shapes, and fewer samples
    #[arg(long)]
    quick: bool,
    /// Only shapes whose text contains this, such as `32x64` or `channels_last`
    #[arg(long, value_name = "TEXT")]
    shapes: Option<String>,
    /// Force what a value is made of
    #[arg(long, value_name = "NAME", value_parser = geometry)]
    geometry: Option<Geometry>,
    /// Force how a workgroup sums
    #[arg(long, value_name = "NAME", value_parser = reduction)]
    reduction: Option<Reduction>,
    /// Force the invocations per workgroup, a power of two
    #[arg(long, value_name = "N")]
    workgroup_size: Option<u32>,
    /// Force the workgroups that share a channel
    #[arg(long, value_name = "N")]
    splits: Option<u32>,
    /// Write the figures as JSON to FILE, or to standard output
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
}

impl BenchArgs {
    fn choice(&self) -> Choice {
        let Self { geometry, reduction, workgroup_size, splits, .. } = *self;
        Choice { geometry, reduction, workgroup_size, splits, ..Choice::default() }
    }
}

fn geometry(name: &str) -> Result<Geometry, String> {
    let names = Geometry::ALL.map(Geometry::name).join(", ");
    Geometry::ALL.into_iter().find(|it| it.name() == name).ok_or(format!("expected one of {names}"))
}

fn reduction(name: &str) -> Result<Reduction, String> {
    let names = Reduction::ALL.map(Reduction::name).join(", ");
    Reduction::ALL.into_iter().find(|it| it.name() == name).ok_or(format!("expected one of {names}"))
}

/// Bytes of tensors that are gone through before one is used again, so that no cache holds it. Larger than the last-level
/// caches of today's desktop processors and GPUs.
const ROTATION: u64 = 256 << 20;
/// Most sets of tensors: small ones would need thousands, and where dispatch dominates the cache does not matter.
const MOST_SETS: u64 = 8;

/// Shapes that a software adapter can do in seconds: those that peers are measured with, then tails, few channels, small.
const SMALL: [(&[usize], Layout); 10] = [
    (&[32, 64, 32, 32], Layout::ChannelsFirst),
    (&[32, 256, 14, 14], Layout::ChannelsFirst),
    (&[8, 64, 56, 56], Layout::ChannelsFirst),
    (&[128, 512], Layout::ChannelsFirst),
    (&[32, 512, 7, 7], Layout::ChannelsFirst),
    (&[2, 3, 512, 512], Layout::ChannelsFirst),
    (&[32, 28, 28, 64], Layout::ChannelsLast),
    (&[32, 28, 28, 65], Layout::ChannelsLast),
    (&[8000, 256], Layout::ChannelsFirst),
    (&[8, 16, 7, 7], Layout::ChannelsFirst),
];

/// ResNet-50's, and what peers are slow at.
const LARGE: [(&[usize], Layout); 8] = [
    (&[64, 64, 112, 112], Layout::ChannelsFirst),
    (&[64, 256, 56, 56], Layout::ChannelsFirst),
    (&[64, 512, 28, 28], Layout::ChannelsFirst),
    (&[64, 1024, 14, 14], Layout::ChannelsFirst),
    (&[32, 2048, 7, 7], Layout::ChannelsFirst),
    (&[64, 56, 56, 64], Layout::ChannelsLast),
    (&[140_000, 256], Layout::ChannelsFirst),
    (&[2, 3, 1024, 1024], Layout::ChannelsFirst),
];

/// Operations that are timed, and how often an element must be read or written at the least.
const OPERATIONS: [(Operation, u64); 4] = [
    (Operation::ForwardTraining, 2),
    (Operation::BackwardTraining, 3),
    (Operation::Inference, 2),
    (Operation::BackwardFrozen, 3),
];

/// The figures of one operation on one shape.
#[derive(Serialize)]
struct Row {
    operation: &'static str,
    shape: String,
    megabytes: f64,
    kernels: Vec<String>,
    plan: String,
    microseconds: Timing,
    encode_microseconds: f64,
    gigabytes_per_second: f64,
    fraction_of_copy: f64,
}

/// What a run found.
#[derive(Serialize)]
struct Record {
    adapter: String,
    name: String,
    driver: String,
    backend: String,
    version: &'static str,
    clock: &'static str,
    copy: copy::Best,
    rows: Vec<Row>,
}

/// Verifies and times every operation.
pub fn run(arguments: &BenchArgs) -> Result<Verdict, AnyError> {
    let gpu = arguments.adapter.open()?;
    let samples = if arguments.quick { 5 } else { 11 };
    let shapes = shapes(arguments, &gpu)?;
    let quiet = arguments.json.as_deref() == Some("-".as_ref());
    let copy = copy::best(&gpu, samples)?;
    let kernels = Kernels::new(&gpu.device);
    let mut rows = Vec::new();
    let bar = progress((shapes.len() * OPERATIONS.len()) as u64, &gpu.key());
    for shape in &shapes {
        for (operation, moves) in OPERATIONS {
            bar.set_message(format!("{} {shape}", operation.name()));
            let case =
                Case { setup: Setup { choice: arguments.choice(), ..Setup::default() }, ..Case::new(operation, shape) };
            rows.push(row(&gpu, &kernels, &case, moves, &copy, samples)?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let record = Record {
        adapter: gpu.key(),
        name: gpu.info.name.clone(),
        driver: gpu.info.driver_info.clone(),
        backend: format!("{:?}", gpu.info.backend),
        version: env!("CARGO_PKG_VERSION"),
        clock: "wall time of many steps in one submission",
        copy,
        rows,
    };
    if !quiet {
        print(&record);
    }
    if let Some(path) = &arguments.json {
        write(path, serde_json::to_string_pretty(&record)?.as_bytes())?;
    }
    Ok(Verdict::Passed)
}

fn shapes(arguments: &BenchArgs, gpu: &Gpu) -> Result<Vec<Shape>, AnyError> {
    let software = gpu.info.device_type == wgpu::DeviceType::Cpu;
    let large = if arguments.quick || software { &LARGE[..0] } else { &LARGE[..] };
    let all = SMALL.iter().chain(large).map(|(dims, layout)| Shape::new(dims, *layout));
    let mut shapes = all.collect::<Result<Vec<_>, _>>()?;
    if let Some(text) = &arguments.shapes {
        let names: Vec<String> = shapes.iter().map(Shape::to_string).collect();
        shapes.retain(|shape| shape.to_string().contains(text));
        if shapes.is_empty() {
            return Err(format!("no shape contains {text:?}; there are: {}", names.join(", ")).into());
        }
    }
    Ok(shapes)
}

fn row(
    gpu: &Gpu,
    kernels: &Kernels,
    case: &Case,
    moves: u64,
    copy: &copy::Best,
    samples: usize,
) -> Result<Row, AnyError> {
    // Verified first, on the same kernels and plan.
    let mut expectations = Expectations::default();
    let outcome = Suite::new(kernels.clone(), gpu.queue.clone(), &mut expectations).run(case);
    let Case { shape, operation, .. } = case;
    if let Some(failure) = outcome.failure {
        return Err(format!("not timed, since it is wrong: {}: {failure}", outcome.case).into());
    }
    let layer = BatchNorm::with_choice(kernels, shape.clone(), Config::default(), &case.setup.choice)?;
    let bytes = shape.elements() as u64 * 4;
    let sets = (ROTATION / (3 * bytes)).clamp(2, MOST_SETS);
    let steps = (0..sets).map(|_| step(gpu, &layer, *operation)).collect::<Result<Vec<_>, AnyError>>()?;
    let microseconds = measure(gpu, &steps, samples, |step, pass| step.encode(pass))?;
    let gigabytes_per_second = (moves * bytes) as f64 / microseconds.median / 1e3;
    Ok(Row {
        operation: operation.name(),
        shape: shape.to_string(),
        megabytes: bytes as f64 / 1e6,
        kernels: steps[0].kernels().map(str::to_owned).collect(),
        plan: summary(&layer.plan(*operation)?),
        encode_microseconds: timing::encode(gpu, &steps[0]),
        gigabytes_per_second,
        fraction_of_copy: gigabytes_per_second / copy.gigabytes_per_second,
        microseconds,
    })
}

fn summary(plan: &Plan) -> String {
    format!("{} x {} of {}", plan.columns.div_ceil(plan.tile), plan.splits, plan.workgroup_size)
}

/// The operation, bound to tensors of its own.
fn step(gpu: &Gpu, layer: &BatchNorm, operation: Operation) -> Result<Step, AnyError> {
    let shape = layer.shape();
    let (bytes, channels) = (shape.elements() as u64 * 4, shape.channels());
    // A million values over and over: as far as time goes that is random.
    let pattern = normal(1 << 20, 7);
    let values: Vec<f32> = pattern.iter().copied().cycle().take(shape.elements()).collect();
    let tensor = || upload(&gpu.device, &gpu.queue, "x", bytemuck::cast_slice(&values));
    let empty = |size| storage(&gpu.device, "bench", size);
    let (x, dy, y) = (tensor()?, tensor()?, empty(bytes)?);
    let gamma = upload(&gpu.device, &gpu.queue, "gamma", bytemuck::cast_slice(&vec![1f32; channels]))?;
    let (beta, dgamma, dbeta) = (empty(gamma.size())?, empty(gamma.size())?, empty(gamma.size())?);
    let running = upload(&gpu.device, &gpu.queue, "running", &RunningStatistics::new(channels).to_bytes()?)?;
    let (saved, scratch) = (empty(layer.saved_size())?, empty(layer.scratch_size())?);
    let whole = wgpu::Buffer::as_entire_buffer_binding;
    let (gamma, beta) = (Some(whole(&gamma)), Some(whole(&beta)));
    let (dx, dgamma, dbeta) = (Some(whole(&y)), Some(whole(&dgamma)), Some(whole(&dbeta)));
    let (x, y, dy, saved, scratch) = (whole(&x), whole(&y), whole(&dy), whole(&saved), whole(&scratch));
    let running = whole(&running);
    Ok(match operation {
        Operation::ForwardTraining => {
            let running = Some(running);
            layer.forward_training(&ForwardTraining { x, y, gamma, beta, saved, running, scratch })?
        }
        Operation::Inference => layer.inference(&Inference { x, y, gamma, beta, running })?,
        Operation::BackwardTraining => {
            layer.backward_training(&BackwardTraining { x, dy, dx, gamma, dgamma, dbeta, saved, scratch })?
        }
        Operation::BackwardFrozen => {
            layer.backward_frozen(&BackwardFrozen { x, dy, dx, gamma, dgamma, dbeta, running, scratch })?
        }
        Operation::Statistics => return Err("a population is not timed".into()),
    })
}

fn print(record: &Record) {
    println!("{}: {} ({}) {}", record.adapter, record.name, record.backend, record.driver);
    let copy = &record.copy;
    println!(
        "copy kernel: {:.2} GB/s, read and write ({} workgroups of {}); clock: {}\n",
        copy.gigabytes_per_second, copy.workgroups, copy.workgroup_size, record.clock
    );
    let rows = record.rows.iter().map(|row| {
        vec![
            row.operation.into(),
            row.shape.clone(),
            format!("{:.1}", row.megabytes),
            row.plan.clone(),
            row.kernels.len().to_string(),
            format!("{:.0}", row.microseconds.median),
            format!("{:.0}", row.microseconds.spread),
            figure(row.gigabytes_per_second),
            format!("{:.2}", row.fraction_of_copy),
            format!("{:.1}", row.encode_microseconds),
        ]
    });
    let header =
        ["operation", "shape", "MB", "workgroups", "dispatches", "us", "spread", "GB/s", "of copy", "encode us"];
    println!("{}", table(&header, 2, rows));
    println!(
        "us: median of a step; spread: half of the samples lie within it. GB/s: on the bytes that must move, 2 tensors"
    );
    println!("forward and 3 backward; of copy: that over the copy kernel's. encode us: host time to record one step.");
}
