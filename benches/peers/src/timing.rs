//! The clock: wall time of many steps between two waits for the device, as in `bn bench`.

use burn::tensor::Device;
use serde::Serialize;
use std::time::{Duration, Instant};

/// A sample lasts at least so long: launching and waiting then take little of it.
const SAMPLE: Duration = Duration::from_millis(40);
/// Warming up lasts at least so long, and so many steps: autotuning and fusion settle in the first ones.
const WARM_UP: Duration = Duration::from_millis(200);
const WARM_UP_STEPS: usize = 10;
const MOST_STEPS: usize = 1 << 14;

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

impl Timing {
    fn of(mut times: Vec<f64>, steps: usize) -> Self {
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
        Self { median: at(0.5), spread: at(0.75) - at(0.25), steps, samples: times.len() }
    }
}

/// Times steps on a device.
pub struct Clock<'a> {
    pub device: &'a Device,
    pub samples: usize,
}

impl Clock<'_> {
    /// Times a step alone.
    pub fn alone(&self, mut step: impl FnMut()) -> Result<Timing, String> {
        let count = self.settle(&mut step)?;
        let times = (0..self.samples).map(|_| self.sample(&mut step, count)).collect::<Result<_, _>>()?;
        Ok(Timing::of(times, count))
    }

    /// Times a step, and what another one takes that does more. Their samples alternate, so that a machine that slows
    /// down slows both.
    pub fn beyond(&self, mut part: impl FnMut(), mut whole: impl FnMut()) -> Result<[Timing; 2], String> {
        let (part_count, whole_count) = (self.settle(&mut part)?, self.settle(&mut whole)?);
        let (mut parts, mut rests) = (Vec::new(), Vec::new());
        for _ in 0..self.samples {
            let time = self.sample(&mut part, part_count)?;
            rests.push(self.sample(&mut whole, whole_count)? - time);
            parts.push(time);
        }
        Ok([Timing::of(parts, part_count), Timing::of(rests, whole_count)])
    }

    /// Warms up, and returns the steps that fill a sample.
    fn settle(&self, step: &mut impl FnMut()) -> Result<usize, String> {
        let begin = Instant::now();
        while begin.elapsed() < WARM_UP {
            self.run(step, WARM_UP_STEPS)?;
        }
        let mut count = 1;
        let mut lasted = self.run(step, count)?;
        while lasted < SAMPLE && count < MOST_STEPS {
            let factor = (SAMPLE.as_secs_f64() / lasted.as_secs_f64().max(1e-6) * 1.2).clamp(2.0, 64.0);
            count = (count as f64 * factor) as usize;
            lasted = self.run(step, count)?;
        }
        Ok(count)
    }

    fn sample(&self, step: &mut impl FnMut(), count: usize) -> Result<f64, String> {
        Ok(self.run(step, count)?.as_secs_f64() * 1e6 / count as f64)
    }

    fn run(&self, step: &mut impl FnMut(), count: usize) -> Result<Duration, String> {
        let begin = Instant::now();
        (0..count).for_each(|_| step());
        self.device.sync().map_err(|error| format!("the device failed while it was timed: {error:?}"))?;
        Ok(begin.elapsed())
    }
}
