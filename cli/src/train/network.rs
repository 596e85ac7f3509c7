//! The data and the networks on the GPU: what stays there from the first step to the last.

use super::{
    data::Images,
    error::TrainError,
    gpu::TrainDevice,
    kernels::Pipelines,
    parameters::{HIDDEN, Parameters, SIZES},
};
use batchnorm_wgpu::{Kernels, RunningStatistics, wgpu};

/// Images resident on the GPU.
pub struct ResidentImages {
    /// Four pixels per word.
    pub pixels: wgpu::Buffer,
    /// One word per image.
    pub labels: wgpu::Buffer,
    /// The order in which the images are visited.
    pub indices: wgpu::Buffer,
    /// Number of images.
    pub count: usize,
}

impl ResidentImages {
    /// Uploads `images`, to be visited in their own order.
    ///
    /// # Errors
    /// [`TrainError::Limit`] when the device binds no buffer of that size.
    pub fn new(gpu: TrainDevice<'_>, images: &Images) -> Result<Self, TrainError> {
        let labels: Vec<u32> = images.labels.iter().map(|&label| u32::from(label)).collect();
        let order: Vec<u32> = (0..images.count() as u32).collect();
        Ok(Self {
            pixels: gpu.storage_with("pixels", &images.pixels)?,
            labels: gpu.storage_with("labels", bytemuck::cast_slice(&labels))?,
            indices: gpu.storage_with("indices", bytemuck::cast_slice(&order))?,
            count: images.count(),
        })
    }
}

/// What both networks are built from.
pub struct Builder<'a> {
    /// Device and queue.
    pub gpu: TrainDevice<'a>,
    /// The tool's kernels.
    pub pipelines: Pipelines,
    /// The library's kernels.
    pub batch_norm: Kernels,
}

/// A network with its state on the GPU.
pub struct Network {
    /// Where each parameter lies.
    pub parameters: Parameters,
    /// The parameters.
    pub values: wgpu::Buffer,
    /// Their gradients.
    pub gradients: wgpu::Buffer,
    /// The running statistics of every batch norm layer.
    pub running: Vec<wgpu::Buffer>,
}

/// All that a network learned, on the host.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The content of the parameters' buffer.
    pub values: Vec<f32>,
    /// The running statistics of every batch norm layer; empty without batch norm.
    pub running: Vec<RunningStatistics>,
}

impl Snapshot {
    /// A network with the given weights and its other parameters at their usual first values.
    pub fn initial(batch_norm: bool, weights: &[Vec<f32>]) -> Self {
        let hidden = if batch_norm { &SIZES[1..=HIDDEN] } else { &[] };
        Self {
            values: Parameters::new(batch_norm).initial(weights),
            running: hidden.iter().map(|&channels| RunningStatistics::new(channels)).collect(),
        }
    }
}

impl Network {
    /// A network with the state of `snapshot`.
    ///
    /// # Errors
    /// [`TrainError::Limit`] when the device binds no buffer of that size.
    pub fn new(gpu: TrainDevice<'_>, snapshot: &Snapshot) -> Result<Self, TrainError> {
        let parameters = Parameters::new(!snapshot.running.is_empty());
        let values = gpu.storage_with("parameters", bytemuck::cast_slice(&snapshot.values))?;
        let gradients = gpu.storage("gradients", 4 * parameters.count as u64)?;
        let upload = |running: &RunningStatistics| gpu.storage_with("running statistics", &running.to_bytes()?);
        let running = snapshot.running.iter().map(upload).collect::<Result<_, _>>()?;
        Ok(Self { parameters, values, gradients, running })
    }

    /// The state of the network.
    ///
    /// # Errors
    /// [`TrainError::BatchNorm`] when the device is lost.
    pub fn snapshot(&self, gpu: TrainDevice<'_>) -> Result<Snapshot, TrainError> {
        let running = |buffer| -> Result<_, TrainError> { Ok(RunningStatistics::from_bytes(&gpu.read(buffer)?)?) };
        Ok(Snapshot {
            values: gpu.read_as(&self.values)?,
            running: self.running.iter().map(running).collect::<Result<_, _>>()?,
        })
    }

    /// Gives the network the state of `snapshot`, one of a network of the same kind.
    ///
    /// # Errors
    /// [`TrainError::BatchNorm`] for running statistics whose fields differ in length.
    pub fn restore(&self, gpu: TrainDevice<'_>, snapshot: &Snapshot) -> Result<(), TrainError> {
        gpu.queue.write_buffer(&self.values, 0, bytemuck::cast_slice(&snapshot.values));
        for (buffer, running) in self.running.iter().zip(&snapshot.running) {
            gpu.queue.write_buffer(buffer, 0, &running.to_bytes()?);
        }
        Ok(())
    }

    /// Whether the network has batch norm layers.
    pub fn has_batch_norm(&self) -> bool {
        !self.running.is_empty()
    }
}
