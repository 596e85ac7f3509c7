// Copies x to y: what a pass that reads and writes every element once can reach on the adapter.
// An invocation takes every stride-th group of four elements. Assumes that the length is a multiple of four.

override WORKGROUP: u32 = 256u;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
    let stride = grid.x * WORKGROUP;
    let length = arrayLength(&x);
    for (var i = id.x; i < length; i += stride) {
        y[i] = x[i];
    }
}
