//! What callers get wrong, each with the error it owes them; and the host layer, which most callers start with.

use super::Adapter;
use batchnorm_wgpu::host::half::f16;
use batchnorm_wgpu::host::{Gpu, HostBatchNorm, InferenceNorm, download, storage, upload};
use batchnorm_wgpu::kernels::{Geometry, Reduction, Strategy};
use batchnorm_wgpu::reference::{self, Layer, bound, bound::Execution};
use batchnorm_wgpu::{
    Activation, Backward, BatchNorm, Choice, Config, DType, Error, ForwardTraining, Inference, Layout, RunningPolicy,
    RunningStatistics, Shape, Statistics, Training, TrainingSteps, wgpu,
};
use batchnorm_wgpu_check::case::{Case, Inputs, Operation};
use batchnorm_wgpu_check::data::normal;
use batchnorm_wgpu_check::run::run;
use libtest_mimic::{Failed, Trial};
use ndarray::{Array, Array2, Array3, Array4, Axis, s};
use std::sync::atomic::{AtomicBool, Ordering};

/// A check and its name.
type Check = (&'static str, fn(&Adapter) -> Result<(), Failed>);

const CHECKS: [Check; 25] = [
    ("small_buffers_are_refused", small_buffers),
    ("a_bindings_own_size_counts", own_sizes),
    ("scratch_is_checked_whatever_the_plan", scratch_of_every_plan),
    ("wrong_usage_is_refused", wrong_usage),
    ("misaligned_offsets_are_refused", misaligned_offset),
    ("overlaps_are_refused", overlaps),
    ("an_overlap_of_one_word_is_refused", overlap_of_one_word),
    ("running_statistics_are_initialized_on_request", initialize_running),
    ("a_backward_pass_of_another_layer_is_refused", foreign_backward),
    ("a_backward_pass_takes_what_the_forward_pass_had", backward_takes_over),
    ("a_backward_pass_whose_x_was_overwritten_is_refused", x_overwritten),
    ("one_value_per_channel_is_refused", one_value),
    ("nothing_wanted_is_refused", nothing_wanted),
    ("choices_that_cannot_run_are_refused", impossible_choices),
    ("tensors_beyond_the_limits_are_refused", beyond_limits),
    ("what_cannot_run_in_place_is_refused", in_place),
    ("the_host_layer_takes_half_precision", host_half),
    ("a_device_with_few_bindings_is_refused", few_bindings),
    ("a_device_with_small_bindings_is_refused", small_bindings),
    ("errors_name_the_layer", labels),
    ("statistics_too_far_apart_are_skipped", too_far_apart),
    ("the_host_layer_agrees_with_the_reference", host_layer),
    ("the_host_layer_pools_a_data_set", host_population),
    ("the_host_layer_need_not_block", host_async),
    ("the_host_layer_folds_what_it_holds", host_fold),
];

/// The checks as tests of an adapter.
pub fn trials(adapter: &Adapter) -> Vec<Trial> {
    let test = |(name, check): Check| adapter.test(&format!("{}::misuse::{name}", adapter.key), check);
    CHECKS.into_iter().map(test).collect()
}

/// The test's way to say that the error was another one than owed.
pub fn owed<T: std::fmt::Debug>(
    what: &str,
    outcome: Result<T, Error>,
    is: impl Fn(&Error) -> bool,
) -> Result<(), Failed> {
    match outcome {
        Err(error) if is(&error) => Ok(()),
        other => Err(format!("{what}: got {other:?}").into()),
    }
}

struct Fixture {
    layer: BatchNorm,
    tensor: wgpu::Buffer,
    other: wgpu::Buffer,
    small: wgpu::Buffer,
    saved: wgpu::Buffer,
    scratch: wgpu::Buffer,
}

impl Fixture {
    fn new(adapter: &Adapter) -> Result<Self, Error> {
        let shape = Shape::new(&[4, 8, 6, 6], Layout::ChannelsFirst)?;
        // The strategy that binds everything, scratch too.
        let choice = Choice { strategy: Some(Strategy::Split), ..Choice::default() };
        let layer = BatchNorm::with_choice(&adapter.kernels, shape, Config::default(), &choice)?;
        let size = layer.shape().elements() as u64 * 4;
        Ok(Self {
            tensor: buffer(adapter, 2 * size, wgpu::BufferUsages::STORAGE),
            other: buffer(adapter, size, wgpu::BufferUsages::STORAGE),
            small: buffer(adapter, 28, wgpu::BufferUsages::STORAGE),
            saved: buffer(adapter, layer.saved_size(), wgpu::BufferUsages::STORAGE),
            scratch: buffer(adapter, layer.scratch_size(), wgpu::BufferUsages::STORAGE),
            layer,
        })
    }

    fn forward(&self) -> ForwardTraining<'_> {
        ForwardTraining {
            x: self.tensor.as_entire_buffer_binding(),
            y: self.other.as_entire_buffer_binding(),
            residual: None,
            gamma: None,
            beta: None,
            saved: self.saved.as_entire_buffer_binding(),
            running: None,
            scratch: self.scratch.as_entire_buffer_binding(),
        }
    }
}

fn buffer(adapter: &Adapter, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    adapter.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
}

fn at(buffer: &wgpu::Buffer, offset: u64) -> wgpu::BufferBinding<'_> {
    wgpu::BufferBinding { buffer, offset, size: None }
}

fn small_buffers(adapter: &Adapter) -> Result<(), Failed> {
    let fixture = Fixture::new(adapter)?;
    let small = || fixture.small.as_entire_buffer_binding();
    let cases = [
        ("x", ForwardTraining { x: small(), ..fixture.forward() }),
        ("y", ForwardTraining { y: small(), ..fixture.forward() }),
        ("gamma", ForwardTraining { gamma: Some(small()), ..fixture.forward() }),
        ("beta", ForwardTraining { beta: Some(small()), ..fixture.forward() }),
        ("saved", ForwardTraining { saved: small(), ..fixture.forward() }),
        ("running", ForwardTraining { running: Some(small()), ..fixture.forward() }),
        ("scratch", ForwardTraining { scratch: small(), ..fixture.forward() }),
    ];
    for (wrong, bindings) in cases {
        let is = |error: &Error| matches!(error, Error::BufferTooSmall { name, actual: 28, .. } if *name == wrong);
        owed(wrong, fixture.layer.forward_training(&bindings), is)?;
    }
    // A size that reaches behind the buffer's end does not make it larger.
    let size = wgpu::BufferSize::new(1 << 20);
    let x = wgpu::BufferBinding { buffer: &fixture.small, offset: 0, size };
    let outcome = fixture.layer.forward_training(&ForwardTraining { x, ..fixture.forward() });
    owed("size", outcome, |error| matches!(error, Error::BufferTooSmall { .. }))
}

fn sized(buffer: &wgpu::Buffer, bytes: u64) -> wgpu::BufferBinding<'_> {
    wgpu::BufferBinding { buffer, offset: 0, size: wgpu::BufferSize::new(bytes) }
}

/// A binding that is smaller than its buffer, and than what is needed.
fn own_sizes(adapter: &Adapter) -> Result<(), Failed> {
    let fixture = Fixture::new(adapter)?;
    let buffer = buffer(adapter, fixture.tensor.size(), wgpu::BufferUsages::STORAGE);
    let (layer, of) = (&fixture.layer, |bytes| sized(&buffer, bytes));
    let forward = |name, bytes| match name {
        "x" => ForwardTraining { x: of(bytes), ..fixture.forward() },
        "y" => ForwardTraining { y: of(bytes), ..fixture.forward() },
        "residual" => ForwardTraining { residual: Some(of(bytes)), ..fixture.forward() },
        "gamma" => ForwardTraining { gamma: Some(of(bytes)), ..fixture.forward() },
        "beta" => ForwardTraining { beta: Some(of(bytes)), ..fixture.forward() },
        "saved" => ForwardTraining { saved: of(bytes), ..fixture.forward() },
        "running" => ForwardTraining { running: Some(of(bytes)), ..fixture.forward() },
        _ => ForwardTraining { scratch: of(bytes), ..fixture.forward() },
    };
    for (wrong, needed) in [
        ("x", layer.tensor_size()),
        ("y", layer.tensor_size()),
        ("residual", layer.tensor_size()),
        ("gamma", 32),
        ("beta", 32),
        ("saved", layer.saved_size()),
        ("running", RunningStatistics::size(8)),
        ("scratch", layer.scratch_size()),
    ] {
        layer.forward_training(&forward(wrong, needed)).map_err(|error| format!("{wrong}: {error}"))?;
        owed(wrong, layer.forward_training(&forward(wrong, needed - 4)), |error| {
            matches!(error, Error::BufferTooSmall { name, expected, actual }
                if (*name, *expected, *actual) == (wrong, needed, needed - 4))
        })?;
    }
    Ok(())
}

/// Scratch is as large as the layer says, whether or not the plan of an operation uses it on this device.
fn scratch_of_every_plan(adapter: &Adapter) -> Result<(), Failed> {
    let fixture = Fixture::new(adapter)?;
    for strategy in Strategy::ALL {
        let choice = Choice { strategy: Some(strategy), ..Choice::default() };
        let layer =
            BatchNorm::with_choice(&adapter.kernels, fixture.layer.shape().clone(), Config::default(), &choice)?;
        let is = |error: &Error| matches!(error, Error::BufferTooSmall { name: "scratch", expected, .. } if *expected == layer.scratch_size());
        let scratch = || sized(&fixture.scratch, layer.scratch_size() - 4);
        let (x, saved) = (|| at(&fixture.tensor, 0), || fixture.saved.as_entire_buffer_binding());
        owed("forward", layer.forward_training(&ForwardTraining { scratch: scratch(), ..fixture.forward() }), is)?;
        let left = |forward| layer.saved_from(forward, x(), None, saved());
        let (trained, inferred) = (left(Operation::ForwardTraining)?, left(Operation::Inference)?);
        let backward = |saved| Backward {
            saved,
            dy: fixture.other.as_entire_buffer_binding(),
            dx: Some(fixture.other.as_entire_buffer_binding()),
            dresidual: None,
            dgamma: None,
            dbeta: None,
            scratch: scratch(),
        };
        owed("backward", layer.backward_training(&backward(&trained)), is)?;
        if layer.plan(Operation::BackwardFrozen).is_ok() {
            owed("frozen", layer.backward_frozen(&backward(&inferred)), is)?;
        }
        if layer.plan(Operation::Statistics).is_ok() {
            let saved = Some(saved());
            owed("statistics", layer.statistics(&Statistics { x: x(), saved, running: None, scratch: scratch() }), is)?;
        }
        // Nor may it lie over what is read.
        let over = ForwardTraining { scratch: at(&fixture.tensor, 0), ..fixture.forward() };
        owed("scratch over x", layer.forward_training(&over), |error| matches!(error, Error::Overlap { .. }))?;
    }
    Ok(())
}

/// A tensor that ends one word after a multiple of the alignment, where the next one begins.
fn overlap_of_one_word(adapter: &Adapter) -> Result<(), Failed> {
    let alignment = u64::from(adapter.device.limits().min_storage_buffer_offset_alignment);
    let shape = Shape::new(&[alignment as usize / 4 + 1, 1], Layout::ChannelsFirst)?;
    let layer = BatchNorm::new(&adapter.kernels, shape, Config::default())?;
    let of = |size| buffer(adapter, size, wgpu::BufferUsages::STORAGE);
    let (pool, saved, scratch) = (of(8 * alignment), of(layer.saved_size()), of(layer.scratch_size()));
    let forward = |x, y| {
        layer.forward_training(&ForwardTraining {
            x: at(&pool, x),
            y: at(&pool, y),
            residual: None,
            gamma: None,
            beta: None,
            saved: saved.as_entire_buffer_binding(),
            running: None,
            scratch: scratch.as_entire_buffer_binding(),
        })
    };
    let overlap = |error: &Error| matches!(error, Error::Overlap { first: "x", second: "y", .. });
    owed("y begins in the last word of x", forward(0, alignment), overlap)?;
    owed("x begins in the last word of y", forward(3 * alignment, 2 * alignment), overlap)?;
    forward(0, 2 * alignment)?;
    forward(2 * alignment, 0)?;
    Ok(())
}

/// A buffer of zeros becomes that of a new layer, in the same submission as its first use.
fn initialize_running(adapter: &Adapter) -> Result<(), Failed> {
    let (device, queue) = (&adapter.device, &adapter.queue);
    let shape = Shape::new(&[4, 8, 6, 6], Layout::ChannelsFirst)?;
    let layer = BatchNorm::new(&adapter.kernels, shape.clone(), Config::default())?;
    let values = normal(shape.elements(), 81);
    let x = upload(device, queue, "x", bytemuck::cast_slice(&values))?;
    let y = storage(device, "y", layer.tensor_size())?;
    let running = storage(device, "running", RunningStatistics::size(8))?;
    let untouched = download(device, queue, &[&running])?;
    owed("zeros", RunningStatistics::from_bytes(&untouched[0]), |error| {
        matches!(error, Error::Mismatch { name: "running", .. })
    })?;
    let step = layer.inference(&Inference {
        x: x.as_entire_buffer_binding(),
        y: y.as_entire_buffer_binding(),
        residual: None,
        gamma: None,
        beta: None,
        running: running.as_entire_buffer_binding(),
        saved: None,
    })?;
    let mut encoder = device.create_command_encoder(&Default::default());
    layer.initialize_running(&mut encoder, &running.as_entire_buffer_binding())?;
    step.encode_pass(&mut encoder);
    queue.submit([encoder.finish()]);
    let contents = download(device, queue, &[&y, &running])?;
    if RunningStatistics::from_bytes(&contents[1])? != RunningStatistics::new(8) {
        return Err("not the running statistics of a new layer".into());
    }
    let wide: Vec<f64> = values.iter().map(|&value| value.into()).collect();
    let (mean, var) = ([0.0; 8], [1.0; 8]);
    let want = reference::inference(&wide, &shape, &mean, &var, &Layer::default())?;
    let bound = bound::inference(&wide, &shape, &mean, &var, &Layer::default(), &Execution::default())?;
    let outcome = bound::compare(&bytemuck::pod_collect_to_vec::<u8, f32>(&contents[0]), &want, &bound)?;
    if !outcome.passed() {
        return Err(outcome.to_string().into());
    }
    let bare = buffer(adapter, RunningStatistics::size(8), wgpu::BufferUsages::STORAGE);
    let mut encoder = device.create_command_encoder(&Default::default());
    owed("usage", layer.initialize_running(&mut encoder, &bare.as_entire_buffer_binding()), |error| {
        matches!(error, Error::BufferUsage { name: "running", expected: wgpu::BufferUsages::COPY_DST, .. })
    })?;
    let small = storage(device, "small", 28)?;
    owed("size", layer.initialize_running(&mut encoder, &small.as_entire_buffer_binding()), |error| {
        matches!(error, Error::BufferTooSmall { name: "running", .. })
    })
}

fn wrong_usage(adapter: &Adapter) -> Result<(), Failed> {
    let fixture = Fixture::new(adapter)?;
    let copies = buffer(adapter, fixture.tensor.size(), wgpu::BufferUsages::COPY_SRC);
    let bindings = ForwardTraining { x: copies.as_entire_buffer_binding(), ..fixture.forward() };
    owed("usage", fixture.layer.forward_training(&bindings), |error| {
        matches!(error, Error::BufferUsage { name: "x", .. })
    })
}

fn misaligned_offset(adapter: &Adapter) -> Result<(), Failed> {
    let fixture = Fixture::new(adapter)?;
    let bindings = ForwardTraining { x: at(&fixture.tensor, 4), ..fixture.forward() };
    owed("offset", fixture.layer.forward_training(&bindings), |error| {
        matches!(error, Error::MisalignedOffset { name: "x", offset: 4, .. })
    })
}

fn overlaps(adapter: &Adapter) -> Result<(), Failed> {
    let fixture = Fixture::new(adapter)?;
    let overlap = |error: &Error| matches!(error, Error::Overlap { .. });
    let size = fixture.other.size();
    // Training needs x afterwards, so y may not lie over it; nor may a tensor overlap by half.
    for offset in [0, size / 2] {
        let bindings = ForwardTraining { y: at(&fixture.tensor, offset), ..fixture.forward() };
        owed("y over x", fixture.layer.forward_training(&bindings), overlap)?;
    }
    let left = |layer: &BatchNorm| {
        let (x, saved) = (at(&fixture.tensor, 0), fixture.saved.as_entire_buffer_binding());
        layer.saved_from(Operation::ForwardTraining, x, None, saved)
    };
    let saved = &left(&fixture.layer)?;
    let backward = |dx, dgamma, dbeta| Backward {
        saved,
        dy: fixture.other.as_entire_buffer_binding(),
        dx,
        dresidual: None,
        dgamma,
        dbeta,
        scratch: fixture.scratch.as_entire_buffer_binding(),
    };
    let whole = || Some(fixture.other.as_entire_buffer_binding());
    let relu = Config { activation: Activation::Relu, ..Config::default() };
    let relu = BatchNorm::new(&adapter.kernels, fixture.layer.shape().clone(), relu)?;
    let of_relu = left(&relu)?;
    let bindings =
        Backward { saved: &of_relu, dresidual: Some(at(&fixture.tensor, size)), ..backward(None, None, None) };
    owed("dresidual without residual", relu.backward_training(&bindings), |error| {
        matches!(error, Error::Mismatch { name: "residual", .. })
    })?;
    let gradients = || Some(at(&fixture.tensor, size));
    owed("dx over x", fixture.layer.backward_training(&backward(Some(at(&fixture.tensor, 0)), None, None)), overlap)?;
    owed("dgamma is dbeta", fixture.layer.backward_training(&backward(None, gradients(), gradients())), overlap)?;
    owed("dgamma over dy", fixture.layer.backward_training(&backward(None, whole(), None)), overlap)?;
    fixture.layer.backward_training(&backward(whole(), gradients(), None))?;
    // x and dy may be the same bytes, but not where the buffer is written too: a browser refuses aliased writable bindings.
    let same = Backward { dy: at(&fixture.tensor, 0), ..backward(whole(), None, None) };
    fixture.layer.backward_training(&same)?;
    let pooled = Backward { dx: gradients(), ..same };
    owed("aliases in a pool", fixture.layer.backward_training(&pooled), overlap)?;
    let running = buffer(adapter, RunningStatistics::size(8), wgpu::BufferUsages::STORAGE);
    let inference = |y| Inference {
        x: at(&fixture.tensor, 0),
        y,
        residual: None,
        gamma: None,
        beta: None,
        running: running.as_entire_buffer_binding(),
        saved: None,
    };
    owed("half", fixture.layer.inference(&inference(at(&fixture.tensor, size / 2))), overlap)?;
    fixture.layer.inference(&inference(at(&fixture.tensor, 0)))?;
    fixture.layer.inference(&inference(at(&fixture.tensor, size)))?;
    Ok(())
}

/// A forward pass, and the backward pass of a layer that differs in one thing.
fn foreign_backward(adapter: &Adapter) -> Result<(), Failed> {
    let fixture = Fixture::new(adapter)?;
    let of = |size| buffer(adapter, size, wgpu::BufferUsages::STORAGE);
    let size = 8 * fixture.other.size();
    let (tensor, other, saved, scratch) = (of(2 * size), of(size), of(1 << 16), of(1 << 16));
    let layer = |dims: &[usize], layout, config| BatchNorm::new(&adapter.kernels, Shape::new(dims, layout)?, config);
    let forward = |layer: &BatchNorm| {
        layer.forward_training(&ForwardTraining {
            x: at(&tensor, 0),
            y: at(&other, 0),
            residual: None,
            gamma: None,
            beta: None,
            saved: at(&saved, 0),
            running: None,
            scratch: at(&scratch, 0),
        })
    };
    let backward = |saved| Backward {
        saved,
        dy: at(&other, 0),
        dx: Some(at(&other, 0)),
        dresidual: None,
        dgamma: None,
        dbeta: None,
        scratch: at(&scratch, 0),
    };
    let (plain, first) = (Config::default(), Layout::ChannelsFirst);
    let dims = [4, 8, 6, 6];
    let own = layer(&dims, first, plain)?;
    let step = forward(&own)?;
    own.backward_training(&backward(step.saved()?))?;
    for (what, other) in [
        ("4x8x6x6 channels_first", layer(&[2, 8, 6, 6], first, plain)?),
        ("4x8x6x6 channels_first", layer(&[4, 6, 6, 8], Layout::ChannelsLast, plain)?),
        ("4x8x6x6 channels_first", layer(&[4, 4, 6, 12], first, plain)?),
        ("f32", layer(&dims, first, Config { dtype: DType::F16, ..plain })?),
        ("activation none", layer(&dims, first, Config { activation: Activation::Relu, ..plain })?),
        ("in_place false", layer(&dims, first, Config { in_place: true, ..plain })?),
    ] {
        let is = |error: &Error| matches!(error, Error::Mismatch { name: "saved", actual, .. } if actual.ends_with(&format!("with {what}")));
        owed(what, other.backward_training(&backward(step.saved()?)), is)?;
    }
    owed(
        "frozen",
        own.backward_frozen(&backward(step.saved()?)),
        |error| matches!(error, Error::Mismatch { name: "saved", actual, .. } if actual.contains("forward_training")),
    )?;
    // The same in all that matters: another choice of kernels, another eps, another name for the layout.
    let choice = Choice { strategy: Some(Strategy::Split), ..Choice::default() };
    let alike = Config { eps: 1e-3, ..plain };
    let alike = BatchNorm::with_choice(&adapter.kernels, own.shape().clone(), alike, &choice)?;
    alike.backward_training(&backward(step.saved()?))?;
    let flat = forward(&layer(&[20, 6], first, plain)?)?;
    layer(&[20, 6], Layout::ChannelsLast, plain)?.backward_training(&backward(flat.saved()?))?;
    // What is no forward pass has nothing to go back from.
    let statistics = own.statistics(&Statistics {
        x: at(&tensor, 0),
        saved: Some(at(&saved, 0)),
        running: None,
        scratch: at(&scratch, 0),
    })?;
    let nothing = |error: &Error| matches!(error, Error::Mismatch { name: "saved", .. });
    owed("statistics", statistics.saved().cloned(), nothing)?;
    let gradients = own.backward_training(&backward(step.saved()?))?;
    owed("backward", gradients.saved().cloned(), nothing)?;
    let uploaded = own.saved_from(Operation::Statistics, at(&tensor, 0), None, at(&saved, 0));
    owed("uploaded statistics", uploaded, nothing)
}

/// Both passes from one description: the gradients are those of the residual, of ReLU, and in place of y.
fn backward_takes_over(adapter: &Adapter) -> Result<(), Failed> {
    let (device, queue) = (&adapter.device, &adapter.queue);
    let shape = Shape::new(&[6, 4, 5], Layout::ChannelsFirst)?;
    for in_place in [false, true] {
        let activation = if in_place { Activation::None } else { Activation::Relu };
        let config = Config { in_place, activation, ..Config::default() };
        let layer = BatchNorm::new(&adapter.kernels, shape.clone(), config)?;
        let values = |seed| normal(shape.elements(), seed);
        let input = |seed| upload(device, queue, "input", bytemuck::cast_slice(&values(seed)));
        let output = |size| storage(device, "output", size);
        let (x, dy, residual, y) = (input(91)?, input(92)?, input(93)?, output(layer.tensor_size())?);
        let (dx, dresidual) = (output(layer.tensor_size())?, output(layer.tensor_size())?);
        let (saved, scratch) = (output(layer.saved_size())?, output(layer.scratch_size())?);
        let whole = wgpu::Buffer::as_entire_buffer_binding;
        let TrainingSteps { forward, backward } = layer.training(&Training {
            x: whole(&x),
            // In place y may lie elsewhere all the same: the backward pass reads it there.
            y: whole(&y),
            dy: whole(&dy),
            dx: Some(whole(&dx)),
            residual: (!in_place).then(|| whole(&residual)),
            dresidual: (!in_place).then(|| whole(&dresidual)),
            gamma: None,
            beta: None,
            dgamma: None,
            dbeta: None,
            saved: whole(&saved),
            running: None,
            scratch: whole(&scratch),
        })?;
        let mut encoder = device.create_command_encoder(&Default::default());
        forward.encode_pass(&mut encoder);
        backward.encode_pass(&mut encoder);
        queue.submit([encoder.finish()]);
        let wide = |seed| values(seed).into_iter().map(f64::from).collect::<Vec<f64>>();
        let residual = wide(93);
        let reference = Layer { residual: (!in_place).then_some(residual.as_slice()), activation, ..Layer::default() };
        let execution = Execution { in_place, ..Execution::default() };
        let want = reference::backward_training(&wide(91), &wide(92), &shape, &reference)?;
        let bound = bound::backward_training(&wide(91), &wide(92), &shape, &reference, &execution)?;
        let contents = download(device, queue, &[&dx, &dresidual])?;
        let got = |i: usize| bytemuck::pod_collect_to_vec::<u8, f32>(&contents[i]);
        let mut outcomes = vec![bound::compare(&got(0), &want.dx, &bound.dx)?];
        if !in_place {
            outcomes.push(bound::compare(&got(1), &want.dresidual, &bound.dresidual)?);
        }
        if let Some(wrong) = outcomes.iter().find(|outcome| !outcome.passed()) {
            return Err(format!("in place {in_place}: {wrong}").into());
        }
    }
    Ok(())
}

/// Inference that writes y over x leaves no x for a backward pass that reads it.
fn x_overwritten(adapter: &Adapter) -> Result<(), Failed> {
    let fixture = Fixture::new(adapter)?;
    let running = buffer(adapter, RunningStatistics::size(8), wgpu::BufferUsages::STORAGE);
    let inference = |layer: &BatchNorm| {
        layer.inference(&Inference {
            x: at(&fixture.tensor, 0),
            y: at(&fixture.tensor, 0),
            residual: None,
            gamma: None,
            beta: None,
            running: running.as_entire_buffer_binding(),
            saved: Some(fixture.saved.as_entire_buffer_binding()),
        })
    };
    let backward = |saved, dgamma| Backward {
        saved,
        dy: fixture.other.as_entire_buffer_binding(),
        dx: Some(fixture.other.as_entire_buffer_binding()),
        dresidual: None,
        dgamma,
        dbeta: None,
        scratch: fixture.scratch.as_entire_buffer_binding(),
    };
    let dgamma = || Some(at(&fixture.tensor, fixture.other.size()));
    let overlap = |error: &Error| matches!(error, Error::Overlap { first: "x", second: "y", .. });
    let layer = |config| BatchNorm::new(&adapter.kernels, fixture.layer.shape().clone(), config);
    let plain = layer(Config::default())?;
    let step = inference(&plain)?;
    owed("dgamma", plain.backward_frozen(&backward(step.saved()?, dgamma())), overlap)?;
    // dx alone does not need x, unless there is an activation to see through.
    plain.backward_frozen(&backward(step.saved()?, None))?;
    let relu = layer(Config { activation: Activation::Relu, ..Config::default() })?;
    let step = inference(&relu)?;
    owed("relu", relu.backward_frozen(&backward(step.saved()?, None)), overlap)?;
    let in_place = layer(Config { in_place: true, ..Config::default() })?;
    let step = inference(&in_place)?;
    in_place.backward_frozen(&backward(step.saved()?, dgamma()))?;
    Ok(())
}

fn one_value(adapter: &Adapter) -> Result<(), Failed> {
    let shape = Shape::new(&[1, 8], Layout::ChannelsFirst)?;
    let layer = BatchNorm::new(&adapter.kernels, shape, Config::default())?;
    let fixture = Fixture::new(adapter)?;
    let one = |error: &Error| matches!(error, Error::OneValuePerChannel { .. });
    owed("forward", layer.forward_training(&fixture.forward()), one)
}

fn nothing_wanted(adapter: &Adapter) -> Result<(), Failed> {
    let fixture = Fixture::new(adapter)?;
    let outcome = fixture.layer.statistics(&Statistics {
        x: at(&fixture.tensor, 0),
        saved: None,
        running: None,
        scratch: fixture.scratch.as_entire_buffer_binding(),
    });
    owed("statistics", outcome, |error| matches!(error, Error::Mismatch { .. }))
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
    owed("splits 0", layer(Choice { splits: Some(0), ..Choice::default() }), unavailable)?;
    owed("splits", layer(Choice { splits: Some(1 << 20), ..Choice::default() }), unavailable)?;
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
    let choice = Choice { strategy: Some(Strategy::Resident), ..Choice::default() };
    let outcome = BatchNorm::with_choice(&limited.kernels, shape, Config::default(), &choice);
    owed("parts of a resident tensor", outcome, |error| matches!(error, Error::KernelUnavailable { .. }))
}

/// What does not lead back from y to x is refused, and where gamma is 0 all the same the gradients say so.
fn in_place(adapter: &Adapter) -> Result<(), Failed> {
    let refused = |error: &Error| matches!(error, Error::InPlace { .. });
    let config = Config { in_place: true, ..Config::default() };
    let shape = Shape::new(&[4, 8, 6, 6], Layout::ChannelsFirst)?;
    let layer = |config| BatchNorm::new(&adapter.kernels, shape.clone(), config);
    owed("relu", layer(Config { activation: Activation::Relu, ..config }), refused)?;
    let fixture = Fixture { layer: layer(config)?, ..Fixture::new(adapter)? };
    let size = fixture.other.size();
    let x_is_y = ForwardTraining { y: at(&fixture.tensor, 0), ..fixture.forward() };
    fixture.layer.forward_training(&x_is_y)?;
    let residual = ForwardTraining { residual: Some(at(&fixture.tensor, size)), ..fixture.forward() };
    owed("residual", fixture.layer.forward_training(&residual), |error| {
        matches!(error, Error::Mismatch { name: "residual", .. })
    })?;
    owed("gamma 0", config.check_in_place(&[1.0, 0.0], None), refused)?;
    owed("gamma NaN", config.check_in_place(&[f32::NAN], None), refused)?;
    owed("no beta", config.check_in_place(&[1.0], Some(&[])), |error| {
        matches!(error, Error::Mismatch { name: "beta", .. })
    })?;
    owed("gamma beside beta", config.check_in_place(&[1.0, 1e-3], Some(&[100.0, 2.0])), refused)?;
    config.check_in_place(&[1.0, -0.5], Some(&[3.0, 0.0]))?;
    let bf16 = Config { dtype: DType::Bf16, ..config };
    owed("bf16", bf16.check_in_place(&[0.5], Some(&[1.0])), refused)?;

    // The kernels take gamma as it is.
    let case = Case::new(Operation::BackwardTraining, &Shape::new(&[50, 2], Layout::ChannelsFirst)?);
    let inputs = Inputs { config, gamma: Some(vec![1.0, 0.0]), ..case.inputs() };
    let results = run(&adapter.kernels, &adapter.queue, case.operation, &inputs, &case.setup)?;
    let (Some(dx), Some(dgamma), Some(dbeta)) = (results.dx, results.dgamma, results.dbeta) else {
        return Err("no gradients".into());
    };
    let as_told = dx.chunks_exact(2).all(|dx| !dx[0].is_nan() && dx[1].is_nan())
        && !dgamma[0].is_nan()
        && dgamma[1].is_nan()
        && !dbeta[1].is_nan();
    if as_told { Ok(()) } else { Err(format!("gradients where gamma is 0: {dgamma:?}, {dbeta:?}, {dx:?}").into()) }
}

/// Arrays of f16 with an odd number of elements, ReLU and a residual.
fn host_half(adapter: &Adapter) -> Result<(), Failed> {
    let (dims, activation) = ((7, 3, 5), Activation::Relu);
    let shape = Shape::new(&[7, 3, 5], Layout::ChannelsFirst)?;
    let config = Config { activation, ..Config::default() };
    let mut layer = HostBatchNorm::new(&adapter.device, &adapter.queue, 3, Layout::ChannelsFirst, config)?;
    let tensor = |seed| -> Result<_, Failed> {
        let values = normal(shape.elements(), seed).into_iter().map(f16::from_f32).collect();
        Ok(Array::from_shape_vec(dims, values)?)
    };
    let (x, dy, residual) = (tensor(71)?, tensor(72)?, tensor(73)?);
    let wide = |values: &Array3<f16>| values.iter().map(|&value| f64::from(value)).collect::<Vec<f64>>();
    let (x64, dy64, residual64) = (wide(&x), wide(&dy), wide(&residual));
    let of_f64 = &Layer { residual: Some(&residual64), activation, ..Layer::default() };
    let execution = &Execution { dtype: DType::F16, ..Execution::default() };

    let forward = layer.forward_training(x.view(), Some(residual.view()))?;
    let want = reference::forward_training(&x64, &shape, of_f64)?;
    let tolerance = bound::forward_training(&x64, &shape, of_f64, execution)?;
    within("y", wide(&forward.y), &want.y, &tolerance.y)?;
    let gradients = layer.backward_training(x.view(), dy.view(), Some(residual.view()), &forward.saved)?;
    let want = reference::backward_training(&x64, &dy64, &shape, of_f64)?;
    let tolerance = bound::backward_training(&x64, &dy64, &shape, of_f64, execution)?;
    within("dx", wide(&gradients.dx), &want.dx, &tolerance.dx)?;
    let dresidual = gradients.dresidual.ok_or("no gradient of the residual")?;
    within("dresidual", wide(&dresidual), &want.dresidual, &tolerance.dresidual)?;
    let other = Array3::<f16>::default((7, 3, 4));
    owed("residual", layer.inference(x.view(), Some(other.view())), |error| {
        matches!(error, Error::Mismatch { name: "residual", .. })
    })
}

fn few_bindings(adapter: &Adapter) -> Result<(), Failed> {
    let limits = wgpu::Limits { max_storage_buffers_per_shader_stage: 4, ..wgpu::Limits::default() };
    let own = Gpu::from_adapter(&adapter.adapter, limits, wgpu::Features::empty())?;
    let mut layer = HostBatchNorm::new(&own.device, &own.queue, 3, Layout::ChannelsFirst, Config::default())?;
    let outcome = layer.forward_training(Array2::<f32>::ones((4, 3)).view(), None);
    owed("bindings", outcome, |error| matches!(error, Error::Limit { what: "a kernel", .. }))
}

/// Of what has a value per channel, all is bound at once.
fn small_bindings(adapter: &Adapter) -> Result<(), Failed> {
    let limits = wgpu::Limits { max_storage_buffer_binding_size: 4096, ..wgpu::Limits::default() };
    let own = Gpu::from_adapter(&adapter.adapter, limits, wgpu::Features::empty())?;
    let absurd = HostBatchNorm::new(&own.device, &own.queue, usize::MAX, Layout::ChannelsFirst, Config::default());
    owed("channels", absurd, |error| matches!(error, Error::Limit { what: "running", .. }))?;
    let mut layer = HostBatchNorm::new(&own.device, &own.queue, 256, Layout::ChannelsFirst, Config::default())?;
    let Err(error) = layer.forward_training(Array2::<f32>::ones((2, 256)).view(), None) else {
        return Err("6144 bytes were bound where a binding holds 4096".into());
    };
    let said = "saved needs 6144 bytes, but the device's max_storage_buffer_binding_size allows 4096 bytes; split the";
    if error.to_string().starts_with(said) { Ok(()) } else { Err(error.to_string().into()) }
}

/// Every call that can fail says which layer it was of, and so does the device.
fn labels(adapter: &Adapter) -> Result<(), Failed> {
    let fixture = Fixture::new(adapter)?;
    let fixture = Fixture { layer: fixture.layer.with_label("layer3.bn1"), ..fixture };
    let small = || fixture.small.as_entire_buffer_binding();
    let bound = || at(&fixture.tensor, 0);
    let left = |forward| fixture.layer.saved_from(forward, small(), None, bound());
    let (trained, inferred) = (left(Operation::ForwardTraining)?, left(Operation::Inference)?);
    let backward = |saved| Backward {
        saved,
        dy: bound(),
        dx: Some(bound()),
        dresidual: None,
        dgamma: None,
        dbeta: None,
        scratch: bound(),
    };
    let forward = ForwardTraining { x: small(), ..fixture.forward() };
    let (residual, gamma, beta) = (None, None, None);
    let inference = Inference { x: small(), y: bound(), residual, gamma, beta, running: bound(), saved: None };
    let statistics = Statistics { x: small(), saved: Some(bound()), running: None, scratch: bound() };
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
    let bindings = ForwardTraining { x: foreign.as_entire_buffer_binding(), ..fixture.forward() };
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
    let mut layer = layer.with_label("layer3.bn1");
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

/// Batches whose own statistics are finite, but whose distance no f32 holds.
fn too_far_apart(adapter: &Adapter) -> Result<(), Failed> {
    for (policy, far) in [
        (RunningPolicy::pooled(), 1e20),
        (RunningPolicy::pooled(), 3e38),
        (RunningPolicy::cumulative(), 3e38),
        (RunningPolicy::exponential(0.5), 3e38),
    ] {
        let config = Config { running: policy, ..Config::default() };
        let mut layer = HostBatchNorm::new(&adapter.device, &adapter.queue, 2, Layout::ChannelsFirst, config)?;
        layer.observe(Array2::from_elem((4, 2), far).view())?;
        let before = layer.running.clone();
        layer.observe(Array2::from_elem((4, 2), -far).view())?;
        let expected = RunningStatistics { tracked: vec![2; 2], skipped: vec![1; 2], ..before };
        if layer.running != expected {
            return Err(format!("{policy:?}, {far}: {:?}, expected {expected:?}", layer.running).into());
        }
    }
    Ok(())
}

fn widen<'a>(values: impl IntoIterator<Item = &'a f32>) -> Vec<f64> {
    values.into_iter().map(|&value| value.into()).collect()
}

fn within(name: &str, got: Vec<f64>, want: &[f64], tolerance: &[f64]) -> Result<(), Failed> {
    let outcome = bound::compare(&got, want, tolerance)?;
    if outcome.passed() { Ok(()) } else { Err(format!("{name}: {outcome}").into()) }
}

fn host_layer(adapter: &Adapter) -> Result<(), Failed> {
    let shape = Shape::new(&[4, 5, 6, 7], Layout::ChannelsFirst)?;
    let data = normal(2 * shape.elements(), 21);
    // Every other column of a wider array: a view that is not dense.
    let wide: Array4<f32> = Array::from_shape_vec((4, 5, 6, 14), data)?;
    let x = wide.slice(s![.., .., .., ..;2]);
    let dy: Array4<f32> = Array::from_shape_vec((4, 5, 6, 7), normal(shape.elements(), 22))?;
    let mut layer = HostBatchNorm::new(&adapter.device, &adapter.queue, 5, Layout::ChannelsFirst, Config::default())?;
    layer.gamma = Some(normal(5, 23).into());
    layer.beta = None;
    let (x64, dy64) = (widen(x.iter()), widen(dy.iter()));
    let gamma = layer.gamma.as_ref().map(widen);
    let (of_f64, execution) = (&Layer { gamma: gamma.as_deref(), ..Layer::default() }, &Execution::default());

    let forward = layer.forward_training(x, None)?;
    let want = reference::forward_training(&x64, &shape, of_f64)?;
    let tolerance = bound::forward_training(&x64, &shape, of_f64, execution)?;
    within("y", widen(&forward.y), &want.y, &tolerance.y)?;
    within("mean", forward.saved.mean().to_vec(), &want.statistics.mean, &tolerance.statistics.mean)?;
    within("var", widen(&forward.saved.var()), &want.statistics.var, &tolerance.statistics.var)?;

    let gradients = layer.backward_training(x, dy.view(), None, &forward.saved)?;
    let want = reference::backward_training(&x64, &dy64, &shape, of_f64)?;
    let tolerance = bound::backward_training(&x64, &dy64, &shape, of_f64, execution)?;
    within("dx", widen(&gradients.dx), &want.dx, &tolerance.dx)?;
    within("dgamma", widen(&gradients.dgamma), &want.dgamma, &tolerance.dgamma)?;
    within("dbeta", widen(&gradients.dbeta), &want.dbeta, &tolerance.dbeta)?;

    let (mean, var) = (widen(&layer.running.mean), widen(&layer.running.var));
    let y = layer.inference(x, None)?;
    let want = reference::inference(&x64, &shape, &mean, &var, of_f64)?;
    // The remainder of the running mean lies below half an ulp of the mean.
    let slack = 1e-6;
    within("inference", widen(&y), &want, &vec![slack; want.len()])?;
    let frozen = layer.backward_frozen(x, dy.view(), None)?;
    let want = reference::backward_frozen(&x64, &dy64, &shape, &mean, &var, of_f64)?;
    within("frozen dx", widen(&frozen.dx), &want.dx, &vec![10.0 * slack; want.dx.len()])?;

    let mut narrow = HostBatchNorm::new(&adapter.device, &adapter.queue, 3, Layout::ChannelsFirst, Config::default())?;
    let batch = Array2::<f32>::ones((4, 3));
    let outcome = narrow.backward_training(batch.view(), batch.view(), None, &forward.saved);
    owed("saved of another layer", outcome, |error| matches!(error, Error::Mismatch { name: "saved", .. }))?;
    narrow.running.var.pop();
    let outcome = narrow.forward_training(batch.view(), None);
    owed("ragged statistics", outcome, |error| matches!(error, Error::Mismatch { name: "var", .. }))?;
    let wrong = Array2::<f32>::ones((4, 6));
    owed("channels", layer.inference(wrong.view(), None), |error| matches!(error, Error::Mismatch { name: "x", .. }))?;
    let empty = Array2::<f32>::ones((0, 5));
    owed("empty", layer.inference(empty.view(), None), |error| matches!(error, Error::EmptyBatch { .. }))?;
    owed("no such adapter", Gpu::open(Some("none of that name")), |error| matches!(error, Error::NoAdapter { .. }))
}

fn host_population(adapter: &Adapter) -> Result<(), Failed> {
    let config = Config { running: RunningPolicy::pooled(), ..Config::default() };
    let mut layer = HostBatchNorm::new(&adapter.device, &adapter.queue, 3, Layout::ChannelsLast, config)?;
    let data: Array2<f32> = Array::from_shape_vec((500, 3), normal(1500, 31))?.mapv(|z| 1e4 + z);
    for rows in [0..1, 1..130, 130..137, 137..500] {
        layer.observe(data.slice_axis(Axis(0), rows.into()))?;
    }
    let shape = Shape::new(&[500, 3], Layout::ChannelsLast)?;
    let want = reference::statistics(&widen(&data), &shape)?;
    let running = &layer.running;
    let mean: Vec<f64> =
        running.mean.iter().zip(&running.mean_remainder).map(|(&m, &r)| f64::from(m) + f64::from(r)).collect();
    let unbiased: Vec<f64> = want.var.iter().map(|var| var * 500.0 / 499.0).collect();
    within("mean", mean, &want.mean, &[1e-5; 3])?;
    within("var", widen(&running.var), &unbiased, &[1e-5; 3])?;
    if running.tracked != [4; 3] || running.values != [500; 3] {
        return Err(format!("tracked {:?}, values {:?}", running.tracked, running.values).into());
    }
    Ok(())
}

/// The async calls, while another thread polls the device.
fn host_async(adapter: &Adapter) -> Result<(), Failed> {
    let x: Array2<f32> = Array::from_shape_vec((50, 3), normal(150, 41))?;
    let layer = || HostBatchNorm::new(&adapter.device, &adapter.queue, 3, Layout::ChannelsFirst, Config::default());
    let (mut blocking, mut waiting) = (layer()?, layer()?);
    let done = AtomicBool::new(false);
    let (forward, gradients, y) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // An error shows in the call that waits.
                adapter.device.poll(wgpu::PollType::Poll).ok();
                std::thread::yield_now();
            }
        });
        let outcome = pollster::block_on(async {
            let forward = waiting.forward_training_async(x.view(), None).await?;
            let gradients = waiting.backward_training_async(x.view(), x.view(), None, &forward.saved).await?;
            let y = waiting.inference_async(x.view(), None).await?;
            Ok::<_, Error>((forward, gradients, y))
        });
        done.store(true, Ordering::Relaxed);
        outcome
    })?;
    let expected = blocking.forward_training(x.view(), None)?;
    let same = forward.y == expected.y
        && gradients.dx == blocking.backward_training(x.view(), x.view(), None, &expected.saved)?.dx
        && y == blocking.inference(x.view(), None)?;
    if same { Ok(()) } else { Err("blocking and async calls differ".into()) }
}

fn host_fold(adapter: &Adapter) -> Result<(), Failed> {
    let config = Config { eps: 1e-3, ..Config::default() };
    let mut layer = HostBatchNorm::new(&adapter.device, &adapter.queue, 3, Layout::ChannelsFirst, config)?;
    layer.gamma = Some(normal(3, 51).into());
    layer.beta = Some(normal(3, 52).into());
    layer.observe(Array::from_shape_vec((50, 3), normal(150, 53))?.view())?;
    let (weight, bias) = (Array2::from_shape_vec((4, 3), normal(12, 54))?, Array::from(normal(3, 55)));
    let norm = InferenceNorm {
        gamma: layer.gamma.as_ref().map(|gamma| gamma.view()),
        beta: layer.beta.as_ref().map(|beta| beta.view()),
        running: &layer.running,
        eps: config.eps,
    };
    let expected = norm.fold_into(weight.view(), Axis(1), Some(bias.view()))?;
    let folded = layer.fold_into(weight.view(), Axis(1), Some(bias.view()))?;
    if folded == expected { Ok(()) } else { Err(format!("{folded:?}, expected {expected:?}").into()) }
}
