// Training forward in one dispatch: the column stays in registers between its statistics and its normalization.
// A workgroup owns `tile` columns whole; each lane holds HELD values of its column, the lines between `repeat k` and `}`
// stand once for each. Assumes that lanes * HELD covers the column. May run with y over x.

fn kernel(work: Work) {
    let shift = shift_of(work);
    let stride = stride_of_lane();
    let first = work.begin + work.lane;
    let start = cursor_of(work, first, stride);
    var cursor = start;
    var sum = Value(0.0);
    // repeat k {
    let inside$k = first + $ku * stride.lanes < work.end;
    let d$k = select(Value(0.0), load_x(select(0u, cursor.index, inside$k)) - shift, inside$k);
    cursor = advance(cursor, stride);
    sum += d$k;
    // }
    let remainder = combine(lane_sum(work, Pair(sum, Value(0.0))).a) / params.count_f32;
    // The mean is known: M2 is taken about it.
    var m2 = Value(0.0);
    // repeat k {
    let e$k = select(Value(0.0), d$k - remainder, inside$k);
    m2 += e$k * e$k;
    // }
    let variance = combine(lane_sum(work, Pair(m2, Value(0.0))).a) / params.count_f32;
    let inv_std = publish(work, Moments(shift, remainder, variance));
    let scale = load_gamma(work, 0u) * inv_std;
    let beta = load_beta(work, 0u);
    cursor = start;
    // repeat k {
    if (inside$k) {
        store_y(cursor.index, activated((e$k * scale + beta) + load_residual(cursor.index)));
    }
    cursor = advance(cursor, stride);
    // }
}
