//! `bn bench --fused`: `relu(bn(x) + residual)` in one step, beside a plain batch norm and an elementwise kernel.

use super::clock::timing;
use super::epilogue::{Epilogues, Function};
use super::record::{FusedRow, Fusion, parts};
use super::session::Session;
use super::tensors::{TensorSets, Use, job};
use crate::AnyError;
use batchnorm_wgpu::host::guarded;
use batchnorm_wgpu::host::measure::Job;
use batchnorm_wgpu::kernels::{Kernel, Variant, Wanted, kernels_of};
use batchnorm_wgpu::{Activation, BatchNorm, Choice, Config, Operation, Plan, Step, Views, wgpu};
use batchnorm_wgpu_check::compute::BoundKernel;

/// Operations that are timed.
pub const OPERATIONS: [Operation; 3] = [Operation::ForwardTraining, Operation::Inference, Operation::BackwardTraining];

impl Fusion {
    fn residual(self) -> bool {
        self == Self::ReluResidual
    }

    /// What the separate passes compute besides the batch norm: before it in the backward pass, else after it.
    fn epilogue(self, operation: Operation) -> Function {
        match (is_backward(operation), self) {
            (true, _) => Function::Gate,
            (false, Self::Relu) => Function::Relu,
            (false, Self::ReluResidual) => Function::AddRelu,
        }
    }
}

/// Tensors that the kernels of a step read and write, with a residual or without. With one, a kernel behind that which wrote
/// its gradient takes that for dy, and the activation lies before it.
fn moves(operation: Operation, plan: &Plan, config: &Config, residual: bool) -> u32 {
    let of = |kernel: &&'static Kernel| {
        let binds = |name| kernel.bindings.iter().any(|binding| binding.name == name);
        let behind = residual && binds("dx") && !binds("dresidual");
        let activation = if behind { Activation::None } else { config.activation };
        let mut variant = Variant::new(kernel, plan.settings(&Config { activation, ..*config }));
        for (i, binding) in kernel.bindings.iter().enumerate() {
            let absent = !residual && ["residual", "dresidual"].contains(&binding.name);
            variant.absent |= u32::from(absent) << i;
        }
        variant.moves()
    };
    kernels_of(operation, plan.strategy(), Wanted::All).iter().map(of).sum()
}

fn is_backward(operation: Operation) -> bool {
    operation == Operation::BackwardTraining
}

impl Session<'_> {
    /// The fused step and its separate passes, timed in turn on the same tensors.
    pub fn fused_row(
        &mut self,
        tensors: &TensorSets,
        epilogues: &Epilogues,
        (operation, fusion): (Operation, Fusion),
        choice: &Choice,
    ) -> Result<FusedRow, AnyError> {
        let (shape, dtype) = (tensors.shape(), tensors.dtype());
        let Views { y, residual, .. } = shape.views();
        if y.is_some() || residual.is_some() {
            return Err("--fused: separate passes go over whole tensors; leave out views of y and residual".into());
        }
        let config = Config { dtype, activation: Activation::Relu, ..Config::default() };
        let layer = self.layer(shape, &config, choice)?;
        let plan = layer.plan(operation)?;
        let what = (operation, fusion.residual());
        self.verify(what, shape, &config, &plan)?;
        if is_backward(operation) {
            self.run(&self.steps(tensors, &layer, Operation::ForwardTraining, fusion)?)?;
        }
        let fused = self.steps(tensors, &layer, operation, fusion)?;
        let plain_config = Config { activation: Activation::None, ..config };
        let plain = self.layer(shape, &plain_config, choice)?;
        let behind = if is_backward(operation) { Use::BehindGate } else { Use::Plain };
        let steps = tensors.steps(self.gpu, &plain, operation, behind)?;
        let epilogue = epilogues.get(dtype, fusion.epilogue(operation))?;
        let bound = tensors.epilogues(epilogue, fusion.epilogue(operation))?;
        let jobs = [job(&fused), separate(&steps, &bound, operation)];
        let samples = self.watch.measure(&jobs.each_ref(), self.rounds, self.least)?;
        let (dims, layout, views) = parts(shape);
        Ok(FusedRow {
            operation,
            dims,
            layout,
            views,
            dtype,
            fusion,
            fused_microseconds: timing(&samples[0]),
            separate_microseconds: timing(&samples[1]),
            separate_over_fused: samples[0].speed_over(&samples[1]),
            fused_moves: moves(operation, &layer.plan(operation)?, &config, fusion.residual()),
            separate_moves: moves(operation, &plain.plan(operation)?, &plain_config, false)
                + fusion.epilogue(operation).moves(),
        })
    }

    fn steps(
        &self,
        tensors: &TensorSets,
        layer: &BatchNorm,
        operation: Operation,
        fusion: Fusion,
    ) -> Result<Vec<Step>, AnyError> {
        tensors.steps(self.gpu, layer, operation, if fusion.residual() { Use::WithResidual } else { Use::Plain })
    }

    /// Runs steps once, for what the timed ones read.
    fn run(&self, steps: &[Step]) -> Result<(), AnyError> {
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        steps.iter().for_each(|step| step.encode_pass(&mut encoder));
        guarded(&self.gpu.device, "running a forward pass", || self.gpu.queue.submit([encoder.finish()]))?;
        self.gpu.device.poll(wgpu::PollType::wait_indefinitely())?;
        Ok(())
    }
}

/// A plain step and its epilogue, in the order of the operation.
fn separate<'a>(steps: &'a [Step], bound: &'a [BoundKernel], operation: Operation) -> Job<'a> {
    let encode = move |i: usize, pass: &mut wgpu::ComputePass<'_>| {
        let (step, epilogue) = (&steps[i], &bound[i]);
        if is_backward(operation) {
            epilogue.encode(pass);
            step.encode(pass);
        } else {
            step.encode(pass);
            epilogue.encode(pass);
        }
    };
    Job { steps: steps.len().min(bound.len()), encode: Box::new(encode) }
}
