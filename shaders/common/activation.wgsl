// What follows the normalization, and its derivative: nothing, or
//   relu         max(z, 0), with derivative 0 at 0.
//   leaky_relu   z where it is above 0, a multiple of it elsewhere.
//   relu6        min(max(z, 0), 6), with derivative 0 at 0 and at 6.
//   silu         z * sigmoid(z).
// A NaN stays a NaN. Where a comparison could lose it, the bits are compared, since a compiler may assume that no NaN occurs.
// relu and relu6 let the gradient through at a NaN.
import package::common::values::{Bits, Value};
import package::common::work::params;

@if(!activation)
fn activated(z: Value) -> Value {
    return z;
}

@if(relu)
fn activated(z: Value) -> Value {
    // From -0 to -infinity.
    return select(z, Value(0.0), bitcast<Bits>(z) - Bits(0x80000000u) <= Bits(0x7f800000u));
}

@if(leaky_relu)
fn activated(z: Value) -> Value {
    return select(z * params.negative_slope, z, z > Value(0.0));
}

@if(relu6)
fn activated(z: Value) -> Value {
    let bits = bitcast<Bits>(z);
    // From 6 to infinity, and from -0 to -infinity.
    let at_most_six = select(z, Value(6.0), bits - Bits(0x40c00000u) <= Bits(0x3ec00000u));
    return select(at_most_six, Value(0.0), bits - Bits(0x80000000u) <= Bits(0x7f800000u));
}

@if(silu)
fn activated(z: Value) -> Value {
    let near = limited(z);
    return select(near, z, near > Value(0.0)) * sigmoid(near).of_z;
}

// The gradient by z, given that by its activation.
@if(!activation)
fn through_activation(dy: Value, z: Value) -> Value {
    return dy;
}

@if(relu)
fn through_activation(dy: Value, z: Value) -> Value {
    let bits = bitcast<Bits>(z);
    let negative = bits - Bits(0x80000000u) <= Bits(0x7f800000u);
    return select(select(dy, Value(0.0), negative), Value(0.0), bits == Bits(0u));
}

@if(leaky_relu)
fn through_activation(dy: Value, z: Value) -> Value {
    return select(dy * params.negative_slope, dy, z > Value(0.0));
}

@if(relu6)
fn through_activation(dy: Value, z: Value) -> Value {
    let bits = bitcast<Bits>(z);
    let negative = bits - Bits(0x80000000u) <= Bits(0x7f800000u);
    let beyond = bits - Bits(0x40c00000u) <= Bits(0x3ec00000u);
    return select(select(select(dy, Value(0.0), negative), Value(0.0), bits == Bits(0u)), Value(0.0), beyond);
}

@if(silu)
fn through_activation(dy: Value, z: Value) -> Value {
    let near = limited(z);
    let s = sigmoid(near);
    return dy * (s.of_z * (Value(1.0) + near * s.of_minus_z));
}

// z, but no further than 104 from 0: exp(-104) is less than half the smallest f32. So no infinity is multiplied with 0.
@if(silu)
fn limited(z: Value) -> Value {
    let magnitude = bitcast<Bits>(z) & Bits(0x7fffffffu);
    // From 104 to infinity.
    let far = magnitude - Bits(0x42d00000u) <= Bits(0x3cb00000u);
    return select(z, clamp(z, Value(-104.0), Value(104.0)), far);
}

// sigmoid(z), and 1 - sigmoid(z), which would cancel as a difference.
@if(silu)
struct Sigmoid {
    of_z: Value,
    of_minus_z: Value,
}

// The exponential is at most 1 and cannot overflow.
@if(silu)
fn sigmoid(z: Value) -> Sigmoid {
    let e = exp(-abs(z));
    let more = Value(1.0) / (Value(1.0) + e);
    let less = e / (Value(1.0) + e);
    let positive = z > Value(0.0);
    return Sigmoid(select(less, more, positive), select(more, less, positive));
}
