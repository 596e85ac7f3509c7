//! Channels whose running statistics stayed as they were, and why.

use batchnorm_wgpu::Shape;
use batchnorm_wgpu_check::case::Inputs;
use batchnorm_wgpu_check::run::Results;
use serde::Serialize;

/// Why a batch did not enter the running statistics of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Cause {
    /// x holds NaN or infinity.
    BatchNotFinite,
    /// x is finite, but its mean or variance is not, in f32.
    BatchOverflows,
    /// The running statistics held NaN or infinity already.
    RunningNotFinite,
    /// Both are finite, but f32 does not hold what leads from one to the other.
    TooFarApart,
}

/// The channels that were skipped for one reason.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    cause: Cause,
    pub channels: Vec<usize>,
}

/// Channels that a message names, at most.
const NAMED: usize = 8;

impl Skipped {
    /// What was skipped in a call that began with a skipped count of 0.
    pub fn of(inputs: &Inputs, results: &Results) -> Vec<Self> {
        let counts = results.running.as_ref().map(|running| running.skipped.as_slice()).unwrap_or_default();
        let mut all: Vec<Self> = Vec::new();
        for channel in (0..counts.len()).filter(|&channel| counts[channel] > 0) {
            let cause = cause(channel, inputs, results);
            match all.iter_mut().find(|skipped| skipped.cause == cause) {
                Some(skipped) => skipped.channels.push(channel),
                None => all.push(Self { cause, channels: vec![channel] }),
            }
        }
        all.sort_by_key(|skipped| skipped.cause);
        all
    }

    /// What happened, and what to do about it.
    pub fn message(&self) -> String {
        let count = self.channels.len();
        let noun = if count == 1 { "channel" } else { "channels" };
        let named: Vec<String> = self.channels.iter().take(NAMED).map(usize::to_string).collect();
        let more = if count > NAMED { ", ..." } else { "" };
        let reason = match self.cause {
            Cause::BatchNotFinite => "x holds NaN or infinity there",
            Cause::BatchOverflows => "the variance of the batch overflows f32 on the way, though x is finite",
            Cause::RunningNotFinite => {
                "they were NaN or infinite before, and no batch changes that. Reset them: give finite --running-mean and \
                 --running-var, or leave both out to start anew with mean 0 and variance 1"
            }
            Cause::TooFarApart => "they lie so far from those of the batch that f32 overflows between them",
        };
        format!("running statistics of {count} {noun} ({}{more}) stay as they were: {reason}", named.join(", "))
    }
}

fn cause(channel: usize, inputs: &Inputs, results: &Results) -> Cause {
    let batch = [
        results.batch_mean.as_ref().map(|mean| mean[channel]),
        results.batch_var.as_ref().map(|var| var[channel].into()),
    ];
    let running = [inputs.running.mean[channel], inputs.running.mean_remainder[channel], inputs.running.var[channel]];
    if !all_finite(&inputs.x, &inputs.shape, channel) {
        Cause::BatchNotFinite
    } else if batch.iter().flatten().any(|statistic: &f64| !statistic.is_finite()) {
        Cause::BatchOverflows
    } else if running.iter().any(|statistic| !statistic.is_finite()) {
        Cause::RunningNotFinite
    } else {
        Cause::TooFarApart
    }
}

fn all_finite(x: &[f32], shape: &Shape, channel: usize) -> bool {
    (0..shape.elements_per_channel()).all(|i| x[shape.index(channel, i)].is_finite())
}
