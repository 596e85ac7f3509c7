//! A training step over buffers of its own, held against the reference.

use batchnorm_wgpu::host::{download, guarded, storage, upload};
use batchnorm_wgpu::reference::{self, Layer, bound, bound::Execution};
use batchnorm_wgpu::{BatchNorm, Choice, Config, Error, Kernels, Layout, Shape, Step, TrainingSteps, wgpu};
use batchnorm_wgpu_check::data::normal;
use libtest_mimic::Failed;

/// Seeds of the inputs.
const X: u64 = 61;
const DY: u64 = 62;

/// Forward and backward, bound and not yet run.
pub struct Training {
    device: wgpu::Device,
    queue: wgpu::Queue,
    layer: BatchNorm,
    pub x: wgpu::Buffer,
    dy: wgpu::Buffer,
    y: wgpu::Buffer,
    dx: wgpu::Buffer,
    saved: wgpu::Buffer,
    scratch: wgpu::Buffer,
    steps: Vec<Step>,
}

impl Training {
    /// A step over tensors of `dims`, channels first.
    pub fn new(kernels: &Kernels, queue: &wgpu::Queue, dims: &[usize], choice: &Choice) -> Result<Self, Error> {
        let device = kernels.device();
        let layer =
            BatchNorm::with_choice(kernels, Shape::new(dims, Layout::ChannelsFirst)?, Config::default(), choice)?;
        let elements = layer.shape().elements();
        let input = |seed| upload(device, queue, "input", bytemuck::cast_slice(&normal(elements, seed)));
        let output = |size| storage(device, "output", size);
        let mut training = Self {
            x: input(X)?,
            dy: input(DY)?,
            y: output(layer.tensor_size())?,
            dx: output(layer.tensor_size())?,
            saved: output(layer.saved_size())?,
            scratch: output(layer.scratch_size())?,
            steps: Vec::new(),
            device: device.clone(),
            queue: queue.clone(),
            layer,
        };
        training.steps = training.bind()?.into();
        Ok(training)
    }

    /// Binds the buffers once more.
    pub fn bind(&self) -> Result<[Step; 2], Error> {
        let whole = wgpu::Buffer::as_entire_buffer_binding;
        let TrainingSteps { forward, backward } = self.layer.training(
            &batchnorm_wgpu::Training::new(
                whole(&self.x),
                whole(&self.y),
                whole(&self.dy),
                whole(&self.saved),
                whole(&self.scratch),
            )
            .dx(whole(&self.dx)),
        )?;
        Ok([forward, backward])
    }

    /// Records the step into an encoder of its own.
    pub fn encode(&self) -> wgpu::CommandEncoder {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            self.steps.iter().for_each(|step| step.encode(&mut pass));
        }
        encoder
    }

    /// Runs the step.
    pub fn submit(&self) -> Result<wgpu::SubmissionIndex, Error> {
        guarded(&self.device, "running a step", || self.queue.submit([self.encode().finish()]))
    }

    /// Waits for the step and takes what it left in y and dx.
    pub fn read(&self) -> Result<Vec<Vec<u8>>, Error> {
        download(&self.device, &self.queue, &[&self.y, &self.dx])
    }

    /// Holds what [`Training::read`] returned against the reference.
    pub fn judge(&self, contents: &[Vec<u8>]) -> Result<(), Failed> {
        let (shape, layer, execution) = (self.layer.shape(), Layer::default(), Execution::default());
        let input = |seed| -> Vec<f64> { normal(shape.elements(), seed).into_iter().map(f64::from).collect() };
        let (x, dy) = (input(X), input(DY));
        let y = reference::forward_training(&x, shape, &layer)?.y;
        let dx = reference::backward_training(&x, &dy, shape, &layer)?.dx;
        let y_bound = bound::forward_training(&x, shape, &layer, &execution)?.y;
        let dx_bound = bound::backward_training(&x, &dy, shape, &layer, &execution)?.dx;
        for (name, bytes, want, bound) in [("y", &contents[0], y, y_bound), ("dx", &contents[1], dx, dx_bound)] {
            let outcome = bound::compare(&bytemuck::pod_collect_to_vec::<u8, f32>(bytes), &want, &bound)?;
            if !outcome.passed() {
                return Err(format!("{name}: {outcome}").into());
            }
        }
        Ok(())
    }

    /// Runs the step and judges what it left.
    pub fn holds(&self) -> Result<(), Failed> {
        self.submit()?;
        self.judge(&self.read()?)
    }
}
