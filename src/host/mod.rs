//! Batch norm on `ndarray`s: a thin shell over the embedding API, and the only part of the crate that waits.

mod adapters;
mod layer;

pub use crate::gpu::readback::{download, storage, upload};
pub use crate::gpu::scope::guarded;
pub use adapters::{Gpu, adapter_key, adapters};
pub use layer::{Forward, Gradients, HostBatchNorm, SavedStatistics};
