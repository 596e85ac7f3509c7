// Partial sums of the backward pass: for each split the sums of dy and of dy * (x - mean), each a plane of C floats.

fn partial_dy(work: Work, split: u32) -> u32 {
    return (2u * split) * params.channels + work.channel;
}

fn partial_dy_x(work: Work, split: u32) -> u32 {
    return (2u * split + 1u) * params.channels + work.channel;
}
