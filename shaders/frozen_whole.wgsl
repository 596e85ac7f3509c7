// Backward with the running statistics held fixed, in one dispatch: dx = dz * gamma * inv_std and the residual's gradient,
// dz, where wanted, dgamma, dbeta.
// A workgroup owns `tile` columns whole. Assumes what inference saved. May run with dx or the residual's gradient over dy.
import package::common::gradients::{centre_of, publish_gradients, segment_gradient_sums};
import package::common::work::Work;

fn kernel(work: Work) {
    let centre = centre_of(work);
    publish_gradients(work, centre, segment_gradient_sums(work, centre));
}
