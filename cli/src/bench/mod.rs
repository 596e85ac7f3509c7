//! `bn bench`: the time of every operation beside a copy kernel on the same device in the same run; and `bn tune`.
//!
//! Modules import those above them in this table only:
//!
//! | module | what it holds |
//! |---|---|
//! | `record` | what is written to a file, and read by `bn report` |
//! | `machine` | the day and the machine, for the record |
//! | `clock` | what the tool makes of the library's clock |
//! | `elements` | values as the bytes of a tensor |
//! | `copy`, `epilogue` | the tool's own kernels |
//! | `subjects`, `tensors` | shapes, their tensors, and operations bound to these |
//! | `candidates` | the plans that are compared |
//! | `verify` | results held against the reference |
//! | `session` | what all rows of a run share, and how a row is timed |
//! | `fused` | rows of relu and residual in one step, beside separate passes |
//! | `arguments` | what `bn bench` is asked for |
//! | `table` | the record for people |
//! | `run`, `tune` | the commands |

mod arguments;
mod candidates;
mod clock;
mod copy;
mod elements;
mod epilogue;
mod fused;
pub mod machine;
pub mod record;
mod run;
mod session;
mod subjects;
mod table;
mod tensors;
pub mod tune;
mod verify;

pub use arguments::BenchArgs;
pub use machine::{processor, today};
pub use run::run;

/// Names and texts of the shaders of `bn bench` itself.
pub fn shaders() -> impl Iterator<Item = (String, String)> {
    std::iter::once(("copy".into(), copy::TEXT.into())).chain(epilogue::texts())
}
