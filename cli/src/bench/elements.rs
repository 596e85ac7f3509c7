//! Values as the bytes of a tensor.

use batchnorm_wgpu::DType;
use batchnorm_wgpu::host::half;

/// Values as a tensor's bytes, filled up to whole vectors of sixteen.
pub fn encode(values: &[f32], dtype: DType) -> Vec<u8> {
    fn bytes<T: bytemuck::Pod>(values: &[f32], convert: fn(f32) -> T) -> Vec<u8> {
        bytemuck::cast_slice(&values.iter().map(|&value| convert(value)).collect::<Vec<T>>()).to_vec()
    }
    let mut bytes = match dtype {
        DType::F32 => bytemuck::cast_slice(values).to_vec(),
        DType::F16 => bytes(values, half::f16::from_f32),
        DType::Bf16 => bytes(values, half::bf16::from_f32),
    };
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    bytes
}

/// The values of a tensor's bytes.
pub fn decode(bytes: &[u8], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::F32 => bytemuck::pod_collect_to_vec(bytes),
        DType::F16 => bytemuck::pod_collect_to_vec::<u8, half::f16>(bytes).into_iter().map(f32::from).collect(),
        DType::Bf16 => bytemuck::pod_collect_to_vec::<u8, half::bf16>(bytes).into_iter().map(f32::from).collect(),
    }
}
