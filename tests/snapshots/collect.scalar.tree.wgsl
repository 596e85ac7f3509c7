// collect.scalar.tree

override WORKGROUP: u32 = 256u;
@group(0) @binding(1) var<storage, read> scratch: array<f32>;
@group(0) @binding(2) var<storage, read_write> saved: array<f32>;
@group(0) @binding(3) var<storage, read_write> running: array<u32>;

fn kernel(work: Work) {
    let statistics = merged_statistics(work);
    if (is_writer(work)) {
        save(work, statistics, inv_std_of(statistics.variance));
        update_running(work, statistics);
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let group = id.y * grid.x + id.x;
    if (group < params.groups) {
        kernel(work_of(group, thread));
    }
}

struct Params {
    // Columns per workgroup and invocations per column, both powers of two: tile * lanes = WORKGROUP.
    tile: u32,
    lanes: u32,
    // Not 0 when neighbouring invocations have neighbouring columns (inner 1) rather than neighbouring lanes of a column.
    interleaved: u32,
    columns: u32,
    inner: u32,
    fold: u32,
    // Where this part begins in its binding, in values.
    base: u32,
    // Values of one column in this part.
    values: u32,
    // Workgroups that share a column in this part, and how many of its values each takes.
    splits: u32,
    segment: u32,
    // Number of the part's first split among those of all parts.
    first_split: u32,
    // Values of one column and splits of every part but the last, which may have fewer; and of all parts together.
    part_values: u32,
    part_splits: u32,
    all_values: u32,
    all_splits: u32,
    // Workgroups with work: column tiles * splits. The dispatch may be rounded up.
    groups: u32,
    // Not 0 when the last workgroup takes the first segment: what was read last is read first, while a cache holds it.
    reverse: u32,
    // How many statistics there are, and how many channels, each of which has a gamma and a beta. In batch norm these are as many.
    statistics: u32,
    channels: u32,
    // m, elements per channel in all parts: exact, and as f32.
    count: u32,
    count_f32: f32,
    eps: f32,
    // Bits of a quiet NaN.
    nan_bits: u32,
    // 0, which a compiler cannot know (running.wgsl).
    zero: u32,
    // The running-statistics policy (running.wgsl).
    average: u32,
    momentum: f32,
    unbiased: u32,
    // m / (m - 1), or 1 for the biased variance.
    correction: f32,
    standard_deviation: u32,
    propagate: u32,
    window_skip: u32,
    window_take: u32,
    // What leaky_relu multiplies negative values with (activation.wgsl).
    negative_slope: f32,
    // Views (bindings.wgsl), in values: the length of a slice; where each view begins in its binding, and how far it is from the end of
    // a slice to the next.
    slice: u32,
    x_base: u32,
    x_gap: u32,
    y_base: u32,
    y_gap: u32,
    residual_base: u32,
    residual_gap: u32,
    // Where the parameters and their gradients begin in their bindings.
    gamma_at: u32,
    beta_at: u32,
    dgamma_at: u32,
    dbeta_at: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

// The part of one invocation.
struct Work {
    column: u32,
    // False for the columns of the last tile that do not exist: they take part in barriers and touch nothing.
    owned: bool,
    // Which statistics the column's elements have, and which channels they are of: four numbers of rows4, or the same four times.
    statistics: vec4<u32>,
    channels: vec4<u32>,
    lane: u32,
    thread: u32,
    // The segment's number among those of all parts, and its values of the column.
    split: u32,
    begin: u32,
    end: u32,
    // The invocation's subgroup, the number of subgroups, and its place in its own (reduce.wgsl).
    subgroup: u32,
    subgroups: u32,
    subgroup_lane: u32,
}

fn work_of(dispatched: u32, thread: u32) -> Work {
    let group = select(dispatched, params.groups - 1u - dispatched, params.reverse != 0u);
    // A kernel that only merges partial results has columns whole.
    let splits = 1u;
    let tile = group / splits;
    let split = group - tile * splits;
    let interleaved = params.interleaved != 0u;
    let column = tile * params.tile + select(thread / params.lanes, thread % params.tile, interleaved);
    let owned = column < params.columns;
    let begin = split * params.segment;
    let end = select(begin, min(begin + params.segment, params.values), owned);
    let safe = min(column, params.columns - 1u);
    let lane = select(thread % params.lanes, thread / params.tile, interleaved);
    let places = places_of(safe);
    return Work(safe, owned, places % params.statistics, places % params.channels, lane, thread, params.first_split + split, begin, end, 0u, 0u, 0u);
}

// Whether this invocation writes the results of its column: one does, in the first split.
fn is_writer(work: Work) -> bool {
    return work.owned && work.lane == 0u && work.split == 0u;
}

// Whether component c of the column's values is the first of its statistics: folded samples have the same again.
fn is_first_of_statistic(work: Work, c: u32) -> bool {
    return work.column * CHANNELS + c < params.statistics;
}

// Whether it is the first of its channel.
fn is_first_of_channel(work: Work, c: u32) -> bool {
    return work.column * CHANNELS + c < params.channels;
}

// Values of a column in one of the splits of all parts.
fn values_in_split(split: u32) -> u32 {
    let part = split / params.part_splits;
    let begin = (split - part * params.part_splits) * params.segment;
    let values = min(params.part_values, params.all_values - part * params.part_values);
    return min(begin + params.segment, values) - begin;
}

alias Value = f32;

// The bits of a value.
alias Bits = u32;

const CHANNELS: u32 = 1u;
const ELEMENTS: u32 = 1u;

fn places_of(column: u32) -> vec4<u32> {
    return vec4<u32>(column);
}

// What a combined value holds for one of its channels.
fn component(v: Value, channel: u32) -> f32 {
    return v;
}

// A quiet NaN; WGSL has no literal for it.
fn nan() -> Value {
    return Value(bitcast<f32>(params.nan_bits));
}

fn load_gamma(work: Work) -> Value { return Value(1.0); }
fn load_beta(work: Work) -> Value { return Value(0.0); }

// Where a plane of parameters begins.
fn parameter_plane(plane: u32) -> u32 {
    return STATISTIC_PLANES * params.statistics + plane * params.channels;
}

fn store_statistic(work: Work, plane: u32, v: Value) {
    for (var c = 0u; c < CHANNELS; c++) {
        let is_first = is_first_of_statistic(work, c);
        if (is_first) {
            saved[plane * params.statistics + work.statistics[c]] = component(v, c);
        }
    }
}

fn store_parameter(work: Work, plane: u32, v: Value) {
    for (var c = 0u; c < CHANNELS; c++) {
        let is_first = is_first_of_channel(work, c);
        if (is_first) {
            saved[parameter_plane(plane) + work.channels[c]] = component(v, c);
        }
    }
}

fn load_scratch(work: Work, plane: u32) -> Value {
    return Value(scratch[plane * params.statistics + work.statistics.x]);
}

// Two sums that are taken at once.
struct Two {
    a: Value,
    b: Value,
}

// A subgroup has at least one invocation, so there are at most WORKGROUP of them.
var<workgroup> shared_sums: array<Two, WORKGROUP>;

// Every invocation of the workgroup calls this; each gets the sums of its own column.
fn lane_sums(work: Work, own: Two) -> Two {
    var sum = own;
    if (params.lanes > 1u) {
        let stride = select(1u, params.tile, params.interleaved != 0u);
        // The former call's results may still be being read.
        workgroupBarrier();
        shared_sums[work.thread] = own;
        workgroupBarrier();
        for (var half = params.lanes / 2u; half > 0u; half = half / 2u) {
            if (work.lane < half) {
                let other = work.thread + half * stride;
                shared_sums[work.thread].a += shared_sums[other].a;
                shared_sums[work.thread].b += shared_sums[other].b;
            }
            workgroupBarrier();
        }
        sum = shared_sums[work.thread - work.lane * stride];
    }
    return sum;
}

// One sum.
fn lane_sum(work: Work, own: Value) -> Value {
    return lane_sums(work, Two(own, Value(0.0))).a;
}

// What a channel is normalized by.
struct Statistics {
    // The mean, as a pair: its f32 alone would lose digits where it is far from zero.
    shift: Value,
    remainder: Value,
    // Biased: M2 / m.
    variance: Value,
}

// Partial results lie in scratch in rows of all columns: the shift, then for each split the mean of d, and M2. A row is `fold`
// planes of statistics.
const SHIFT_ROW: u32 = 0u;

fn mean_row(split: u32) -> u32 {
    return 1u + 2u * split;
}

fn m2_row(split: u32) -> u32 {
    return 2u + 2u * split;
}

// The statistics of a column, from the partial results of all splits and folds. Every workgroup of a column merges them again,
// in the same order, so that all get the same bits.
fn merged_statistics(work: Work) -> Statistics {
    let partials = params.all_splits * params.fold;
    var count = 0.0;
    var weighted = Value(0.0);
    for (var i = work.lane; i < partials; i += params.lanes) {
        let split = i / params.fold;
        let n = f32(values_in_split(split));
        count += n;
        weighted += n * load_scratch(work, mean_row(split) * params.fold + i % params.fold);
    }
    let sums = lane_sums(work, Two(Value(count), weighted));
    let mean = sums.b / sums.a;
    var m2 = Value(0.0);
    for (var i = work.lane; i < partials; i += params.lanes) {
        let split = i / params.fold;
        let delta = load_scratch(work, mean_row(split) * params.fold + i % params.fold) - mean;
        let n = f32(values_in_split(split));
        // `values_in_split` counts values; M2 counts elements.
        m2 += load_scratch(work, m2_row(split) * params.fold + i % params.fold)
            + (n * f32(ELEMENTS)) * (delta * delta);
    }
    return Statistics(load_scratch(work, SHIFT_ROW), mean, lane_sum(work, m2) / params.count_f32);
}

// 1 / sqrt(variance + eps), one Newton step beyond the 2 ULP of inverseSqrt. A variance that is NaN or infinite gives
// NaN: y = beta, what 1 / infinity would lead to, looks sound and is not.
fn inv_std_of(variance: Value) -> Value {
    let v = variance + Value(params.eps);
    let r = inverseSqrt(v);
    // v * r first: r * r underflows for a large variance.
    let refined = r + (0.5 * r) * (Value(1.0) - (v * r) * r);
    let finite = (bitcast<Bits>(variance) & Bits(0x7f800000u)) != Bits(0x7f800000u);
    return select(nan(), refined, finite);
}

// Leaves for the backward pass what a column was normalized by, and gamma and beta as they were.
fn save(work: Work, statistics: Statistics, inv_std: Value) {
    store_statistic(work, STATISTIC_SHIFT, statistics.shift);
    store_statistic(work, STATISTIC_REMAINDER, statistics.remainder);
    store_statistic(work, STATISTIC_VARIANCE, statistics.variance);
    store_statistic(work, STATISTIC_INV_STD, inv_std);
    store_parameter(work, PARAMETER_GAMMA, load_gamma(work));
    store_parameter(work, PARAMETER_BETA, load_beta(work));
}

const AVERAGE_CUMULATIVE: u32 = 1u;
const AVERAGE_POOLED: u32 = 2u;

// The batch enters the running statistics of the work's channels.
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

const RUNNING_MEAN: u32 = 0u;
const RUNNING_REMAINDER: u32 = 1u;
const RUNNING_VARIANCE: u32 = 2u;
const RUNNING_TRACKED: u32 = 3u;
const RUNNING_AVERAGED: u32 = 4u;
const RUNNING_SKIPPED: u32 = 5u;
const RUNNING_ELEMENTS_LOW: u32 = 6u;
const RUNNING_ELEMENTS_HIGH: u32 = 7u;
const STATISTIC_SHIFT: u32 = 0u;
const STATISTIC_REMAINDER: u32 = 1u;
const STATISTIC_VARIANCE: u32 = 2u;
const STATISTIC_INV_STD: u32 = 3u;
const PARAMETER_GAMMA: u32 = 0u;
const PARAMETER_BETA: u32 = 1u;
const STATISTIC_PLANES: u32 = 4u;
