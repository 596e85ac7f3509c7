// Computes the partial moments of each column over each split (common/moments.wgsl).
// A workgroup owns one segment of `tile` columns and writes their partial mean and M2; the first split writes the shift.
// Assumes nothing about the data; a NaN or infinity makes the moments of its channel non-finite.

// A tensor of several bindings has the shift of the first one, whose dispatch came before.
fn shift_of_part(work: Work) -> Value {
    if (params.first_split == 0u) {
        return shift_of(work);
    }
    return load_scratch(work, 0u);
}

fn kernel(work: Work) {
    let shift = shift_of_part(work);
    let moments = column_moments(work, shift);
    if (work.owned && work.lane == 0u) {
        if (work.split == 0u) {
            store_scratch(work, 0u, shift);
        }
        store_scratch(work, mean_row(work.split), moments.a);
        store_scratch(work, m2_row(work.split), moments.b);
    }
}
