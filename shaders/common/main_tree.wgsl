// Entry point of the kernels that reduce in workgroup memory, and of those that do not reduce.

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let group = id.y * grid.x + id.x;
    if (group < params.groups) {
        kernel(work_of(group, thread));
    }
}
