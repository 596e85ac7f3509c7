//! The shaders that a browser compiles: every variant of every kernel, the tool's own, and some that it must refuse.

use crate::{AnyError, bench, train};
use batchnorm_wgpu::kernels::{Geometry, Reduction, Variant};
use batchnorm_wgpu::{Capabilities, Choice, DType, Layout, Operation, Plan, Shape, Tuning};
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

/// Values of a shader's overrides.
pub type Constants = BTreeMap<String, f64>;

/// A shader as a browser gets it.
#[derive(Clone, Debug)]
pub struct BrowserShader {
    /// The kernel, under which it is counted.
    pub kernel: String,
    /// The variant.
    pub name: String,
    /// What it binds: variants of one name differ by it.
    pub bindings: String,
    /// WGSL.
    pub wgsl: Rc<str>,
    /// What its pipeline is made with; `None` for a shader of which none is made.
    pub constants: Option<Constants>,
    /// Whether it wants subgroups.
    pub wants_subgroups: bool,
    /// Whether the browser must refuse it.
    pub canary: bool,
}

/// A barrier that only some invocations reach. It takes an analysis of the whole shader to see it, and naga does not.
const NOT_UNIFORM: &str = "
@group(0) @binding(0) var<storage, read_write> counts: array<u32>;
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    for (var i = 0u; i < 8u; i++) {
        if (counts[lane] == i) {
            break;
        }
        workgroupBarrier();
    }
    counts[lane] = 1u;
}
";

/// A workgroup larger than WebGPU's default limits allow: only making a pipeline shows it.
const TOO_LARGE: &str = "
override WORKGROUP: u32 = 256u;
@compute @workgroup_size(WORKGROUP)
fn main() {}
";

/// What the browser must refuse, or its other verdicts mean nothing.
pub fn canaries() -> impl Iterator<Item = BrowserShader> {
    let canaries = [("barrier_not_uniform", NOT_UNIFORM, 64.0), ("workgroup_too_large", TOO_LARGE, 512.0)];
    canaries.into_iter().map(|(name, wgsl, workgroup)| BrowserShader {
        constants: Some(overrides(wgsl, |_| true).map(|name| (name.into(), workgroup)).collect()),
        canary: true,
        ..own((name.into(), wgsl.into()))
    })
}

/// Every distinct shader. A pipeline, which takes much longer than its shader, is made for each kernel, geometry and
/// reduction, with the largest workgroups that default limits allow: what else a text says matters to the compiler, hardly
/// to the device.
///
/// # Errors
/// [`batchnorm_wgpu::Error`] if there were no plan for default limits.
pub fn all() -> Result<Vec<BrowserShader>, AnyError> {
    let plan = widest_plan()?;
    let mut made = HashSet::new();
    let variants = Variant::all().map(|variant| {
        let name = variant.name();
        let constants = plan.constants().map(|(name, value)| (name.to_owned(), value));
        BrowserShader {
            kernel: variant.kernel.name.into(),
            bindings: bindings(&variant),
            wgsl: variant.wgsl().into(),
            constants: made.insert(pipeline_of(&variant)).then(|| constants.into()),
            wants_subgroups: variant.settings.reduction == Reduction::Subgroup,
            canary: false,
            name,
        }
    });
    let mut seen = HashSet::new();
    let distinct = variants.filter(|shader| seen.insert(shader.wgsl.clone())).collect::<Vec<_>>();
    Ok(distinct.into_iter().chain(bench::shaders().chain(train::shaders()).map(own)).collect())
}

/// What one pipeline stands for. The first variant that has it, of f32 and with the fewest values held, has the shortest text.
fn pipeline_of(variant: &Variant) -> (&'static str, Geometry, Reduction) {
    (variant.kernel.name, variant.settings.geometry, variant.settings.reduction)
}

fn widest_plan() -> Result<Plan, AnyError> {
    let capabilities = Capabilities::default_limits();
    let workgroup_size = Some(capabilities.limits.max_compute_invocations_per_workgroup);
    let choice = Choice { workgroup_size, ..Choice::default() };
    let shape = Shape::new(&[32, 64, 28, 28], Layout::ChannelsFirst)?;
    let operation = Operation::ForwardTraining;
    Ok(Plan::new(operation, &shape, DType::F32, &capabilities, &Tuning::none(), &choice)?)
}

fn bindings(variant: &Variant) -> String {
    let names: Vec<&str> = variant.declared().map(|(_, binding)| binding.name).collect();
    format!("{}{}", names.join(", "), if variant.pooled { "; pooled" } else { "" })
}

/// A shader of the tool. What its overrides are set to depends on sizes; here all are the same.
fn own((name, wgsl): (String, String)) -> BrowserShader {
    const SIZE: f64 = 64.0;
    let constants = overrides(&wgsl, |line| !line.contains('=')).map(|name| (name.to_owned(), SIZE)).collect();
    BrowserShader {
        kernel: name.split('.').next().unwrap_or_default().into(),
        name,
        bindings: String::new(),
        constants: Some(constants),
        wants_subgroups: false,
        canary: false,
        wgsl: wgsl.into(),
    }
}

/// Names of the overrides of a text whose line passes a test.
fn overrides(wgsl: &str, test: fn(&str) -> bool) -> impl Iterator<Item = &str> {
    let lines = wgsl.lines().filter(move |line| test(line));
    lines.filter_map(|line| line.strip_prefix("override ")?.split(':').next())
}

const ENABLE_F16: &str = "enable f16;\n";

impl BrowserShader {
    /// Whether it wants WGSL's own f16.
    pub fn wants_f16(&self) -> bool {
        self.wgsl.contains(ENABLE_F16)
    }

    /// Its text for a browser, which must be told of subgroups where naga must not. Lines keep their numbers.
    pub fn text(&self) -> String {
        let enable = if self.wants_subgroups { "enable subgroups; " } else { "" };
        format!("{enable}{}", self.wgsl)
    }

    /// The same with f32 for f16, for a device that has no f16: all but the width of the elements is compiled.
    pub fn text_as_f32(&self) -> String {
        self.text().replace(ENABLE_F16, "\n").replace("f16", "f32")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn naga_takes_the_canaries() {
        for BrowserShader { name, wgsl, .. } in canaries() {
            let module = naga::front::wgsl::parse_str(&wgsl).unwrap();
            let allowed = naga::valid::Capabilities::empty();
            let valid = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), allowed).validate(&module);
            assert!(valid.is_ok(), "{name}: {valid:?}");
        }
    }

    #[test]
    fn texts_are_distinct_and_every_kernel_has_pipelines() {
        let all = all().unwrap();
        let texts: HashSet<&str> = all.iter().map(|shader| &*shader.wgsl).collect();
        assert_eq!(texts.len(), all.len());
        let of_tool = bench::shaders().count() + train::shaders().count();
        let kinds: HashSet<_> = Variant::apart().map(|variant| pipeline_of(&variant)).collect();
        let with_pipeline: Vec<&BrowserShader> = all.iter().filter(|shader| shader.constants.is_some()).collect();
        assert_eq!(with_pipeline.len(), kinds.len() + of_tool);
        assert!(with_pipeline.iter().all(|shader| !shader.name.contains("from_y")));
        assert!(Variant::apart().all(|variant| texts.contains(variant.wgsl().as_str())));
    }

    #[test]
    fn a_text_for_a_browser_keeps_its_lines() {
        let all = all().unwrap();
        let shader = all.iter().find(|shader| shader.wants_f16() && shader.wants_subgroups).unwrap();
        assert!(shader.text().starts_with("enable subgroups; // ") && shader.text().contains("\nenable f16;\n"));
        let as_f32 = shader.text_as_f32();
        assert!(!as_f32.contains("f16") && as_f32.lines().count() == shader.wgsl.lines().count());
    }

    #[test]
    fn overrides_without_a_default_get_a_value() {
        let shader = own(("x.y".into(), "override A: u32;\noverride B: u32 = 4u;\n// override\n".into()));
        assert_eq!(shader.constants.unwrap().into_iter().collect::<Vec<_>>(), [("A".into(), 64.0)]);
        assert_eq!(shader.kernel, "x");
    }
}
