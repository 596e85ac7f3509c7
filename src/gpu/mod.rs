//! Device-side machinery that does not know batch norm: error scopes, pipelines by variant, dispatches.

mod dispatch;
mod pipelines;
#[cfg(feature = "host")]
pub(crate) mod readback;
pub(crate) mod scope;

pub(crate) use dispatch::Dispatch;
pub(crate) use pipelines::Pipeline;
pub use pipelines::{Edit, Kernels, Options, RuntimeChecks};
