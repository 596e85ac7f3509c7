// Stochastic gradient descent on all parameters of a network at once: p -= rate * g.
//
// Owner: invocation t takes the parameters t, t + n, t + 2 n, ..., n being the number of invocations dispatched: a few
// workgroups with much to do cost less than many with little.
// Assumes: parameters and gradients have the same layout and COUNT values, gaps for alignment included, whose
// gradients stay 0.

override COUNT: u32;

struct Batch {
    first: u32, // position of the batch's first row in the list of indices
    rows: u32,  // rows that count
    slot: u32,  // where the batch's metrics go
    rate: f32,  // step width of the descent
}

@group(0) @binding(0) var<storage, read_write> parameters: array<f32>;
@group(0) @binding(1) var<storage, read> gradients: array<f32>;
@group(0) @binding(2) var<uniform> batch: Batch;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
    for (var i = id.x; i < COUNT; i += groups.x * 256u) {
        parameters[i] -= batch.rate * gradients[i];
    }
}
