// The entry point of every kernel. A kernel's own file has the function `kernel`.
import package::common::work::{params, work_of};
import package::table::WORKGROUP;

@if(!subgroup)
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

@if(subgroup)
@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
) {
    let group = id.y * grid.x + id.x;
    if (group < params.groups) {
        var work = work_of(group, thread);
        work.subgroup = subgroup;
        work.subgroups = subgroups;
        work.subgroup_lane = subgroup_lane;
        kernel(work);
    }
}
