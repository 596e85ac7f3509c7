// Activation `relu`: max(z, 0), with derivative 0 at 0. By the bits, since a compiler may assume that no NaN occurs: a NaN
// stays a NaN, and lets the gradient through.

fn activated(z: Value) -> Value {
    // From -0 to -infinity.
    return select(z, Value(0.0), bitcast<Bits>(z) - Bits(0x80000000u) <= Bits(0x7f800000u));
}

// The gradient by z, given that by its activation.
fn behind_activation(dy: Value, z: Value) -> Value {
    let bits = bitcast<Bits>(z);
    let negative = bits - Bits(0x80000000u) <= Bits(0x7f800000u);
    return select(select(dy, Value(0.0), negative), Value(0.0), bits == Bits(0u));
}
