// The loop over a column's segment, four values in flight. The kernel says what happens to them: it defines `State`,
// `Inputs`, `inputs_at`, `four` and `one`.

fn walk(work: Work, initial: State) -> State {
    let stride = stride_of_lane();
    var state = initial;
    var i = work.begin + work.lane;
    var a = cursor_of(work, i, stride);
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
