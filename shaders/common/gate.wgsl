// dz: the gradient by z = (x - mean) * scale + beta + residual, given that by y = act(z). What the activation let through is
// computed again rather than stored. It is the gradient by the residual too.

fn dz_of(centre: Centre, centred: Value, dy: Value, residual: Value) -> Value {
    return behind_activation(dy, (centred * centre.scale + centre.beta) + residual);
}
