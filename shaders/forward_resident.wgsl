// Training forward in one dispatch: the column stays in registers between its statistics and its normalization.
// A workgroup owns `tile` columns whole. Each lane holds several values of its column, each under a name of its own, since
// only such stay in registers: the lines between `unroll k {` and `}` stand once for each. Assumes that so many values of all
// lanes cover the column. May run with y over x.
import package::common::activation::activated;
import package::common::bindings::{load_residual, load_x, store_y};
import package::common::normalization::normalization_of;
import package::common::reduce::lane_sum;
import package::common::running::update_running;
import package::common::statistics::{Statistics, inv_std_of, save, shift_of};
import package::common::values::{Value, combine};
import package::common::walk::{has_one, next_one, walk_of};
import package::common::work::{Work, is_writer, params};

fn kernel(work: Work) {
    let shift = shift_of(work);
    let start = walk_of(work);
    var walk = start;
    var sum = Value(0.0);
    // unroll k {
    let inside_k = has_one(walk);
    let d_k = select(Value(0.0), load_x(select(0u, walk.index, inside_k)) - shift, inside_k);
    next_one(&walk);
    sum += d_k;
    // }
    let remainder = combine(lane_sum(work, sum)) / params.count_f32;

    // The mean is known: M2 is taken about it.
    var m2 = Value(0.0);
    // unroll k {
    let e_k = select(Value(0.0), d_k - remainder, inside_k);
    m2 += e_k * e_k;
    // }
    let variance = combine(lane_sum(work, m2)) / params.count_f32;

    let statistics = Statistics(shift, remainder, variance);
    let inv_std = inv_std_of(variance);
    if (is_writer(work)) {
        save(work, statistics, inv_std);
        update_running(work, statistics);
    }
    let n = normalization_of(work, statistics, inv_std);
    walk = start;
    // unroll k {
    if (inside_k) {
        store_y(walk.index, activated((e_k * n.scale + n.beta) + load_residual(walk.index)));
    }
    next_one(&walk);
    // }
}
