//! Tuning where it runs.

use super::Adapter;
use batchnorm_wgpu::host::measure::{Cache, OPERATIONS, Tuner};
use batchnorm_wgpu::kernels::{Strategy, Variant};
use batchnorm_wgpu::{
    BatchNorm, Config, Error, Kernels, Layout, Operation, Options, Shape, Tuning, TuningPoint, View, Views,
};
use libtest_mimic::{Failed, Trial};
use std::sync::Arc;
use std::time::Duration;

/// The checks as tests of an adapter.
pub fn trials(adapter: &Adapter) -> Vec<Trial> {
    let name = |what: &str| format!("{}::measure::{what}", adapter.key);
    vec![
        adapter.test(&name("finds_a_plan_for_every_operation"), finds_plans),
        adapter.test(&name("a_wrong_plan_is_not_taken"), wrong_plans_are_not_taken),
        adapter.test(&name("is_kept_from_run_to_run"), is_kept),
        adapter.test(&name("takes_no_time_where_there_is_none"), takes_no_time),
    ]
}

/// Not among the shapes of any tuning.
fn shape() -> Result<Shape, Error> {
    Shape::new(&[3, 7, 4, 6], Layout::ChannelsFirst)
}

fn points_of(tuning: &Tuning, operation: Operation, shape: &Shape) -> Vec<TuningPoint> {
    tuning.points.iter().filter(|point| point.is_about(operation, shape)).cloned().collect()
}

/// Plans go by what was found, and nothing that comes with the crate is lost.
fn finds_plans(adapter: &Adapter) -> Result<(), Failed> {
    let (device, queue, shape) = (adapter.kernels.device(), &adapter.queue, shape()?);
    let mut tuner = Tuner::new(&adapter.kernels, queue);
    let last = Shape::new(&[9, 2, 5], Layout::ChannelsLast)?;
    for (shape, operation) in
        [&shape, &last].into_iter().flat_map(|shape| OPERATIONS.map(|operation| (shape, operation)))
    {
        // However slow the machine: two plans are compared.
        let found = tuner.measure(operation, shape, Some(Duration::ZERO))?;
        if found.tried < 2
            || ![found.microseconds, found.microseconds_without].iter().all(|time| time.is_finite() && *time > 0.0)
        {
            return Err(format!("{operation}: expected the times of two plans, got {found:?}").into());
        }
        let tuning = Tuning::none().with_points([found.point.clone()]);
        let kernels = Kernels::with_options(device, Options { tuning: Some(tuning), ..Options::default() });
        let plan = BatchNorm::new(&kernels, shape.clone(), Config::default())?.plan(operation)?;
        if plan.choice() != found.choice {
            return Err(format!("{operation}: {plan:?} is not by {found:?}").into());
        }
    }
    // Of a view the channels alone.
    let view = shape.clone().with_views(Views { x: Some(View { first: 0, of: 9 }), ..Views::default() })?;
    let tuning = Tuning::measure(device, queue, &[view], Duration::from_nanos(1))?;
    let built_in = Tuning::built_in(&device.adapter_info());
    let is_lost = |point: &TuningPoint| !tuning.points.contains(point);
    if points_of(&tuning, OPERATIONS[0], &shape).len() != 1 || built_in.points.iter().any(is_lost) {
        return Err(format!("expected one more point than come with the crate, got {tuning:?}").into());
    }
    match Tuning::from_json(&tuning.to_json())? == tuning {
        true => Ok(()),
        false => Err("the file says something else".into()),
    }
}

/// A compiler that gets some kernels wrong: their plans are passed over. Where all are wrong, it is an error.
fn wrong_plans_are_not_taken(adapter: &Adapter) -> Result<(), Failed> {
    let measured = |wrong: Option<&str>, budget| {
        let wrong: Vec<String> = wrong.into_iter().flat_map(str::split_whitespace).map(str::to_owned).collect();
        let edit = move |variant: &Variant, text: String| match wrong.iter().any(|kernel| kernel == variant.kernel.name)
        {
            true => text.replace("select(nan(), refined, finite)", "select(nan(), 1.01 * refined, finite)"),
            false => text,
        };
        let options = Options { edit: Some(Arc::new(edit)), ..Options::default() };
        let kernels = Kernels::with_options(adapter.kernels.device(), options);
        let shape = Shape::new(&[2, 4, 2, 2], Layout::ChannelsFirst)?;
        Tuner::new(&kernels, &adapter.queue).measure(Operation::ForwardTraining, &shape, budget)
    };
    let all = ["forward_whole", "forward_resident", "normalize"];
    let (least, strategies) = (Some(Duration::ZERO), [Strategy::Whole, Strategy::Resident, Strategy::Split]);
    let right = measured(None, least)?.choice.strategy();
    let kernel = strategies.iter().zip(all).find(|(strategy, _)| Some(**strategy) == right).map(|(_, kernel)| kernel);
    let found = measured(kernel, None)?;
    if found.choice.strategy() == right || found.tried < 8 {
        return Err(format!("{kernel:?} is wrong, and was not passed over: {found:?}").into());
    }
    match measured(Some(&all.join(" ")), least) {
        Err(Error::WrongResult { .. }) => Ok(()),
        other => Err(format!("expected that the result is wrong, got {other:?}").into()),
    }
}

/// Each run measures what the budget of those before did not reach, and nothing again; a damaged file is replaced.
fn is_kept(adapter: &Adapter) -> Result<(), Failed> {
    let (device, queue, shape) = (adapter.kernels.device(), &adapter.queue, shape()?);
    let folder = tempfile::tempdir()?;
    let cache = Cache::in_folder(folder.path().join("not there yet"));
    let file = cache.file_for(device).ok_or("expected a file")?;
    // No time, but for one operation.
    let run = || cache.tuning(device, queue, std::slice::from_ref(&shape), Duration::from_nanos(1));
    let mut before = Vec::new();
    for done in 1..=OPERATIONS.len() {
        let tuning = run()?;
        let points: Vec<_> = OPERATIONS.iter().flat_map(|operation| points_of(&tuning, *operation, &shape)).collect();
        if points.len() != done || points[..done - 1] != before {
            return Err(format!("run {done}: expected one point more than {before:?}, got {points:?}").into());
        }
        before = points;
    }
    // A mark that no measurement leaves.
    let kept = std::fs::read_to_string(&file)?.replace("\"workgroups\"", "\"workgroups\" ");
    std::fs::write(&file, &kept)?;
    run()?;
    if std::fs::read_to_string(&file)? != kept {
        return Err("what was known was measured anew".into());
    }
    std::fs::write(&file, &kept[..kept.len() / 3])?;
    run()?;
    match Tuning::from_json(&std::fs::read_to_string(&file)?)?.points.len() {
        1 => Ok(()),
        other => Err(format!("expected one point in place of a damaged file, got {other}").into()),
    }
}

/// Without any time nothing is measured.
fn takes_no_time(adapter: &Adapter) -> Result<(), Failed> {
    let device = adapter.kernels.device();
    let tuning = Tuning::measure(device, &adapter.queue, &[shape()?], Duration::ZERO)?;
    match tuning.points == Tuning::built_in(&device.adapter_info()).points {
        true => Ok(()),
        false => Err("expected no point without time".into()),
    }
}
