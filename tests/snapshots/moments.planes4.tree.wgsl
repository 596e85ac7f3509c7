// moments.planes4.tree

override WORKGROUP: u32 = 256u;
@group(0) @binding(1) var<storage, read> x: array<Element>;
@group(0) @binding(2) var<storage, read_write> scratch: array<f32>;

fn kernel(work: Work) {
    let shift = shift_of_part(work);
    let found = segment_moments(work, shift);
    if (is_writer_of_segment(work)) {
        if (work.split == 0u) {
            store_scratch(work, SHIFT_ROW, shift);
        }
        store_scratch(work, mean_row(work.split), found.mean);
        store_scratch(work, m2_row(work.split), found.m2);
    }
}

// A tensor of several bindings has the shift of the first one, whose dispatch came before.
fn shift_of_part(work: Work) -> Value {
    if (params.first_split == 0u) {
        return shift_of(work);
    }
    return load_scratch(work, SHIFT_ROW);
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

// Whether this invocation writes the partial results of its segment.
fn is_writer_of_segment(work: Work) -> bool {
    return work.owned && work.lane == 0u;
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

// What the binding of a tensor is an array of. With one element to a value, elements in words are half words; a tensor that is
// written is an array of atomic<u32> then.
alias Element = Value;

fn widened(element: Element) -> Value {
    return Value(element);
}

fn load_x(i: u32) -> Value { return widened(x[in_x(i)]); }
fn in_x(i: u32) -> u32 { return i; }

fn load_scratch(work: Work, plane: u32) -> Value {
    return Value(scratch[plane * params.statistics + work.statistics.x]);
}

fn store_scratch(work: Work, row: u32, v: Value) {
    for (var c = 0u; c < CHANNELS; c++) {
        scratch[(row * params.columns + work.column) * CHANNELS + c] = component(v, c);
    }
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

// Partial results lie in scratch in rows of all columns: the shift, then for each split the mean of d, and M2. A row is `fold`
// planes of statistics.
const SHIFT_ROW: u32 = 0u;

fn mean_row(split: u32) -> u32 {
    return 1u + 2u * split;
}

fn m2_row(split: u32) -> u32 {
    return 2u + 2u * split;
}
