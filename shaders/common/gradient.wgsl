// The gradient by the input of the training forward:
// dx = gamma * inv_std * (dz - dbeta / m - (x - mean) * inv_std * dgamma / m).

struct Gradient {
    scale: Value,
    // dbeta / m, and what x - mean is multiplied with: inv_std * dgamma / m.
    mean_dz: Value,
    slope: Value,
}

fn gradient_of(centre: Centre, dbeta: Value, dgamma: Value) -> Gradient {
    return Gradient(
        centre.scale,
        dbeta / params.count_f32,
        centre.inv_std * (dgamma / params.count_f32),
    );
}

// The subtraction stays inside, per element: scaled up by m first, it would cancel.
fn input_gradient(gradient: Gradient, centred: Value, dz: Value) -> Value {
    return gradient.scale * ((dz - gradient.mean_dz) - centred * gradient.slope);
}
