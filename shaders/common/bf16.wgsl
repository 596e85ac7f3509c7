// Elements of 16 bits, two to a word, the first one low: bf16, an f32 without its low half. Its subnormals are those of f32,
// which a device may flush.

// The two elements of a word.
fn halves(word: u32) -> vec2<f32> {
    return bitcast<vec2<f32>>(vec2<u32>(word << 16u, word & 0xffff0000u));
}

// The nearest bf16, ties to even, infinite beyond the range.
fn narrow(v: Value) -> Bits {
    let bits = bitcast<Bits>(v);
    // A carry out of the significand goes into the exponent, at last to infinity.
    let rounded = (bits + Bits(0x7fffu) + ((bits >> Bits(16u)) & Bits(1u))) >> Bits(16u);
    // Rounded, a NaN could become an infinity.
    let nan = (bits >> Bits(16u)) | Bits(0x40u);
    return select(rounded, nan, (bits & Bits(0x7fffffffu)) > Bits(0x7f800000u));
}
