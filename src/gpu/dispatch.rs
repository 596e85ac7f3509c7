//! One dispatch with all that it binds.

use super::Pipeline;
use std::sync::Arc;

/// One dispatch of a step.
#[derive(Debug)]
pub(crate) struct BoundDispatch {
    pub(crate) name: String,
    /// Whether it only leaves partial results.
    pub(crate) reduces: bool,
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) bind_group: wgpu::BindGroup,
    /// Binding 0, which may be written to.
    pub(crate) uniforms: wgpu::Buffer,
    pub(crate) grid: [u32; 2],
}

impl BoundDispatch {
    /// Records it.
    pub(crate) fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], 1);
    }
}
