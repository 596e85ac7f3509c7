// What a forward pass leaves for the backward pass: six planes of C floats. Shift, remainder, biased variance and inv_std of
// the statistics that it normalized with, and gamma and beta as they were.

struct Moments {
    shift: Value,
    // Mean minus shift.
    remainder: Value,
    // Biased variance.
    variance: Value,
}

fn save(work: Work, moments: Moments, inv_std: Value) {
    store_saved(work, 0u, moments.shift);
    store_saved(work, 1u, moments.remainder);
    store_saved(work, 2u, moments.variance);
    store_saved(work, 3u, inv_std);
    store_saved(work, 4u, load_gamma(work, 0u));
    store_saved(work, 5u, load_beta(work, 0u));
}
