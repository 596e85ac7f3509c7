//! The copy kernel that all others are measured against.

use super::clock::{Job, Samples, Stopwatch};
use super::record;
use crate::AnyError;
use batchnorm_wgpu::host::{Gpu, guarded, storage};
use batchnorm_wgpu::wgpu;
use std::time::Duration;

/// Bytes of the tensor that is copied: what software adapters get through in milliseconds, and what a GPU needs to get up to
/// speed.
const SOFTWARE_BYTES: u64 = 8 << 20;
const GPU_BYTES: u64 = 128 << 20;
const WORKGROUP_SIZES: [u32; 5] = [8, 32, 128, 256, 1024];
const WORKGROUPS: [u32; 6] = [4, 16, 64, 512, 4096, 32768];
/// Pairs of tensors.
const SETS: usize = 4;

/// A copy kernel with the shape of its dispatch.
pub struct CopyKernel {
    pipeline: wgpu::ComputePipeline,
    bind_groups: Vec<wgpu::BindGroup>,
    workgroup_size: u32,
    workgroups: u32,
    bytes: u64,
}

impl CopyKernel {
    /// Times the candidates and returns the fastest: no constant fits every adapter.
    pub fn fastest(gpu: &Gpu) -> Result<Self, AnyError> {
        let all = Self::candidates(gpu)?;
        let medians = Self::medians(gpu, &all)?;
        let fastest = all.into_iter().zip(medians).min_by(|(_, one), (_, other)| one.total_cmp(other));
        fastest.map(|(copy, _)| copy).ok_or_else(|| "no copy kernel can run".into())
    }

    fn medians(gpu: &Gpu, all: &[Self]) -> Result<Vec<f64>, AnyError> {
        let jobs: Vec<Job<'_>> = all.iter().map(Self::job).collect();
        let Some(first) = jobs.first() else { return Ok(Vec::new()) };
        let samples =
            Stopwatch::new(gpu, first)?.measure(&jobs.iter().collect::<Vec<_>>(), 3, Duration::from_millis(8))?;
        Ok(samples.iter().map(|samples| samples.timing().median).collect())
    }

    fn candidates(gpu: &Gpu) -> Result<Vec<Self>, AnyError> {
        let limits = gpu.device.limits();
        let software = gpu.info.device_type == wgpu::DeviceType::Cpu;
        let bytes = if software { SOFTWARE_BYTES } else { GPU_BYTES };
        let bytes = bytes.min(limits.max_storage_buffer_binding_size);
        let pairs = (0..SETS)
            .map(|_| Ok([storage(&gpu.device, "from", bytes)?, storage(&gpu.device, "to", bytes)?]))
            .collect::<Result<Vec<_>, AnyError>>()?;
        let mut all = Vec::new();
        for workgroup_size in WORKGROUP_SIZES {
            if workgroup_size > limits.max_compute_invocations_per_workgroup {
                continue;
            }
            let pipeline = pipeline(gpu, workgroup_size)?;
            for workgroups in WORKGROUPS {
                let bind_groups = pairs.iter().map(|pair| bind(gpu, &pipeline, pair)).collect();
                all.push(Self { pipeline: pipeline.clone(), bind_groups, workgroup_size, workgroups, bytes });
            }
        }
        Ok(all)
    }

    /// The kernel as something to time.
    pub fn job(&self) -> Job<'_> {
        let encode = |i: usize, pass: &mut wgpu::ComputePass<'_>| {
            pass.set_pipeline(&self.pipeline);
            pass.set_bind_group(0, &self.bind_groups[i], &[]);
            pass.dispatch_workgroups(self.workgroups, 1, 1);
        };
        Job { steps: self.bind_groups.len(), encode: Box::new(encode) }
    }

    /// Fraction of this kernel's speed at which `own` moves `bytes`, where both were timed in turn.
    pub fn fraction(&self, copy: &Samples, own: &Samples, bytes: u64) -> f64 {
        own.speed_over(copy) * bytes as f64 / (2 * self.bytes) as f64
    }

    /// The figures, given its times over the whole run.
    pub fn record(&self, microseconds: f64) -> record::Copy {
        record::Copy {
            gigabytes_per_second: 2.0 * self.bytes as f64 / microseconds / 1e3,
            bytes: self.bytes,
            workgroup_size: self.workgroup_size,
            workgroups: self.workgroups,
        }
    }
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

fn bind(gpu: &Gpu, pipeline: &wgpu::ComputePipeline, [from, to]: &[wgpu::Buffer; 2]) -> wgpu::BindGroup {
    gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("copy"),
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[
            wgpu::BindGroupEntry { binding: 0, resource: from.as_entire_binding() },
            wgpu::BindGroupEntry { binding: 1, resource: to.as_entire_binding() },
        ],
    })
}
