// Backward with the running statistics held fixed, without sums: dx = dz * gamma * inv_std, and the residual's gradient, dz.
// Reads x only where an activation has to be seen through.
// A workgroup owns one segment of `tile` columns. Assumes what inference saved. May run with dx or the residual's gradient
// over dy.
import package::common::gradients::{centre_of, pass_on, seen_at};
import package::common::walk::{has_four, has_one, next_four, next_one, walk_of};
import package::common::work::Work;

fn kernel(work: Work) {
    let centre = centre_of(work);
    var walk = walk_of(work);
    while (has_four(walk)) {
        let at = next_four(&walk);
        let a = seen_at(centre, at.x).dz;
        let b = seen_at(centre, at.y).dz;
        let c = seen_at(centre, at.z).dz;
        let d = seen_at(centre, at.w).dz;
        pass_on(centre, at.x, a);
        pass_on(centre, at.y, b);
        pass_on(centre, at.z, c);
        pass_on(centre, at.w, d);
    }
    while (has_one(walk)) {
        let at = next_one(&walk);
        pass_on(centre, at, seen_at(centre, at).dz);
    }
}
