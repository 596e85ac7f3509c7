// Training backward as the chain rule gives it (Ioffe and Szegedy 2015, section 3).
//
//   dbeta = sum(dz)        dgamma = sum(dz * (x - mean)) * inv_std
//   dx = gamma * inv_std * (dz - dbeta / m - (x - mean) * inv_std * dgamma / m)
//
// where dz is dy, or with an activation what it lets through. Mean and variance depend on every x of the channel: that is what
// the two terms in the middle are for.
// A workgroup owns some channels, each with `lanes` invocations. They go over the channel's elements twice, in turn: for the
// sums, for dx. Assumes what the forward pass saved. No plan chooses it; see plain/forward.wgsl.
import package::common::bindings::{store_dbeta, store_dgamma, store_dresidual, store_dx};
import package::common::gradients::{centre_of, seen_at};
import package::common::reduce::{Two, lane_sums};
import package::common::walk::index_of;
import package::common::work::{Work, is_writer, params};

fn kernel(work: Work) {
    let centre = centre_of(work);

    var own = Two(0.0, 0.0);
    for (var i = work.begin + work.lane; i < work.end; i += params.lanes) {
        let seen = seen_at(centre, index_of(work.column, i));
        own.a += seen.dz;
        own.b += seen.dz * seen.x;
    }
    let sums = lane_sums(work, own);
    let dbeta = sums.a;
    let dgamma = sums.b * centre.inv_std;
    if (is_writer(work)) {
        store_dbeta(work, dbeta);
        store_dgamma(work, dgamma);
    }

    let mean_dz = dbeta / params.count_f32;
    let slope = centre.inv_std * (dgamma / params.count_f32);
    for (var i = work.begin + work.lane; i < work.end; i += params.lanes) {
        let at = index_of(work.column, i);
        let seen = seen_at(centre, at);
        store_dresidual(at, seen.dz);
        store_dx(at, centre.scale * ((seen.dz - mean_dz) - seen.x * slope));
    }
}
