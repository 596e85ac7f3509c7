// Normalizes, scales and shifts by the statistics of the batch, adds the residual, applies the activation:
// y = act((x - mean) / sqrt(var + eps) * gamma + beta + residual).
// A workgroup owns one segment of `tile` columns; each merges the partial moments again, the first split publishes them.
// Assumes that `moments` ran before. May run with y over x.

fn kernel(work: Work) {
    let moments = merged_moments(work);
    let inv_std = publish(work, moments);
    let scale = load_gamma(work, 0u) * inv_std;
    walk(work, State(moments.shift, moments.remainder, scale, load_beta(work, 0u)));
}
