//! Tensors on the device between guard bands. Outputs start out as sentinels, so that "wrote nothing" is seen; the bands and
//! the inputs are compared after the run, so that a write outside is seen too.

use batchnorm_wgpu::host::{download, upload};
use batchnorm_wgpu::{DType, Error, Result, wgpu};
use std::collections::HashMap;

/// What outputs and guard bands hold before the run: as f32, and each half of it as f16 and as bf16, a NaN that no kernel
/// computes.
const SENTINEL: u32 = 0xffc5_ffc5;
/// Bytes of a guard band, and the alignment of every tensor: WebGPU's default offset alignment.
const BAND: u64 = 256;

/// A tensor in the arena.
#[derive(Clone, Debug)]
struct Region {
    buffer: usize,
    offset: u64,
    before: Vec<u32>,
    written: bool,
}

/// A set of named tensors in buffers of their own, or pooled in one.
pub struct Arena {
    regions: HashMap<&'static str, Region>,
    /// What each buffer holds before the run.
    images: Vec<Vec<u32>>,
    buffers: Vec<wgpu::Buffer>,
    pooled: bool,
}

/// The words of the tensors that were written.
pub type Outputs = HashMap<&'static str, Vec<u32>>;

impl Arena {
    /// An empty arena; `pooled` puts all tensors into one buffer.
    pub fn new(pooled: bool) -> Self {
        Self { regions: HashMap::new(), images: Vec::new(), buffers: Vec::new(), pooled }
    }

    /// Adds a tensor that is only read.
    pub fn input(&mut self, name: &'static str, words: Vec<u32>) {
        self.add(name, words, false);
    }

    /// Adds a tensor that is read and written.
    pub fn in_out(&mut self, name: &'static str, words: Vec<u32>) {
        self.add(name, words, true);
    }

    /// Adds a tensor of `bytes` bytes that is written.
    pub fn output(&mut self, name: &'static str, bytes: u64) {
        self.add(name, vec![SENTINEL; bytes as usize / 4], true);
    }

    fn add(&mut self, name: &'static str, words: Vec<u32>, written: bool) {
        if !self.pooled || self.images.is_empty() {
            self.images.push(vec![SENTINEL; BAND as usize / 4]);
        }
        let buffer = self.images.len() - 1;
        let image = &mut self.images[buffer];
        let offset = image.len() as u64 * 4;
        image.extend(&words);
        let padded = (image.len() as u64 * 4).next_multiple_of(BAND) + BAND;
        image.resize(padded as usize / 4, SENTINEL);
        self.regions.insert(name, Region { buffer, offset, before: words, written });
    }

    /// Creates the buffers and uploads them.
    ///
    /// # Errors
    /// What the device reports.
    pub fn upload(&mut self, device: &wgpu::Device, queue: &wgpu::Queue) -> Result<()> {
        let images = self.images.iter();
        self.buffers =
            images.map(|image| upload(device, queue, "arena", bytemuck::cast_slice(image))).collect::<Result<_>>()?;
        Ok(())
    }

    /// The binding of a tensor.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for a name that was never added.
    pub fn binding(&self, name: &'static str) -> Result<wgpu::BufferBinding<'_>> {
        let unknown = || Error::Mismatch { name, expected: "a tensor of the arena".into(), actual: "none".into() };
        let region = self.regions.get(name).ok_or_else(unknown)?;
        let size = wgpu::BufferSize::new(region.before.len() as u64 * 4);
        Ok(wgpu::BufferBinding { buffer: &self.buffers[region.buffer], offset: region.offset, size })
    }

    /// Reads every buffer back.
    ///
    /// # Errors
    /// What the device reports.
    pub fn download(&self, device: &wgpu::Device, queue: &wgpu::Queue) -> Result<Vec<Vec<u32>>> {
        let images = download(device, queue, &self.buffers.iter().collect::<Vec<_>>())?;
        Ok(images.iter().map(|image| bytemuck::pod_collect_to_vec(image)).collect())
    }

    /// Splits the images after the run into the tensors that were written, or says what was written where it must not be.
    ///
    /// # Errors
    /// A sentence that names the tensor and the place.
    pub fn outputs(&self, after: &[Vec<u32>]) -> Result<Outputs, String> {
        let mut expected = self.images.clone();
        let mut outputs = Outputs::new();
        for (&name, region) in &self.regions {
            let start = region.offset as usize / 4;
            let range = start..start + region.before.len();
            let words = &after[region.buffer][range.clone()];
            if !region.written {
                if let Some(i) = (0..words.len()).find(|&i| words[i] != region.before[i]) {
                    return Err(format!("{name} is an input, and its word {i} was written"));
                }
                continue;
            }
            expected[region.buffer][range].copy_from_slice(words);
            outputs.insert(name, words.to_vec());
        }
        for (buffer, (expected, after)) in expected.iter().zip(after).enumerate() {
            if let Some(i) = (0..after.len()).find(|&i| expected[i] != after[i]) {
                return Err(format!("word {i} of buffer {buffer}, outside of every tensor, was written"));
            }
        }
        Ok(outputs)
    }
}

/// Values as they lie in a tensor's words. Behind an odd last element of 16 bits lies half a sentinel.
pub fn to_words(values: &[f32], dtype: DType) -> Vec<u32> {
    let halves = |bits: &dyn Fn(f32) -> u16| {
        let mut halves: Vec<u16> = values.iter().map(|&value| bits(value)).collect();
        halves.resize(values.len().next_multiple_of(2), SENTINEL as u16);
        halves.chunks_exact(2).map(|pair| u32::from(pair[0]) | u32::from(pair[1]) << 16).collect()
    };
    match dtype {
        DType::F32 => values.iter().map(|value| value.to_bits()).collect(),
        DType::F16 => halves(&|value| half::f16::from_f32(value).to_bits()),
        DType::Bf16 => halves(&|value| half::bf16::from_f32(value).to_bits()),
    }
}

/// The `count` values of a tensor that was written.
///
/// # Errors
/// A sentence about an element that was not written, or about the half word behind the last one if that was.
pub fn from_words(words: &[u32], dtype: DType, count: usize) -> Result<Vec<f32>, String> {
    let halves = || words.iter().flat_map(|&word| [word as u16, (word >> 16) as u16]);
    let sentinel = match dtype {
        DType::F32 => words.iter().position(|&word| word == SENTINEL),
        DType::F16 | DType::Bf16 => halves().take(count).position(|half| half == SENTINEL as u16),
    };
    if let Some(i) = sentinel {
        return Err(format!("element {i} was not written"));
    }
    if dtype != DType::F32 && halves().skip(count).any(|half| half != SENTINEL as u16) {
        return Err(format!("the half word behind element {count}, its last, was written"));
    }
    Ok(match dtype {
        DType::F32 => words.iter().map(|&word| f32::from_bits(word)).collect(),
        DType::F16 => halves().take(count).map(|half| half::f16::from_bits(half).to_f32()).collect(),
        DType::Bf16 => halves().take(count).map(|half| half::bf16::from_bits(half).to_f32()).collect(),
    })
}

/// The nearest value of the dtype, as tensors store it.
pub fn rounded(value: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F32 => value,
        DType::F16 => half::f16::from_f32(value).to_f32(),
        DType::Bf16 => half::bf16::from_f32(value).to_f32(),
    }
}
