// Partial results of the moments of a column (column_moments.wgsl), rows of `columns`: the shift, then for each split the
// mean of d and M2. A row is `fold` planes of C.

// The row of a split's mean; that of its M2 follows.
fn mean_row(split: u32) -> u32 {
    return 1u + 2u * split;
}

fn m2_row(split: u32) -> u32 {
    return 2u + 2u * split;
}
