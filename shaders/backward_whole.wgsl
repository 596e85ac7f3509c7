// Training backward in one dispatch: takes the sums of a column, then goes over it again, which a cache may hold.
// A workgroup owns `tile` columns whole. Assumes what the forward pass saved. May run with dx or the residual's gradient
// over dy.

fn visit(state: State, at: u32, dz: Value) {}

fn kernel(work: Work) {
    let centre = centre_of(work);
    let sums = column_sums(work, centre);
    let dgamma = publish_gradients(work, centre, sums);
    walk_again(work, State_again(centre, gradient_of(centre, sums.a, dgamma)));
}
