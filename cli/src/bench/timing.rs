//! The clock: wall time of many steps in one submission.

use crate::AnyError;
use batchnorm_wgpu::host::{Gpu, guarded};
use batchnorm_wgpu::{Step, wgpu};
use serde::Serialize;
use std::time::{Duration, Instant};

/// A sample lasts at least so long: submission and waiting then take little of it.
const SAMPLE: Duration = Duration::from_millis(40);

/// Microseconds of one step.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Timing {
    /// The median of the samples.
    pub median: f64,
    /// Distance of the upper from the lower quartile.
    pub spread: f64,
    /// Steps per sample.
    pub steps: usize,
    /// Number of samples.
    pub samples: usize,
}

/// Times what `encode` records, going through `steps` in turn. Warms up first: the first use of a buffer clears it, and the
/// first use of a kernel may compile it.
pub fn measure<S>(
    gpu: &Gpu,
    steps: &[S],
    samples: usize,
    encode: impl Fn(&S, &mut wgpu::ComputePass<'_>),
) -> Result<Timing, AnyError> {
    let once = |count: usize| -> Result<Duration, AnyError> {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            steps.iter().cycle().take(count).for_each(|step| encode(step, &mut pass));
        }
        let commands = encoder.finish();
        let begin = Instant::now();
        guarded(&gpu.device, "timing", || gpu.queue.submit([commands]))?;
        gpu.device.poll(wgpu::PollType::wait_indefinitely())?;
        Ok(begin.elapsed())
    };
    once(steps.len())?;
    let mut count = steps.len();
    let mut lasted = once(count)?;
    while lasted < SAMPLE && count < 1 << 14 {
        let factor = (SAMPLE.as_secs_f64() / lasted.as_secs_f64().max(1e-6) * 1.2).clamp(2.0, 64.0);
        count = (count as f64 * factor) as usize;
        lasted = once(count)?;
    }
    let mut times = (0..samples)
        .map(|_| Ok(once(count)?.as_secs_f64() * 1e6 / count as f64))
        .collect::<Result<Vec<_>, AnyError>>()?;
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    Ok(Timing { median: at(0.5), spread: at(0.75) - at(0.25), steps: count, samples })
}

/// Microseconds that recording one step takes on the host, `finish` included, without submission: the shortest of several rounds, since
/// other programs only ever add to it.
pub fn encode(gpu: &Gpu, step: &Step) -> f64 {
    const STEPS: u32 = 200;
    let round = || {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let begin = Instant::now();
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            (0..STEPS).for_each(|_| step.encode(&mut pass));
        }
        // wgpu only notes what is recorded; the work is done here.
        drop(encoder.finish());
        begin.elapsed().as_secs_f64() * 1e6 / f64::from(STEPS)
    };
    (0..5).map(|_| round()).fold(f64::INFINITY, f64::min)
}
