//! Training step and evaluation as lists of dispatches, bound once and encoded for every batch.
//!
//! Names follow the walk of a batch. Linear layer l takes x(l) to z(l) = x(l) W(l). After a hidden layer u(l) is
//! batch_norm(z(l)), or with no batch norm z(l) itself, which has the bias in it then; a(l) = sigmoid(u(l)) is
//! x(l + 1). The z of the last layer are the logits. A gradient is called d and the name of its array.

use super::{
    data::{CLASSES, PIXELS},
    error::TrainError,
    gpu::TrainDevice,
    kernels::{self, Batch, NetworkKernel, Pipelines},
    network::{Builder, Network, ResidentImages},
    parameters::{HIDDEN, LAYERS, SIZES, slice},
};
use batchnorm_wgpu::{
    Backward, BatchNorm, Config, ForwardTraining, Inference, Layout, Saved, Shape, Step,
    wgpu::{self, BufferBinding},
};
use batchnorm_wgpu_check::compute::BoundKernel;

/// Images per batch in evaluation; it changes the speed only.
const EVALUATION_ROWS: usize = 500;

/// Workgroups of the descent, which loops: enough for a large GPU, few enough for one that is simulated.
const DESCENT_WORKGROUPS: usize = 32;

/// Rows and columns of the result that an invocation of a matrix product owns, as written in the WGSL.
const TILE: usize = 8;

/// Invocations in a workgroup of the matrix products, as written in the WGSL.
const PRODUCT_WIDTH: usize = 64;

/// Invocations in a workgroup of the elementwise kernels, as written in the WGSL.
const ELEMENT_WIDTH: usize = 256;

/// One recorded operation.
enum Recorded {
    /// One of the tool's kernels.
    Own(BoundKernel),
    /// A batch norm step of the library.
    BatchNorm(Step),
}

/// A recorded sequence of operations over batches: a training step, or the evaluation of a batch.
pub struct Recording {
    operations: Vec<Recorded>,
    /// The batches that the operations run over, one at a time.
    pub batches: Vec<Batch>,
    /// Their uniforms, each at its dynamic offset.
    uniforms: wgpu::Buffer,
    /// The arrays in between.
    pub arrays: Arrays,
}

impl Recording {
    /// The training step: forward, loss, backward and descent over whole batches of `rows` images.
    ///
    /// # Errors
    /// [`TrainError`] when the device's limits do not allow it.
    pub fn training(
        network: &Network,
        builder: &mut Builder<'_>,
        images: &ResidentImages,
        rows: usize,
    ) -> Result<Self, TrainError> {
        let mut recorder = Recorder::new(network, builder, rows, kernels::batches(images.count, rows, true), true)?;
        recorder.forward(images)?;
        recorder.backward()?;
        Ok(recorder.finish())
    }

    /// The evaluation of all images by inference, in batches of which the last may be shorter.
    ///
    /// # Errors
    /// [`TrainError`] when the device's limits do not allow it.
    pub fn evaluation(
        network: &Network,
        builder: &mut Builder<'_>,
        images: &ResidentImages,
    ) -> Result<Self, TrainError> {
        let rows = EVALUATION_ROWS.min(images.count);
        let mut recorder = Recorder::new(network, builder, rows, kernels::batches(images.count, rows, false), false)?;
        recorder.forward(images)?;
        Ok(recorder.finish())
    }

    /// Sets the step width of the descent for all batches to come.
    pub fn set_rate(&mut self, gpu: TrainDevice<'_>, rate: f32) {
        self.batches.iter_mut().for_each(|batch| batch.rate = rate);
        gpu.queue.write_buffer(&self.uniforms, 0, &kernels::batch_bytes(&self.batches));
    }

    /// Records the operations for batch number `batch` into `encoder`, in one compute pass. Allocates no buffer.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder, batch: u32) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for operation in &self.operations {
            match operation {
                Recorded::Own(dispatch) => dispatch.encode_at(&mut pass, batch * kernels::BATCH_STRIDE as u32),
                Recorded::BatchNorm(step) => step.encode(&mut pass),
            }
        }
    }
}

/// The arrays of one batch, under the names that the module's head explains.
pub struct Arrays {
    /// The batch's images [rows, PIXELS]: x(0).
    pub x: wgpu::Buffer,
    /// The batch's labels.
    pub labels: wgpu::Buffer,
    /// z of every layer.
    pub z: Vec<wgpu::Buffer>,
    /// u of every hidden layer, with batch norm; otherwise empty.
    u: Vec<wgpu::Buffer>,
    /// a of every hidden layer.
    pub a: Vec<wgpu::Buffer>,
    /// du of every hidden layer; in training only.
    pub du: Vec<wgpu::Buffer>,
    /// dz of every hidden layer, in training with batch norm; otherwise empty.
    dz: Vec<wgpu::Buffer>,
    /// dz of the last layer.
    pub dlogits: wgpu::Buffer,
    /// What batch norm's backward pass needs of the forward pass.
    saved: Vec<wgpu::Buffer>,
    /// Sum of the losses and number of correct rows of every batch.
    pub metrics: wgpu::Buffer,
}

impl Arrays {
    /// Makes the arrays for batches of `rows` images.
    fn new(
        gpu: TrainDevice<'_>,
        layers: &[BatchNorm],
        rows: usize,
        batches: usize,
        training: bool,
    ) -> Result<Self, TrainError> {
        let array = |label: &str, columns: usize| gpu.storage(label, 4 * (rows * columns) as u64);
        let arrays = |label: &str, columns: &[usize]| -> Result<Vec<_>, TrainError> {
            columns.iter().map(|&columns| array(label, columns)).collect()
        };
        let hidden = &SIZES[1..=HIDDEN];
        let only_if = |condition| if condition { hidden } else { &[] };
        Ok(Self {
            x: array("x", PIXELS)?,
            labels: array("batch labels", 1)?,
            z: arrays("z", &SIZES[1..])?,
            u: arrays("u", only_if(!layers.is_empty()))?,
            a: arrays("a", hidden)?,
            du: arrays("du", only_if(training))?,
            dz: arrays("dz", only_if(training && !layers.is_empty()))?,
            dlogits: array("dlogits", CLASSES)?,
            saved: layers.iter().map(|layer| gpu.storage("saved", layer.saved_size())).collect::<Result<_, _>>()?,
            metrics: gpu.storage("metrics", 8 * batches as u64)?,
        })
    }

    /// x of layer `layer`.
    pub fn input(&self, layer: usize) -> &wgpu::Buffer {
        if layer == 0 { &self.x } else { &self.a[layer - 1] }
    }

    /// u of hidden layer `layer`.
    pub fn u(&self, layer: usize) -> &wgpu::Buffer {
        self.u.get(layer).unwrap_or(&self.z[layer])
    }

    /// dz of layer `layer`.
    pub fn dz(&self, layer: usize) -> &wgpu::Buffer {
        if layer == HIDDEN { &self.dlogits } else { self.dz.get(layer).unwrap_or(&self.du[layer]) }
    }
}

/// The operations recorded so far, and what makes more of them.
struct Tape<'a> {
    pipelines: &'a mut Pipelines,
    operations: Vec<Recorded>,
}

impl Tape<'_> {
    /// Adds a dispatch of one of the three kernels that multiply matrices, for a result of `rows` x `cols`.
    fn product(
        &mut self,
        kernel: NetworkKernel,
        [rows, inner, cols]: [usize; 3],
        bias: Option<bool>,
        buffers: &[BufferBinding<'_>],
    ) -> Result<(), TrainError> {
        let sizes = [("ROWS", rows), ("INNER", inner), ("COLS", cols)].map(|(name, value)| (name, value as f64));
        let bias = bias.map(|bias| ("BIAS", f64::from(u8::from(bias))));
        let constants: Vec<_> = sizes.into_iter().chain(bias).collect();
        let tiles = rows.div_ceil(TILE) * cols.div_ceil(TILE);
        self.own(kernel, &constants, buffers, tiles.div_ceil(PRODUCT_WIDTH))
    }

    /// Adds a dispatch of one of the tool's kernels.
    fn own(
        &mut self,
        kernel: NetworkKernel,
        constants: &[(&str, f64)],
        buffers: &[BufferBinding<'_>],
        workgroups: usize,
    ) -> Result<(), TrainError> {
        // A number that does not fit u32 exceeds the device's limit, and is refused as such.
        let workgroups = u32::try_from(workgroups).unwrap_or(u32::MAX);
        self.operations.push(Recorded::Own(self.pipelines.bind(kernel, constants, buffers, workgroups)?));
        Ok(())
    }

    /// Adds a step of the library.
    fn batch_norm(&mut self, step: Step) {
        self.operations.push(Recorded::BatchNorm(step));
    }
}

/// Builds a [`Recording`].
struct Recorder<'n, 'b> {
    network: &'n Network,
    tape: Tape<'b>,
    rows: usize,
    training: bool,
    /// One layer per hidden layer, or none.
    layers: Vec<BatchNorm>,
    /// What the forward passes of these left, in training.
    saved: Vec<Saved>,
    /// Shared by all batch norm layers: their dispatches follow one another.
    scratch: wgpu::Buffer,
    uniforms: wgpu::Buffer,
    batches: Vec<Batch>,
    arrays: Arrays,
}

impl<'n, 'b> Recorder<'n, 'b> {
    /// Makes the layers and the buffers.
    pub fn new(
        network: &'n Network,
        builder: &'b mut Builder<'_>,
        rows: usize,
        batches: Vec<Batch>,
        training: bool,
    ) -> Result<Self, TrainError> {
        let gpu = builder.gpu;
        let hidden = if network.has_batch_norm() { &SIZES[1..=HIDDEN] } else { &[] };
        let layer = |&channels: &usize| {
            let shape = Shape::new(&[rows, channels], Layout::ChannelsFirst)?;
            BatchNorm::new(&builder.batch_norm, shape, Config::default())
        };
        let layers = hidden.iter().map(layer).collect::<Result<Vec<_>, _>>()?;
        let scratch = layers.iter().map(BatchNorm::scratch_size).max().unwrap_or(0);
        Ok(Self {
            scratch: gpu.storage("scratch", scratch)?,
            uniforms: gpu.uniform_with("batches", &kernels::batch_bytes(&batches)),
            arrays: Arrays::new(gpu, &layers, rows, batches.len(), training)?,
            tape: Tape { pipelines: &mut builder.pipelines, operations: Vec::new() },
            network,
            rows,
            training,
            layers,
            saved: Vec::new(),
            batches,
        })
    }

    /// What was recorded.
    pub fn finish(self) -> Recording {
        let Self { tape, batches, uniforms, arrays, .. } = self;
        Recording { operations: tape.operations, batches, uniforms, arrays }
    }

    /// Gathers the batch, walks it through the network and takes the loss and its gradient.
    pub fn forward(&mut self, images: &ResidentImages) -> Result<(), TrainError> {
        self.gather(images)?;
        for layer in 0..LAYERS {
            self.linear_forward(layer)?;
            if layer < HIDDEN {
                self.batch_norm_forward(layer)?;
                self.sigmoid(layer)?;
            }
        }
        let arrays = &self.arrays;
        let buffers = [&arrays.z[HIDDEN], &arrays.labels, &arrays.dlogits, &arrays.metrics].map(whole).into_iter();
        let buffers: Vec<_> = buffers.chain([kernels::batch_binding(&self.uniforms)]).collect();
        let constants = [("ROWS", self.rows as f64), ("CLASSES", CLASSES as f64)];
        self.tape.own(NetworkKernel::SoftmaxCrossEntropy, &constants, &buffers, 1)
    }

    /// Takes all gradients, from the last layer to the first, and moves the parameters against them.
    pub fn backward(&mut self) -> Result<(), TrainError> {
        for layer in (0..LAYERS).rev() {
            if layer < HIDDEN {
                self.batch_norm_backward(layer)?;
            }
            self.linear_backward_weights(layer)?;
            if layer > 0 {
                self.linear_backward_input(layer)?;
            }
        }
        let constants = [("COUNT", self.network.parameters.count as f64)];
        let uniforms = kernels::batch_binding(&self.uniforms);
        let buffers = [whole(&self.network.values), whole(&self.network.gradients), uniforms];
        self.tape.own(NetworkKernel::Sgd, &constants, &buffers, DESCENT_WORKGROUPS)
    }

    /// The batch, from the data set.
    fn gather(&mut self, images: &ResidentImages) -> Result<(), TrainError> {
        let words = PIXELS / 4;
        let resident = [&images.pixels, &images.labels, &images.indices, &self.arrays.x, &self.arrays.labels];
        let uniforms = kernels::batch_binding(&self.uniforms);
        let buffers: Vec<_> = resident.map(whole).into_iter().chain([uniforms]).collect();
        let constants = [("ROWS", self.rows as f64), ("WORDS", words as f64)];
        self.tape.own(NetworkKernel::Gather, &constants, &buffers, (self.rows * words).div_ceil(ELEMENT_WIDTH))
    }

    /// Whether layer `layer` adds a bias itself: not before batch norm, which would subtract it again.
    fn has_bias(&self, layer: usize) -> bool {
        self.network.parameters.layers[layer].scale.is_none()
    }

    /// From x to z of layer `layer`.
    fn linear_forward(&mut self, layer: usize) -> Result<(), TrainError> {
        let sizes = [self.rows, SIZES[layer], SIZES[layer + 1]];
        let (slices, values) = (&self.network.parameters.layers[layer], &self.network.values);
        let buffers = [
            whole(self.arrays.input(layer)),
            slice(values, &slices.weights),
            slice(values, &slices.shift),
            whole(&self.arrays.z[layer]),
        ];
        self.tape.product(NetworkKernel::LinearForward, sizes, Some(self.has_bias(layer)), &buffers)
    }

    /// From z to u of hidden layer `layer`; nothing without batch norm.
    fn batch_norm_forward(&mut self, layer: usize) -> Result<(), TrainError> {
        let Some(batch_norm) = self.layers.get(layer) else { return Ok(()) };
        let (slices, values) = (&self.network.parameters.layers[layer], &self.network.values);
        let gamma = slices.scale.as_ref().map(|scale| slice(values, scale));
        let beta = Some(slice(values, &slices.shift));
        let (x, y) = (whole(&self.arrays.z[layer]), whole(self.arrays.u(layer)));
        let running = whole(&self.network.running[layer]);
        let step = if self.training {
            let (saved, scratch) = (whole(&self.arrays.saved[layer]), whole(&self.scratch));
            batch_norm.forward_training(
                &ForwardTraining::new(x, y, saved, scratch).gamma(gamma).beta(beta).running(running),
            )?
        } else {
            batch_norm.inference(&Inference::new(x, y, running).gamma(gamma).beta(beta))?
        };
        if self.training {
            self.saved.push(step.saved()?.clone());
        }
        self.tape.batch_norm(step);
        Ok(())
    }

    /// From u to a of hidden layer `layer`.
    fn sigmoid(&mut self, layer: usize) -> Result<(), TrainError> {
        let count = self.rows * SIZES[layer + 1];
        let buffers = [self.arrays.u(layer), &self.arrays.a[layer]].map(whole);
        self.tape.own(NetworkKernel::Sigmoid, &[("COUNT", count as f64)], &buffers, count.div_ceil(ELEMENT_WIDTH))
    }

    /// From du to dz of hidden layer `layer`; nothing without batch norm.
    fn batch_norm_backward(&mut self, layer: usize) -> Result<(), TrainError> {
        let (Some(batch_norm), Some(saved)) = (self.layers.get(layer), self.saved.get(layer)) else { return Ok(()) };
        let slices = &self.network.parameters.layers[layer];
        let scale = slices.scale.as_ref();
        let step = batch_norm.backward_training(
            &Backward::new(saved, whole(&self.arrays.du[layer]), whole(&self.scratch))
                .dx(whole(self.arrays.dz(layer)))
                .dgamma(scale.map(|scale| slice(&self.network.gradients, scale)))
                .dbeta(slice(&self.network.gradients, &slices.shift)),
        )?;
        self.tape.batch_norm(step);
        Ok(())
    }

    /// The gradients of the parameters of layer `layer`.
    fn linear_backward_weights(&mut self, layer: usize) -> Result<(), TrainError> {
        let sizes = [SIZES[layer], self.rows, SIZES[layer + 1]];
        let (slices, gradients) = (&self.network.parameters.layers[layer], &self.network.gradients);
        let buffers = [
            whole(self.arrays.input(layer)),
            whole(self.arrays.dz(layer)),
            slice(gradients, &slices.weights),
            slice(gradients, &slices.shift),
        ];
        self.tape.product(NetworkKernel::LinearBackwardWeights, sizes, Some(self.has_bias(layer)), &buffers)
    }

    /// From dz of layer `layer` to du of the layer before it.
    fn linear_backward_input(&mut self, layer: usize) -> Result<(), TrainError> {
        let sizes = [self.rows, SIZES[layer + 1], SIZES[layer]];
        let buffers = [
            whole(self.arrays.dz(layer)),
            slice(&self.network.values, &self.network.parameters.layers[layer].weights),
            whole(self.arrays.input(layer)),
            whole(&self.arrays.du[layer - 1]),
        ];
        self.tape.product(NetworkKernel::LinearBackwardInput, sizes, None, &buffers)
    }
}

/// All of a buffer.
fn whole(buffer: &wgpu::Buffer) -> BufferBinding<'_> {
    buffer.as_entire_buffer_binding()
}
