// Computes the partial sums of dz and of dz * (x - mean) of each column over each split, and where wanted the residual's
// gradient, which is dz.
// A workgroup owns one segment of `tile` columns and writes their partial sums. Assumes what the forward pass saved. May run
// with the residual's gradient over dy.

fn visit(state: State, at: u32, dz: Value) {}

fn kernel(work: Work) {
    store_gradient_sums(work, column_sums(work, centre_of(work)));
}
