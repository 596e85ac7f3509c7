// Reduction `subgroup`: sums over the lanes of the workgroup's one column, within subgroups first. Needs subgroups and
// tile 1; correct for every subgroup size.

struct Pair {
    a: Value,
    b: Value,
}

// A subgroup has at least one invocation, so there are at most WORKGROUP of them.
var<workgroup> pairs: array<Pair, WORKGROUP>;
var<private> subgroup: u32;
var<private> subgroups: u32;
var<private> subgroup_lane: u32;

// Every invocation of the workgroup calls this; each gets the sums of the column.
fn lane_sum(work: Work, own: Pair) -> Pair {
    let a = subgroupAdd(own.a);
    let b = subgroupAdd(own.b);
    // The former call's results may still be being read.
    workgroupBarrier();
    if (subgroup_lane == 0u) {
        pairs[subgroup] = Pair(a, b);
    }
    workgroupBarrier();
    var sum = pairs[0];
    for (var other = 1u; other < subgroups; other++) {
        sum.a += pairs[other].a;
        sum.b += pairs[other].b;
    }
    return sum;
}
