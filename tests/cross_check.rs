//! The cross-check on every adapter present, each adapter a set of tests of its own: the matrix against the float64
//! reference, the golden cases against PyTorch, planted faults, repeated runs, and what callers get wrong.
//!
//! The first adapter runs all of it; the others the golden cases, and the rest too where they are required. The matrix is the quick
//! choice of `bn check`, on the others one case in four of that; `bn check --full --all-adapters` runs the whole. Planted faults,
//! and a tensor of millions of elements, are for the first adapter. Tests `at_length` run more of what their namesakes run some
//! of. What does not run is shown as ignored, and `--ignored` runs it.
//!
//! An adapter of `BATCHNORM_REQUIRE_ADAPTERS` (names as in `bn info`, separated by commas) that is missing is a failure.
//! Without the variable the software adapters that are missing show as ignored tests.

mod adapter;
mod training;

use adapter::{Adapter, SOFTWARE, faults, find, indices, kernels, large, measure, micro, misuse, steps};
use batchnorm_wgpu::kernels::{Geometry, Strategy as By, Variant};
use batchnorm_wgpu::reference::bound::compare;
use batchnorm_wgpu::{Activation, Choice, Config, DType, Kernels, Layout, Options, Plan, RuntimeChecks, Shape};
use batchnorm_wgpu_check::case::{Case, Inputs, Operation, Setup};
use batchnorm_wgpu_check::conversion;
use batchnorm_wgpu_check::data::Data;
use batchnorm_wgpu_check::fault::{FAULTS, Fault};
use batchnorm_wgpu_check::golden::Golden;
use batchnorm_wgpu_check::matrix::{Ranking, matrix, must_be_covered, part_cases, part_limits, runs_as};
use batchnorm_wgpu_check::run::run;
use batchnorm_wgpu_check::suite::{Expectations, Suite, median};
use libtest_mimic::{Arguments, Failed, Trial};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

fn main() {
    let arguments = Arguments::from_args();
    let required = std::env::var("BATCHNORM_REQUIRE_ADAPTERS").unwrap_or_default();
    let required: Vec<&str> = required.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let adapters = find();
    let of = |(i, adapter): (usize, &Adapter)| {
        let runs = i == 0 || required.contains(&adapter.key.as_str());
        let trials = of_adapter(adapter, i == 0).into_iter().map(move |trial| {
            let ignored = trial.has_ignored_flag() || !runs;
            trial.with_ignored_flag(ignored)
        });
        golden(adapter).into_iter().chain(trials).collect()
    };
    let mut trials = in_turns(adapters.iter().enumerate().map(of).collect());
    let missing = |name: &&str| !adapters.iter().any(|adapter| adapter.key == **name);
    for name in required.iter().copied().filter(missing) {
        let found = adapters.iter().map(|adapter| adapter.key.clone()).collect::<Vec<_>>().join(", ");
        let message = format!("adapter {name} is required and missing; found: {found}; scripts/setup installs it");
        trials.push(Trial::test(format!("{name}::present"), move || Err(message.into())));
    }
    for name in SOFTWARE.iter().filter(|name| missing(name) && !required.contains(name)) {
        trials.push(Trial::test(format!("{name}::adapter_is_missing"), || Ok(())).with_ignored_flag(true));
    }
    if adapters.is_empty() && required.is_empty() {
        trials.push(Trial::test("an_adapter_is_present", || Err("no adapter at all; run scripts/setup".into())));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// Lets adapters take turns, so that those that run at the same time are different ones: OpenGL and SwiftShader compile one
/// shader at a time, whatever the device.
fn in_turns(of_adapters: Vec<Vec<Trial>>) -> Vec<Trial> {
    let mut rest: Vec<_> = of_adapters.into_iter().map(Vec::into_iter).collect();
    let mut trials = Vec::new();
    loop {
        let turn: Vec<Trial> = rest.iter_mut().filter_map(Iterator::next).collect();
        if turn.is_empty() {
            return trials;
        }
        trials.extend(turn);
    }
}

fn of_adapter(adapter: &Adapter, is_first: bool) -> Vec<Trial> {
    let key = &adapter.key;
    let mut trials = vec![];
    // One test per operation and shape: a failure names both.
    let mut groups: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    // Mutants and planted faults are found on the first adapter; the whole matrix runs on all of them by `bn check --full`.
    for case in quick_choice(adapter).iter().step_by(if is_first { 1 } else { 4 }) {
        let shape = case.shape.to_string().replace(' ', "_");
        groups.entry(format!("{key}::matrix::{}::{shape}", case.operation.name())).or_default().push(case.clone());
    }
    for (name, cases) in groups {
        trials.push(adapter.test(&name, move |adapter| matrix_holds(adapter, &cases)));
    }
    trials.push(adapter.test(&format!("{key}::matrix_covers_every_kernel"), every_kernel_is_covered));
    trials.push(adapter.test(&format!("{key}::the_quick_choice_has_all_there_is"), quick_choice_has_all));
    trials.push(adapter.test(&format!("{key}::tensors_in_parts_hold"), tensors_in_parts_hold));
    trials.push(adapter.test(&format!("{key}::parts_begin_where_they_lie"), parts_begin_where_they_lie));
    let large = adapter.test(&format!("{key}::a_tensor_beyond_the_binding_limit_holds"), large::holds);
    trials.push(large.with_ignored_flag(!is_first));
    trials.push(adapter.test(&format!("{key}::conversions_are_exact"), conversions_are_exact));
    trials.push(adapter.test(&format!("{key}::bounds_are_tight"), bounds_are_tight));
    for (name, check) in AT_LENGTH {
        trials.push(adapter.test(&format!("{key}::{name}"), move |adapter| check(adapter, Length::Short)));
        let long = adapter.test(&format!("{key}::{name}_at_length"), move |adapter| check(adapter, Length::Long));
        trials.push(long.with_ignored_flag(true));
    }
    trials.push(adapter.test(&format!("{key}::shift_scale_and_permutation_hold"), laws_hold));
    trials.extend(FAULTS.iter().map(|fault| {
        let name = format!("{key}::fault_is_found::{}", fault.name.replace(' ', "_"));
        let check = if fault.in_parts { fault_in_parts_is_found } else { fault_is_found };
        adapter.test(&name, move |adapter| check(adapter, fault)).with_ignored_flag(!is_first)
    }));
    trials.extend(misuse::trials(adapter));
    trials.extend(faults::trials(adapter));
    trials.extend(kernels::trials(adapter));
    trials.extend(steps::trials(adapter));
    trials.extend(micro::trials(adapter));
    trials.extend(indices::trials(adapter));
    trials.extend(measure::trials(adapter));
    trials
}

/// How much of what it could run a test runs.
#[derive(Clone, Copy, PartialEq)]
enum Length {
    Short,
    Long,
}

/// Tests that run some of many cases, or more of them.
type AtLength = (&'static str, fn(&Adapter, Length) -> Result<(), Failed>);

const AT_LENGTH: [AtLength; 4] = [
    ("runs_repeat_to_the_bit", runs_repeat),
    ("default_limits_suffice", default_limits_suffice),
    ("runtime_checks_do_not_matter", runtime_checks_do_not_matter),
    ("random_calls_hold", random_calls_hold),
];

/// A choice of the matrix: see [`Ranking`].
fn quick_choice(adapter: &Adapter) -> Vec<Case> {
    let Ranking { mut cases, quick, .. } = Ranking::new(matrix(&adapter.kernels), &adapter.kernels);
    cases.truncate(quick);
    cases
}

fn matrix_holds(adapter: &Adapter, cases: &[Case]) -> Result<(), Failed> {
    if cases.is_empty() {
        return Err("no case to run".into());
    }
    let mut expectations = Expectations::default();
    let mut suite = Suite::new(adapter.kernels.clone(), adapter.queue.clone(), &mut expectations);
    let failures: Vec<String> = cases
        .iter()
        .map(|case| suite.run(case))
        .filter_map(|outcome| outcome.failure.map(|failure| format!("{}: {failure}", outcome.case)))
        .collect();
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n").into()) }
}

/// The matrix runs every kernel that the device can run; what runs is told by the plans, the matrix tests judge it.
fn every_kernel_is_covered(adapter: &Adapter) -> Result<(), Failed> {
    let capabilities = adapter.capabilities();
    let (mut covered, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for case in matrix(&adapter.kernels) {
        if !ids.insert(case.to_string()) {
            return Err(format!("two cases are called {case}").into());
        }
        covered.extend(case.variants(&adapter.kernels)?.iter().map(Variant::name));
    }
    let needed = |variant: &Variant| must_be_covered(variant) && variant.check(&capabilities).is_ok();
    let all = Variant::apart().filter(needed).map(|variant| variant.name());
    let holes: BTreeSet<String> = all.filter(|name| !covered.contains(name)).collect();
    if holes.is_empty() { Ok(()) } else { Err(format!("no case runs {holes:?}").into()) }
}

/// Every kernel that the device runs occurs in the quick choice by every geometry and reduction, with every storage, with ReLU and
/// without; every kind of data and every activation do with every operation that any case has them with.
fn quick_choice_has_all(adapter: &Adapter) -> Result<(), Failed> {
    let capabilities = adapter.capabilities();
    let Ranking { cases, quick, .. } = Ranking::new(matrix(&adapter.kernels), &adapter.kernels);
    let of_kernel = |variant: &Variant| {
        let (kernel, settings) = (variant.kernel.name, variant.settings);
        [
            format!("{kernel} by {} and {}", settings.geometry, settings.reduction),
            format!("{kernel} of {}", settings.storage),
            match settings.activation {
                Activation::None | Activation::Relu => {
                    format!("{kernel} with {}, from y: {}", settings.activation, settings.from_y)
                }
                of_operations => of_operations.to_string(),
            },
        ]
    };
    let of_case = |case: &Case| {
        let Case { operation, data, config, .. } = case;
        [
            format!("{operation} of {data}"),
            format!("{operation} with {}", config.activation),
            config.activation.to_string(),
        ]
    };
    let mut has: BTreeSet<String> = BTreeSet::new();
    for case in &cases[..quick] {
        has.extend(case.variants(&adapter.kernels)?.iter().flat_map(of_kernel));
        has.extend(of_case(case));
    }
    let all = Variant::apart().filter(|variant| must_be_covered(variant) && variant.check(&capabilities).is_ok());
    let all: BTreeSet<String> =
        all.flat_map(|variant| of_kernel(&variant)).chain(cases.iter().flat_map(of_case)).collect();
    let missing: Vec<&String> = all.difference(&has).collect();
    if quick > 500 {
        return Err(format!("{quick} cases are not quick").into());
    }
    if missing.is_empty() { Ok(()) } else { Err(format!("no case of the quick choice has {missing:?}").into()) }
}

fn conversions_are_exact(adapter: &Adapter) -> Result<(), Failed> {
    Ok(conversion::check(&adapter.device, &adapter.queue, &|source| Cow::Borrowed(source.text))?)
}

/// A bound that results never come near would let mistakes through. Of f32, where the arithmetic makes the error; elements of
/// 16 bits come within half a unit of their last place, which the bound must allow.
fn bounds_are_tight(adapter: &Adapter) -> Result<(), Failed> {
    let cases = quick_choice(adapter).into_iter().filter(|case| case.config.dtype == DType::F32);
    let mut expectations = Expectations::default();
    let mut suite = Suite::new(adapter.kernels.clone(), adapter.queue.clone(), &mut expectations);
    let ratio = median(cases.filter_map(|case| suite.run(&case).ratio()).collect());
    if ratio > 0.02 { Ok(()) } else { Err(format!("the median of error over bound is {ratio:.4}").into()) }
}

/// Without wgpu's runtime checks, and with workgroup memory zeroed, the results are the same.
fn runtime_checks_do_not_matter(adapter: &Adapter, length: Length) -> Result<(), Failed> {
    let runtime_checks = RuntimeChecks { bounds: false, loop_bounding: false, zero_workgroup_memory: true };
    let options = Options { runtime_checks, ..Options::default() };
    let unchecked = adapter.with_kernels(Kernels::with_options(&adapter.device, options));
    let step = if length == Length::Long { 2 } else { 40 };
    let cases: Vec<Case> = quick_choice(adapter).into_iter().step_by(step).collect();
    matrix_holds(&unchecked, &cases)
}

/// The largest shapes have the most workgroups that could finish in another order. In short each strategy of each operation
/// once.
fn runs_repeat(adapter: &Adapter, length: Length) -> Result<(), Failed> {
    let cases = matrix(&adapter.kernels);
    let forced = |case: &&Case| case.setup.choice.geometry.is_some() && case.setup.dx;
    let mut seen = BTreeSet::new();
    let mut another = |case: &&Case| {
        length == Length::Long || seen.insert(format!("{} {:?}", case.operation, case.setup.choice.strategy()))
    };
    let cases = cases.iter().filter(|case| case.shape.elements() > 20_000).filter(forced).filter(&mut another);
    let bits = |values: &Option<Vec<f32>>| values.as_ref().map(|v| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
    let mut compared = 0;
    for case in cases {
        let once = || run(&adapter.kernels, &adapter.queue, case.operation, &case.inputs(), &case.setup);
        let first = once()?;
        for _ in 0..2 {
            let again = once()?;
            let same = bits(&first.y) == bits(&again.y)
                && bits(&first.dx) == bits(&again.dx)
                && bits(&first.dresidual) == bits(&again.dresidual)
                && bits(&first.dgamma) == bits(&again.dgamma)
                && bits(&first.dbeta) == bits(&again.dbeta)
                && first.running == again.running;
            if !same {
                return Err(format!("{case}: two runs differ").into());
            }
            compared += 1;
        }
    }
    if compared == 0 { Err("no case was large enough".into()) } else { Ok(()) }
}

/// A device with WebGPU's default limits and no feature at all runs every operation.
fn default_limits_suffice(adapter: &Adapter, length: Length) -> Result<(), Failed> {
    let limited = adapter.with_default_limits()?;
    let cases: Vec<Case> = match length {
        Length::Short => quick_choice(&limited).into_iter().step_by(16).collect(),
        Length::Long => {
            let cases = matrix(&limited.kernels);
            let chosen = |case: &&Case| {
                let Choice { geometry, workgroup_size, .. } = case.setup.choice;
                geometry.is_none() && workgroup_size.is_none() && case.setup.in_place == case.setup.pooled
            };
            cases.iter().filter(chosen).step_by(23).cloned().collect()
        }
    };
    let runs = |operation| cases.iter().any(|case| case.operation == operation);
    if let Some(operation) = Operation::ALL.into_iter().find(|&operation| !runs(operation)) {
        return Err(format!("no case of {operation}").into());
    }
    matrix_holds(&limited, &cases)
}

/// Tensors of several bindings: on a device whose bindings are small, every operation, dtype and geometry; `bn check --full`
/// runs them all.
fn tensors_in_parts_hold(adapter: &Adapter) -> Result<(), Failed> {
    let small = adapter.with_limits(part_limits(adapter.adapter.limits()))?;
    let cases = part_cases(&small.kernels);
    for (operation, dtype) in Operation::ALL.into_iter().flat_map(|one| DType::ALL.map(|dtype| (one, dtype))) {
        for geometry in Geometry::ALL {
            let is = |case: &&Case| {
                case.operation == operation
                    && case.config.dtype == dtype
                    && case.setup.choice.geometry == Some(geometry)
            };
            let Some(case) = cases.iter().find(is) else {
                return Err(format!("no case of {operation}, {dtype}, {geometry}").into());
            };
            let (capabilities, tuning) = (small.capabilities(), small.kernels.tuning());
            let plan = Plan::new(operation, &case.shape, dtype, &capabilities, tuning, &case.setup.choice)?;
            if plan.parts < 3 {
                return Err(format!("{case}: {} parts", plan.parts).into());
            }
        }
    }
    let Ranking { mut cases, quick, .. } = Ranking::of_parts(cases, &small.kernels);
    cases.truncate(quick);
    matrix_holds(&small, &cases)
}

/// A few of those cases, for `cargo mutants`: one operation with every dtype and geometry, which is all that settles where in a
/// binding a part begins.
fn parts_begin_where_they_lie(adapter: &Adapter) -> Result<(), Failed> {
    let small = adapter.with_limits(part_limits(adapter.adapter.limits()))?;
    let cases = part_cases(&small.kernels);
    let of = |dtype, geometry| {
        let is = move |case: &&Case| {
            let (choice, operation) = (case.setup.choice, case.operation);
            (case.config.dtype, choice.geometry, operation) == (dtype, Some(geometry), Operation::ForwardTraining)
        };
        cases.iter().find(is).cloned()
    };
    let few = DType::ALL.into_iter().flat_map(|dtype| Geometry::ALL.map(|geometry| of(dtype, geometry)));
    let few: Vec<Case> = few.flatten().collect();
    matrix_holds(&small, &few)
}

/// Calls that nobody thought of: random shape, layout, data, choice and policy. The same ones in every run.
fn random_calls_hold(adapter: &Adapter, length: Length) -> Result<(), Failed> {
    let dimension = || prop_oneof![1usize..10, 1usize..40, Just(64), Just(129)];
    let layout = prop_oneof![Just(Layout::ChannelsFirst), Just(Layout::ChannelsLast)];
    let forced = (0..4, 0u32..7, 1u32..6, any::<bool>()).prop_map(|(forced, size, splits, reverse)| match forced {
        0 => Choice { workgroup_size: Some(1 << size), ..Choice::split(splits, reverse) },
        1 => Choice { workgroup_size: Some(8 << size), ..Choice::by(By::Resident) },
        2 => Choice::resident(4 << (size % 4)),
        _ => Choice::default(),
    });
    let call = (
        prop::collection::vec(dimension(), 2..5),
        layout,
        prop::sample::select(Operation::ALL.to_vec()),
        prop::sample::select(Data::ALL.to_vec()),
        forced,
        any::<[bool; 5]>(),
        prop::sample::select(Activation::ALL.to_vec()),
        prop::sample::select(DType::ALL.to_vec()),
    );
    let cases = if length == Length::Long { 120 } else { 15 };
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let outcome = runner.run(
        &call,
        |(dims, layout, operation, data, choice, [gamma, beta, pooled, in_place, residual], activation, dtype)| {
            let shape = Shape::new(&dims, layout).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assume!(!operation.trains() || shape.check_trainable().is_ok());
            prop_assume!(shape.elements() < 200_000 && runs_as(operation, &shape, dtype, &adapter.kernels, &choice));
            let in_place = in_place && operation != Operation::ForwardTraining && operation != Operation::Statistics;
            let setup = Setup { choice, pooled, in_place, ..Setup::default() };
            let plain = Case::new(operation, &shape);
            let config = Config { dtype, activation, ..plain.config };
            let case = Case { data, gamma, beta, residual, setup, config, ..plain };
            let mut expectations = Expectations::default();
            let outcome = Suite::new(adapter.kernels.clone(), adapter.queue.clone(), &mut expectations).run(&case);
            match outcome.failure {
                None => Ok(()),
                Some(failure) => Err(TestCaseError::fail(format!("{case}: {failure}"))),
            }
        },
    );
    outcome.map_err(|error| error.to_string().into())
}

/// y does not change when x is shifted or scaled by a power of two (eps scaled along), and follows a permutation of the
/// batch: laws that need no reference. The statistics are summed in another order, hence the small tolerance.
fn laws_hold(adapter: &Adapter) -> Result<(), Failed> {
    let shape = Shape::new(&[6, 5, 9], Layout::ChannelsFirst)?;
    let case = Case::new(Operation::ForwardTraining, &shape);
    let forward = |change: &dyn Fn(&mut Inputs)| -> Result<Vec<f32>, Failed> {
        let mut inputs = case.inputs();
        // Multiples of 1/64 stay exact under the shift.
        inputs.x.iter_mut().for_each(|x| *x = (*x * 64.0).round() / 64.0);
        change(&mut inputs);
        let results = run(&adapter.kernels, &adapter.queue, case.operation, &inputs, &case.setup)?;
        results.y.ok_or_else(|| "no y".into())
    };
    let near = |law: &str, a: &[f32], b: &[f32]| {
        let a: Vec<f64> = a.iter().copied().map(f64::from).collect();
        let tolerance: Vec<f64> = a.iter().map(|a| 2e-6 * (1.0 + a.abs())).collect();
        let outcome = compare(b, &a, &tolerance)?;
        if outcome.passed() && outcome.nan == 0 { Ok(()) } else { Err(Failed::from(format!("{law}: {outcome}"))) }
    };
    let plain = forward(&|_| {})?;
    near("shift", &plain, &forward(&|inputs| inputs.x.iter_mut().for_each(|x| *x += 1024.0))?)?;
    let scaled = forward(&|inputs| {
        inputs.x.iter_mut().for_each(|x| *x *= 8.0);
        inputs.config.eps *= 64.0;
    })?;
    near("scale", &plain, &scaled)?;
    let sample = shape.elements() / 6;
    let mut rotated = forward(&|inputs| inputs.x.rotate_left(2 * sample))?;
    rotated.rotate_right(2 * sample);
    near("permutation", &plain, &rotated)
}

fn golden(adapter: &Adapter) -> Vec<Trial> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
        .unwrap_or_default();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    files.sort();
    let prefix = format!("{}::golden", adapter.key);
    let count = files.len();
    let whole = Trial::test(format!("{prefix}::all_25_files_are_here"), move || match count {
        25 => Ok(()),
        _ => Err(format!("{count} files in tests/golden").into()),
    });
    let one = |path: PathBuf| {
        let name = format!("{prefix}::{}", path.file_stem().unwrap_or_default().to_string_lossy());
        adapter.test(&name, move |adapter| {
            let golden = Golden::load(&path)?;
            golden.run(&adapter.kernels, &adapter.queue).reason().map_or(Ok(()), |failure| Err(failure.into()))
        })
    };
    std::iter::once(whole).chain(files.into_iter().map(one)).collect()
}

/// Some case of the matrix fails with the fault in the shaders.
fn fault_is_found(adapter: &Adapter, fault: &Fault) -> Result<(), Failed> {
    let (kernels, planted) = fault.plant(&adapter.device);
    let mut expectations = Expectations::default();
    let mut suite = Suite::new(kernels, adapter.queue.clone(), &mut expectations);
    let cases = matrix(&adapter.kernels);
    // Those that compile few kernels first.
    let (few, rest): (Vec<&Case>, Vec<&Case>) = cases.iter().partition(|case| {
        let dims = case.shape.dims();
        let Choice { approach, storage, .. } = case.setup.choice;
        let choice = Choice { approach, storage, ..Choice::default() };
        let shapes = dims.contains(&11) || dims == [2, 9, 2, 2] || dims == [4, 6, 3, 65] || dims == [3, 5, 7, 3];
        shapes && case.setup == Setup { choice, ..Setup::default() }
    });
    let cases = reached(fault, shown(fault, &cases).chain(few).chain(rest), &adapter.kernels);
    verdict(found(&mut suite, cases, &planted)?, &planted)
}

/// Some case with tensors in parts fails with the fault in the shaders.
fn fault_in_parts_is_found(adapter: &Adapter, fault: &Fault) -> Result<(), Failed> {
    let small = adapter.with_limits(part_limits(adapter.adapter.limits()))?;
    let (kernels, planted) = fault.plant(&small.device);
    let mut expectations = Expectations::default();
    let mut suite = Suite::new(kernels, small.queue.clone(), &mut expectations);
    let cases = part_cases(&small.kernels);
    let cases = reached(fault, shown(fault, &cases).chain(&cases), &small.kernels);
    verdict(found(&mut suite, cases, &planted)?, &planted)
}

/// The cases that are known to find it.
fn shown<'a>(fault: &Fault, cases: &'a [Case]) -> impl Iterator<Item = &'a Case> {
    let shows = |case: &&Case| !fault.shows_in.is_empty() && case.to_string().contains(fault.shows_in);
    cases.iter().filter(shows)
}

/// The cases that run a kernel with the fault in it: others would be compiled to no purpose.
fn reached<'a>(
    fault: &Fault,
    cases: impl IntoIterator<Item = &'a Case>,
    kernels: &Kernels,
) -> impl Iterator<Item = &'a Case> {
    let reach = fault.reach();
    let runs = move |case: &&Case| {
        let variants = [case.variants_before(kernels), case.variants(kernels)];
        variants.into_iter().flatten().flatten().any(|variant| reach.contains(&variant.name()))
    };
    cases.into_iter().filter(runs)
}

fn verdict(found: bool, planted: &AtomicBool) -> Result<(), Failed> {
    match (found, planted.load(Ordering::Relaxed)) {
        (true, _) => Ok(()),
        (false, true) => Err("no case fails".into()),
        (false, false) => Err("the shaders no longer have the text that the fault changes; plant it anew".into()),
    }
}

/// Whether one of the cases fails once the fault is in a shader.
fn found<'a>(
    suite: &mut Suite<'_>,
    cases: impl IntoIterator<Item = &'a Case>,
    planted: &AtomicBool,
) -> Result<bool, Failed> {
    for case in cases {
        let outcome = suite.run(case);
        if outcome.refused {
            // A shader that does not compile is found by the compiler, not by the cross-check.
            return Err(format!("{case}: {}", outcome.failure.unwrap_or_default()).into());
        }
        if outcome.failure.is_some() && planted.load(Ordering::Relaxed) {
            return Ok(true);
        }
    }
    Ok(false)
}
