// The gradients of a linear layer's parameters: dW = x^T dy and dbias = 1^T dy, with x [INNER, ROWS], dy [INNER, COLS]
// and dW [ROWS, COLS]; INNER is the batch.
// Owner and assumptions: linear_tile.wgsl. The first row of tiles also owns dbias, whose sums it passes on the way. With
// BIAS false dbias is not written: batch norm owns that gradient, as dbeta.

override BIAS: bool;
override LEFT_ROW: u32 = 1u;
override LEFT_STEP: u32 = ROWS;
override RIGHT_COL: u32 = 1u;
override RIGHT_STEP: u32 = COLS;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read_write> dweights: array<f32>;
@group(0) @binding(3) var<storage, read_write> dbias: array<f32>;

fn left(at: vec4u) -> vec4f {
    return vec4f(x[at.x], x[at.y], x[at.z], x[at.w]);
}

fn right(at: vec4u) -> vec4f {
    return vec4f(dy[at.x], dy[at.y], dy[at.z], dy[at.w]);
}

fn start(cols: vec4u) -> vec4f {
    return vec4f();
}

fn store_value(at: u32, value: f32) {
    dweights[at] = value;
}

fn store_sums(col: u32, sums: vec4f) {
    if BIAS {
        if col < COLS { dbias[col] = sums.x; }
        if col + 1u < COLS { dbias[col + 1u] = sums.y; }
        if col + 2u < COLS { dbias[col + 2u] = sums.z; }
        if col + 3u < COLS { dbias[col + 3u] = sums.w; }
    }
}
