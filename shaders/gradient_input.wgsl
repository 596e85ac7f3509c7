// Computes dx, dgamma and dbeta of the training forward: the second of two dispatches.
// A workgroup owns one segment of `tile` columns. Each merges the partial sums of its columns again; the first split writes
// dgamma and dbeta. Assumes that `gradient_sums` ran before. May run with dx over dy.
import package::common::gradients::{centre_of, merged_gradient_sums, publish_gradients, slope_of, write_dx};
import package::common::work::Work;

fn kernel(work: Work) {
    let centre = centre_of(work);
    let sums = merged_gradient_sums(work);
    publish_gradients(work, centre, sums);
    write_dx(work, centre, slope_of(centre, sums));
}
