//! Which kernels there are to compile: all that automatic plans choose on GPUs, over many shapes, and the resident kernels of all
//! numbers of held values.

use batchnorm_wgpu::kernels::{Settings, Storage, Variant};
use batchnorm_wgpu::program::{Description, Given};
use batchnorm_wgpu::{
    Activation, Capabilities, Choice, Config, DType, Layout, Operation, Plan, Shape, Tuning, View, Views, wgpu,
};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// A kernel with the way it goes about a column, in a storage and a size of workgroups.
#[derive(Clone, Debug)]
pub struct CompileSubject {
    /// [`Variant::column_name`], and what tensors are stored in if not f32.
    pub name: String,
    /// Invocations in a workgroup.
    pub workgroup_size: u32,
    /// The first operation and shape that an automatic plan chose it for; `None` where none did.
    pub chosen_for: Option<String>,
    /// It with different activations and bindings, and with tensors that are views.
    pub variants: Vec<Variant>,
}

impl CompileSubject {
    /// The subject without the variants that lack a binding which another one has, all else alike: those do less.
    #[must_use]
    pub fn with_most_bindings(self) -> Self {
        let is_less = |one: &Variant, other: &Variant| {
            let alike = Variant { absent: one.absent, ..*other } == *one;
            alike && one.absent != other.absent && one.absent & other.absent == other.absent
        };
        let is_most = |one: &&Variant| !self.variants.iter().any(|other| is_less(one, other));
        let variants = self.variants.iter().filter(is_most).copied().collect();
        Self { variants, ..self }
    }
}

/// What is known of where a kernel came from, by its name and size of workgroups.
type SubjectsByName = BTreeMap<(String, u32), CompileSubject>;

/// Batch sizes, channels, and values of a channel in one sample, that plans are asked about.
const BATCHES: [usize; 6] = [1, 2, 8, 32, 256, 65_536];
const CHANNELS: [usize; 9] = [1, 3, 16, 64, 65, 96, 256, 1024, 2048];
const PLANES: [usize; 9] = [1, 3, 49, 64, 196, 784, 3136, 12_544, 262_144];
/// Elements of the largest tensor that plans are asked about.
const MOST_ELEMENTS: usize = 1 << 29;

/// Sizes of workgroups in which all resident kernels are compiled.
const RESIDENT_SIZES: [u32; 3] = [256, 512, 1024];

/// What follows the normalization, and whether a residual is added: of f32 tensors all, of others one that has all.
const LAYERS: [(Activation, bool, bool); 7] = [
    (Activation::None, false, false),
    (Activation::None, true, false),
    (Activation::None, false, true),
    (Activation::Relu, true, false),
    (Activation::LeakyRelu, true, false),
    (Activation::Relu6, true, false),
    (Activation::Silu, true, false),
];

/// What is left out of the bindings: nothing; what a layer without parameters lacks; what a first layer lacks, whose dx nobody
/// wants; what a frozen layer lacks.
const WITHOUT: [&[&str]; 4] = [&[], &["gamma", "beta", "dgamma", "dbeta", "running"], &["dx"], &["dgamma", "dbeta"]];

/// The devices that plans are made for: desktop GPUs as `Gpu::open` opens them, with all that they have, and a GPU with WebGPU's
/// default limits, as a browser or an embedder opens it.
fn devices() -> Vec<Capabilities> {
    let limits = wgpu::Limits {
        max_compute_invocations_per_workgroup: 1024,
        max_compute_workgroup_size_x: 1024,
        max_compute_workgroup_storage_size: 32 << 10,
        max_storage_buffer_binding_size: (1 << 32) - 4,
        max_buffer_size: 1 << 40,
        ..wgpu::Limits::default()
    };
    let kinds = [wgpu::DeviceType::DiscreteGpu, wgpu::DeviceType::IntegratedGpu];
    let default = Capabilities { device_type: kinds[0], ..Capabilities::default_limits() };
    let whole = kinds.map(|device_type| Capabilities {
        limits: limits.clone(),
        subgroups: true,
        shader_f16: true,
        device_type,
    });
    whole.into_iter().chain([default]).collect()
}

/// The shapes that plans are asked about, in both layouts; some of them are of views.
fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for plane in PLANES {
        for channels in CHANNELS {
            for batch in BATCHES.into_iter().filter(|batch| batch * channels * plane <= MOST_ELEMENTS) {
                let first = Shape::new(&[batch, channels, plane], Layout::ChannelsFirst);
                let last = Shape::new(&[batch, plane, channels], Layout::ChannelsLast);
                shapes.extend([first, last].into_iter().flatten());
            }
        }
    }
    let view = |shape: &Shape| {
        let x = Some(View { first: shape.channels(), of: 2 * shape.channels() });
        shape.clone().with_views(Views { x, ..Views::default() }).ok()
    };
    let views: Vec<Shape> = shapes.iter().filter(|shape| shape.channels() >= 64).filter_map(view).collect();
    shapes.extend(views);
    shapes
}

/// Whether the operation refuses the shape, whatever the plan.
fn is_refused(operation: Operation, shape: &Shape) -> bool {
    operation.trains() && shape.elements_per_channel() == 1
}

fn name_of(variant: &Variant) -> String {
    let Settings { storage, .. } = variant.settings;
    let name = variant.column_name();
    if storage == Storage::F32 { name } else { format!("{name}.{storage}") }
}

fn add(found: &mut SubjectsByName, variant: Variant, workgroup_size: u32, chosen_for: Option<String>) {
    let name = name_of(&variant);
    let key = (name.clone(), workgroup_size);
    let subject = found.entry(key).or_insert_with(|| CompileSubject {
        name,
        workgroup_size,
        chosen_for: None,
        variants: Vec::new(),
    });
    subject.chosen_for = subject.chosen_for.take().or(chosen_for);
    if !subject.variants.contains(&variant) {
        subject.variants.push(variant);
    }
}

/// Every subject, in the order of the table of kernels and then by size of workgroups.
pub fn all() -> Vec<CompileSubject> {
    let mut found = chosen();
    add_residents(&mut found);
    let order: Vec<String> = Variant::every().map(|variant| name_of(&variant)).collect();
    let mut all: Vec<CompileSubject> = found.into_values().collect();
    all.sort_by_cached_key(|subject| order.iter().position(|name| *name == subject.name));
    all
}

/// What automatic plans choose.
fn chosen() -> SubjectsByName {
    let mut found = SubjectsByName::new();
    let mut seen = HashSet::new();
    let tuning = Arc::new(Tuning::none());
    let shapes = shapes();
    for device in devices() {
        for shape in &shapes {
            for operation in Operation::ALL.into_iter().filter(|&operation| !is_refused(operation, shape)) {
                for dtype in DType::ALL {
                    let plan = Plan::new(operation, shape, dtype, &device, &tuning, &Choice::default());
                    let Ok(plan) = plan else { continue };
                    // What else differs is in the uniform parameters, not in the text.
                    let text = (plan.strategy(), plan.geometry, plan.reduction, plan.storage, plan.approach.held());
                    if seen.insert((operation, text, plan.workgroup_size, shape.views() != Views::default())) {
                        add_layers(&mut found, operation, shape, dtype, &device, &tuning);
                    }
                }
            }
        }
    }
    found
}

/// What layers of one shape dispatch by the plan of an operation.
fn add_layers(
    found: &mut SubjectsByName,
    operation: Operation,
    shape: &Shape,
    dtype: DType,
    device: &Capabilities,
    tuning: &Arc<Tuning>,
) {
    let has_views = shape.views() != Views::default();
    for (activation, residual, in_place) in LAYERS {
        // Those have all that there is.
        let is_enough =
            (activation, residual, in_place) == LAYERS[0] || (activation, residual) == (Activation::Relu, true);
        if !is_enough && (dtype != DType::F32 || has_views) || in_place && has_views {
            continue;
        }
        let config = Config { dtype, activation, in_place, ..Config::default() };
        let layer = Description::new(shape.clone(), config, &Choice::default(), device, tuning.clone());
        let Ok(layer) = layer else { continue };
        for without in WITHOUT {
            let names: Vec<&str> = layer.bindings(operation).into_iter().map(|(name, _)| name).collect();
            let is_there =
                |name: &&str| !without.contains(name) && (residual || !["residual", "dresidual"].contains(name));
            let mut given = Given::apart(&names.into_iter().filter(is_there).collect::<Vec<_>>());
            put_in_place(&mut given, in_place);
            let Ok(program) = layer.lower(operation, &given) else { continue };
            for dispatch in program.dispatches {
                let chosen_for = format!("{operation} {shape} {dtype}");
                add(found, dispatch.variant, dispatch.workgroup_size, Some(chosen_for));
            }
        }
    }
}

/// In place, y lies where x does.
fn put_in_place(given: &mut [Given], in_place: bool) {
    let x = given.iter().find(|given| given.name == "x").map(|given| given.buffer);
    for y in given.iter_mut().filter(|given| in_place && given.name == "y") {
        y.buffer = x.unwrap_or(y.buffer);
    }
}

/// The resident kernels of f32 tensors, whatever plans choose: with all bindings, and with activations of little and of much work.
fn add_residents(found: &mut SubjectsByName) {
    let is_wanted = |variant: &Variant| {
        let Settings { activation, storage, from_y, .. } = variant.settings;
        let is_usual = matches!(activation, Activation::None | Activation::Relu | Activation::Silu) && !from_y;
        variant.kernel.holds && storage == Storage::F32 && is_usual
    };
    for variant in Variant::every().filter(is_wanted) {
        for size in RESIDENT_SIZES {
            add(found, variant, size, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_variants_that_differ_in_what_is_there_those_with_most_stay() {
        let all = all();
        let count = |subjects: &[CompileSubject]| subjects.iter().map(|subject| subject.variants.len()).sum::<usize>();
        let most: Vec<CompileSubject> = all.iter().cloned().map(CompileSubject::with_most_bindings).collect();
        for (before, after) in all.iter().zip(&most) {
            for variant in &before.variants {
                let holds = |other: &Variant| {
                    Variant { absent: variant.absent, ..*other } == *variant && other.absent & !variant.absent == 0
                };
                assert!(after.variants.iter().any(holds), "{}: {variant:?}", before.name);
            }
        }
        assert!(2 * count(&most) < count(&all), "{} of {}", count(&most), count(&all));
    }

    #[test]
    fn automatic_plans_choose_most_kernels_but_the_plain_ones() {
        let all = all();
        let chosen: HashSet<&str> = all
            .iter()
            .filter(|subject| subject.chosen_for.is_some())
            .map(|subject| subject.variants[0].kernel.name)
            .collect();
        for name in
            ["moments", "normalize", "infer", "gradient_sums", "gradient_input", "gradient_merge", "frozen_input"]
        {
            assert!(chosen.contains(name), "{name}");
        }
        assert!(!chosen.iter().any(|name| name.starts_with("plain")), "{chosen:?}");
        assert!(all.iter().any(|subject| subject.chosen_for.is_none()));
        assert!(all.iter().any(|subject| subject.variants.iter().any(|variant| variant.views)));
        let mut keys: Vec<_> = all.iter().map(|subject| (&subject.name, subject.workgroup_size)).collect();
        let number = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), number);
    }
}
