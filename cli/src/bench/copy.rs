//! The copy kernel that all others are measured against.

use super::clock::{Job, Samples, Stopwatch};
use super::record;
use super::workload::sets;
use crate::AnyError;
use batchnorm_wgpu::host::{Gpu, guarded, storage};
use batchnorm_wgpu::wgpu;
use std::time::Duration;

/// Its WGSL.
pub const TEXT: &str = include_str!("../../shaders/copy.wgsl");

/// Bytes of the tensor that is copied: what software adapters get through in milliseconds, and what a GPU needs to get up to
/// speed.
const SOFTWARE_BYTES: u64 = 8 << 20;
const GPU_BYTES: u64 = 128 << 20;
/// Workgroup sizes and numbers of workgroups that are tried.
const SOFTWARE_CANDIDATES: (&[u32], &[u32]) = (&[8, 32, 256], &[4, 16, 64, 512]);
const GPU_CANDIDATES: (&[u32], &[u32]) = (&[64, 128, 256, 512, 1024], &[64, 512, 2048, 8192, 32768]);

/// A copy kernel with the shape of its dispatch.
pub struct CopyKernel {
    pipeline: wgpu::ComputePipeline,
    bind_groups: Vec<wgpu::BindGroup>,
    workgroup_size: u32,
    workgroups: u32,
    segments: bool,
    bytes: u64,
}

impl CopyKernel {
    /// Times the candidates and returns the fastest: no constant fits every adapter.
    pub fn fastest(gpu: &Gpu) -> Result<Self, AnyError> {
        let all = Self::candidates(gpu)?;
        // The best few once more: a single lucky sample does not decide.
        let few = Self::ranked(gpu, all, 3, Duration::from_millis(5))?.into_iter().take(6).collect();
        let best = Self::ranked(gpu, few, 9, Duration::from_millis(10))?;
        best.into_iter().next().ok_or_else(|| "no copy kernel can run".into())
    }

    /// The candidates, the fastest first; all are timed in turn.
    fn ranked(gpu: &Gpu, all: Vec<Self>, rounds: usize, least: Duration) -> Result<Vec<Self>, AnyError> {
        let jobs: Vec<Job<'_>> = all.iter().map(Self::job).collect();
        let Some(first) = jobs.first() else { return Ok(Vec::new()) };
        let samples = Stopwatch::new(gpu, first)?.measure(&jobs.iter().collect::<Vec<_>>(), rounds, least)?;
        let medians: Vec<f64> = samples.iter().map(|samples| samples.timing().median).collect();
        drop(jobs);
        let mut ranked: Vec<(Self, f64)> = all.into_iter().zip(medians).collect();
        ranked.sort_by(|(_, one), (_, other)| one.total_cmp(other));
        Ok(ranked.into_iter().map(|(copy, _)| copy).collect())
    }

    fn candidates(gpu: &Gpu) -> Result<Vec<Self>, AnyError> {
        let limits = gpu.device.limits();
        let software = gpu.info.device_type == wgpu::DeviceType::Cpu;
        let bytes = if software { SOFTWARE_BYTES } else { GPU_BYTES };
        let bytes = bytes.min(limits.max_storage_buffer_binding_size);
        let pairs = (0..sets(2, bytes))
            .map(|_| Ok([storage(&gpu.device, "from", bytes)?, storage(&gpu.device, "to", bytes)?]))
            .collect::<Result<Vec<_>, AnyError>>()?;
        let mut all = Vec::new();
        let (sizes, numbers) = if software { SOFTWARE_CANDIDATES } else { GPU_CANDIDATES };
        for &workgroup_size in sizes {
            if workgroup_size > limits.max_compute_invocations_per_workgroup {
                continue;
            }
            for segments in [false, true] {
                let pipeline = pipeline(gpu, workgroup_size, segments)?;
                for &workgroups in numbers {
                    let bind_groups = pairs.iter().map(|pair| bind(gpu, &pipeline, pair)).collect();
                    all.push(Self {
                        pipeline: pipeline.clone(),
                        bind_groups,
                        workgroup_size,
                        workgroups,
                        segments,
                        bytes,
                    });
                }
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

    /// Invocations per workgroup, workgroups, and whether each has a segment of its own: what suits a kernel that goes over
    /// its tensors once.
    pub fn layout(&self) -> (u32, u32, bool) {
        (self.workgroup_size, self.workgroups, self.segments)
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

fn pipeline(gpu: &Gpu, workgroup_size: u32, segments: bool) -> Result<wgpu::ComputePipeline, AnyError> {
    Ok(guarded(&gpu.device, "compiling the copy kernel", || {
        let source = wgpu::ShaderSource::Wgsl(TEXT.into());
        let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some("copy"), source });
        gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("copy"),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[("WORKGROUP", workgroup_size.into()), ("SEGMENTS", f64::from(u8::from(segments)))],
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
