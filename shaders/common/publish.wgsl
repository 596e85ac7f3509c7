// The statistics of the batch leave the kernel: for the backward pass (saved.wgsl), and into the running statistics.

// Returns inv_std.
fn publish(work: Work, moments: Moments) -> Value {
    let inv_std = inv_std_of(moments.variance);
    if (is_writer(work)) {
        save(work, moments, inv_std);
        update_all_running(work, moments);
    }
    return inv_std;
}

fn update_all_running(work: Work, moments: Moments) {
    for (var c = 0u; c < CHANNELS; c++) {
        let channel = work.column * CHANNELS + c;
        // Folded samples have the same channels again.
        if (channel < params.channels) {
            update_running(
                channel,
                component(moments.shift, c),
                component(moments.remainder, c),
                component(moments.variance, c),
            );
        }
    }
}
