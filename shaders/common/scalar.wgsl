// Geometry `scalar`: a value is one element of one channel. Runs for every shape.

alias Value = f32;
alias Bits = u32;

// Channels that one value spans.
const CHANNELS: u32 = 1u;

// Elements of one channel that a value holds.
const ELEMENTS: u32 = 1u;

// The channel of each part of a value.
fn channel_of(column: u32) -> Bits {
    return column;
}

// Sums the parts of a value that belong to one channel.
fn combine(v: Value) -> Value {
    return v;
}

fn component(v: Value, channel: u32) -> f32 {
    return v;
}
