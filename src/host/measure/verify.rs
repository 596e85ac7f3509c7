//! Whether the results of a plan are right: on a small tensor, against the float64 reference.

use super::tensors::noise;
use crate::choice::Choice;
use crate::config::Config;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::gpu::Kernels;
use crate::host::{Gradients, HostBatchNorm, SavedStatistics};
use crate::operation::Operation;
use crate::plan::Plan;
use crate::reference::bound::{self, Comparison, Execution};
use crate::reference::{self, Layer};
use crate::shape::{Layout, Shape};
use ndarray::{Array1, ArrayD, ArrayViewD, IxDyn};

/// Elements of the largest tensor that is verified: the reference takes milliseconds for it.
const MOST_ELEMENTS: usize = 1 << 16;

/// What a layer is given: every channel has other parameters and statistics, so that none can be taken for another.
struct KnownLayer {
    shape: Shape,
    x: Vec<f64>,
    dy: Vec<f64>,
    gamma: Vec<f64>,
    beta: Vec<f64>,
    mean: Vec<f64>,
    var: Vec<f64>,
}

impl KnownLayer {
    fn new(shape: Shape) -> Self {
        let channels = shape.channels();
        let all = noise(2 * shape.elements() + 4 * channels);
        let mut all = all.into_iter().map(f64::from);
        let mut take = |count: usize| all.by_ref().take(count).collect::<Vec<f64>>();
        let (x, dy) = (take(shape.elements()), take(shape.elements()));
        let [gamma, beta, mean, var] = [(); 4].map(|()| take(channels));
        // As f32 hold it.
        let positive = var.into_iter().map(|value| f64::from((value.abs() + 0.5) as f32)).collect();
        Self { shape, x, dy, gamma, beta, mean, var: positive }
    }

    fn of_reference(&self) -> Layer<'_> {
        Layer { gamma: Some(&self.gamma), beta: Some(&self.beta), ..Layer::default() }
    }

    fn layer(&self, kernels: &Kernels, queue: &wgpu::Queue, choice: Choice) -> Result<HostBatchNorm> {
        let (channels, layout) = (self.shape.channels(), self.shape.layout());
        let mut layer = HostBatchNorm::with_kernels(kernels, queue, channels, layout, Config::default(), choice)?;
        (layer.running.mean, layer.running.var) = (narrow(&self.mean), narrow(&self.var));
        layer.gamma = Some(Array1::from(narrow(&self.gamma)));
        layer.beta = Some(Array1::from(narrow(&self.beta)));
        Ok(layer)
    }

    fn tensor(&self, values: &[f64]) -> Result<ArrayD<f32>> {
        let values = narrow(values);
        let unfit =
            |error: ndarray::ShapeError| Error::Device { during: "verifying a plan", reason: error.to_string() };
        Ok(ArrayViewD::from_shape(self.shape.dims(), &values).map_err(unfit)?.to_owned())
    }

    /// What a right forward pass saves.
    fn saved(&self) -> Result<SavedStatistics> {
        let reference::Statistics { mean, var, .. } = reference::statistics(&self.x, &self.shape)?;
        let shift = narrow(&mean);
        let remainder = mean.iter().zip(&shift).map(|(mean, shift)| (mean - f64::from(*shift)) as f32).collect();
        let eps = self.of_reference().eps;
        let inv_std = var.iter().map(|var| (1.0 / (var + eps).sqrt()) as f32).collect();
        let planes = [shift, remainder, narrow(&var), inv_std, narrow(&self.gamma), narrow(&self.beta)];
        Ok(SavedStatistics { values: planes.concat() })
    }
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}

/// Runs an operation by `choice`, and holds its results against the reference; without blocking. A large tensor is cut first; a
/// column then has other splits.
pub(super) async fn verify(
    kernels: &Kernels,
    queue: &wgpu::Queue,
    operation: Operation,
    shape: &Shape,
    choice: &Choice,
) -> Result<()> {
    let (shape, choice) = same_kernels(kernels, operation, shape, choice)?;
    let inputs = KnownLayer::new(shape);
    let KnownLayer { shape, mean, var, .. } = &inputs;
    let mut own = inputs.layer(kernels, queue, choice)?;
    let (x, dy) = (inputs.tensor(&inputs.x)?, inputs.tensor(&inputs.dy)?);
    let (x64, dy64, layer, execution) = (&inputs.x, &inputs.dy, &inputs.of_reference(), &Execution::default());
    let compared = match operation {
        Operation::ForwardTraining => {
            let got = own.forward_training_async(x.view(), None).await?;
            let want = reference::forward_training(x64, shape, layer)?;
            let tolerance = bound::forward_training(x64, shape, layer, execution)?;
            let y = bound::compare(slice(&got.y), &want.y, &tolerance.y)?;
            y.followed_by(statistics(&got.saved, &want.statistics, &tolerance.statistics)?)
        }
        Operation::Inference => {
            let got = own.inference_async(x.view(), None).await?;
            let want = reference::inference(x64, shape, mean, var, layer)?;
            bound::compare(slice(&got), &want, &bound::inference(x64, shape, mean, var, layer, execution)?)?
        }
        Operation::BackwardTraining => {
            let got = own.backward_training_async(x.view(), dy.view(), None, &inputs.saved()?).await?;
            let want = reference::backward_training(x64, dy64, shape, layer)?;
            gradients(&got, &want, &bound::backward_training(x64, dy64, shape, layer, execution)?)?
        }
        Operation::BackwardFrozen => {
            let got = own.backward_frozen_async(x.view(), dy.view(), None).await?;
            let want = reference::backward_frozen(x64, dy64, shape, mean, var, layer)?;
            gradients(&got, &want, &bound::backward_frozen(x64, dy64, shape, mean, var, layer, execution)?)?
        }
        Operation::Statistics => {
            let got = own.observe_async(x.view()).await?;
            statistics(&got, &reference::statistics(x64, shape)?, &bound::statistics(x64, shape, execution)?)?
        }
    };
    match compared.passed() {
        true => Ok(()),
        false => Err(Error::WrongResult {
            what: format!("{operation} {shape} by {choice:?}"),
            comparison: compared.to_string(),
        }),
    }
}

fn slice(values: &ArrayD<f32>) -> &[f32] {
    values.as_slice().unwrap_or_default()
}

fn statistics(
    got: &SavedStatistics,
    want: &reference::Statistics,
    tolerance: &bound::StatisticsBound,
) -> Result<Comparison> {
    let mean = bound::compare(&got.mean().to_vec(), &want.mean, &tolerance.mean_pair)?;
    Ok(mean.followed_by(bound::compare(&got.var().to_vec(), &want.var, &tolerance.var)?))
}

fn gradients(
    got: &Gradients<f32, IxDyn>,
    want: &reference::Gradients,
    tolerance: &bound::GradientsBound,
) -> Result<Comparison> {
    let dx = bound::compare(slice(&got.dx), &want.dx, &tolerance.dx)?;
    let dgamma = bound::compare(&got.dgamma.to_vec(), &want.dgamma, &tolerance.dgamma)?;
    let dbeta = bound::compare(&got.dbeta.to_vec(), &want.dbeta, &tolerance.dbeta)?;
    Ok(dx.followed_by(dgamma).followed_by(dbeta))
}

/// A smaller shape, and the choice as far as that takes it, which run the same kernels; the shape itself where no smaller one does.
fn same_kernels(kernels: &Kernels, operation: Operation, shape: &Shape, choice: &Choice) -> Result<(Shape, Choice)> {
    let unsplit = choice.reverse().map(|reverse| Choice::split(None, reverse));
    let open = Choice { approach: unsplit.map_or(choice.approach, |split| split.approach), ..*choice };
    let choices = [*choice, open, Choice { workgroup_size: None, ..open }];
    let runs = |shape: &Shape, choice: &Choice| {
        Plan::new(operation, shape, DType::F32, kernels.capabilities(), kernels.tuning(), choice).is_ok()
    };
    let small = smaller(shape, MOST_ELEMENTS)?;
    Ok(match choices.into_iter().find(|choice| runs(&small, choice)) {
        Some(choice) => (small, choice),
        None => (shape.clone(), *choice),
    })
}

/// The shape with fewer samples, and if those are few, with smaller ones, down to about `most` elements: channels, layout and views
/// stay. What can be taken four elements at a time still can.
///
/// # Errors
/// As [`Shape::new`].
pub fn smaller(shape: &Shape, most: usize) -> Result<Shape> {
    let mut dims = shape.dims().to_vec();
    let per_sample = shape.elements() / dims[0];
    // Samples of channels last are folded four at a time.
    let wanted = (most / per_sample).max(2);
    dims[0] = dims[0].min(if wanted > 4 { wanted / 4 * 4 } else { wanted.next_power_of_two() });
    let channels = if shape.layout() == Layout::ChannelsFirst { 1 } else { dims.len() - 1 };
    while dims.iter().product::<usize>() > most {
        let spatial = (1..dims.len()).filter(|&i| i != channels);
        // Halves of multiples of eight stay multiples of four.
        match spatial.filter(|&i| dims[i] > 8 && dims[i].is_multiple_of(8)).max_by_key(|&i| dims[i]) {
            Some(largest) => dims[largest] /= 2,
            None => break,
        }
    }
    Shape::new(&dims, shape.layout())?.with_views(shape.views())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Geometry;

    /// A geometry that fits a shape has to fit the smaller one, or it could not be verified there.
    #[test]
    fn smaller_shapes_are_taken_as_large_ones_are() {
        let first: [&[usize]; 9] = [
            &[8, 256, 14, 14],
            &[64, 1024, 14, 14],
            &[32, 256, 56, 56],
            &[32, 512, 28, 28],
            &[64, 64, 112, 112],
            &[32, 512, 7, 7],
            &[4, 128, 1024, 1024],
            &[140_000, 256],
            &[3, 5, 10, 20, 30],
        ];
        let last: [&[usize]; 5] = [&[100_000, 3], &[65_536, 10], &[30_000, 5], &[64, 56, 56, 65], &[2, 1024, 1024, 3]];
        let all = first.map(|dims| (dims, Layout::ChannelsFirst)).into_iter();
        for (dims, layout) in all.chain(last.map(|dims| (dims, Layout::ChannelsLast))) {
            let shape = Shape::new(dims, layout).unwrap();
            let small = smaller(&shape, MOST_ELEMENTS).unwrap();
            assert_eq!(small.channels(), shape.channels());
            for geometry in Geometry::ALL {
                let (before, after) = (geometry.fold(&shape), geometry.fold(&small));
                assert!(before.is_none() || after.is_some(), "{shape} became {small}: not {geometry} any more");
            }
            assert!(small.elements() <= 16 * MOST_ELEMENTS, "{shape} became {small}");
        }
    }
}
