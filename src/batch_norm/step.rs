//! What was bound once and is encoded many times.

use super::Saved;
use super::micro::MicroBinding;
use super::saved::nothing_saved;
#[cfg(doc)]
use super::{Backward, Inference};
use crate::config::{Average, Config, RunningPolicy};
use crate::error::{Error, Result, of_layer};
use crate::gpu::BoundDispatch;
use crate::gpu::scope::guarded;
use crate::operation::Operation;
use crate::plan::Params;
use std::sync::Arc;

/// A bound operation: one or two dispatches over the caller's buffers, for tensors in parts so many for each.
///
/// Encoding records the dispatches and does nothing else: no allocation by this crate, no submission, no waiting. The
/// buffers stay alive as long as the step. A step may be encoded any number of times, in any pass of its device. If one of
/// its buffers was destroyed since, wgpu reports that when the commands are submitted: to the error scope around the
/// submission (`host::guarded` makes it an error), or to the device's handler of uncaptured errors.
#[derive(Debug)]
pub struct Step {
    pub(crate) operation: Operation,
    pub(crate) config: Config,
    /// Whether it updates running statistics.
    pub(crate) tracks: bool,
    /// Whether eps has a part in what it leaves.
    pub(crate) takes_eps: bool,
    /// The label of the layer.
    pub(crate) layer: Option<Arc<str>>,
    pub(crate) label: String,
    pub(crate) device: wgpu::Device,
    pub(crate) dispatches: Vec<BoundDispatch>,
    pub(crate) saved: Option<Box<Saved>>,
    /// Of a micro-batch, which one, and what it is bound to.
    pub(super) micro_batch: Option<Box<MicroBinding>>,
}

impl Step {
    /// Records the dispatches into a compute pass of the caller's. Dispatches of a pass run in order where they touch the
    /// same buffer, so a whole training step fits one pass.
    pub fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.dispatches.iter().for_each(|dispatch| dispatch.encode(pass));
    }

    /// Records what leaves partial results in scratch, nothing where the step takes a single dispatch. A backward pass writes the
    /// residual's gradient here too, and a frozen one dx. With [`Step::encode_apply`] afterwards it is [`Step::encode`], as long as
    /// nothing that the step is bound to is written in between.
    pub fn encode_reduce(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.dispatches.iter().filter(|dispatch| dispatch.reduces).for_each(|dispatch| dispatch.encode(pass));
    }

    /// Records the rest: what merges partial results, and writes what the step is for.
    pub fn encode_apply(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.dispatches.iter().filter(|dispatch| !dispatch.reduces).for_each(|dispatch| dispatch.encode(pass));
    }

    /// Records the dispatches into a compute pass of their own.
    pub fn encode_pass(&self, encoder: &mut wgpu::CommandEncoder) {
        let descriptor = wgpu::ComputePassDescriptor { label: Some(&self.label), timestamp_writes: None };
        self.encode(&mut encoder.begin_compute_pass(&descriptor));
    }

    /// What the step leaves for its backward pass: [`Backward::saved`].
    ///
    /// # Errors
    /// [`Error::Mismatch`](crate::Error::Mismatch) for a step that is no forward pass, or inference without
    /// [`Inference::saved`].
    pub fn saved(&self) -> Result<&Saved> {
        self.named(self.saved.as_deref().ok_or_else(|| nothing_saved(self.operation)))
    }

    /// Changes the momentum, the weight of the new batch in the running statistics, without binding anew: for schedules, and
    /// for freezing the running statistics with 0.
    ///
    /// It is written to the step's own buffers by `queue.write_buffer`, and so holds for all that is submitted to `queue`
    /// afterwards, also for what was encoded before. Of several calls between two submissions the last one counts. The layer
    /// keeps its own momentum, which other steps of it are bound with. `queue` is that of the step's device.
    ///
    /// ```no_run
    /// # use batchnorm_wgpu::{Result, TrainingSteps, wgpu};
    /// # fn train(steps: &TrainingSteps, device: &wgpu::Device, queue: &wgpu::Queue) -> Result<()> {
    /// for step in 0..1000 {
    ///     steps.forward.set_momentum(queue, 0.1 * 0.99_f64.powi(step))?;
    ///     let mut encoder = device.create_command_encoder(&Default::default());
    ///     steps.forward.encode_pass(&mut encoder);
    ///     steps.backward.encode_pass(&mut encoder);
    ///     queue.submit([encoder.finish()]);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Momentum`] outside [0, 1] or NaN; [`Error::Mismatch`] for a step that updates no running statistics, or by
    /// another policy than [`RunningPolicy::exponential`]; what the device reports. Nothing is changed then.
    pub fn set_momentum(&self, queue: &wgpu::Queue, momentum: f64) -> Result<()> {
        let Self { operation, config: Config { running, .. }, tracks, .. } = self;
        let written = match (tracks, running.average) {
            (true, Average::Exponential { .. }) => {
                let policy = RunningPolicy { average: Average::Exponential { momentum }, ..*running };
                policy.check().and_then(|()| self.write(queue, Params::MOMENTUM, momentum))
            }
            (true, Average::Cumulative) => Err(no_momentum(format!("{operation} with RunningPolicy::cumulative"))),
            (true, Average::Pooled) => Err(no_momentum(format!("{operation} with RunningPolicy::pooled"))),
            (false, _) if operation.tracks() => Err(no_momentum(format!("{operation} without running statistics"))),
            (false, _) => Err(no_momentum(operation.name().into())),
        };
        self.named(written)
    }

    /// Changes eps without binding anew, from when on and for which steps as [`Step::set_momentum`] says. A backward pass takes
    /// 1 / sqrt(variance + eps) from what its forward pass saved: setting eps there, before the forward pass runs, is enough.
    ///
    /// # Errors
    /// [`Error::Eps`] for what [`Config::check`] refuses; [`Error::Mismatch`] for a backward pass, and for statistics that save
    /// nothing; what the device reports. Nothing is changed then.
    pub fn set_eps(&self, queue: &wgpu::Queue, eps: f64) -> Result<()> {
        let written = match self.takes_eps {
            true => Config { eps, ..self.config }.check().and_then(|()| self.write(queue, Params::EPS, eps)),
            false => Err(Error::Mismatch {
                name: "eps",
                expected:
                    "a step that computes 1 / sqrt(variance + eps): a forward pass, whose backward pass takes it from \
                           there, or statistics with `saved`"
                        .into(),
                actual: self.operation.name().into(),
            }),
        };
        self.named(written)
    }

    /// Writes a parameter of every dispatch.
    fn write(&self, queue: &wgpu::Queue, offset: u64, value: f64) -> Result<()> {
        let value = (value as f32).to_le_bytes();
        guarded(&self.device, "writing a parameter", || {
            self.dispatches.iter().for_each(|dispatch| queue.write_buffer(&dispatch.uniforms, offset, &value));
        })
    }

    /// An outcome whose error says which layer it is of.
    fn named<T>(&self, outcome: Result<T>) -> Result<T> {
        of_layer(outcome, self.layer.as_ref())
    }

    /// Names of the kernels in the order of their dispatches, such as `moments.planes4.tree`.
    pub fn kernels(&self) -> impl ExactSizeIterator<Item = &str> {
        self.dispatches.iter().map(|dispatch| dispatch.name.as_str())
    }
}

fn no_momentum(actual: String) -> Error {
    Error::Mismatch {
        name: "momentum",
        expected: "a step that updates running statistics by RunningPolicy::exponential".into(),
        actual,
    }
}
