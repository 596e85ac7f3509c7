// Entry point of the kernels that reduce within subgroups.

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) own_subgroup: u32,
    @builtin(num_subgroups) all_subgroups: u32,
    @builtin(subgroup_invocation_id) own_lane: u32,
) {
    subgroup = own_subgroup;
    subgroups = all_subgroups;
    subgroup_lane = own_lane;
    let group = id.y * grid.x + id.x;
    if (group < params.groups) {
        kernel(work_of(group, thread));
    }
}
