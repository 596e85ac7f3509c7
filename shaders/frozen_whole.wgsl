// Backward with the running statistics held fixed, in one dispatch: dx = dz * gamma * inv_std and the residual's gradient,
// dz, where wanted, dgamma, dbeta.
// A workgroup owns `tile` columns whole. Assumes what inference saved. May run with dx or the residual's gradient over dy.

fn visit(state: State, at: u32, dz: Value) {
    store_dx(at, dz * state.centre.scale);
}

fn kernel(work: Work) {
    let centre = centre_of(work);
    publish_gradients(work, centre, column_sums(work, centre));
}
