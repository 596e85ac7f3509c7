// A linear layer: y = x W + bias, with x [ROWS, INNER], W [INNER, COLS], bias [COLS] and y [ROWS, COLS], row-major.
//
// Owner: one invocation per tile of 8 x 8 values of y; it keeps the 64 sums in registers and walks INNER alone. A
// large tile, because loads are what costs: 16 of them serve 64 products.
// Assumes: every dimension is at least 1; no multiple of 8 is needed, because addresses past an edge are clamped to it
// and only values inside are stored. With BIAS false the binding `bias` is not read.

override ROWS: u32;
override INNER: u32;
override COLS: u32;
override BIAS: bool;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

const LANES = vec4u(0u, 1u, 2u, 3u);

fn load_x(at: vec4u) -> vec4f {
    return vec4f(x[at.x], x[at.y], x[at.z], x[at.w]);
}

fn load_weights(at: vec4u) -> vec4f {
    return vec4f(weights[at.x], weights[at.y], weights[at.z], weights[at.w]);
}

fn store_four(at: u32, col: u32, values: vec4f) {
    if col < COLS { y[at] = values.x; }
    if col + 1u < COLS { y[at + 1u] = values.y; }
    if col + 2u < COLS { y[at + 2u] = values.z; }
    if col + 3u < COLS { y[at + 3u] = values.w; }
}

fn store(row: u32, col: u32, left: vec4f, right: vec4f) {
    if row < ROWS {
        let at = row * COLS + col;
        store_four(at, col, left);
        store_four(at + 4u, col + 4u, right);
    }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    let col_tiles = (COLS + 7u) / 8u;
    let row = id.x / col_tiles * 8u;
    let col = id.x % col_tiles * 8u;
    let r0 = min(row + LANES, vec4u(ROWS - 1u)) * INNER;
    let r1 = min(row + 4u + LANES, vec4u(ROWS - 1u)) * INNER;
    let c0 = min(col + LANES, vec4u(COLS - 1u));
    let c1 = min(col + 4u + LANES, vec4u(COLS - 1u));
    var s0a = vec4f();
    var s0b = vec4f();
    if BIAS {
        s0a = vec4f(bias[c0.x], bias[c0.y], bias[c0.z], bias[c0.w]);
        s0b = vec4f(bias[c1.x], bias[c1.y], bias[c1.z], bias[c1.w]);
    }
    var s1a = s0a;
    var s1b = s0b;
    var s2a = s0a;
    var s2b = s0b;
    var s3a = s0a;
    var s3b = s0b;
    var s4a = s0a;
    var s4b = s0b;
    var s5a = s0a;
    var s5b = s0b;
    var s6a = s0a;
    var s6b = s0b;
    var s7a = s0a;
    var s7b = s0b;
    for (var k = 0u; k < INNER; k++) {
        let p = load_x(r0 + k);
        let q = load_x(r1 + k);
        let b0 = load_weights(c0 + k * COLS);
        let b1 = load_weights(c1 + k * COLS);
        s0a += p.x * b0;
        s0b += p.x * b1;
        s1a += p.y * b0;
        s1b += p.y * b1;
        s2a += p.z * b0;
        s2b += p.z * b1;
        s3a += p.w * b0;
        s3b += p.w * b1;
        s4a += q.x * b0;
        s4b += q.x * b1;
        s5a += q.y * b0;
        s5b += q.y * b1;
        s6a += q.z * b0;
        s6b += q.z * b1;
        s7a += q.w * b0;
        s7b += q.w * b1;
    }
    store(row, col, s0a, s0b);
    store(row + 1u, col, s1a, s1b);
    store(row + 2u, col, s2a, s2b);
    store(row + 3u, col, s3a, s3b);
    store(row + 4u, col, s4a, s4b);
    store(row + 5u, col, s5a, s5b);
    store(row + 6u, col, s6a, s6b);
    store(row + 7u, col, s7a, s7b);
}
