//! The cross-check of `batchnorm-wgpu`: cases, runs between guard bands, verdicts against the float64 reference, planted
//! faults, golden files. The tests and `bn check` are thin shells over it.

#![deny(missing_docs, unsafe_code)]

mod arena;
pub mod case;
pub mod compute;
pub mod conversion;
pub mod data;
pub mod fault;
pub mod golden;
pub mod judge;
pub mod matrix;
mod memory;
pub mod mutant;
pub mod plan;
pub mod run;
pub mod stored;
pub mod suite;
