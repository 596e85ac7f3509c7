//! Whether the results of a plan are right: on a small tensor, against the float64 reference.

use super::tensors::noise;
use crate::choice::Choice;
use crate::config::Config;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::gpu::Kernels;
use crate::host::HostBatchNorm;
use crate::operation::Operation;
use crate::plan::Plan;
use crate::reference::bound::{self, Comparison, Execution};
use crate::reference::{self, Layer};
use crate::shape::{Layout, Shape};
use ndarray::{ArrayD, ArrayViewD};

/// Elements of the largest tensor that is verified: the reference takes milliseconds for it.
const MOST_ELEMENTS: usize = 1 << 16;

/// Runs an operation by `choice`, and holds its results against the reference. A tensor that is too large is cut first; a column
/// then has other splits. Without blocking.
pub(super) async fn verify(
    kernels: &Kernels,
    queue: &wgpu::Queue,
    operation: Operation,
    shape: &Shape,
    choice: &Choice,
) -> Result<()> {
    let shape = cut(shape)?;
    let choice = choice_for(kernels, operation, &shape, choice)?;
    let config = Config::default();
    let layer =
        |choice: Choice| HostBatchNorm::with_kernels(kernels, queue, shape.channels(), shape.layout(), config, choice);
    // What a backward pass is given comes from the plan without a choice.
    let (mut own, mut other) = (layer(choice)?, layer(Choice::default())?);
    let values = noise(2 * shape.elements());
    let (x, dy) = values.split_at(shape.elements());
    let view = |values: &[f32]| -> Result<ArrayD<f32>> {
        let mismatch = |error: ndarray::ShapeError| Error::Mismatch {
            name: "x",
            expected: shape.to_string(),
            actual: error.to_string(),
        };
        Ok(ArrayViewD::from_shape(shape.dims(), values).map_err(mismatch)?.to_owned())
    };
    let (x, dy) = (view(x)?, view(dy)?);
    let wide = |values: &ArrayD<f32>| -> Vec<f64> { values.iter().copied().map(f64::from).collect() };
    let (x64, dy64) = (wide(&x), wide(&dy));
    let (layer, execution) = (Layer::default(), Execution::default());
    let (mean, var) = (vec![0.0; shape.channels()], vec![1.0; shape.channels()]);
    let compared = match operation {
        Operation::ForwardTraining => {
            let got = own.forward_training_async(x.view(), None).await?.y;
            let want = reference::forward_training(&x64, &shape, &layer)?.y;
            bound::compare(slice(&got), &want, &bound::forward_training(&x64, &shape, &layer, &execution)?.y)?
        }
        Operation::Inference => {
            let got = own.inference_async(x.view(), None).await?;
            let want = reference::inference(&x64, &shape, &mean, &var, &layer)?;
            bound::compare(slice(&got), &want, &bound::inference(&x64, &shape, &mean, &var, &layer, &execution)?)?
        }
        Operation::BackwardTraining => {
            let saved = other.forward_training_async(x.view(), None).await?.saved;
            let got = own.backward_training_async(x.view(), dy.view(), None, &saved).await?;
            let want = reference::backward_training(&x64, &dy64, &shape, &layer)?;
            gradients(&got, &want, &bound::backward_training(&x64, &dy64, &shape, &layer, &execution)?)?
        }
        Operation::BackwardFrozen => {
            let got = own.backward_frozen_async(x.view(), dy.view(), None).await?;
            let want = reference::backward_frozen(&x64, &dy64, &shape, &mean, &var, &layer)?;
            gradients(&got, &want, &bound::backward_frozen(&x64, &dy64, &shape, &mean, &var, &layer, &execution)?)?
        }
        Operation::Statistics => {
            let got = own.observe_async(x.view()).await?;
            let (want, tolerance) =
                (reference::statistics(&x64, &shape)?, bound::statistics(&x64, &shape, &execution)?);
            let mean = bound::compare(&got.mean().to_vec(), &want.mean, &tolerance.mean_pair)?;
            mean.followed_by(bound::compare(&got.var().to_vec(), &want.var, &tolerance.var)?)
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

fn gradients(
    got: &crate::host::Gradients<f32, ndarray::IxDyn>,
    want: &reference::Gradients,
    tolerance: &bound::GradientsBound,
) -> Result<Comparison> {
    let dx = bound::compare(slice(&got.dx), &want.dx, &tolerance.dx)?;
    let dgamma = bound::compare(&got.dgamma.to_vec(), &want.dgamma, &tolerance.dgamma)?;
    let dbeta = bound::compare(&got.dbeta.to_vec(), &want.dbeta, &tolerance.dbeta)?;
    Ok(dx.followed_by(dgamma).followed_by(dbeta))
}

/// The choice, as far as the smaller tensor takes it: the same kernels.
fn choice_for(kernels: &Kernels, operation: Operation, shape: &Shape, choice: &Choice) -> Result<Choice> {
    let unsplit = choice.reverse().map(|reverse| Choice::split(None, reverse));
    let open = Choice { approach: unsplit.map_or(choice.approach, |split| split.approach), ..*choice };
    let plan =
        |choice: &Choice| Plan::new(operation, shape, DType::F32, kernels.capabilities(), kernels.tuning(), choice);
    let choices = [*choice, open, Choice { workgroup_size: None, ..open }];
    match choices.into_iter().find(|choice| plan(choice).is_ok()) {
        Some(choice) => Ok(choice),
        None => plan(choice).map(|plan| plan.choice()),
    }
}

/// The shape with fewer samples, and if those are few, with smaller ones: channels and layout stay.
fn cut(shape: &Shape) -> Result<Shape> {
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
    Shape::new(&dims, shape.layout())
}
