// y = act((x - mean) * scale + beta + residual). The mean is a pair: subtracting its parts in turn keeps full accuracy where
// the mean is a million deviations from zero, which one multiply-add of x would lose.
import package::common::activation::activated;
import package::common::bindings::{load_beta, load_gamma, load_residual, load_x, store_y};
import package::common::statistics::Statistics;
import package::common::values::Value;
import package::common::walk::{has_four, has_one, next_four, next_one, walk_of};
import package::common::work::Work;

// What the elements of a column are normalized with.
struct Normalization {
    shift: Value,
    remainder: Value,
    // gamma * inv_std.
    scale: Value,
    beta: Value,
}

fn normalization_of(work: Work, statistics: Statistics, inv_std: Value) -> Normalization {
    return Normalization(statistics.shift, statistics.remainder, load_gamma(work) * inv_std, load_beta(work));
}

fn y_at(n: Normalization, index: u32) -> Value {
    let normalized = ((load_x(index) - n.shift) - n.remainder) * n.scale + n.beta;
    return activated(normalized + load_residual(index));
}

// Writes y of a segment, four values in flight: y may lie over x, so all four are loaded before the first is stored.
fn normalize_segment(work: Work, n: Normalization) {
    var walk = walk_of(work);
    while (has_four(walk)) {
        let at = next_four(&walk);
        let a = y_at(n, at.x);
        let b = y_at(n, at.y);
        let c = y_at(n, at.z);
        let d = y_at(n, at.w);
        store_y(at.x, a);
        store_y(at.y, b);
        store_y(at.z, c);
        store_y(at.w, d);
    }
    while (has_one(walk)) {
        let at = next_one(&walk);
        store_y(at, y_at(n, at));
    }
}
