// Elements of 16 bits, two to a word, the first one low: f16 (IEEE 754 binary16). Subnormals are kept in writing, and in
// reading unless the device flushes them, as WGSL lets it.

// The two elements of a word.
fn halves(word: u32) -> vec2<f32> {
    return unpack2x16float(word);
}

// The nearest f16, ties to even, infinite beyond the range. In integers: WGSL leaves the rounding of its own conversions
// open, and what they make of values beyond the range.
fn narrow(v: Value) -> Bits {
    let bits = bitcast<Bits>(v);
    let magnitude = bits & Bits(0x7fffffffu);
    // The exponent's bias goes from 127 to 15; a carry out of the significand goes into the exponent, at last to infinity,
    // and what lies beyond the range comes out above that.
    let exponent = magnitude + ((magnitude >> Bits(13u)) & Bits(1u)) - Bits(0x37fff001u);
    let normal = min(exponent >> Bits(13u), Bits(0x7c00u));
    // Below 2^-14 a sum with 0.5, whose last place is that of a subnormal f16, rounds as wanted.
    let small = bitcast<Bits>(bitcast<Value>(magnitude) + Value(0.5)) - Bits(0x3f000000u);
    let finite = select(normal, small, magnitude < Bits(0x38800000u));
    let nan = magnitude > Bits(0x7f800000u);
    return ((bits >> Bits(16u)) & Bits(0x8000u)) | select(finite, Bits(0x7e00u), nan);
}
