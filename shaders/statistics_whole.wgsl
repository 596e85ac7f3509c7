// Computes the statistics of each column, for the running statistics or the caller, in one dispatch.
// A workgroup owns `tile` columns whole. Assumes nothing about the data.

fn kernel(work: Work) {
    let shift = shift_of(work);
    let found = column_moments(work, shift);
    let moments = Moments(shift, found.a, found.b / params.count_f32);
    let inv_std = inv_std_of(moments.variance);
    if (is_writer(work)) {
        publish(work, moments, inv_std);
    }
}
