// Gathers a batch from the resident data set: x = pixels / 255 and labels, in the order of a list of indices.
//
// Owner: one invocation per word of four pixels; that of a row's first word also copies the label.
// Assumes: WORDS words per image, ROWS rows in the batch, 1 <= batch.rows <= ROWS, and indices[batch.first + row] for
// row < batch.rows. Rows from batch.rows on repeat the last valid row, so that every value in the batch is defined.

override ROWS: u32;
override WORDS: u32;

struct Batch {
    first: u32, // position of the batch's first row in the list of indices
    rows: u32,  // rows that count
    slot: u32,  // where the batch's metrics go
    rate: f32,  // step width of the descent
}

@group(0) @binding(0) var<storage, read> pixels: array<u32>;
@group(0) @binding(1) var<storage, read> all_labels: array<u32>;
@group(0) @binding(2) var<storage, read> indices: array<u32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> labels: array<u32>;
@group(0) @binding(5) var<uniform> batch: Batch;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u) {
    let row = id.x / WORDS;
    let word = id.x % WORDS;
    if row < ROWS {
        let image = indices[batch.first + min(row, batch.rows - 1u)];
        // Shifts, not unpack4xU8: that is an optional language feature.
        let bytes = (vec4u(pixels[image * WORDS + word]) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(255u);
        let values = vec4f(bytes) / 255.0;
        let at = 4u * id.x;
        x[at] = values.x;
        x[at + 1u] = values.y;
        x[at + 2u] = values.z;
        x[at + 3u] = values.w;
        if word == 0u {
            labels[row] = all_labels[image];
        }
    }
}
