// What the backward pass needs of a column, as the forward pass saved it (saved.wgsl). It works from x.

struct Centre {
    shift: Value,
    remainder: Value,
    inv_std: Value,
    // gamma * inv_std.
    scale: Value,
    beta: Value,
}

fn centre_of(work: Work) -> Centre {
    let inv_std = load_saved(work, 3u);
    return Centre(
        load_saved(work, 0u),
        load_saved(work, 1u),
        inv_std,
        load_saved(work, 4u) * inv_std,
        load_saved(work, 5u),
    );
}

// x - mean.
fn centred(centre: Centre, x: Value) -> Value {
    return (x - centre.shift) - centre.remainder;
}
