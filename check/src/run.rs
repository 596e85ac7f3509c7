//! One call on the GPU, between guard bands.

use crate::arena::{Arena, Outputs, unwritten};
use crate::case::{Inputs, Operation, Setup};
use batchnorm_wgpu::host::guarded;
use batchnorm_wgpu::{
    BackwardFrozen, BackwardTraining, BatchNorm, Error, ForwardTraining, Inference, Kernels, Result, RunningStatistics,
    Shape, Statistics, Step, wgpu,
};

/// What came out of a call; `None` for what it does not compute or was not asked for.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// Names of the kernels that ran.
    pub kernels: Vec<String>,
    /// Output of a forward pass.
    pub y: Option<Vec<f32>>,
    /// The batch's mean: shift plus remainder.
    pub batch_mean: Option<Vec<f64>>,
    /// The batch's biased variance.
    pub batch_var: Option<Vec<f32>>,
    /// Running statistics after the call.
    pub running: Option<RunningStatistics>,
    /// Gradient by x.
    pub dx: Option<Vec<f32>>,
    /// Gradient by gamma.
    pub dgamma: Option<Vec<f32>>,
    /// Gradient by beta.
    pub dbeta: Option<Vec<f32>>,
}

/// Why a call has no results.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The library or the device refused.
    #[error(transparent)]
    Library(#[from] Error),
    /// Bytes were written that must not be, or not written that must be.
    #[error("{0}")]
    Memory(String),
}

/// Names of the batches of a population.
const BATCHES: [&str; 3] = ["x", "x1", "x2"];

/// Runs `operation` over `inputs` on the device of `kernels`.
///
/// # Errors
/// What the library refuses; [`RunError::Memory`] for what the guard bands and sentinels show.
pub fn run(
    kernels: &Kernels,
    queue: &wgpu::Queue,
    operation: Operation,
    inputs: &Inputs,
    setup: &Setup,
) -> Result<Results, RunError> {
    let layers = layers(kernels, operation, inputs, setup)?;
    let mut arena = fill(operation, inputs, setup, &layers)?;
    let device = kernels.device();
    arena.upload(device, queue)?;
    let steps = bind(&arena, operation, inputs, setup, &layers)?;
    guarded(device, "running a case", || {
        let mut encoder = device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            steps.iter().for_each(|step| step.encode(&mut pass));
        }
        queue.submit([encoder.finish()])
    })?;
    let images = arena.download(device, queue)?;
    let outputs = arena.outputs(&images).map_err(RunError::Memory)?;
    let kernels = steps.iter().flat_map(Step::kernels).map(str::to_owned).collect();
    Ok(Results { kernels, ..results(operation, setup, outputs)? })
}

/// One layer, or one for each batch of a population.
fn layers(kernels: &Kernels, operation: Operation, inputs: &Inputs, setup: &Setup) -> Result<Vec<BatchNorm>> {
    let shapes = match operation {
        Operation::Statistics => batches(&inputs.shape)?,
        _ => vec![inputs.shape.clone()],
    };
    let layer = |shape| BatchNorm::with_choice(kernels, shape, inputs.config, &setup.choice);
    // A choice that fits the whole data set need not fit a part of it.
    let able = |layer: &BatchNorm| layer.plan(operation).is_ok();
    let fallback = |shape: Shape| match layer(shape.clone()) {
        Ok(layer) if able(&layer) => Ok(layer),
        _ => BatchNorm::new(kernels, shape, inputs.config),
    };
    let alone = shapes.len() == 1;
    shapes.into_iter().map(|shape| if alone { layer(shape) } else { fallback(shape) }).collect()
}

/// Shapes of the batches that a data set is streamed in: one sample first, then two uneven parts.
pub(crate) fn batches(shape: &Shape) -> Result<Vec<Shape>> {
    let n = shape.dims()[0];
    let sizes = match n {
        1 => vec![1],
        2 => vec![1, 1],
        _ => vec![1, (n - 1) / 2, n - 1 - (n - 1) / 2],
    };
    let with = |n| {
        let mut dims = shape.dims().to_vec();
        dims[0] = n;
        Shape::new(&dims, shape.layout())
    };
    sizes.into_iter().map(with).collect()
}

fn words(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn fill(operation: Operation, inputs: &Inputs, setup: &Setup, layers: &[BatchNorm]) -> Result<Arena> {
    let mut arena = Arena::new(setup.pooled);
    let backward = matches!(operation, Operation::BackwardTraining | Operation::BackwardFrozen);
    let tensor = inputs.x.len() as u64 * 4;
    let channels = inputs.shape.channels() as u64 * 4;

    let mut rest = inputs.x.as_slice();
    for (name, layer) in BATCHES.into_iter().zip(layers) {
        let (batch, behind) = rest.split_at(layer.shape().elements());
        rest = behind;
        match operation == Operation::Inference && setup.in_place {
            true => arena.in_out(name, words(batch)),
            false => arena.input(name, words(batch)),
        }
    }
    let forward = matches!(operation, Operation::ForwardTraining | Operation::BackwardTraining);
    if forward || (operation == Operation::Inference && !setup.in_place) {
        arena.output("y", tensor);
    }
    if let Some(gamma) = &inputs.gamma {
        arena.input("gamma", words(gamma));
    }
    if let Some(beta) = &inputs.beta {
        arena.input("beta", words(beta));
    }
    if operation.trains() || operation == Operation::Statistics {
        arena.output("saved", layers[0].saved_size());
    }
    let updates = matches!(operation, Operation::ForwardTraining | Operation::Statistics);
    let running = bytemuck::pod_collect_to_vec(&inputs.running.to_bytes()?);
    match updates {
        true => arena.in_out("running", running),
        false => arena.input("running", running),
    }
    // Scratch is not checked for sentinels: a kernel may use less than it was promised.
    arena.output("scratch", layers.iter().map(BatchNorm::scratch_size).max().unwrap_or_default());
    if backward {
        match setup.in_place {
            true => arena.in_out("dy", words(&inputs.dy)),
            false => arena.input("dy", words(&inputs.dy)),
        }
        if setup.dx && !setup.in_place {
            arena.output("dx", tensor);
        }
        if setup.dgamma {
            arena.output("dgamma", channels);
        }
        if setup.dbeta {
            arena.output("dbeta", channels);
        }
    }
    Ok(arena)
}

fn bind(
    arena: &Arena,
    operation: Operation,
    inputs: &Inputs,
    setup: &Setup,
    layers: &[BatchNorm],
) -> Result<Vec<Step>> {
    let layer = &layers[0];
    let wanted = |given: bool, name| given.then(|| arena.binding(name)).transpose();
    let gamma = wanted(inputs.gamma.is_some(), "gamma")?;
    let beta = wanted(inputs.beta.is_some(), "beta")?;
    let running = arena.binding("running")?;
    let scratch = arena.binding("scratch")?;
    let x = arena.binding("x")?;
    let dx = wanted(setup.dx, if setup.in_place { "dy" } else { "dx" });
    let forward = |running| {
        let (x, gamma, beta, scratch) = (x.clone(), gamma.clone(), beta.clone(), scratch.clone());
        let (y, saved) = (arena.binding("y")?, arena.binding("saved")?);
        layer.forward_training(&ForwardTraining { x, y, gamma, beta, saved, running, scratch })
    };
    Ok(match operation {
        Operation::ForwardTraining => vec![forward(setup.running.then_some(running))?],
        Operation::Inference => {
            let y = arena.binding(if setup.in_place { "x" } else { "y" })?;
            vec![layer.inference(&Inference { x, y, gamma, beta, running })?]
        }
        Operation::BackwardTraining => vec![
            forward(None)?,
            layer.backward_training(&BackwardTraining {
                x: x.clone(),
                dy: arena.binding("dy")?,
                dx: dx?,
                gamma: gamma.clone(),
                dgamma: wanted(setup.dgamma, "dgamma")?,
                dbeta: wanted(setup.dbeta, "dbeta")?,
                saved: arena.binding("saved")?,
                scratch: scratch.clone(),
            })?,
        ],
        Operation::BackwardFrozen => vec![layer.backward_frozen(&BackwardFrozen {
            x,
            dy: arena.binding("dy")?,
            dx: dx?,
            gamma,
            dgamma: wanted(setup.dgamma, "dgamma")?,
            dbeta: wanted(setup.dbeta, "dbeta")?,
            running,
            scratch,
        })?],
        Operation::Statistics => {
            let step = |(name, layer): (&'static str, &BatchNorm)| {
                layer.statistics(&Statistics {
                    x: arena.binding(name)?,
                    saved: Some(arena.binding("saved")?),
                    running: Some(running.clone()),
                    scratch: scratch.clone(),
                })
            };
            BATCHES.into_iter().zip(layers).map(step).collect::<Result<_>>()?
        }
    })
}

fn results(operation: Operation, setup: &Setup, mut outputs: Outputs) -> Result<Results, RunError> {
    let mut take = |name: &'static str| -> Result<Option<Vec<f32>>, RunError> {
        let Some(words) = outputs.remove(name) else { return Ok(None) };
        if let Some(i) = unwritten(&words) {
            return Err(RunError::Memory(format!("element {i} of {name} was not written")));
        }
        Ok(Some(words.into_iter().map(f32::from_bits).collect()))
    };
    let y = take(if operation == Operation::Inference && setup.in_place { "x" } else { "y" })?;
    let saved = take("saved")?.filter(|_| operation != Operation::Statistics);
    let (dx, dgamma, dbeta) = (take(if setup.in_place { "dy" } else { "dx" })?, take("dgamma")?, take("dbeta")?);
    let running = match outputs.remove("running").filter(|_| setup.running) {
        Some(words) => Some(RunningStatistics::from_bytes(bytemuck::cast_slice(&words))?),
        None => None,
    };
    let planes: Option<Vec<&[f32]>> = saved.as_ref().map(|saved| saved.chunks_exact(saved.len() / 4).collect());
    let mean = |planes: &Vec<&[f32]>| {
        planes[0].iter().zip(planes[1]).map(|(&shift, &rest)| f64::from(shift) + f64::from(rest)).collect()
    };
    Ok(Results {
        kernels: Vec::new(),
        y,
        batch_mean: planes.as_ref().map(mean),
        batch_var: planes.as_ref().map(|planes| planes[2].to_vec()),
        running,
        dx,
        dgamma,
        dbeta,
    })
}
