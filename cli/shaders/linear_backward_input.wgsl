// The gradient that a linear layer hands back, carried through the sigmoid before it:
// du = (dy W^T) * a (1 - a), with dy [ROWS, INNER], W [COLS, INNER], and the sigmoid's output a and du [ROWS, COLS].
// a is the layer's own input, so that the sigmoid's derivative costs no other array.
// Owner and assumptions: linear_tile.wgsl.

override LEFT_ROW: u32 = INNER;
override LEFT_STEP: u32 = 1u;
override RIGHT_COL: u32 = INNER;
override RIGHT_STEP: u32 = 1u;

@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> a: array<f32>;
@group(0) @binding(3) var<storage, read_write> du: array<f32>;

fn left(at: vec4u) -> vec4f {
    return vec4f(dy[at.x], dy[at.y], dy[at.z], dy[at.w]);
}

fn right(at: vec4u) -> vec4f {
    return vec4f(weights[at.x], weights[at.y], weights[at.z], weights[at.w]);
}

fn start(cols: vec4u) -> vec4f {
    return vec4f();
}

fn store_value(at: u32, da: f32) {
    let s = a[at];
    du[at] = da * (s * (1.0 - s));
}

fn store_sums(col: u32, sums: vec4f) {}
