// forward_whole.planes4.subgroup

override WORKGROUP: u32 = 256u;
@group(0) @binding(1) var<storage, read> x: array<Element>;
@group(0) @binding(2) var<storage, read> residual: array<Element>;
@group(0) @binding(3) var<storage, read> gamma: array<f32>;
@group(0) @binding(4) var<storage, read> beta: array<f32>;
@group(0) @binding(5) var<storage, read_write> saved: array<f32>;
@group(0) @binding(6) var<storage, read_write> running: array<u32>;
@group(0) @binding(7) var<storage, read_write> y: array<Element>;

fn kernel(work: Work) {
    let statistics = whole_statistics(work);
    let inv_std = inv_std_of(statistics.variance);
    if (is_writer(work)) {
        save(work, statistics, inv_std);
        update_running(work, statistics);
    }
    normalize_segment(work, normalization_of(work, statistics, inv_std));
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
) {
    let group = id.y * grid.x + id.x;
    if (group < params.groups) {
        var work = work_of(group, thread);
        work.subgroup = subgroup;
        work.subgroups = subgroups;
        work.subgroup_lane = subgroup_lane;
        kernel(work);
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
    let splits = params.splits;
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

// Values of a lane that are summed before they are merged with those before: no sum gets long.
const BLOCK: u32 = 128u;

// The part of a segment from `begin` on of which each lane has a block.
fn block_of(work: Work, begin: u32) -> Work {
    var block = work;
    block.begin = begin;
    block.end = min(begin + BLOCK * params.lanes, work.end);
    return block;
}

struct Walk {
    // The value of the column that is next, and the end of the segment.
    i: u32,
    end: u32,
    // Where that value lies in the tensor, and its place within its slice.
    index: u32,
    place: u32,
    // How to get to the lane's next value, `lanes` further: so many places within a slice and so far in the tensor, and
    // further by `wrap` where that leaves the slice. The step needs no division. All of it is loaded once: after a store a
    // compiler has to load uniforms again.
    lanes: u32,
    inner: u32,
    places: u32,
    step: u32,
    wrap: u32,
}

fn walk_of(work: Work) -> Walk {
    let i = work.begin + work.lane;
    let inner = params.inner;
    let slices = params.lanes / inner;
    let places = params.lanes - slices * inner;
    let slice = params.columns * inner;
    return Walk(i, work.end, index_of(work.column, i), i % inner, params.lanes, inner, places, slices * slice + places, slice - inner);
}

fn has_four(walk: Walk) -> bool {
    return walk.i + 3u * walk.lanes < walk.end;
}

fn has_one(walk: Walk) -> bool {
    return walk.i < walk.end;
}

// The indices of the next four values.
fn next_four(walk: ptr<function, Walk>) -> vec4<u32> {
    let a = next_one(walk);
    let b = next_one(walk);
    let c = next_one(walk);
    return vec4<u32>(a, b, c, next_one(walk));
}

// The index of the next value.
fn next_one(walk: ptr<function, Walk>) -> u32 {
    let index = (*walk).index;
    let place = (*walk).place + (*walk).places;
    let leaves = place >= (*walk).inner;
    (*walk).i += (*walk).lanes;
    (*walk).index = index + (*walk).step + select(0u, (*walk).wrap, leaves);
    (*walk).place = place - select(0u, (*walk).inner, leaves);
    return index;
}

// Index in the binding of value `i` of a column in this part.
fn index_of(column: u32, i: u32) -> u32 {
    let slice = i / params.inner;
    return params.base + (slice * params.columns + column) * params.inner + (i - slice * params.inner);
}

alias Value = vec4<f32>;
alias Bits = vec4<u32>;
const CHANNELS: u32 = 1u;

// Elements of one channel that a value holds.
const ELEMENTS: u32 = 4u;

fn places_of(column: u32) -> vec4<u32> {
    return vec4<u32>(column);
}

// Sums the parts of a value that belong to one channel. Those of folded samples meet in the merge.
fn combine(v: Value) -> Value {
    return Value((v.x + v.y) + (v.z + v.w));
}

fn component(v: Value, channel: u32) -> f32 {
    return v.x;
}

// A quiet NaN; WGSL has no literal for it.
fn nan() -> Value {
    return Value(bitcast<f32>(params.nan_bits));
}

// What the binding of a tensor is an array of. With one element to a value, elements in words are half words; a tensor that is
// written is an array of atomic<u32> then.
alias Element = Value;

fn widened(element: Element) -> Value {
    return Value(element);
}

fn narrowed(v: Value) -> Element {
    return v;
}

fn load_x(i: u32) -> Value { return widened(x[in_x(i)]); }
fn load_residual(i: u32) -> Value { return widened(residual[in_residual(i)]); }
fn store_y(i: u32, v: Value) { y[in_y(i)] = narrowed(v); }
fn in_x(i: u32) -> u32 { return i; }
fn in_y(i: u32) -> u32 { return i; }
fn in_residual(i: u32) -> u32 { return i; }
fn load_gamma(work: Work) -> Value { return Value(gamma[params.gamma_at + work.channels.x]); }
fn load_beta(work: Work) -> Value { return Value(beta[params.beta_at + work.channels.x]); }

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

// Two sums that are taken at once.
struct Two {
    a: Value,
    b: Value,
}

// A subgroup has at least one invocation, so there are at most WORKGROUP of them.
var<workgroup> shared_sums: array<Two, WORKGROUP>;

fn lane_sums(work: Work, own: Two) -> Two {
    let a = subgroupAdd(own.a);
    let b = subgroupAdd(own.b);
    // The former call's results may still be being read.
    workgroupBarrier();
    if (work.subgroup_lane == 0u) {
        shared_sums[work.subgroup] = Two(a, b);
    }
    workgroupBarrier();
    var sum = shared_sums[0];
    for (var other = 1u; other < work.subgroups; other++) {
        sum.a += shared_sums[other].a;
        sum.b += shared_sums[other].b;
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

// What is known of some values of a column: their number, the mean of d, and M2, the sum of squares about that mean.
struct Moments {
    count: f32,
    mean: Value,
    m2: Value,
}

// The median of three of the channel's elements: one outlier among them does not become the shift.
fn shift_of(work: Work) -> Value {
    let count = params.values * ELEMENTS * params.fold;
    let a = element_of_x(work, 0u);
    let b = element_of_x(work, count / 2u);
    let c = element_of_x(work, count - 1u);
    return max(min(a, b), min(max(a, b), c));
}

fn element_of_x(work: Work, element: u32) -> Value {
    return Value(load_x(index_of(work.column, element / 4u))[element % 4u]);
}

// The moments of a lane's values of a block.
fn block_moments(block: Work, shift: Value) -> Moments {
    var own = Moments(0.0, Value(0.0), Value(0.0));
    var walk = walk_of(block);
    while (has_four(walk)) {
        let at = next_four(&walk);
        let a = load_x(at.x) - shift;
        let b = load_x(at.y) - shift;
        let c = load_x(at.z) - shift;
        let d = load_x(at.w) - shift;
        // Four values become a run with a mean and M2 of its own: no sum of squares is taken about a far shift.
        let mean = 0.25 * ((a + b) + (c + d));
        let ea = a - mean;
        let eb = b - mean;
        let ec = c - mean;
        let ed = d - mean;
        own = merged(own, Moments(4.0, mean, (ea * ea + eb * eb) + (ec * ec + ed * ed)));
    }
    while (has_one(walk)) {
        own = merged(own, Moments(1.0, load_x(next_one(&walk)) - shift, Value(0.0)));
    }
    return own;
}

// Chan, Golub and LeVeque 1979.
fn merged(one: Moments, other: Moments) -> Moments {
    let count = one.count + other.count;
    // The first run is taken as it is, and a division is not exact; the last block may have nothing for a lane.
    let share = select(other.count / max(count, 1.0), 1.0, one.count == 0.0);
    let delta = other.mean - one.mean;
    // What is added to the long sum meets first: every addition to it rounds once more.
    return Moments(count, one.mean + delta * share, one.m2 + (other.m2 + (delta * delta) * (one.count * share)));
}

// The partial results of a segment: the mean of d, and M2.
struct Partial {
    mean: Value,
    m2: Value,
}

fn segment_moments(work: Work, shift: Value) -> Partial {
    var own = Moments(0.0, Value(0.0), Value(0.0));
    for (var begin = work.begin; begin < work.end; begin += BLOCK * params.lanes) {
        own = merged(own, block_moments(block_of(work, begin), shift));
    }
    let sums = lane_sums(work, Two(Value(own.count), own.count * own.mean));
    // A column that does not exist has no values.
    let count = max(combine(sums.a), Value(1.0));
    let mean = combine(sums.b) / count;
    let delta = own.mean - mean;
    return Partial(mean, combine(lane_sum(work, own.m2 + own.count * (delta * delta))));
}

// The statistics of a column that the workgroup owns whole.
fn whole_statistics(work: Work) -> Statistics {
    let shift = shift_of(work);
    let found = segment_moments(work, shift);
    return Statistics(shift, found.mean, found.m2 / params.count_f32);
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

fn activated(z: Value) -> Value {
    return z;
}

// What the elements of a column are normalized with.
struct Normalization {
    shift: Value,
    remainder: Value,
    // gamma * inv_std.
    scale: Value,
    beta: Value,
}

fn normalization_of(work: Work, statistics: Statistics, inv_std: Value) -> Normalization {
    return Normalization(statistics.shift, statistics.remainder, load_gamma(work) * inv_std, load_beta(work));
}

fn y_at(n: Normalization, index: u32) -> Value {
    let normalized = ((load_x(index) - n.shift) - n.remainder) * n.scale + n.beta;
    return activated(normalized + load_residual(index));
}

// Writes y of a segment, four values in flight: y may lie over x, so all four are loaded before the first is stored.
fn normalize_segment(work: Work, n: Normalization) {
    var walk = walk_of(work);
    while (has_four(walk)) {
        let at = next_four(&walk);
        let a = y_at(n, at.x);
        let b = y_at(n, at.y);
        let c = y_at(n, at.z);
        let d = y_at(n, at.w);
        store_y(at.x, a);
        store_y(at.y, b);
        store_y(at.z, c);
        store_y(at.w, d);
    }
    while (has_one(walk)) {
        let at = next_one(&walk);
        store_y(at, y_at(n, at));
    }
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
