//! What the kernels of a device hold, forget, and say of themselves.

use super::Adapter;
use super::misuse::owed;
use crate::training::Training;
use batchnorm_wgpu::host::Gpu;
use batchnorm_wgpu::kernels::Strategy;
use batchnorm_wgpu::program::Program;
use batchnorm_wgpu::{
    BatchNorm, Choice, Config, Edit, Error, Kernels, Layout, Operation, Options, Shape, USEFUL_FEATURES, wgpu,
};
use libtest_mimic::{Failed, Trial};
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// The checks as tests of an adapter.
pub fn trials(adapter: &Adapter) -> Vec<Trial> {
    let test = |name: &str, check: fn(&Adapter) -> Result<(), Failed>| {
        adapter.test(&format!("{}::kernels::{name}", adapter.key), check)
    };
    let mut trials = vec![
        test("those_of_no_step_are_forgotten", trim),
        test("an_edit_shows", described),
        test("those_of_a_network_are_compiled_ahead", prepared),
        test("each_is_compiled_once", compiled_once),
        test("different_ones_are_compiled_at_the_same_time", at_the_same_time),
        test("one_that_is_refused_is_an_error_and_no_obstacle", refused),
    ];
    // Not an ignored test elsewhere: `--ignored` runs those.
    if adapter.adapter.features().contains(wgpu::Features::PIPELINE_CACHE) {
        trials.push(test("a_pipeline_cache_is_used", cache_is_used));
    }
    trials
}

/// Trimming forgets the kernels that no step has, and no others; they are compiled again when they are wanted.
fn trim(adapter: &Adapter) -> Result<(), Failed> {
    let kernels = Kernels::new(&adapter.device);
    let choice = Choice::by(Strategy::Split);
    let training = || Training::new(&kernels, &adapter.queue, &[4, 8, 6, 6], &choice);
    let compiled = |when: &str, expected: usize| match kernels.compiled() {
        actual if actual == expected => Ok(()),
        actual => Err(Failed::from(format!("{when}: expected {expected} compiled kernels, got {actual}"))),
    };
    compiled("before a layer is bound", 0)?;
    let step = training()?;
    compiled("two of each pass", 4)?;
    kernels.trim();
    compiled("trimmed while a step has them", 4)?;
    step.holds()?;
    drop(step);
    compiled("not trimmed", 4)?;
    kernels.trim();
    compiled("trimmed when no step has them", 0)?;
    training()?.holds()
}

fn described(adapter: &Adapter) -> Result<(), Failed> {
    let edited = Options { edit: Some(Arc::new(|_, wgsl| wgsl)), ..Options::default() };
    for (options, expected) in [(Options::default(), "edited: false"), (edited, "edited: true")] {
        let said = format!("{:?}", Kernels::with_options(&adapter.device, options));
        if !said.contains(expected) {
            return Err(format!("expected {expected}, got {said}").into());
        }
    }
    Ok(())
}

const DIMS: [[usize; 4]; 3] = [[4, 8, 6, 6], [2, 16, 5, 7], [4, 8, 6, 6]];
const STRATEGIES: [Strategy; 2] = [Strategy::Split, Strategy::Whole];

/// Those of [`Training`] over several shapes, by several strategies.
fn programs(kernels: &Kernels) -> Result<Vec<Program>, Error> {
    const FORWARD: [&str; 4] = ["x", "y", "saved", "scratch"];
    const BACKWARD: [&str; 5] = ["x", "dy", "dx", "saved", "scratch"];
    let mut programs = Vec::new();
    for (dims, strategy) in DIMS.iter().flat_map(|dims| STRATEGIES.map(|strategy| (dims, strategy))) {
        let shape = Shape::new(dims, Layout::ChannelsFirst)?;
        let layer = BatchNorm::with_choice(kernels, shape, Config::default(), &Choice::by(strategy))?;
        programs.push(layer.program(Operation::ForwardTraining, &FORWARD)?);
        programs.push(layer.program(Operation::BackwardTraining, &BACKWARD)?);
    }
    Ok(programs)
}

/// What was compiled ahead is what is bound, and every kernel is reported once.
fn prepared(adapter: &Adapter) -> Result<(), Failed> {
    let kernels = Kernels::new(&adapter.device);
    let reports = Mutex::new(Vec::new());
    let note = |done, all| reports.lock().unwrap().push((done, all));
    kernels.prepare_with(&programs(&kernels)?, note)?;
    let compiled = kernels.compiled();
    let mut reports = reports.into_inner()?;
    reports.sort_unstable();
    if compiled < 6 || reports != (1..=compiled).map(|done| (done, compiled)).collect::<Vec<_>>() {
        return Err(format!("{compiled} kernels, reported as {reports:?}").into());
    }
    for (dims, strategy) in DIMS.iter().flat_map(|dims| STRATEGIES.map(|strategy| (dims, strategy))) {
        Training::new(&kernels, &adapter.queue, dims, &Choice::by(strategy))?.holds()?;
    }
    match kernels.compiled() {
        after if after == compiled => {}
        after => return Err(format!("{compiled} kernels were compiled ahead, and {after} were needed").into()),
    }
    kernels.trim();
    match kernels.compiled() {
        0 => Ok(kernels.prepare([])?),
        left => Err(format!("{left} kernels of no step are left").into()),
    }
}

fn edited(adapter: &Adapter, edit: Arc<Edit>) -> Kernels {
    Kernels::with_options(&adapter.device, Options { edit: Some(edit), ..Options::default() })
}

/// Threads that want the same kernels at the same time.
fn compiled_once(adapter: &Adapter) -> Result<(), Failed> {
    let counts: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let counted = counts.clone();
    let kernels = edited(
        adapter,
        Arc::new(move |variant, wgsl| {
            *counted.lock().unwrap().entry(variant.name()).or_default() += 1;
            // Time for another thread to come.
            std::thread::sleep(Duration::from_millis(20));
            wgsl
        }),
    );
    let programs = programs(&kernels)?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| kernels.prepare(&programs))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?.map_err(Failed::from))
    })?;
    let counts = counts.lock().unwrap();
    match counts.values().all(|&count| count == 1) && counts.len() == kernels.compiled() {
        true => Ok(()),
        false => Err(format!("{} kernels, compiled {counts:?} times", kernels.compiled()).into()),
    }
}

/// The first kernel of each of two threads waits for the other's.
fn at_the_same_time(adapter: &Adapter) -> Result<(), Failed> {
    let meeting = Arc::new((Mutex::new(0), Condvar::new()));
    let place = meeting.clone();
    let kernels = edited(
        adapter,
        Arc::new(move |_, wgsl| {
            let (there, changed) = &*place;
            let mut there = there.lock().unwrap();
            *there += 1;
            changed.notify_all();
            drop(changed.wait_timeout_while(there, Duration::from_secs(20), |there| *there < 2));
            wgsl
        }),
    );
    let programs = programs(&kernels)?;
    let started = std::time::Instant::now();
    std::thread::scope(|scope| {
        let apart = [&programs[..1], &programs[2..3]];
        let kernels = &kernels;
        let threads = apart.map(|programs| scope.spawn(move || kernels.prepare(programs)));
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?.map_err(Failed::from))
    })?;
    match started.elapsed() {
        waited if waited < Duration::from_secs(20) => Ok(()),
        waited => Err(format!("one kernel waited {waited:?} for the other").into()),
    }
}

/// A text that is no shader the first time, and then is.
fn refused(adapter: &Adapter) -> Result<(), Failed> {
    let broken = Arc::new(Mutex::new(true));
    let is_broken = broken.clone();
    let edit = move |_: &_, wgsl: String| if *is_broken.lock().unwrap() { "no shader".into() } else { wgsl };
    let kernels = edited(adapter, Arc::new(edit));
    let programs = programs(&kernels)?;
    owed("a broken shader", kernels.prepare(&programs), |error| matches!(error, Error::Device { .. }))?;
    if kernels.compiled() != 0 {
        return Err(format!("{} broken kernels are held", kernels.compiled()).into());
    }
    *broken.lock().unwrap() = false;
    kernels.prepare(&programs)?;
    Training::new(&kernels, &adapter.queue, &DIMS[0], &Choice::by(Strategy::Split))?.holds()
}

/// A cache gives data, which makes another one; and it reaches the device, which refuses that of another.
fn cache_is_used(adapter: &Adapter) -> Result<(), Failed> {
    let features = (adapter.adapter.features() & USEFUL_FEATURES) | wgpu::Features::PIPELINE_CACHE;
    let open = || Gpu::from_adapter(&adapter.adapter, wgpu::Limits::default(), features);
    let new = |gpu: &Gpu, data: Option<&[u8]>| {
        let descriptor = wgpu::PipelineCacheDescriptor { label: None, data, fallback: true };
        // SAFETY: the data, where there is any, is what `get_data` gave.
        unsafe { gpu.device.create_pipeline_cache(&descriptor) }
    };
    let holds = |gpu: &Gpu, cache: &wgpu::PipelineCache| -> Result<(), Failed> {
        let options = Options { pipeline_cache: Some(cache.clone()), ..Options::default() };
        let kernels = Kernels::with_options(&gpu.device, options);
        Training::new(&kernels, &gpu.queue, &DIMS[0], &Choice::default())?.holds()
    };
    let (gpu, other) = (open()?, open()?);
    let cache = new(&gpu, None);
    holds(&gpu, &cache)?;
    let data = cache.get_data().filter(|data| !data.is_empty()).ok_or("the cache gives no data")?;
    holds(&other, &new(&other, Some(&data)))?;
    let options = Options { pipeline_cache: Some(cache), ..Options::default() };
    let kernels = Kernels::with_options(&other.device, options);
    let outcome = Training::new(&kernels, &other.queue, &DIMS[0], &Choice::default());
    owed("a cache of another device", outcome.map(drop), |error| matches!(error, Error::Device { .. }))
}
