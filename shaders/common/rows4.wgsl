// Geometry `rows4`: a value is one element of each of four neighbouring channels. Needs inner 1 and C a multiple of four.

alias Value = vec4<f32>;
alias Bits = vec4<u32>;

// Channels that one value spans.
const CHANNELS: u32 = 4u;

// Elements of one channel that a value holds.
const ELEMENTS: u32 = 1u;

// The part of a value that holds element `element` of the channel.
fn element_of(v: Value, element: u32) -> Value {
    return v;
}

// Sums the parts of a value that belong to one channel: each its own.
fn combine(v: Value) -> Value {
    return v;
}

fn component(v: Value, channel: u32) -> f32 {
    return v[channel];
}
