//! Tensors that one binding of WebGPU's default limits does not hold, once for real.

use super::Adapter;
use batchnorm_wgpu::{BatchNorm, Layout, Operation, Shape};
use batchnorm_wgpu_check::case::Case;
use batchnorm_wgpu_check::suite::{Expectations, Suite};
use libtest_mimic::Failed;
use std::sync::{Mutex, PoisonError};

/// Both passes of a training step over tensors of 132 MiB, on a device that binds 128: every element, between guard bands.
pub fn holds(adapter: &Adapter) -> Result<(), Failed> {
    // Its float64 takes most of a gigabyte: one adapter after the other.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let limited = adapter.with_default_limits()?;
    let shape = Shape::new(&[33, 16, 256, 256], Layout::ChannelsFirst)?;
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
