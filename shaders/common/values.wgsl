// What a value is: the elements that the inner loops load at once, in one of three geometries.
//   scalar   one element of one channel. Runs for every shape.
//   planes4  four neighbouring elements of one channel. Needs inner to be a multiple of four.
//   rows4    four neighbouring elements of a row. Needs inner 1. A row is `fold` samples side by side, so that its length is a
//            multiple of four whatever C is; the four belong to four channels, or to the same channels again where C is less.
import package::common::work::params;

@if(scalar) alias Value = f32;
@if(wide) alias Value = vec4<f32>;

// The bits of a value.
@if(scalar) alias Bits = u32;
@if(wide) alias Bits = vec4<u32>;

// Channels that a value spans.
@if(rows4) const CHANNELS: u32 = 4u;
@if(!rows4) const CHANNELS: u32 = 1u;

// Elements of one channel that a value holds.
@if(planes4) const ELEMENTS: u32 = 4u;
@if(!planes4) const ELEMENTS: u32 = 1u;

// What a column's elements belong to, before what repeats is counted once: four numbers of rows4, or the same four times.
@if(rows4)
fn places_of(column: u32) -> vec4<u32> {
    return vec4<u32>(column * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
}

@if(!rows4)
fn places_of(column: u32) -> vec4<u32> {
    return vec4<u32>(column);
}

// Sums the parts of a value that belong to one channel. Those of folded samples meet in the merge.
@if(planes4)
fn combine(v: Value) -> Value {
    return Value((v.x + v.y) + (v.z + v.w));
}

@if(!planes4)
fn combine(v: Value) -> Value {
    return v;
}

// What a combined value holds for one of its channels.
@if(scalar)
fn component(v: Value, channel: u32) -> f32 {
    return v;
}

@if(planes4)
fn component(v: Value, channel: u32) -> f32 {
    return v.x;
}

@if(rows4)
fn component(v: Value, channel: u32) -> f32 {
    return v[channel];
}

// A quiet NaN; WGSL has no literal for it.
fn nan() -> Value {
    return Value(bitcast<f32>(params.nan_bits));
}
