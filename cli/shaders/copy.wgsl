// Copies x to y: what a pass that reads and writes every element once can reach on the adapter.
// Every workgroup takes a segment of its own, or all of them every stride-th group of four elements; four such groups are
// in flight. Assumes that the length is a multiple of four.

override WORKGROUP: u32 = 256u;
// Whether a workgroup has a segment of its own.
override SEGMENTS: bool = false;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let length = arrayLength(&x);
    let segment = (length + grid.x - 1u) / grid.x;
    let begin = group.x * select(WORKGROUP, segment, SEGMENTS);
    let end = select(length, min(begin + segment, length), SEGMENTS);
    let stride = select(grid.x * WORKGROUP, WORKGROUP, SEGMENTS);
    var i = begin + lane;
    while (i + 3u * stride < end) {
        let a = x[i];
        let b = x[i + stride];
        let c = x[i + 2u * stride];
        let d = x[i + 3u * stride];
        y[i] = a;
        y[i + stride] = b;
        y[i + 2u * stride] = c;
        y[i + 3u * stride] = d;
        i += 4u * stride;
    }
    while (i < end) {
        y[i] = x[i];
        i += stride;
    }
}
