//! Buffers up and down. Only the host convenience waits: here, and in what measures.

use super::scope::{guarded, refused};
use super::wait::driven;
use crate::error::{Error, Result};
use futures_intrusive::channel::shared::{OneshotReceiver, oneshot_channel};

const SPLIT: &str = "use a smaller batch, or open the device with a higher limit where the adapter has one";
const READING: &str = "reading results back";

/// A buffer that holds `bytes`, filled up to whole words of four, usable as storage and as source and destination of copies.
///
/// # Errors
/// As [`storage`], and what the device reports.
pub fn upload(device: &wgpu::Device, queue: &wgpu::Queue, label: &str, bytes: &[u8]) -> Result<wgpu::Buffer> {
    let whole_words = bytes.len() as u64 / 4 * 4;
    let (words, rest) = bytes.split_at(whole_words as usize);
    let buffer = storage(device, label, bytes.len() as u64)?;
    guarded(device, "uploading a tensor", || {
        queue.write_buffer(&buffer, 0, words);
        if !rest.is_empty() {
            let mut last = [0; 4];
            last[..rest.len()].copy_from_slice(rest);
            queue.write_buffer(&buffer, whole_words, &last);
        }
    })?;
    Ok(buffer)
}

/// A zeroed buffer of `size` bytes, or up to three more for whole words, usable as storage and as source and destination of
/// copies.
///
/// # Errors
/// [`Error::Limit`] when no buffer of the device is as large; [`Error::OutOfMemory`].
pub fn storage(device: &wgpu::Device, label: &str, size: u64) -> Result<wgpu::Buffer> {
    use wgpu::BufferUsages as Usage;
    let usage = Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST;
    // What no u64 holds is more than any device allows.
    create(device, label, size.checked_next_multiple_of(4).unwrap_or(u64::MAX), usage)
}

fn create(device: &wgpu::Device, label: &str, size: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
    let allowed = device.limits().max_buffer_size;
    if size > allowed {
        let limit = "the device's max_buffer_size";
        return Err(Error::Limit { what: "a buffer", limit, unit: "bytes", needed: size, allowed, hint: SPLIT });
    }
    let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
    guarded(device, "creating a buffer", || device.create_buffer(&descriptor))
}

/// Waits for everything submitted and returns the contents of whole `buffers`, which need the usage `COPY_SRC`.
///
/// # Errors
/// [`Error::DeviceLost`], [`Error::OutOfMemory`], and what else the device reports.
pub fn download(device: &wgpu::Device, queue: &wgpu::Queue, buffers: &[&wgpu::Buffer]) -> Result<Vec<Vec<u8>>> {
    Readback::start(device, queue, device.create_command_encoder(&Default::default()), buffers)?.wait(device)
}

/// Copies under way to the host.
pub(crate) struct Readback {
    device: wgpu::Device,
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
        let map = |staging: wgpu::Buffer| {
            let (sender, receiver) = oneshot_channel();
            let ask = || {
                staging.map_async(wgpu::MapMode::Read, .., move |result| {
                    // Nobody listens any more when the future was dropped.
                    sender.send(result).ok();
                });
            };
            guarded(device, READING, ask)?;
            Ok((staging, receiver))
        };
        Ok(Self { device: device.clone(), parts: staged.into_iter().map(map).collect::<Result<_>>()? })
    }

    /// Waits for the copies. Somebody has to poll the device meanwhile; a browser does by itself.
    pub(crate) async fn finish(self) -> Result<Vec<Vec<u8>>> {
        let mut contents = Vec::new();
        for (staging, receiver) in self.parts {
            match receiver.receive().await {
                Some(Ok(())) => {}
                Some(Err(error)) => return Err(refused(&self.device, READING, error)),
                None => return Err(refused(&self.device, READING, "the mapping was never answered")),
            }
            let mapped = staging.get_mapped_range(..).map_err(|error| refused(&self.device, READING, error))?;
            contents.push(mapped.to_vec());
        }
        Ok(contents)
    }

    /// Waits for the copies, polling the device.
    pub(crate) fn wait(self, device: &wgpu::Device) -> Result<Vec<Vec<u8>>> {
        // Also where nothing is copied: whoever reads waits for all that was submitted.
        device.poll(wgpu::PollType::wait_indefinitely()).map_err(|error| refused(device, READING, error))?;
        driven(device, READING, self.finish())
    }
}
