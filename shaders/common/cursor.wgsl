// From one value of a lane to its next.

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

fn cursor_of(work: Work, i: u32, stride: Stride) -> Cursor {
    return Cursor(index_of(work.column, i), i % stride.inner);
}
