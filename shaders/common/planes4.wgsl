// Geometry `planes4`: a value is four neighbouring elements of one channel. Needs inner to be a multiple of four.

alias Value = vec4<f32>;
alias Bits = vec4<u32>;

// Channels that one value spans.
const CHANNELS: u32 = 1u;

// Elements of one channel that a value holds.
const ELEMENTS: u32 = 4u;

// The channel of each part of a value.
fn channel_of(column: u32) -> Bits {
    return Bits(column);
}

// Sums the parts of a value that belong to one channel: all four.
fn combine(v: Value) -> Value {
    return Value((v.x + v.y) + (v.z + v.w));
}

fn component(v: Value, channel: u32) -> f32 {
    return v.x;
}
