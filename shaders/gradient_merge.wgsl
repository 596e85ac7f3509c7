// Computes dgamma and dbeta from the partial sums, where no dx is wanted or it is written already.
// A workgroup owns `tile` columns whole; one invocation of each writes. Assumes that the kernel of the partial sums ran.
import package::common::gradients::{centre_of, merged_gradient_sums, publish_gradients};
import package::common::work::Work;

fn kernel(work: Work) {
    publish_gradients(work, centre_of(work), merged_gradient_sums(work));
}
