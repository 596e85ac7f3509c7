// Sums over the lanes of a column. Two ways: a tree in workgroup memory, which runs everywhere and in a fixed order, so that
// repeated runs agree to the bit; and within subgroups first, which needs subgroups and one column per workgroup, and is
// correct for every subgroup size.
import package::common::values::Value;
import package::common::work::{Work, params};
import package::table::WORKGROUP;

// Two sums that are taken at once.
struct Two {
    a: Value,
    b: Value,
}

// A subgroup has at least one invocation, so there are at most WORKGROUP of them.
var<workgroup> shared_sums: array<Two, WORKGROUP>;

// Every invocation of the workgroup calls this; each gets the sums of its own column.
@if(!subgroup)
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

@if(subgroup)
fn lane_sums(work: Work, own: Two) -> Two {
    let a = subgroupAdd(own.a);
    let b = subgroupAdd(own.b);
    // The former call's results may still be being read.
    workgroupBarrier();
    if (work.subgroup_lane == 0u) {
        shared_sums[work.subgroup] = Two(a, b);
    }
    workgroupBarrier();
    var sum = shared_sums[0];
    for (var other = 1u; other < work.subgroups; other++) {
        sum.a += shared_sums[other].a;
        sum.b += shared_sums[other].b;
    }
    return sum;
}

// One sum.
fn lane_sum(work: Work, own: Value) -> Value {
    return lane_sums(work, Two(own, Value(0.0))).a;
}
