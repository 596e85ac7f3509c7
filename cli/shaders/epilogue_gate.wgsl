// Computes z = dy where y > 0, else 0: the gradient through a relu whose output is y.
// An invocation owns the vectors that it visits. Assumes that y is not negative.

@group(0) @binding(0) var<storage, read_write> z: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> y: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<u32>>;

struct Inputs {
    y: vec4<u32>,
    dy: vec4<u32>,
}

fn inputs_at(i: u32) -> Inputs {
    return Inputs(y[i], dy[i]);
}

fn result(inputs: Inputs) -> vec4<u32> {
    return gate(inputs.y, inputs.dy);
}
