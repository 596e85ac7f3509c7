// 1 / sqrt(variance + eps), one Newton step beyond the 2 ULP of inverseSqrt. A variance that is NaN or infinite gives
// NaN: y = beta, what 1 / infinity would lead to, looks sound and is not.

fn inv_std_of(variance: Value) -> Value {
    let v = variance + Value(params.eps);
    let r = inverseSqrt(v);
    // v * r first: r * r underflows for a large variance.
    let refined = r + (0.5 * r) * (Value(1.0) - (v * r) * r);
    let finite = (bitcast<Bits>(variance) & Bits(0x7f800000u)) != Bits(0x7f800000u);
    return select(Value(bitcast<f32>(params.nan_bits)), refined, finite);
}
