//! The plan without a device: for random shapes, limits and choices, what the kernels and the error bound count on holds.

use batchnorm_wgpu::kernels::{Geometry, Gradients, Reduction, Span, Storage, Strategy as By, program};
use batchnorm_wgpu::plan::{LONGEST_MERGE, LONGEST_RUN};
use batchnorm_wgpu::{
    Capabilities, Choice, Config, DType, Error, Layout, Operation, Plan, Preference, Shape, Tuning, TuningPoint, wgpu,
};
use proptest::prelude::*;

fn dimension() -> impl Strategy<Value = usize> {
    prop_oneof![1usize..9, 1usize..70, Just(49), Just(4099), 1usize..3000]
}

fn shape() -> impl Strategy<Value = Shape> {
    let layout = prop_oneof![Just(Layout::ChannelsFirst), Just(Layout::ChannelsLast)];
    (prop::collection::vec(dimension(), 2..5), layout).prop_map(|(dims, layout)| Shape::new(&dims, layout).unwrap())
}

fn capabilities() -> impl Strategy<Value = Capabilities> {
    let device_type = prop_oneof![
        Just(wgpu::DeviceType::Cpu),
        Just(wgpu::DeviceType::DiscreteGpu),
        Just(wgpu::DeviceType::IntegratedGpu),
        Just(wgpu::DeviceType::Other)
    ];
    // Mostly bindings that hold the tensor, else so small that it takes several.
    let binding = prop_oneof![3 => Just(32u64), 1 => 12u64..30];
    (device_type, any::<[bool; 2]>(), 0u32..4, prop_oneof![Just(65535u32), 1u32..200], binding).prop_map(
        |(device_type, [subgroups, shader_f16], size, grid, binding)| Capabilities {
            limits: wgpu::Limits {
                max_compute_invocations_per_workgroup: 100 << size,
                max_compute_workgroup_size_x: 100 << size,
                max_compute_workgroups_per_dimension: grid,
                max_storage_buffer_binding_size: 1 << binding,
                ..wgpu::Limits::default()
            },
            subgroups,
            shader_f16,
            device_type,
        },
    )
}

fn choice() -> impl Strategy<Value = Choice> {
    let strategy = prop::option::of(prop::sample::select(By::ALL.to_vec()));
    let geometry = prop::option::of(prop::sample::select(Geometry::ALL.to_vec()));
    let reduction = prop::option::of(prop::sample::select(Reduction::ALL.to_vec()));
    let size = prop::option::of(prop_oneof![(0u32..12).prop_map(|bits| 1 << bits), 0u32..300]);
    let held = prop::option::of(prop_oneof![prop::sample::select(By::HELD.to_vec()), 0u32..40]);
    let storage = prop::option::weighted(0.2, prop::sample::select(Storage::ALL.to_vec()));
    let rest = (prop::option::of(0u32..40), held, prop::option::of(any::<bool>()), storage);
    (strategy, geometry, reduction, size, rest).prop_map(
        |(strategy, geometry, reduction, workgroup_size, (splits, held, reverse, storage))| Choice {
            strategy,
            geometry,
            reduction,
            workgroup_size,
            splits,
            held,
            reverse,
            storage,
        },
    )
}

/// Any tuning file: also one that suits neither the shape nor the device.
fn tuning() -> impl Strategy<Value = Tuning> {
    let point = (
        prop::sample::select(Operation::ALL.to_vec()),
        any::<bool>(),
        (1u64..5000, 1u64..5_000_000),
        prop::sample::select(By::ALL.to_vec()),
        prop::option::of(prop::sample::select(Geometry::ALL.to_vec())),
        (
            prop_oneof![Just(None), (0u32..12).prop_map(Some)],
            0u32..5000,
            prop_oneof![prop::sample::select(By::HELD.to_vec()), 0u32..40],
            any::<bool>(),
        ),
    );
    let point = point.prop_map(
        |(operation, rows, (channels, values), strategy, geometry, (size, workgroups, held, reverse))| {
            let workgroup_size = size.map_or(0, |bits| 1 << bits);
            let prefer = Preference { strategy, geometry, reduction: None, workgroup_size, workgroups, held, reverse };
            TuningPoint { operation, rows, channels, values, prefer, fraction_of_copy: None }
        },
    );
    prop::collection::vec(point, 0..12).prop_map(|points| Tuning { points, ..Tuning::none() })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_covers_every_value_once(
        operation in prop::sample::select(Operation::ALL.to_vec()),
        shape in shape(),
        dtype in prop::sample::select(DType::ALL.to_vec()),
        capabilities in capabilities(),
        tuning in tuning(),
        choice in choice(),
    ) {
        let plan = match Plan::new(operation, &shape, dtype, &capabilities, &tuning, &choice) {
            // Without a forced choice only limits refuse.
            Err(Error::KernelUnavailable { kernel, reason }) => {
                // So many parts that no workgroup merges their results: bindings of a few kilobytes.
                let many = reason.contains("parts") && capabilities.limits.max_storage_buffer_binding_size < 1 << 22;
                prop_assert!(choice != Choice::default() || many, "{kernel}: {reason}");
                return Ok(());
            }
            Err(Error::Limit { .. }) => return Ok(()),
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
            Ok(plan) => plan,
        };
        // Values cover the elements.
        let (per_column, per_value) = match plan.geometry {
            Geometry::Scalar => (1, 1),
            Geometry::Planes4 => (1, 4),
            Geometry::Rows4 => (4, 1),
        };
        prop_assert_eq!(plan.columns as usize * per_column, shape.channels() * plan.fold as usize);
        prop_assert_eq!(plan.values as usize * per_value * plan.fold as usize, shape.values_per_channel());
        prop_assert_eq!(plan.inner as usize * per_value, shape.inner());
        prop_assert!(plan.fold == 1 || (plan.geometry == Geometry::Rows4 && plan.strategy == By::Split));
        // Parts cover the values, each fits a binding wherever its begin is aligned to, and so does what is in words.
        let (parts, part_values) = (u64::from(plan.parts), u64::from(plan.part_values));
        prop_assert!(parts * part_values >= plan.values.into() && (parts - 1) * part_values < plan.values.into());
        let alignment = u64::from(capabilities.limits.min_storage_buffer_offset_alignment);
        let mut elements = 0;
        for part in 0..plan.parts {
            let [own, before] = plan.elements_of(part);
            prop_assert_eq!(before, elements);
            let lead = before * dtype.size() % alignment;
            prop_assert!(own * dtype.size() + lead <= capabilities.limits.max_storage_buffer_binding_size);
            elements += own;
        }
        prop_assert_eq!(elements, shape.elements() as u64);
        prop_assert_eq!(plan.storage.dtype(), dtype);
        prop_assert!(plan.storage != Storage::F16 || capabilities.shader_f16);
        // Segments cover the values of a part, and none is empty.
        let (splits, segment) = (u64::from(plan.splits), u64::from(plan.segment));
        prop_assert!(splits * segment >= part_values);
        prop_assert!((splits - 1) * segment < part_values);
        let scratch = plan.scratch_planes() * shape.channels() as u64 * 4;
        prop_assert!(scratch <= capabilities.limits.max_storage_buffer_binding_size);
        // Tiles and lanes make up the workgroup.
        prop_assert!(plan.workgroup_size.is_power_of_two() && plan.tile.is_power_of_two());
        prop_assert!(plan.tile <= plan.workgroup_size);
        prop_assert!(plan.workgroup_size <= capabilities.limits.max_compute_invocations_per_workgroup);
        prop_assert!(plan.workgroup_size * 32 <= capabilities.limits.max_compute_workgroup_storage_size);
        prop_assert!(plan.reduction == Reduction::Tree || (capabilities.subgroups && plan.tile == 1));
        let lanes = u64::from(plan.workgroup_size / plan.tile);
        match plan.strategy {
            // The sequential part of a sum is no longer than the error bound counts on.
            By::Split => {
                prop_assert!(segment.div_ceil(lanes) <= LONGEST_RUN.into(), "{segment} over {lanes} lanes");
                let merged = (u64::from(plan.all_splits()) * u64::from(plan.fold)).div_ceil(lanes);
                let needed = (shape.values_per_channel() as u64).div_ceil(LONGEST_RUN.into());
                let merges = program(operation, plan.strategy, Gradients::All).len() > 1;
                // Folded samples round up once each.
                prop_assert!(!merges || merged <= (needed + 3).max(LONGEST_MERGE.into()), "{merged} merged, {needed}");
            }
            By::Whole => prop_assert!(plan.parts == 1 && plan.splits == 1 && segment.div_ceil(lanes) <= LONGEST_RUN.into()),
            // Registers hold the column whole.
            By::Resident => {
                prop_assert!(By::HELD.contains(&plan.held));
                prop_assert!(lanes * u64::from(plan.held) >= plan.values.into() && plan.splits == 1 && plan.parts == 1);
            }
        }
        // The plan can be forced as it is.
        let forced = Plan::new(operation, &shape, dtype, &capabilities, &Tuning::none(), &plan.choice()).unwrap();
        prop_assert_eq!(forced.choice(), plan.choice());
        let kernels = program(operation, plan.strategy, Gradients::All);
        prop_assert!((1..=2).contains(&kernels.len()));
        for kernel in kernels {
            let mut splits = 0;
            for part in 0..plan.parts(kernel.span) {
                // The grid holds every workgroup and is hardly larger.
                let [x, y] = plan.grid(kernel.span, part).map(u64::from);
                let dimension = u64::from(capabilities.limits.max_compute_workgroups_per_dimension);
                let groups = u64::from(plan.groups(kernel.span, part));
                prop_assert!(x <= dimension && y <= dimension && x * y >= groups && x * (y - 1) < groups);
                let params = plan.params(&shape, &Config::default(), kernel, part, 0);
                prop_assert_eq!(params.tile * params.lanes, plan.workgroup_size);
                prop_assert_eq!(params.groups, plan.groups(kernel.span, part));
                prop_assert_eq!(params.first_split, splits);
                splits += params.splits;
            }
            prop_assert!(kernel.span == Span::Column || splits == plan.all_splits());
        }
        // What was forced is kept.
        prop_assert!(choice.strategy.is_none_or(|forced| forced == plan.strategy));
        prop_assert!(choice.geometry.is_none_or(|forced| forced == plan.geometry));
        prop_assert!(choice.reduction.is_none_or(|forced| forced == plan.reduction));
        prop_assert!(choice.workgroup_size.is_none_or(|forced| forced == plan.workgroup_size));
        prop_assert!(choice.splits.is_none_or(|forced| forced == plan.splits));
        prop_assert!(choice.held.is_none_or(|forced| forced == plan.held));
        prop_assert!(choice.reverse.is_none_or(|forced| forced == plan.reverse));
        prop_assert!(choice.storage.is_none_or(|forced| forced == plan.storage));
    }
}

#[test]
fn built_in_tunings_can_be_read() {
    let all = Tuning::all_built_in().unwrap();
    assert!(all.iter().all(|(key, tuning)| tuning.adapter == *key && !tuning.measured.is_empty()));
    // They survive being written.
    assert!(all.iter().all(|(_, tuning)| Tuning::from_json(&tuning.to_json()).unwrap() == *tuning));
}

#[test]
fn the_nearest_shape_decides() {
    let shape = Shape::new(&[8, 64, 32, 32], Layout::ChannelsFirst).unwrap();
    let prefer = |workgroup_size| Preference {
        strategy: By::Split,
        geometry: None,
        reduction: None,
        workgroup_size,
        workgroups: 64,
        held: 0,
        reverse: false,
    };
    let point = |channels, values, size| TuningPoint {
        operation: Operation::ForwardTraining,
        rows: false,
        channels,
        values,
        prefer: prefer(size),
        fraction_of_copy: None,
    };
    let resident = Preference { strategy: By::Resident, held: 32, ..prefer(64) };
    let points = vec![
        point(64, 100_000, 16),
        point(64, 9000, 32),
        point(8, 8192, 64),
        // Nearest of all: a channel has 2048 values of four, which 64 lanes hold.
        TuningPoint { prefer: resident, ..point(64, 8192, 64) },
    ];
    let plan = |points: Vec<TuningPoint>, choice: Choice| {
        let tuning = Tuning { points, ..Tuning::none() };
        Plan::new(Operation::ForwardTraining, &shape, DType::F32, &Capabilities::default_limits(), &tuning, &choice)
            .unwrap()
    };
    let resident_plan = plan(points.clone(), Choice::default());

    assert_eq!((resident_plan.strategy, resident_plan.held, resident_plan.workgroup_size), (By::Resident, 32, 64));
    assert_eq!(plan(points[..3].to_vec(), Choice::default()).workgroup_size, 32);
    let split = Choice { strategy: Some(By::Split), ..Choice::default() };
    assert_eq!(plan(points, split).workgroup_size, 32);
    assert_eq!(plan(Vec::new(), Choice::default()).workgroup_size, 256);
}

#[test]
fn files_that_are_no_tuning_are_refused() {
    let good = Tuning::none().to_json();
    for (from, to) in [("batchnorm-tuning-1", "batchnorm-tuning-9"), ("\"adapter\"", "\"adaptor\""), ("{", "[")] {
        assert!(matches!(Tuning::from_json(&good.replacen(from, to, 1)), Err(Error::Tuning { .. })), "{to}");
    }
}

#[test]
fn a_sample_that_fills_a_binding_is_a_part() {
    let shape = Shape::new(&[2, 32, 1024, 1024], Layout::ChannelsFirst).unwrap();
    let (capabilities, tuning) = (Capabilities::default_limits(), Tuning::none());
    let plan =
        Plan::new(Operation::ForwardTraining, &shape, DType::F32, &capabilities, &tuning, &Choice::default()).unwrap();
    assert_eq!(plan.parts, 2);
}

#[test]
fn forced_choices_are_kept() {
    let shape = Shape::new(&[8, 16, 32, 32], Layout::ChannelsFirst).unwrap();
    let choice =
        Choice { geometry: Some(Geometry::Scalar), workgroup_size: Some(64), splits: Some(4), ..Choice::default() };
    let (capabilities, tuning) = (Capabilities::default_limits(), Tuning::none());
    let plan = Plan::new(Operation::Inference, &shape, DType::F32, &capabilities, &tuning, &choice).unwrap();
    assert_eq!((plan.geometry, plan.workgroup_size, plan.splits), (Geometry::Scalar, 64, 4));
}

#[test]
fn the_widest_geometry_that_fits_is_chosen() {
    let chosen = |dims: &[usize], layout| {
        let shape = Shape::new(dims, layout).unwrap();
        let (capabilities, tuning) = (Capabilities::default_limits(), Tuning::none());
        Plan::new(Operation::Inference, &shape, DType::F32, &capabilities, &tuning, &Choice::default())
            .unwrap()
            .geometry
    };
    assert_eq!(chosen(&[2, 3, 8, 8], Layout::ChannelsFirst), Geometry::Planes4);
    assert_eq!(chosen(&[2, 3, 7, 7], Layout::ChannelsFirst), Geometry::Scalar);
    assert_eq!(chosen(&[2, 7, 7, 64], Layout::ChannelsLast), Geometry::Rows4);
    assert_eq!(chosen(&[2, 7, 7, 65], Layout::ChannelsLast), Geometry::Scalar);
    assert_eq!(chosen(&[4, 7, 7, 65], Layout::ChannelsLast), Geometry::Rows4);
    assert_eq!(chosen(&[128, 64], Layout::ChannelsFirst), Geometry::Rows4);
}
