// The gradient that a linear layer hands back, carried through the sigmoid before it:
// du = (dy W^T) * a (1 - a), with dy [ROWS, INNER], W [COLS, INNER], and the sigmoid's output a and du [ROWS, COLS].
// a is the layer's own input, so that the sigmoid's derivative costs no other array.
//
// Owner: one invocation per tile of 8 x 8 values of du; it keeps the 64 sums in registers and walks INNER alone. A
// large tile, because loads are what costs: 16 of them serve 64 products.
// Assumes: every dimension is at least 1; no multiple of 8 is needed, because addresses past an edge are clamped to it
// and only values inside are stored.

override ROWS: u32;
override INNER: u32;
override COLS: u32;

@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> a: array<f32>;
@group(0) @binding(3) var<storage, read_write> du: array<f32>;

const LANES = vec4u(0u, 1u, 2u, 3u);

fn load_dy(at: vec4u) -> vec4f {
    return vec4f(dy[at.x], dy[at.y], dy[at.z], dy[at.w]);
}

fn load_weights(at: vec4u) -> vec4f {
    return vec4f(weights[at.x], weights[at.y], weights[at.z], weights[at.w]);
}

fn store_one(at: u32, da: f32) {
    let s = a[at];
    du[at] = da * (s * (1.0 - s));
}

fn store_four(at: u32, col: u32, values: vec4f) {
    if col < COLS { store_one(at, values.x); }
    if col + 1u < COLS { store_one(at + 1u, values.y); }
    if col + 2u < COLS { store_one(at + 2u, values.z); }
    if col + 3u < COLS { store_one(at + 3u, values.w); }
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
    let c0 = min(col + LANES, vec4u(COLS - 1u)) * INNER;
    let c1 = min(col + 4u + LANES, vec4u(COLS - 1u)) * INNER;
    var s0a = vec4f();
    var s0b = vec4f();
    var s1a = vec4f();
    var s1b = vec4f();
    var s2a = vec4f();
    var s2b = vec4f();
    var s3a = vec4f();
    var s3b = vec4f();
    var s4a = vec4f();
    var s4b = vec4f();
    var s5a = vec4f();
    var s5b = vec4f();
    var s6a = vec4f();
    var s6b = vec4f();
    var s7a = vec4f();
    var s7b = vec4f();
    for (var k = 0u; k < INNER; k++) {
        let p = load_dy(r0 + k);
        let q = load_dy(r1 + k);
        let b0 = load_weights(c0 + k);
        let b1 = load_weights(c1 + k);
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
