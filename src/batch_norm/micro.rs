//! One batch in several tensors: each is reduced by itself, then their statistics are merged and applied to each.

use super::{Backward, BatchNorm, ForwardTraining, Named, Saved, Step, Training, TrainingSteps};
use crate::error::{Error, Result, of_layer};
use crate::kernels::Extent;
use crate::operation::Operation;
use crate::plan::Plan;
use crate::program::{Description, Program, writes};
use crate::shape::Shape;
use std::ops::Range;
use wgpu::BufferBinding;

/// A layer over some of the samples of a batch, with tensors of its own and the statistics of all. From
/// [`BatchNorm::micro_batches`].
#[derive(Debug)]
pub struct MicroBatch {
    layer: BatchNorm,
}

/// What a micro-batch has of a step: [`Step::of_micro_batches`] makes one of those of all of them.
#[derive(Debug)]
pub struct MicroStep {
    step: Step,
}

/// What a micro-batch has of both passes of a training step: [`TrainingSteps::of_micro_batches`] makes one of those of all of them.
#[derive(Debug)]
pub struct MicroSteps {
    /// Of the forward pass.
    pub forward: MicroStep,
    /// Of the backward pass.
    pub backward: MicroStep,
}

/// Which micro-batch a step is of, and what it is bound to.
#[derive(Debug)]
pub(super) struct MicroBinding {
    shape: Shape,
    plan: Plan,
    /// Which one, from 0.
    number: u32,
    regions: Vec<BoundRegion>,
}

/// Where a binding lies.
#[derive(Debug)]
struct BoundRegion {
    name: &'static str,
    /// Whether each micro-batch has one of its own.
    is_tensor: bool,
    is_written: bool,
    adds: bool,
    buffer: wgpu::Buffer,
    bytes: Range<u64>,
}

impl BatchNorm {
    /// The layer over the batch in micro-batches of `samples` samples, the last of which may have fewer. Mean, variance and
    /// gradients are those of the whole batch, within the same error bound, as if its tensors were one: each micro-batch is bound
    /// with tensors of its own; `saved`, `scratch`, gamma, beta, their gradients and the running statistics are the same for all;
    /// then [`Step::of_micro_batches`] makes one step of them. (Where each micro-batch should have statistics of its own, bind
    /// [`BatchNorm::with_batch`] for each, and add up the gradients.)
    ///
    /// # Errors
    /// [`Error::Mismatch`] unless there are at least two; [`Error::Limit`] for a micro-batch that one binding does not hold;
    /// [`Error::KernelUnavailable`] where [`Strategy::Split`](crate::kernels::Strategy) cannot run.
    ///
    /// ```no_run
    /// # use batchnorm_wgpu::{BatchNorm, Result, Training, TrainingSteps, wgpu};
    /// # fn bind(layer: &BatchNorm, tensors: &[[wgpu::BufferBinding; 4]], saved: wgpu::BufferBinding, scratch: wgpu::BufferBinding)
    /// # -> Result<TrainingSteps> {
    /// let micro_batches = layer.micro_batches(16)?;
    /// let steps = micro_batches.iter().zip(tensors).map(|(micro_batch, [x, y, dy, dx])| {
    ///     let training = Training::new(x.clone(), y.clone(), dy.clone(), saved.clone(), scratch.clone()).dx(dx.clone());
    ///     micro_batch.training(&training)
    /// });
    /// let steps = TrainingSteps::of_micro_batches(steps.collect::<Result<Vec<_>>>()?)?;
    /// # Ok(steps) }
    /// ```
    pub fn micro_batches(&self, samples: usize) -> Result<Vec<MicroBatch>> {
        let descriptions = self.named(self.description.micro_batches(samples))?;
        let of = |description| MicroBatch {
            layer: Self { kernels: self.kernels.clone(), description, label: self.label.clone() },
        };
        Ok(descriptions.into_iter().map(of).collect())
    }
}

impl MicroBatch {
    /// Bytes of a tensor of this micro-batch.
    pub fn tensor_size(&self) -> u64 {
        self.layer.tensor_size()
    }

    /// Bytes that a binding of this micro-batch has at least: [`BatchNorm::binding_size`].
    pub fn binding_size(&self, name: &str) -> Option<u64> {
        self.layer.binding_size(name)
    }

    /// Bytes of the scratch that all micro-batches share. It differs from that of the layer.
    pub fn scratch_size(&self) -> u64 {
        self.layer.scratch_size()
    }

    /// What an operation of this micro-batch dispatches: [`BatchNorm::program`].
    ///
    /// # Errors
    /// As [`BatchNorm::program`].
    pub fn program(&self, operation: Operation, bindings: &[&'static str]) -> Result<Program> {
        self.layer.program(operation, bindings)
    }

    /// [`BatchNorm::forward_training`] of this micro-batch.
    ///
    /// # Errors
    /// As [`BatchNorm::forward_training`].
    pub fn forward_training(&self, bindings: &ForwardTraining<'_>) -> Result<MicroStep> {
        self.layer.forward_training(bindings).map(|step| MicroStep { step })
    }

    /// [`BatchNorm::backward_training`] of this micro-batch, after its own forward pass ([`MicroStep::saved`]).
    ///
    /// # Errors
    /// As [`BatchNorm::backward_training`].
    pub fn backward_training(&self, bindings: &Backward<'_>) -> Result<MicroStep> {
        self.layer.backward_training(bindings).map(|step| MicroStep { step })
    }

    /// [`BatchNorm::training`] of this micro-batch.
    ///
    /// # Errors
    /// As [`BatchNorm::training`].
    pub fn training(&self, bindings: &Training<'_>) -> Result<MicroSteps> {
        let TrainingSteps { forward, backward } = self.layer.training(bindings)?;
        Ok(MicroSteps { forward: MicroStep { step: forward }, backward: MicroStep { step: backward } })
    }
}

impl MicroStep {
    /// What the forward pass of the micro-batch leaves for its backward pass.
    ///
    /// # Errors
    /// As [`Step::saved`].
    pub fn saved(&self) -> Result<&Saved> {
        self.step.saved()
    }
}

impl TrainingSteps {
    /// The training step of a batch, of what its micro-batches have of it, in their order.
    ///
    /// # Errors
    /// As [`Step::of_micro_batches`].
    pub fn of_micro_batches(steps: impl IntoIterator<Item = MicroSteps>) -> Result<Self> {
        let (forward, backward): (Vec<_>, Vec<_>) = steps.into_iter().map(|step| (step.forward, step.backward)).unzip();
        Ok(Self { forward: Step::of_micro_batches(forward)?, backward: Step::of_micro_batches(backward)? })
    }
}

impl Step {
    /// The step of a batch, of what its micro-batches have of it, in their order. It reduces one after the other, and then applies
    /// the merged statistics to each.
    ///
    /// # Errors
    /// [`Error::Mismatch`] unless they are all micro-batches of one batch, in order, of one operation, bound to the same `saved`,
    /// `scratch`, running statistics, parameters and their gradients; [`Error::Overlap`] where one writes what another has.
    pub fn of_micro_batches(steps: impl IntoIterator<Item = MicroStep>) -> Result<Self> {
        let mut steps: Vec<Self> = steps.into_iter().map(|MicroStep { step }| step).collect();
        let label = steps.first().and_then(|step| step.layer.clone());
        of_layer(check(&steps), label.as_ref())?;
        let dispatches: Vec<_> = steps.iter_mut().flat_map(|step| step.dispatches.drain(..)).collect();
        let (reducing, applying): (Vec<_>, Vec<_>) = dispatches.into_iter().partition(|dispatch| dispatch.reduces);
        let first = steps.into_iter().next().ok_or_else(|| mismatch("at least one".into(), "none".into()))?;
        Ok(Self { dispatches: reducing.into_iter().chain(applying).collect(), saved: None, micro_batch: None, ..first })
    }
}

impl MicroBinding {
    /// What a micro-batch's step is bound to; `None` for a layer that is none.
    pub(super) fn of(
        description: &Description,
        operation: Operation,
        plan: &Plan,
        bindings: &[Named<'_>],
    ) -> Option<Self> {
        let number = description.micro_batch_number()?;
        let extents = description.bindings(operation);
        let region = |named: &Named<'_>| {
            let (_, extent) = extents.iter().find(|(name, _)| *name == named.name)?;
            let BufferBinding { buffer, offset, .. } = named.binding;
            Some(BoundRegion {
                name: named.name,
                is_tensor: *extent == Extent::Elements,
                is_written: writes(operation, named.name),
                adds: named.adds,
                buffer: buffer.clone(),
                bytes: offset..offset.saturating_add(description.size_of_binding(named.name, *extent)),
            })
        };
        let regions = bindings.iter().filter_map(region).collect();
        Some(Self { shape: description.shape().clone(), plan: plan.clone(), number, regions })
    }
}

fn mismatch(expected: String, actual: String) -> Error {
    Error::Mismatch { name: "micro-batches", expected, actual }
}

/// Refuses steps that are not those of the micro-batches of one batch.
fn check(steps: &[Step]) -> Result<()> {
    let bindings: Vec<&MicroBinding> = steps.iter().filter_map(|step| step.micro_batch.as_deref()).collect();
    let Some(first) = bindings.first() else { return Err(mismatch("at least one".into(), "none".into())) };
    let (expected, actual) =
        ((0..first.plan.parts).collect::<Vec<_>>(), bindings.iter().map(|it| it.number).collect::<Vec<_>>());
    if expected != actual {
        return Err(mismatch(format!("numbers {expected:?} of the batch, in order"), format!("{actual:?}")));
    }
    for (step, binding) in steps.iter().zip(&bindings) {
        let described =
            |step: &Step, binding: &MicroBinding| format!("{} of {}, {:?}", step.operation, binding.shape, step.config);
        let (expected, actual) = (described(&steps[0], first), described(step, binding));
        if expected != actual {
            return Err(mismatch(format!("all to be {expected}"), actual));
        }
        // Partial results lie where the plan has them.
        if binding.plan != first.plan {
            return Err(mismatch("one plan for all".into(), format!("another one for number {}", binding.number)));
        }
        check_shared(first, binding)?;
    }
    for (i, one) in bindings.iter().enumerate() {
        bindings[i + 1..].iter().try_for_each(|other| check_apart(one, other))?;
    }
    Ok(())
}

/// Refuses what is not the same in every micro-batch and has to be.
fn check_shared(first: &MicroBinding, other: &MicroBinding) -> Result<()> {
    type Shared<'a> = (&'static str, &'a wgpu::Buffer, u64, bool);
    fn shared(binding: &MicroBinding) -> impl Iterator<Item = Shared<'_>> {
        binding.regions.iter().filter(|it| !it.is_tensor).map(|it| (it.name, &it.buffer, it.bytes.start, it.adds))
    }
    let differs = |(name, ..): &Shared<'_>, of: &MicroBinding| {
        let find = |binding| shared(binding).find(|(other, ..)| other == name);
        find(first) != find(of)
    };
    let mut all = shared(first).chain(shared(other));
    match all.find(|one| differs(one, other)) {
        Some((name, ..)) => Err(Error::Mismatch {
            name,
            expected: "one binding for all micro-batches, written or added to by all".into(),
            actual: format!("another one, or none, in number {}", other.number),
        }),
        None => Ok(()),
    }
}

/// Refuses tensors of two micro-batches of which one is written where the other lies.
fn check_apart(one: &MicroBinding, other: &MicroBinding) -> Result<()> {
    for first in one.regions.iter().filter(|it| it.is_tensor) {
        for second in other.regions.iter().filter(|it| it.is_tensor) {
            let overlap = first.buffer == second.buffer
                && first.bytes.start < second.bytes.end
                && second.bytes.start < first.bytes.end;
            if overlap && (first.is_written || second.is_written) {
                let hint = "they are tensors of two micro-batches: give each its own bytes";
                return Err(Error::Overlap { first: first.name, second: second.name, hint });
            }
        }
    }
    Ok(())
}
