//! [`HostBatchNorm`]: arrays in, arrays out.

use super::element::Element;
use crate::batch_norm::{Backward, BatchNorm, ForwardTraining, Inference, Statistics, Step};
use crate::choice::Choice;
use crate::config::Config;
use crate::error::{Error, Result, of_layer};
use crate::gpu::readback::{Readback, storage, upload};
use crate::gpu::{Kernels, label_of, scope::guarded};
use crate::host::fold::{Folded, InferenceNorm};
use crate::kernels::{PARAMETER_PLANES, STATISTIC_PLANES};
use crate::operation::Operation;
use crate::running::RunningStatistics;
use crate::shape::{Layout, Shape};
use ndarray::{Array, Array1, ArrayView, ArrayView1, Axis, Dimension, RemoveAxis};
use std::sync::Arc;

/// A batch norm layer with its parameters and running statistics on the host.
///
/// Every call uploads, runs the same kernels as the embedding API, waits, and reads back: for tests, tools and scripts. A
/// training loop on the GPU binds [`BatchNorm`] instead.
///
/// Tensors are arrays of `f32`, `half::f16` or `half::bf16`; [`Config::dtype`] and [`Config::in_place`] do not matter here. A
/// residual, and all else that has a tensor's shape, has the type of x. Where an activation follows, a backward pass needs
/// the residual whenever the forward pass had one; without it the gradients are wrong.
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
    choice: Choice,
    label: Option<Arc<str>>,
}

/// What the training forward returns.
#[derive(Clone, Debug)]
pub struct Forward<T, D: Dimension> {
    /// The output, in the shape of x.
    pub y: Array<T, D>,
    /// The batch's statistics, which the backward pass needs.
    pub saved: SavedStatistics,
}

/// What a forward pass saved for the backward pass, [`ForwardTraining::saved`]: `[6][C]` f32.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedStatistics {
    pub(in crate::host) values: Vec<f32>,
}

/// Planes of [`SavedStatistics`].
const PLANES: usize = STATISTIC_PLANES.len() + PARAMETER_PLANES.len();

impl SavedStatistics {
    fn plane(&self, plane: usize) -> &[f32] {
        let channels = self.values.len() / PLANES;
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
pub struct Gradients<T, D: Dimension> {
    /// Gradient by x, in the shape of x.
    pub dx: Array<T, D>,
    /// Gradient by the residual, in the shape of x; `None` where there was none.
    pub dresidual: Option<Array<T, D>>,
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
    /// What [`Config::check`] says; [`Error::ZeroChannels`]; [`Error::Limit`] where no buffer of the device holds the running
    /// statistics.
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
        // Before the host allocates as much.
        let (needed, allowed) = (RunningStatistics::size(channels), device.limits().max_buffer_size);
        if needed > allowed {
            return Err(Error::Limit {
                what: "running",
                limit: "the device's max_buffer_size",
                unit: "bytes",
                needed,
                allowed,
                hint: "check the number of channels, or make several layers, since channels do not depend on each other",
            });
        }
        Self::with_kernels(&Kernels::new(device), queue, channels, layout, config, Choice::default())
    }

    /// The same over kernels that are there already, with some of the choices of its plans forced.
    pub(crate) fn with_kernels(
        kernels: &Kernels,
        queue: &wgpu::Queue,
        channels: usize,
        layout: Layout,
        config: Config,
        choice: Choice,
    ) -> Result<Self> {
        Ok(Self {
            gamma: Some(Array1::ones(channels)),
            beta: Some(Array1::zeros(channels)),
            running: RunningStatistics::new(channels),
            kernels: kernels.clone(),
            queue: queue.clone(),
            layout,
            config,
            choice,
            label: None,
        })
    }

    /// Gives the layer a name, such as `layer3.bn1`. Its errors begin with it ([`Error::InLayer`]), and so do the labels of
    /// what it makes on the device, which debuggers and profilers show.
    #[must_use]
    pub fn with_label(self, label: impl Into<Arc<str>>) -> Self {
        Self { label: Some(label.into()), ..self }
    }

    /// The name of the layer, where it has one.
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// An outcome whose error says which layer it is of.
    pub(crate) fn named<T>(&self, outcome: Result<T>) -> Result<T> {
        of_layer(outcome, self.label.as_ref())
    }

    /// Waits for a call under way.
    fn wait(&self, call: Pending) -> Result<Vec<Vec<u8>>> {
        self.named(call.and_then(|copies| copies.wait(self.kernels.device())))
    }

    /// As [`HostBatchNorm::wait`], without blocking.
    async fn finish(&self, call: Pending) -> Result<Vec<Vec<u8>>> {
        let contents = match call {
            Ok(copies) => copies.finish().await,
            Err(error) => Err(error),
        };
        self.named(contents)
    }

    /// Normalizes `x` by its own statistics and updates the running statistics.
    ///
    /// # Errors
    /// A wrong number of channels, what [`BatchNorm::forward_training`] refuses, and what the device reports.
    pub fn forward_training<T: Element, D: Dimension>(
        &mut self,
        x: ArrayView<'_, T, D>,
        residual: Option<ArrayView<'_, T, D>>,
    ) -> Result<Forward<T, D>> {
        let contents = self.wait(self.start_forward(&x, residual.as_ref()))?;
        self.finish_forward(x.raw_dim(), &contents)
    }

    /// As [`HostBatchNorm::forward_training`], without blocking.
    ///
    /// # Errors
    /// As [`HostBatchNorm::forward_training`].
    pub async fn forward_training_async<T: Element, D: Dimension>(
        &mut self,
        x: ArrayView<'_, T, D>,
        residual: Option<ArrayView<'_, T, D>>,
    ) -> Result<Forward<T, D>> {
        let contents = self.finish(self.start_forward(&x, residual.as_ref())).await?;
        self.finish_forward(x.raw_dim(), &contents)
    }

    /// Normalizes `x` by the running statistics.
    ///
    /// # Errors
    /// A wrong number of channels, what [`BatchNorm::inference`] refuses, and what the device reports.
    pub fn inference<T: Element, D: Dimension>(
        &self,
        x: ArrayView<'_, T, D>,
        residual: Option<ArrayView<'_, T, D>>,
    ) -> Result<Array<T, D>> {
        let contents = self.wait(self.start_inference(&x, residual.as_ref()))?;
        array(x.raw_dim(), &contents[0])
    }

    /// As [`HostBatchNorm::inference`], without blocking.
    ///
    /// # Errors
    /// As [`HostBatchNorm::inference`].
    pub async fn inference_async<T: Element, D: Dimension>(
        &self,
        x: ArrayView<'_, T, D>,
        residual: Option<ArrayView<'_, T, D>>,
    ) -> Result<Array<T, D>> {
        let contents = self.finish(self.start_inference(&x, residual.as_ref())).await?;
        array(x.raw_dim(), &contents[0])
    }

    /// Gradients of the training forward that returned `saved` for `x`.
    ///
    /// # Errors
    /// Shapes that differ, what [`BatchNorm::backward_training`] refuses, and what the device reports.
    pub fn backward_training<T: Element, D: Dimension>(
        &self,
        x: ArrayView<'_, T, D>,
        dy: ArrayView<'_, T, D>,
        residual: Option<ArrayView<'_, T, D>>,
        saved: &SavedStatistics,
    ) -> Result<Gradients<T, D>> {
        let contents = self.wait(self.start_backward(&x, &dy, residual.as_ref(), Some(saved)))?;
        gradients(x.raw_dim(), &contents, residual.is_some())
    }

    /// As [`HostBatchNorm::backward_training`], without blocking.
    ///
    /// # Errors
    /// As [`HostBatchNorm::backward_training`].
    pub async fn backward_training_async<T: Element, D: Dimension>(
        &self,
        x: ArrayView<'_, T, D>,
        dy: ArrayView<'_, T, D>,
        residual: Option<ArrayView<'_, T, D>>,
        saved: &SavedStatistics,
    ) -> Result<Gradients<T, D>> {
        let contents = self.finish(self.start_backward(&x, &dy, residual.as_ref(), Some(saved))).await?;
        gradients(x.raw_dim(), &contents, residual.is_some())
    }

    /// Gradients of inference, the running statistics held fixed.
    ///
    /// # Errors
    /// Shapes that differ, what [`BatchNorm::backward_frozen`] refuses, and what the device reports.
    pub fn backward_frozen<T: Element, D: Dimension>(
        &self,
        x: ArrayView<'_, T, D>,
        dy: ArrayView<'_, T, D>,
        residual: Option<ArrayView<'_, T, D>>,
    ) -> Result<Gradients<T, D>> {
        let contents = self.wait(self.start_backward(&x, &dy, residual.as_ref(), None))?;
        gradients(x.raw_dim(), &contents, residual.is_some())
    }

    /// As [`HostBatchNorm::backward_frozen`], without blocking.
    ///
    /// # Errors
    /// As [`HostBatchNorm::backward_frozen`].
    pub async fn backward_frozen_async<T: Element, D: Dimension>(
        &self,
        x: ArrayView<'_, T, D>,
        dy: ArrayView<'_, T, D>,
        residual: Option<ArrayView<'_, T, D>>,
    ) -> Result<Gradients<T, D>> {
        let contents = self.finish(self.start_backward(&x, &dy, residual.as_ref(), None)).await?;
        gradients(x.raw_dim(), &contents, residual.is_some())
    }

    /// Lets a batch enter the running statistics by the layer's policy without normalizing it, and returns the batch's own.
    /// With [`crate::RunningPolicy::pooled`], calls over a data set leave its population statistics in `running`.
    ///
    /// # Errors
    /// A wrong number of channels, what [`BatchNorm::statistics`] refuses, and what the device reports.
    pub fn observe<T: Element, D: Dimension>(&mut self, x: ArrayView<'_, T, D>) -> Result<SavedStatistics> {
        let contents = self.wait(self.start_observe(&x))?;
        self.finish_observe(&contents)
    }

    /// As [`HostBatchNorm::observe`], without blocking.
    ///
    /// # Errors
    /// As [`HostBatchNorm::observe`].
    pub async fn observe_async<T: Element, D: Dimension>(&mut self, x: ArrayView<'_, T, D>) -> Result<SavedStatistics> {
        let contents = self.finish(self.start_observe(&x)).await?;
        self.finish_observe(&contents)
    }

    /// Folds inference by the running statistics into the linear or convolution layer before this one. `weight` and `bias` are
    /// that layer's, `output` is the axis of `weight` that counts the output channels; what comes back replaces both, and
    /// this layer is left out. [`crate::fold::InferenceNorm::fold_into`] has the formula, the axes of common layers and what
    /// folding does to accuracy.
    ///
    /// Only the normalization is folded: an [`Activation`](crate::Activation) of the configuration stays an operation of its
    /// own, as does a residual. Nothing runs on the GPU.
    ///
    /// # Errors
    /// As [`InferenceNorm::fold_into`].
    pub fn fold_into<D: RemoveAxis>(
        &self,
        weight: ArrayView<'_, f32, D>,
        output: Axis,
        bias: Option<ArrayView1<'_, f32>>,
    ) -> Result<Folded<D>> {
        let gamma = self.gamma.as_ref().map(|gamma| gamma.view());
        let beta = self.beta.as_ref().map(|beta| beta.view());
        let norm = InferenceNorm { gamma, beta, running: &self.running, eps: self.config.eps };
        self.named(norm.fold_into(weight, output, bias))
    }

    fn start_forward<T: Element, D: Dimension>(
        &self,
        x: &ArrayView<'_, T, D>,
        residual: Option<&ArrayView<'_, T, D>>,
    ) -> Pending {
        let layer = self.layer(x)?;
        let residual = self.like("residual", x, residual)?;
        let (x, y) = (self.tensor("x", x)?, self.empty("y", layer.tensor_size())?);
        let (gamma, beta) = (self.parameter("gamma", &self.gamma)?, self.parameter("beta", &self.beta)?);
        let (saved, scratch) = (self.empty("saved", layer.saved_size())?, self.empty("scratch", layer.scratch_size())?);
        let running = self.upload_running()?;
        let step = layer.forward_training(
            &ForwardTraining::new(entire(&x), entire(&y), entire(&saved), entire(&scratch))
                .residual(residual.as_ref().map(entire))
                .gamma(gamma.as_ref().map(entire))
                .beta(beta.as_ref().map(entire))
                .running(entire(&running)),
        )?;
        self.submit(&step, &[&y, &saved, &running])
    }

    fn finish_forward<T: Element, D: Dimension>(&mut self, dim: D, contents: &[Vec<u8>]) -> Result<Forward<T, D>> {
        let forward =
            Forward { y: array(dim, &contents[0])?, saved: SavedStatistics { values: elements(&contents[1]) } };
        self.running = RunningStatistics::from_bytes(&contents[2])?;
        Ok(forward)
    }

    fn start_inference<T: Element, D: Dimension>(
        &self,
        x: &ArrayView<'_, T, D>,
        residual: Option<&ArrayView<'_, T, D>>,
    ) -> Pending {
        let layer = self.layer(x)?;
        let residual = self.like("residual", x, residual)?;
        let x = self.tensor("x", x)?;
        let (gamma, beta) = (self.parameter("gamma", &self.gamma)?, self.parameter("beta", &self.beta)?);
        let running = self.upload_running()?;
        let step = layer.inference(
            &Inference::new(entire(&x), entire(&x), entire(&running))
                .residual(residual.as_ref().map(entire))
                .gamma(gamma.as_ref().map(entire))
                .beta(beta.as_ref().map(entire)),
        )?;
        self.submit(&step, &[&x])
    }

    fn start_backward<T: Element, D: Dimension>(
        &self,
        x: &ArrayView<'_, T, D>,
        dy: &ArrayView<'_, T, D>,
        residual: Option<&ArrayView<'_, T, D>>,
        saved: Option<&SavedStatistics>,
    ) -> Pending {
        let layer = self.layer(x)?;
        let forward = if saved.is_none() { Operation::Inference } else { Operation::ForwardTraining };
        let saved = saved.cloned().map_or_else(|| self.saved_of_running(), Ok)?;
        if saved.values.len() as u64 * 4 != layer.saved_size() {
            let channels = |values: usize| format!("statistics of {} channels", values / PLANES);
            let expected = channels(PLANES * layer.shape().channels());
            return Err(mismatch("saved", expected, channels(saved.values.len())));
        }
        let (dy, residual) = (self.like("dy", x, Some(dy))?, self.like("residual", x, residual)?);
        let x = self.tensor("x", x)?;
        let dx = self.empty("dx", layer.tensor_size())?;
        let dresidual = residual.as_ref().map(|_| self.empty("dresidual", layer.tensor_size())).transpose()?;
        let channels = layer.shape().channels() as u64 * 4;
        let (dgamma, dbeta) = (self.empty("dgamma", channels)?, self.empty("dbeta", channels)?);
        let scratch = self.empty("scratch", layer.scratch_size())?;
        let saved = self.upload("saved", bytemuck::cast_slice(&saved.values))?;
        let saved = layer.saved_from(forward, entire(&x), residual.as_ref().map(entire), entire(&saved))?;
        let bindings = Backward::new(
            &saved,
            entire(dy.as_ref().ok_or_else(|| mismatch("dy", "an array".into(), "none".into()))?),
            entire(&scratch),
        )
        .dx(entire(&dx))
        .dresidual(dresidual.as_ref().map(entire))
        .dgamma(entire(&dgamma))
        .dbeta(entire(&dbeta));
        let step = match forward {
            Operation::Inference => layer.backward_frozen(&bindings)?,
            _ => layer.backward_training(&bindings)?,
        };
        let outputs: Vec<_> = [&dx, &dgamma, &dbeta].into_iter().chain(&dresidual).collect();
        self.submit(&step, &outputs)
    }

    /// What inference saves.
    fn saved_of_running(&self) -> Result<SavedStatistics> {
        let channels = self.running.channels();
        // As the kernels: a variance that is not finite gives NaN.
        let of = |var: f32| (1.0 / (f64::from(var) + self.config.eps).sqrt()) as f32;
        let inv_std = |&var: &f32| if var.is_finite() { of(var) } else { f32::NAN };
        let parameter = |name, values: &Option<Array1<f32>>, absent| match values {
            Some(values) if values.len() != channels => Err(wrong_length(name, channels, values.len())),
            Some(values) => Ok(values.to_vec()),
            None => Ok(vec![absent; channels]),
        };
        let planes = [
            self.running.mean.clone(),
            self.running.mean_remainder.clone(),
            self.running.var.clone(),
            self.running.var.iter().map(inv_std).collect(),
            parameter("gamma", &self.gamma, 1.0)?,
            parameter("beta", &self.beta, 0.0)?,
        ];
        Ok(SavedStatistics { values: planes.concat() })
    }

    fn start_observe<T: Element, D: Dimension>(&self, x: &ArrayView<'_, T, D>) -> Pending {
        let layer = self.layer(x)?;
        let x = self.tensor("x", x)?;
        let (saved, scratch) = (self.empty("saved", layer.saved_size())?, self.empty("scratch", layer.scratch_size())?);
        let running = self.upload_running()?;
        let step = layer.statistics(
            &Statistics::new(entire(&x), entire(&scratch)).saved(entire(&saved)).running(entire(&running)),
        )?;
        self.submit(&step, &[&saved, &running])
    }

    fn finish_observe(&mut self, contents: &[Vec<u8>]) -> Result<SavedStatistics> {
        self.running = RunningStatistics::from_bytes(&contents[1])?;
        Ok(SavedStatistics { values: elements(&contents[0]) })
    }

    fn layer<T: Element, D: Dimension>(&self, x: &ArrayView<'_, T, D>) -> Result<BatchNorm> {
        let shape = Shape::new(x.shape(), self.layout)?;
        let channels = self.running.channels();
        if shape.channels() != channels {
            return Err(mismatch("x", format!("{channels} channels, {}", self.layout), format!("dimensions {shape}")));
        }
        let config = Config { dtype: T::DTYPE, in_place: false, ..self.config };
        let layer = BatchNorm::with_choice(&self.kernels, shape, config, &self.choice)?;
        Ok(match &self.label {
            Some(label) => layer.with_label(label.clone()),
            None => layer,
        })
    }

    fn tensor<T: Element, D: Dimension>(&self, name: &str, values: &ArrayView<'_, T, D>) -> Result<wgpu::Buffer> {
        // Copies only where the view is not in standard order already.
        let dense = values.as_standard_layout();
        let values =
            dense.as_slice().ok_or_else(|| mismatch("x", "an array in standard order".into(), "none".into()))?;
        self.upload(name, bytemuck::cast_slice(values))
    }

    /// A tensor that has the shape of `x`, where there is one.
    fn like<T: Element, D: Dimension>(
        &self,
        name: &'static str,
        x: &ArrayView<'_, T, D>,
        values: Option<&ArrayView<'_, T, D>>,
    ) -> Result<Option<wgpu::Buffer>> {
        match values {
            Some(values) if values.shape() != x.shape() => {
                Err(mismatch(name, format!("the shape of x, {:?}", x.shape()), format!("{:?}", values.shape())))
            }
            values => values.map(|values| self.tensor(name, values)).transpose(),
        }
    }

    fn parameter(&self, name: &'static str, values: &Option<Array1<f32>>) -> Result<Option<wgpu::Buffer>> {
        let Some(values) = values else { return Ok(None) };
        let channels = self.running.channels();
        if values.len() != channels {
            return Err(wrong_length(name, channels, values.len()));
        }
        self.tensor(name, &values.view()).map(Some)
    }

    fn empty(&self, name: &str, size: u64) -> Result<wgpu::Buffer> {
        storage(self.kernels.device(), &label_of(self.label(), name), size)
    }

    fn upload(&self, name: &str, bytes: &[u8]) -> Result<wgpu::Buffer> {
        upload(self.kernels.device(), &self.queue, &label_of(self.label(), name), bytes)
    }

    fn upload_running(&self) -> Result<wgpu::Buffer> {
        self.upload("running", &self.running.to_bytes()?)
    }

    fn submit(&self, step: &Step, outputs: &[&wgpu::Buffer]) -> Pending {
        let device = self.kernels.device();
        let encoder = guarded(device, "encoding", || {
            let mut encoder =
                device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(&step.label) });
            step.encode_pass(&mut encoder);
            encoder
        })?;
        Readback::start(device, &self.queue, encoder, outputs)
    }
}

fn mismatch(name: &'static str, expected: String, actual: String) -> Error {
    Error::Mismatch { name, expected, actual }
}

fn wrong_length(name: &'static str, channels: usize, actual: usize) -> Error {
    mismatch(name, format!("{channels} values, one per channel"), actual.to_string())
}

fn entire(buffer: &wgpu::Buffer) -> wgpu::BufferBinding<'_> {
    buffer.as_entire_buffer_binding()
}

/// What lies in a buffer; an odd last element of 16 bits has a neighbour there.
fn elements<T: Element>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

fn array<T: Element, D: Dimension>(dim: D, bytes: &[u8]) -> Result<Array<T, D>> {
    let mut values = elements(bytes);
    values.truncate(dim.size());
    Array::from_shape_vec(dim, values).map_err(|error| mismatch("y", "the shape of x".into(), error.to_string()))
}

fn gradients<T: Element, D: Dimension>(dim: D, contents: &[Vec<u8>], residual: bool) -> Result<Gradients<T, D>> {
    Ok(Gradients {
        dresidual: residual.then(|| array(dim.clone(), &contents[3])).transpose()?,
        dx: array(dim, &contents[0])?,
        dgamma: elements(&contents[1]).into(),
        dbeta: elements(&contents[2]).into(),
    })
}
