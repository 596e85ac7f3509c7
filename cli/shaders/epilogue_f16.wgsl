// What an epilogue adds, eight f16 at a time. The device rounds as it packs.

fn add_relu(z: vec4<u32>, residual: vec4<u32>) -> vec4<u32> {
    return vec4<u32>(
        pair(z.x, residual.x),
        pair(z.y, residual.y),
        pair(z.z, residual.z),
        pair(z.w, residual.w),
    );
}

fn pair(z: u32, residual: u32) -> u32 {
    return pack2x16float(max(unpack2x16float(z) + unpack2x16float(residual), vec2<f32>(0.0)));
}
