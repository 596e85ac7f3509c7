// Training backward in one dispatch: takes the sums of a column, then goes over it again, which a cache may hold.
// A workgroup owns `tile` columns whole. Assumes the centre that the forward pass used. May run with dx over dy.

fn visit(state: State, at: u32, dy: Value) {}

fn kernel(work: Work) {
    let centre = centre_of(work);
    let zero = Value(0.0);
    let sums = column_sums(work, State(centre.shift, centre.remainder, zero, zero, zero));
    let dgamma = publish_gradients(work, centre, sums);
    walk_again(work, State_again(centre.shift, centre.remainder, gradient_of(work, centre, sums.a, dgamma)));
}
