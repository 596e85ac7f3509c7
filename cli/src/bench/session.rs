//! What all rows of a run share, and how a row is timed.

use super::candidates::{self, Others};
use super::clock::{clock, encoding, timing};
use super::copy::CopyKernel;
use super::record::{BenchRow, Clock, Copy, PlanFigures, parts};
use super::tensors::{TensorSets, Use, job};
use super::verify::verify;
use crate::AnyError;
use batchnorm_wgpu::host::Gpu;
use batchnorm_wgpu::host::measure::{Stopwatch, quantile};
use batchnorm_wgpu::{BatchNorm, Choice, Config, Kernels, Operation, Options, Plan, Shape};
use batchnorm_wgpu_check::suite::Expectations;
use std::time::Duration;

/// What all rows of a run share.
pub struct Session<'a> {
    /// The device.
    pub gpu: &'a Gpu,
    kernels: Kernels,
    copy: &'a CopyKernel,
    /// The clock.
    pub watch: Stopwatch,
    /// Samples of a row.
    pub rounds: usize,
    /// How long a sample lasts.
    pub least: Duration,
    copy_times: Vec<f64>,
    /// What the results of a shape must be, whatever the plan.
    expectations: Expectations,
}

impl<'a> Session<'a> {
    /// A session with kernels as `options` have them; a quick one takes fewer and shorter samples.
    pub fn new(gpu: &'a Gpu, copy: &'a CopyKernel, options: Options, quick: bool) -> Result<Self, AnyError> {
        Ok(Self {
            gpu,
            kernels: Kernels::with_options(&gpu.device, options),
            copy,
            watch: Stopwatch::new(&gpu.device, &gpu.queue, &copy.job())?,
            rounds: if quick { 5 } else { 7 },
            least: Duration::from_millis(if quick { 20 } else { 30 }),
            copy_times: Vec::new(),
            expectations: Expectations::default(),
        })
    }

    /// Forgets what the results must be: another shape or dtype has others.
    pub fn turn_to_another_shape(&mut self) {
        self.expectations = Expectations::default();
    }

    /// Where the times come from.
    pub fn clock(&self) -> Clock {
        clock(&self.watch)
    }

    /// The figures of the copy kernel over all rows so far.
    pub fn copy(&self) -> Copy {
        self.copy.record(quantile(&self.copy_times, 0.5))
    }

    /// Holds the results of an operation, with a residual or without, against the reference.
    pub fn verify(
        &mut self,
        what: (Operation, bool),
        shape: &Shape,
        config: &Config,
        plan: &Plan,
    ) -> Result<(), AnyError> {
        verify(self.gpu, &self.kernels, what, shape, config, plan, &mut self.expectations)
    }

    /// Plans to be timed beside the chosen one.
    pub fn others(&self, tensors: &TensorSets, operation: Operation, choice: &Choice, others: Others) -> Vec<Choice> {
        let (shape, dtype) = (tensors.shape(), tensors.dtype());
        let config = Config { dtype, ..Config::default() };
        let plan =
            |choice: &Choice| self.layer(shape, &config, choice).and_then(|layer| Ok(layer.plan(operation)?)).ok();
        let own = plan(choice).map(|plan| plan.choice());
        let mut all = match others {
            Others::None => Vec::new(),
            Others::Kernels => candidates::variants(operation, shape, dtype, choice.storage, &self.kernels),
            Others::Strategies => {
                candidates::strategies(choice).filter_map(|forced| Some(plan(&forced)?.choice())).collect()
            }
        };
        all.retain(|other| Some(*other) != own);
        all.dedup();
        all
    }

    /// The layer that a choice leads to.
    pub fn layer(&self, shape: &Shape, config: &Config, choice: &Choice) -> Result<BatchNorm, AnyError> {
        Ok(BatchNorm::with_choice(&self.kernels, shape.clone(), *config, choice)?)
    }

    /// An operation with a plan of its own, timed in turn with the copy kernel. Its results are verified first.
    pub fn row(
        &mut self,
        tensors: &TensorSets,
        operation: Operation,
        choice: &Choice,
        chosen: bool,
    ) -> Result<BenchRow, AnyError> {
        let (shape, dtype) = (tensors.shape(), tensors.dtype());
        let config = Config { dtype, ..Config::default() };
        let layer = self.layer(shape, &config, choice)?;
        let steps = tensors.steps(self.gpu, &layer, operation, Use::Plain)?;
        let plan = layer.plan(operation)?;
        self.verify((operation, false), shape, &config, &plan)?;
        let (copy, own) = (self.copy.job(), job(&steps));
        let samples = self.watch.measure(&[&copy, &own], self.rounds, self.least)?;
        self.copy_times.extend(&samples[0].times);
        let microseconds = timing(&samples[1]);
        let bytes = shape.elements() as u64 * dtype.size();
        let moved = u64::from(operation.least_moves()) * bytes;
        let (dims, layout, views) = parts(shape);
        Ok(BenchRow {
            operation,
            dims,
            layout,
            views,
            dtype,
            bytes,
            chosen,
            kernels: steps[0].kernels().map(str::to_owned).collect(),
            plan: PlanFigures::from(&plan),
            microseconds,
            encode_microseconds: encoding(self.gpu, &own),
            gigabytes_per_second: moved as f64 / microseconds.median / 1e3,
            fraction_of_copy: self.copy.fraction(&samples[0], &samples[1], moved),
        })
    }
}
