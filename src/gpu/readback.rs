//! Buffers up and down. Only the host convenience waits, and only here.

use super::scope::guarded;
use crate::error::{Error, Result};
use futures_intrusive::channel::shared::{OneshotReceiver, oneshot_channel};

const READING: &str = "reading results back";

/// A buffer that holds `bytes`, usable as storage and as source and destination of copies.
pub(crate) fn upload(device: &wgpu::Device, queue: &wgpu::Queue, label: &str, bytes: &[u8]) -> Result<wgpu::Buffer> {
    let buffer = storage(device, label, bytes.len() as u64)?;
    guarded(device, "uploading a tensor", || queue.write_buffer(&buffer, 0, bytes))?;
    Ok(buffer)
}

/// A zeroed buffer of `size` bytes, usable as storage and as source and destination of copies.
pub(crate) fn storage(device: &wgpu::Device, label: &str, size: u64) -> Result<wgpu::Buffer> {
    use wgpu::BufferUsages as Usage;
    create(device, label, size, Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST)
}

fn create(device: &wgpu::Device, label: &str, size: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
    let allowed = device.limits().max_buffer_size;
    if size > allowed {
        let hint = "split the tensor, or open the device with a higher limit where the adapter has one";
        return Err(Error::Limit { what: "a buffer", limit: "max_buffer_size, in bytes", needed: size, allowed, hint });
    }
    let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
    guarded(device, "creating a buffer", || device.create_buffer(&descriptor))
}

/// Copies under way to the host.
pub(crate) struct Readback {
    parts: Vec<(wgpu::Buffer, OneshotReceiver<Result<(), wgpu::BufferAsyncError>>)>,
}

impl Readback {
    /// Records copies of whole `buffers` behind what `encoder` holds, submits it all, and asks for the copies.
    pub(crate) fn start(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        mut encoder: wgpu::CommandEncoder,
        buffers: &[&wgpu::Buffer],
    ) -> Result<Self> {
        let mut staged = Vec::new();
        for buffer in buffers {
            let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
            let staging = create(device, "readback", buffer.size(), usage)?;
            encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
            staged.push(staging);
        }
        guarded(device, "submitting work", || queue.submit([encoder.finish()]))?;
        let parts = staged.into_iter().map(|staging| {
            let (sender, receiver) = oneshot_channel();
            staging.map_async(wgpu::MapMode::Read, .., move |result| {
                // Nobody listens any more when the future was dropped.
                sender.send(result).ok();
            });
            (staging, receiver)
        });
        Ok(Self { parts: parts.collect() })
    }

    /// Waits for the copies. Somebody has to poll the device meanwhile; a browser does by itself.
    pub(crate) async fn finish(self) -> Result<Vec<Vec<u8>>> {
        let mut contents = Vec::new();
        for (staging, receiver) in self.parts {
            let lost = |reason: String| Error::DeviceLost { during: READING, reason };
            match receiver.receive().await {
                Some(Ok(())) => {}
                Some(Err(error)) => return Err(lost(error.to_string())),
                None => return Err(lost("the mapping was never answered".into())),
            }
            contents.push(staging.get_mapped_range(..).map_err(|error| lost(error.to_string()))?.to_vec());
        }
        Ok(contents)
    }

    /// Waits for the copies, polling the device.
    pub(crate) fn wait(self, device: &wgpu::Device) -> Result<Vec<Vec<u8>>> {
        device
            .poll(wgpu::PollType::wait_indefinitely())
            .map_err(|error| Error::Device { during: READING, reason: error.to_string() })?;
        pollster::block_on(self.finish())
    }
}
