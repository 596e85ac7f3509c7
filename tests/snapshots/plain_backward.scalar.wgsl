// plain_backward.scalar

override WORKGROUP: u32 = 256u;
@group(0) @binding(1) var<storage, read> x: array<Element>;
@group(0) @binding(2) var<storage, read> dy: array<Element>;
@group(0) @binding(3) var<storage, read> saved: array<f32>;
@group(0) @binding(4) var<storage, read_write> dgamma: array<f32>;
@group(0) @binding(5) var<storage, read_write> dbeta: array<f32>;
@group(0) @binding(6) var<storage, read_write> dresidual: array<Element>;
@group(0) @binding(7) var<storage, read_write> dx: array<Element>;

fn kernel(work: Work) {
    let centre = centre_of(work);

    var own = Two(0.0, 0.0);
    for (var i = work.begin + work.lane; i < work.end; i += params.lanes) {
        let seen = seen_at(centre, index_of(work.column, i));
        own.a += seen.dz;
        own.b += seen.dz * seen.x;
    }
    let sums = lane_sums(work, own);
    let dbeta = sums.a;
    let dgamma = sums.b * centre.inv_std;
    if (is_writer(work)) {
        store_dbeta(work, dbeta);
        store_dgamma(work, dgamma);
    }

    let mean_dz = dbeta / params.count_f32;
    let slope = centre.inv_std * (dgamma / params.count_f32);
    for (var i = work.begin + work.lane; i < work.end; i += params.lanes) {
        let at = index_of(work.column, i);
        let seen = seen_at(centre, at);
        store_dresidual(at, seen.dz);
        store_dx(at, centre.scale * ((seen.dz - mean_dz) - seen.x * slope));
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

// Whether it is the first of its channel.
fn is_first_of_channel(work: Work, c: u32) -> bool {
    return work.column * CHANNELS + c < params.channels;
}

// Index in the binding of value `i` of a column in this part.
fn index_of(column: u32, i: u32) -> u32 {
    let slice = i / params.inner;
    return params.base + (slice * params.columns + column) * params.inner + (i - slice * params.inner);
}

alias Value = f32;
const CHANNELS: u32 = 1u;

fn places_of(column: u32) -> vec4<u32> {
    return vec4<u32>(column);
}

// What a combined value holds for one of its channels.
fn component(v: Value, channel: u32) -> f32 {
    return v;
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
fn load_residual(i: u32) -> Value { return Value(0.0); }
fn load_dy(i: u32) -> Value { return widened(dy[in_y(i)]); }
fn store_dx(i: u32, v: Value) { dx[in_x(i)] = narrowed(v); }
fn store_dresidual(i: u32, v: Value) { dresidual[in_residual(i)] = narrowed(v); }
fn in_x(i: u32) -> u32 { return i; }
fn in_y(i: u32) -> u32 { return i; }
fn in_residual(i: u32) -> u32 { return i; }

fn store_dgamma(work: Work, v: Value) {
    for (var c = 0u; c < CHANNELS; c++) {
        if (is_first_of_channel(work, c)) {
            let place = &dgamma[params.dgamma_at + work.channels[c]];
            *place = component(v, c);
        }
    }
}

fn store_dbeta(work: Work, v: Value) {
    for (var c = 0u; c < CHANNELS; c++) {
        if (is_first_of_channel(work, c)) {
            let place = &dbeta[params.dbeta_at + work.channels[c]];
            *place = component(v, c);
        }
    }
}

fn load_statistic(work: Work, plane: u32) -> Value {
    return Value(saved[plane * params.statistics + work.statistics.x]);
}

fn load_parameter(work: Work, plane: u32) -> Value {
    return Value(saved[parameter_plane(plane) + work.channels.x]);
}

// Where a plane of parameters begins.
fn parameter_plane(plane: u32) -> u32 {
    return STATISTIC_PLANES * params.statistics + plane * params.channels;
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

// The gradient by z, given that by its activation.
fn through_activation(dy: Value, z: Value) -> Value {
    return dy;
}

// What the forward pass saved of a column.
struct Centre {
    shift: Value,
    remainder: Value,
    inv_std: Value,
    // gamma * inv_std.
    scale: Value,
    beta: Value,
}

fn centre_of(work: Work) -> Centre {
    let inv_std = load_statistic(work, STATISTIC_INV_STD);
    return Centre(
        load_statistic(work, STATISTIC_SHIFT),
        load_statistic(work, STATISTIC_REMAINDER),
        inv_std,
        load_parameter(work, PARAMETER_GAMMA) * inv_std,
        load_parameter(work, PARAMETER_BETA),
    );
}

// x - mean.
fn centred(centre: Centre, x: Value) -> Value {
    return (x - centre.shift) - centre.remainder;
}

// What the backward pass sees of one value.
struct Seen {
    // x - mean.
    x: Value,
    dz: Value,
}

// What the activation let through is computed again rather than stored.
fn seen_at(centre: Centre, index: u32) -> Seen {
    let x = centred(centre, load_x(index));
    let z = (x * centre.scale + centre.beta) + load_residual(index);
    return Seen(x, through_activation(load_dy(index), z));
}

const STATISTIC_SHIFT: u32 = 0u;
const STATISTIC_REMAINDER: u32 = 1u;
const STATISTIC_INV_STD: u32 = 3u;
const PARAMETER_GAMMA: u32 = 0u;
const PARAMETER_BETA: u32 = 1u;
const STATISTIC_PLANES: u32 = 4u;
