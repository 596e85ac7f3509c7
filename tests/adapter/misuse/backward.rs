//! Backward passes and the forward passes that they follow.

use super::{Check, Fixture, at, buffer, owed, with};
use crate::adapter::Adapter;
use batchnorm_wgpu::host::{download, storage, upload};
use batchnorm_wgpu::kernels::Strategy;
use batchnorm_wgpu::reference::{self, Layer, bound, bound::Execution};
use batchnorm_wgpu::{
    Activation, Backward, BatchNorm, Choice, Config, DType, Error, ForwardTraining, Inference, Layout, Operation,
    RunningStatistics, Shape, Statistics, Training, TrainingSteps, wgpu,
};
use batchnorm_wgpu_check::case::{Case, Inputs};
use batchnorm_wgpu_check::data::normal;
use batchnorm_wgpu_check::run::run;
use libtest_mimic::Failed;

pub const CHECKS: [Check; 6] = [
    ("a_backward_pass_of_another_layer_is_refused", foreign_backward),
    ("a_backward_pass_takes_what_the_forward_pass_had", backward_takes_over),
    ("the_gradient_of_the_residual_may_lie_over_dy", residual_gradient_over_dy),
    ("a_backward_pass_whose_x_was_overwritten_is_refused", x_overwritten),
    ("what_cannot_run_in_place_is_refused", in_place),
    ("a_backward_pass_runs_what_is_wanted", runs_what_is_wanted),
];

/// A forward pass, and the backward pass of a layer that differs in one thing.
fn foreign_backward(adapter: &Adapter) -> Result<(), Failed> {
    let fixture = Fixture::new(adapter)?;
    let of = |size| buffer(adapter, size, wgpu::BufferUsages::STORAGE);
    let size = 8 * fixture.other.size();
    let (tensor, other, saved, scratch) = (of(2 * size), of(size), of(1 << 16), of(1 << 16));
    let layer = |dims: &[usize], layout, config| BatchNorm::new(&adapter.kernels, Shape::new(dims, layout)?, config);
    let forward = |layer: &BatchNorm| {
        layer.forward_training(&ForwardTraining::new(at(&tensor, 0), at(&other, 0), at(&saved, 0), at(&scratch, 0)))
    };
    let backward = |saved| Backward::new(saved, at(&other, 0), at(&scratch, 0)).dx(at(&other, 0));
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
    let leaky =
        |negative_slope| layer(&dims, first, Config { activation: Activation::LeakyRelu, negative_slope, ..plain });
    let steep = forward(&leaky(0.25)?)?;
    owed(
        "slope",
        leaky(0.5)?.backward_training(&backward(steep.saved()?)),
        |error| matches!(error, Error::Mismatch { name: "saved", actual, .. } if actual.ends_with("leaky_relu with negative_slope 0.25")),
    )?;
    // The same in all that matters: another choice of kernels, another eps, another name for the layout.
    let choice = Choice::by(Strategy::Split);
    let alike = Config { eps: 1e-3, ..plain };
    let alike = BatchNorm::with_choice(&adapter.kernels, own.shape().clone(), alike, &choice)?;
    alike.backward_training(&backward(step.saved()?))?;
    let flat = forward(&layer(&[20, 6], first, plain)?)?;
    layer(&[20, 6], Layout::ChannelsLast, plain)?.backward_training(&backward(flat.saved()?))?;
    // What is no forward pass has nothing to go back from.
    let statistics = own.statistics(&Statistics::new(at(&tensor, 0), at(&scratch, 0)).saved(at(&saved, 0)))?;
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
        let TrainingSteps { forward, backward } = layer.training(
            &Training::new(whole(&x), whole(&y), whole(&dy), whole(&saved), whole(&scratch))
                .dx(whole(&dx))
                .residual((!in_place).then(|| whole(&residual)))
                .dresidual((!in_place).then(|| whole(&dresidual))),
        )?;
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

/// The residual's gradient over dy, and dx beside it: dx is that of dy, though a kernel that goes over its column twice, or a
/// second one, finds dz there instead. Where dz is rounded as it is stored, that is refused.
fn residual_gradient_over_dy(adapter: &Adapter) -> Result<(), Failed> {
    let (device, queue) = (&adapter.device, &adapter.queue);
    let shape = Shape::new(&[6, 4, 5], Layout::ChannelsFirst)?;
    let values = |seed| normal(shape.elements(), seed);
    let input = |seed| upload(device, queue, "input", bytemuck::cast_slice(&values(seed)));
    let wide = |seed| values(seed).into_iter().map(f64::from).collect::<Vec<f64>>();
    let whole = wgpu::Buffer::as_entire_buffer_binding;
    // The matrix has more of them.
    for (activation, strategy) in Activation::ALL.into_iter().zip(Strategy::ALL.into_iter().cycle()) {
        let config = Config { activation, negative_slope: -0.5, ..Config::default() };
        let choice = Choice::by(strategy);
        let bind = |config: Config| {
            let layer = BatchNorm::with_choice(&adapter.kernels, shape.clone(), config, &choice)?;
            let output = |size| storage(device, "output", size);
            let (x, dy, residual) = (input(94)?, input(95)?, input(96)?);
            let (y, dx) = (output(layer.tensor_size())?, output(layer.tensor_size())?);
            let (saved, scratch) = (output(layer.saved_size())?, output(layer.scratch_size())?);
            let steps = layer.training(
                &Training::new(whole(&x), whole(&y), whole(&dy), whole(&saved), whole(&scratch))
                    .dx(whole(&dx))
                    .residual(whole(&residual))
                    .dresidual(whole(&dy)),
            )?;
            Ok::<_, Error>((steps, dx, dy))
        };
        let (TrainingSteps { forward, backward }, dx, dresidual) = bind(config)?;
        let mut encoder = device.create_command_encoder(&Default::default());
        forward.encode_pass(&mut encoder);
        backward.encode_pass(&mut encoder);
        queue.submit([encoder.finish()]);
        let residual = wide(96);
        let reference = Layer { residual: Some(&residual), activation, negative_slope: -0.5, ..Layer::default() };
        let want = reference::backward_training(&wide(94), &wide(95), &shape, &reference)?;
        let bound = bound::backward_training(&wide(94), &wide(95), &shape, &reference, &Execution::default())?;
        let contents = download(device, queue, &[&dx, &dresidual])?;
        let got = |i: usize| bytemuck::pod_collect_to_vec::<u8, f32>(&contents[i]);
        for (name, outcome) in [
            ("dx", bound::compare(&got(0), &want.dx, &bound.dx)?),
            ("dresidual", bound::compare(&got(1), &want.dresidual, &bound.dresidual)?),
        ] {
            if !outcome.passed() {
                return Err(format!("{activation} by {strategy}, {name}: {outcome}").into());
            }
        }
        let narrow = bind(Config { dtype: DType::F16, ..config });
        match activation {
            Activation::None | Activation::Relu | Activation::Relu6 => drop(narrow?),
            _ => owed("rounded", narrow.map(drop), |error| {
                matches!(error, Error::Overlap { first: "dresidual", second: "dy", .. })
            })?,
        }
    }
    Ok(())
}

/// Inference that writes y over x leaves no x for a backward pass that reads it.
fn x_overwritten(adapter: &Adapter) -> Result<(), Failed> {
    let fixture = Fixture::new(adapter)?;
    let running = buffer(adapter, RunningStatistics::size(8), wgpu::BufferUsages::STORAGE);
    let inference = |layer: &BatchNorm| {
        layer.inference(
            &Inference::new(at(&fixture.tensor, 0), at(&fixture.tensor, 0), running.as_entire_buffer_binding())
                .saved(fixture.saved.as_entire_buffer_binding()),
        )
    };
    let backward = |saved, dgamma| {
        Backward::new(saved, fixture.other.as_entire_buffer_binding(), fixture.scratch.as_entire_buffer_binding())
            .dx(fixture.other.as_entire_buffer_binding())
            .dgamma(dgamma)
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
    let over_residual = |layer: &BatchNorm, saved| {
        let tensor = || at(&fixture.tensor, 0);
        let bindings =
            Inference::new(fixture.other.as_entire_buffer_binding(), tensor(), running.as_entire_buffer_binding());
        layer.inference(&bindings.residual(tensor()).saved(saved))
    };
    let saved = || Some(fixture.saved.as_entire_buffer_binding());
    owed("y over the residual", over_residual(&relu, saved()), |error| {
        matches!(error, Error::Overlap { first: "residual", second: "y", .. })
    })?;
    over_residual(&relu, None)?;
    over_residual(&plain, saved())?;
    // What is added to is no place for what it is added from.
    let other = || fixture.other.as_entire_buffer_binding();
    let adding = Backward::new(step.saved()?, other(), fixture.scratch.as_entire_buffer_binding()).add_to_dx(other());
    owed("dx added over dy", in_place.backward_frozen(&adding), |error| {
        matches!(error, Error::Overlap { first: "dy", second: "dx", .. })
    })?;
    Ok(())
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
    let x_is_y = with(fixture.forward(), |it| it.y = at(&fixture.tensor, 0));
    fixture.layer.forward_training(&x_is_y)?;
    let residual = fixture.forward().residual(at(&fixture.tensor, size));
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

/// The kernels of a backward pass: those of the gradients that are wanted. The activation is seen through once: where the
/// residual's gradient is written first, the kernel after it takes that for dy.
fn runs_what_is_wanted(adapter: &Adapter) -> Result<(), Failed> {
    let fixture = Fixture::new(adapter)?;
    let of = |size| buffer(adapter, size, wgpu::BufferUsages::STORAGE);
    let [dy, dx, dresidual] = [(); 3].map(|()| of(fixture.other.size()));
    let dgamma = of(32);
    let choice = Choice::by(Strategy::Split);
    let config = Config { activation: Activation::Relu, ..Config::default() };
    let layer = BatchNorm::with_choice(&adapter.kernels, fixture.layer.shape().clone(), config, &choice)?;
    let whole = wgpu::Buffer::as_entire_buffer_binding;
    let (x, residual, saved) = (at(&fixture.tensor, 0), whole(&fixture.other), whole(&fixture.saved));
    let saved = &layer.saved_from(Operation::ForwardTraining, x, Some(residual), saved)?;
    let [not, wanted] = [false, true];
    for (with_dx, with_dresidual, with_dgamma, kernels) in [
        (wanted, not, not, ["gradient_sums relu", "gradient_input relu"]),
        (wanted, wanted, not, ["gradient_sums relu", "gradient_input"]),
        (wanted, wanted, wanted, ["gradient_sums relu", "gradient_input"]),
        (not, wanted, wanted, ["gradient_sums relu", "gradient_merge"]),
        (not, not, wanted, ["gradient_sums relu", "gradient_merge"]),
    ] {
        let step = layer.backward_training(
            &Backward::new(saved, whole(&dy), whole(&fixture.scratch))
                .dx(with_dx.then(|| whole(&dx)))
                .dresidual(with_dresidual.then(|| whole(&dresidual)))
                .dgamma(with_dgamma.then(|| whole(&dgamma))),
        )?;
        let ran: Vec<String> = step.kernels().map(kernel_and_activation).collect();
        if ran != kernels {
            let asked = format!("dx {with_dx}, dresidual {with_dresidual}, dgamma {with_dgamma}");
            return Err(format!("{asked}: expected {kernels:?}, got {ran:?}").into());
        }
    }
    Ok(())
}

/// The kernel and its activation, of the name that a step has for them.
fn kernel_and_activation(name: &str) -> String {
    let kernel = name.split('.').next().unwrap_or_default();
    if name.contains(".relu") { format!("{kernel} relu") } else { kernel.into() }
}
