// Training forward as the textbook has it (Ioffe and Szegedy 2015, algorithm 1). Begin to read here.
//
//   mean = sum(x) / m        var = sum((x - mean)^2) / m        y = (x - mean) / sqrt(var + eps) * gamma + beta
//
// A workgroup owns some channels, each with `lanes` invocations. They go over the channel's elements three times, in turn: for
// the mean, for the variance, for y. Between those times they add up what each has found (`lane_sum`).
// It differs from the textbook in one thing: it takes everything relative to the shift, an element of the channel. Far from
// zero a float has no digits left for small differences; near the shift it has them all. So the mean is a pair, the shift and
// the rest of it.
// Assumes nothing about the data. No plan chooses it. The other kernels compute the same: `forward_resident` reads x once,
// `forward_whole` twice and four values at a time, `moments` and `normalize` share a channel between many workgroups.
import package::common::activation::activated;
import package::common::bindings::{load_beta, load_gamma, load_residual, load_x, store_y};
import package::common::reduce::lane_sum;
import package::common::running::update_running;
import package::common::statistics::{Statistics, inv_std_of, save, shift_of};
import package::common::walk::index_of;
import package::common::work::{Work, is_writer, params};

fn kernel(work: Work) {
    let shift = shift_of(work);

    var sum = 0.0;
    for (var i = work.begin + work.lane; i < work.end; i += params.lanes) {
        sum += load_x(index_of(work.column, i)) - shift;
    }
    let rest_of_mean = lane_sum(work, sum) / params.count_f32;

    var squares = 0.0;
    for (var i = work.begin + work.lane; i < work.end; i += params.lanes) {
        let from_mean = (load_x(index_of(work.column, i)) - shift) - rest_of_mean;
        squares += from_mean * from_mean;
    }
    let variance = lane_sum(work, squares) / params.count_f32;

    // One invocation leaves the statistics for the backward pass, and for inference.
    let statistics = Statistics(shift, rest_of_mean, variance);
    let inv_std = inv_std_of(variance);
    if (is_writer(work)) {
        save(work, statistics, inv_std);
        update_running(work, statistics);
    }

    let scale = load_gamma(work) * inv_std;
    let beta = load_beta(work);
    for (var i = work.begin + work.lane; i < work.end; i += params.lanes) {
        let at = index_of(work.column, i);
        let from_mean = (load_x(at) - shift) - rest_of_mean;
        store_y(at, activated((from_mean * scale + beta) + load_residual(at)));
    }
}
