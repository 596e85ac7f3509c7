//! Buffers, read-back and errors of the device, in the few forms that training needs.

use super::error::TrainError;
use batchnorm_wgpu::host;
use batchnorm_wgpu::wgpu::{self, BufferUsages};

/// A device and its queue.
#[derive(Clone, Copy)]
pub struct TrainDevice<'a> {
    /// The device.
    pub device: &'a wgpu::Device,
    /// Its queue.
    pub queue: &'a wgpu::Queue,
}

impl TrainDevice<'_> {
    /// A zeroed storage buffer of `bytes` bytes.
    ///
    /// # Errors
    /// [`batchnorm_wgpu::Error::Limit`] when the device binds no buffer of that size.
    pub fn storage(&self, label: &str, bytes: u64) -> Result<wgpu::Buffer, TrainError> {
        Ok(host::storage(self.device, label, bytes)?)
    }

    /// A storage buffer with the given content.
    ///
    /// # Errors
    /// [`batchnorm_wgpu::Error::Limit`] when the device binds no buffer of that size.
    pub fn storage_with(&self, label: &str, content: &[u8]) -> Result<wgpu::Buffer, TrainError> {
        Ok(host::upload(self.device, self.queue, label, content)?)
    }

    /// A uniform buffer with the given content.
    pub fn uniform_with(&self, label: &str, content: &[u8]) -> wgpu::Buffer {
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: content.len() as u64,
            usage: BufferUsages::UNIFORM | BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.queue.write_buffer(&buffer, 0, content);
        buffer
    }

    /// Waits for everything submitted and returns the content of `buffer`.
    ///
    /// # Errors
    /// [`batchnorm_wgpu::Error::DeviceLost`] when the device is lost.
    pub fn read(&self, buffer: &wgpu::Buffer) -> Result<Vec<u8>, TrainError> {
        Ok(host::download(self.device, self.queue, &[buffer])?.concat())
    }

    /// The content of `buffer` as numbers.
    ///
    /// # Errors
    /// [`batchnorm_wgpu::Error::DeviceLost`] when the device is lost.
    pub fn read_as<T: bytemuck::Pod>(&self, buffer: &wgpu::Buffer) -> Result<Vec<T>, TrainError> {
        Ok(bytemuck::pod_collect_to_vec(&self.read(buffer)?))
    }

    /// Waits for `submission`, or for all of them.
    ///
    /// # Errors
    /// [`TrainError::Device`] when the device is lost.
    pub fn wait(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<(), TrainError> {
        let wait = wgpu::PollType::Wait { submission_index: submission, timeout: None };
        let failed = |error: wgpu::PollError| TrainError::Device { during: "waiting", reason: error.to_string() };
        self.device.poll(wait).map(drop).map_err(failed)
    }

    /// Runs `work` and turns what the device complains about into an error.
    ///
    /// # Errors
    /// What `work` returns, or what the device reports.
    pub fn checked<T>(
        &self,
        during: &'static str,
        work: impl FnOnce() -> Result<T, TrainError>,
    ) -> Result<T, TrainError> {
        host::guarded(self.device, during, work)?
    }
}
