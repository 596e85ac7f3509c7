//! Device-side machinery that does not know batch norm: error scopes, pipelines by variant, dispatches.

mod dispatch;
mod pipelines;
mod prepare;
#[cfg(feature = "host")]
pub(crate) mod readback;
pub(crate) mod scope;
#[cfg(feature = "host")]
pub(crate) mod wait;

pub(crate) use dispatch::BoundDispatch;
pub(crate) use pipelines::Pipeline;
pub use pipelines::{Edit, Kernels, Options, RuntimeChecks};

/// What an object on the device is called: first its layer, where that has a label.
pub(crate) fn label_of(layer: Option<&str>, what: &str) -> String {
    layer.map_or_else(|| what.to_owned(), |layer| format!("{layer}: {what}"))
}
