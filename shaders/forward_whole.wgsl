// Training forward in one dispatch: takes the statistics of a column, then goes over it again, which a cache may hold.
// A workgroup owns `tile` columns whole. Assumes nothing about the data.

fn kernel(work: Work) {
    let shift = shift_of(work);
    let found = column_moments(work, shift);
    let moments = Moments(shift, found.a, found.b / params.count_f32);
    let inv_std = inv_std_of(moments.variance);
    if (is_writer(work)) {
        publish(work, moments, inv_std);
    }
    let scale = load_gamma(work, 0u) * inv_std;
    walk_again(work, State_again(moments.shift, moments.remainder, scale, load_beta(work, 0u)));
}
