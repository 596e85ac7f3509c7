//! Burn's batch norm layer on one shape, and what it takes.

use crate::timing::{Clock, Timing};
use burn::nn::{BatchNorm, BatchNormConfig};
use burn::tensor::{Device, Distribution, Tensor};

/// Bytes of tensors that are gone through before one is used again, so that no cache holds it; and the most sets of
/// them. The figures of `bn bench`.
const ROTATION: usize = 256 << 20;
const MOST_SETS: usize = 8;

/// What an operation takes.
pub struct Row {
    pub operation: &'static str,
    pub microseconds: Timing,
}

/// Keeps the results of steps until the device has been handed the work. Burn is lazy: a result that is dropped before
/// that need not be computed at all, and its fusion then leaves the normalization out.
struct Results<T> {
    device: Device,
    kept: Vec<T>,
    most: usize,
}

impl<T> Results<T> {
    fn new(device: &Device, most: usize) -> Self {
        Self { device: device.clone(), kept: Vec::with_capacity(most), most }
    }

    fn keep(&mut self, result: T) {
        if self.kept.len() == self.most {
            // A failure comes back from the wait at the end of the sample.
            let _ = self.device.flush();
            self.kept.clear();
        }
        self.kept.push(result);
    }
}

/// Sets of inputs that are used in turn.
struct Inputs<const D: usize> {
    tensors: Vec<Tensor<D>>,
    next: usize,
}

impl<const D: usize> Inputs<D> {
    fn new(shape: [usize; D], device: &Device, sets: usize) -> Self {
        let tensor = |_| Tensor::random(shape, Distribution::Normal(0.0, 1.0), device);
        Self { tensors: (0..sets).map(tensor).collect(), next: 0 }
    }

    fn require_grad(self) -> Self {
        Self { tensors: self.tensors.into_iter().map(Tensor::require_grad).collect(), ..self }
    }

    fn turn(&mut self) -> Tensor<D> {
        self.next = (self.next + 1) % self.tensors.len();
        self.tensors[self.next].clone()
    }
}

/// Times all operations of a layer on tensors of `shape`.
pub fn time(device: &Device, shape: &[usize], samples: usize) -> Result<Vec<Row>, String> {
    let refused = |_| format!("expected a shape of 2 to 5 dimensions, found {shape:?}");
    match shape.len() {
        2 => time_rank::<2>(device, shape.try_into().map_err(refused)?, samples),
        3 => time_rank::<3>(device, shape.try_into().map_err(refused)?, samples),
        4 => time_rank::<4>(device, shape.try_into().map_err(refused)?, samples),
        _ => time_rank::<5>(device, shape.try_into().map_err(refused)?, samples),
    }
}

fn time_rank<const D: usize>(device: &Device, shape: [usize; D], samples: usize) -> Result<Vec<Row>, String> {
    let bytes = shape.iter().product::<usize>() * size_of::<f32>();
    let sets = (ROTATION / (3 * bytes)).clamp(2, MOST_SETS);
    let clock = Clock { device, samples };
    let [forward, backward] = training(&clock, shape, sets)?;
    let inference = inference(&clock, shape, sets)?;
    let row = |operation, microseconds| Row { operation, microseconds };
    Ok(vec![row("forward_training", forward), row("backward_training", backward), row("inference", inference)])
}

/// Forward, and backward as what a step takes beyond it.
///
/// The gradient of y is Burn's own, all ones. A loss would bring kernels of its own, which are not the layer's.
fn training<const D: usize>(clock: &Clock<'_>, shape: [usize; D], sets: usize) -> Result<[Timing; 2], String> {
    // Burn normalizes by the batch's own statistics where the input lies on a device with autodiff.
    let autodiff = clock.device.clone().autodiff();
    let layer: BatchNorm = BatchNormConfig::new(shape[1]).init(&autodiff);
    let (gamma, beta) = (layer.gamma.val(), layer.beta.val());
    let mut inputs = Inputs::new(shape, &autodiff, sets).require_grad();
    let mut more_inputs = Inputs::new(shape, &autodiff, sets).require_grad();
    let (mut outputs, mut gradients) = (Results::new(clock.device, sets), Results::new(clock.device, sets));
    clock.beyond(
        || outputs.keep(layer.forward(inputs.turn())),
        || {
            let x = more_inputs.turn();
            let y = layer.forward(x.clone());
            let found = y.backward();
            gradients.keep((y, x.grad(&found), gamma.grad(&found), beta.grad(&found)));
        },
    )
}

fn inference<const D: usize>(clock: &Clock<'_>, shape: [usize; D], sets: usize) -> Result<Timing, String> {
    let layer: BatchNorm = BatchNormConfig::new(shape[1]).init(clock.device);
    let mut inputs = Inputs::new(shape, clock.device, sets);
    let mut outputs = Results::new(clock.device, sets);
    clock.alone(|| outputs.keep(layer.forward(inputs.turn())))
}
