// The loop over a column's segment, four values in flight. The kernel says what happens to them: it defines `State`,
// `Inputs`, `inputs_at`, `four` and `one`.

// The index of a value in the tensor and its place within its slice. A lane steps `lanes` values at a time; split into
// whole slices and a rest, the step needs no division.
struct Cursor {
    index: u32,
    place: u32,
}

fn advance(cursor: Cursor) -> Cursor {
    let slices = params.lanes / params.inner;
    let rest = params.lanes - slices * params.inner;
    let index = cursor.index + slices * params.columns * params.inner + rest;
    let place = cursor.place + rest;
    if (place >= params.inner) {
        return Cursor(index + (params.columns - 1u) * params.inner, place - params.inner);
    }
    return Cursor(index, place);
}

fn walk(work: Work, initial: State) -> State {
    var state = initial;
    var i = work.begin + work.lane;
    var a = Cursor(index_of(work.column, i), i % params.inner);
    while (i + 3u * params.lanes < work.end) {
        let b = advance(a);
        let c = advance(b);
        let d = advance(c);
        let at = vec4<u32>(a.index, b.index, c.index, d.index);
        state = four(state, at, inputs_at(at.x), inputs_at(at.y), inputs_at(at.z), inputs_at(at.w));
        a = advance(d);
        i += 4u * params.lanes;
    }
    while (i < work.end) {
        state = one(state, a.index, inputs_at(a.index));
        a = advance(a);
        i += params.lanes;
    }
    return state;
}
