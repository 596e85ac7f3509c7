//! Batch norm on `ndarray`s: a thin shell over the embedding API, and the only part of the crate that waits.

mod adapters;
mod element;
mod fold;
mod layer;
pub mod measure;

pub use crate::capabilities::adapter_key;
pub use crate::gpu::readback::{download, storage, upload};
pub use crate::gpu::scope::guarded;
pub use adapters::{Gpu, adapters};
pub use element::Element;
pub use fold::{Folded, InferenceNorm};
pub use half;
pub use layer::{Forward, Gradients, HostBatchNorm, SavedStatistics};
