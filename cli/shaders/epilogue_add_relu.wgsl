// Computes z = relu(z + residual) in place.
// An invocation owns the vectors that it visits. Assumes finite values.

@group(0) @binding(0) var<storage, read_write> z: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> residual: array<vec4<u32>>;

struct Inputs {
    z: vec4<u32>,
    residual: vec4<u32>,
}

fn inputs_at(i: u32) -> Inputs {
    return Inputs(z[i], residual[i]);
}

fn result(inputs: Inputs) -> vec4<u32> {
    return add_relu(inputs.z, inputs.residual);
}
