// Normalizes, scales and shifts by the running statistics.
// A workgroup owns one segment of `tile` columns. Assumes nothing; may run with y over x.

fn kernel(work: Work) {
    let centre = centre_of(work);
    let scale = load_gamma(work, 0u) * centre.inv_std;
    walk(work, State(centre.shift, centre.remainder, scale, load_beta(work, 0u)));
}
