// Partial results of the moments of a column, (count, mean, M2), without cancellation (Chan, Golub and LeVeque 1979). All d = x - shift, where the shift
// is one of the column's own values: exact for neighbouring floats, 0 for a constant channel. The mean is then kept as
// shift + remainder, two f32.
//
// Partial results: the shift, then for each split the mean of d and M2, each a plane of C floats.

fn partial_mean(work: Work, split: u32) -> u32 {
    return (1u + 2u * split) * params.channels + work.channel;
}

fn partial_m2(work: Work, split: u32) -> u32 {
    return (2u + 2u * split) * params.channels + work.channel;
}
