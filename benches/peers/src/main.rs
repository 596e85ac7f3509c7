//! Times the batch norm of Burn on its wgpu backend, and prints the figures in the form that `compare` reads.

mod adapter;
mod layer;
mod timing;

use clap::Parser;
use serde::Serialize;
use std::process::ExitCode;
use timing::Timing;

/// Time the batch norm of Burn
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Adapter by short name (see `bn info`) or part of its name. Default: the best one
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Shapes N x C x ..., separated by commas
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "32x64x32x32,32x256x14x14,8x64x56x56,128x512"
    )]
    shapes: Vec<Shape>,
    /// Samples of each time
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = samples)]
    samples: usize,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// A shape, channels first.
#[derive(Clone)]
struct Shape(Vec<usize>);

impl std::str::FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sizes: Option<Vec<usize>> = text.split('x').map(|size| size.parse().ok().filter(|it| *it > 0)).collect();
        let fits = |sizes: &Vec<usize>| (2..=5).contains(&sizes.len());
        sizes.filter(fits).map(Self).ok_or("expected 2 to 5 sizes above 0, such as 32x64x32x32".into())
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.iter().map(usize::to_string).collect::<Vec<_>>().join("x"))
    }
}

fn samples(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|it| *it > 0).ok_or("expected a number of at least 1".into())
}

/// What an operation takes on a shape.
#[derive(Serialize)]
struct Row {
    shape: String,
    operation: &'static str,
    microseconds: Timing,
}

/// What a run found.
#[derive(Serialize)]
struct Record {
    peer: &'static str,
    version: String,
    adapter: String,
    name: String,
    driver: String,
    backend: String,
    clock: &'static str,
    features: &'static [&'static str],
    notes: Vec<String>,
    rows: Vec<Row>,
}

const FEATURES: &[&str] =
    if cfg!(feature = "spirv") { &["fusion", "autotune", "vulkan"] } else { &["fusion", "autotune"] };

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(record) if arguments.json => print_json(&record),
        Ok(record) => print(&record),
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn run(arguments: &Arguments) -> Result<Record, String> {
    let adapter::Opened { device, info } = adapter::open(arguments.adapter.as_deref())?;
    let mut rows = Vec::new();
    for shape in &arguments.shapes {
        eprintln!("burn: {shape}");
        let found = layer::time(&device, &shape.0, arguments.samples)?;
        rows.extend(found.into_iter().map(|layer::Row { operation, microseconds }| Row {
            shape: shape.to_string(),
            operation,
            microseconds,
        }));
    }
    Ok(Record {
        peer: if cfg!(feature = "spirv") { "burn-spirv" } else { "burn" },
        version: burn_version().into(),
        adapter: adapter::key(&info),
        name: info.name,
        driver: format!("{} {}", info.driver, info.driver_info).trim().into(),
        backend: format!("{:?}", info.backend),
        clock: "wall time of many steps; backward is what a step takes beyond forward",
        features: FEATURES,
        notes: Vec::new(),
        rows,
    })
}

/// The version of Burn that this was built with, which Burn itself does not tell.
fn burn_version() -> &'static str {
    let rest = include_str!("../Cargo.lock").split_once("name = \"burn\"\nversion = \"").map(|(_, rest)| rest);
    rest.and_then(|rest| rest.split('"').next()).unwrap_or("unknown")
}

fn print_json(record: &Record) {
    match serde_json::to_string_pretty(record) {
        Ok(text) => println!("{text}"),
        Err(error) => eprintln!("error: the figures cannot be written as JSON: {error}"),
    }
}

fn print(record: &Record) {
    let Record { version, adapter, name, backend, driver, clock, .. } = record;
    println!("burn {version} with {} on {adapter}: {name} ({backend}) {driver}; {clock}", FEATURES.join(", "));
    for Row { shape, operation, microseconds: Timing { median, spread, .. } } in &record.rows {
        println!("  {shape:<18} {operation:<18} {median:>10.1} us  spread {spread:.1}");
    }
}
