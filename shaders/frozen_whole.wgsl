// Backward with the running statistics held fixed, in one dispatch: dx = dy * gamma * inv_std where wanted, dgamma, dbeta.
// A workgroup owns `tile` columns whole. Assumes nothing; may run with dx over dy.

fn visit(state: State, at: u32, dy: Value) {
    store_dx(at, dy * state.scale);
}

fn kernel(work: Work) {
    let centre = centre_of(work);
    let scale = load_gamma(work, 0u) * centre.inv_std;
    let zero = Value(0.0);
    publish_gradients(work, centre, column_sums(work, State(centre.shift, centre.remainder, scale, zero, zero)));
}
