//! Residual, ReLU, storage types, work in place, and tensors in parts.

use super::*;

/// A value as `dtype` stores it.
fn rounded(values: &[f32], dtype: DType) -> Vec<f32> {
    values.iter().map(|&value| dtype.round(value.into()) as f32).collect()
}

/// A task whose data are rounded to `dtype`, if that holds them.
pub(super) fn stored_task(kind: &str, dy_kind: &str, m: usize, dtype: DType) -> Option<Task> {
    let seed = (m * 17 + kind.len()) as u64;
    let x = rounded(&data(kind, m, seed), dtype);
    let dy = rounded(&gradient(dy_kind, m, seed + 1), dtype);
    x.iter().all(|x| x.is_finite()).then(|| Task { dtype, ..task(&x, &dy) })
}

pub(super) fn with_residual(task: Task, kind: &str) -> Task {
    let residual = rounded(&data(kind, task.x.len(), 5), task.dtype);
    Task { residual: Some(residual), activation: Activation::Relu, ..task }
}

/// Holds every spread against the bound; gives the outcome of the last.
pub(super) fn holds(task: &Task, limit: f64, what: &str) -> Outcome {
    let judge = Judge::new(task);
    let check = |gpu: Gpu| {
        let outcome = judge.compare(&gpu.run(task));
        for (name, comparison) in NAMES.iter().zip(&outcome) {
            assert!(comparison.worst_ratio <= limit, "{what}, {}, {gpu:?}, {name}: {comparison}", task.dtype);
        }
        outcome
    };
    gpus(task.x.len()).into_iter().map(check).reduce(|_, last| last).unwrap()
}

/// The outputs that give `fault` away.
pub(super) fn broken(fault: Fault, task: &Task) -> Vec<&'static str> {
    let gpu = Gpu { lanes: 4, splits: 1, rounding: Rounding::Nearest, fault: None };
    let judge = Judge::new(task);
    assert!(judge.compare(&gpu.run(task)).iter().all(Comparison::passed), "{fault:?}: the task itself");
    let outcome = judge.compare(&Gpu { fault: Some(fault), ..gpu }.run(task));
    NAMES.iter().zip(&outcome).filter(|(_, comparison)| !comparison.passed()).map(|(name, _)| *name).collect()
}

#[test]
fn holds_for_every_storage_type_and_epilogue() {
    for dtype in DType::ALL {
        for kind in DATA {
            for m in [2, 5, 64, 333, 4097] {
                let Some(plain) = stored_task(kind, GRADIENTS[m % 5], m, dtype) else { continue };
                let outcome = holds(&plain, 1.0, &format!("{kind}, m {m}"));
                assert!(outcome.iter().all(|comparison| comparison.unbounded == 0), "{kind}, m {m}, {dtype}");
                // A residual is added element by element, whatever their number.
                let residuals = ["ordinary", "f16 values", "constant", "tiny numbers"];
                for residual in residuals.into_iter().take(if m > 1000 { 1 } else { 4 }) {
                    let full = with_residual(plain.clone(), residual);
                    holds(&full, 1.0, &format!("{kind} + {residual}, m {m}"));
                    let mean = full.x[0];
                    holds(
                        &Task { running: Some([mean, 1.3]), ..full },
                        1.0,
                        &format!("frozen {kind} + {residual}, m {m}"),
                    );
                }
            }
        }
    }
}

#[test]
fn few_masks_are_in_doubt_unless_z_is_at_the_corner() {
    let plain = stored_task("ordinary", "ordinary", 4097, DType::F32).unwrap();
    let full = with_residual(plain.clone(), "ordinary");
    let doubts = |task: &Task| Judge::new(task).tolerance[6].iter().filter(|&&tolerance| tolerance > 0.0).count();
    assert!(doubts(&full) < 4, "{}", doubts(&full));
    assert_eq!(doubts(&plain), 0);
    // The residual takes back what a kernel normalized, so that only rounding errors are left.
    let gpu = Gpu { lanes: 4, splits: 2, rounding: Rounding::Rough, fault: None };
    let residual: Vec<_> = gpu.run(&plain).y.iter().map(|y| -y).collect();
    let corner = Task { residual: Some(residual), activation: Activation::Relu, ..plain };
    assert!(doubts(&corner) > 4000, "{}", doubts(&corner));
    holds(&corner, 1.0, "at the corner");
    let judge = Judge::new(&corner);
    let got = Gpu { rounding: Rounding::Nearest, ..gpu }.run(&corner).dresidual;
    assert!(compare(&got, &judge.want[6], &vec![0.0; 4097]).unwrap().failures > 100);
}

#[test]
fn constant_channels_leave_z_to_beta_and_the_residual() {
    let residual = [0.5, -0.25, 0.0, 1.0, 0.1, -0.0, 1e-3, -3.0];
    let parameters = [1.25, -0.5, 1e-5];
    let full = Task {
        residual: Some(residual.to_vec()),
        activation: Activation::Relu,
        parameters,
        ..task(&[0.3; 8], &[1.5; 8])
    };
    let judge = Judge::new(&full);
    assert_eq!(judge.want[0], [0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(judge.tolerance[0], [0.0; 8]);
    assert_eq!(judge.want[6], [0.0, 0.0, 0.0, 1.5, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(judge.tolerance[6], [0.0; 8]);
    // z is exactly 0 at the first element: the mask is certain, and the wrong one is seen.
    assert!(broken(Fault::MaskWithEquality, &full).contains(&"dresidual"));
    assert!(broken(Fault::MaskWithEquality, &full).contains(&"dbeta"));
    let bare = Task { activation: Activation::Relu, parameters: [1.25, 0.0, 1e-5], ..task(&[0.3; 8], &[1.5; 8]) };
    assert!(broken(Fault::MaskWithEquality, &bare).contains(&"dresidual"));
    let without_scale = Task { parameters: [0.0, 0.0, 1e-5], ..full };
    assert_eq!(Judge::new(&without_scale).tolerance[6], [0.0; 8]);
}

#[test]
fn faults_of_the_epilogue_break_it() {
    for dtype in DType::ALL {
        for m in [17, 1000] {
            let full = with_residual(stored_task("ordinary", "positive", m, dtype).unwrap(), "ordinary");
            assert_eq!(
                broken(Fault::MaskWithoutResidual, &full),
                ["dx", "dgamma", "dbeta", "dresidual"],
                "{dtype}, m {m}"
            );
            let mut with_nan = full.clone();
            with_nan.residual.as_mut().unwrap()[m / 2] = f32::NAN;
            let found = broken(Fault::NanToZero, &with_nan);
            assert!(found.contains(&"y") && found.contains(&"dresidual"), "{dtype}, m {m}: {found:?}");
            if dtype != DType::F32 {
                let found = broken(Fault::Truncated, &full);
                assert!(found.contains(&"y") && found.contains(&"dx"), "{dtype}, m {m}: {found:?}");
            }
        }
    }
}

#[test]
fn holds_in_place() {
    for dtype in DType::ALL {
        for (gamma, beta) in [(1.25, -0.5), (-2.0, 0.0), (0.01, 3.0), (1.0, 100.0), (300.0, 0.1)] {
            for kind in ["ordinary", "offset 1e2", "offset 1e4", "constant", "ramp", "outlier first", "step"] {
                for (i, m) in [2, 5, 64, 1000, 4097].into_iter().enumerate() {
                    let task = stored_task(kind, GRADIENTS[i], m, dtype).unwrap();
                    let task = Task { parameters: [gamma, beta, 1e-5], in_place: true, ..task };
                    let outcome = holds(&task, 1.0, &format!("{kind}, gamma {gamma}, beta {beta}, m {m}"));
                    let bounded = outcome.iter().all(|comparison| comparison.unbounded == 0);
                    assert!(bounded || dtype == DType::F16, "{kind}, gamma {gamma}, beta {beta}, m {m}, {dtype}");
                }
            }
        }
    }
}

#[test]
fn work_in_place_costs_what_the_bound_says() {
    for dtype in DType::ALL {
        let task = Task { in_place: true, ..stored_task("ordinary", "positive", 1000, dtype).unwrap() };
        let found = broken(Fault::RecoveredWithBeta, &task);
        assert!(found.contains(&"dx") && found.contains(&"dgamma"), "{dtype}: {found:?}");
        // Without the loss of y's storage and of the division the bound would not hold.
        let task = Task { parameters: [0.01, 100.0, 1e-5], ..task };
        let judge = Judge::with(&task, &Execution { dtype, ..Execution::default() });
        let gpu = Gpu { lanes: 4, splits: 1, rounding: Rounding::Rough, fault: None };
        assert!(!judge.compare(&gpu.run(&task))[3].passed(), "{dtype}");
    }
    let flat = Task { in_place: true, parameters: [0.0, 1.0, 1e-5], ..task(&[1.0, 2.0, 4.0], &[1.0, 2.0, 3.0]) };
    let judge = Judge::new(&flat);
    assert_eq!(judge.tolerance[4], [f64::INFINITY]);
    assert!(judge.tolerance[5][0] < 1e-5);
    holds(&flat, 1.0, "gamma 0");
}

#[test]
fn a_layer_with_an_epilogue_is_refused_in_place() {
    let shape = Shape::new(&[3, 1], Layout::ChannelsFirst).unwrap();
    let execution = Execution { in_place: true, ..Execution::default() };
    for layer in [
        Layer { residual: Some(&[0.0; 3]), ..Layer::default() },
        Layer { activation: Activation::Relu, ..Layer::default() },
    ] {
        assert!(forward_training(&[1.0, 2.0, 3.0], &shape, &layer, &execution).is_err());
        assert!(backward_training(&[1.0, 2.0, 3.0], &[1.0; 3], &shape, &layer, &execution).is_err());
    }
}

#[test]
fn the_shift_of_a_split_tensor_comes_from_its_first_part() {
    for m in [100, 40_000] {
        for part in [1, 2, m / 3, m] {
            let mut plain = stored_task("ordinary", "positive", m, DType::F32).unwrap();
            for at in [0, part / 2, part - 1] {
                plain.x[at] = 3e4 + at as f32;
            }
            let split = Task { first_part: Some(part), ..plain };
            holds(&split, 1.0, &format!("m {m}, part {part}"));
            let outcome = Judge::with(&split, &Execution::default());
            let gpu = Gpu { lanes: 4, splits: 3, rounding: Rounding::Nearest, fault: None };
            let unaware = outcome.compare(&gpu.run(&split))[0].passed();
            assert!(m == 100 || part == m || !unaware, "m {m}, part {part}: the place of the shift has to matter");
        }
    }
}

#[test]
fn certain_overflow_has_to_be_infinite() {
    for (dtype, gamma) in [(DType::F16, 1e5), (DType::Bf16, 3e38)] {
        for activation in [Activation::None, Activation::Relu] {
            let plain = stored_task("ordinary", "positive", 333, dtype).unwrap();
            let huge = Task { activation, parameters: [gamma, 1.0, 1e-5], ..plain };
            let judge = Judge::new(&huge);
            let infinite = |i: usize| judge.want[i].iter().filter(|want| want.is_infinite()).count();
            assert!(infinite(0) > 10, "{dtype}: {} of y", infinite(0));
            assert!(judge.tolerance[0].iter().filter(|&&tolerance| tolerance == f64::INFINITY).count() < 3);
            holds(&huge, 1.0, "overflow");
            let found = broken(Fault::Saturated, &huge);
            assert!(found.contains(&"y"), "{dtype}, {activation}: {found:?}");
        }
    }
    let mut want = [65519.0, 65520.0, -65530.0, 65521.0, f64::NAN, 1e6];
    let mut tolerance = [f64::INFINITY, 0.0, 20.0, 0.5, f64::INFINITY, f64::INFINITY];
    settle_overflow(&mut want, &mut tolerance, DType::F16);
    assert_eq!(want[..4], [65519.0, f64::INFINITY, -65530.0, f64::INFINITY]);
    assert_eq!(tolerance, [f64::INFINITY, 0.0, 20.0, 0.0, f64::INFINITY, f64::INFINITY]);
    let before = want;
    settle_overflow(&mut want, &mut tolerance, DType::F32);
    assert_eq!(want[..4], before[..4]);
}

#[test]
fn tolerances_meet_at_the_edge_of_a_type() {
    use super::super::dtype::stored;
    // Whatever is certain to stay below half an ulp above the largest number rounds to a finite one.
    assert_eq!(stored(65519.0, 0.5, DType::F16), 0.5 + 65519.5 * 2f64.powi(-11));
    assert_eq!(stored(65519.0, 1.0, DType::F16), f64::INFINITY);
    assert_eq!(stored(65521.0, 1.0, DType::F16), 1.0);
    assert_eq!(stored(-1e9, 1.0, DType::F16), 1.0);
    assert_eq!(stored(1e9, f64::NAN, DType::F16), f64::INFINITY);
    assert_eq!(stored(1e39, 1.0, DType::F32), f64::INFINITY);
    assert_eq!(stored(f64::from(f32::MAX), 0.0, DType::F32), 0.0);
}
