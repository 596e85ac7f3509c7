//! What compilers of GPUs make of the kernels of `batchnorm-wgpu`, on a machine without a GPU: Mesa's drivers compile for chips
//! that are not there, and tell how many registers a kernel takes, what it spills, and its instructions.
//!
//! | module | what it holds |
//! |---|---|
//! | `subject` | which kernels there are to compile: what automatic plans choose, and all resident kernels |
//! | `family` | GPUs, and the environment in which a driver compiles for one |
//! | `translate` | WGSL in the languages of drivers |
//! | `vulkan` | a driver's compiler; the only part that calls into one |
//! | `assembly` | loops and accesses, read off an AMD GPU's instructions |
//! | `figures` | what a compiler says, in one form for all |
//! | `process` | processes that compile for one GPU each |
//! | `known` | what a report is judged by, and faults that are known |

#![deny(missing_docs, unsafe_code)]

pub mod assembly;
pub mod error;
pub mod family;
pub mod figures;
pub mod known;
pub mod process;
pub mod subject;
pub mod translate;
pub mod vulkan;
