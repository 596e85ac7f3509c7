// Computes dx, dgamma and dbeta of the training forward (common/gradient.wgsl).
// A workgroup owns one segment of `tile` columns; each merges the partial sums again, the first split writes dgamma and
// dbeta. Assumes that `gradient_sums` ran before. May run with dx over dy.

fn kernel(work: Work) {
    let centre = centre_of(work);
    let sums = merged_gradient_sums(work);
    let dgamma = publish_gradients(work, centre, sums);
    walk(work, State(centre, gradient_of(centre, sums.a, dgamma)));
}
