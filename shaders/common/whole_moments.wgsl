// The mean and variance of a column that the workgroup owns whole.

fn whole_moments(work: Work) -> Moments {
    let shift = shift_of(work);
    let found = column_moments(work, shift);
    return Moments(shift, found.a, found.b / params.count_f32);
}
