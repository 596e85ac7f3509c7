// y = (x - mean) * scale + beta over a column. The mean is a pair: subtracting its parts in turn keeps full accuracy where
// the mean is a million deviations from zero, which one multiply-add of x would lose.

struct State {
    shift: Value,
    remainder: Value,
    scale: Value,
    beta: Value,
}

struct Inputs {
    x: Value,
}

fn inputs_at(index: u32) -> Inputs {
    return Inputs(load_x(index));
}

fn normalized(state: State, a: Inputs) -> Value {
    return ((a.x - state.shift) - state.remainder) * state.scale + state.beta;
}

fn four(state: State, at: vec4<u32>, a: Inputs, b: Inputs, c: Inputs, d: Inputs) -> State {
    store_y(at.x, normalized(state, a));
    store_y(at.y, normalized(state, b));
    store_y(at.z, normalized(state, c));
    store_y(at.w, normalized(state, d));
    return state;
}

fn one(state: State, at: u32, a: Inputs) -> State {
    store_y(at, normalized(state, a));
    return state;
}
