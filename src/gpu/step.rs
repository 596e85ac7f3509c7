//! What was bound once and is encoded many times.

use super::Pipeline;
use std::sync::Arc;

/// One dispatch of a step.
#[derive(Debug)]
pub(crate) struct Dispatch {
    pub(crate) name: String,
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) bind_group: wgpu::BindGroup,
    pub(crate) grid: [u32; 2],
}

/// A bound operation: one or two dispatches over the caller's buffers, for tensors in parts so many for each.
///
/// Encoding records the dispatches and does nothing else: no allocation by this crate, no submission, no waiting. The
/// buffers stay alive as long as the step. A step may be encoded any number of times, in any pass of its device. If one of
/// its buffers was destroyed since, wgpu reports that when the commands are submitted: to the error scope around the
/// submission (`host::guarded` makes it an error), or to the device's handler of uncaptured errors.
#[derive(Debug)]
pub struct Step {
    pub(crate) label: String,
    pub(crate) dispatches: Vec<Dispatch>,
}

impl Step {
    /// Records the dispatches into a compute pass of the caller's. Dispatches of a pass run in order where they touch the
    /// same buffer, so a whole training step fits one pass.
    pub fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        for dispatch in &self.dispatches {
            pass.set_pipeline(&dispatch.pipeline.pipeline);
            pass.set_bind_group(0, &dispatch.bind_group, &[]);
            pass.dispatch_workgroups(dispatch.grid[0], dispatch.grid[1], 1);
        }
    }

    /// Records the dispatches into a compute pass of their own.
    pub fn encode_pass(&self, encoder: &mut wgpu::CommandEncoder) {
        let descriptor = wgpu::ComputePassDescriptor { label: Some(&self.label), timestamp_writes: None };
        self.encode(&mut encoder.begin_compute_pass(&descriptor));
    }

    /// Names of the kernels in the order of their dispatches, such as `moments.planes4.tree`.
    pub fn kernels(&self) -> impl ExactSizeIterator<Item = &str> {
        self.dispatches.iter().map(|dispatch| dispatch.name.as_str())
    }
}
