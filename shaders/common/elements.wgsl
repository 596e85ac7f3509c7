// How the elements of a tensor lie in memory. Kernels compute in f32; loads widen, stores round to the nearest.
//   f32         as they are.
//   f16         WGSL's own type, where the device has it.
//   f16_words   two in a word, the first one low: f16 (IEEE 754 binary16). Runs everywhere.
//   bf16_words  two in a word: bf16, an f32 without its low half.
import package::common::values::{Value, Bits};

// What the binding of a tensor is an array of. With one element to a value, elements in words are half words; a tensor that is
// written is an array of atomic<u32> then.
@if(f32) alias Element = Value;
@if(f16) alias Element = f16;
@if(words && scalar) alias Element = u32;
@if(words && wide) alias Element = vec2<u32>;

@if(f32 || f16)
fn widened(element: Element) -> Value {
    return Value(element);
}

@if(words && wide)
fn widened(words: Element) -> Value {
    return Value(halves(words.x), halves(words.y));
}

// Element i of a tensor, of the word that holds it.
@if(half_words)
fn half_of(word: u32, i: u32) -> Value {
    return halves(word)[i % 2u];
}

@if(f32)
fn narrowed(v: Value) -> Element {
    return v;
}

// The conversion of what is an f16 already leaves nothing to the device's rounding.
@if(f16)
fn narrowed(v: Value) -> Element {
    return f16(halves(rounded(v)).x);
}

@if(words && wide)
fn narrowed(v: Value) -> Element {
    let bits = rounded(v);
    return bits.xz | (bits.yw << vec2<u32>(16u));
}

// What turns a word's half for element i into v by exclusive or. The other half is another invocation's, and keeps its value;
// of its own half nobody else writes.
@if(half_words)
fn change_of_half(word: u32, i: u32, v: Value) -> u32 {
    let at = 16u * (i % 2u);
    return (((word >> at) ^ rounded(v)) & 0xffffu) << at;
}

// The two elements of a word. A device may flush what is subnormal.
@if(f16 || f16_words)
fn halves(word: u32) -> vec2<f32> {
    return unpack2x16float(word);
}

@if(bf16_words)
fn halves(word: u32) -> vec2<f32> {
    return bitcast<vec2<f32>>(vec2<u32>(word << 16u, word & 0xffff0000u));
}

// The bits of the nearest f16, ties to even, infinite beyond the range; subnormals are kept. In integers: WGSL leaves open how
// its own conversions round, and what they make of values beyond the range.
@if(f16 || f16_words)
fn rounded(v: Value) -> Bits {
    let bits = bitcast<Bits>(v);
    let magnitude = bits & Bits(0x7fffffffu);
    // The exponent's bias goes from 127 to 15; a carry out of the significand goes into the exponent, at last to infinity,
    // and what lies beyond the range comes out above that.
    let exponent = magnitude + ((magnitude >> Bits(13u)) & Bits(1u)) - Bits(0x37fff001u);
    let normal = min(exponent >> Bits(13u), Bits(0x7c00u));
    // Below 2^-14 a sum with 0.5, whose last place is that of a subnormal f16, rounds as wanted.
    let small = bitcast<Bits>(bitcast<Value>(magnitude) + Value(0.5)) - Bits(0x3f000000u);
    let finite = select(normal, small, magnitude < Bits(0x38800000u));
    let is_nan = magnitude > Bits(0x7f800000u);
    return ((bits >> Bits(16u)) & Bits(0x8000u)) | select(finite, Bits(0x7e00u), is_nan);
}

// The bits of the nearest bf16, ties to even, infinite beyond the range.
@if(bf16_words)
fn rounded(v: Value) -> Bits {
    let bits = bitcast<Bits>(v);
    // A carry out of the significand goes into the exponent, at last to infinity.
    let finite = (bits + Bits(0x7fffu) + ((bits >> Bits(16u)) & Bits(1u))) >> Bits(16u);
    // Rounded, a NaN could become an infinity.
    let quiet_nan = (bits >> Bits(16u)) | Bits(0x40u);
    return select(finite, quiet_nan, (bits & Bits(0x7fffffffu)) > Bits(0x7f800000u));
}
