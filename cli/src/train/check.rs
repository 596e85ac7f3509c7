//! Holds one training step of the network with batch norm against float64 on the CPU, stage by stage.

use super::{
    contest::Contest,
    data::{CLASSES, Mnist, PIXELS},
    error::TrainError,
    gpu::TrainDevice,
    kernels::Batch,
    normalization::BatchNormStage,
    parameters::{HIDDEN, LAYERS, SIZES},
    recording::Arrays,
    stages::{self, BoundedValues},
};
use batchnorm_wgpu::{RunningStatistics, reference::bound::Comparison, wgpu};
use std::ops::Range;

/// How one quantity compared, over all layers.
#[derive(Clone, Debug, serde::Serialize)]
pub struct QuantityRow {
    /// What was compared.
    pub quantity: &'static str,
    /// How many values.
    pub values: usize,
    /// The error of the worst value: the one that took the largest share of its bound.
    pub error: f64,
    /// The bound of that value.
    pub bound: f64,
    /// That share; more than 1 fails.
    pub share: f64,
    /// Whether every value kept its bound.
    pub passed: bool,
}

/// How every quantity compared, in the order of their first mention.
#[derive(Default)]
struct Quantities {
    quantities: Vec<(&'static str, Comparison)>,
}

impl Quantities {
    /// Compares `actual` with `expected`, which goes on with what the quantity had before.
    fn compare(
        &mut self,
        quantity: &'static str,
        actual: &[f64],
        expected: &BoundedValues,
    ) -> Result<(), batchnorm_wgpu::Error> {
        let outcome = expected.compare(actual)?;
        match self.quantities.iter_mut().find(|(known, _)| *known == quantity) {
            Some((_, known)) => *known = known.followed_by(outcome),
            None => self.quantities.push((quantity, outcome)),
        }
        Ok(())
    }

    fn rows(&self) -> Vec<QuantityRow> {
        let row = |&(quantity, outcome): &(&'static str, Comparison)| QuantityRow {
            quantity,
            values: outcome.elements,
            error: outcome.worst_error,
            bound: outcome.worst_tolerance,
            share: outcome.worst_ratio,
            passed: outcome.passed(),
        };
        self.quantities.iter().map(row).collect()
    }
}

/// The state of the network on the CPU.
struct State {
    /// The parameters' buffer.
    values: Vec<f64>,
    /// One entry per batch norm layer.
    running: Vec<RunningStatistics>,
}

/// Runs one more training step on the GPU and compares all of its stages. The network is one step further afterwards.
///
/// # Errors
/// [`TrainError`] when the device fails.
pub fn check_step(gpu: TrainDevice<'_>, contest: &Contest<'_>, mnist: &Mnist) -> Result<Vec<QuantityRow>, TrainError> {
    let contestant = &contest.batch_norm;
    let before = read_state(gpu, contest)?;
    // The last batch: a wrong offset into anything would go unseen in the first.
    let Some(&batch) = contestant.training.batches.last() else { return Ok(Vec::new()) };
    gpu.checked("taking the step to be checked", || {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        contestant.training.encode(&mut encoder, batch.slot);
        gpu.queue.submit([encoder.finish()]);
        gpu.wait(None)
    })?;
    let after = read_state(gpu, contest)?;
    let mut step = TakenStep {
        gpu,
        arrays: &contestant.training.arrays,
        contest,
        rows: batch.rows as usize,
        gradients: wide(&gpu.read_as::<f32>(&contestant.network.gradients)?),
        before,
        after,
        judge: Quantities::default(),
    };
    step.check_gather(mnist, batch)?;
    for layer in 0..LAYERS {
        step.check_forward(layer)?;
    }
    step.check_loss(batch)?;
    for layer in (0..LAYERS).rev() {
        step.check_backward(layer)?;
    }
    step.check_descent(batch.rate)?;
    Ok(step.judge.rows())
}

/// Reads parameters and running statistics.
fn read_state(gpu: TrainDevice<'_>, contest: &Contest<'_>) -> Result<State, TrainError> {
    let snapshot = contest.batch_norm.network.snapshot(gpu)?;
    Ok(State { values: wide(&snapshot.values), running: snapshot.running })
}

/// f32 as f64, which is exact.
fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// The step under examination.
struct TakenStep<'s> {
    gpu: TrainDevice<'s>,
    arrays: &'s Arrays,
    contest: &'s Contest<'s>,
    rows: usize,
    before: State,
    after: State,
    gradients: Vec<f64>,
    judge: Quantities,
}

impl TakenStep<'_> {
    /// Reads an array of f32.
    fn read(&self, buffer: &wgpu::Buffer) -> Result<Vec<f64>, TrainError> {
        Ok(wide(&self.gpu.read_as::<f32>(buffer)?))
    }

    /// Parameters before the step.
    fn parameters(&self, range: &Range<usize>) -> &[f64] {
        &self.before.values[range.clone()]
    }

    /// The batch against the data set.
    fn check_gather(&mut self, mnist: &Mnist, batch: Batch) -> Result<(), TrainError> {
        let first = batch.first as usize;
        let images = || self.contest.order[first..first + self.rows].iter().map(|&image| image as usize);
        let pixels = images().flat_map(|image| &mnist.train.pixels[image * PIXELS..][..PIXELS]).copied();
        let expected = stages::scale_pixels(pixels);
        let labels = images().map(|image| f64::from(mnist.train.labels[image])).collect();
        let actual: Vec<u32> = self.gpu.read_as(&self.arrays.labels)?;
        let actual: Vec<f64> = actual.into_iter().map(f64::from).collect();
        self.judge.compare("images x", &self.read(&self.arrays.x)?, &expected)?;
        self.judge.compare("labels", &actual, &BoundedValues::exact(labels))?;
        Ok(())
    }

    /// Layer `layer` on the way to the loss.
    fn check_forward(&mut self, layer: usize) -> Result<(), TrainError> {
        let slices = self.contest.batch_norm.network.parameters.layers[layer].clone();
        let (inner, cols) = (SIZES[layer], SIZES[layer + 1]);
        let x = self.read(self.arrays.input(layer))?;
        let z = self.read(&self.arrays.z[layer])?;
        let bias = slices.scale.is_none().then(|| self.parameters(&slices.shift));
        let expected = stages::linear(&x, self.parameters(&slices.weights), bias, inner, cols);
        self.judge.compare("linear, z = x W", &z, &expected)?;
        if layer < HIDDEN {
            self.check_batch_norm_forward(layer, &z)?;
            let u = self.read(self.arrays.u(layer))?;
            self.judge.compare("sigmoid, a", &self.read(&self.arrays.a[layer])?, &stages::sigmoid(&u))?;
        }
        Ok(())
    }

    /// Batch norm of hidden layer `layer`, whose input is `z`.
    fn batch_norm(&self, layer: usize, z: Vec<f64>) -> Result<BatchNormStage, TrainError> {
        let slices = &self.contest.batch_norm.network.parameters.layers[layer];
        let gamma = slices.scale.as_ref().map(|scale| self.parameters(scale).to_vec());
        BatchNormStage::new(z, [self.rows, SIZES[layer + 1]], gamma)
    }

    /// Output and running statistics of batch norm in hidden layer `layer`.
    fn check_batch_norm_forward(&mut self, layer: usize, z: &[f64]) -> Result<(), TrainError> {
        let slices = self.contest.batch_norm.network.parameters.layers[layer].clone();
        let stage = self.batch_norm(layer, z.to_vec())?;
        let expected = stage.forward(self.parameters(&slices.shift))?;
        self.judge.compare("batch norm, u", &self.read(self.arrays.u(layer))?, &expected)?;
        let (means, variances) = stage.running(&self.before.running[layer])?;
        let after = &self.after.running[layer];
        self.judge.compare("running mean", &wide(&after.mean), &means)?;
        self.judge.compare("running variance", &wide(&after.var), &variances)?;
        Ok(())
    }

    /// Metrics and the gradient that everything starts from.
    fn check_loss(&mut self, batch: Batch) -> Result<(), TrainError> {
        let labels: Vec<u32> = self.gpu.read_as(&self.arrays.labels)?;
        let loss = stages::cross_entropy(&self.read(&self.arrays.z[HIDDEN])?, &labels, CLASSES);
        let metrics: Vec<u32> = self.gpu.read_as(&self.arrays.metrics)?;
        let slot = 2 * batch.slot as usize;
        let (total, correct) = (f64::from(f32::from_bits(metrics[slot])), f64::from(metrics[slot + 1]));
        self.judge.compare("loss", &[total], &loss.total)?;
        let expected = BoundedValues::exact(vec![f64::from(loss.correct)]);
        self.judge.compare("correct rows", &[correct], &expected)?;
        self.judge.compare("softmax, dlogits", &self.read(&self.arrays.dlogits)?, &loss.dlogits)?;
        Ok(())
    }

    /// All gradients that layer `layer` has a part in.
    fn check_backward(&mut self, layer: usize) -> Result<(), TrainError> {
        let slices = self.contest.batch_norm.network.parameters.layers[layer].clone();
        let (inputs, outputs) = (SIZES[layer], SIZES[layer + 1]);
        if layer < HIDDEN {
            self.check_batch_norm_backward(layer)?;
        }
        let dz = self.read(self.arrays.dz(layer))?;
        let x = self.read(self.arrays.input(layer))?;
        let dweights = stages::linear(&stages::transposed(&x, inputs), &dz, None, self.rows, outputs);
        self.judge.compare("linear, dW = x^T dz", &self.gradients[slices.weights.clone()], &dweights)?;
        if slices.scale.is_none() {
            let dbias = stages::linear(&vec![1.0; self.rows], &dz, None, self.rows, outputs);
            self.judge.compare("bias, db", &self.gradients[slices.shift.clone()], &dbias)?;
        }
        if layer > 0 {
            let weights = stages::transposed(self.parameters(&slices.weights), outputs);
            let da = stages::linear(&dz, &weights, None, outputs, inputs);
            let expected = stages::through_sigmoid(&da, &x);
            self.judge.compare("linear, du = dz W^T a'", &self.read(&self.arrays.du[layer - 1])?, &expected)?;
        }
        Ok(())
    }

    /// Gradients of batch norm in hidden layer `layer`.
    fn check_batch_norm_backward(&mut self, layer: usize) -> Result<(), TrainError> {
        let slices = self.contest.batch_norm.network.parameters.layers[layer].clone();
        let z = self.read(&self.arrays.z[layer])?;
        let du = self.read(&self.arrays.du[layer])?;
        let expected = self.batch_norm(layer, z)?.backward(&du)?;
        self.judge.compare("batch norm, dz", &self.read(self.arrays.dz(layer))?, &expected.dx)?;
        self.judge.compare("batch norm, dbeta", &self.gradients[slices.shift], &expected.dbeta)?;
        if let Some(scale) = slices.scale {
            self.judge.compare("batch norm, dgamma", &self.gradients[scale], &expected.dgamma)?;
        }
        Ok(())
    }

    /// The step that all parameters took.
    fn check_descent(&mut self, rate: f32) -> Result<(), TrainError> {
        let expected = stages::descend(&self.before.values, &self.gradients, f64::from(rate));
        self.judge.compare("descent, all parameters", &self.after.values, &expected)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_judge_keeps_the_worst_of_every_quantity() {
        let expected = |bound: f64| BoundedValues { values: vec![1.0, 2.0], bounds: vec![bound, bound] };
        let mut judge = Quantities::default();
        judge.compare("q", &[1.0, 2.25], &expected(0.5)).unwrap();
        judge.compare("q", &[1.125, 2.0], &expected(0.5)).unwrap();
        let row = &judge.rows()[0];
        assert_eq!((row.values, row.error, row.bound, row.share, row.passed), (4, 0.25, 0.5, 0.5, true));
        judge.compare("q", &[1.0, 3.0], &expected(0.5)).unwrap();
        judge.compare("q", &[1.0, 2.0], &expected(0.5)).unwrap();
        let row = &judge.rows()[0];
        assert_eq!((row.values, row.error, row.share, row.passed), (8, 1.0, 2.0, false));
        judge.compare("nan", &[f64::NAN, 2.0], &expected(0.5)).unwrap();
        judge.compare("nan", &[1.0, 2.0], &expected(0.5)).unwrap();
        assert!(!judge.rows()[1].passed);
        assert!(judge.compare("short", &[1.0], &expected(0.5)).is_err());
    }
}
