// Computes the partial sums of dy and of dy * (x - mean) of each column over each split.
// A workgroup owns one segment of `tile` columns and writes their partial sums. Assumes the centre that the forward pass
// used.

fn visit(state: State, at: u32, dy: Value) {}

fn kernel(work: Work) {
    let centre = centre_of(work);
    let zero = Value(0.0);
    store_gradient_sums(work, column_sums(work, State(centre.shift, centre.remainder, zero, zero, zero)));
}
