// The sigmoid: a = 1 / (1 + exp(-u)). Its backward half lives in linear_backward_input.wgsl.
//
// Owner: one invocation per value.
// Assumes: a and u hold COUNT values. exp sees -|u| only, so that nothing overflows on the way.

override COUNT: u32;

@group(0) @binding(0) var<storage, read> u: array<f32>;
@group(0) @binding(1) var<storage, read_write> a: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u) {
    let i = id.x;
    if i < COUNT {
        let e = exp(-abs(u[i]));
        a[i] = select(e, 1.0, u[i] >= 0.0) / (1.0 + e);
    }
}
