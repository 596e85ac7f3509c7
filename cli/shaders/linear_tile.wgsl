// A tile of 8 x 8 values of a product of two matrices, [ROWS, COLS] = [ROWS, INNER] [INNER, COLS], row-major: what the three
// products of a linear layer share. The kernel says where its operands lie (LEFT_ROW, LEFT_STEP, RIGHT_COL, RIGHT_STEP) and
// defines `left` and `right`, which load from them, `start`, where the sums of a column begin, `store_value`, and
// `store_sums`, which gets the sums of the right operand's columns.
//
// Owner: one invocation per tile; it keeps the 64 sums in registers and walks INNER alone. A large tile, because loads are
// what costs: 16 of them serve 64 products.
// Assumes: every dimension is at least 1; no multiple of 8 is needed, because addresses past an edge are clamped to it and
// only values inside are stored.

override ROWS: u32;
override INNER: u32;
override COLS: u32;

const LANES = vec4u(0u, 1u, 2u, 3u);

fn store_four(at: u32, col: u32, values: vec4f) {
    if col < COLS { store_value(at, values.x); }
    if col + 1u < COLS { store_value(at + 1u, values.y); }
    if col + 2u < COLS { store_value(at + 2u, values.z); }
    if col + 3u < COLS { store_value(at + 3u, values.w); }
}

fn store(row: u32, col: u32, first: vec4f, second: vec4f) {
    if row < ROWS {
        let at = row * COLS + col;
        store_four(at, col, first);
        store_four(at + 4u, col + 4u, second);
    }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    let col_tiles = (COLS + 7u) / 8u;
    let row = id.x / col_tiles * 8u;
    let col = id.x % col_tiles * 8u;
    let r0 = min(row + LANES, vec4u(ROWS - 1u)) * LEFT_ROW;
    let r1 = min(row + 4u + LANES, vec4u(ROWS - 1u)) * LEFT_ROW;
    let cols0 = min(col + LANES, vec4u(COLS - 1u));
    let cols1 = min(col + 4u + LANES, vec4u(COLS - 1u));
    let c0 = cols0 * RIGHT_COL;
    let c1 = cols1 * RIGHT_COL;
    var s0a = start(cols0);
    var s0b = start(cols1);
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
    var sums0 = vec4f();
    var sums1 = vec4f();
    for (var k = 0u; k < INNER; k++) {
        let p = left(r0 + k * LEFT_STEP);
        let q = left(r1 + k * LEFT_STEP);
        let b0 = right(c0 + k * RIGHT_STEP);
        let b1 = right(c1 + k * RIGHT_STEP);
        sums0 += b0;
        sums1 += b1;
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
    if row == 0u {
        store_sums(col, sums0);
        store_sums(col + 4u, sums1);
    }
}
