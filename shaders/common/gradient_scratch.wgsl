// Partial sums of the backward pass, rows of `columns`: for each split the sums of dz and of dz * (x - mean). A row is
// `fold` planes of C.

// The row of a split's sum of dz; that of dz * (x - mean) follows.
fn dz_row(split: u32) -> u32 {
    return 2u * split;
}

fn dz_x_row(split: u32) -> u32 {
    return 2u * split + 1u;
}
