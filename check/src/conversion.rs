//! The conversion of elements of 16 bits, by itself: every value of both types, and around every point where rounding turns.

use crate::compute::{BindingUse, CompiledKernel};
use batchnorm_wgpu::host::{download, storage, upload};
use batchnorm_wgpu::kernels::{Shader, Source};
use batchnorm_wgpu::{Error, wgpu};
use half::{bf16, f16};
use std::borrow::Cow;

/// One invocation for each input: what it becomes, and what that is read as.
const KERNEL: &str = "
@group(0) @binding(0) var<storage, read> inputs: array<f32>;
@group(0) @binding(1) var<storage, read_write> outputs: array<vec2<u32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let bits = rounded(inputs[id.x]);
    let read = halves(bits | (bits << 16u));
    // Both halves of a word are read alike.
    outputs[id.x] = vec2<u32>(bits, select(0x7fedcba9u, bitcast<u32>(read.x), bitcast<u32>(read.x) == bitcast<u32>(read.y)));
}
";

/// A 16-bit type as the crate `half` has it.
struct Type {
    storage: &'static str,
    narrow: fn(f32) -> u16,
    widen: fn(u16) -> f32,
}

const TYPES: [Type; 2] = [
    Type {
        storage: "f16_words",
        narrow: |value| f16::from_f32(value).to_bits(),
        widen: |bits| f16::from_bits(bits).to_f32(),
    },
    Type {
        storage: "bf16_words",
        narrow: |value| bf16::from_f32(value).to_bits(),
        widen: |bits| bf16::from_bits(bits).to_f32(),
    },
];

/// Why a conversion is not what it must be.
#[derive(Debug, thiserror::Error)]
pub enum ConversionError {
    /// The library or the device refused.
    #[error(transparent)]
    Library(#[from] Error),
    /// A value came out wrong.
    #[error("{storage}: {what}")]
    Wrong {
        /// What values are stored in.
        storage: &'static str,
        /// The value, what it became, and what was expected.
        what: String,
    },
}

/// Whether a file of the shaders converts.
pub fn is_tested(file: &str) -> bool {
    file == "common/elements.wgsl"
}

/// Holds the conversions against the crate `half`: rounding to nearest with ties to even, overflow to infinity, NaN to NaN;
/// subnormals of f32 may be flushed on the way. `text_of` gives the texts of the files.
///
/// # Errors
/// [`ConversionError`].
pub fn check(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    text_of: &dyn Fn(&Source) -> Cow<'static, str>,
) -> Result<(), ConversionError> {
    for kind in &TYPES {
        let inputs = inputs(kind);
        let outputs = run(device, queue, kind, &inputs, text_of)?;
        let wrong = inputs.iter().zip(&outputs).find_map(|(&input, &output)| kind.judge(input, output));
        if let Some(what) = wrong {
            return Err(ConversionError::Wrong { storage: kind.storage, what });
        }
    }
    Ok(())
}

impl Type {
    /// What is wrong with the bits that `input` became, or with what they are read as.
    fn judge(&self, input: f32, [bits, read]: [u32; 2]) -> Option<String> {
        let want = (self.narrow)(input);
        let flushed = input.is_subnormal() && bits as u16 & 0x7fff == 0;
        let both_nan = (self.widen)(want).is_nan() && (self.widen)(bits as u16).is_nan();
        if bits > 0xffff || (bits as u16 != want && !both_nan && !flushed) {
            return Some(format!("{input:e} became {bits:#x}, expected {want:#x}"));
        }
        let (read, want) = (f32::from_bits(read), (self.widen)(bits as u16));
        // Widening is exact, but for what a device flushes.
        let small = want.abs() < (self.widen)(0x0400).max(f32::MIN_POSITIVE);
        let differs = read.to_bits() != want.to_bits() && !(read.is_nan() && want.is_nan()) && !(small && read == 0.0);
        differs.then(|| format!("{bits:#x} is read as {read:e}, expected {want:e}"))
    }
}

/// Every value of the type, the middle between it and the next, and their f32 neighbours.
fn inputs(kind: &Type) -> Vec<f32> {
    let all = (0..=u16::MAX).flat_map(|bits| {
        let value = (kind.widen)(bits);
        let next = (kind.widen)(bits.saturating_add(1));
        let middle = if next.is_finite() { 0.5 * value + 0.5 * next } else { value * (1.0 + 1.0 / 4096.0) };
        [value, middle].into_iter().flat_map(|at| [-1i32, 0, 1].map(|step| neighbour(at, step)))
    });
    let beyond = [65519.9, 65520.0, 65536.0, 1e30, f32::MAX, 3.4e38, f32::INFINITY, f32::NAN];
    let mut inputs: Vec<f32> = all.chain(beyond).chain(beyond.map(|value| -value)).collect();
    inputs.resize(inputs.len().next_multiple_of(64), 0.0);
    inputs
}

fn neighbour(value: f32, step: i32) -> f32 {
    f32::from_bits(value.to_bits().wrapping_add_signed(step))
}

fn run(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    kind: &Type,
    inputs: &[f32],
    text_of: &dyn Fn(&Source) -> Cow<'static, str>,
) -> Result<Vec<[u32; 2]>, ConversionError> {
    let mut shader = Shader::default();
    let has = |feature: &str| ["scalar", "words", "half_words", kind.storage].contains(&feature);
    shader.link(&Source { path: "conversion", text: KERNEL }, &has, 1, text_of);
    let from = upload(device, queue, "inputs", bytemuck::cast_slice(inputs))?;
    let to = storage(device, "outputs", 8 * inputs.len() as u64)?;
    let pipeline =
        CompiledKernel::new(device, kind.storage, &shader.text, &[BindingUse::Read, BindingUse::Write], &[])?;
    let buffers = [&from, &to].map(wgpu::Buffer::as_entire_buffer_binding);
    pipeline.bind(&buffers, (inputs.len() / 64) as u32)?.run(queue)?;
    let bytes = download(device, queue, &[&to])?.remove(0);
    Ok(bytes.chunks_exact(8).map(bytemuck::pod_read_unaligned).collect())
}
