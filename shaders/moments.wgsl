// Computes the partial moments of each column over each split: the first of two dispatches.
// A workgroup owns one segment of `tile` columns and writes their partial mean and M2; the first split writes the shift.
// Assumes nothing about the data; a NaN or infinity makes the moments of its channel non-finite.
import package::common::bindings::{load_scratch, store_scratch};
import package::common::statistics::{SHIFT_ROW, m2_row, mean_row, segment_moments, shift_of};
import package::common::values::Value;
import package::common::work::{Work, is_writer_of_segment, params};

fn kernel(work: Work) {
    let shift = shift_of_part(work);
    let found = segment_moments(work, shift);
    if (is_writer_of_segment(work)) {
        if (work.split == 0u) {
            store_scratch(work, SHIFT_ROW, shift);
        }
        store_scratch(work, mean_row(work.split), found.mean);
        store_scratch(work, m2_row(work.split), found.m2);
    }
}

// A tensor of several bindings has the shift of the first one, whose dispatch came before.
fn shift_of_part(work: Work) -> Value {
    if (params.first_split == 0u) {
        return shift_of(work);
    }
    return load_scratch(work, SHIFT_ROW);
}
