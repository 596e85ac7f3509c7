// Geometry `rows4`: a value is four neighbouring elements of a row. Needs inner 1. A row is `fold` samples side by side, so
// that its length is a multiple of four whatever C is; the four elements belong to four channels, or to the same
// channels again where C is less.

alias Value = vec4<f32>;
alias Bits = vec4<u32>;

// Places in a row that one value spans.
const CHANNELS: u32 = 4u;

// Elements of one channel that a value holds.
const ELEMENTS: u32 = 1u;

// The channel of each part of a value.
fn channel_of(column: u32) -> Bits {
    return (Bits(column * 4u) + Bits(0u, 1u, 2u, 3u)) % params.channels;
}

// Sums the parts of a value that belong to one channel: each its own. Those of folded samples meet in the merge.
fn combine(v: Value) -> Value {
    return v;
}

fn component(v: Value, channel: u32) -> f32 {
    return v[channel];
}
