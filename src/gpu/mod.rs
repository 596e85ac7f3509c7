//! Device-side machinery that does not know batch norm: error scopes, pipelines by variant, steps of dispatches.

mod pipelines;
#[cfg(feature = "host")]
pub(crate) mod readback;
pub(crate) mod scope;
mod step;

pub(crate) use pipelines::Pipeline;
pub use pipelines::{Edit, Kernels, Options, RuntimeChecks};
pub(crate) use step::Dispatch;
pub use step::Step;
