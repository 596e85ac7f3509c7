//! Golden cases: `bn check --golden` holds the GPU against those of other implementations, `bn golden` writes those of the
//! library's own reference.

pub mod check;
pub mod write;
