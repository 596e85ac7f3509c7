// Goes over tensors elementwise, sixteen bytes at a time; the parts beside it say what becomes of them.
// Every workgroup takes a segment of its own, or all of them every stride-th vector; four vectors are in flight.
// Assumes that a tensor's bytes are a multiple of sixteen.

override WORKGROUP: u32 = 256u;
// Whether a workgroup has a segment of its own.
override SEGMENTS: bool = false;

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let length = arrayLength(&z);
    let segment = (length + grid.x - 1u) / grid.x;
    let begin = group.x * select(WORKGROUP, segment, SEGMENTS);
    let end = select(length, min(begin + segment, length), SEGMENTS);
    let stride = select(grid.x * WORKGROUP, WORKGROUP, SEGMENTS);
    var i = begin + lane;
    while (i + 3u * stride < end) {
        let a = inputs_at(i);
        let b = inputs_at(i + stride);
        let c = inputs_at(i + 2u * stride);
        let d = inputs_at(i + 3u * stride);
        z[i] = result(a);
        z[i + stride] = result(b);
        z[i + 2u * stride] = result(c);
        z[i + 3u * stride] = result(d);
        i += 4u * stride;
    }
    while (i < end) {
        z[i] = result(inputs_at(i));
        i += stride;
    }
}
