// Merges the partial sums of the backward pass (gradient_scratch.wgsl).

// Sums of dy and of dy * (x - mean) over all splits. Every workgroup of a column adds them again, in the same order.
fn merged_gradient_sums(work: Work) -> Pair {
    var sums = Pair(Value(0.0), Value(0.0));
    for (var split = work.lane; split < params.splits; split += params.lanes) {
        sums.a += load_scratch(partial_dy(work, split));
        sums.b += load_scratch(partial_dy_x(work, split));
    }
    return lane_sum(work, sums);
}
