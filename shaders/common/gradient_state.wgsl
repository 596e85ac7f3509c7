// The sums that the backward pass takes over a column: dy and dy * (x - mean).

struct State {
    shift: Value,
    remainder: Value,
    scale: Value,
    dy: Value,
    dy_x: Value,
}

struct Inputs {
    x: Value,
    dy: Value,
}

fn inputs_at(index: u32) -> Inputs {
    return Inputs(load_x(index), load_dy(index));
}

fn centred(state: State, x: Value) -> Value {
    return (x - state.shift) - state.remainder;
}

fn four(state: State, at: vec4<u32>, a: Inputs, b: Inputs, c: Inputs, d: Inputs) -> State {
    var next = state;
    next.dy += (a.dy + b.dy) + (c.dy + d.dy);
    next.dy_x += (a.dy * centred(state, a.x) + b.dy * centred(state, b.x))
        + (c.dy * centred(state, c.x) + d.dy * centred(state, d.x));
    visit(state, at.x, a.dy);
    visit(state, at.y, b.dy);
    visit(state, at.z, c.dy);
    visit(state, at.w, d.dy);
    return next;
}

fn one(state: State, at: u32, a: Inputs) -> State {
    var next = state;
    next.dy += a.dy;
    next.dy_x += a.dy * centred(state, a.x);
    visit(state, at, a.dy);
    return next;
}

// The sums over the workgroup's segment.
fn column_sums(work: Work, empty: State) -> Pair {
    var own = Pair(Value(0.0), Value(0.0));
    for (var begin = work.begin; begin < work.end; begin += BLOCK * params.lanes) {
        let block = walk(block_of(work, begin), empty);
        own.a += block.dy;
        own.b += block.dy_x;
    }
    let sums = lane_sum(work, own);
    return Pair(combine(sums.a), combine(sums.b));
}
