// The shift of a channel: a value of its own that all its arithmetic is relative to. Exact for neighbouring floats, and 0
// for a constant channel.

// The median of three of the channel's elements: one outlier among them does not become the shift.
fn shift_of(work: Work) -> Value {
    let count = params.values * ELEMENTS * params.fold;
    let a = element_of_x(work, 0u);
    let b = element_of_x(work, count / 2u);
    let c = element_of_x(work, count - 1u);
    return max(min(a, b), min(max(a, b), c));
}
