// Partial sums of the backward pass, rows of `columns`: for each split the sums of dy and of dy * (x - mean). A row is
// `fold` planes of C.

// The row of a split's sum of dy; that of dy * (x - mean) follows.
fn dy_row(split: u32) -> u32 {
    return 2u * split;
}

fn dy_x_row(split: u32) -> u32 {
    return 2u * split + 1u;
}
