// Backward with the running statistics held fixed, without sums: dx = dz * gamma * inv_std, and the residual's gradient, dz.
// Reads x only where an activation has to be seen through.
// A workgroup owns one segment of `tile` columns. Assumes what inference saved. May run with dx or the residual's gradient
// over dy.

struct State {
    centre: Centre,
}

fn apply(state: State, at: u32, a: Inputs) {
    let dz = dz_of(state.centre, centred(state.centre, a.x), a.dy, a.residual);
    store_dresidual(at, dz);
    store_dx(at, dz * state.centre.scale);
}

fn four(state: State, at: vec4<u32>, a: Inputs, b: Inputs, c: Inputs, d: Inputs) -> State {
    apply(state, at.x, a);
    apply(state, at.y, b);
    apply(state, at.z, c);
    apply(state, at.w, d);
    return state;
}

fn one(state: State, at: u32, a: Inputs) -> State {
    apply(state, at, a);
    return state;
}

fn kernel(work: Work) {
    walk(work, State(centre_of(work)));
}
