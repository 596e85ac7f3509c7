// What a walk of the backward pass reads of each element.

struct Inputs {
    x: Value,
    dy: Value,
    residual: Value,
}

fn inputs_at(index: u32) -> Inputs {
    return Inputs(load_x(index), load_dy(index), load_residual(index));
}
