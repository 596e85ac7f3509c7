// What an epilogue computes of eight values of 16 bits, two to a word, without taking them out of their words: f16 and bf16
// both have the sign on top, and 0 is no other bit.

// All bits of the halves whose highest bit is set.
fn spread(highest: vec4<u32>) -> vec4<u32> {
    return highest | (highest - (highest >> vec4<u32>(15u)));
}

fn relu(z: vec4<u32>) -> vec4<u32> {
    return z & ~spread(z & vec4<u32>(0x80008000u));
}

fn gate(y: vec4<u32>, dy: vec4<u32>) -> vec4<u32> {
    let positive = (y & vec4<u32>(0x7fff7fffu)) + vec4<u32>(0x7fff7fffu);
    return dy & spread(positive & vec4<u32>(0x80008000u));
}
