// Centre and spread of a column from the running statistics.

struct Centre {
    shift: Value,
    remainder: Value,
    inv_std: Value,
}

fn centre_of(work: Work) -> Centre {
    return Centre(load_running(work, 0u), load_running(work, 1u), inv_std_of(load_running(work, 2u)));
}
