//! The host layer, which most callers start with.

use super::{Check, owed};
use crate::adapter::Adapter;
use batchnorm_wgpu::host::half::f16;
use batchnorm_wgpu::host::{Gpu, HostBatchNorm, InferenceNorm, adapter_key, adapters};
use batchnorm_wgpu::reference::{self, Layer, bound, bound::Execution};
use batchnorm_wgpu::{
    Activation, Config, DType, Error, Layout, RunningPolicy, RunningStatistics, Shape, USEFUL_FEATURES, wgpu,
};
use batchnorm_wgpu_check::data::normal;
use libtest_mimic::Failed;
use ndarray::{Array, Array2, Array3, Array4, Axis, s};
use std::sync::atomic::{AtomicBool, Ordering};

pub const CHECKS: [Check; 10] = [
    ("the_host_layer_refuses_parameters_of_another_length", wrong_parameters),
    ("the_host_layer_keeps_x_whatever_the_configuration", keeps_x),
    ("adapters_come_best_first", best_first),
    ("a_device_is_that_of_the_adapter_named", opened),
    ("the_host_layer_takes_half_precision", host_half),
    ("the_host_layer_agrees_with_the_reference", host_layer),
    ("the_host_layer_pools_a_data_set", host_population),
    ("statistics_too_far_apart_are_skipped", too_far_apart),
    ("the_host_layer_need_not_block", host_async),
    ("the_host_layer_folds_what_it_holds", host_fold),
];

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
    // Of the variance as it was saved: a few roundings of the square root and the quotient.
    let eps = Config::default().eps;
    let inv_std: Vec<f64> = forward.saved.var().iter().map(|&var| 1.0 / (f64::from(var) + eps).sqrt()).collect();
    let roundings: Vec<f64> = inv_std.iter().map(|inv_std| inv_std * 4.0 * f64::from(f32::EPSILON)).collect();
    within("inv_std", widen(&forward.saved.inv_std()), &inv_std, &roundings)?;

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
    let channels = |error: &Error| matches!(error, Error::Mismatch { name: "saved", expected, actual } if expected == "statistics of 3 channels" && actual == "statistics of 5 channels");
    owed("saved of another layer", outcome, channels)?;
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

fn widen<'a>(values: impl IntoIterator<Item = &'a f32>) -> Vec<f64> {
    values.into_iter().map(|&value| value.into()).collect()
}

fn within(name: &str, got: Vec<f64>, want: &[f64], tolerance: &[f64]) -> Result<(), Failed> {
    let outcome = bound::compare(&got, want, tolerance)?;
    if outcome.passed() { Ok(()) } else { Err(format!("{name}: {outcome}").into()) }
}

/// A device of the adapter that was asked for, with its limits, the useful features and those asked for besides, as far as it
/// has them.
fn opened(adapter: &Adapter) -> Result<(), Failed> {
    let has = adapter.adapter.features();
    for more in [wgpu::Features::empty(), wgpu::Features::TIMESTAMP_QUERY, USEFUL_FEATURES] {
        let gpu = Gpu::open_with(Some(&adapter.key), more)?;
        let (got, expected) = (gpu.device.features(), has & (USEFUL_FEATURES | more));
        if gpu.key() != adapter.key || got != expected {
            return Err(format!("{}: expected {expected:?}, got {got:?}", gpu.key()).into());
        }
        let (got, expected) = (gpu.device.limits().max_buffer_size, adapter.adapter.limits().max_buffer_size);
        if got != expected {
            return Err(format!("expected buffers of up to {expected} bytes, got {got}").into());
        }
    }
    Ok(())
}

/// Of one kind of device OpenGL comes last, and of those on the CPU lavapipe first.
fn best_first(_: &Adapter) -> Result<(), Failed> {
    let infos: Vec<_> = adapters().iter().map(wgpu::Adapter::get_info).collect();
    let rank = |info: &wgpu::AdapterInfo| (info.backend == wgpu::Backend::Gl, adapter_key(info) != "lavapipe");
    for pair in infos.windows(2).filter(|pair| pair[0].device_type == pair[1].device_type) {
        if rank(&pair[0]) > rank(&pair[1]) {
            return Err(format!("{} comes before {}", adapter_key(&pair[0]), adapter_key(&pair[1])).into());
        }
    }
    Ok(())
}

fn wrong_parameters(adapter: &Adapter) -> Result<(), Failed> {
    let new = || HostBatchNorm::new(&adapter.device, &adapter.queue, 3, Layout::ChannelsFirst, Config::default());
    let batch = Array2::<f32>::ones((4, 3));
    let (mut gamma, mut beta) = (new()?, new()?);
    gamma.gamma = Some(normal(5, 71).into());
    beta.beta = Some(normal(2, 72).into());
    for (name, length, layer) in [("gamma", "5", &mut gamma), ("beta", "2", &mut beta)] {
        let is = |error: &Error| matches!(error, Error::Mismatch { name: wrong, actual, .. } if (*wrong, actual.as_str()) == (name, length));
        owed("forward", layer.forward_training(batch.view(), None), is)?;
        owed("inference", layer.inference(batch.view(), None), is)?;
        owed("frozen", layer.backward_frozen(batch.view(), batch.view(), None), is)?;
    }
    Ok(())
}

/// x is uploaded for every call, so a backward pass never has to work from y, and a residual is no obstacle.
fn keeps_x(adapter: &Adapter) -> Result<(), Failed> {
    let layer = |in_place| {
        let config = Config { in_place, ..Config::default() };
        HostBatchNorm::new(&adapter.device, &adapter.queue, 3, Layout::ChannelsFirst, config)
    };
    let array = |seed| Array2::from_shape_vec((50, 3), normal(150, seed));
    let (x, dy, residual) = (array(73)?, array(74)?, array(75)?);
    let gradients = |mut layer: HostBatchNorm| {
        let saved = layer.forward_training(x.view(), Some(residual.view()))?.saved;
        layer.backward_training(x.view(), dy.view(), Some(residual.view()), &saved)
    };
    let (plain, in_place) = (gradients(layer(false)?)?, gradients(layer(true)?)?);
    match plain.dx == in_place.dx && plain.dresidual == in_place.dresidual {
        true => Ok(()),
        false => Err("Config::in_place changes the gradients of the host layer".into()),
    }
}
