//! Buffers, read-back and errors of the device, in the few forms that training needs.

use super::TrainError;
use batchnorm_wgpu::wgpu::{self, BufferUsages};

/// A device and its queue.
#[derive(Clone, Copy)]
pub struct Gpu<'a> {
    /// The device.
    pub device: &'a wgpu::Device,
    /// Its queue.
    pub queue: &'a wgpu::Queue,
}

impl Gpu<'_> {
    /// A zeroed storage buffer of `bytes` bytes, or of 4 if that is less.
    ///
    /// # Errors
    /// [`TrainError::Limit`] when the device binds no buffer of that size.
    pub fn storage(&self, label: &str, bytes: u64) -> Result<wgpu::Buffer, TrainError> {
        let limits = self.device.limits();
        let allowed = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        if bytes > allowed {
            return Err(TrainError::Limit { what: format!("bytes of {label}"), needed: bytes, allowed });
        }
        Ok(self.buffer(label, bytes, BufferUsages::STORAGE))
    }

    /// A storage buffer with the given content.
    ///
    /// # Errors
    /// [`TrainError::Limit`] when the device binds no buffer of that size.
    pub fn storage_with(&self, label: &str, content: &[u8]) -> Result<wgpu::Buffer, TrainError> {
        let buffer = self.storage(label, content.len() as u64)?;
        self.queue.write_buffer(&buffer, 0, content);
        Ok(buffer)
    }

    /// A uniform buffer with the given content.
    pub fn uniform_with(&self, label: &str, content: &[u8]) -> wgpu::Buffer {
        let buffer = self.buffer(label, content.len() as u64, BufferUsages::UNIFORM);
        self.queue.write_buffer(&buffer, 0, content);
        buffer
    }

    /// A buffer that copies may read and write.
    fn buffer(&self, label: &str, bytes: u64, usage: BufferUsages) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes.max(4).next_multiple_of(4),
            usage: usage | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }

    /// Waits for everything submitted and returns the content of `buffer`.
    ///
    /// # Errors
    /// [`TrainError::Device`] when the device is lost.
    pub fn read(&self, buffer: &wgpu::Buffer) -> Result<Vec<u8>, TrainError> {
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read-back"),
            size: buffer.size(),
            usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
        self.queue.submit([encoder.finish()]);
        let (sender, receiver) = std::sync::mpsc::channel();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            // The receiver lives until the end of this function; nobody listens after that.
            let _ = sender.send(result);
        });
        let failed = |reason: String| TrainError::Device { during: "reading back", reason };
        self.wait(None)?;
        let mapped = receiver.try_recv().map_err(|_| failed("the mapping did not complete".into()))?;
        mapped.map_err(|error| failed(error.to_string()))?;
        let bytes = staging.get_mapped_range(..).map_err(|error| failed(error.to_string()))?.to_vec();
        Ok(bytes)
    }

    /// The content of `buffer` as numbers.
    ///
    /// # Errors
    /// [`TrainError::Device`] when the device is lost.
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
    /// What `work` returns, or [`TrainError::Device`].
    pub fn checked<T>(
        &self,
        during: &'static str,
        work: impl FnOnce() -> Result<T, TrainError>,
    ) -> Result<T, TrainError> {
        let scopes = [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation]
            .map(|filter| self.device.push_error_scope(filter));
        let result = work();
        // Scopes close in the reverse order of their opening.
        for scope in scopes.into_iter().rev() {
            if let Some(error) = pollster::block_on(scope.pop()) {
                return Err(TrainError::Device { during, reason: error.to_string() });
            }
        }
        result
    }
}
