// Backward with the running statistics held fixed, in one pass: dx = dz * gamma * inv_std and the residual's gradient, dz,
// where wanted, and the partial sums of dz and of dz * (x - running mean).
// A workgroup owns one segment of `tile` columns. Assumes what inference saved. May run with dx or the residual's gradient
// over dy.
import package::common::gradients::{centre_of, leave_gradient_sums, segment_gradient_sums};
import package::common::work::Work;

fn kernel(work: Work) {
    leave_gradient_sums(work, segment_gradient_sums(work, centre_of(work)));
}
