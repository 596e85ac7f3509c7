// Merges the partial sums of the backward pass (gradient_scratch.wgsl).

// Sums of dz and of dz * (x - mean) over all splits and folds. Every workgroup of a column adds them again, in the same
// order.
fn merged_gradient_sums(work: Work) -> Pair {
    var sums = Pair(Value(0.0), Value(0.0));
    for (var i = work.lane; i < params.all_splits * params.fold; i += params.lanes) {
        let split = i / params.fold;
        sums.a += load_scratch(work, dz_row(split) * params.fold + i % params.fold);
        sums.b += load_scratch(work, dz_x_row(split) * params.fold + i % params.fold);
    }
    return lane_sum(work, sums);
}
