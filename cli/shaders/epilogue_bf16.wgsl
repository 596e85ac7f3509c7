// What an epilogue adds, eight bf16 at a time: the low ones of four words, and the high ones. Rounds to the nearest, ties to
// even.

fn add_relu(z: vec4<u32>, residual: vec4<u32>) -> vec4<u32> {
    let low = rounded(z << vec4<u32>(16u), residual << vec4<u32>(16u)) >> vec4<u32>(16u);
    let high = rounded(z & vec4<u32>(0xffff0000u), residual & vec4<u32>(0xffff0000u));
    return low | (high & vec4<u32>(0xffff0000u));
}

fn rounded(z: vec4<u32>, residual: vec4<u32>) -> vec4<u32> {
    let sum = max(bitcast<vec4<f32>>(z) + bitcast<vec4<f32>>(residual), vec4<f32>(0.0));
    let bits = bitcast<vec4<u32>>(sum);
    return bits + vec4<u32>(0x7fffu) + ((bits >> vec4<u32>(16u)) & vec4<u32>(1u));
}
