// infer.planes4.bf16_words

override WORKGROUP: u32 = 256u;
@group(0) @binding(1) var<storage, read> x: array<Element>;
@group(0) @binding(2) var<storage, read> residual: array<Element>;
@group(0) @binding(3) var<storage, read> gamma: array<f32>;
@group(0) @binding(4) var<storage, read> beta: array<f32>;
@group(0) @binding(5) var<storage, read> running: array<f32>;
@group(0) @binding(6) var<storage, read_write> saved: array<f32>;
@group(0) @binding(7) var<storage, read_write> y: array<Element>;

fn kernel(work: Work) {
    let statistics = Statistics(
        load_running(work, RUNNING_MEAN),
        load_running(work, RUNNING_REMAINDER),
        load_running(work, RUNNING_VARIANCE),
    );
    let inv_std = inv_std_of(statistics.variance);
    if (is_writer(work)) {
        save(work, statistics, inv_std);
    }
    normalize_segment(work, normalization_of(work, statistics, inv_std));
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

fn places_of(column: u32) -> vec4<u32> {
    return vec4<u32>(column);
}

fn component(v: Value, channel: u32) -> f32 {
    return v.x;
}

// A quiet NaN; WGSL has no literal for it.
fn nan() -> Value {
    return Value(bitcast<f32>(params.nan_bits));
}

alias Element = vec2<u32>;

fn widened(words: Element) -> Value {
    return Value(halves(words.x), halves(words.y));
}

fn narrowed(v: Value) -> Element {
    let bits = rounded(v);
    return bits.xz | (bits.yw << vec2<u32>(16u));
}

fn halves(word: u32) -> vec2<f32> {
    return bitcast<vec2<f32>>(vec2<u32>(word << 16u, word & 0xffff0000u));
}

// The bits of the nearest bf16, ties to even, infinite beyond the range.
fn rounded(v: Value) -> Bits {
    let bits = bitcast<Bits>(v);
    // A carry out of the significand goes into the exponent, at last to infinity.
    let finite = (bits + Bits(0x7fffu) + ((bits >> Bits(16u)) & Bits(1u))) >> Bits(16u);
    // Rounded, a NaN could become an infinity.
    let quiet_nan = (bits >> Bits(16u)) | Bits(0x40u);
    return select(finite, quiet_nan, (bits & Bits(0x7fffffffu)) > Bits(0x7f800000u));
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

fn load_running(work: Work, plane: u32) -> Value {
    return Value(running[plane * params.channels + work.channels.x]);
}

// What a channel is normalized by.
struct Statistics {
    // The mean, as a pair: its f32 alone would lose digits where it is far from zero.
    shift: Value,
    remainder: Value,
    // Biased: M2 / m.
    variance: Value,
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
const STATISTIC_SHIFT: u32 = 0u;
const STATISTIC_REMAINDER: u32 = 1u;
const STATISTIC_VARIANCE: u32 = 2u;
const STATISTIC_INV_STD: u32 = 3u;
const PARAMETER_GAMMA: u32 = 0u;
const PARAMETER_BETA: u32 = 1u;
const STATISTIC_PLANES: u32 = 4u;
