// The running statistics, eight planes of C words: mean, its remainder, variance (f32), then u32 counts: batches tracked,
// batches averaged, batches skipped, and the number of values averaged as low and high word.

const AVERAGE_EXPONENTIAL: u32 = 0u;
const AVERAGE_CUMULATIVE: u32 = 1u;
const AVERAGE_POOLED: u32 = 2u;

const RUNNING_MEAN: u32 = 0u;
const RUNNING_REMAINDER: u32 = 1u;
const RUNNING_VAR: u32 = 2u;
const RUNNING_TRACKED: u32 = 3u;
const RUNNING_AVERAGED: u32 = 4u;
const RUNNING_SKIPPED: u32 = 5u;
const RUNNING_VALUES_LOW: u32 = 6u;
const RUNNING_VALUES_HIGH: u32 = 7u;

fn running_word(plane: u32, channel: u32) -> u32 {
    return plane * params.channels + channel;
}

fn running_f32(plane: u32, channel: u32) -> f32 {
    return bitcast<f32>(running[running_word(plane, channel)]);
}

// One batch enters the running statistics of one channel, or not, by the policy in `params`.
fn update_running(channel: u32, shift: f32, remainder: f32, variance: f32) {
    let tracked = running[running_word(RUNNING_TRACKED, channel)];
    running[running_word(RUNNING_TRACKED, channel)] = tracked + 1u;
    // Where tracked < window_skip the difference wraps around and is large.
    let inside = tracked >= params.window_skip && tracked - params.window_skip < params.window_take;
    if (!inside) {
        return;
    }
    let finite = is_finite(shift) && is_finite(remainder) && is_finite(variance);
    if (!finite && params.propagate == 0u) {
        running[running_word(RUNNING_SKIPPED, channel)] += 1u;
        return;
    }
    if (finite) {
        average_in(channel, shift, remainder, variance);
    } else {
        running[running_word(RUNNING_MEAN, channel)] = params.nan_bits;
        running[running_word(RUNNING_REMAINDER, channel)] = 0u;
        running[running_word(RUNNING_VAR, channel)] = params.nan_bits;
    }
    running[running_word(RUNNING_AVERAGED, channel)] += 1u;
    let low = running[running_word(RUNNING_VALUES_LOW, channel)];
    running[running_word(RUNNING_VALUES_LOW, channel)] = low + params.count;
    if (low + params.count < low) {
        running[running_word(RUNNING_VALUES_HIGH, channel)] += 1u;
    }
}

fn average_in(channel: u32, shift: f32, remainder: f32, variance: f32) {
    var mean = running_f32(RUNNING_MEAN, channel);
    var rest = running_f32(RUNNING_REMAINDER, channel);
    let old_variance = running_f32(RUNNING_VAR, channel);
    let values = f32(running[running_word(RUNNING_VALUES_HIGH, channel)]) * 4294967296.0
        + f32(running[running_word(RUNNING_VALUES_LOW, channel)]);
    let weight = weight_of_batch(running[running_word(RUNNING_AVERAGED, channel)], values);
    let delta = (shift - mean) + (remainder - rest);
    var new_variance = variance * params.correction;
    if (weight >= 1.0) {
        // What is replaced must not leave rounding errors behind.
        mean = shift;
        rest = remainder;
    } else {
        rest += weight * delta;
        if (params.average == AVERAGE_POOLED) {
            new_variance = pooled_variance(values, old_variance, variance, delta);
        } else if (params.standard_deviation != 0u) {
            let old_deviation = sqrt(old_variance);
            let deviation = old_deviation + weight * (sqrt(new_variance) - old_deviation);
            new_variance = deviation * deviation;
        } else {
            new_variance = old_variance + weight * (new_variance - old_variance);
        }
    }
    // The mean alone is the nearest f32 to the pair.
    let sum = opaque(mean + rest);
    running[running_word(RUNNING_MEAN, channel)] = bitcast<u32>(sum);
    running[running_word(RUNNING_REMAINDER, channel)] = bitcast<u32>(rest - (sum - mean));
    running[running_word(RUNNING_VAR, channel)] = bitcast<u32>(new_variance);
}

fn weight_of_batch(averaged: u32, values: f32) -> f32 {
    if (averaged == 0u && params.average != AVERAGE_EXPONENTIAL) {
        return 1.0;
    }
    switch (params.average) {
        case AVERAGE_CUMULATIVE: { return 1.0 / f32(averaged + 1u); }
        case AVERAGE_POOLED: { return params.count_f32 / (values + params.count_f32); }
        default: { return params.momentum; }
    }
}

// Ratios rather than products of counts: a count squared leaves f32's integers at 4096.
fn pooled_variance(values: f32, old_variance: f32, variance: f32, delta: f32) -> f32 {
    let total = values + params.count_f32;
    let old_share = values / total;
    let share = params.count_f32 / total;
    var old_biased = old_variance;
    if (params.unbiased != 0u && values > 1.0) {
        old_biased = old_variance * ((values - 1.0) / values);
    }
    let biased = old_share * old_biased + share * variance + (delta * delta) * (old_share * share);
    return biased * select(1.0, total / (total - 1.0), params.unbiased != 0u);
}
