// What kernels bind, by name. The declarations themselves come from the table of kernels (src/kernels/binding.rs): whether a
// binding is there, its number, and whether it is written. What is not there reads as a default, and writes to it go nowhere.
import package::common::elements::{change_of_half, half_of, narrowed, widened};
import package::common::values::{CHANNELS, Value, component};
import package::common::work::{Work, is_first_of_channel, is_first_of_statistic, params};
import package::table::{STATISTIC_PLANES, beta, dbeta, dgamma, dresidual, dx, dy, gamma, residual, running, saved, scratch, x, y};

// Tensors, by index of a value. `y_over_x` says that y is written over x, so that both are one binding; `adds_to_dx` that dx is
// added to what is there; and so on.

@if(!x) fn load_x(i: u32) -> Value { return Value(0.0); }
@if(x && !y_over_x && !half_words) fn load_x(i: u32) -> Value { return widened(x[in_x(i)]); }
@if(x && !y_over_x && half_words) fn load_x(i: u32) -> Value { let at = in_x(i); return half_of(x[at / 2u], at); }
@if(y_over_x && !half_words) fn load_x(i: u32) -> Value { return widened(y[in_x(i)]); }
@if(y_over_x && half_words) fn load_x(i: u32) -> Value { let at = in_x(i); return half_of(atomicLoad(&y[at / 2u]), at); }

@if(!residual) fn load_residual(i: u32) -> Value { return Value(0.0); }
@if(residual && !y_over_residual && !half_words) fn load_residual(i: u32) -> Value { return widened(residual[in_residual(i)]); }
@if(residual && !y_over_residual && half_words) fn load_residual(i: u32) -> Value { let at = in_residual(i); return half_of(residual[at / 2u], at); }
@if(y_over_residual && !half_words) fn load_residual(i: u32) -> Value { return widened(y[in_residual(i)]); }
@if(y_over_residual && half_words) fn load_residual(i: u32) -> Value { let at = in_residual(i); return half_of(atomicLoad(&y[at / 2u]), at); }

@if(!dx_over_dy && !dresidual_over_dy && !half_words) fn load_dy(i: u32) -> Value { return widened(dy[in_y(i)]); }
@if(!dx_over_dy && !dresidual_over_dy && half_words) fn load_dy(i: u32) -> Value { let at = in_y(i); return half_of(dy[at / 2u], at); }
@if(dx_over_dy && !half_words) fn load_dy(i: u32) -> Value { return widened(dx[in_y(i)]); }
@if(dx_over_dy && half_words) fn load_dy(i: u32) -> Value { let at = in_y(i); return half_of(atomicLoad(&dx[at / 2u]), at); }
@if(dresidual_over_dy && !half_words) fn load_dy(i: u32) -> Value { return widened(dresidual[in_y(i)]); }
@if(dresidual_over_dy && half_words) fn load_dy(i: u32) -> Value { let at = in_y(i); return half_of(atomicLoad(&dresidual[at / 2u]), at); }

@if(!half_words) fn store_y(i: u32, v: Value) { y[in_y(i)] = narrowed(v); }
@if(half_words)
fn store_y(i: u32, v: Value) {
    let at = in_y(i);
    atomicXor(&y[at / 2u], change_of_half(atomicLoad(&y[at / 2u]), at, v));
}

@if(!dx) fn store_dx(i: u32, v: Value) {}
@if(dx && !half_words && !adds_to_dx) fn store_dx(i: u32, v: Value) { dx[in_x(i)] = narrowed(v); }
@if(dx && !half_words && adds_to_dx) fn store_dx(i: u32, v: Value) { let at = in_x(i); dx[at] = narrowed(widened(dx[at]) + v); }
@if(dx && half_words)
fn store_dx(i: u32, v: Value) {
    let at = in_x(i);
    let word = atomicLoad(&dx[at / 2u]);
    @if(!adds_to_dx) let stored = v;
    @if(adds_to_dx) let stored = half_of(word, at) + v;
    atomicXor(&dx[at / 2u], change_of_half(word, at, stored));
}

@if(!dresidual) fn store_dresidual(i: u32, v: Value) {}
@if(dresidual && !half_words && !adds_to_dresidual) fn store_dresidual(i: u32, v: Value) { dresidual[in_residual(i)] = narrowed(v); }
@if(dresidual && !half_words && adds_to_dresidual) fn store_dresidual(i: u32, v: Value) { let at = in_residual(i); dresidual[at] = narrowed(widened(dresidual[at]) + v); }
@if(dresidual && half_words)
fn store_dresidual(i: u32, v: Value) {
    let at = in_residual(i);
    let word = atomicLoad(&dresidual[at / 2u]);
    @if(!adds_to_dresidual) let stored = v;
    @if(adds_to_dresidual) let stored = half_of(word, at) + v;
    atomicXor(&dresidual[at / 2u], change_of_half(word, at, stored));
}

// Where value i lies in the binding of x and dx, of y and dy, and of the residual and its gradient. Without views, in one place. A
// view lies in a tensor of more channels: it begins further on, and between its slices is what it does not show.

@if(!views) fn in_x(i: u32) -> u32 { return i; }
@if(views) fn in_x(i: u32) -> u32 { return i + i / params.slice * params.x_gap + params.x_base; }

@if(!views) fn in_y(i: u32) -> u32 { return i; }
@if(views) fn in_y(i: u32) -> u32 { return i + i / params.slice * params.y_gap + params.y_base; }

@if(!views) fn in_residual(i: u32) -> u32 { return i; }
@if(views) fn in_residual(i: u32) -> u32 { return i + i / params.slice * params.residual_gap + params.residual_base; }

// Parameters and their gradients, a number for each channel, which begin anywhere in a binding; `beta_joins_gamma` says that both lie
// in one, `dbeta_joins_dgamma` the same of the gradients.

@if(!gamma) fn load_gamma(work: Work) -> Value { return Value(1.0); }
@if(gamma && !rows4 && !beta_joins_gamma) fn load_gamma(work: Work) -> Value { return Value(gamma[params.gamma_at + work.channels.x]); }
@if(gamma && !rows4 && beta_joins_gamma) fn load_gamma(work: Work) -> Value { return Value(beta[params.gamma_at + work.channels.x]); }
@if(gamma && rows4 && beta_joins_gamma)
fn load_gamma(work: Work) -> Value {
    let at = params.gamma_at + work.channels;
    return Value(beta[at.x], beta[at.y], beta[at.z], beta[at.w]);
}
@if(gamma && rows4 && !beta_joins_gamma)
fn load_gamma(work: Work) -> Value {
    let at = params.gamma_at + work.channels;
    return Value(gamma[at.x], gamma[at.y], gamma[at.z], gamma[at.w]);
}

@if(!beta) fn load_beta(work: Work) -> Value { return Value(0.0); }
@if(beta && !rows4) fn load_beta(work: Work) -> Value { return Value(beta[params.beta_at + work.channels.x]); }
@if(beta && rows4)
fn load_beta(work: Work) -> Value {
    let at = params.beta_at + work.channels;
    return Value(beta[at.x], beta[at.y], beta[at.z], beta[at.w]);
}

@if(!dgamma) fn store_dgamma(work: Work, v: Value) {}
@if(dgamma)
fn store_dgamma(work: Work, v: Value) {
    for (var c = 0u; c < CHANNELS; c++) {
        if (is_first_of_channel(work, c)) {
            @if(!dbeta_joins_dgamma) let place = &dgamma[params.dgamma_at + work.channels[c]];
            @if(dbeta_joins_dgamma) let place = &dbeta[params.dgamma_at + work.channels[c]];
            @if(!adds_to_dgamma) *place = component(v, c);
            @if(adds_to_dgamma) *place += component(v, c);
        }
    }
}

@if(!dbeta) fn store_dbeta(work: Work, v: Value) {}
@if(dbeta)
fn store_dbeta(work: Work, v: Value) {
    for (var c = 0u; c < CHANNELS; c++) {
        if (is_first_of_channel(work, c)) {
            let place = &dbeta[params.dbeta_at + work.channels[c]];
            @if(!adds_to_dbeta) *place = component(v, c);
            @if(adds_to_dbeta) *place += component(v, c);
        }
    }
}

// What a forward pass leaves for its backward pass: planes of statistics, then planes of gamma and beta as they were, a number for
// each channel.

@if(!rows4)
fn load_statistic(work: Work, plane: u32) -> Value {
    return Value(saved[plane * params.statistics + work.statistics.x]);
}

@if(rows4)
fn load_statistic(work: Work, plane: u32) -> Value {
    let at = plane * params.statistics + work.statistics;
    return Value(saved[at.x], saved[at.y], saved[at.z], saved[at.w]);
}

@if(!rows4)
fn load_parameter(work: Work, plane: u32) -> Value {
    return Value(saved[parameter_plane(plane) + work.channels.x]);
}

@if(rows4)
fn load_parameter(work: Work, plane: u32) -> Value {
    let at = parameter_plane(plane) + work.channels;
    return Value(saved[at.x], saved[at.y], saved[at.z], saved[at.w]);
}

// Where a plane of parameters begins.
fn parameter_plane(plane: u32) -> u32 {
    return STATISTIC_PLANES * params.statistics + plane * params.channels;
}

@if(!saved) fn store_statistic(work: Work, plane: u32, v: Value) {}
@if(saved)
fn store_statistic(work: Work, plane: u32, v: Value) {
    for (var c = 0u; c < CHANNELS; c++) {
        let is_first = is_first_of_statistic(work, c);
        if (is_first) {
            saved[plane * params.statistics + work.statistics[c]] = component(v, c);
        }
    }
}

@if(!saved) fn store_parameter(work: Work, plane: u32, v: Value) {}
@if(saved)
fn store_parameter(work: Work, plane: u32, v: Value) {
    for (var c = 0u; c < CHANNELS; c++) {
        let is_first = is_first_of_channel(work, c);
        if (is_first) {
            saved[parameter_plane(plane) + work.channels[c]] = component(v, c);
        }
    }
}

// The running statistics, planes of words, one for each channel: f32, then counts. A kernel that only reads the first three has
// them as f32.

@if(!rows4)
fn load_running(work: Work, plane: u32) -> Value {
    return Value(running[plane * params.channels + work.channels.x]);
}

@if(rows4)
fn load_running(work: Work, plane: u32) -> Value {
    let at = plane * params.channels + work.channels;
    return Value(running[at.x], running[at.y], running[at.z], running[at.w]);
}

// Partial results, rows of all columns; a row is `fold` planes of statistics. Stored by row, loaded by plane.

@if(!rows4)
fn load_scratch(work: Work, plane: u32) -> Value {
    return Value(scratch[plane * params.statistics + work.statistics.x]);
}

@if(rows4)
fn load_scratch(work: Work, plane: u32) -> Value {
    let at = plane * params.statistics + work.statistics;
    return Value(scratch[at.x], scratch[at.y], scratch[at.z], scratch[at.w]);
}

fn store_scratch(work: Work, row: u32, v: Value) {
    for (var c = 0u; c < CHANNELS; c++) {
        scratch[(row * params.columns + work.column) * CHANNELS + c] = component(v, c);
    }
}
