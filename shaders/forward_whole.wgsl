// Training forward in one dispatch: takes the statistics of a column, then goes over it again, which a cache may hold.
// A workgroup owns `tile` columns whole. Assumes nothing about the data. May run with y over x.

fn kernel(work: Work) {
    let moments = whole_moments(work);
    let inv_std = publish(work, moments);
    let scale = load_gamma(work, 0u) * inv_std;
    walk_again(work, State_again(moments.shift, moments.remainder, scale, load_beta(work, 0u)));
}
