// The gradients. With z = (x - mean) * scale + beta + residual and y = act(z), dz is the gradient by z, and that by the
// residual too. dbeta is the sum of dz, dgamma that of dz * (x - mean) times inv_std, and in training
//   dx = gamma * inv_std * (dz - dbeta / m - (x - mean) * inv_std * dgamma / m).
import package::common::activation::through_activation;
import package::common::bindings::{load_dy, load_parameter, load_residual, load_scratch, load_statistic, load_x, store_dresidual, store_dx};
import package::common::bindings::{store_dbeta, store_dgamma, store_scratch};
import package::common::reduce::{Two, lane_sums};
import package::common::values::{Value, combine, nan};
import package::common::walk::{has_four, has_one, next_four, next_one, walk_of};
import package::common::work::{BLOCK, Work, block_of, is_writer, is_writer_of_segment, params};
import package::table::{PARAMETER_BETA, PARAMETER_GAMMA, STATISTIC_INV_STD, STATISTIC_REMAINDER, STATISTIC_SHIFT};

// What the forward pass saved of a column.
@if(!from_y)
struct Centre {
    shift: Value,
    remainder: Value,
    inv_std: Value,
    // gamma * inv_std.
    scale: Value,
    beta: Value,
}

@if(!from_y)
fn centre_of(work: Work) -> Centre {
    let inv_std = load_statistic(work, STATISTIC_INV_STD);
    return Centre(
        load_statistic(work, STATISTIC_SHIFT),
        load_statistic(work, STATISTIC_REMAINDER),
        inv_std,
        load_parameter(work, PARAMETER_GAMMA) * inv_std,
        load_parameter(work, PARAMETER_BETA),
    );
}

// x - mean.
@if(!from_y)
fn centred(centre: Centre, x: Value) -> Value {
    return (x - centre.shift) - centre.remainder;
}

// The same from y, which the forward pass wrote over x: `load_x` loads y.
@if(from_y)
struct Centre {
    // 1 / scale, NaN where scale is 0: x is lost then.
    stretch: Value,
    inv_std: Value,
    // gamma * inv_std.
    scale: Value,
    beta: Value,
}

@if(from_y)
fn centre_of(work: Work) -> Centre {
    let inv_std = load_statistic(work, STATISTIC_INV_STD);
    let scale = load_parameter(work, PARAMETER_GAMMA) * inv_std;
    let stretch = select(Value(1.0) / scale, nan(), scale == Value(0.0));
    return Centre(stretch, inv_std, scale, load_parameter(work, PARAMETER_BETA));
}

@if(from_y)
fn centred(centre: Centre, y: Value) -> Value {
    return (y - centre.beta) * centre.stretch;
}

// What the backward pass sees of one value.
struct Seen {
    // x - mean.
    x: Value,
    dz: Value,
}

// What the activation let through is computed again rather than stored.
fn seen_at(centre: Centre, index: u32) -> Seen {
    let x = centred(centre, load_x(index));
    let z = (x * centre.scale + centre.beta) + load_residual(index);
    return Seen(x, through_activation(load_dy(index), z));
}

// The same once more, after a loop that wrote the residual's gradient: where that lies over dy, it is what is found there.
@if(!dresidual_over_dy)
fn seen_again(centre: Centre, index: u32) -> Seen {
    return seen_at(centre, index);
}

@if(dresidual_over_dy)
fn seen_again(centre: Centre, index: u32) -> Seen {
    return Seen(centred(centre, load_x(index)), load_dy(index));
}

struct GradientSums {
    dz: Value,
    // dz * (x - mean).
    dz_x: Value,
}

// The sums over a lane's values of a block. Writes the residual's gradient on the way, and with frozen statistics dx too,
// which needs no sums.
fn block_gradient_sums(block: Work, centre: Centre) -> GradientSums {
    var own = GradientSums(Value(0.0), Value(0.0));
    var walk = walk_of(block);
    while (has_four(walk)) {
        let at = next_four(&walk);
        let a = seen_at(centre, at.x);
        let b = seen_at(centre, at.y);
        let c = seen_at(centre, at.z);
        let d = seen_at(centre, at.w);
        pass_on(centre, at.x, a.dz);
        pass_on(centre, at.y, b.dz);
        pass_on(centre, at.z, c.dz);
        pass_on(centre, at.w, d.dz);
        own.dz += (a.dz + b.dz) + (c.dz + d.dz);
        own.dz_x += (a.dz * a.x + b.dz * b.x) + (c.dz * c.x + d.dz * d.x);
    }
    while (has_one(walk)) {
        let at = next_one(&walk);
        let a = seen_at(centre, at);
        pass_on(centre, at, a.dz);
        own.dz += a.dz;
        own.dz_x += a.dz * a.x;
    }
    return own;
}

fn pass_on(centre: Centre, index: u32, dz: Value) {
    store_dresidual(index, dz);
    @if(frozen) store_dx(index, dz * centre.scale);
}

// The sums over the workgroup's segment.
fn segment_gradient_sums(work: Work, centre: Centre) -> GradientSums {
    var own = GradientSums(Value(0.0), Value(0.0));
    for (var begin = work.begin; begin < work.end; begin += BLOCK * params.lanes) {
        let block = block_gradient_sums(block_of(work, begin), centre);
        own.dz += block.dz;
        own.dz_x += block.dz_x;
    }
    return column_gradient_sums(work, own);
}

// The sums of a column, from those of its lanes.
fn column_gradient_sums(work: Work, own: GradientSums) -> GradientSums {
    let sums = lane_sums(work, Two(own.dz, own.dz_x));
    return GradientSums(combine(sums.a), combine(sums.b));
}

// Partial results lie in scratch in rows of all columns: for each split the sum of dz, and that of dz * (x - mean). A row is
// `fold` planes of statistics.
fn dz_row(split: u32) -> u32 {
    return 2u * split;
}

fn dz_x_row(split: u32) -> u32 {
    return 2u * split + 1u;
}

fn leave_gradient_sums(work: Work, sums: GradientSums) {
    if (is_writer_of_segment(work)) {
        store_scratch(work, dz_row(work.split), sums.dz);
        store_scratch(work, dz_x_row(work.split), sums.dz_x);
    }
}

// The sums over all splits and folds. Every workgroup of a column adds them again, in the same order.
fn merged_gradient_sums(work: Work) -> GradientSums {
    var own = GradientSums(Value(0.0), Value(0.0));
    for (var i = work.lane; i < params.all_splits * params.fold; i += params.lanes) {
        let split = i / params.fold;
        own.dz += load_scratch(work, dz_row(split) * params.fold + i % params.fold);
        own.dz_x += load_scratch(work, dz_x_row(split) * params.fold + i % params.fold);
    }
    let sums = lane_sums(work, Two(own.dz, own.dz_x));
    return GradientSums(sums.a, sums.b);
}

fn dgamma_of(centre: Centre, sums: GradientSums) -> Value {
    return sums.dz_x * centre.inv_std;
}

// The gradients by gamma and beta leave the kernel.
fn publish_gradients(work: Work, centre: Centre, sums: GradientSums) {
    if (is_writer(work)) {
        store_dbeta(work, sums.dz);
        store_dgamma(work, dgamma_of(centre, sums));
    }
}

// What dx takes from the sums of a column.
struct Slope {
    scale: Value,
    // dbeta / m, and what x - mean is multiplied with: inv_std * dgamma / m.
    mean_dz: Value,
    slope: Value,
}

fn slope_of(centre: Centre, sums: GradientSums) -> Slope {
    let dgamma = dgamma_of(centre, sums);
    return Slope(centre.scale, sums.dz / params.count_f32, centre.inv_std * (dgamma / params.count_f32));
}

// The subtraction stays inside, per element: scaled up by m first, it would cancel.
fn dx_of(slope: Slope, seen: Seen) -> Value {
    return slope.scale * ((seen.dz - slope.mean_dz) - seen.x * slope.slope);
}

// Writes dx of a segment, four values in flight: dx may lie over dy, so all four are loaded before the first is stored.
fn write_dx(work: Work, centre: Centre, slope: Slope) {
    var walk = walk_of(work);
    while (has_four(walk)) {
        let at = next_four(&walk);
        let a = dx_of(slope, seen_again(centre, at.x));
        let b = dx_of(slope, seen_again(centre, at.y));
        let c = dx_of(slope, seen_again(centre, at.z));
        let d = dx_of(slope, seen_again(centre, at.w));
        store_dx(at.x, a);
        store_dx(at.y, b);
        store_dx(at.z, c);
        store_dx(at.w, d);
    }
    while (has_one(walk)) {
        let at = next_one(&walk);
        store_dx(at, dx_of(slope, seen_again(centre, at)));
    }
}
