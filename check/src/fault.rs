//! Planted faults: a cross-check that cannot fail proves nothing. Each fault is one change to the shaders, and some case of
//! the matrix has to find it.

use batchnorm_wgpu::kernels::Variant;
use batchnorm_wgpu::{Edit, Kernels, Options, wgpu};
use std::collections::{BTreeSet, HashSet};
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
    /// What the ids of cases have in them that show it, where most do not: a search begins with them.
    pub shows_in: &'static str,
}

macro_rules! fault {
    ($name:literal, $($from:literal, $to:literal),+ $(,)?) => {
        Fault { name: $name, edits: &[$(($from, $to)),+], in_parts: false, shows_in: "" }
    };
    (in $cases:literal, $name:literal, $($from:literal, $to:literal),+ $(,)?) => {
        Fault { shows_in: $cases, ..fault!($name, $($from, $to),+) }
    };
    (in parts $name:literal, $($from:literal, $to:literal),+ $(,)?) => {
        Fault { in_parts: true, ..fault!($name, $($from, $to),+) }
    };
    (in parts $cases:literal, $name:literal, $($from:literal, $to:literal),+ $(,)?) => {
        Fault { shows_in: $cases, ..fault!(in parts $name, $($from, $to),+) }
    };
}

/// The faults.
pub const FAULTS: [Fault; 78] = [
    fault!(
        in "forward_training 130x64 channels_first normal(5e-1) resident",
        "a barrier of the tree is dropped",
        "shared_sums[work.thread].b += shared_sums[other].b;\n            }\n            workgroupBarrier();",
        "shared_sums[work.thread].b += shared_sums[other].b;\n            }",
    ),
    fault!(
        in "backward_frozen 2x1 channels_first normal(5e-1) split scalar tree",
        "the barrier before the tree is dropped",
        "shared_sums[work.thread] = own;\n        workgroupBarrier();",
        "shared_sums[work.thread] = own;",
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
    fault!("the loop skips the tail", "return walk.i < walk.end;", "return walk.i + 1u < walk.end;"),
    fault!(
        in "forward_training 3x5x7x3 channels_first constant(3e0) f32",
        "the unrolled loop runs past the end",
        "return walk.i + 3u * walk.lanes < walk.end;",
        "return walk.i + 2u * walk.lanes < walk.end;",
    ),
    fault!(
        in "forward_training 3x5x7x11 channels_first normal(0e0) whole",
        "the step forgets the wrap",
        "let leaves = place >= (*walk).inner;",
        "let leaves = place > (*walk).inner;"
    ),
    fault!(
        "the variance is E[x^2] - E[x]^2",
        "let shift = shift_of(work);",
        "let shift = Value(0.0);",
        "(ea * ea + eb * eb) + (ec * ec + ed * ed)",
        "((a * a + b * b) + (c * c + d * d)) - 4.0 * (mean * mean)",
    ),
    fault!("the shift is a value far away", "let shift = shift_of(work);", "let shift = Value(3e4);"),
    fault!(
        "the remainder of the mean is dropped",
        "Statistics(load_scratch(work, SHIFT_ROW), mean,",
        "Statistics(load_scratch(work, SHIFT_ROW), Value(0.0),",
    ),
    fault!(
        in "forward_training 3x5x7x11 channels_first normal(0e0) whole",
        "a run is merged without its distance",
        "one.m2 + (other.m2 + (delta * delta) * (one.count * share))",
        "one.m2 + other.m2",
    ),
    fault!(
        in "forward_training 3x5x7x11 channels_first normal(0e0) whole",
        "a run of four counts as three",
        "merged(own, Moments(4.0,",
        "merged(own, Moments(3.0,"
    ),
    fault!(
        "lanes are merged without their distance",
        "lane_sum(work, own.m2 + own.count * (delta * delta))",
        "lane_sum(work, own.m2)",
    ),
    fault!("splits are merged without their distance", "+ (n * f32(ELEMENTS)) * (delta * delta)", ""),
    fault!(
        "splits of unlike size are weighted alike",
        "let n = f32(values_in_split(split));\n        count += n;",
        "let n = 1.0;\n        count += n;",
    ),
    fault!(
        "the variance is divided by m - 1",
        "lane_sum(work, m2) / params.count_f32)",
        "lane_sum(work, m2) / (params.count_f32 - 1.0))"
    ),
    fault!(in "3x5x7x11 channels_first mixed-scales split", "eps is forgotten", "let v = variance + Value(params.eps);", "let v = max(variance, Value(1e-30));"),
    fault!(in "3x5x7x11 channels_first overflowing split", "an infinite variance gives 0", "select(nan(), refined, finite)", "select(Value(0.0), refined, finite)",),
    fault!("gamma is forgotten", "load_gamma(work) * inv_std", "inv_std"),
    fault!("beta is forgotten", "* n.scale + n.beta;", "* n.scale;"),
    fault!("momentum is swapped", "default: { return params.momentum; }", "default: { return 1.0 - params.momentum; }"),
    fault!(
        "m / (m - 1) is forgotten",
        "let new_variance = variance * params.correction;",
        "let new_variance = variance;",
    ),
    fault!(in "3x5x7x11 channels_first overflowing split", "a non-finite batch enters", "if (!finite && params.propagate == 0u)", "if (false)"),
    fault!(
        in "Skip, 3..7)",
        "the window ends a batch late",
        "tracked - params.window_skip < params.window_take",
        "tracked - params.window_skip <= params.window_take",
    ),
    fault!(
        "dx forgets the mean of dy",
        "((seen.dz - slope.mean_dz) - seen.x * slope.slope)",
        "(seen.dz - seen.x * slope.slope)",
    ),
    fault!("dx forgets the slope", "((seen.dz - slope.mean_dz) - seen.x * slope.slope)", "(seen.dz - slope.mean_dz)",),
    fault!("dgamma forgets inv_std", "store_dgamma(work, dgamma_of(centre, sums));", "store_dgamma(work, sums.dz_x);"),
    fault!(
        "every split publishes",
        "work.owned && work.lane == 0u && work.split == 0u",
        "work.owned && work.lane == 0u",
    ),
    fault!(
        in "forward_training 3x5x7x11 channels_first normal(5e-1) split reverse=false workgroup=256 splits=5",
        "columns that do not exist write",
        "let owned = column < params.columns;",
        "let owned = true;",
    ),
    fault!(
        in "forward_training 130x64 channels_first normal(5e-1) split scalar tree",
        "a block overlaps the next",
        "block.end = min(begin + BLOCK * params.lanes, work.end);",
        "block.end = min(begin + BLOCK * params.lanes + 1u, work.end);",
    ),
    fault!(
        in "forward_training 130x64 channels_first normal(5e-1) split scalar tree",
        "the second block is forgotten",
        "own = merged(own, block_moments(block_of(work, begin), shift));",
        "own = block_moments(block_of(work, begin), shift);"
    ),
    fault!(
        in "1x4x3 channels_last normal(5e-1) split rows4 tree",
        "folded samples are not merged",
        "i < params.all_splits * params.fold;",
        "i < params.all_splits;",
    ),
    fault!(
        in "1x4x3 channels_last normal(5e-1) split rows4 tree",
        "folded samples publish again",
        "if (is_first_of_channel(work, c)) {\n            update_channel",
        "if (true) {\n            update_channel"
    ),
    fault!(
        in "split reverse=true workgroup=1 splits=1",
        "the backward order is off by one",
        "select(dispatched, params.groups - 1u - dispatched,",
        "select(dispatched, params.groups - max(dispatched, 1u),",
    ),
    fault!("a resident lane forgets a value", "sum += d_1;", ""),
    fault!(
        in "2x1 channels_first normal(5e-1) resident held=4 scalar tree",
        "a resident column counts values that it does not have",
        "select(Value(0.0), d_1 - remainder, inside_1)",
        "d_1 - remainder",
    ),
    fault!(
        in "forward_training 3x5x7x3 channels_first constant(3e0) f32 residual",
        "the residual is forgotten",
        "activated(normalized + load_residual(index))",
        "activated(normalized)",
    ),
    fault!(
        in "backward_training 3x5x7x3 channels_first one-infinity f32 relu",
        "relu makes a NaN 0",
        "- Bits(0x80000000u) <= Bits(0x7f800000u)",
        "- Bits(0x80000000u) <= Bits(0x7fffffffu)"
    ),
    fault!(
        in "backward_training 3x5x7x3 channels_first constant(3e0) f32 relu no-beta",
        "relu lets the gradient through at 0",
        "select(select(dy, Value(0.0), negative), Value(0.0), bits == Bits(0u))",
        "select(dy, Value(0.0), negative)",
    ),
    fault!("leaky_relu forgets its slope", "select(z * params.negative_slope, z,", "select(z, z,"),
    fault!("the gradient of leaky_relu forgets its slope", "select(dy * params.negative_slope, dy,", "select(dy, dy,"),
    fault!(
        "leaky_relu takes 0 for positive",
        "select(dy * params.negative_slope, dy, z > Value(0.0))",
        "select(dy * params.negative_slope, dy, z >= Value(0.0))"
    ),
    fault!(in "channels_first corners relu6 split", "relu6 has no upper end", "select(z, Value(6.0), bits - Bits(0x40c00000u) <= Bits(0x3ec00000u))", "z"),
    fault!(
        in "backward_training 3x5x7x3 channels_first corners relu6 split",
        "relu6 lets the gradient through above 6",
        "bits == Bits(0u)), Value(0.0), beyond)",
        "bits == Bits(0u)), dy, beyond)"
    ),
    fault!("the gradient of silu is that of a gate", "(Value(1.0) + near * s.of_minus_z)", "Value(1.0)"),
    fault!(in "inference 3x5x7x3 channels_first one-infinity silu", "silu is NaN at minus infinity", "select(z, clamp(z, Value(-104.0), Value(104.0)), far)", "z"),
    fault!(
        in "backward_training 3x5x7x3 channels_first constant(3e0) f32 relu residual",
        "the mask forgets the residual",
        "(x * centre.scale + centre.beta) + load_residual(index)",
        "x * centre.scale + centre.beta"
    ),
    fault!(
        in "backward_training 3x5x7x3 channels_first constant(3e0) f32 relu",
        "the mask forgets beta",
        "(x * centre.scale + centre.beta) + load_residual(index)",
        "x * centre.scale + load_residual(index)"
    ),
    fault!(
        in "backward_training 3x5x7x3 channels_first constant(3e0) f32 relu residual",
        "the residual's gradient is dy",
        "store_dresidual(index, dz);",
        "store_dresidual(index, load_dy(index));",
    ),
    fault!(
        in "backward_training 3x5x7x3 channels_first constant(3e0) f32 relu",
        "dx takes dy for dz",
        "through_activation(load_dy(index), z)",
        "load_dy(index)",
    ),
    fault!("from y the scale is not divided out", "(y - centre.beta) * centre.stretch", "y - centre.beta"),
    fault!("from y beta stays", "(y - centre.beta) * centre.stretch", "y * centre.stretch"),
    fault!(
        in "backward_training 3x5x7x11 channels_first normal(0e0) split",
        "gamma is not saved",
        "store_parameter(work, PARAMETER_GAMMA, load_gamma(work));",
        "store_parameter(work, PARAMETER_GAMMA, Value(1.0));"
    ),
    fault!(
        "f16 rounds toward 0",
        "((magnitude >> Bits(13u)) & Bits(1u)) - Bits(0x37fff001u)",
        "Bits(0u) - Bits(0x38000000u)"
    ),
    fault!(
        in "forward_training 3x5x7x3 channels_first constant(3e0) f16 no-beta residual",
        "f16 flushes what is small",
        "select(normal, small, magnitude < Bits(0x38800000u))",
        "select(normal, Bits(0u), magnitude < Bits(0x38800000u))"
    ),
    fault!(
        in "inference 3x5x7x3 channels_first one-infinity f16",
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
    fault!(
        "a half word overwrites its neighbour",
        "(((word >> at) ^ rounded(v)) & 0xffffu) << at",
        "((word >> at) ^ rounded(v)) << at"
    ),
    fault!("a half word keeps what it was", "((word >> at) ^ rounded(v)) & 0xffffu", "rounded(v) & 0xffffu"),
    fault!(
        in "backward_training 3x5x7x3 channels_first normal(5e-1) f32 split adds",
        "dx replaces what it is added to",
        "dx[at] = narrowed(widened(dx[at]) + v);",
        "dx[at] = narrowed(v);",
    ),
    fault!(
        in "backward_training 3x5x7x3 channels_first normal(5e-1) f32 split adds",
        "dgamma and dbeta replace what they are added to",
        "*place += component(v, c);",
        "*place = component(v, c);"
    ),
    fault!(in "f16_words split adds", "a half word forgets what is added to", "let stored = half_of(word, at) + v;", "let stored = v;"),
    fault!(in "split planes4 tree packed", "beta begins where its binding does", "params.beta_at + ", ""),
    fault!(
        in "split planes4 tree packed",
        "gamma lies in place of beta",
        "return Value(beta[params.gamma_at + work.channels.x]);",
        "return Value(beta[params.beta_at + work.channels.x]);"
    ),
    fault!(in "split planes4 tree packed", "dgamma lies in place of dbeta", "&dbeta[params.dgamma_at + work.channels[c]]", "&dbeta[params.dbeta_at + work.channels[c]]"),
    fault!(in " x=4/", "a view of x begins where its tensor does", "* params.x_gap + params.x_base", "* params.x_gap"),
    fault!(in " y=0/", "a view of y is taken for all of its tensor", "i / params.slice * params.y_gap +", ""),
    fault!(
        in " residual=8/",
        "a view of the residual has the last slice's place",
        "i / params.slice * params.residual_gap",
        "(i + 1u) / params.slice * params.residual_gap",
    ),
    fault!(
        in "f32 split residual over-residual",
        "y over the residual forgets it",
        "fn load_residual(i: u32) -> Value { return widened(y[in_residual(i)]); }",
        "fn load_residual(i: u32) -> Value { return Value(0.0); }"
    ),
    fault!(in parts "a part begins where its binding does", "return params.base + (slice", "return (slice"),
    fault!(in parts "a part has a shift of its own", "if (params.first_split == 0u) {", "if (true) {"),
    fault!(in parts "only the first part is merged", "i < params.all_splits * params.fold;", "i < params.splits * params.fold;"),
    fault!(
        in parts "forward_training 13x5x7x9 channels_first normal(5e-1) f16 scalar",
        "the last part counts as a full one",
        "min(params.part_values, params.all_values - part * params.part_values)",
        "params.part_values"
    ),
    fault!(in parts "every part publishes", "params.first_split + split, begin, end", "split, begin, end"),
    fault!(
        in "5x3 channels_first normal(5e-1) resident held=8 scalar tree",
        "a resident lane writes behind its column",
        "if (inside_1) {\n        store_",
        "if (true) {\n        store_"
    ),
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

/// Name and text of every variant, made once for all faults; also with y over the residual, dbeta beside dgamma, added to what is
/// there, and with views.
static TEXTS: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
    let bound = |variant: Variant| {
        let adding = ["dx", "dresidual", "dgamma", "dbeta"].into_iter().fold(variant, Variant::adding_to);
        [
            variant,
            variant.through("y", "residual"),
            variant.through("dbeta", "dgamma"),
            variant.through("beta", "gamma"),
            adding,
        ]
        .into_iter()
        .chain(variant.with_views())
    };
    let variants: HashSet<Variant> = Variant::every().flat_map(bound).collect();
    variants.into_iter().map(|variant| (variant.name(), variant.wgsl())).collect()
});
