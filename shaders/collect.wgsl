// Merges the partial moments of each column into the batch statistics, and those into the running statistics.
// A workgroup owns `tile` columns whole; one invocation of each writes. Assumes that `moments` ran before.

fn kernel(work: Work) {
    let moments = merged_moments(work);
    let inv_std = inv_std_of(moments.variance);
    if (is_writer(work)) {
        publish(work, moments, inv_std);
    }
}
