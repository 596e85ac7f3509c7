// A linear layer: y = x W + bias, with x [ROWS, INNER], W [INNER, COLS], bias [COLS] and y [ROWS, COLS].
// Owner and assumptions: linear_tile.wgsl. With BIAS false the binding `bias` is not read.

override BIAS: bool;
override LEFT_ROW: u32 = INNER;
override LEFT_STEP: u32 = 1u;
override RIGHT_COL: u32 = 1u;
override RIGHT_STEP: u32 = COLS;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

fn left(at: vec4u) -> vec4f {
    return vec4f(x[at.x], x[at.y], x[at.z], x[at.w]);
}

fn right(at: vec4u) -> vec4f {
    return vec4f(weights[at.x], weights[at.y], weights[at.z], weights[at.w]);
}

fn start(cols: vec4u) -> vec4f {
    if BIAS {
        return vec4f(bias[cols.x], bias[cols.y], bias[cols.z], bias[cols.w]);
    }
    return vec4f();
}

fn store_value(at: u32, value: f32) {
    y[at] = value;
}

fn store_sums(col: u32, sums: vec4f) {}
