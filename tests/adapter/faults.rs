//! What goes wrong around a call: devices, buffers and encoders that go away, memory that is not there, several threads.
//! Every call ends in a typed error or in a correct result, and never hangs.

use super::Adapter;
use super::misuse::owed;
use crate::training::Training;
use batchnorm_wgpu::host::{HostBatchNorm, storage};
use batchnorm_wgpu::kernels::Strategy;
use batchnorm_wgpu::{Choice, Config, Error, Kernels, Layout, wgpu};
use batchnorm_wgpu_check::data::normal;
use libtest_mimic::{Failed, Trial};
use ndarray::Array2;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Waker};
use std::time::Duration;

/// A check and its name.
type Check = (&'static str, fn(&Adapter) -> Result<(), Failed>);

const CHECKS: [Check; 12] = [
    ("a_lost_device_is_an_error", lost_device),
    ("a_lost_device_is_an_error_of_async_calls", lost_device_async),
    ("a_device_lost_while_awaited_ends_the_call", lost_while_awaited),
    ("a_device_lost_before_binding_is_an_error", lost_before_binding),
    ("a_device_lost_before_reading_is_an_error", lost_before_reading),
    ("a_device_lost_between_submissions_is_an_error", lost_between_submissions),
    ("a_device_lost_at_any_time_is_an_error", lost_at_any_time),
    ("a_buffer_beyond_the_limits_is_an_error", beyond_limits),
    ("a_buffer_destroyed_before_submission_is_an_error", destroyed_before_submission),
    ("a_buffer_destroyed_before_binding_is_an_error", destroyed_before_binding),
    ("an_encoder_dropped_leaves_no_trace", dropped_encoders),
    ("threads_share_kernels", threads_share),
];

/// Far longer than any check takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// The checks as tests of an adapter.
pub fn trials(adapter: &Adapter) -> Vec<Trial> {
    let test = |(name, check): Check| {
        adapter.test(&format!("{}::faults::{name}", adapter.key), move |adapter| ends(adapter, check))
    };
    CHECKS.into_iter().map(test).collect()
}

/// A check that hangs is a failure; its thread stays behind.
fn ends(adapter: &Adapter, check: fn(&Adapter) -> Result<(), Failed>) -> Result<(), Failed> {
    let (done, outcome) = mpsc::channel();
    let adapter = adapter.clone();
    std::thread::spawn(move || done.send(check(&adapter)));
    outcome.recv_timeout(PATIENCE).map_err(|error| match error {
        mpsc::RecvTimeoutError::Timeout => format!("not done after {PATIENCE:?}"),
        mpsc::RecvTimeoutError::Disconnected => "panicked".into(),
    })?
}

const DIMS: [usize; 4] = [4, 8, 6, 6];

fn training(adapter: &Adapter) -> Result<Training, Error> {
    Training::new(&adapter.kernels, &adapter.queue, &DIMS, &Choice::default())
}

fn lost(error: &Error) -> bool {
    matches!(error, Error::DeviceLost { .. })
}

fn lost_device(adapter: &Adapter) -> Result<(), Failed> {
    let own = adapter.with_default_limits()?;
    let mut layer = host_layer(&own)?;
    let x = Array2::<f32>::ones((4, 3));
    let saved = layer.forward_training(x.view(), None)?.saved;
    own.device.destroy();
    owed("forward", layer.forward_training(x.view(), None), lost)?;
    owed("inference", layer.inference(x.view(), None), lost)?;
    owed("backward", layer.backward_training(x.view(), x.view(), None, &saved), lost)?;
    owed("frozen", layer.backward_frozen(x.view(), x.view(), None), lost)?;
    owed("observe", layer.observe(x.view()), lost)
}

fn lost_device_async(adapter: &Adapter) -> Result<(), Failed> {
    let own = adapter.with_default_limits()?;
    let mut layer = host_layer(&own)?;
    let x = Array2::<f32>::ones((4, 3));
    let saved = layer.forward_training(x.view(), None)?.saved;
    own.device.destroy();
    pollster::block_on(async {
        owed("forward", layer.forward_training_async(x.view(), None).await, lost)?;
        owed("inference", layer.inference_async(x.view(), None).await, lost)?;
        owed("backward", layer.backward_training_async(x.view(), x.view(), None, &saved).await, lost)?;
        owed("frozen", layer.backward_frozen_async(x.view(), x.view(), None).await, lost)?;
        owed("observe", layer.observe_async(x.view()).await, lost)
    })
}

/// The device goes away between the submission of an async call and the first poll.
fn lost_while_awaited(adapter: &Adapter) -> Result<(), Failed> {
    let own = adapter.with_default_limits()?;
    let x = Array2::from_shape_vec((50, 3), normal(150, 41))?;
    let mut layer = host_layer(&own)?;
    let mut call = pin!(layer.forward_training_async(x.view(), None));
    if call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
        return Err("the call did not wait".into());
    }
    own.device.destroy();
    let done = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // An error shows in the call that waits.
                own.device.poll(wgpu::PollType::Poll).ok();
                std::thread::yield_now();
            }
        });
        let outcome = pollster::block_on(call);
        done.store(true, Ordering::Relaxed);
        outcome
    });
    match outcome {
        Ok(forward) if forward.y == host_layer(adapter)?.forward_training(x.view(), None)?.y => Ok(()),
        Ok(forward) => Err(format!("another y than on a device that was not destroyed: {:?}", forward.y).into()),
        error => owed("awaited", error, lost),
    }
}

fn lost_before_binding(adapter: &Adapter) -> Result<(), Failed> {
    let own = adapter.with_default_limits()?;
    let training = training(&own)?;
    own.device.destroy();
    owed("bound again", training.bind(), lost)?;
    // Kernels that are not in the cache.
    let kernels = Kernels::new(&own.device);
    let outcome = Training::new(&kernels, &own.queue, &DIMS, &Choice::default());
    owed("bound for the first time", outcome.map(drop), lost)
}

fn lost_before_reading(adapter: &Adapter) -> Result<(), Failed> {
    let own = adapter.with_default_limits()?;
    let training = training(&own)?;
    training.submit()?;
    own.device.destroy();
    owed("reading", training.read(), lost)
}

/// A lost device takes work and says nothing; what is read back then must not pass for a result.
fn lost_between_submissions(adapter: &Adapter) -> Result<(), Failed> {
    let own = adapter.with_default_limits()?;
    let training = training(&own)?;
    training.submit()?;
    own.device.destroy();
    training.submit()?;
    owed("reading", training.read(), lost)
}

/// The device goes away at any point of steps that another thread runs.
fn lost_at_any_time(adapter: &Adapter) -> Result<(), Failed> {
    for delay in (0..20).map(|i| Duration::from_micros(i * i * 50)) {
        let own = adapter.with_default_limits()?;
        let training = training(&own)?;
        let run = || loop {
            match training.submit().and_then(|_| training.read()) {
                Ok(contents) => training.judge(&contents)?,
                error => return owed("a step", error, lost),
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(delay);
                own.device.destroy();
            });
            run()
        })?;
    }
    Ok(())
}

fn beyond_limits(adapter: &Adapter) -> Result<(), Failed> {
    let bytes = 1 << 16;
    let limits = wgpu::Limits { max_buffer_size: bytes, max_storage_buffer_binding_size: bytes, ..Default::default() };
    let own = adapter.with_limits(limits)?;
    let largest = own.device.limits().max_buffer_size;
    storage(&own.device, "the largest", largest)?;
    let outcome = storage(&own.device, "too large", largest + 4);
    owed("a buffer", outcome, |error| matches!(error, Error::Limit { what: "a buffer", .. }))
}

fn destroyed_before_submission(adapter: &Adapter) -> Result<(), Failed> {
    let own = adapter.with_default_limits()?;
    let training = training(&own)?;
    training.x.destroy();
    let refused = |error: &Error| matches!(error, Error::Device { reason, .. } if reason.contains("destroyed"));
    owed("submitted", training.submit(), refused)?;
    // Outside of an error scope it is wgpu's handler that hears of it.
    let heard = Arc::new(AtomicUsize::new(0));
    let ear = heard.clone();
    own.device.on_uncaptured_error(Arc::new(move |_| {
        ear.fetch_add(1, Ordering::Relaxed);
    }));
    own.queue.submit([training.encode().finish()]);
    if heard.load(Ordering::Relaxed) == 0 {
        return Err("nobody heard of it".into());
    }
    self::training(&own)?.holds()
}

fn destroyed_before_binding(adapter: &Adapter) -> Result<(), Failed> {
    let training = training(adapter)?;
    training.x.destroy();
    let refused = |error: &Error| matches!(error, Error::Device { reason, .. } if reason.contains("destroyed"));
    owed("bound", training.bind(), refused)?;
    self::training(adapter)?.holds()
}

/// Encoders that never become a submission: with a step recorded, in the middle of a pass, and finished.
fn dropped_encoders(adapter: &Adapter) -> Result<(), Failed> {
    let training = training(adapter)?;
    let before = training.read()?;
    drop(training.encode());
    drop(training.encode().finish());
    let mut encoder = adapter.device.create_command_encoder(&Default::default());
    let pass = encoder.begin_compute_pass(&Default::default()).forget_lifetime();
    drop(encoder);
    drop(pass);
    if training.read()? != before {
        return Err("an encoder that was dropped ran".into());
    }
    training.holds()
}

/// Clones of the kernels in several threads: variants that only one of them needs, and variants that they compile at once.
fn threads_share(adapter: &Adapter) -> Result<(), Failed> {
    let kernels = Kernels::new(&adapter.device);
    let run = |n: usize, kernels: Kernels| -> Result<(), Failed> {
        for strategy in [Strategy::Split, Strategy::Whole] {
            let choice = Choice::by(strategy);
            // Planes of 35 for scalars, of 36 for values of four.
            for dims in [[n + 1, 8, 5, 7], [n + 1, 8, 6, 6]] {
                let training = Training::new(&kernels, &adapter.queue, &dims, &choice)?;
                training.holds()?;
                training.holds()?;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let spawn = |n| {
            let (run, kernels) = (&run, kernels.clone());
            scope.spawn(move || run(n, kernels))
        };
        let threads: Vec<_> = (1..=4).map(spawn).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?)
    })
}

fn host_layer(adapter: &Adapter) -> Result<HostBatchNorm, Error> {
    HostBatchNorm::new(&adapter.device, &adapter.queue, 3, Layout::ChannelsFirst, Config::default())
}
