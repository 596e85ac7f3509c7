// Computes the statistics of each column, for the running statistics or the caller, in one dispatch.
// A workgroup owns `tile` columns whole. Assumes nothing about the data.

fn kernel(work: Work) {
    publish(work, whole_moments(work));
}
