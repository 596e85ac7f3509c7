// Merges the partial moments of a column (moments.wgsl) into its mean and variance.

// Merges the partial results of all splits and folds. Every workgroup of a column does it again, in the same order.
fn merged_moments(work: Work) -> Moments {
    let partials = params.all_splits * params.fold;
    var count = 0.0;
    var weighted = Value(0.0);
    for (var i = work.lane; i < partials; i += params.lanes) {
        let split = i / params.fold;
        let n = f32(values_in_split(split));
        count += n;
        weighted += n * load_scratch(work, mean_row(split) * params.fold + i % params.fold);
    }
    let sums = lane_sum(work, Pair(Value(count), weighted));
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
    m2 = lane_sum(work, Pair(m2, Value(0.0))).a;
    return Moments(load_scratch(work, 0u), mean, m2 / params.count_f32);
}
