// A lane's way through its segment: from the index of one of its values in the tensor to that of the next.
import package::common::work::{Work, params};

struct Walk {
    // The value of the column that is next, and the end of the segment.
    i: u32,
    end: u32,
    // Where that value lies in the tensor, and its place within its slice.
    index: u32,
    place: u32,
    // How to get to the lane's next value, `lanes` further: so many places within a slice and so far in the tensor, and
    // further by `wrap` where that leaves the slice. The step needs no division. All of it is loaded once: after a store a
    // compiler has to load uniforms again.
    lanes: u32,
    inner: u32,
    places: u32,
    step: u32,
    wrap: u32,
}

fn walk_of(work: Work) -> Walk {
    let i = work.begin + work.lane;
    let inner = params.inner;
    let slices = params.lanes / inner;
    let places = params.lanes - slices * inner;
    let slice = params.columns * inner;
    return Walk(i, work.end, index_of(work.column, i), i % inner, params.lanes, inner, places, slices * slice + places, slice - inner);
}

fn has_four(walk: Walk) -> bool {
    return walk.i + 3u * walk.lanes < walk.end;
}

fn has_one(walk: Walk) -> bool {
    return walk.i < walk.end;
}

// The indices of the next four values.
fn next_four(walk: ptr<function, Walk>) -> vec4<u32> {
    let a = next_one(walk);
    let b = next_one(walk);
    let c = next_one(walk);
    return vec4<u32>(a, b, c, next_one(walk));
}

// The index of the next value.
fn next_one(walk: ptr<function, Walk>) -> u32 {
    let index = (*walk).index;
    let place = (*walk).place + (*walk).places;
    let leaves = place >= (*walk).inner;
    (*walk).i += (*walk).lanes;
    (*walk).index = index + (*walk).step + select(0u, (*walk).wrap, leaves);
    (*walk).place = place - select(0u, (*walk).inner, leaves);
    return index;
}

// Index in the binding of value `i` of a column in this part.
fn index_of(column: u32, i: u32) -> u32 {
    let slice = i / params.inner;
    return params.base + (slice * params.columns + column) * params.inner + (i - slice * params.inner);
}
