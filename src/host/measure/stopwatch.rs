//! Times: the GPU's own around a pass where they can be believed, else the host's from submission to completion.

use crate::error::{Error, Result};
use crate::gpu::readback::Readback;
use crate::gpu::scope::{guarded, refused};
use crate::gpu::wait::driven;
use futures_intrusive::channel::shared::oneshot_channel;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
pub(super) use std::time::Instant;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
pub(super) use web_time::Instant;

/// Something to time: it records its i-th step into a pass. Steps have tensors of their own, so that no cache holds them.
pub struct Job<'a> {
    /// Number of different steps, 1 or more.
    pub steps: usize,
    /// Records one.
    pub encode: Box<Encode<'a>>,
}

/// What records the i-th step of a [`Job`]. In a browser nothing of wgpu goes to another thread.
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
pub type Encode<'a> = dyn Fn(usize, &mut wgpu::ComputePass<'_>) + Send + Sync + 'a;
/// What records the i-th step of a [`Job`]. In a browser nothing of wgpu goes to another thread.
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
pub type Encode<'a> = dyn Fn(usize, &mut wgpu::ComputePass<'_>) + 'a;

/// What [`Stopwatch::measure`] measured of one job.
#[derive(Clone, Debug)]
pub struct Samples {
    /// Steps per sample.
    pub steps: usize,
    /// Microseconds of a step, sample by sample.
    pub times: Vec<f64>,
}

/// Measures on one device, which nobody else may use meanwhile.
pub struct Stopwatch {
    device: wgpu::Device,
    queue: wgpu::Queue,
    queries: Option<Queries>,
    /// Steps taken so far: a sample goes on where the one before it stopped.
    taken: AtomicUsize,
}

struct Queries {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    nanoseconds: f64,
}

const TIMING: &str = "timing";
/// Most steps of a sample.
pub(super) const MOST_STEPS: usize = 1 << 14;

impl Stopwatch {
    /// Features that give the GPU's own times, where the device has them.
    pub const FEATURES: wgpu::Features = wgpu::Features::TIMESTAMP_QUERY;

    /// Takes the GPU's timestamps if the device has them and, for `job`, they tell about what the host's clock tells. Blocks, as all
    /// here does whose name does not end in `_async`.
    ///
    /// # Errors
    /// What the device reports.
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue, job: &Job<'_>) -> Result<Self> {
        driven(device, TIMING, Self::new_async(device, queue, job))
    }

    /// As [`Stopwatch::new`], without blocking.
    ///
    /// # Errors
    /// What the device reports.
    pub async fn new_async(device: &wgpu::Device, queue: &wgpu::Queue, job: &Job<'_>) -> Result<Self> {
        let with = |queries| Self { device: device.clone(), queue: queue.clone(), queries, taken: AtomicUsize::new(0) };
        let hosts_only = with(None);
        if !device.features().contains(Self::FEATURES) {
            return Ok(hosts_only);
        }
        let stamped = with(Some(Queries::new(device, queue)?));
        let (count, hosts) = hosts_only.calibrate(job, Duration::from_millis(30)).await?;
        let own = stamped.sample(job, count).await?;
        // Some drivers return zeros, negative differences, or count something else.
        let plausible = own > 0.5 * hosts && own < 1.2 * hosts;
        Ok(if plausible { stamped } else { hosts_only })
    }

    /// Whether times are the GPU's own.
    pub fn has_timestamps(&self) -> bool {
        self.queries.is_some()
    }

    /// Microseconds of one step of each job, `rounds` times; the jobs take turns, so that what slows the machine slows all.
    /// A sample lasts `least`. Warms up first: the first use of a buffer clears it, and that of a kernel may compile it.
    ///
    /// # Errors
    /// What the device reports.
    pub fn measure(&self, jobs: &[&Job<'_>], rounds: usize, least: Duration) -> Result<Vec<Samples>> {
        driven(&self.device, TIMING, self.measure_async(jobs, rounds, least))
    }

    /// As [`Stopwatch::measure`], without blocking.
    ///
    /// # Errors
    /// What the device reports.
    pub async fn measure_async(&self, jobs: &[&Job<'_>], rounds: usize, least: Duration) -> Result<Vec<Samples>> {
        let mut samples = Vec::new();
        for job in jobs {
            samples.push(Samples { steps: self.calibrate(job, least).await?.0, times: Vec::new() });
        }
        for _ in 0..rounds {
            for (job, own) in jobs.iter().zip(&mut samples) {
                own.times.push(self.sample(job, own.steps).await? / own.steps as f64);
            }
        }
        Ok(samples)
    }

    /// How many steps last `least`, and the microseconds that they took.
    pub(super) async fn calibrate(&self, job: &Job<'_>, least: Duration) -> Result<(usize, f64)> {
        let least = least.as_secs_f64() * 1e6;
        self.sample(job, job.steps).await?;
        let mut count = 1;
        loop {
            let lasted = self.sample(job, count).await?.max(1.0);
            if lasted >= least || count >= MOST_STEPS {
                return Ok((count, lasted));
            }
            count = ((count as f64 * (1.2 * least / lasted).clamp(1.5, 64.0)).ceil() as usize).min(MOST_STEPS);
        }
    }

    /// Microseconds that `count` steps in one pass take.
    pub(super) async fn sample(&self, job: &Job<'_>, count: usize) -> Result<f64> {
        let Self { device, queue, .. } = self;
        let commands = guarded(device, TIMING, || self.record(job, count))?;
        let begin = Instant::now();
        guarded(device, TIMING, || queue.submit([commands]))?;
        let (sender, receiver) = oneshot_channel();
        // Nobody listens any more when the future was dropped.
        queue.on_submitted_work_done(move || drop(sender.send(())));
        receiver.receive().await.ok_or_else(|| refused(device, TIMING, "the end of the work was never told"))?;
        let hosts = begin.elapsed().as_secs_f64() * 1e6;
        match &self.queries {
            None => Ok(hosts),
            Some(queries) => queries.microseconds(device, queue).await,
        }
    }

    /// `count` steps in one pass.
    fn record(&self, job: &Job<'_>, count: usize) -> wgpu::CommandBuffer {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let timestamp_writes = self.queries.as_ref().map(|queries| wgpu::ComputePassTimestampWrites {
                query_set: &queries.set,
                beginning_of_pass_write_index: Some(0),
                end_of_pass_write_index: Some(1),
            });
            let descriptor = wgpu::ComputePassDescriptor { label: Some("sample"), timestamp_writes };
            let mut pass = encoder.begin_compute_pass(&descriptor);
            let first = self.taken.fetch_add(count, Ordering::Relaxed);
            (first..first + count).for_each(|i| (job.encode)(i % job.steps.max(1), &mut pass));
        }
        if let Some(queries) = &self.queries {
            encoder.resolve_query_set(&queries.set, 0..2, &queries.resolved, 0);
        }
        encoder.finish()
    }
}

impl std::fmt::Debug for Stopwatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stopwatch").field("has_timestamps", &self.has_timestamps()).finish_non_exhaustive()
    }
}

impl Queries {
    fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Result<Self> {
        let descriptor = wgpu::QuerySetDescriptor { label: Some(TIMING), ty: wgpu::QueryType::Timestamp, count: 2 };
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let buffer = wgpu::BufferDescriptor { label: Some(TIMING), size: 16, usage, mapped_at_creation: false };
        let (set, resolved) =
            guarded(device, TIMING, || (device.create_query_set(&descriptor), device.create_buffer(&buffer)))?;
        Ok(Self { set, resolved, nanoseconds: queue.get_timestamp_period().into() })
    }

    async fn microseconds(&self, device: &wgpu::Device, queue: &wgpu::Queue) -> Result<f64> {
        let encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let bytes = Readback::start(device, queue, encoder, &[&self.resolved])?.finish().await?;
        let ticks: Vec<u64> = bytes.iter().flat_map(|bytes| bytemuck::pod_collect_to_vec::<u8, u64>(bytes)).collect();
        match ticks[..] {
            [begin, end] => Ok(end.saturating_sub(begin) as f64 * self.nanoseconds / 1e3),
            _ => {
                let reason = format!("expected two timestamps, got {}", ticks.len());
                Err(Error::Device { during: TIMING, reason })
            }
        }
    }
}

impl Samples {
    /// The median time of a step, in microseconds; NaN without samples.
    pub fn median(&self) -> f64 {
        quantile(&self.times, 0.5)
    }

    /// The median ratio of `other`'s time to this one, sample by sample: they were taken in turn.
    pub fn speed_over(&self, other: &Self) -> f64 {
        quantile(&self.speeds_over(other), 0.5)
    }

    /// The ratios of `other`'s times to these.
    pub(super) fn speeds_over(&self, other: &Self) -> Vec<f64> {
        other.times.iter().zip(&self.times).map(|(other, own)| other / own).collect()
    }
}

/// The value below which `share` of `values` lie; NaN of none.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

/// Bytes of tensors that are gone through before one is used again, so that no cache holds it. Larger than the last-level
/// caches of today's desktop processors and GPUs.
const ROTATION: u64 = 256 << 20;
/// Most sets of tensors: small ones would need thousands, and where dispatch dominates the cache does not matter.
const MOST_SETS: u64 = 16;

/// How many sets of `tensors` tensors of `bytes` bytes are gone through in turn.
pub fn sets(tensors: u64, bytes: u64) -> u64 {
    ROTATION.div_ceil((tensors * bytes).max(1)).min(MOST_SETS)
}
