// The gradients by gamma and beta leave the kernel. Returns that by gamma.

fn publish_gradients(work: Work, centre: Centre, sums: Pair) -> Value {
    let dgamma = sums.b * centre.inv_std;
    if (is_writer(work)) {
        store_dbeta(work, 0u, sums.a);
        store_dgamma(work, 0u, dgamma);
    }
    return dgamma;
}
