//! Times: the GPU's own around a pass where they can be believed, else the host's from submission to completion.

use super::record::{Clock, Timing};
use crate::AnyError;
use batchnorm_wgpu::host::{Gpu, download, guarded};
use batchnorm_wgpu::wgpu;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// Features that give the GPU's own times.
pub const FEATURES: wgpu::Features = wgpu::Features::TIMESTAMP_QUERY;

/// Something to time: it records its i-th step into a pass. Steps have tensors of their own, so that no cache holds them.
pub struct Job<'a> {
    /// Number of different steps.
    pub steps: usize,
    /// Records one.
    #[allow(clippy::type_complexity)]
    pub encode: Box<dyn Fn(usize, &mut wgpu::ComputePass<'_>) + 'a>,
}

/// Bytes of tensors that are gone through before one is used again, so that no cache holds it. Larger than the last-level
/// caches of today's desktop processors and GPUs.
const ROTATION: u64 = 256 << 20;
/// Most sets of tensors: small ones would need thousands, and where dispatch dominates the cache does not matter.
const MOST_SETS: u64 = 16;

/// How many sets of `tensors` tensors of `bytes` bytes are gone through in turn.
pub fn sets(tensors: u64, bytes: u64) -> u64 {
    (ROTATION / (tensors * bytes)).clamp(2, MOST_SETS)
}

/// Measures on one device.
pub struct Stopwatch<'a> {
    gpu: &'a Gpu,
    queries: Option<Queries>,
    /// Steps taken so far: a sample goes on where the one before it stopped.
    taken: Cell<usize>,
}

struct Queries {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    nanoseconds: f64,
}

impl<'a> Stopwatch<'a> {
    /// Takes the GPU's timestamps if the device has them and, for `job`, they tell about what the host's clock tells.
    pub fn new(gpu: &'a Gpu, job: &Job<'_>) -> Result<Self, AnyError> {
        let wall = Self { gpu, queries: None, taken: Cell::new(0) };
        if !gpu.device.features().contains(FEATURES) {
            return Ok(wall);
        }
        let stamped = Self { gpu, queries: Some(Queries::new(gpu)?), taken: Cell::new(0) };
        let count = wall.calibrate(job, Duration::from_millis(30))?;
        let (own, hosts) = (stamped.sample(job, count)?, wall.sample(job, count)?);
        // Some drivers return zeros, negative differences, or count something else.
        let plausible = own > 0.5 * hosts && own < 1.2 * hosts;
        Ok(if plausible { stamped } else { wall })
    }

    /// Where the times come from.
    pub fn clock(&self) -> Clock {
        if self.queries.is_some() { Clock::Timestamps } else { Clock::WallTime }
    }

    /// Microseconds of one step of each job, `rounds` times; the jobs take turns, so that what slows the machine slows all.
    /// A sample lasts `least`. Warms up first: the first use of a buffer clears it, and that of a kernel may compile it.
    pub fn measure(&self, jobs: &[&Job<'_>], rounds: usize, least: Duration) -> Result<Vec<Samples>, AnyError> {
        let counts = jobs.iter().map(|job| self.calibrate(job, least)).collect::<Result<Vec<_>, _>>()?;
        let mut samples: Vec<Samples> = counts.iter().map(|&steps| Samples { steps, times: Vec::new() }).collect();
        for _ in 0..rounds {
            for (job, own) in jobs.iter().zip(&mut samples) {
                own.times.push(self.sample(job, own.steps)? / own.steps as f64);
            }
        }
        Ok(samples)
    }

    /// How many steps last `least`.
    fn calibrate(&self, job: &Job<'_>, least: Duration) -> Result<usize, AnyError> {
        let least = least.as_secs_f64() * 1e6;
        self.sample(job, job.steps)?;
        let mut count = 1;
        loop {
            let lasted = self.sample(job, count)?.max(1.0);
            if lasted >= least || count >= 1 << 14 {
                return Ok(count);
            }
            count = (count as f64 * (1.2 * least / lasted).clamp(1.5, 64.0)).ceil() as usize;
        }
    }

    /// Microseconds of `count` steps in one pass.
    fn sample(&self, job: &Job<'_>, count: usize) -> Result<f64, AnyError> {
        let Gpu { device, queue, .. } = self.gpu;
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let timestamp_writes = self.queries.as_ref().map(|queries| wgpu::ComputePassTimestampWrites {
                query_set: &queries.set,
                beginning_of_pass_write_index: Some(0),
                end_of_pass_write_index: Some(1),
            });
            let descriptor = wgpu::ComputePassDescriptor { label: Some("sample"), timestamp_writes };
            let mut pass = encoder.begin_compute_pass(&descriptor);
            let first = self.taken.replace(self.taken.get() + count);
            (first..first + count).for_each(|i| (job.encode)(i % job.steps, &mut pass));
        }
        if let Some(queries) = &self.queries {
            encoder.resolve_query_set(&queries.set, 0..2, &queries.resolved, 0);
        }
        let commands = encoder.finish();
        let begin = Instant::now();
        guarded(device, "timing", || queue.submit([commands]))?;
        device.poll(wgpu::PollType::wait_indefinitely())?;
        let hosts = begin.elapsed().as_secs_f64() * 1e6;
        match &self.queries {
            None => Ok(hosts),
            Some(queries) => queries.microseconds(self.gpu),
        }
    }
}

impl Queries {
    fn new(gpu: &Gpu) -> Result<Self, AnyError> {
        let device = &gpu.device;
        let descriptor = wgpu::QuerySetDescriptor { label: Some("timing"), ty: wgpu::QueryType::Timestamp, count: 2 };
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let buffer = wgpu::BufferDescriptor { label: Some("timing"), size: 16, usage, mapped_at_creation: false };
        let (set, resolved) =
            guarded(device, "timing", || (device.create_query_set(&descriptor), device.create_buffer(&buffer)))?;
        Ok(Self { set, resolved, nanoseconds: gpu.queue.get_timestamp_period().into() })
    }

    fn microseconds(&self, gpu: &Gpu) -> Result<f64, AnyError> {
        let bytes = download(&gpu.device, &gpu.queue, &[&self.resolved])?;
        let ticks: Vec<u64> = bytes.iter().flat_map(|bytes| bytemuck::pod_collect_to_vec::<u8, u64>(bytes)).collect();
        match ticks[..] {
            [begin, end] => Ok(end.saturating_sub(begin) as f64 * self.nanoseconds / 1e3),
            _ => Err(format!("expected two timestamps, got {}", ticks.len()).into()),
        }
    }
}

/// What [`Stopwatch::measure`] measured of one job.
pub struct Samples {
    /// Steps per sample.
    pub steps: usize,
    /// Microseconds of a step, sample by sample.
    pub times: Vec<f64>,
}

impl Samples {
    /// Median and spread.
    pub fn timing(&self) -> Timing {
        let at = |share| quantile(&self.times, share);
        Timing { median: at(0.5), spread: at(0.75) - at(0.25), steps: self.steps, samples: self.times.len() }
    }

    /// The median ratio of `other`'s time to this one, sample by sample: they were taken in turn.
    pub fn speed_over(&self, other: &Self) -> f64 {
        let ratios: Vec<f64> = other.times.iter().zip(&self.times).map(|(other, own)| other / own).collect();
        quantile(&ratios, 0.5)
    }
}

/// The value below which `share` of `values` lie; NaN of none.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

/// Microseconds that recording one step takes on the host, `finish` included, without submission: the shortest of several
/// rounds, since other programs only ever add to it.
pub fn encoding(gpu: &Gpu, job: &Job<'_>) -> f64 {
    const STEPS: usize = 200;
    let round = || {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let begin = Instant::now();
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            (0..STEPS).for_each(|i| (job.encode)(i % job.steps, &mut pass));
        }
        // wgpu only notes what is recorded; the work is done here.
        drop(encoder.finish());
        begin.elapsed().as_secs_f64() * 1e6 / STEPS as f64
    };
    (0..5).map(|_| round()).fold(f64::INFINITY, f64::min)
}
