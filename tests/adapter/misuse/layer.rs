//! Layers that cannot be, calls that want nothing, and the names in errors.

use super::{Check, Fixture, at, buffer, owed, with};
use crate::adapter::Adapter;
use batchnorm_wgpu::host::HostBatchNorm;
use batchnorm_wgpu::kernels::{Geometry, Reduction, Strategy};
use batchnorm_wgpu::{
    Backward, BatchNorm, Choice, Config, Error, Inference, Layout, Operation, Shape, Statistics, wgpu,
};
use libtest_mimic::Failed;
use ndarray::{Array2, Axis, s};

pub const CHECKS: [Check; 5] = [
    ("one_value_per_channel_is_refused", one_value),
    ("nothing_wanted_is_refused", nothing_wanted),
    ("choices_that_cannot_run_are_refused", impossible_choices),
    ("tensors_beyond_the_limits_are_refused", beyond_limits),
    ("errors_name_the_layer", labels),
];

fn one_value(adapter: &Adapter) -> Result<(), Failed> {
    let shape = Shape::new(&[1, 8], Layout::ChannelsFirst)?;
    let layer = BatchNorm::new(&adapter.kernels, shape, Config::default())?;
    let fixture = Fixture::new(adapter)?;
    let one = |error: &Error| matches!(error, Error::OneValuePerChannel { .. });
    owed("forward", layer.forward_training(&fixture.forward()), one)
}

fn nothing_wanted(adapter: &Adapter) -> Result<(), Failed> {
    let fixture = Fixture::new(adapter)?;
    let outcome =
        fixture.layer.statistics(&Statistics::new(at(&fixture.tensor, 0), fixture.scratch.as_entire_buffer_binding()));
    owed("statistics", outcome, |error| matches!(error, Error::Mismatch { name: "saved, running", .. }))?;
    let saved = fixture.saved.as_entire_buffer_binding();
    let saved = &fixture.layer.saved_from(Operation::ForwardTraining, at(&fixture.tensor, 0), None, saved)?;
    let outcome = fixture.layer.backward_training(&Backward::new(
        saved,
        fixture.other.as_entire_buffer_binding(),
        fixture.scratch.as_entire_buffer_binding(),
    ));
    owed("backward", outcome, |error| matches!(error, Error::Mismatch { name: "dx, dresidual, dgamma, dbeta", .. }))
}

fn impossible_choices(adapter: &Adapter) -> Result<(), Failed> {
    let odd = Shape::new(&[4, 3, 7, 7], Layout::ChannelsFirst)?;
    let layer = |choice| BatchNorm::with_choice(&adapter.kernels, odd.clone(), Config::default(), &choice);
    let unavailable = |error: &Error| matches!(error, Error::KernelUnavailable { .. });
    for geometry in [Geometry::Planes4, Geometry::Rows4] {
        let choice = Choice { geometry: Some(geometry), ..Choice::default() };
        owed(geometry.name(), layer(choice), unavailable)?;
    }
    owed("workgroup", layer(Choice { workgroup_size: Some(96), ..Choice::default() }), unavailable)?;
    owed("splits 0", layer(Choice::split(0, None)), unavailable)?;
    owed("splits", layer(Choice::split(1 << 20, None)), unavailable)?;
    let limit = |error: &Error| matches!(error, Error::Limit { .. });
    owed("size", layer(Choice { workgroup_size: Some(1 << 20), ..Choice::default() }), limit)?;
    let limited = adapter.with_default_limits()?;
    let choice = Choice { reduction: Some(Reduction::Subgroup), workgroup_size: Some(1), ..Choice::default() };
    owed("subgroups", BatchNorm::with_choice(&limited.kernels, odd, Config::default(), &choice), unavailable)
}

fn beyond_limits(adapter: &Adapter) -> Result<(), Failed> {
    let limited = adapter.with_default_limits()?;
    // Samples of 256 MiB where a binding holds 128: tensors are split over samples only.
    let shape = Shape::new(&[2, 64, 1024, 1024], Layout::ChannelsFirst)?;
    let outcome = BatchNorm::new(&limited.kernels, shape, Config::default());
    owed("sample", outcome, |error| matches!(error, Error::Limit { what: "one sample", .. }))?;
    let shape = Shape::new(&[128, 64, 128, 128], Layout::ChannelsFirst)?;
    let choice = Choice::by(Strategy::Resident);
    let outcome = BatchNorm::with_choice(&limited.kernels, shape, Config::default(), &choice);
    owed("parts of a resident tensor", outcome, |error| matches!(error, Error::KernelUnavailable { .. }))
}

/// Every call that can fail says which layer it was of, and so does the device.
fn labels(adapter: &Adapter) -> Result<(), Failed> {
    let fixture = Fixture::new(adapter)?;
    let fixture = Fixture { layer: fixture.layer.with_label("layer3.bn1"), ..fixture };
    let small = || fixture.small.as_entire_buffer_binding();
    let bound = || at(&fixture.tensor, 0);
    let left = |forward| fixture.layer.saved_from(forward, small(), None, bound());
    let (trained, inferred) = (left(Operation::ForwardTraining)?, left(Operation::Inference)?);
    let backward = |saved| Backward::new(saved, bound(), bound()).dx(bound());
    let forward = with(fixture.forward(), |it| it.x = small());
    let (residual, gamma, beta) = (None, None, None);
    let inference = Inference::new(small(), bound(), bound()).residual(residual).gamma(gamma).beta(beta);
    let statistics = Statistics::new(small(), bound()).saved(bound());
    let layer = &fixture.layer;
    for outcome in [
        layer.forward_training(&forward),
        layer.inference(&inference),
        layer.backward_training(&backward(&trained)),
        layer.backward_frozen(&backward(&inferred)),
        layer.statistics(&statistics),
    ] {
        named("a small x", outcome, "layer3.bn1: x: expected a binding of at least 4608 bytes, got 28")?;
    }
    let one = Shape::new(&[1, 3], Layout::ChannelsFirst)?;
    let one = BatchNorm::new(&adapter.kernels, one, Config::default())?.with_label("layer3.bn1");
    named("one value", one.forward_training(&forward), "layer3.bn1: expected more than one value")?;
    named("one value", one.backward_training(&backward(&trained)), "layer3.bn1: expected more than one value")?;

    let step = layer.forward_training(&fixture.forward())?;
    let said = format!("{step:?}");
    if !said.contains("layer3.bn1: forward_training") {
        return Err(format!("the pass has no label of the layer: {said}").into());
    }
    // A buffer of another device: what wgpu refuses is the bind group.
    let other = adapter.with_default_limits()?;
    let foreign = buffer(&other, fixture.tensor.size(), wgpu::BufferUsages::STORAGE);
    let bindings = with(fixture.forward(), |it| it.x = foreign.as_entire_buffer_binding());
    let outcome = layer.forward_training(&bindings);
    owed(
        "a bind group",
        outcome,
        |error| matches!(error.kind(), Error::Device { reason, .. } if reason.contains("layer3.bn1: moments")),
    )?;
    host_labels(adapter)
}

fn host_labels(adapter: &Adapter) -> Result<(), Failed> {
    let layer = HostBatchNorm::new(&adapter.device, &adapter.queue, 3, Layout::ChannelsFirst, Config::default())?;
    if layer.label().is_some() {
        return Err(format!("a layer that nobody named is called {:?}", layer.label()).into());
    }
    let mut layer = layer.with_label("layer3.bn1");
    if layer.label() != Some("layer3.bn1") {
        return Err(format!("layer3.bn1 is called {:?}", layer.label()).into());
    }
    let (good, wrong) = (Array2::<f32>::ones((4, 3)), Array2::<f32>::ones((4, 5)));
    let saved = layer.observe(good.view())?;
    let said = "layer3.bn1: x: expected 3 channels";
    named("training", layer.forward_training(wrong.view(), None), said)?;
    named("inference", layer.inference(wrong.view(), None), said)?;
    named("backward", layer.backward_training(wrong.view(), wrong.view(), None, &saved), said)?;
    named("frozen", layer.backward_frozen(wrong.view(), wrong.view(), None), said)?;
    named("observe", layer.observe(wrong.view()), said)?;
    named("async", pollster::block_on(layer.inference_async(wrong.view(), None)), said)?;
    named("one value", layer.forward_training(wrong.slice(s![..1, ..3]), None), "layer3.bn1: expected more than one")?;
    named("fold", layer.fold_into(wrong.view(), Axis(1), None), "layer3.bn1: weight: expected 3 output channels")?;
    // A layer has one name in an error, that of the layer that it is of.
    layer.running.mean.pop();
    named("running", layer.observe(good.view()), "layer3.bn1: ")
}

/// The test's way to say that an error begins with a layer's name.
fn named<T: std::fmt::Debug>(what: &str, outcome: Result<T, Error>, said: &str) -> Result<(), Failed> {
    owed(what, outcome, |error| error.to_string().starts_with(said) && matches!(error, Error::InLayer { .. }))
}
