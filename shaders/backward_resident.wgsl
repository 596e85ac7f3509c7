// Training backward in one dispatch: x and dz of a column stay in registers between their sums and dx.
// A workgroup owns `tile` columns whole; each lane holds HELD values of its column, the lines between `repeat k` and `}`
// stand once for each. Assumes that lanes * HELD covers the column, and what the forward pass saved. May run with dx or the
// residual's gradient over dy.

fn kernel(work: Work) {
    let centre = centre_of(work);
    let stride = stride_of_lane();
    let first = work.begin + work.lane;
    let start = cursor_of(work, first, stride);
    var cursor = start;
    var own = Pair(Value(0.0), Value(0.0));
    // repeat k {
    let inside$k = first + $ku * stride.lanes < work.end;
    var x$k = Value(0.0);
    var dz$k = Value(0.0);
    if (inside$k) {
        x$k = centred(centre, load_x(cursor.index));
        dz$k = dz_of(centre, x$k, load_dy(cursor.index), load_residual(cursor.index));
        store_dresidual(cursor.index, dz$k);
    }
    cursor = advance(cursor, stride);
    own.a += dz$k;
    own.b += dz$k * x$k;
    // }
    let partial = lane_sum(work, own);
    let sums = Pair(combine(partial.a), combine(partial.b));
    let gradient = gradient_of(centre, sums.a, publish_gradients(work, centre, sums));
    cursor = start;
    // repeat k {
    if (inside$k) {
        store_dx(cursor.index, input_gradient(gradient, x$k, dz$k));
    }
    cursor = advance(cursor, stride);
    // }
}
