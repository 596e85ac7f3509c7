// The statistics of the batch leave the kernel: into `saved` for the backward pass, four planes of C floats (shift,
// remainder, biased variance, inv_std), and into the running statistics.

struct Moments {
    shift: Value,
    // Mean minus shift.
    remainder: Value,
    // Biased variance.
    variance: Value,
}

// Returns inv_std.
fn publish(work: Work, moments: Moments) -> Value {
    let inv_std = inv_std_of(moments.variance);
    if (is_writer(work)) {
        store_statistics(work, moments, inv_std);
    }
    return inv_std;
}

fn store_statistics(work: Work, moments: Moments, inv_std: Value) {
    store_saved(work, 0u, moments.shift);
    store_saved(work, 1u, moments.remainder);
    store_saved(work, 2u, moments.variance);
    store_saved(work, 3u, inv_std);
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
