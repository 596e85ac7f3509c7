//! The copy kernel that all others are measured against.

use super::timing::measure;
use crate::AnyError;
use batchnorm_wgpu::host::{Gpu, guarded, storage};
use batchnorm_wgpu::wgpu;
use serde::Serialize;

/// The best copy kernel of an adapter.
#[derive(Clone, Debug, Serialize)]
pub struct Best {
    /// Bytes read and written per second.
    pub gigabytes_per_second: f64,
    /// Invocations per workgroup.
    pub workgroup_size: u32,
    /// Workgroups.
    pub workgroups: u32,
}

/// Bytes of the tensor that is copied: what software adapters get through in milliseconds, and what a GPU needs to get up to
/// speed.
const SOFTWARE_BYTES: u64 = 8 << 20;
const GPU_BYTES: u64 = 128 << 20;
const WORKGROUP_SIZES: [u32; 3] = [32, 128, 256];
const WORKGROUPS: [u32; 6] = [4, 16, 64, 512, 4096, 32768];

struct Copy {
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    workgroups: u32,
}

/// Times the candidates and returns the fastest: no constant fits every adapter.
pub fn best(gpu: &Gpu, samples: usize) -> Result<Best, AnyError> {
    let software = gpu.info.device_type == wgpu::DeviceType::Cpu;
    let bytes = if software { SOFTWARE_BYTES } else { GPU_BYTES };
    let bytes = bytes.min(gpu.device.limits().max_storage_buffer_binding_size);
    let buffers = (0..4)
        .map(|_| Ok([storage(&gpu.device, "from", bytes)?, storage(&gpu.device, "to", bytes)?]))
        .collect::<Result<Vec<_>, AnyError>>()?;
    let mut best: Option<Best> = None;
    for workgroup_size in WORKGROUP_SIZES {
        let pipeline = pipeline(gpu, workgroup_size)?;
        for workgroups in WORKGROUPS {
            let copies: Vec<Copy> = buffers.iter().map(|pair| bind(gpu, &pipeline, pair, workgroups)).collect();
            let timing = measure(gpu, &copies, samples.min(5), |copy, pass| {
                pass.set_pipeline(&copy.pipeline);
                pass.set_bind_group(0, &copy.bind_group, &[]);
                pass.dispatch_workgroups(copy.workgroups, 1, 1);
            })?;
            let gigabytes_per_second = 2.0 * bytes as f64 / timing.median / 1e3;
            if best.as_ref().is_none_or(|best| gigabytes_per_second > best.gigabytes_per_second) {
                best = Some(Best { gigabytes_per_second, workgroup_size, workgroups });
            }
        }
    }
    best.ok_or_else(|| "no copy kernel could be timed".into())
}

fn pipeline(gpu: &Gpu, workgroup_size: u32) -> Result<wgpu::ComputePipeline, AnyError> {
    Ok(guarded(&gpu.device, "compiling the copy kernel", || {
        let source = wgpu::ShaderSource::Wgsl(include_str!("../../shaders/copy.wgsl").into());
        let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some("copy"), source });
        gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("copy"),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[("WORKGROUP", workgroup_size.into())],
                ..Default::default()
            },
            cache: None,
        })
    })?)
}

fn bind(gpu: &Gpu, pipeline: &wgpu::ComputePipeline, [from, to]: &[wgpu::Buffer; 2], workgroups: u32) -> Copy {
    let bind_group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("copy"),
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[
            wgpu::BindGroupEntry { binding: 0, resource: from.as_entire_binding() },
            wgpu::BindGroupEntry { binding: 1, resource: to.as_entire_binding() },
        ],
    });
    Copy { pipeline: pipeline.clone(), bind_group, workgroups }
}
