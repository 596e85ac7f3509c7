#![doc = include_str!("../README.md")]
#![deny(missing_docs, unsafe_code)]

mod batch_norm;
mod capabilities;
#[cfg(feature = "checkpoint")]
pub mod checkpoint;
pub mod config;
mod dtype;
pub mod error;
mod gpu;
#[cfg(feature = "host")]
pub mod host;
pub mod kernels;
mod operation;
pub mod plan;
pub mod reference;
mod running;
pub mod shape;
mod tuning;

pub use batch_norm::{
    Backward, BatchNorm, ForwardTraining, Inference, Saved, Statistics, Step, Training, TrainingSteps, USEFUL_FEATURES,
    required_limits,
};
pub use capabilities::{Capabilities, adapter_key};
pub use config::{Activation, Average, Config, NonFinite, RunningPolicy, Spread, VarianceEstimate, Window};
pub use dtype::DType;
pub use error::{Error, Result};
pub use gpu::{Edit, Kernels, Options, RuntimeChecks};
pub use operation::Operation;
pub use plan::{Choice, Plan};
pub use running::RunningStatistics;
pub use shape::{Layout, Shape};
pub use tuning::{Preference, Tuning, TuningPoint};
pub use wgpu;
