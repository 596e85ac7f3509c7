// Computes dx, dgamma and dbeta of the training forward:
// dx = gamma * inv_std * (dy - dbeta / m - (x - mean) * inv_std * dgamma / m).
// A workgroup owns one segment of `tile` columns; each merges the partial sums again, the first split writes dgamma and
// dbeta. Assumes that `gradient_sums` ran before. May run with dx over dy.

struct State {
    shift: Value,
    remainder: Value,
    scale: Value,
    // dbeta / m, and what x - mean is multiplied with: inv_std * dgamma / m.
    mean_dy: Value,
    slope: Value,
}

struct Inputs {
    x: Value,
    dy: Value,
}

fn inputs_at(index: u32) -> Inputs {
    return Inputs(load_x(index), load_dy(index));
}

fn gradient(state: State, a: Inputs) -> Value {
    let centred = (a.x - state.shift) - state.remainder;
    // The subtraction stays inside, per element: scaled up by m first, it would cancel.
    return state.scale * ((a.dy - state.mean_dy) - centred * state.slope);
}

fn four(state: State, at: vec4<u32>, a: Inputs, b: Inputs, c: Inputs, d: Inputs) -> State {
    store_dx(at.x, gradient(state, a));
    store_dx(at.y, gradient(state, b));
    store_dx(at.z, gradient(state, c));
    store_dx(at.w, gradient(state, d));
    return state;
}

fn one(state: State, at: u32, a: Inputs) -> State {
    store_dx(at, gradient(state, a));
    return state;
}

fn kernel(work: Work) {
    let centre = centre_of(work);
    let sums = merged_gradient_sums(work);
    let dgamma = sums.b * centre.inv_std;
    if (is_writer(work)) {
        store_dbeta(work.channel, sums.a);
        store_dgamma(work.channel, dgamma);
    }
    let scale = load_gamma(work.channel) * centre.inv_std;
    let slope = centre.inv_std * (dgamma / params.count_f32);
    walk(work, State(centre.shift, centre.remainder, scale, sums.a / params.count_f32, slope));
}
