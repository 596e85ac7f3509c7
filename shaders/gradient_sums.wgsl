// Computes the partial sums of dz and of dz * (x - mean) of each column over each split, and where wanted the residual's
// gradient, which is dz: the first of two dispatches.
// A workgroup owns one segment of `tile` columns and writes their partial sums. Assumes what the forward pass saved. May run
// with the residual's gradient over dy.
import package::common::gradients::{centre_of, leave_gradient_sums, segment_gradient_sums};
import package::common::work::Work;

fn kernel(work: Work) {
    leave_gradient_sums(work, segment_gradient_sums(work, centre_of(work)));
}
