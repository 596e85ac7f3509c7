// Softmax and cross-entropy of a batch: dlogits = (softmax(logits) - onehot(label)) / rows, and into one slot of the
// metrics the sum of the losses and the number of rows whose first largest logit is the label's.
//
// Owner: one workgroup for the batch. Invocation t takes the rows t, t + 64, ...; the sums over invocations are taken
// by a tree of fixed shape, so that repeated runs agree in every bit.
// Assumes: ROWS rows of CLASSES logits, 1 <= batch.rows <= ROWS, labels below CLASSES. Rows from batch.rows on do not
// count: their dlogits are 0. All barriers are in uniform control flow.

override ROWS: u32;
override CLASSES: u32;

struct Batch {
    first: u32, // position of the batch's first row in the list of indices
    rows: u32,  // rows that count
    slot: u32,  // where the batch's metrics go
    rate: f32,  // step width of the descent
}

struct Metrics {
    loss: f32,
    correct: u32,
}

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read_write> dlogits: array<f32>;
@group(0) @binding(3) var<storage, read_write> metrics: array<Metrics>;
@group(0) @binding(4) var<uniform> batch: Batch;

const WIDTH = 64u;
var<workgroup> losses: array<f32, WIDTH>;
var<workgroup> corrects: array<u32, WIDTH>;

// Loss of one row and whether it is classified correctly; writes the row's dlogits.
fn classify(row: u32) -> Metrics {
    let base = row * CLASSES;
    let label = labels[row];
    var best = 0u;
    for (var c = 1u; c < CLASSES; c++) {
        if logits[base + c] > logits[base + best] {
            best = c;
        }
    }
    let largest = logits[base + best];
    var total = 0.0;
    for (var c = 0u; c < CLASSES; c++) {
        total += exp(logits[base + c] - largest);
    }
    for (var c = 0u; c < CLASSES; c++) {
        let p = exp(logits[base + c] - largest) / total;
        dlogits[base + c] = (p - select(0.0, 1.0, c == label)) / f32(batch.rows);
    }
    return Metrics(log(total) - (logits[base + label] - largest), select(0u, 1u, best == label));
}

@compute @workgroup_size(WIDTH)
fn main(@builtin(local_invocation_index) t: u32) {
    var sum = Metrics(0.0, 0u);
    for (var row = t; row < ROWS; row += WIDTH) {
        if row < batch.rows {
            let one = classify(row);
            sum.loss += one.loss;
            sum.correct += one.correct;
        } else {
            for (var c = 0u; c < CLASSES; c++) {
                dlogits[row * CLASSES + c] = 0.0;
            }
        }
    }
    losses[t] = sum.loss;
    corrects[t] = sum.correct;
    workgroupBarrier();
    for (var span = WIDTH / 2u; span > 0u; span /= 2u) {
        if t < span {
            losses[t] += losses[t + span];
            corrects[t] += corrects[t + span];
        }
        workgroupBarrier();
    }
    if t == 0u {
        metrics[batch.slot] = Metrics(losses[0], corrects[0]);
    }
}
