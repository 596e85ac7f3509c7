//! Buffers that are too small, wrong in usage, misaligned, or over each other.

use super::{Check, Fixture, at, buffer, owed, with};
use crate::adapter::Adapter;
use batchnorm_wgpu::host::{Gpu, HostBatchNorm, download, storage, upload};
use batchnorm_wgpu::kernels::Strategy;
use batchnorm_wgpu::reference::{self, Layer, bound, bound::Execution};
use batchnorm_wgpu::{
    Activation, Backward, BatchNorm, Choice, Config, Error, ForwardTraining, Inference, Layout, Operation,
    RunningStatistics, Shape, Statistics, wgpu,
};
use batchnorm_wgpu_check::data::normal;
use libtest_mimic::Failed;
use ndarray::Array2;

pub const CHECKS: [Check; 10] = [
    ("small_buffers_are_refused", small_buffers),
    ("a_bindings_own_size_counts", own_sizes),
    ("wrong_usage_is_refused", wrong_usage),
    ("misaligned_offsets_are_refused", misaligned_offset),
    ("overlaps_are_refused", overlaps),
    ("an_overlap_of_one_word_is_refused", overlap_of_one_word),
    ("scratch_is_checked_whatever_the_plan", scratch_of_every_plan),
    ("running_statistics_are_initialized_on_request", initialize_running),
    ("a_device_with_few_bindings_is_refused", few_bindings),
    ("a_device_with_small_bindings_is_refused", small_bindings),
];

fn small_buffers(adapter: &Adapter) -> Result<(), Failed> {
    let fixture = Fixture::new(adapter)?;
    let small = || fixture.small.as_entire_buffer_binding();
    let cases = [
        ("x", with(fixture.forward(), |it| it.x = small())),
        ("y", with(fixture.forward(), |it| it.y = small())),
        ("gamma", fixture.forward().gamma(small())),
        ("beta", fixture.forward().beta(small())),
        ("saved", with(fixture.forward(), |it| it.saved = small())),
        ("running", fixture.forward().running(small())),
        ("scratch", with(fixture.forward(), |it| it.scratch = small())),
    ];
    for (wrong, bindings) in cases {
        let is = |error: &Error| matches!(error, Error::BufferTooSmall { name, actual: 28, .. } if *name == wrong);
        owed(wrong, fixture.layer.forward_training(&bindings), is)?;
    }
    // A size that reaches behind the buffer's end does not make it larger.
    let size = wgpu::BufferSize::new(1 << 20);
    let x = wgpu::BufferBinding { buffer: &fixture.small, offset: 0, size };
    let outcome = fixture.layer.forward_training(&with(fixture.forward(), |it| it.x = x));
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
        "x" => with(fixture.forward(), |it| it.x = of(bytes)),
        "y" => with(fixture.forward(), |it| it.y = of(bytes)),
        "residual" => fixture.forward().residual(of(bytes)),
        "gamma" => fixture.forward().gamma(of(bytes)),
        "beta" => fixture.forward().beta(of(bytes)),
        "saved" => with(fixture.forward(), |it| it.saved = of(bytes)),
        "running" => fixture.forward().running(of(bytes)),
        _ => with(fixture.forward(), |it| it.scratch = of(bytes)),
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

fn wrong_usage(adapter: &Adapter) -> Result<(), Failed> {
    let fixture = Fixture::new(adapter)?;
    let copies = buffer(adapter, fixture.tensor.size(), wgpu::BufferUsages::COPY_SRC);
    let bindings = with(fixture.forward(), |it| it.x = copies.as_entire_buffer_binding());
    owed("usage", fixture.layer.forward_training(&bindings), |error| {
        matches!(error, Error::BufferUsage { name: "x", .. })
    })
}

fn misaligned_offset(adapter: &Adapter) -> Result<(), Failed> {
    let fixture = Fixture::new(adapter)?;
    let bindings = with(fixture.forward(), |it| it.x = at(&fixture.tensor, 4));
    owed("offset", fixture.layer.forward_training(&bindings), |error| {
        matches!(error, Error::MisalignedOffset { name: "x", offset: 4, .. })
    })?;
    // Small arrays begin at any element.
    let parameters = buffer(adapter, 256, wgpu::BufferUsages::STORAGE);
    let bindings = fixture.forward().gamma(at(&parameters, 4)).beta(at(&parameters, 40));
    fixture.layer.forward_training(&bindings)?;
    let bindings = fixture.forward().gamma(at(&parameters, 6));
    owed("half an element", fixture.layer.forward_training(&bindings), |error| {
        matches!(error, Error::MisalignedOffset { name: "gamma", offset: 6, alignment: 4 })
    })
}

fn overlaps(adapter: &Adapter) -> Result<(), Failed> {
    let fixture = Fixture::new(adapter)?;
    let overlap = |error: &Error| matches!(error, Error::Overlap { .. });
    let size = fixture.other.size();
    // Training needs x afterwards, so y may not lie over it; nor may a tensor overlap by half.
    for offset in [0, size / 2] {
        let bindings = with(fixture.forward(), |it| it.y = at(&fixture.tensor, offset));
        owed("y over x", fixture.layer.forward_training(&bindings), overlap)?;
    }
    let left = |layer: &BatchNorm| {
        let (x, saved) = (at(&fixture.tensor, 0), fixture.saved.as_entire_buffer_binding());
        layer.saved_from(Operation::ForwardTraining, x, None, saved)
    };
    let saved = &left(&fixture.layer)?;
    let backward = |dx, dgamma, dbeta| {
        Backward::new(saved, fixture.other.as_entire_buffer_binding(), fixture.scratch.as_entire_buffer_binding())
            .dx(dx)
            .dgamma(dgamma)
            .dbeta(dbeta)
    };
    let whole = || Some(fixture.other.as_entire_buffer_binding());
    let relu = Config { activation: Activation::Relu, ..Config::default() };
    let relu = BatchNorm::new(&adapter.kernels, fixture.layer.shape().clone(), relu)?;
    let of_relu = left(&relu)?;
    let bindings = with(backward(None, None, None).dresidual(at(&fixture.tensor, size)), |it| it.saved = &of_relu);
    owed("dresidual without residual", relu.backward_training(&bindings), |error| {
        matches!(error, Error::Mismatch { name: "residual", .. })
    })?;
    let gradients = || Some(at(&fixture.tensor, size));
    owed("dx over x", fixture.layer.backward_training(&backward(Some(at(&fixture.tensor, 0)), None, None)), overlap)?;
    owed("dgamma is dbeta", fixture.layer.backward_training(&backward(None, gradients(), gradients())), overlap)?;
    owed("dgamma over dy", fixture.layer.backward_training(&backward(None, whole(), None)), overlap)?;
    fixture.layer.backward_training(&backward(whole(), gradients(), None))?;
    // x and dy may be the same bytes, but not where the buffer is written too: a browser refuses aliased writable bindings.
    let same = with(backward(whole(), None, None), |it| it.dy = at(&fixture.tensor, 0));
    fixture.layer.backward_training(&same)?;
    let pooled = same.dx(gradients());
    owed("aliases in a pool", fixture.layer.backward_training(&pooled), overlap)?;
    let running = buffer(adapter, RunningStatistics::size(8), wgpu::BufferUsages::STORAGE);
    let inference = |y| Inference::new(at(&fixture.tensor, 0), y, running.as_entire_buffer_binding());
    owed("half", fixture.layer.inference(&inference(at(&fixture.tensor, size / 2))), overlap)?;
    fixture.layer.inference(&inference(at(&fixture.tensor, 0)))?;
    fixture.layer.inference(&inference(at(&fixture.tensor, size)))?;
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
        layer.forward_training(&ForwardTraining::new(
            at(&pool, x),
            at(&pool, y),
            saved.as_entire_buffer_binding(),
            scratch.as_entire_buffer_binding(),
        ))
    };
    let overlap = |error: &Error| matches!(error, Error::Overlap { first: "x", second: "y", .. });
    owed("y begins in the last word of x", forward(0, alignment), overlap)?;
    owed("x begins in the last word of y", forward(3 * alignment, 2 * alignment), overlap)?;
    forward(0, 2 * alignment)?;
    forward(2 * alignment, 0)?;
    Ok(())
}

/// Scratch is as large as the layer says, whether or not the plan of an operation uses it on this device.
fn scratch_of_every_plan(adapter: &Adapter) -> Result<(), Failed> {
    let fixture = Fixture::new(adapter)?;
    for strategy in Strategy::ALL {
        let choice = Choice::by(strategy);
        let layer =
            BatchNorm::with_choice(&adapter.kernels, fixture.layer.shape().clone(), Config::default(), &choice)?;
        let is = |error: &Error| matches!(error, Error::BufferTooSmall { name: "scratch", expected, .. } if *expected == layer.scratch_size());
        let scratch = || sized(&fixture.scratch, layer.scratch_size() - 4);
        let (x, saved) = (|| at(&fixture.tensor, 0), || fixture.saved.as_entire_buffer_binding());
        owed("forward", layer.forward_training(&with(fixture.forward(), |it| it.scratch = scratch())), is)?;
        let left = |forward| layer.saved_from(forward, x(), None, saved());
        let (trained, inferred) = (left(Operation::ForwardTraining)?, left(Operation::Inference)?);
        let backward = |saved| {
            Backward::new(saved, fixture.other.as_entire_buffer_binding(), scratch())
                .dx(fixture.other.as_entire_buffer_binding())
        };
        owed("backward", layer.backward_training(&backward(&trained)), is)?;
        if layer.plan(Operation::BackwardFrozen).is_ok() {
            owed("frozen", layer.backward_frozen(&backward(&inferred)), is)?;
        }
        if layer.plan(Operation::Statistics).is_ok() {
            let saved = Some(saved());
            owed("statistics", layer.statistics(&Statistics::new(x(), scratch()).saved(saved)), is)?;
        }
        // Nor may it lie over what is read.
        let over = with(fixture.forward(), |it| it.scratch = at(&fixture.tensor, 0));
        owed("scratch over x", layer.forward_training(&over), |error| matches!(error, Error::Overlap { .. }))?;
    }
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
    let step = layer.inference(&Inference::new(
        x.as_entire_buffer_binding(),
        y.as_entire_buffer_binding(),
        running.as_entire_buffer_binding(),
    ))?;
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

fn few_bindings(adapter: &Adapter) -> Result<(), Failed> {
    let limits = wgpu::Limits { max_storage_buffers_per_shader_stage: 4, ..wgpu::Limits::default() };
    let own = Gpu::from_adapter(&adapter.adapter, limits, wgpu::Features::empty())?;
    let mut layer = HostBatchNorm::new(&own.device, &own.queue, 3, Layout::ChannelsFirst, Config::default())?;
    let outcome = layer.forward_training(Array2::<f32>::ones((4, 3)).view(), None);
    owed("bindings", outcome, |error| matches!(error, Error::Limit { what: "a kernel", .. }))
}

/// Of what has a value per channel, all is bound at once.
fn small_bindings(adapter: &Adapter) -> Result<(), Failed> {
    let layer_of = |bytes, channels| {
        let limits = wgpu::Limits { max_storage_buffer_binding_size: bytes, ..wgpu::Limits::default() };
        let own = Gpu::from_adapter(&adapter.adapter, limits, wgpu::Features::empty())?;
        HostBatchNorm::new(&own.device, &own.queue, channels, Layout::ChannelsFirst, Config::default())
    };
    let binds = |bytes| layer_of(bytes, 256);
    owed("channels", layer_of(4096, usize::MAX), |error| matches!(error, Error::Limit { what: "running", .. }))?;
    // The running statistics, the largest of them, fill the binding to its last byte.
    binds(RunningStatistics::size(256))?.forward_training(Array2::<f32>::ones((2, 256)).view(), None)?;
    let mut layer = binds(4096)?;
    let Err(error) = layer.forward_training(Array2::<f32>::ones((2, 256)).view(), None) else {
        return Err("6144 bytes were bound where a binding holds 4096".into());
    };
    let said = "saved needs 6144 bytes, but the device's max_storage_buffer_binding_size allows 4096 bytes; split the";
    if error.to_string().starts_with(said) { Ok(()) } else { Err(error.to_string().into()) }
}
