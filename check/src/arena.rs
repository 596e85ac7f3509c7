//! Tensors on the device between guard bands. Outputs start out as sentinels, so that "wrote nothing" is seen; the bands and
//! the inputs are compared after the run, so that a write outside is seen too.

use batchnorm_wgpu::host::{download, guarded, storage};
use batchnorm_wgpu::{DType, Error, Result, Shape, View, wgpu};
use std::borrow::Cow;
use std::collections::HashMap;

/// What outputs and guard bands hold before the run: as f32, and each half of it as f16 and as bf16, a NaN that no kernel
/// computes.
const SENTINEL: u32 = 0xffc5_ffc5;
/// Bytes of a guard band, and the alignment of every tensor: WebGPU's default offset alignment.
const BAND: u64 = 256;
/// Words from an aligned place to the first tensor of those that are packed.
const PACKED_AT: usize = 3;
/// Words that go up at once, and bytes that are read back at once unless a single buffer has more: what is on its way to the
/// device or back is there twice.
const UP: usize = 1 << 22;
const DOWN: u64 = 1 << 26;

/// What lies in a buffer.
#[derive(Clone, Debug)]
enum Piece<'a> {
    /// So many sentinels, outside of every tensor.
    Band(usize),
    /// A tensor that the kernels read, and perhaps write.
    Given { name: &'static str, words: Cow<'a, [u32]>, written: bool },
    /// A tensor of so many words that the kernels write.
    Empty { name: &'static str, count: usize },
}

impl Piece<'_> {
    fn count(&self) -> usize {
        match self {
            Self::Band(count) | Self::Empty { count, .. } => *count,
            Self::Given { words, .. } => words.len(),
        }
    }
}

/// Where a tensor lies, in bytes.
#[derive(Clone, Copy, Debug)]
struct ArenaRegion {
    buffer: usize,
    offset: u64,
    size: u64,
}

/// A set of named tensors in buffers of their own, or pooled in one.
pub struct Arena<'a> {
    regions: HashMap<&'static str, ArenaRegion>,
    /// What each buffer holds before the run.
    images: Vec<Vec<Piece<'a>>>,
    buffers: Vec<wgpu::Buffer>,
    pooled: bool,
    packing: bool,
    /// Buffers that nothing more is added to.
    closed: usize,
}

/// The words of the tensors that were written.
pub type Outputs = HashMap<&'static str, Vec<u32>>;

impl<'a> Arena<'a> {
    /// An empty arena; `pooled` puts all tensors into one buffer.
    pub fn new(pooled: bool) -> Self {
        Self { regions: HashMap::new(), images: Vec::new(), buffers: Vec::new(), pooled, packing: false, closed: 0 }
    }

    /// Adds a tensor that is only read.
    pub fn input(&mut self, name: &'static str, words: Cow<'a, [u32]>) {
        self.add(name, Piece::Given { name, words, written: false });
    }

    /// Adds a tensor that is read and written.
    pub fn in_out(&mut self, name: &'static str, words: Cow<'a, [u32]>) {
        self.add(name, Piece::Given { name, words, written: true });
    }

    /// Adds a tensor of `bytes` bytes that is written.
    pub fn output(&mut self, name: &'static str, bytes: u64) {
        self.add(name, Piece::Empty { name, count: bytes as usize / 4 });
    }

    /// Puts the tensors that are added from here on side by side in a buffer of their own, without a band in between, where they begin
    /// at any word; until [`Arena::unpack`].
    pub fn pack(&mut self) {
        self.images.push(vec![Piece::Band(BAND as usize / 4 + PACKED_AT), Piece::Band(BAND as usize / 4)]);
        self.packing = true;
    }

    /// Ends what [`Arena::pack`] began.
    pub fn unpack(&mut self) {
        self.packing = false;
        self.closed = self.images.len();
    }

    fn add(&mut self, name: &'static str, piece: Piece<'a>) {
        const BAND_WORDS: usize = BAND as usize / 4;
        if self.packing {
            let buffer = self.images.len() - 1;
            let image = &mut self.images[buffer];
            let last = image.len() - 1;
            let before: usize = image[..last].iter().map(Piece::count).sum();
            self.regions
                .insert(name, ArenaRegion { buffer, offset: before as u64 * 4, size: piece.count() as u64 * 4 });
            image.insert(last, piece);
            return;
        }
        if !self.pooled || self.images.len() == self.closed {
            self.images.push(vec![Piece::Band(BAND_WORDS)]);
        }
        let buffer = self.images.len() - 1;
        let image = &mut self.images[buffer];
        let before: usize = image.iter().map(Piece::count).sum();
        let count = piece.count();
        let end = (before + count).next_multiple_of(BAND_WORDS) + BAND_WORDS;
        image.extend([piece, Piece::Band(end - before - count)]);
        self.regions.insert(name, ArenaRegion { buffer, offset: before as u64 * 4, size: count as u64 * 4 });
    }

    /// Creates the buffers and uploads them.
    ///
    /// # Errors
    /// What the device reports.
    pub fn upload(&mut self, device: &wgpu::Device, queue: &wgpu::Queue) -> Result<()> {
        let upload = |image: &Vec<Piece<'_>>| {
            let words: usize = image.iter().map(Piece::count).sum();
            let buffer = storage(device, "arena", words as u64 * 4)?;
            guarded(device, "uploading a tensor", || fill(&buffer, image, device, queue))?;
            Ok(buffer)
        };
        self.buffers = self.images.iter().map(upload).collect::<Result<_>>()?;
        Ok(())
    }

    /// The binding of a tensor.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for a name that was never added.
    pub fn binding(&self, name: &'static str) -> Result<wgpu::BufferBinding<'_>> {
        let unknown = || Error::Mismatch { name, expected: "a tensor of the arena".into(), actual: "none".into() };
        let ArenaRegion { buffer, offset, size } = *self.regions.get(name).ok_or_else(unknown)?;
        Ok(wgpu::BufferBinding { buffer: &self.buffers[buffer], offset, size: wgpu::BufferSize::new(size) })
    }

    /// Reads every buffer back and takes out the tensors that were written, or says what was written where it must not be.
    ///
    /// # Errors
    /// What the device reports; in the inner result a sentence that names the tensor and the place.
    pub fn outputs(&self, device: &wgpu::Device, queue: &wgpu::Queue) -> Result<Result<Outputs, String>> {
        let mut outputs = Outputs::new();
        let mut from = 0;
        while from < self.buffers.len() {
            let mut size = self.buffers[from].size();
            let mut to = from + 1;
            while to < self.buffers.len() && size + self.buffers[to].size() <= DOWN {
                size += self.buffers[to].size();
                to += 1;
            }
            let buffers: Vec<_> = self.buffers[from..to].iter().collect();
            for (buffer, bytes) in (from..).zip(download(device, queue, &buffers)?) {
                if let Err(wrong) = self.take(buffer, bytes, &mut outputs) {
                    return Ok(Err(wrong));
                }
            }
            from = to;
        }
        Ok(Ok(outputs))
    }

    /// Takes the tensors of one buffer out of what it holds after the run.
    fn take(&self, buffer: usize, bytes: Vec<u8>, outputs: &mut Outputs) -> Result<(), String> {
        let mut at = 0;
        for piece in &self.images[buffer] {
            let after =
                bytes[4 * at..4 * (at + piece.count())].as_chunks().0.iter().map(|&word| u32::from_le_bytes(word));
            let outside =
                |i: usize| format!("word {} of buffer {buffer}, outside of every tensor, was written", at + i);
            match piece {
                Piece::Band(_) => first(after, |word, _| word != SENTINEL).map_or(Ok(()), |i| Err(outside(i)))?,
                Piece::Given { name, words, written: false } => {
                    let changed = first(after, |word, i| word != words[i]);
                    changed.map_or(Ok(()), |i| Err(format!("{name} is an input, and its word {i} was written")))?;
                }
                Piece::Given { name, .. } | Piece::Empty { name, .. } => {
                    outputs.insert(name, after.collect());
                }
            }
            at += piece.count();
        }
        Ok(())
    }
}

/// The first word for which `is` holds.
fn first(mut words: impl Iterator<Item = u32>, is: impl Fn(u32, usize) -> bool) -> Option<usize> {
    let mut at = 0..;
    words.position(|word| is(word, at.next().unwrap_or_default()))
}

/// Writes what a buffer holds before the run, a few words at a time.
fn fill(buffer: &wgpu::Buffer, image: &[Piece<'_>], device: &wgpu::Device, queue: &wgpu::Queue) {
    let most = image.iter().map(Piece::count).max().unwrap_or_default();
    let sentinels = vec![SENTINEL; most.min(UP)];
    let mut at = 0;
    let mut waiting = 0;
    for piece in image {
        for from in (0..piece.count()).step_by(UP) {
            let to = (from + UP).min(piece.count());
            let words = match piece {
                Piece::Given { words, .. } => &words[from..to],
                Piece::Band(_) | Piece::Empty { .. } => &sentinels[..to - from],
            };
            queue.write_buffer(buffer, (at + from) as u64 * 4, bytemuck::cast_slice(words));
            waiting += words.len();
            if waiting >= UP {
                // Until then the words are there a second time, on their way. A device that is lost says so later.
                queue.submit([]);
                let _ = device.poll(wgpu::PollType::wait_indefinitely());
                waiting = 0;
            }
        }
        at += piece.count();
    }
}

/// Values as they lie in a tensor's words. Behind an odd last element of 16 bits lies half a sentinel.
pub fn to_words(values: &[f32], dtype: DType) -> Cow<'_, [u32]> {
    let halves = |bits: &dyn Fn(f32) -> u16| {
        let pair = |pair: &[f32]| {
            let high = pair.get(1).map_or(SENTINEL as u16, |&value| bits(value));
            u32::from(bits(pair[0])) | u32::from(high) << 16
        };
        values.chunks(2).map(pair).collect()
    };
    match dtype {
        DType::F32 => Cow::Borrowed(bytemuck::cast_slice(values)),
        DType::F16 => halves(&|value| half::f16::from_f32(value).to_bits()),
        DType::Bf16 => halves(&|value| half::bf16::from_f32(value).to_bits()),
    }
}

/// The `count` values of a tensor that was written.
///
/// # Errors
/// A sentence about an element that was not written, or about the half word behind the last one if that was.
pub fn from_words(words: Vec<u32>, dtype: DType, count: usize) -> Result<Vec<f32>, String> {
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
        DType::F32 => bytemuck::cast_vec(words),
        DType::F16 => halves().take(count).map(|half| half::f16::from_bits(half).to_f32()).collect(),
        DType::Bf16 => halves().take(count).map(|half| half::bf16::from_bits(half).to_f32()).collect(),
    })
}

/// A tensor's words as they lie in a wider one's, where it is a view: around it lie sentinels.
pub fn widened<'a>(words: Cow<'a, [u32]>, shape: &Shape, view: Option<View>, dtype: DType) -> Cow<'a, [u32]> {
    let Some(view) = view else { return words };
    let mut wide = vec![SENTINEL; wide_bytes(shape, Some(view), dtype) as usize / 4];
    match dtype {
        DType::F32 => places(shape, view).zip(words.iter()).for_each(|(at, &word)| wide[at] = word),
        DType::F16 | DType::Bf16 => {
            let wide: &mut [u16] = bytemuck::cast_slice_mut(&mut wide);
            let halves: &[u16] = bytemuck::cast_slice(&words);
            places(shape, view).zip(halves).for_each(|(at, &half)| wide[at] = half);
        }
    }
    wide.into()
}

/// The words of a view, out of those of the wider tensor.
///
/// # Errors
/// A sentence about an element outside of the view that was written.
pub fn narrowed(wide: Vec<u32>, shape: &Shape, view: Option<View>, dtype: DType) -> Result<Vec<u32>, String> {
    fn split<T: Copy + PartialEq>(wide: &[T], shape: &Shape, view: View, sentinel: T) -> Result<Vec<T>, String> {
        let mut inside = vec![false; wide.len()];
        places(shape, view).for_each(|at| inside[at] = true);
        let outside = wide.iter().zip(&inside).position(|(element, inside)| !inside && *element != sentinel);
        match outside {
            Some(at) => Err(format!("element {at} of the wider tensor, outside of the view, was written")),
            None => Ok(wide.iter().zip(&inside).filter(|(_, inside)| **inside).map(|(element, _)| *element).collect()),
        }
    }
    let Some(view) = view else { return Ok(wide) };
    Ok(match dtype {
        DType::F32 => split(&wide, shape, view, SENTINEL)?,
        DType::F16 | DType::Bf16 => {
            let mut halves = split::<u16>(bytemuck::cast_slice(&wide), shape, view, SENTINEL as u16)?;
            halves.resize(halves.len().next_multiple_of(2), SENTINEL as u16);
            bytemuck::pod_collect_to_vec(&halves)
        }
    })
}

/// Bytes of a tensor, or of the wider one that it is a view of.
pub fn wide_bytes(shape: &Shape, view: Option<View>, dtype: DType) -> u64 {
    dtype.bytes(shape.outer() * view.map_or(shape.channels(), |view| view.of) * shape.inner())
}

/// Where the elements of a view lie in the wider tensor.
fn places(shape: &Shape, view: View) -> impl Iterator<Item = usize> {
    let (slice, from, count) = (view.of * shape.inner(), view.first * shape.inner(), shape.channels() * shape.inner());
    (0..shape.outer()).flat_map(move |outer| (0..count).map(move |i| outer * slice + from + i))
}

/// The nearest value of the dtype, as tensors store it.
pub fn rounded(value: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F32 => value,
        DType::F16 => half::f16::from_f32(value).to_f32(),
        DType::Bf16 => half::bf16::from_f32(value).to_f32(),
    }
}
