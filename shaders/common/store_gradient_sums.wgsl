// Leaves the sums of a segment in scratch (gradient_scratch.wgsl).

fn store_gradient_sums(work: Work, sums: Pair) {
    if (work.owned && work.lane == 0u) {
        store_scratch(work, dz_row(work.split), sums.a);
        store_scratch(work, dz_x_row(work.split), sums.b);
    }
}
