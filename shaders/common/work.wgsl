// Who owns what. The tensor is seen as values[outer][columns][inner]; a column is one channel, or four where a value spans
// four (values.wgsl). With inner 1 `fold` samples may count as one, with so many times the columns.
// A workgroup owns `tile` columns and, of each, one of `splits` segments. Within the workgroup a column has `lanes`
// invocations, which take its segment's values in turn.
// A tensor that is too large for one binding is split over the samples into parts, each with dispatches and splits of its
// own; merges see the splits of all parts.
import package::common::values::{CHANNELS, places_of};

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
    @if(merges_only) let splits = 1u;
    @if(!merges_only) let splits = params.splits;
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

// Values of a column in one of the splits of all parts.
fn values_in_split(split: u32) -> u32 {
    let part = split / params.part_splits;
    let begin = (split - part * params.part_splits) * params.segment;
    let values = min(params.part_values, params.all_values - part * params.part_values);
    return min(begin + params.segment, values) - begin;
}
