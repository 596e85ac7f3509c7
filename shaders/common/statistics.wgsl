// The statistics of a column, without cancellation. All arithmetic is on d = x - shift, where the shift is an element of the
// channel: d is exact for neighbouring floats, and 0 for a constant channel.
import package::common::bindings::{load_beta, load_gamma, load_scratch, load_x, store_parameter, store_statistic};
import package::common::reduce::{Two, lane_sum, lane_sums};
import package::common::values::{Bits, ELEMENTS, Value, combine, nan};
import package::common::walk::{has_four, has_one, index_of, next_four, next_one, walk_of};
import package::common::work::{BLOCK, Work, block_of, params, values_in_split};
import package::table::{PARAMETER_BETA, PARAMETER_GAMMA, STATISTIC_INV_STD, STATISTIC_REMAINDER, STATISTIC_SHIFT, STATISTIC_VARIANCE};

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

// One element of each of the work's channels. It lies in the tensor's first part, which begins where its binding does.
@if(scalar)
fn element_of_x(work: Work, element: u32) -> Value {
    return load_x(index_of(work.column, element));
}

@if(planes4)
fn element_of_x(work: Work, element: u32) -> Value {
    return Value(load_x(index_of(work.column, element / 4u))[element % 4u]);
}

@if(rows4)
fn element_of_x(work: Work, element: u32) -> Value {
    let at = element * params.statistics + work.statistics;
    return Value(
        load_x(at.x / 4u)[at.x % 4u],
        load_x(at.y / 4u)[at.y % 4u],
        load_x(at.z / 4u)[at.z % 4u],
        load_x(at.w / 4u)[at.w % 4u],
    );
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
