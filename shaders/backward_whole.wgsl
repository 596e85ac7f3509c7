// Training backward in one dispatch: takes the sums of a column, then goes over it again, which a cache may hold.
// A workgroup owns `tile` columns whole. Assumes what the forward pass saved. May run with dx or the residual's gradient
// over dy.
import package::common::gradients::{centre_of, publish_gradients, segment_gradient_sums, slope_of, write_dx};
import package::common::work::Work;

fn kernel(work: Work) {
    let centre = centre_of(work);
    let sums = segment_gradient_sums(work, centre);
    publish_gradients(work, centre, sums);
    write_dx(work, centre, slope_of(centre, sums));
}
