// Computes dgamma and dbeta from the partial sums, where no dx is wanted or it is written already.
// A workgroup owns `tile` columns whole; one invocation of each writes. Assumes that the kernel of the partial sums ran.

fn kernel(work: Work) {
    let centre = centre_of(work);
    let sums = merged_gradient_sums(work);
    if (is_writer(work)) {
        store_dbeta(work, 0u, sums.a);
        store_dgamma(work, 0u, sums.b * centre.inv_std);
    }
}
