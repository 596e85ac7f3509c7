// What follows the normalization: nothing, or relu: max(z, 0), with derivative 0 at 0. By the bits, since a compiler may assume
// that no NaN occurs: a NaN stays a NaN, and lets the gradient through.
import package::common::values::{Bits, Value};

@if(!relu)
fn activated(z: Value) -> Value {
    return z;
}

@if(relu)
fn activated(z: Value) -> Value {
    // From -0 to -infinity.
    return select(z, Value(0.0), bitcast<Bits>(z) - Bits(0x80000000u) <= Bits(0x7f800000u));
}

// The gradient by z, given that by its activation.
@if(!relu)
fn through_activation(dy: Value, z: Value) -> Value {
    return dy;
}

@if(relu)
fn through_activation(dy: Value, z: Value) -> Value {
    let bits = bitcast<Bits>(z);
    let negative = bits - Bits(0x80000000u) <= Bits(0x7f800000u);
    return select(select(dy, Value(0.0), negative), Value(0.0), bits == Bits(0u));
}
