// What the backward pass needs of a column, as the forward pass saved it (saved.wgsl). It works from y, which the forward
// pass wrote over x: `load_x` loads y.

struct Centre {
    // 1 / scale, NaN where scale is 0: x is lost then.
    stretch: Value,
    inv_std: Value,
    // gamma * inv_std.
    scale: Value,
    beta: Value,
}

fn centre_of(work: Work) -> Centre {
    let inv_std = load_saved(work, 3u);
    let scale = load_saved(work, 4u) * inv_std;
    let stretch = select(Value(1.0) / scale, Value(bitcast<f32>(params.nan_bits)), scale == Value(0.0));
    return Centre(stretch, inv_std, scale, load_saved(work, 5u));
}

// x - mean, from y.
fn centred(centre: Centre, y: Value) -> Value {
    return (y - centre.beta) * centre.stretch;
}
