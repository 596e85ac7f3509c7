// Activation `none`.

fn activated(z: Value) -> Value {
    return z;
}

// The gradient by z, given that by its activation.
fn behind_activation(dy: Value, z: Value) -> Value {
    return dy;
}
