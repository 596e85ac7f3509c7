//! [`HostBatchNorm`]: arrays in, arrays out.

use crate::batch_norm::{BackwardFrozen, BackwardTraining, BatchNorm, ForwardTraining, Inference, Statistics};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::gpu::readback::{Readback, storage, upload};
use crate::gpu::{Kernels, Step, scope::guarded};
use crate::running::RunningStatistics;
use crate::shape::{Layout, Shape};
use ndarray::{Array, Array1, ArrayView, Dimension};

/// A batch norm layer with its parameters and running statistics on the host.
///
/// Every call uploads, runs the same kernels as the embedding API, waits, and reads back: for tests, tools and scripts. A
/// training loop on the GPU binds [`BatchNorm`] instead.
///
/// Methods whose name ends in `_async` do not block. On native backends somebody else must poll the device while they are
/// awaited; in a browser nobody has to.
#[derive(Debug)]
pub struct HostBatchNorm {
    /// Scale, `[C]`; `None` for 1.
    pub gamma: Option<Array1<f32>>,
    /// Shift, `[C]`; `None` for 0.
    pub beta: Option<Array1<f32>>,
    /// Running statistics of C channels.
    pub running: RunningStatistics,
    kernels: Kernels,
    queue: wgpu::Queue,
    layout: Layout,
    config: Config,
}

/// What the training forward returns.
#[derive(Clone, Debug)]
pub struct Forward<D: Dimension> {
    /// The normalized batch, in the shape of x.
    pub y: Array<f32, D>,
    /// The batch's statistics, which the backward pass needs.
    pub saved: SavedStatistics,
}

/// The statistics of a batch as the GPU saved them: `[4][C]` f32.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedStatistics {
    values: Vec<f32>,
}

impl SavedStatistics {
    fn plane(&self, plane: usize) -> &[f32] {
        let channels = self.values.len() / 4;
        &self.values[plane * channels..(plane + 1) * channels]
    }

    /// Mean of each channel. The GPU keeps it as two f32, whose sum needs an f64.
    pub fn mean(&self) -> Array1<f64> {
        self.plane(0).iter().zip(self.plane(1)).map(|(&shift, &rest)| f64::from(shift) + f64::from(rest)).collect()
    }

    /// Biased variance of each channel.
    pub fn var(&self) -> Array1<f32> {
        self.plane(2).iter().copied().collect()
    }

    /// 1 / sqrt(variance + eps) of each channel.
    pub fn inv_std(&self) -> Array1<f32> {
        self.plane(3).iter().copied().collect()
    }
}

/// What the backward passes return.
#[derive(Clone, Debug)]
pub struct Gradients<D: Dimension> {
    /// Gradient by x, in the shape of x.
    pub dx: Array<f32, D>,
    /// Gradient by gamma, `[C]`.
    pub dgamma: Array1<f32>,
    /// Gradient by beta, `[C]`.
    pub dbeta: Array1<f32>,
}

/// A call under way: the copies, to be read in the order in which the buffers were named.
type Pending = Result<Readback>;

impl HostBatchNorm {
    /// A new layer of `channels` channels: gamma 1 and beta 0, running mean 0 and variance 1.
    ///
    /// # Errors
    /// What [`Config::check`] says, and [`Error::ZeroChannels`].
    pub fn new(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        channels: usize,
        layout: Layout,
        config: Config,
    ) -> Result<Self> {
        config.check()?;
        if channels == 0 {
            return Err(Error::ZeroChannels { dims: vec![0], layout });
        }
        Ok(Self {
            gamma: Some(Array1::ones(channels)),
            beta: Some(Array1::zeros(channels)),
            running: RunningStatistics::new(channels),
            kernels: Kernels::new(device),
            queue: queue.clone(),
            layout,
            config,
        })
    }

    /// Normalizes `x` by its own statistics and updates the running statistics.
    ///
    /// # Errors
    /// A wrong number of channels, what [`BatchNorm::forward_training`] refuses, and what the device reports.
    pub fn forward_training<D: Dimension>(&mut self, x: ArrayView<'_, f32, D>) -> Result<Forward<D>> {
        let contents = self.start_forward(&x)?.wait(self.kernels.device())?;
        self.finish_forward(x.raw_dim(), &contents)
    }

    /// As [`HostBatchNorm::forward_training`], without blocking.
    ///
    /// # Errors
    /// As [`HostBatchNorm::forward_training`].
    pub async fn forward_training_async<D: Dimension>(&mut self, x: ArrayView<'_, f32, D>) -> Result<Forward<D>> {
        let contents = self.start_forward(&x)?.finish().await?;
        self.finish_forward(x.raw_dim(), &contents)
    }

    /// Normalizes `x` by the running statistics.
    ///
    /// # Errors
    /// A wrong number of channels, what [`BatchNorm::inference`] refuses, and what the device reports.
    pub fn inference<D: Dimension>(&self, x: ArrayView<'_, f32, D>) -> Result<Array<f32, D>> {
        let contents = self.start_inference(&x)?.wait(self.kernels.device())?;
        array(x.raw_dim(), &contents[0])
    }

    /// As [`HostBatchNorm::inference`], without blocking.
    ///
    /// # Errors
    /// As [`HostBatchNorm::inference`].
    pub async fn inference_async<D: Dimension>(&self, x: ArrayView<'_, f32, D>) -> Result<Array<f32, D>> {
        let contents = self.start_inference(&x)?.finish().await?;
        array(x.raw_dim(), &contents[0])
    }

    /// Gradients of the training forward that returned `saved` for `x`.
    ///
    /// # Errors
    /// Shapes that differ, what [`BatchNorm::backward_training`] refuses, and what the device reports.
    pub fn backward_training<D: Dimension>(
        &self,
        x: ArrayView<'_, f32, D>,
        dy: ArrayView<'_, f32, D>,
        saved: &SavedStatistics,
    ) -> Result<Gradients<D>> {
        let contents = self.start_backward(&x, &dy, Some(saved))?.wait(self.kernels.device())?;
        gradients(x.raw_dim(), &contents)
    }

    /// As [`HostBatchNorm::backward_training`], without blocking.
    ///
    /// # Errors
    /// As [`HostBatchNorm::backward_training`].
    pub async fn backward_training_async<D: Dimension>(
        &self,
        x: ArrayView<'_, f32, D>,
        dy: ArrayView<'_, f32, D>,
        saved: &SavedStatistics,
    ) -> Result<Gradients<D>> {
        let contents = self.start_backward(&x, &dy, Some(saved))?.finish().await?;
        gradients(x.raw_dim(), &contents)
    }

    /// Gradients of inference, the running statistics held fixed.
    ///
    /// # Errors
    /// Shapes that differ, what [`BatchNorm::backward_frozen`] refuses, and what the device reports.
    pub fn backward_frozen<D: Dimension>(
        &self,
        x: ArrayView<'_, f32, D>,
        dy: ArrayView<'_, f32, D>,
    ) -> Result<Gradients<D>> {
        let contents = self.start_backward(&x, &dy, None)?.wait(self.kernels.device())?;
        gradients(x.raw_dim(), &contents)
    }

    /// As [`HostBatchNorm::backward_frozen`], without blocking.
    ///
    /// # Errors
    /// As [`HostBatchNorm::backward_frozen`].
    pub async fn backward_frozen_async<D: Dimension>(
        &self,
        x: ArrayView<'_, f32, D>,
        dy: ArrayView<'_, f32, D>,
    ) -> Result<Gradients<D>> {
        let contents = self.start_backward(&x, &dy, None)?.finish().await?;
        gradients(x.raw_dim(), &contents)
    }

    /// Lets a batch enter the running statistics by the layer's policy without normalizing it, and returns the batch's own.
    /// With [`crate::RunningPolicy::pooled`], calls over a data set leave its population statistics in `running`.
    ///
    /// # Errors
    /// A wrong number of channels, what [`BatchNorm::statistics`] refuses, and what the device reports.
    pub fn observe<D: Dimension>(&mut self, x: ArrayView<'_, f32, D>) -> Result<SavedStatistics> {
        let contents = self.start_observe(&x)?.wait(self.kernels.device())?;
        self.finish_observe(&contents)
    }

    /// As [`HostBatchNorm::observe`], without blocking.
    ///
    /// # Errors
    /// As [`HostBatchNorm::observe`].
    pub async fn observe_async<D: Dimension>(&mut self, x: ArrayView<'_, f32, D>) -> Result<SavedStatistics> {
        let contents = self.start_observe(&x)?.finish().await?;
        self.finish_observe(&contents)
    }

    fn start_forward<D: Dimension>(&self, x: &ArrayView<'_, f32, D>) -> Pending {
        let layer = self.layer(x)?;
        let (x, y) = (self.tensor("x", x)?, self.empty("y", layer.shape().elements() as u64 * 4)?);
        let (gamma, beta) = (self.parameter("gamma", &self.gamma)?, self.parameter("beta", &self.beta)?);
        let (saved, scratch) = (self.empty("saved", layer.saved_size())?, self.empty("scratch", layer.scratch_size())?);
        let running = self.upload_running()?;
        let step = layer.forward_training(&ForwardTraining {
            x: x.as_entire_buffer_binding(),
            y: y.as_entire_buffer_binding(),
            gamma: gamma.as_ref().map(wgpu::Buffer::as_entire_buffer_binding),
            beta: beta.as_ref().map(wgpu::Buffer::as_entire_buffer_binding),
            saved: saved.as_entire_buffer_binding(),
            running: Some(running.as_entire_buffer_binding()),
            scratch: scratch.as_entire_buffer_binding(),
        })?;
        self.submit(&step, &[&y, &saved, &running])
    }

    fn finish_forward<D: Dimension>(&mut self, dim: D, contents: &[Vec<u8>]) -> Result<Forward<D>> {
        let forward = Forward { y: array(dim, &contents[0])?, saved: SavedStatistics { values: floats(&contents[1]) } };
        self.running = RunningStatistics::from_bytes(&contents[2])?;
        Ok(forward)
    }

    fn start_inference<D: Dimension>(&self, x: &ArrayView<'_, f32, D>) -> Pending {
        let layer = self.layer(x)?;
        let x = self.tensor("x", x)?;
        let (gamma, beta) = (self.parameter("gamma", &self.gamma)?, self.parameter("beta", &self.beta)?);
        let running = self.upload_running()?;
        let step = layer.inference(&Inference {
            x: x.as_entire_buffer_binding(),
            y: x.as_entire_buffer_binding(),
            gamma: gamma.as_ref().map(wgpu::Buffer::as_entire_buffer_binding),
            beta: beta.as_ref().map(wgpu::Buffer::as_entire_buffer_binding),
            running: running.as_entire_buffer_binding(),
        })?;
        self.submit(&step, &[&x])
    }

    fn start_backward<D: Dimension>(
        &self,
        x: &ArrayView<'_, f32, D>,
        dy: &ArrayView<'_, f32, D>,
        saved: Option<&SavedStatistics>,
    ) -> Pending {
        let layer = self.layer(x)?;
        if x.shape() != dy.shape() {
            return Err(mismatch("dy", format!("the shape of x, {:?}", x.shape()), format!("{:?}", dy.shape())));
        }
        let (x, dy) = (self.tensor("x", x)?, self.tensor("dy", dy)?);
        if let Some(saved) = saved
            && saved.values.len() as u64 * 4 != layer.saved_size()
        {
            let channels = |values: usize| format!("statistics of {} channels", values / 4);
            let expected = channels(4 * layer.shape().channels());
            return Err(mismatch("saved", expected, channels(saved.values.len())));
        }
        let dx = self.empty("dx", x.size())?;
        let gamma = self.parameter("gamma", &self.gamma)?;
        let channels = layer.shape().channels() as u64 * 4;
        let (dgamma, dbeta) = (self.empty("dgamma", channels)?, self.empty("dbeta", channels)?);
        let scratch = self.empty("scratch", layer.scratch_size())?;
        let statistics = match saved {
            Some(saved) => upload(self.kernels.device(), &self.queue, "saved", bytemuck::cast_slice(&saved.values))?,
            None => self.upload_running()?,
        };
        let whole = wgpu::Buffer::as_entire_buffer_binding;
        let (x, dy, dx_out) = (whole(&x), whole(&dy), Some(whole(&dx)));
        let gamma = gamma.as_ref().map(whole);
        let (dgamma_out, dbeta_out) = (Some(whole(&dgamma)), Some(whole(&dbeta)));
        let (scratch, statistics) = (whole(&scratch), whole(&statistics));
        let step = match saved {
            Some(_) => layer.backward_training(&BackwardTraining {
                x,
                dy,
                dx: dx_out,
                gamma,
                dgamma: dgamma_out,
                dbeta: dbeta_out,
                saved: statistics,
                scratch,
            })?,
            None => layer.backward_frozen(&BackwardFrozen {
                x,
                dy,
                dx: dx_out,
                gamma,
                dgamma: dgamma_out,
                dbeta: dbeta_out,
                running: statistics,
                scratch,
            })?,
        };
        self.submit(&step, &[&dx, &dgamma, &dbeta])
    }

    fn start_observe<D: Dimension>(&self, x: &ArrayView<'_, f32, D>) -> Pending {
        let layer = self.layer(x)?;
        let x = self.tensor("x", x)?;
        let (saved, scratch) = (self.empty("saved", layer.saved_size())?, self.empty("scratch", layer.scratch_size())?);
        let running = self.upload_running()?;
        let step = layer.statistics(&Statistics {
            x: x.as_entire_buffer_binding(),
            saved: Some(saved.as_entire_buffer_binding()),
            running: Some(running.as_entire_buffer_binding()),
            scratch: scratch.as_entire_buffer_binding(),
        })?;
        self.submit(&step, &[&saved, &running])
    }

    fn finish_observe(&mut self, contents: &[Vec<u8>]) -> Result<SavedStatistics> {
        self.running = RunningStatistics::from_bytes(&contents[1])?;
        Ok(SavedStatistics { values: floats(&contents[0]) })
    }

    fn layer<D: Dimension>(&self, x: &ArrayView<'_, f32, D>) -> Result<BatchNorm> {
        let shape = Shape::new(x.shape(), self.layout)?;
        let channels = self.running.channels();
        if shape.channels() != channels {
            return Err(mismatch("x", format!("{channels} channels, {}", self.layout), format!("dimensions {shape}")));
        }
        BatchNorm::new(&self.kernels, shape, self.config)
    }

    fn tensor<D: Dimension>(&self, name: &str, values: &ArrayView<'_, f32, D>) -> Result<wgpu::Buffer> {
        // Copies only where the view is not in standard order already.
        let dense = values.as_standard_layout();
        let values =
            dense.as_slice().ok_or_else(|| mismatch("x", "an array in standard order".into(), "none".into()))?;
        upload(self.kernels.device(), &self.queue, name, bytemuck::cast_slice(values))
    }

    fn parameter(&self, name: &'static str, values: &Option<Array1<f32>>) -> Result<Option<wgpu::Buffer>> {
        let Some(values) = values else { return Ok(None) };
        let channels = self.running.channels();
        if values.len() != channels {
            return Err(mismatch(name, format!("{channels} values, one per channel"), format!("{}", values.len())));
        }
        self.tensor(name, &values.view()).map(Some)
    }

    fn empty(&self, name: &str, size: u64) -> Result<wgpu::Buffer> {
        storage(self.kernels.device(), name, size)
    }

    fn upload_running(&self) -> Result<wgpu::Buffer> {
        upload(self.kernels.device(), &self.queue, "running", &self.running.to_bytes()?)
    }

    fn submit(&self, step: &Step, outputs: &[&wgpu::Buffer]) -> Pending {
        let device = self.kernels.device();
        let encoder = guarded(device, "encoding", || {
            let mut encoder =
                device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(step.operation.name()) });
            step.encode_pass(&mut encoder);
            encoder
        })?;
        Readback::start(device, &self.queue, encoder, outputs)
    }
}

fn mismatch(name: &'static str, expected: String, actual: String) -> Error {
    Error::Mismatch { name, expected, actual }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn array<D: Dimension>(dim: D, bytes: &[u8]) -> Result<Array<f32, D>> {
    Array::from_shape_vec(dim, floats(bytes)).map_err(|error| mismatch("y", "the shape of x".into(), error.to_string()))
}

fn gradients<D: Dimension>(dim: D, contents: &[Vec<u8>]) -> Result<Gradients<D>> {
    Ok(Gradients {
        dx: array(dim, &contents[0])?,
        dgamma: floats(&contents[1]).into(),
        dbeta: floats(&contents[2]).into(),
    })
}
