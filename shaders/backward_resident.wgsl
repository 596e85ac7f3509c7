// Training backward in one dispatch: x and dy of a column stay in registers between their sums and dx.
// A workgroup owns `tile` columns whole; each lane holds HELD values of its column, the lines between `repeat k` and `}`
// stand once for each. Assumes that lanes * HELD covers the column, and the centre that the forward pass used. May run
// with dx over dy.

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
    var dy$k = Value(0.0);
    if (inside$k) {
        x$k = (load_x(cursor.index) - centre.shift) - centre.remainder;
        dy$k = load_dy(cursor.index);
    }
    cursor = advance(cursor, stride);
    own.a += dy$k;
    own.b += dy$k * x$k;
    // }
    let partial = lane_sum(work, own);
    let sums = Pair(combine(partial.a), combine(partial.b));
    let dgamma = publish_gradients(work, centre, sums);
    let gradient = gradient_of(work, centre, sums.a, dgamma);
    cursor = start;
    // repeat k {
    if (inside$k) {
        store_dx(cursor.index, input_gradient(gradient, x$k, dy$k));
    }
    cursor = advance(cursor, stride);
    // }
}
