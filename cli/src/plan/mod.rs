//! `bn plan`: what the library would dispatch for a shape, without running it and, unless an adapter is asked for, without one.
//!
//! | module | what it holds |
//! |---|---|
//! | `programs` | what an operation dispatches, also over micro-batches |
//! | `words` | a plan in words |
//! | `record` | all of it, for `--json` |

mod programs;
mod record;
mod words;

use crate::activation::ActivationArgs;
use crate::asked::AskedShape;
use crate::forced::Forced;
use crate::names::operation;
use crate::output::read_tuning;
use crate::terminal::{Column, number, prose, table, text};
use crate::{AnyError, ExitStatus};
use batchnorm_wgpu::host::Gpu;
use batchnorm_wgpu::kernels::{Access, KERNELS};
use batchnorm_wgpu::program::{Bound, Description, Dispatch, Given};
use batchnorm_wgpu::{Capabilities, Config, DType, Error, Operation, Shape, Tuning, wgpu};
use clap::ValueEnum;
use programs::Programs;
use record::{OperationRecord, Planned};
use std::path::PathBuf;
use std::sync::Arc;

/// Arguments of `bn plan`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct PlanArgs {
    /// Shapes of x, each with a layout and types after colons where they are not channels_first and f32. x=64/256 makes x (and
    /// dx) a view: its channels are those from 64 on of a tensor that has 256; so do y= and residual=
    #[arg(value_name = "SHAPE", value_parser = subject, required = true)]
    shapes: Vec<PlanSubject>,
    /// Plan only this operation, such as forward_training
    #[arg(long, value_name = "NAME", value_parser = operation)]
    operation: Option<Operation>,
    #[command(flatten)]
    activation: ActivationArgs,
    /// A layer that adds a residual
    #[arg(long)]
    residual: bool,
    /// A layer that writes y over x, whose backward pass works from y
    #[arg(long, conflicts_with_all = ["activation", "residual"])]
    in_place: bool,
    /// Bindings that are absent, separated by commas, such as gamma,beta,running
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = optional_binding)]
    without: Vec<String>,
    /// Plan a batch that comes in micro-batches of so many samples, each with tensors of its own, with statistics of all of it
    #[arg(long, value_name = "SAMPLES")]
    micro_batches: Option<usize>,
    #[command(flatten)]
    forced: Forced,
    /// Plan for a device of this kind with WebGPU's default limits
    #[arg(long, value_name = "KIND", value_enum, default_value_t = DeviceKind::Gpu)]
    device: DeviceKind,
    /// That device has subgroups
    #[arg(long)]
    subgroups: bool,
    /// That device has f16 in shaders
    #[arg(long)]
    shader_f16: bool,
    /// Plan for the adapter of this short name (see `bn info`), or whose name contains NAME, with all that it has
    #[arg(long, value_name = "NAME", conflicts_with_all = ["device", "subgroups", "shader_f16"])]
    adapter: Option<String>,
    /// Choose plans by a tuning file that `bn tune` wrote
    #[arg(long, value_name = "FILE")]
    tuning: Option<PathBuf>,
    /// Print JSON, which has the parameters of every dispatch too, instead of tables
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  bn plan 32x64x28x28             on a GPU of which no more is known
  bn plan 8x5x5x3:channels_last:f16:bf16 --operation inference
  bn plan 32x64x28x28 --activation relu --residual --adapter lavapipe
  bn plan 32x64x28x28 --operation forward_training --strategy split
  bn plan 32x64x28x28 --operation backward_training --without dx --json
  bn plan 32x96x28x28:x=0/256 --operation forward_training
                                  x is the first 96 of 256 channels, as in DenseNet
  bn plan 32x64x28x28 --micro-batches 8
                                  the batch comes 8 samples at a time

Nothing is run. bn shader NAME shows the text of a kernel that a table names.";

/// A kind of device of which nothing else is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DeviceKind {
    /// A GPU with a memory of its own
    Gpu,
    /// A software adapter
    Cpu,
}

/// A shape and the types of its tensors.
#[derive(Clone, Debug, PartialEq)]
struct PlanSubject {
    shape: Shape,
    dtypes: Vec<DType>,
}

/// Reads a shape such as `8x5x5x3:channels_last:f16:x=1/4`.
fn subject(text: &str) -> Result<PlanSubject, String> {
    let asked = AskedShape::parse(text)?;
    let dims = asked.dims().ok_or("expected dimensions, such as 32x64x28x28, then perhaps :channels_last and :f16")?;
    let shape = asked.shape(&dims, asked.layout.unwrap_or_default()).map_err(|error| error.to_string())?;
    let dtypes = if asked.dtypes.is_empty() { vec![DType::F32] } else { asked.dtypes };
    Ok(PlanSubject { shape, dtypes })
}

/// Reads the name of a binding that some kernel may do without.
fn optional_binding(name: &str) -> Result<String, String> {
    let mut names: Vec<&str> = Vec::new();
    for binding in KERNELS.iter().flat_map(|kernel| kernel.bindings).filter(|binding| binding.optional) {
        if !names.contains(&binding.name) {
            names.push(binding.name);
        }
    }
    match names.contains(&name) {
        true => Ok(name.into()),
        false => Err(format!("expected one of {}", names.join(", "))),
    }
}

/// What plans depend on besides the layer.
struct PlanTarget {
    /// In words.
    name: String,
    capabilities: Capabilities,
    tuning: Arc<Tuning>,
}

impl PlanArgs {
    fn target(&self) -> Result<PlanTarget, AnyError> {
        let tuning = self.tuning.as_deref().map(read_tuning).transpose()?;
        let (name, capabilities, built_in) = match &self.adapter {
            Some(name) => {
                let gpu = Gpu::open(Some(name))?;
                (gpu.key(), Capabilities::of(&gpu.device), Tuning::built_in(&gpu.info))
            }
            None => (self.assumed_name(), self.assumed(), Tuning::none()),
        };
        let tuning = tuning.unwrap_or(built_in);
        let name = match tuning.points.is_empty() {
            true if capabilities.device_type == wgpu::DeviceType::Cpu => format!("{name}, as is usual for software"),
            true => format!("{name}, by an estimate"),
            false => format!("{name}, by what was measured on {}", tuning.adapter),
        };
        Ok(PlanTarget { name, capabilities, tuning: Arc::new(tuning) })
    }

    /// The device that is assumed where no adapter is asked for.
    fn assumed(&self) -> Capabilities {
        let device_type = match self.device {
            DeviceKind::Gpu => wgpu::DeviceType::DiscreteGpu,
            DeviceKind::Cpu => wgpu::DeviceType::Cpu,
        };
        let (subgroups, shader_f16) = (self.subgroups, self.shader_f16);
        Capabilities { device_type, subgroups, shader_f16, ..Capabilities::default_limits() }
    }

    fn assumed_name(&self) -> String {
        let kind = match self.device {
            DeviceKind::Gpu => "a GPU",
            DeviceKind::Cpu => "a software adapter",
        };
        let features = match (self.subgroups, self.shader_f16) {
            (false, false) => "",
            (true, false) => " and subgroups",
            (false, true) => " and f16",
            (true, true) => ", subgroups and f16",
        };
        format!("{kind} with WebGPU's default limits{features}")
    }

    /// What is planned. Only training has sums that micro-batches share.
    fn operations(&self) -> Result<Vec<Operation>, AnyError> {
        let all = self.operation.map_or(Operation::ALL.to_vec(), |one| vec![one]);
        if self.micro_batches.is_none() {
            return Ok(all);
        }
        let training: Vec<Operation> = all.into_iter().filter(|operation| operation.trains()).collect();
        match training.is_empty() {
            true => Err("--micro-batches is for forward_training and backward_training".into()),
            false => Ok(training),
        }
    }

    fn programs(
        &self,
        shape: &Shape,
        dtype: DType,
        operation: Operation,
        target: &PlanTarget,
    ) -> Result<Programs, Error> {
        if operation.trains() {
            shape.check_trainable()?;
        }
        let config = self.activation.applied_to(Config { dtype, in_place: self.in_place, ..Config::default() });
        let choice = self.forced.choice(dtype);
        let description =
            Description::new(shape.clone(), config, &choice, &target.capabilities, target.tuning.clone())?;
        let lower = |description: &Description| description.lower(operation, &self.given(description, operation));
        match self.micro_batches {
            None => Ok(Programs::of_whole(lower(&description)?)),
            Some(samples) => {
                let descriptions = description.micro_batches(samples)?;
                Programs::of_micro_batches(samples, descriptions.iter().map(lower).collect::<Result<_, _>>()?)
            }
        }
    }

    /// The bindings of an operation, each with a buffer of its own; in place, y has that of x.
    fn given(&self, description: &Description, operation: Operation) -> Vec<Given> {
        let is_there = |name: &str| {
            let residual = ["residual", "dresidual"].contains(&name);
            (self.residual || !residual) && !self.without.iter().any(|absent| absent == name)
        };
        let names: Vec<&str> =
            description.bindings(operation).into_iter().map(|(name, _)| name).filter(|name| is_there(name)).collect();
        let mut given = Given::apart(&names);
        let x = given.iter().find(|given| given.name == "x").map(|given| given.buffer);
        for y in given.iter_mut().filter(|given| self.in_place && given.name == "y") {
            y.buffer = x.unwrap_or(y.buffer);
        }
        given
    }
}

/// Prints what would be dispatched.
pub fn run(arguments: &PlanArgs) -> Result<ExitStatus, AnyError> {
    let dtypes: Vec<DType> = arguments.shapes.iter().flat_map(|subject| subject.dtypes.clone()).collect();
    if let Some(storage) = arguments.forced.idle_storage(&dtypes) {
        return Err(format!("--storage {storage} is for tensors of {0}: give SHAPE:{0}", storage.dtype()).into());
    }
    arguments.activation.check()?;
    let operations = arguments.operations()?;
    let target = arguments.target()?;
    let mut all = Vec::new();
    for PlanSubject { shape, dtypes } in &arguments.shapes {
        for &dtype in dtypes {
            for &operation in &operations {
                let programs = arguments.programs(shape, dtype, operation, &target);
                all.push(Planned { shape, dtype, operation, programs });
            }
        }
    }
    // Beside what can be planned, a refusal is a line of its own.
    if let [Planned { shape, dtype, operation, programs: Err(error) }, rest @ ..] = &all[..]
        && rest.iter().all(|planned| planned.programs.is_err())
    {
        return Err(format!("{operation} {shape} {dtype}: {error}").into());
    }
    if arguments.json {
        let records: Vec<OperationRecord> =
            all.iter().map(|planned| OperationRecord::new(planned, &target.name)).collect();
        println!("{}", serde_json::to_string_pretty(&records)?);
        return Ok(ExitStatus::Passed);
    }
    println!("{}", prose(&format!("For {}.", target.name)));
    // What the columns mean is said once, below the last table.
    let last = all.iter().rposition(|planned| planned.programs.is_ok());
    all.iter().enumerate().for_each(|(i, planned)| print(planned, Some(i) == last));
    Ok(ExitStatus::Passed)
}

fn print(planned: &Planned<'_>, is_last: bool) {
    let Planned { shape, dtype, operation, programs } = planned;
    let by = programs.as_ref().ok().and_then(|programs| programs.micro_batches);
    let by = by.map_or(String::new(), |micro| format!(" by {}", micro.samples));
    println!("\n{operation} {shape}{by} {dtype}");
    match programs {
        Ok(programs) => {
            println!("{}", prose(&words::sentences(*operation, programs)));
            println!("{}", dispatches(programs, is_last));
        }
        Err(error) => println!("{}", prose(&format!("refused: {error}"))),
    }
}

fn dispatches(programs: &Programs, explained: bool) -> String {
    let means = |column: Column, meaning| if explained { column.means(meaning) } else { column };
    let micro = programs.micro_batches.map(|_| means(number("micro-batch"), "whose tensors are bound"));
    let rest = [
        text("kernel"),
        means(number("workgroup\nsize"), "invocations in a workgroup"),
        text("grid"),
        means(number("workgroups"), "those that have work; a grid of two rows may have a few more"),
        means(number("moves"), "elements of tensors that are read or written for each element of x"),
        means(
            text("bindings"),
            "number, name and bytes of each storage buffer, * where it is written, and where the bytes begin if not at 0; \
             binding 0 is the uniform parameters, which --json shows",
        ),
    ];
    let columns: Vec<Column> = [number("dispatch")].into_iter().chain(micro).chain(rest).collect();
    let rows = programs.dispatches.iter().enumerate().map(|(i, (number, dispatch))| {
        let Dispatch { stage: _, variant, workgroup_size, grid: [x, y], params, bindings } = dispatch;
        let micro = programs.micro_batches.map(|_| (number + 1).to_string());
        let rest = [
            variant.name(),
            workgroup_size.to_string(),
            format!("{x}x{y}"),
            params.groups.to_string(),
            variant.moves().to_string(),
            bindings.iter().map(binding).collect::<Vec<_>>().join(", "),
        ];
        [(i + 1).to_string()].into_iter().chain(micro).chain(rest).collect()
    });
    table(columns, rows)
}

/// A binding such as `8 y* 6422528`.
fn binding(bound: &Bound) -> String {
    let written = if bound.access == Access::Write { "*" } else { "" };
    let begin = if bound.begin > 0 { format!(" at {}", bound.begin) } else { String::new() };
    let role = if bound.role == bound.name { String::new() } else { format!(" for {}", bound.role) };
    format!("{} {}{role}{written} {}{begin}", bound.number, bound.name, bound.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_written_out() {
        let read = |text| subject(text).map(|PlanSubject { shape, dtypes }| (shape.to_string(), dtypes));
        assert_eq!(read("32x64").unwrap(), ("32x64 channels_first".into(), vec![DType::F32]));
        let last = read("8x5x5x3:f16:channels_last:bf16").unwrap();
        assert_eq!(last, ("8x5x5x3 channels_last".into(), vec![DType::F16, DType::Bf16]));
        assert_eq!(read("8x4x3:x=2/9").unwrap().0, "8x4x3 channels_first x=2/9");
        for (text, said) in [
            ("8", "rank 2"),
            ("8x0", "at least one channel"),
            ("eight", "such as 32x64x28x28"),
            ("", "such as 32x64x28x28"),
            ("8x3:f64", "got \"f64\""),
            ("8x3:f16:f16", "f16 stands twice"),
            ("8x3:channels_last:channels_first", "one layout"),
            ("8x3:x=2/4", "within those of the wider tensor"),
        ] {
            assert!(read(text).is_err_and(|error| error.contains(said)), "{text}: {:?}", read(text));
        }
    }
}
