// Centre and spread of a column from the running statistics.

struct Centre {
    shift: Value,
    remainder: Value,
    inv_std: Value,
}

fn centre_of(work: Work) -> Centre {
    return Centre(
        load_running(work.channel),
        load_running(params.channels + work.channel),
        inv_std_of(load_running(2u * params.channels + work.channel)),
    );
}
