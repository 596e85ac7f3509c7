// dx over a column (gradient.wgsl), where the sums are known.

struct State {
    centre: Centre,
    gradient: Gradient,
}

fn dx_of(state: State, a: Inputs) -> Value {
    let x = centred(state.centre, a.x);
    return input_gradient(state.gradient, x, dz_of(state.centre, x, a.dy, a.residual));
}

fn four(state: State, at: vec4<u32>, a: Inputs, b: Inputs, c: Inputs, d: Inputs) -> State {
    store_dx(at.x, dx_of(state, a));
    store_dx(at.y, dx_of(state, b));
    store_dx(at.z, dx_of(state, c));
    store_dx(at.w, dx_of(state, d));
    return state;
}

fn one(state: State, at: u32, a: Inputs) -> State {
    store_dx(at, dx_of(state, a));
    return state;
}
