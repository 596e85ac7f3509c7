// Normalizes, scales and shifts by the running statistics, adds the residual, applies the activation; saves what the frozen
// backward needs.
// A workgroup owns one segment of `tile` columns. Assumes nothing; may run with y over x.

fn kernel(work: Work) {
    let moments = Moments(load_running(work, 0u), load_running(work, 1u), load_running(work, 2u));
    let inv_std = inv_std_of(moments.variance);
    if (is_writer(work)) {
        save(work, moments, inv_std);
    }
    let scale = load_gamma(work, 0u) * inv_std;
    walk(work, State(moments.shift, moments.remainder, scale, load_beta(work, 0u)));
}
