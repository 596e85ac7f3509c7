// The statistics of the batch leave the kernel: into `saved` for the backward pass, four planes of C floats (shift,
// remainder, biased variance, inv_std), and into the running statistics.

fn publish(work: Work, moments: Moments, inv_std: Value) {
    store_saved(work.channel, moments.shift);
    store_saved(params.channels + work.channel, moments.remainder);
    store_saved(2u * params.channels + work.channel, moments.variance);
    store_saved(3u * params.channels + work.channel, inv_std);
    for (var c = 0u; c < CHANNELS; c++) {
        update_running(
            work.channel + c,
            component(moments.shift, c),
            component(moments.remainder, c),
            component(moments.variance, c),
        );
    }
}
