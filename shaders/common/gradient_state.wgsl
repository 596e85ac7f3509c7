// The sums that the backward pass takes over a column: dz and dz * (x - mean).

struct State {
    centre: Centre,
    dz: Value,
    dz_x: Value,
}

// The sums of one value's dz, which leaves as the residual's gradient.
fn summed(state: State, at: u32, a: Inputs) -> Pair {
    let x = centred(state.centre, a.x);
    let dz = dz_of(state.centre, x, a.dy, a.residual);
    store_dresidual(at, dz);
    visit(state, at, dz);
    return Pair(dz, dz * x);
}

fn four(state: State, at: vec4<u32>, a: Inputs, b: Inputs, c: Inputs, d: Inputs) -> State {
    let sa = summed(state, at.x, a);
    let sb = summed(state, at.y, b);
    let sc = summed(state, at.z, c);
    let sd = summed(state, at.w, d);
    var next = state;
    next.dz += (sa.a + sb.a) + (sc.a + sd.a);
    next.dz_x += (sa.b + sb.b) + (sc.b + sd.b);
    return next;
}

fn one(state: State, at: u32, a: Inputs) -> State {
    let sum = summed(state, at, a);
    var next = state;
    next.dz += sum.a;
    next.dz_x += sum.b;
    return next;
}

// The sums over the workgroup's segment.
fn column_sums(work: Work, centre: Centre) -> Pair {
    let empty = State(centre, Value(0.0), Value(0.0));
    var own = Pair(Value(0.0), Value(0.0));
    for (var begin = work.begin; begin < work.end; begin += BLOCK * params.lanes) {
        let block = walk(block_of(work, begin), empty);
        own.a += block.dz;
        own.b += block.dz_x;
    }
    let sums = lane_sum(work, own);
    return Pair(combine(sums.a), combine(sums.b));
}
