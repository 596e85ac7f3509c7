//! What the tool makes of the library's clock.

use super::record::{Clock, Timing};
use batchnorm_wgpu::host::Gpu;
use batchnorm_wgpu::host::measure::{Job, Samples, Stopwatch, quantile};
use batchnorm_wgpu::wgpu;
use std::time::Instant;

/// Where a stopwatch has its times from.
pub fn clock(watch: &Stopwatch) -> Clock {
    if watch.has_timestamps() { Clock::Timestamps } else { Clock::WallTime }
}

/// Median and spread.
pub fn timing(samples: &Samples) -> Timing {
    let at = |share| quantile(&samples.times, share);
    Timing { median: at(0.5), spread: at(0.75) - at(0.25), steps: samples.steps, samples: samples.times.len() }
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
