//! Tensors of millions of elements that one binding does not hold.

use super::Adapter;
use batchnorm_wgpu::{BatchNorm, Layout, Operation, Shape, wgpu};
use batchnorm_wgpu_check::case::Case;
use batchnorm_wgpu_check::suite::{Expectations, Suite};
use libtest_mimic::Failed;
use std::sync::{Mutex, PoisonError};

/// Both passes of a training step over tensors of 33 MiB, on a device that binds 32: every element, between guard bands. Four
/// times as much, WebGPU's default, takes gigabytes of float64 to judge, and no offset differs in kind.
pub fn holds(adapter: &Adapter) -> Result<(), Failed> {
    // One adapter after the other, to bound memory.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let limits = wgpu::Limits { max_storage_buffer_binding_size: 32 << 20, ..wgpu::Limits::default() };
    let limited = adapter.with_limits(limits)?;
    let shape = Shape::new(&[33, 16, 128, 128], Layout::ChannelsFirst)?;
    for operation in [Operation::ForwardTraining, Operation::BackwardTraining] {
        let case = Case::new(operation, &shape);
        let plan = BatchNorm::new(&limited.kernels, shape.clone(), case.config)?.plan(operation)?;
        if plan.parts != 2 {
            return Err(format!("{operation}: {} parts", plan.parts).into());
        }
        let mut expectations = Expectations::default();
        let outcome = Suite::new(limited.kernels.clone(), limited.queue.clone(), &mut expectations).run(&case);
        if let Some(failure) = outcome.failure {
            return Err(failure.into());
        }
    }
    Ok(())
}
