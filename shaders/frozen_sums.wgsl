// Backward with the running statistics held fixed, in one pass: dx = dz * gamma * inv_std and the residual's gradient, dz,
// where wanted, and the partial sums of dz and of dz * (x - running mean).
// A workgroup owns one segment of `tile` columns. Assumes what inference saved. May run with dx or the residual's gradient
// over dy.

fn visit(state: State, at: u32, dz: Value) {
    store_dx(at, dz * state.centre.scale);
}

fn kernel(work: Work) {
    store_gradient_sums(work, column_sums(work, centre_of(work)));
}
