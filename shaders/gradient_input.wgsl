// Computes dx, dgamma and dbeta of the training forward (common/gradient.wgsl).
// A workgroup owns one segment of `tile` columns; each merges the partial sums again, the first split writes dgamma and
// dbeta. Assumes that `gradient_sums` ran before. May run with dx over dy.

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

fn kernel(work: Work) {
    let centre = centre_of(work);
    let sums = merged_gradient_sums(work);
    let dgamma = sums.b * centre.inv_std;
    if (is_writer(work)) {
        store_dbeta(work, 0u, sums.a);
        store_dgamma(work, 0u, dgamma);
    }
    walk(work, State(centre.shift, centre.remainder, gradient_of(work, centre, sums.a, dgamma)));
}
