//! One call on the GPU, between guard bands.

use crate::arena::{Arena, Outputs, from_words, narrowed, to_words, wide_bytes, widened};
use crate::case::{Before, Inputs, Operation, Setup, before_frozen_backward};
use batchnorm_wgpu::host::guarded;
use batchnorm_wgpu::{
    Backward, BatchNorm, DType, Error, ForwardTraining, Inference, Kernels, MicroBatch, MicroStep, Result,
    RunningStatistics, Saved, Shape, Statistics, Step, View, Views, wgpu,
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
    /// Gradient by the residual.
    pub dresidual: Option<Vec<f32>>,
    /// Gradient by gamma.
    pub dgamma: Option<Vec<f32>>,
    /// Gradient by beta.
    pub dbeta: Option<Vec<f32>>,
}

impl Results {
    /// A number that other bits of the results would almost surely change: FNV-1a (Fowler, Noll, Vo) over their words, a NaN
    /// counting as one whatever its payload. The same on every machine for the same bits.
    pub fn digest(&self) -> u64 {
        let Self { kernels: _, y, batch_mean, batch_var, running, dx, dresidual, dgamma, dbeta } = self;
        let mut digest = Digest(0xcbf2_9ce4_8422_2325);
        for floats in [y, batch_var, dx, dresidual, dgamma, dbeta] {
            digest.floats(floats.as_deref().unwrap_or_default());
        }
        batch_mean.iter().flatten().for_each(|mean| digest.word(if mean.is_nan() { u64::MAX } else { mean.to_bits() }));
        if let Some(RunningStatistics { mean, mean_remainder, var, tracked, averaged, skipped, values }) = running {
            [mean, mean_remainder, var].into_iter().for_each(|floats| digest.floats(floats));
            [tracked, averaged, skipped].into_iter().flatten().for_each(|&count| digest.word(count.into()));
            values.iter().for_each(|&count| digest.word(count));
        }
        digest.0
    }
}

struct Digest(u64);

impl Digest {
    fn word(&mut self, word: u64) {
        word.to_le_bytes().iter().for_each(|&byte| self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    }

    /// How many, and each.
    fn floats(&mut self, floats: &[f32]) {
        self.word(floats.len() as u64);
        floats.iter().for_each(|float| self.word(if float.is_nan() { u64::MAX } else { float.to_bits().into() }));
    }
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

/// The first channel whose running mean is not the nearest f32 to itself and its remainder: who takes it alone loses digits.
fn not_nearest(running: &RunningStatistics) -> Option<usize> {
    let pairs =
        running.mean.iter().zip(&running.mean_remainder).map(|(&mean, &rest)| (f64::from(mean), f64::from(rest)));
    let is_near = |(mean, rest): (f64, f64)| !mean.is_finite() || f64::from((mean + rest) as f32) == mean;
    pairs.map(is_near).position(|near| !near)
}

/// Names of a tensor's pieces: of x the batches of a population, of all of them the micro-batches of a batch.
const PIECES: [[&str; 3]; 6] = [
    ["x", "x1", "x2"],
    ["y", "y1", "y2"],
    ["residual", "residual1", "residual2"],
    ["dy", "dy1", "dy2"],
    ["dx", "dx1", "dx2"],
    ["dresidual", "dresidual1", "dresidual2"],
];

/// Names of the pieces of one tensor.
fn pieces_of(name: &str) -> [&'static str; 3] {
    PIECES.into_iter().find(|names| names[0] == name).unwrap_or(PIECES[0])
}

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
    let steps = bind(kernels, &arena, operation, inputs, setup, &layers)?;
    guarded(device, "running a case", || {
        let mut encoder = device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            steps.iter().for_each(|step| step.encode(&mut pass));
        }
        queue.submit([encoder.finish()])
    })?;
    let outputs = arena.outputs(device, queue)?.map_err(RunError::Memory)?;
    let kernels = steps.iter().flat_map(Step::kernels).map(str::to_owned).collect();
    let pieces = pieces(inputs, setup, &layers)?;
    Ok(Results { kernels, ..results(operation, inputs, setup, &pieces, outputs)? })
}

/// Values per channel in the first part of each batch, `None` where one binding holds it: the shift is taken from there.
///
/// # Errors
/// What the library refuses.
pub fn first_parts(
    kernels: &Kernels,
    operation: Operation,
    inputs: &Inputs,
    setup: &Setup,
) -> Result<Vec<Option<u64>>> {
    // The statistics of a backward pass are those of its forward pass.
    let taken_by = if operation == Operation::BackwardTraining { Operation::ForwardTraining } else { operation };
    let of = |layer: &BatchNorm| {
        let plan = match setup.micro_batch {
            Some(samples) => layer.description().micro_batches(samples)?[0].plan(taken_by)?,
            None => layer.plan(taken_by)?,
        };
        Ok((plan.parts > 1).then(|| plan.first_part()))
    };
    layers(kernels, operation, inputs, setup)?.iter().map(of).collect()
}

/// One layer, or one for each batch of a population.
fn layers(kernels: &Kernels, operation: Operation, inputs: &Inputs, setup: &Setup) -> Result<Vec<BatchNorm>> {
    let shapes = match operation {
        Operation::Statistics if !setup.one_batch => batches(&inputs.shape)?,
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

/// Shapes of the pieces that its tensors are in: the batches of a population, or the micro-batches of a batch.
fn pieces(inputs: &Inputs, setup: &Setup, layers: &[BatchNorm]) -> Result<Vec<Shape>> {
    let Some(samples) = setup.micro_batch else {
        return Ok(layers.iter().map(|layer| layer.shape().clone()).collect());
    };
    let n = inputs.shape.dims()[0];
    (0..n).step_by(samples.max(1)).map(|from| inputs.shape.with_batch(samples.min(n - from))).collect()
}

/// Shapes of the batches that a data set is streamed in: one sample first, then two uneven parts.
pub(crate) fn batches(shape: &Shape) -> Result<Vec<Shape>> {
    let n = shape.dims()[0];
    let sizes = match n {
        1 => vec![1],
        2 => vec![1, 1],
        _ => vec![1, (n - 1) / 2, n - 1 - (n - 1) / 2],
    };
    sizes.into_iter().map(|n| shape.with_batch(n)).collect()
}

/// Where the tensors of a call lie.
struct Places {
    /// x or the residual where y is written over one of them.
    y: &'static str,
    dx: &'static str,
    dresidual: &'static str,
}

/// Forward passes in place write y over x, backward passes one of their tensors over dy.
fn places(operation: Operation, inputs: &Inputs, setup: &Setup) -> Places {
    let y_over_x = inputs.config.in_place || (operation == Operation::Inference && setup.in_place);
    let y_over_residual = operation == Operation::Inference && setup.over_residual && inputs.residual.is_some();
    let dresidual_over_dy = is_backward(operation) && setup.over_residual;
    Places {
        y: match (y_over_x, y_over_residual) {
            (true, _) => "x",
            (false, true) => "residual",
            (false, false) => "y",
        },
        dx: if setup.in_place && setup.dx { "dy" } else { "dx" },
        dresidual: if dresidual_over_dy || (setup.in_place && !setup.dx) { "dy" } else { "dresidual" },
    }
}

fn is_backward(operation: Operation) -> bool {
    matches!(operation, Operation::BackwardTraining | Operation::BackwardFrozen)
}

fn fill<'a>(operation: Operation, inputs: &'a Inputs, setup: &Setup, layers: &[BatchNorm]) -> Result<Arena<'a>> {
    let mut arena = Arena::new(setup.pooled);
    let (dtype, places) = (inputs.config.dtype, places(operation, inputs, setup));
    let (pieces, channels) = (pieces(inputs, setup, layers)?, inputs.shape.channels() as u64 * 4);
    let given = |arena: &mut Arena<'a>, name: &str, values: &'a [f32], is_written: bool| {
        let mut rest = values;
        for (name, shape) in pieces_of(name).into_iter().zip(&pieces) {
            let (piece, behind) = rest.split_at(shape.elements());
            rest = behind;
            let words = widened(to_words(piece, dtype), shape, view_of(shape, name), dtype);
            match is_written {
                true => arena.in_out(name, words),
                false => arena.input(name, words),
            }
        }
    };
    let written = |arena: &mut Arena<'a>, name: &str| {
        for (name, shape) in pieces_of(name).into_iter().zip(&pieces) {
            arena.output(name, wide_bytes(shape, view_of(shape, name), dtype));
        }
    };

    given(&mut arena, "x", &inputs.x, places.y == "x" && operation != Operation::Statistics);
    if operation != Operation::Statistics && places.y == "y" {
        written(&mut arena, "y");
    }
    if let Some(residual) = &inputs.residual {
        given(&mut arena, "residual", residual, places.y == "residual");
    }
    packed(&mut arena, setup, |arena| {
        for (name, values) in [("gamma", &inputs.gamma), ("beta", &inputs.beta)] {
            values.iter().for_each(|values| arena.input(name, to_words(values, DType::F32)));
        }
    });
    if operation != Operation::Inference {
        arena.output("saved", layers[0].saved_size());
    }
    let updates = matches!(operation, Operation::ForwardTraining | Operation::Statistics);
    let running = bytemuck::pod_collect_to_vec(&inputs.running.to_bytes()?);
    match updates {
        true => arena.in_out("running", running.into()),
        false => arena.input("running", running.into()),
    }
    // Scratch is not checked for sentinels: a kernel may use less than it was promised.
    let scratch = |layer: &BatchNorm| match setup.micro_batch {
        Some(samples) => Ok(layer.micro_batches(samples)?[0].scratch_size()),
        None => Ok(layer.scratch_size()),
    };
    let scratch: Vec<u64> = layers.iter().map(scratch).collect::<Result<_>>()?;
    arena.output("scratch", scratch.into_iter().max().unwrap_or_default());
    if is_backward(operation) {
        given(&mut arena, "dy", &inputs.dy, setup.in_place || setup.over_residual);
        let Before { dx, dresidual, dgamma, dbeta } = &inputs.before;
        let tensors = [
            (setup.dx && places.dx == "dx", "dx", dx),
            (wants_dresidual(inputs, setup) && places.dresidual == "dresidual", "dresidual", dresidual),
        ];
        for (_, name, before) in tensors.into_iter().filter(|(wanted, ..)| *wanted) {
            match before {
                Some(before) => given(&mut arena, name, before, true),
                None => written(&mut arena, name),
            }
        }
        let parameters = [(setup.dgamma, "dgamma", dgamma), (setup.dbeta, "dbeta", dbeta)];
        packed(&mut arena, setup, |arena| {
            for (_, name, before) in parameters.into_iter().filter(|(wanted, ..)| *wanted) {
                match before {
                    Some(before) => arena.in_out(name, to_words(before, DType::F32)),
                    None => arena.output(name, channels),
                }
            }
        });
    }
    Ok(arena)
}

/// Small arrays side by side, where the case has them so.
fn packed<'a>(arena: &mut Arena<'a>, setup: &Setup, add: impl FnOnce(&mut Arena<'a>)) {
    if !setup.packed {
        return add(arena);
    }
    arena.pack();
    add(arena);
    arena.unpack();
}

fn view_of(shape: &Shape, name: &str) -> Option<View> {
    let Views { x, y, residual } = shape.views();
    match name.trim_end_matches(char::is_numeric) {
        "x" | "dx" => x,
        "y" | "dy" => y,
        "residual" | "dresidual" => residual,
        _ => None,
    }
}

fn wants_dresidual(inputs: &Inputs, setup: &Setup) -> bool {
    inputs.residual.is_some() && setup.dresidual
}

/// The bindings of one piece of a call.
struct Bindings<'a> {
    arena: &'a Arena<'a>,
    inputs: &'a Inputs,
    setup: &'a Setup,
    places: Places,
    piece: usize,
}

impl<'a> Bindings<'a> {
    fn get(&self, name: &'static str) -> Result<wgpu::BufferBinding<'a>> {
        self.arena.binding(name)
    }

    fn tensor(&self, name: &'static str) -> Result<wgpu::BufferBinding<'a>> {
        self.arena.binding(pieces_of(name)[self.piece])
    }

    fn if_given(&self, given: bool, name: &'static str) -> Result<Option<wgpu::BufferBinding<'a>>> {
        given.then(|| self.get(name)).transpose()
    }

    fn tensor_if(&self, given: bool, name: &'static str) -> Result<Option<wgpu::BufferBinding<'a>>> {
        given.then(|| self.tensor(name)).transpose()
    }

    fn forward(&self, running: bool) -> Result<ForwardTraining<'a>> {
        let (x, y) = (self.tensor("x")?, self.tensor(self.places.y)?);
        Ok(ForwardTraining::new(x, y, self.get("saved")?, self.get("scratch")?)
            .residual(self.tensor_if(self.inputs.residual.is_some(), "residual")?)
            .gamma(self.if_given(self.inputs.gamma.is_some(), "gamma")?)
            .beta(self.if_given(self.inputs.beta.is_some(), "beta")?)
            .running(self.if_given(running, "running")?))
    }

    fn inference(&self, saved: bool) -> Result<Inference<'a>> {
        Ok(Inference::new(self.tensor("x")?, self.tensor(self.places.y)?, self.get("running")?)
            .residual(self.tensor_if(self.inputs.residual.is_some(), "residual")?)
            .gamma(self.if_given(self.inputs.gamma.is_some(), "gamma")?)
            .beta(self.if_given(self.inputs.beta.is_some(), "beta")?)
            .saved(self.if_given(saved, "saved")?))
    }

    fn backward(&self, saved: &'a Saved) -> Result<Backward<'a>> {
        let Before { dx, dresidual, dgamma, dbeta } = &self.inputs.before;
        let (places, setup) = (&self.places, self.setup);
        let mut bindings = Backward::new(saved, self.tensor("dy")?, self.get("scratch")?);
        let binding = self.tensor_if(setup.dx, places.dx)?;
        bindings = if dx.is_some() { bindings.add_to_dx(binding) } else { bindings.dx(binding) };
        let binding = self.tensor_if(wants_dresidual(self.inputs, setup), places.dresidual)?;
        bindings = if dresidual.is_some() { bindings.add_to_dresidual(binding) } else { bindings.dresidual(binding) };
        let binding = self.if_given(setup.dgamma, "dgamma")?;
        bindings = if dgamma.is_some() { bindings.add_to_dgamma(binding) } else { bindings.dgamma(binding) };
        let binding = self.if_given(setup.dbeta, "dbeta")?;
        Ok(if dbeta.is_some() { bindings.add_to_dbeta(binding) } else { bindings.dbeta(binding) })
    }
}

fn bind(
    kernels: &Kernels,
    arena: &Arena<'_>,
    operation: Operation,
    inputs: &Inputs,
    setup: &Setup,
    layers: &[BatchNorm],
) -> Result<Vec<Step>> {
    let layer = &layers[0];
    let of_piece = |piece| Bindings { arena, inputs, setup, places: places(operation, inputs, setup), piece };
    if let Some(samples) = setup.micro_batch {
        return bind_micro_batches(operation, setup, &layer.micro_batches(samples)?, of_piece);
    }
    let bindings = of_piece(0);
    Ok(match operation {
        Operation::ForwardTraining => vec![layer.forward_training(&bindings.forward(setup.running)?)?],
        Operation::Inference => vec![layer.inference(&bindings.inference(false)?)?],
        Operation::BackwardTraining => {
            let forward = layer.forward_training(&bindings.forward(false)?)?;
            let backward = layer.backward_training(&bindings.backward(forward.saved()?)?)?;
            vec![forward, backward]
        }
        Operation::BackwardFrozen => {
            let choice = before_frozen_backward(&setup.choice);
            let first = BatchNorm::with_choice(kernels, layer.shape().clone(), inputs.config, &choice)?;
            let forward = first.inference(&bindings.inference(true)?)?;
            let backward = layer.backward_frozen(&bindings.backward(forward.saved()?)?)?;
            vec![forward, backward]
        }
        Operation::Statistics => {
            let step = |(piece, layer): (usize, &BatchNorm)| {
                let bindings = of_piece(piece);
                layer.statistics(
                    &Statistics::new(bindings.tensor("x")?, bindings.get("scratch")?)
                        .saved(bindings.get("saved")?)
                        .running(bindings.get("running")?),
                )
            };
            layers.iter().enumerate().map(step).collect::<Result<_>>()?
        }
    })
}

/// A batch in several tensors; only what takes its statistics has it.
fn bind_micro_batches<'a>(
    operation: Operation,
    setup: &Setup,
    micro_batches: &[MicroBatch],
    of_piece: impl Fn(usize) -> Bindings<'a>,
) -> Result<Vec<Step>> {
    let running = setup.running && operation == Operation::ForwardTraining;
    let forward =
        |(piece, micro_batch): (usize, &MicroBatch)| micro_batch.forward_training(&of_piece(piece).forward(running)?);
    let forward: Vec<MicroStep> = micro_batches.iter().enumerate().map(forward).collect::<Result<_>>()?;
    let mut backward: Vec<MicroStep> = Vec::new();
    if operation == Operation::BackwardTraining {
        for (piece, (micro_batch, forward)) in micro_batches.iter().zip(&forward).enumerate() {
            backward.push(micro_batch.backward_training(&of_piece(piece).backward(forward.saved()?)?)?);
        }
    }
    let all = [forward, backward].into_iter().filter(|steps| !steps.is_empty());
    all.map(Step::of_micro_batches).collect()
}

fn results(
    operation: Operation,
    inputs: &Inputs,
    setup: &Setup,
    pieces: &[Shape],
    mut outputs: Outputs,
) -> Result<Results, RunError> {
    let places = places(operation, inputs, setup);
    let running = match outputs.remove("running").filter(|_| setup.running) {
        Some(words) => Some(RunningStatistics::from_bytes(bytemuck::cast_slice(&words))?),
        None => None,
    };
    if let Some(channel) = running.as_ref().and_then(not_nearest) {
        return Err(RunError::Memory(format!(
            "running: the mean of channel {channel} is not the nearest f32 to its pair"
        )));
    }
    let mut take = |name: &'static str, count| -> Result<Option<Vec<f32>>, RunError> {
        let Some(words) = outputs.remove(name) else { return Ok(None) };
        let values = from_words(words, DType::F32, count);
        values.map(Some).map_err(|error| RunError::Memory(format!("{name}: {error}")))
    };
    let channels = inputs.shape.channels();
    // Several batches leave the statistics of the last one.
    let is_one_batch = pieces.len() == 1 || setup.micro_batch.is_some();
    let saved = take("saved", 0)?.filter(|_| is_one_batch);
    let (dgamma, dbeta) = (take("dgamma", channels)?, take("dbeta", channels)?);
    let mut take = |name| take_tensor(&mut outputs, name, inputs.config.dtype, pieces);
    let forward = matches!(operation, Operation::ForwardTraining | Operation::Inference);
    let y = take(places.y)?.filter(|_| forward);
    let (dx, dresidual) = match (setup.dx, wants_dresidual(inputs, setup)) {
        (false, false) => (None, None),
        (true, false) => (take(places.dx)?, None),
        (dx, true) => {
            let dresidual = take(places.dresidual)?;
            (if dx { take(places.dx)? } else { None }, dresidual)
        }
    };
    let planes: Option<Vec<&[f32]>> = saved.as_ref().map(|saved| saved.chunks_exact(channels).collect());
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
        dresidual,
        dgamma,
        dbeta,
    })
}

/// The values of a tensor that was written, piece after piece; `None` where it was not.
fn take_tensor(
    outputs: &mut Outputs,
    name: &str,
    dtype: DType,
    pieces: &[Shape],
) -> Result<Option<Vec<f32>>, RunError> {
    let mut all: Option<Vec<f32>> = None;
    for (name, shape) in pieces_of(name).into_iter().zip(pieces) {
        let Some(words) = outputs.remove(name) else { continue };
        let words = narrowed(words, shape, view_of(shape, name), dtype);
        let values = words.and_then(|words| from_words(words, dtype, shape.elements()));
        all.get_or_insert_default().extend(values.map_err(|error| RunError::Memory(format!("{name}: {error}")))?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_depends_on_every_bit_but_those_of_a_nan() {
        let of = |y: &[f32], dx: &[f32]| {
            Results { y: Some(y.to_vec()), dx: Some(dx.to_vec()), ..Results::default() }.digest()
        };
        let one = of(&[1.0, 2.0], &[3.0]);
        assert_eq!(one, of(&[1.0, 2.0], &[3.0]));
        for other in [of(&[1.0], &[2.0, 3.0]), of(&[2.0, 1.0], &[3.0]), of(&[1.0, 2.0], &[3.0f32.next_up()])] {
            assert_ne!(one, other);
        }
        assert_ne!(of(&[0.0], &[]), of(&[-0.0], &[]));
        assert_eq!(of(&[f32::NAN], &[]), of(&[f32::from_bits(0xffc0_0001)], &[]));
        let running = |tracked| {
            let running = RunningStatistics { tracked, ..RunningStatistics::new(2) };
            Results { running: Some(running), ..Results::default() }.digest()
        };
        assert_ne!(running(vec![0, 1]), running(vec![1, 0]));
    }
}
