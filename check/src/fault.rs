//! Planted faults: a cross-check that cannot fail proves nothing. Each fault is one change to the shaders, and some case of
//! the matrix has to find it.

use batchnorm_wgpu::kernels::Variant;
use batchnorm_wgpu::{Edit, Kernels, Options, wgpu};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

/// One change to the shaders.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What is wrong.
    pub name: &'static str,
    /// Texts that are changed, wherever they stand, and what they become.
    pub edits: &'static [(&'static str, &'static str)],
    /// Whether only tensors of several bindings can show it.
    pub in_parts: bool,
}

macro_rules! fault {
    ($name:literal, $($from:literal, $to:literal),+ $(,)?) => {
        Fault { name: $name, edits: &[$(($from, $to)),+], in_parts: false }
    };
    (in parts $name:literal, $($from:literal, $to:literal),+ $(,)?) => {
        Fault { in_parts: true, ..fault!($name, $($from, $to),+) }
    };
}

/// The faults.
pub const FAULTS: [Fault; 61] = [
    fault!(
        "a barrier of the tree is dropped",
        "pairs[work.thread].b += pairs[other].b;\n            }\n            workgroupBarrier();",
        "pairs[work.thread].b += pairs[other].b;\n            }",
    ),
    fault!(
        "the barrier before the tree is dropped",
        "pairs[work.thread] = own;\n        workgroupBarrier();",
        "pairs[work.thread] = own;",
    ),
    fault!("the tree stops one level early", "half > 0u; half = half / 2u", "half > 1u; half = half / 2u"),
    fault!(
        "the tree adds a lane twice",
        "let other = work.thread + half * stride;",
        "let other = work.thread + (half - 1u) * stride;",
    ),
    fault!(
        "a segment loses its last value",
        "min(begin + params.segment, params.values), owned)",
        "min(begin + params.segment, params.values) - 1u, owned)",
    ),
    fault!(
        "a segment overlaps the next",
        "min(begin + params.segment, params.values), owned)",
        "min(begin + params.segment + 1u, params.values), owned)",
    ),
    fault!("the loop skips the tail", "while (i < work.end)", "while (i + 1u < work.end)"),
    fault!(
        "the unrolled loop runs past the end",
        "while (i + 3u * stride.lanes < work.end)",
        "while (i + 2u * stride.lanes < work.end)",
    ),
    fault!("the step forgets the wrap", "let leaves = place >= stride.inner;", "let leaves = place > stride.inner;"),
    fault!(
        "the variance is E[x^2] - E[x]^2",
        "let shift = shift_of(work);",
        "let shift = Value(0.0);",
        "(ea * ea + eb * eb) + (ec * ec + ed * ed)",
        "((da * da + db * db) + (dc * dc + dd * dd)) - 4.0 * (mean * mean)",
    ),
    fault!("the shift is a value far away", "let shift = shift_of(work);", "let shift = Value(3e4);"),
    fault!(
        "the remainder of the mean is dropped",
        "Moments(load_scratch(work, 0u), mean,",
        "Moments(load_scratch(work, 0u), Value(0.0),",
    ),
    fault!(
        "a run is merged without its distance",
        "state.m2 + m2 + (delta * delta) * (state.count * share)",
        "state.m2 + m2",
    ),
    fault!("a run of four counts as three", "merge_run(state, 4.0,", "merge_run(state, 3.0,"),
    fault!(
        "lanes are merged without their distance",
        "Pair(own.m2 + own.count * (delta * delta), Value(0.0))",
        "Pair(own.m2, Value(0.0))",
    ),
    fault!("splits are merged without their distance", "+ (n * f32(ELEMENTS)) * (delta * delta)", ""),
    fault!(
        "splits of unlike size are weighted alike",
        "let n = f32(values_in_split(split));\n        count += n;",
        "let n = 1.0;\n        count += n;",
    ),
    fault!("the variance is divided by m - 1", "m2 / params.count_f32)", "m2 / (params.count_f32 - 1.0))"),
    fault!("eps is forgotten", "let v = variance + Value(params.eps);", "let v = max(variance, Value(1e-30));"),
    fault!(
        "an infinite variance gives 0",
        "select(Value(bitcast<f32>(params.nan_bits)), refined, finite)",
        "select(Value(0.0), refined, finite)",
    ),
    fault!("gamma is forgotten", "let scale = load_gamma(work, 0u) * inv_std;", "let scale = inv_std;"),
    fault!("beta is forgotten", "* state.scale + state.beta;", "* state.scale;"),
    fault!("momentum is swapped", "default: { return params.momentum; }", "default: { return 1.0 - params.momentum; }"),
    fault!(
        "m / (m - 1) is forgotten",
        "let new_variance = variance * params.correction;",
        "let new_variance = variance;",
    ),
    fault!("a non-finite batch enters", "if (!finite && params.propagate == 0u)", "if (false)"),
    fault!(
        "the window ends a batch late",
        "tracked - params.window_skip < params.window_take",
        "tracked - params.window_skip <= params.window_take",
    ),
    fault!(
        "dx forgets the mean of dy",
        "((dz - gradient.mean_dz) - centred * gradient.slope)",
        "(dz - centred * gradient.slope)",
    ),
    fault!("dx forgets the slope", "((dz - gradient.mean_dz) - centred * gradient.slope)", "(dz - gradient.mean_dz)",),
    fault!("dgamma forgets inv_std", "store_dgamma(work, 0u, dgamma);", "store_dgamma(work, 0u, sums.b);"),
    fault!(
        "every split publishes",
        "work.owned && work.lane == 0u && work.split == 0u",
        "work.owned && work.lane == 0u",
    ),
    fault!("columns that do not exist write", "let owned = column < params.columns;", "let owned = true;"),
    fault!(
        "a block overlaps the next",
        "block.end = min(begin + BLOCK * params.lanes, work.end);",
        "block.end = min(begin + BLOCK * params.lanes + 1u, work.end);",
    ),
    fault!("the second block is forgotten", "own = merge_run(own, block.count, block.mean, block.m2);", "own = block;"),
    fault!("folded samples are not merged", "i < params.all_splits * params.fold;", "i < params.all_splits;"),
    fault!(
        "folded samples publish again",
        "if (channel < params.channels) {\n            update_running",
        "if (true) {\n            update_running"
    ),
    fault!(
        "the backward order is off by one",
        "select(dispatched, params.groups - 1u - dispatched,",
        "select(dispatched, params.groups - max(dispatched, 1u),",
    ),
    fault!("a resident lane forgets a value", "sum += d1;", ""),
    fault!(
        "a resident column counts values that it does not have",
        "select(Value(0.0), d1 - remainder, inside1)",
        "d1 - remainder",
    ),
    fault!("the residual is forgotten", "activated(normalized + a.residual)", "activated(normalized)"),
    fault!(
        "relu makes a NaN 0",
        "- Bits(0x80000000u) <= Bits(0x7f800000u)",
        "- Bits(0x80000000u) <= Bits(0x7fffffffu)"
    ),
    fault!(
        "relu lets the gradient through at 0",
        "select(select(dy, Value(0.0), negative), Value(0.0), bits == Bits(0u))",
        "select(dy, Value(0.0), negative)",
    ),
    fault!(
        "the mask forgets the residual",
        "(centred * centre.scale + centre.beta) + residual",
        "centred * centre.scale + centre.beta"
    ),
    fault!(
        "the mask forgets beta",
        "(centred * centre.scale + centre.beta) + residual",
        "centred * centre.scale + residual"
    ),
    fault!("the residual's gradient is dy", "store_dresidual(at, dz);", "store_dresidual(at, a.dy);"),
    fault!("dx takes dy for dz", "dz_of(state.centre, x, a.dy, a.residual));\n}", "a.dy);\n}"),
    fault!("from y the scale is not divided out", "(y - centre.beta) * centre.stretch", "y - centre.beta"),
    fault!("from y beta stays", "(y - centre.beta) * centre.stretch", "y * centre.stretch"),
    fault!("gamma is not saved", "store_saved(work, 4u, load_gamma(work, 0u));", "store_saved(work, 4u, Value(1.0));"),
    fault!(
        "f16 rounds toward 0",
        "((magnitude >> Bits(13u)) & Bits(1u)) - Bits(0x37fff001u)",
        "Bits(0u) - Bits(0x38000000u)"
    ),
    fault!(
        "f16 flushes what is small",
        "select(normal, small, magnitude < Bits(0x38800000u))",
        "select(normal, Bits(0u), magnitude < Bits(0x38800000u))"
    ),
    fault!(
        "f16 loses infinity",
        "min(exponent >> Bits(13u), Bits(0x7c00u))",
        "min(exponent >> Bits(13u), Bits(0x7bffu))"
    ),
    fault!(
        "bf16 rounds toward 0",
        "(bits + Bits(0x7fffu) + ((bits >> Bits(16u)) & Bits(1u))) >> Bits(16u)",
        "bits >> Bits(16u)"
    ),
    fault!(
        "bf16 takes the other half",
        "vec2<u32>(word << 16u, word & 0xffff0000u)",
        "vec2<u32>(word & 0xffff0000u, word << 16u)"
    ),
    fault!("a half word overwrites its neighbour", "((old ^ narrow(v)) & 0xffffu) << at", "(old ^ narrow(v)) << at"),
    fault!("a half word keeps what it was", "(old ^ narrow(v)) & 0xffffu", "narrow(v) & 0xffffu"),
    fault!(in parts "a part begins where its binding does", "return params.base + (slice", "return (slice"),
    fault!(in parts "a part has a shift of its own", "if (params.first_split == 0u) {", "if (true) {"),
    fault!(in parts "only the first part is merged", "i < params.all_splits * params.fold;", "i < params.splits * params.fold;"),
    fault!(
        in parts "the last part counts as a full one",
        "min(params.part_values, params.all_values - part * params.part_values)",
        "params.part_values"
    ),
    fault!(in parts "every part publishes", "params.first_split + split, begin, end", "split, begin, end"),
    fault!("a resident lane writes behind its column", "if (inside1) {\n        store_", "if (true) {\n        store_"),
];

impl Fault {
    /// Kernels with the fault in them, and whether any shader compiled so far had the text.
    pub fn plant(&self, device: &wgpu::Device) -> (Kernels, Arc<AtomicBool>) {
        let planted = Arc::new(AtomicBool::new(false));
        let (fault, mark) = (*self, planted.clone());
        let edit = move |_: &Variant, wgsl: String| {
            if !fault.is_in(&wgsl) {
                return wgsl;
            }
            mark.store(true, Ordering::Relaxed);
            fault.edits.iter().fold(wgsl, |wgsl, (from, to)| wgsl.replace(from, to))
        };
        let edit: Arc<Edit> = Arc::new(edit);
        (Kernels::with_options(device, Options { edit: Some(edit), ..Options::default() }), planted)
    }

    /// Whether the fault changes a shader. A part of a fault is another fault, which would be found in its place.
    fn is_in(&self, wgsl: &str) -> bool {
        self.edits.iter().all(|(from, _)| wgsl.contains(from))
    }

    /// [Names](Variant::name) of the variants that the fault changes, whatever their bindings.
    pub fn reach(&self) -> BTreeSet<String> {
        TEXTS.iter().filter(|(_, wgsl)| self.is_in(wgsl)).map(|(name, _)| name.clone()).collect()
    }
}

/// Name and text of every variant, made once for all faults.
static TEXTS: LazyLock<Vec<(String, String)>> =
    LazyLock::new(|| Variant::apart().map(|variant| (variant.name(), variant.wgsl())).collect());
