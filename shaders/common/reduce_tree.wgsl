// Reduction `tree`: sums over the lanes of each column in workgroup memory. Runs everywhere. The order is fixed, so
// repeated runs agree to the bit.

struct Pair {
    a: Value,
    b: Value,
}

var<workgroup> pairs: array<Pair, WORKGROUP>;

// Every invocation of the workgroup calls this; each gets the sums of its own column.
fn lane_sum(work: Work, own: Pair) -> Pair {
    var sum = own;
    if (params.lanes > 1u) {
        let stride = select(1u, params.tile, params.interleaved != 0u);
        // The former call's results may still be being read.
        workgroupBarrier();
        pairs[work.thread] = own;
        workgroupBarrier();
        for (var half = params.lanes / 2u; half > 0u; half = half / 2u) {
            if (work.lane < half) {
                let other = work.thread + half * stride;
                pairs[work.thread].a += pairs[other].a;
                pairs[work.thread].b += pairs[other].b;
            }
            workgroupBarrier();
        }
        sum = pairs[work.thread - work.lane * stride];
    }
    return sum;
}
