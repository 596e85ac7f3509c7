// Backward with the running statistics held fixed, in one pass: dx = dy * gamma * inv_std where wanted, and the partial
// sums of dy and of dy * (x - running mean).
// A workgroup owns one segment of `tile` columns. Assumes nothing; may run with dx over dy.

fn visit(state: State, at: u32, dy: Value) {
    store_dx(at, dy * state.scale);
}

fn kernel(work: Work) {
    let centre = centre_of(work);
    let scale = load_gamma(work, 0u) * centre.inv_std;
    let zero = Value(0.0);
    store_gradient_sums(work, column_sums(work, State(centre.shift, centre.remainder, scale, zero, zero)));
}
