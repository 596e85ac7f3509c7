// The moments of a column over the workgroup's segment, without cancellation (Chan, Golub and LeVeque 1979). All
// d = x - shift (shift.wgsl).

struct State {
    shift: Value,
    count: f32,
    mean: Value,
    m2: Value,
}

struct Inputs {
    x: Value,
}

fn inputs_at(index: u32) -> Inputs {
    return Inputs(load_x(index));
}

// Four values become a run with a mean and M2 of its own, which is merged: no sum of squares is taken about a far shift.
fn four(state: State, at: vec4<u32>, a: Inputs, b: Inputs, c: Inputs, d: Inputs) -> State {
    let da = a.x - state.shift;
    let db = b.x - state.shift;
    let dc = c.x - state.shift;
    let dd = d.x - state.shift;
    let mean = 0.25 * ((da + db) + (dc + dd));
    let ea = da - mean;
    let eb = db - mean;
    let ec = dc - mean;
    let ed = dd - mean;
    return merge_run(state, 4.0, mean, (ea * ea + eb * eb) + (ec * ec + ed * ed));
}

fn one(state: State, at: u32, a: Inputs) -> State {
    return merge_run(state, 1.0, a.x - state.shift, Value(0.0));
}

fn merge_run(state: State, count: f32, mean: Value, m2: Value) -> State {
    let total = state.count + count;
    // The first run is taken as it is, and a division is not exact; the last block may have nothing for a lane.
    let share = select(count / max(total, 1.0), 1.0, state.count == 0.0);
    let delta = mean - state.mean;
    return State(
        state.shift,
        total,
        state.mean + delta * share,
        state.m2 + m2 + (delta * delta) * (state.count * share),
    );
}

// The mean of d, and M2.
fn column_moments(work: Work, shift: Value) -> Pair {
    let empty = State(shift, 0.0, Value(0.0), Value(0.0));
    var own = empty;
    for (var begin = work.begin; begin < work.end; begin += BLOCK * params.lanes) {
        let block = walk(block_of(work, begin), empty);
        own = merge_run(own, block.count, block.mean, block.m2);
    }
    let sums = lane_sum(work, Pair(Value(own.count), own.count * own.mean));
    // A column that does not exist has no values.
    let count = max(combine(sums.a), Value(1.0));
    let mean = combine(sums.b) / count;
    let delta = own.mean - mean;
    return Pair(mean, combine(lane_sum(work, Pair(own.m2 + own.count * (delta * delta), Value(0.0))).a));
}
