// The gradient by the input of the training forward:
// dx = gamma * inv_std * (dy - dbeta / m - (x - mean) * inv_std * dgamma / m).

struct Gradient {
    scale: Value,
    // dbeta / m, and what x - mean is multiplied with: inv_std * dgamma / m.
    mean_dy: Value,
    slope: Value,
}

fn gradient_of(work: Work, centre: Centre, dbeta: Value, dgamma: Value) -> Gradient {
    return Gradient(
        load_gamma(work, 0u) * centre.inv_std,
        dbeta / params.count_f32,
        centre.inv_std * (dgamma / params.count_f32),
    );
}

// The subtraction stays inside, per element: scaled up by m first, it would cancel.
fn input_gradient(gradient: Gradient, centred: Value, dy: Value) -> Value {
    return gradient.scale * ((dy - gradient.mean_dy) - centred * gradient.slope);
}
