// Merges the partial moments of a column (moments.wgsl) into its mean and variance.

struct Moments {
    shift: Value,
    // Mean minus shift.
    remainder: Value,
    // Biased variance.
    variance: Value,
}

// Merges the partial results of all splits. Every workgroup of a column does it again, in the same order.
fn merged_moments(work: Work) -> Moments {
    var count = 0.0;
    var weighted = Value(0.0);
    for (var split = work.lane; split < params.splits; split += params.lanes) {
        let n = f32(values_in_split(split));
        count += n;
        weighted += n * load_scratch(partial_mean(work, split));
    }
    let sums = lane_sum(work, Pair(Value(count), weighted));
    let mean = sums.b / sums.a;
    var m2 = Value(0.0);
    for (var split = work.lane; split < params.splits; split += params.lanes) {
        let delta = load_scratch(partial_mean(work, split)) - mean;
        let n = f32(values_in_split(split));
        // `values_in_split` counts values; M2 counts elements.
        m2 += load_scratch(partial_m2(work, split)) + (n * f32(ELEMENTS)) * (delta * delta);
    }
    m2 = lane_sum(work, Pair(m2, Value(0.0))).a;
    return Moments(load_scratch(work.channel), mean, m2 / params.count_f32);
}
