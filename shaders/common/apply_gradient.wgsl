// dx over a column (gradient.wgsl), where the sums are known.

struct State {
    shift: Value,
    remainder: Value,
    gradient: Gradient,
}

struct Inputs {
    x: Value,
    dy: Value,
}

fn inputs_at(index: u32) -> Inputs {
    return Inputs(load_x(index), load_dy(index));
}

fn dx_of(state: State, a: Inputs) -> Value {
    return input_gradient(state.gradient, (a.x - state.shift) - state.remainder, a.dy);
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
