// Merges the partial moments of each column into the batch statistics, and those into the running statistics.
// A workgroup owns `tile` columns whole; one invocation of each writes. Assumes that `moments` ran before.

fn kernel(work: Work) {
    publish(work, merged_moments(work));
}
