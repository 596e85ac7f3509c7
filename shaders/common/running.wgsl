// The running statistics of a channel: how a batch enters them, by the policy in `params`.
import package::common::statistics::Statistics;
import package::common::values::{CHANNELS, component};
import package::common::work::{Work, is_first_of_channel, params};
import package::table::{RUNNING_AVERAGED, RUNNING_ELEMENTS_HIGH, RUNNING_ELEMENTS_LOW, RUNNING_MEAN, RUNNING_REMAINDER, RUNNING_SKIPPED};
import package::table::{RUNNING_TRACKED, RUNNING_VARIANCE, running};

const AVERAGE_CUMULATIVE: u32 = 1u;
const AVERAGE_POOLED: u32 = 2u;

// The batch enters the running statistics of the work's channels.
@if(running)
fn update_running(work: Work, statistics: Statistics) {
    for (var c = 0u; c < CHANNELS; c++) {
        if (is_first_of_channel(work, c)) {
            update_channel(
                work.channels[c],
                component(statistics.shift, c),
                component(statistics.remainder, c),
                component(statistics.variance, c),
            );
        }
    }
}

@if(!running)
fn update_running(work: Work, statistics: Statistics) {}

fn running_word(plane: u32, channel: u32) -> u32 {
    return plane * params.channels + channel;
}

fn running_f32(plane: u32, channel: u32) -> f32 {
    return bitcast<f32>(running[running_word(plane, channel)]);
}

// A count stays at its largest rather than start again at 0.
fn count_up(plane: u32, channel: u32) {
    let word = running_word(plane, channel);
    running[word] += select(1u, 0u, running[word] == 0xffffffffu);
}

fn update_channel(channel: u32, shift: f32, remainder: f32, variance: f32) {
    let tracked = running[running_word(RUNNING_TRACKED, channel)];
    count_up(RUNNING_TRACKED, channel);
    // Where tracked < window_skip the difference wraps around and is large.
    let inside = tracked >= params.window_skip && tracked - params.window_skip < params.window_take;
    if (!inside) {
        return;
    }
    let next = average_with(channel, shift, remainder, variance);
    // Finite statistics can lie too far from the running ones for f32.
    let finite = is_finite(shift) && is_finite(remainder) && is_finite(variance)
        && is_finite(next.mean) && is_finite(next.remainder) && is_finite(next.variance);
    if (!finite && params.propagate == 0u) {
        count_up(RUNNING_SKIPPED, channel);
        return;
    }
    running[running_word(RUNNING_MEAN, channel)] = select(params.nan_bits, bitcast<u32>(next.mean), finite);
    running[running_word(RUNNING_REMAINDER, channel)] = select(0u, bitcast<u32>(next.remainder), finite);
    running[running_word(RUNNING_VARIANCE, channel)] = select(params.nan_bits, bitcast<u32>(next.variance), finite);
    count_up(RUNNING_AVERAGED, channel);
    let low = running[running_word(RUNNING_ELEMENTS_LOW, channel)];
    running[running_word(RUNNING_ELEMENTS_LOW, channel)] = low + params.count;
    if (low + params.count < low) {
        running[running_word(RUNNING_ELEMENTS_HIGH, channel)] += 1u;
    }
}

struct Average {
    mean: f32,
    remainder: f32,
    variance: f32,
}

// The running statistics with the batch in them.
fn average_with(channel: u32, shift: f32, remainder: f32, variance: f32) -> Average {
    let mean = running_f32(RUNNING_MEAN, channel);
    let rest = running_f32(RUNNING_REMAINDER, channel);
    let old_variance = running_f32(RUNNING_VARIANCE, channel);
    let elements = f32(running[running_word(RUNNING_ELEMENTS_HIGH, channel)]) * 4294967296.0
        + f32(running[running_word(RUNNING_ELEMENTS_LOW, channel)]);
    let weight = weight_of_batch(running[running_word(RUNNING_AVERAGED, channel)], elements);
    let new_variance = variance * params.correction;
    if (weight >= 1.0) {
        // What is replaced must not leave rounding errors behind.
        return nearest_pair(shift, remainder, new_variance);
    }
    let delta = (shift - mean) + (remainder - rest);
    let new_rest = rest + weight * delta;
    if (params.average == AVERAGE_POOLED) {
        return nearest_pair(mean, new_rest, pooled_variance(elements, old_variance, variance, delta));
    }
    if (params.standard_deviation != 0u) {
        let old_deviation = sqrt(old_variance);
        let deviation = old_deviation + weight * (sqrt(new_variance) - old_deviation);
        return nearest_pair(mean, new_rest, deviation * deviation);
    }
    return nearest_pair(mean, new_rest, old_variance + weight * (new_variance - old_variance));
}

// Splits mean + remainder so that the mean alone is the nearest f32 to the pair (Knuth's two-sum: either may be the larger).
fn nearest_pair(mean: f32, remainder: f32, variance: f32) -> Average {
    let sum = opaque(mean + remainder);
    let of_remainder = opaque(sum - mean);
    let of_mean = opaque(sum - of_remainder);
    return Average(sum, (mean - of_mean) + (remainder - of_remainder), variance);
}

fn weight_of_batch(averaged: u32, elements: f32) -> f32 {
    switch (params.average) {
        case AVERAGE_CUMULATIVE: { return select(1.0 / (f32(averaged) + 1.0), 1.0, averaged == 0u); }
        case AVERAGE_POOLED: { return select(params.count_f32 / (elements + params.count_f32), 1.0, elements == 0.0); }
        default: { return params.momentum; }
    }
}

// Ratios rather than products of counts: a count squared leaves f32's integers at 4096. The square of delta is shared out
// before it is taken: it may not fit f32.
fn pooled_variance(elements: f32, old_variance: f32, variance: f32, delta: f32) -> f32 {
    let total = elements + params.count_f32;
    let old_share = elements / total;
    let share = params.count_f32 / total;
    var old_biased = old_variance;
    if (params.unbiased != 0u && elements > 1.0) {
        old_biased = old_variance * ((elements - 1.0) / elements);
    }
    let biased = old_share * old_biased + share * variance + (old_share * delta) * (share * delta);
    return biased * select(1.0, total / (total - 1.0), params.unbiased != 0u);
}

fn is_finite(v: f32) -> bool {
    return (bitcast<u32>(v) & 0x7f800000u) != 0x7f800000u;
}

// The value itself, in a form that a compiler cannot reassociate through: some take (a + b) - a for b, and the rounding
// error of a sum is then lost.
fn opaque(v: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(v) ^ params.zero);
}
