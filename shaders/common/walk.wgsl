// The loop over a column's segment, four values in flight. The kernel says what happens to them: it defines `State`,
// `Inputs`, `inputs_at`, `four` and `one`.

// The index of a value in the tensor and its place within its slice.
struct Cursor {
    index: u32,
    place: u32,
}

// How a lane gets to its next value, `lanes` further: so many places within a slice and so far in the tensor, and further
// by `wrap` where that leaves the slice. The step needs no division. All of it is loaded once: behind a store a compiler
// has to load uniforms again.
struct Stride {
    lanes: u32,
    inner: u32,
    places: u32,
    index: u32,
    wrap: u32,
}

fn stride_of_lane() -> Stride {
    let slices = params.lanes / params.inner;
    let places = params.lanes - slices * params.inner;
    let slice = params.columns * params.inner;
    return Stride(params.lanes, params.inner, places, slices * slice + places, slice - params.inner);
}

fn advance(cursor: Cursor, stride: Stride) -> Cursor {
    let place = cursor.place + stride.places;
    let leaves = place >= stride.inner;
    return Cursor(
        cursor.index + stride.index + select(0u, stride.wrap, leaves),
        place - select(0u, stride.inner, leaves),
    );
}

fn walk(work: Work, initial: State) -> State {
    let stride = stride_of_lane();
    var state = initial;
    var i = work.begin + work.lane;
    var a = Cursor(index_of(work.column, i), i % stride.inner);
    while (i + 3u * stride.lanes < work.end) {
        let b = advance(a, stride);
        let c = advance(b, stride);
        let d = advance(c, stride);
        let at = vec4<u32>(a.index, b.index, c.index, d.index);
        state = four(state, at, inputs_at(at.x), inputs_at(at.y), inputs_at(at.z), inputs_at(at.w));
        a = advance(d, stride);
        i += 4u * stride.lanes;
    }
    while (i < work.end) {
        state = one(state, a.index, inputs_at(a.index));
        a = advance(a, stride);
        i += stride.lanes;
    }
    return state;
}
