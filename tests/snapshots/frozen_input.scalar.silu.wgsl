// frozen_input.scalar.silu

override WORKGROUP: u32 = 256u;
@group(0) @binding(1) var<storage, read> x: array<Element>;
@group(0) @binding(2) var<storage, read> dy: array<Element>;
@group(0) @binding(3) var<storage, read> residual: array<Element>;
@group(0) @binding(4) var<storage, read> saved: array<f32>;
@group(0) @binding(5) var<storage, read_write> dresidual: array<Element>;
@group(0) @binding(6) var<storage, read_write> dx: array<Element>;

fn kernel(work: Work) {
    let centre = centre_of(work);
    var walk = walk_of(work);
    while (has_four(walk)) {
        let at = next_four(&walk);
        let a = seen_at(centre, at.x).dz;
        let b = seen_at(centre, at.y).dz;
        let c = seen_at(centre, at.z).dz;
        let d = seen_at(centre, at.w).dz;
        pass_on(centre, at.x, a);
        pass_on(centre, at.y, b);
        pass_on(centre, at.z, c);
        pass_on(centre, at.w, d);
    }
    while (has_one(walk)) {
        let at = next_one(&walk);
        pass_on(centre, at, seen_at(centre, at).dz);
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

alias Value = f32;

// The bits of a value.
alias Bits = u32;

fn places_of(column: u32) -> vec4<u32> {
    return vec4<u32>(column);
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
fn load_dy(i: u32) -> Value { return widened(dy[in_y(i)]); }
fn store_dx(i: u32, v: Value) { dx[in_x(i)] = narrowed(v); }
fn store_dresidual(i: u32, v: Value) { dresidual[in_residual(i)] = narrowed(v); }
fn in_x(i: u32) -> u32 { return i; }
fn in_y(i: u32) -> u32 { return i; }
fn in_residual(i: u32) -> u32 { return i; }

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

fn through_activation(dy: Value, z: Value) -> Value {
    let near = limited(z);
    let s = sigmoid(near);
    return dy * (s.of_z * (Value(1.0) + near * s.of_minus_z));
}

// z, but no further than 104 from 0: exp(-104) is less than half the smallest f32. So no infinity is multiplied with 0.
fn limited(z: Value) -> Value {
    let magnitude = bitcast<Bits>(z) & Bits(0x7fffffffu);
    // From 104 to infinity.
    let far = magnitude - Bits(0x42d00000u) <= Bits(0x3cb00000u);
    return select(z, clamp(z, Value(-104.0), Value(104.0)), far);
}

// sigmoid(z), and 1 - sigmoid(z), which would cancel as a difference.
struct Sigmoid {
    of_z: Value,
    of_minus_z: Value,
}

// The exponential is at most 1 and cannot overflow.
fn sigmoid(z: Value) -> Sigmoid {
    let e = exp(-abs(z));
    let more = Value(1.0) / (Value(1.0) + e);
    let less = e / (Value(1.0) + e);
    let positive = z > Value(0.0);
    return Sigmoid(select(less, more, positive), select(more, less, positive));
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

fn pass_on(centre: Centre, index: u32, dz: Value) {
    store_dresidual(index, dz);
    store_dx(index, dz * centre.scale);
}

const STATISTIC_SHIFT: u32 = 0u;
const STATISTIC_REMAINDER: u32 = 1u;
const STATISTIC_INV_STD: u32 = 3u;
const PARAMETER_GAMMA: u32 = 0u;
const PARAMETER_BETA: u32 = 1u;
const STATISTIC_PLANES: u32 = 4u;
