//! Batch normalization on any GPU that [wgpu] reaches: training forward, inference, backward and running statistics, as WGSL
//! compute kernels. The kernels record into your own encoder, over your own buffers; this crate creates no device, submits
//! nothing and waits for nothing, unless you ask its [`host`] module to. What they compute is held against a
//! [float64 reference](mod@reference) on the CPU, with an [error bound](reference::bound) for every element.
//!
//! # A training step in your own encoder
//!
//! [`BatchNorm`] is the layer, for one shape. Binding its buffers plans and compiles; a bound [`Step`] only records, so that
//! a training loop does nothing else. [`Kernels`] holds compiled pipelines: make one for a device, and all layers share it.
//!
//! ```no_run
//! use batchnorm_wgpu::wgpu::{Buffer, CommandEncoder};
//! use batchnorm_wgpu::{BatchNorm, Config, Kernels, Layout, Result, Shape, Training, TrainingSteps};
//!
//! /// Once. `new_buffer` makes a storage buffer of a given size.
//! fn bind(kernels: &Kernels, [x, y, dy, dx]: [&Buffer; 4], new_buffer: fn(u64) -> Buffer) -> Result<TrainingSteps> {
//!     let shape = Shape::new(&[32, 64, 28, 28], Layout::ChannelsFirst)?;
//!     let layer = BatchNorm::new(kernels, shape, Config::default())?;
//!     let (saved, scratch) = (new_buffer(layer.saved_size()), new_buffer(layer.scratch_size()));
//!     let entire = Buffer::as_entire_buffer_binding;
//!     // gamma is 1 and beta 0 unless you set them, and nothing is tracked.
//!     let bindings = Training::new(entire(x), entire(y), entire(dy), entire(&saved), entire(&scratch));
//!     layer.training(&bindings.dx(entire(dx)))
//! }
//!
//! /// In every step of the loop. Other passes of yours come before, between and after.
//! fn record(steps: &TrainingSteps, encoder: &mut CommandEncoder) {
//!     steps.forward.encode_pass(encoder);
//!     // ... the rest of the network, the loss, and its gradient back to dy ...
//!     steps.backward.encode_pass(encoder);
//! }
//! ```
//!
//! Open your device with [`required_limits`] and, where the adapter has them, [`USEFUL_FEATURES`]. The same layer gives
//! [`inference`](BatchNorm::inference), a [backward pass with frozen statistics](BatchNorm::backward_frozen) and the
//! [statistics of a data set](BatchNorm::statistics).
//!
//! # Arrays in, arrays out
//!
//! With the feature `host` (on by default) [`HostBatchNorm`] runs the same kernels over arrays of `ndarray`. It uploads, waits
//! and reads back, which suits tests, tools and scripts.
//!
#![cfg_attr(feature = "host", doc = "```no_run")]
#![cfg_attr(not(feature = "host"), doc = "```ignore")]
//! use batchnorm_wgpu::host::{Gpu, HostBatchNorm};
//! use batchnorm_wgpu::{Config, Layout};
//! use ndarray::Array4;
//!
//! let gpu = Gpu::open(None)?; // the best adapter that there is
//! let mut layer = HostBatchNorm::new(&gpu.device, &gpu.queue, 3, Layout::ChannelsFirst, Config::default())?;
//! let x = Array4::from_shape_fn((8, 3, 16, 16), |(n, c, h, w)| ((n + 7 * c + 3 * h + w) as f32).sin());
//! let dy = Array4::<f32>::ones(x.raw_dim());
//!
//! let forward = layer.forward_training(x.view(), None)?; // updates layer.running too
//! let gradients = layer.backward_training(x.view(), dy.view(), None, &forward.saved)?;
//! let inferred = layer.inference(x.view(), None)?;
//! println!("dgamma {}, running mean {:?}", gradients.dgamma, layer.running.mean);
//! println!("{inferred}");
//! # Ok::<(), batchnorm_wgpu::Error>(())
//! ```
//!
//! # Is my GPU right?
//!
//! [`reference`](mod@reference) computes the same in float64 on the CPU, and [`reference::bound`] says how far a float32 kernel may be from
//! that, element by element. This works for results of any origin.
//!
//! ```
//! use batchnorm_wgpu::reference::bound::{self, Comparison, Execution};
//! use batchnorm_wgpu::reference::{self, Layer};
//! use batchnorm_wgpu::{Layout, Result, Shape};
//!
//! /// Holds `y`, read back from a GPU, against the reference; `x` is what was uploaded.
//! fn check(y: &[f32], x: &[f32], shape: &Shape) -> Result<Comparison> {
//!     let x: Vec<f64> = x.iter().copied().map(f64::from).collect();
//!     let layer = Layer::default(); // gamma 1, beta 0, eps 1e-5
//!     let want = reference::forward_training(&x, shape, &layer)?;
//!     let tolerance = bound::forward_training(&x, shape, &layer, &Execution::default())?;
//!     bound::compare(y, &want.y, &tolerance.y)
//! }
//!
//! let shape = Shape::new(&[4, 1], Layout::ChannelsFirst)?;
//! let x = [1e6, 1e6 + 1.0, 1e6 + 2.0, 1e6 + 3.0];
//! let right = [-1.341_635_4, -0.447_211_8, 0.447_211_8, 1.341_635_4];
//! assert!(check(&right, &x, &shape)?.passed());
//! let wrong = right.map(|y| y + 1e-5);
//! println!("{}", check(&wrong, &x, &shape)?); // says which element is the worst, and by how much
//! assert!(!check(&wrong, &x, &shape)?.passed());
//! # Ok::<(), batchnorm_wgpu::Error>(())
//! ```
//!
//! # Cargo features
//!
//! - **`host`** (default): the module [`host`]: finds adapters, opens devices, moves `ndarray` arrays up and down, blocking or
//!   async. `default-features = false` leaves it and its
//!   dependencies out; nothing of this crate waits then.
//! - **`checkpoint`**: the module [`checkpoint`]: parameters and running statistics in `.safetensors` files, under PyTorch's
//!   names.
//!
//! The backends (`vulkan`, `metal`, `dx12`, `gles`) are features of wgpu, which the application enables. wgpu is re-exported
//! as [`batchnorm_wgpu::wgpu`](wgpu).
//!
//! # Where to go next
//!
//! - Bind a layer: [`BatchNorm`], and the bindings [`Training`], [`ForwardTraining`], [`Backward`], [`Inference`] and
//!   [`Statistics`].
//! - Hold a whole network: [`required_limits_of`] and [`memory_of`] many layers, [`Kernels::prepare`] to compile ahead,
//!   [`Options::pipeline_cache`], and [`BatchNorm::with_batch`] for another batch size.
//! - Bind channels of a wider tensor: [`Shape::with_views`]; a batch in several tensors: [`BatchNorm::micro_batches`].
//! - Change momentum or eps while training: [`Step::set_momentum`], [`Step::set_eps`].
//! - Configure it: [`Config`] (eps, stored type, activation, work in place), [`Shape`] and [`Layout`], [`DType`].
//! - Match another framework's running statistics: [`RunningPolicy`], which has a table of them, and [`RunningStatistics`].
//! - Choose the kernels yourself, or see which were chosen: [`Choice`], [`Approach`], [`Plan`], [`Tuning`]. With the feature `host`,
//!   `Tuning::measure` finds the fastest where your program runs, and `host::measure::Cache` keeps them.
//! - See what an operation dispatches, as data that other code can run too: [`program::Description`] and its `lower`; the text of
//!   every shader: [`kernels::Variant::shader`].
//! - Deploy a trained network: [`fold`] puts an inference batch norm into the layer before it.
//! - Know what went wrong: [`Error`], which says what was expected, what came and what to do.
//! - Whole programs: `examples/embed.rs`, `examples/network/` and `examples/host.rs`. The tool `bn` of the same repository checks, times and
//!   demonstrates the kernels without a line of Rust.
//!
//! # What is not supported
//!
//! - Only batch norm: no layer, group or instance normalization, and no batch norm synchronized over several devices.
//! - Tensors in buffers are f32, f16 or bf16, of rank 2 or more, densely packed, with the channels second (NCHW and its like) or
//!   last; or some of the channels of such a tensor ([`Views`]). There are no other strides, and no f64. Arithmetic is f32 whatever is stored.
//! - The activation is none, ReLU, leaky ReLU, ReLU6 or SiLU.
//! - There are no gradients of gradients.
//! - A binding holds 2 GiB at most; a larger tensor needs a device that makes buffers so large, and is worked on in parts.
//! - Where f32 overflows nothing is promised; [`reference::bound`] says exactly where that is.
//! - The kernels keep to WebGPU's default limits and need no optional feature, but no test runs them in a browser. They have
//!   been measured and tuned on software adapters only.
//!
#![cfg_attr(feature = "host", doc = "[`HostBatchNorm`]: host::HostBatchNorm")]
#![cfg_attr(
    not(feature = "host"),
    doc = "[`host`]: https://docs.rs/batchnorm-wgpu/latest/batchnorm_wgpu/host/index.html"
)]
#![cfg_attr(
    not(feature = "host"),
    doc = "[`HostBatchNorm`]: https://docs.rs/batchnorm-wgpu/latest/batchnorm_wgpu/host/struct.HostBatchNorm.html"
)]
#![cfg_attr(
    not(feature = "checkpoint"),
    doc = "[`checkpoint`]: https://docs.rs/batchnorm-wgpu/latest/batchnorm_wgpu/checkpoint/index.html"
)]
#![deny(missing_docs, unsafe_code)]

mod batch_norm;
mod capabilities;
#[cfg(feature = "checkpoint")]
pub mod checkpoint;
mod choice;
pub mod config;
#[cfg(feature = "checkpoint")]
mod contents;
mod dtype;
pub mod error;
pub mod fold;
mod gpu;
#[cfg(feature = "host")]
pub mod host;
pub mod kernels;
mod operation;
pub mod plan;
pub mod program;
pub mod reference;
mod running;
pub mod shape;
mod tuning;

pub use batch_norm::{
    Backward, BatchNorm, ForwardTraining, Gradient, Inference, MemoryPlan, MicroBatch, MicroStep, MicroSteps, Saved,
    Statistics, Step, Training, TrainingSteps, USEFUL_FEATURES, memory_of, required_limits, required_limits_of,
};
pub use capabilities::{Capabilities, adapter_key};
pub use choice::{Approach, Choice, Misplaced, Settled};
pub use config::{Activation, Average, Config, NonFinite, RunningPolicy, Spread, VarianceEstimate, Window};
pub use dtype::DType;
pub use error::{Error, Result};
pub use gpu::{Edit, Kernels, Options, RuntimeChecks};
pub use operation::Operation;
pub use plan::Plan;
pub use running::RunningStatistics;
pub use shape::{Layout, Shape, View, Views};
pub use tuning::{Preference, Tuning, TuningPoint};
pub use wgpu;

/// The examples of the README, for doctests only.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
