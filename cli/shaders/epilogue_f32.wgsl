// What an epilogue computes, four f32 at a time.

fn relu(z: vec4<u32>) -> vec4<u32> {
    return bitcast<vec4<u32>>(max(bitcast<vec4<f32>>(z), vec4<f32>(0.0)));
}

fn add_relu(z: vec4<u32>, residual: vec4<u32>) -> vec4<u32> {
    return relu(bitcast<vec4<u32>>(bitcast<vec4<f32>>(z) + bitcast<vec4<f32>>(residual)));
}

fn gate(y: vec4<u32>, dy: vec4<u32>) -> vec4<u32> {
    return select(vec4<u32>(0u), dy, y != vec4<u32>(0u));
}
