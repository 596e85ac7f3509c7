// Training backward in one dispatch: x and dz of a column stay in registers between their sums and dx.
// A workgroup owns `tile` columns whole. Each lane holds several values of its column: the lines between `unroll k {` and `}`
// stand once for each (forward_resident.wgsl). Assumes that so many values of all lanes cover the column, and what the forward
// pass saved. May run with dx or the residual's gradient over dy.
import package::common::bindings::{store_dresidual, store_dx};
import package::common::gradients::{GradientSums, Seen, centre_of, column_gradient_sums, dx_of, publish_gradients, seen_at};
import package::common::gradients::slope_of;
import package::common::values::Value;
import package::common::walk::{has_one, next_one, walk_of};
import package::common::work::Work;

fn kernel(work: Work) {
    let centre = centre_of(work);
    let start = walk_of(work);
    var walk = start;
    var own = GradientSums(Value(0.0), Value(0.0));
    // unroll k {
    let inside_k = has_one(walk);
    var seen_k = Seen(Value(0.0), Value(0.0));
    if (inside_k) {
        seen_k = seen_at(centre, walk.index);
        store_dresidual(walk.index, seen_k.dz);
    }
    next_one(&walk);
    own.dz += seen_k.dz;
    own.dz_x += seen_k.dz * seen_k.x;
    // }
    let sums = column_gradient_sums(work, own);
    publish_gradients(work, centre, sums);
    let slope = slope_of(centre, sums);
    walk = start;
    // unroll k {
    if (inside_k) {
        store_dx(walk.index, dx_of(slope, seen_k));
    }
    next_one(&walk);
    // }
}
