// Centre and spread of a column as the forward training pass saved them.

struct Centre {
    shift: Value,
    remainder: Value,
    inv_std: Value,
}

fn centre_of(work: Work) -> Centre {
    return Centre(load_saved(work, 0u), load_saved(work, 1u), load_saved(work, 3u));
}
