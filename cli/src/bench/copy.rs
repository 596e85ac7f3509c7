//! The copy kernel that all others are measured against.

use super::record;
use crate::AnyError;
use batchnorm_wgpu::host::measure::{Job, Samples, Stopwatch, sets};
use batchnorm_wgpu::host::{Gpu, storage};
use batchnorm_wgpu::wgpu;
use batchnorm_wgpu_check::compute::{BindingUse, BoundKernel, CompiledKernel};
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
    /// One for each pair of tensors.
    dispatches: Vec<BoundKernel>,
    workgroup_size: u32,
    workgroups: u32,
    segments: bool,
    bytes: u64,
}

impl CopyKernel {
    /// Times the candidates and returns the fastest: no constant fits every adapter.
    pub fn fastest(gpu: &Gpu) -> Result<Self, AnyError> {
        let all = Self::candidates(gpu)?;
        // The best few once more, on all tensors: a single lucky sample does not decide.
        let few = Self::ranked(gpu, all, 4, 3, Duration::from_millis(5))?.into_iter().take(4).collect();
        let best = Self::ranked(gpu, few, usize::MAX, 9, Duration::from_millis(10))?;
        best.into_iter().next().ok_or_else(|| "no copy kernel can run".into())
    }

    /// The candidates, the fastest first; all are timed in turn, on so many pairs of tensors at the most.
    fn ranked(gpu: &Gpu, all: Vec<Self>, pairs: usize, rounds: usize, least: Duration) -> Result<Vec<Self>, AnyError> {
        let on_pairs = |copy| {
            let job = Self::job(copy);
            Job { steps: job.steps.min(pairs), ..job }
        };
        let jobs: Vec<Job<'_>> = all.iter().map(on_pairs).collect();
        let Some(first) = jobs.first() else { return Ok(Vec::new()) };
        let watch = Stopwatch::new(&gpu.device, &gpu.queue, first)?;
        let samples = watch.measure(&jobs.iter().collect::<Vec<_>>(), rounds, least)?;
        let medians: Vec<f64> = samples.iter().map(Samples::median).collect();
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
                let constants = constants(workgroup_size, segments);
                let pipeline =
                    CompiledKernel::new(&gpu.device, "copy", TEXT, &[BindingUse::Read, BindingUse::Write], &constants)?;
                for &workgroups in numbers {
                    let bind = |pair: &[wgpu::Buffer; 2]| {
                        pipeline.bind(&pair.each_ref().map(wgpu::Buffer::as_entire_buffer_binding), workgroups)
                    };
                    let dispatches = pairs.iter().map(bind).collect::<Result<_, _>>()?;
                    all.push(Self { dispatches, workgroup_size, workgroups, segments, bytes });
                }
            }
        }
        Ok(all)
    }

    /// The kernel as something to time.
    pub fn job(&self) -> Job<'_> {
        Job { steps: self.dispatches.len(), encode: Box::new(|i, pass| self.dispatches[i].encode(pass)) }
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

/// The overrides of a kernel that is laid out so.
pub fn constants(workgroup_size: u32, segments: bool) -> [(&'static str, f64); 2] {
    [("WORKGROUP", workgroup_size.into()), ("SEGMENTS", u8::from(segments).into())]
}
