// y = act((x - mean) * scale + beta + residual) over a column. The mean is a pair: subtracting its parts in turn keeps full
// accuracy where the mean is a million deviations from zero, which one multiply-add of x would lose.

struct State {
    shift: Value,
    remainder: Value,
    scale: Value,
    beta: Value,
}

struct Inputs {
    x: Value,
    residual: Value,
}

fn inputs_at(index: u32) -> Inputs {
    return Inputs(load_x(index), load_residual(index));
}

fn y_of(state: State, a: Inputs) -> Value {
    let normalized = ((a.x - state.shift) - state.remainder) * state.scale + state.beta;
    return activated(normalized + a.residual);
}

fn four(state: State, at: vec4<u32>, a: Inputs, b: Inputs, c: Inputs, d: Inputs) -> State {
    store_y(at.x, y_of(state, a));
    store_y(at.y, y_of(state, b));
    store_y(at.z, y_of(state, c));
    store_y(at.w, y_of(state, d));
    return state;
}

fn one(state: State, at: u32, a: Inputs) -> State {
    store_y(at, y_of(state, a));
    return state;
}
