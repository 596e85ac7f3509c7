// Partial results of the moments of a column, (count, mean, M2), without cancellation (Chan, Golub and LeVeque 1979). All
// d = x - shift (shift.wgsl). The mean is then kept as shift + remainder, two f32.
//
// Partial results are rows of `columns`: the shift, then for each split the mean of d and M2. A row is `fold` planes of C.

// The row of a split's mean; that of its M2 follows.
fn mean_row(split: u32) -> u32 {
    return 1u + 2u * split;
}

fn m2_row(split: u32) -> u32 {
    return 2u + 2u * split;
}
