//! The plan without a device: for random shapes, limits and choices, what the kernels and the error bound count on holds.

use batchnorm_wgpu::kernels::{Geometry, Reduction, Storage, Strategy as By};
use batchnorm_wgpu::{
    Approach, Capabilities, Choice, DType, Error, Layout, Operation, Plan, Preference, RunningStatistics, Shape,
    Tuning, TuningPoint, required_limits, wgpu,
};
use batchnorm_wgpu_check::plan::Request;
use proptest::prelude::*;

/// A device opened with the limits of a shape holds what its layer binds, in one binding each, up to what wgpu binds at all.
#[test]
fn required_limits_hold_everything_that_a_layer_binds() {
    for dims in [[2, 5_000_000], [1, 9_000_000], [40, 1_000_000], [64, 4], [100_000, 1_000]] {
        for (layout, dtype) in [Layout::ChannelsFirst, Layout::ChannelsLast].into_iter().zip(DType::ALL) {
            let shape = Shape::new(&dims, layout).unwrap();
            let limits = required_limits(&shape, dtype);
            let [binds, holds] = [limits.max_storage_buffer_binding_size, limits.max_buffer_size];
            let running = RunningStatistics::size(shape.channels());
            for (what, bytes) in [("running", running), ("tensor", dtype.bytes(shape.elements()))] {
                assert!(binds >= bytes && holds >= bytes, "{shape}, {dtype}: {what} takes {bytes} of {binds}");
            }
            let device_type = wgpu::DeviceType::Cpu;
            let capabilities = Capabilities { limits, subgroups: false, shader_f16: false, device_type };
            for operation in Operation::ALL {
                let plan =
                    Plan::new(operation, &shape, dtype, &capabilities, &Tuning::none(), &Choice::default()).unwrap();
                let scratch = plan.scratch_planes() * 4 * shape.channels() as u64;
                assert!(binds >= scratch && plan.parts == 1, "{shape}, {dtype}, {operation}: {scratch} of {binds}");
            }
        }
    }
}

/// Shapes at the end of what a `usize` counts are refused, and no size wraps around on the way.
#[test]
fn the_largest_shapes_are_refused() {
    let largest = usize::MAX / 4;
    for (dims, layout) in [
        ([1, largest], Layout::ChannelsFirst),
        ([largest, 1], Layout::ChannelsFirst),
        ([2, largest / 2], Layout::ChannelsLast),
    ] {
        let shape = Shape::new(&dims, layout).unwrap();
        for dtype in DType::ALL {
            let limits = wgpu::Limits::default();
            let capabilities =
                Capabilities { limits, subgroups: false, shader_f16: false, device_type: wgpu::DeviceType::Other };
            for operation in Operation::ALL {
                let plan = Plan::new(operation, &shape, dtype, &capabilities, &Tuning::none(), &Choice::default());
                let Err(Error::Limit { needed, allowed, .. }) = plan else { panic!("{shape}: {plan:?}") };
                assert!(needed > allowed, "{shape}: {needed} of {allowed}");
            }
            assert!(required_limits(&shape, dtype).max_buffer_size >= dtype.bytes(shape.elements()));
        }
    }
}

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
    (device_type, any::<[bool; 2]>(), [0u32..4, 0u32..4, 0u32..4], prop_oneof![Just(65535u32), 1u32..200], binding)
        .prop_map(|(device_type, [subgroups, shader_f16], [invocations, size, storage], grid, binding)| Capabilities {
            limits: wgpu::Limits {
                max_compute_invocations_per_workgroup: 100 << invocations,
                max_compute_workgroup_size_x: 100 << size,
                max_compute_workgroup_storage_size: 4000 << storage,
                max_compute_workgroups_per_dimension: grid,
                max_storage_buffer_binding_size: 1 << binding,
                ..wgpu::Limits::default()
            },
            subgroups,
            shader_f16,
            device_type,
        })
}

/// Any strategy, with any of what it has to choose.
fn approach() -> impl Strategy<Value = Approach> {
    let held = prop::option::of(prop_oneof![prop::sample::select(By::HELD.to_vec()), 0u32..40]);
    prop_oneof![
        (prop::option::of(0u32..40), any::<Option<bool>>())
            .prop_map(|(splits, reverse)| Approach::Split { splits, reverse }),
        Just(Approach::Whole),
        held.prop_map(|held| Approach::Resident { held }),
        Just(Approach::Plain),
    ]
}

fn choice() -> impl Strategy<Value = Choice> {
    let geometry = prop::option::of(prop::sample::select(Geometry::ALL.to_vec()));
    let reduction = prop::option::of(prop::sample::select(Reduction::ALL.to_vec()));
    let size = prop::option::of(prop_oneof![(0u32..12).prop_map(|bits| 1 << bits), 0u32..300]);
    let storage = prop::option::weighted(0.2, prop::sample::select(Storage::ALL.to_vec()));
    (prop::option::of(approach()), geometry, reduction, size, storage).prop_map(
        |(approach, geometry, reduction, workgroup_size, storage)| Choice {
            approach,
            geometry,
            reduction,
            workgroup_size,
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
        approach(),
        prop::option::of(prop::sample::select(Geometry::ALL.to_vec())),
        (prop_oneof![Just(None), (0u32..12).prop_map(Some)], 0u32..5000),
    );
    let point =
        point.prop_map(|(operation, rows, (channels, values), approach, geometry, (size, workgroups))| TuningPoint {
            operation,
            rows,
            channels,
            values,
            prefer: Preference {
                choice: Choice {
                    approach: Some(approach),
                    geometry,
                    workgroup_size: Some(size.map_or(0, |bits| 1 << bits)),
                    ..Choice::default()
                },
                workgroups,
            },
            inner: None,
            fraction_of_copy: None,
        });
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
        let request = Request { operation, shape, dtype, capabilities, tuning, choice };
        if let Err(broken) = request.check() {
            return Err(TestCaseError::fail(broken.to_string()));
        }
    }
}

#[test]
fn built_in_tunings_can_be_read() {
    let all = Tuning::all_built_in().unwrap();
    assert!(!all.is_empty() && all.iter().all(|(key, tuning)| tuning.adapter == *key && !tuning.measured.is_empty()));
    // They survive being written, to the letter.
    for (key, tuning) in &all {
        assert_eq!(Tuning::from_json(&tuning.to_json()).unwrap(), *tuning);
        let file = format!("{}/tuning/{key}.json", env!("CARGO_MANIFEST_DIR"));
        assert_eq!(tuning.to_json() + "\n", std::fs::read_to_string(file).unwrap(), "{key}");
    }
}

#[test]
fn the_nearest_shape_decides() {
    let shape = Shape::new(&[8, 64, 32, 32], Layout::ChannelsFirst).unwrap();
    let sized = |choice, size| Choice { workgroup_size: Some(size), ..choice };
    let prefer = |choice| Preference { choice, workgroups: 64 };
    let point = |channels, values, size| TuningPoint {
        operation: Operation::ForwardTraining,
        rows: false,
        channels,
        values,
        prefer: prefer(sized(Choice::split(None, false), size)),
        inner: None,
        fraction_of_copy: None,
    };
    let resident = prefer(sized(Choice::resident(16), 128));
    let points = vec![
        point(64, 100_000, 16),
        point(64, 9000, 32),
        point(8, 8192, 64),
        // Nearest of all: a channel has 2048 values of four, which 128 lanes hold.
        TuningPoint { prefer: resident, ..point(64, 8192, 64) },
    ];
    let plan = |points: Vec<TuningPoint>, choice: Choice| {
        let tuning = Tuning { points, ..Tuning::none() };
        Plan::new(Operation::ForwardTraining, &shape, DType::F32, &Capabilities::default_limits(), &tuning, &choice)
            .unwrap()
    };
    let resident_plan = plan(points.clone(), Choice::default());

    let chosen = (resident_plan.approach, resident_plan.workgroup_size);
    assert_eq!(chosen, (Approach::Resident { held: 16 }, 128));
    assert_eq!(plan(points[..3].to_vec(), Choice::default()).workgroup_size, 32);
    assert_eq!(plan(points, Choice::by(By::Split)).workgroup_size, 32);
    assert_eq!(plan(Vec::new(), Choice::default()).workgroup_size, 256);
}

#[test]
fn files_that_are_no_tuning_are_refused() {
    let good = Tuning::none().to_json();
    for (from, to) in [("batchnorm-tuning-1", "batchnorm-tuning-9"), ("\"adapter\"", "\"adaptor\""), ("{", "[")] {
        assert!(matches!(Tuning::from_json(&good.replacen(from, to, 1)), Err(Error::Tuning { .. })), "{to}");
    }
}

/// A training forward of planes, by the kind of device.
fn planned(dims: &[usize], dtype: DType, capabilities: &Capabilities, choice: Choice) -> Result<Plan, Error> {
    let shape = Shape::new(dims, Layout::ChannelsFirst).unwrap();
    Plan::new(Operation::ForwardTraining, &shape, dtype, capabilities, &Tuning::none(), &choice)
}

/// WebGPU's limits with some changed.
fn limited(change: impl Fn(&mut wgpu::Limits)) -> Capabilities {
    let mut capabilities = Capabilities::default_limits();
    change(&mut capabilities.limits);
    capabilities
}

fn binding_of(bytes: u64) -> Capabilities {
    limited(|limits| limits.max_storage_buffer_binding_size = bytes)
}

#[test]
fn parts_are_whole_samples_that_fit_a_binding() {
    for (dims, dtype, binding, parts, first) in [
        // A sample that fills a binding.
        ([2, 32, 1024, 1024], DType::F32, 1 << 27, 2, 1 << 25),
        // Samples of 256 bytes begin where bindings may: four fit, and three make equal parts.
        ([6, 4, 4, 4], DType::F32, 1027, 2, 192),
        // Those of 300 bytes begin up to 256 bytes behind their binding.
        ([6, 3, 5, 5], DType::F32, 1024, 3, 150),
        ([6, 3, 5, 5], DType::F16, 512, 6, 75),
        // What wgpu binds at most.
        ([2, 1024, 1024, 256], DType::F32, 1 << 31, 2, 1 << 28),
    ] {
        let plan = planned(&dims, dtype, &binding_of(binding), Choice::by(By::Split)).unwrap();
        assert_eq!((plan.parts, plan.elements_of(0)), (parts, [first, 0]), "{dims:?}");
    }
    // The elements of the first part of a channel.
    let plan = planned(&[6, 4, 4, 4], DType::F32, &binding_of(1024), Choice::by(By::Split)).unwrap();
    assert_eq!(plan.first_part(), 48);
    // Rows of two samples.
    let plan = planned(&[2, 254], DType::F32, &Capabilities::default_limits(), Choice::by(By::Split)).unwrap();
    assert_eq!((plan.fold, plan.first_part()), (2, 2));
}

#[test]
fn results_of_many_parts_find_lanes_that_merge_them() {
    // Rows of four samples, which has four times the results, and columns that share a workgroup.
    for device_type in [wgpu::DeviceType::Cpu, wgpu::DeviceType::DiscreteGpu] {
        let capabilities = Capabilities { device_type, ..Capabilities::default_limits() };
        let plan = planned(&[253_864, 8153], DType::F32, &capabilities, Choice::default()).unwrap();
        let merged = plan.all_splits() * plan.fold;
        assert!(plan.fold == 4 && merged <= 16 * plan.workgroup_size / plan.tile, "{plan:?}");
    }
}

#[test]
fn a_binding_is_made_of_words() {
    // 13 values of f16, and 32 bytes that they may begin behind their binding, take 58 bytes.
    for (binding, fits) in [(58, false), (60, true)] {
        let capabilities = limited(|limits| {
            limits.max_storage_buffer_binding_size = binding;
            limits.min_storage_buffer_offset_alignment = 32;
        });
        let scalar = Choice { geometry: Some(Geometry::Scalar), ..Choice::default() };
        match planned(&[8, 13], DType::F16, &capabilities, scalar) {
            Err(Error::Limit { what: "one sample", needed: 60, allowed: 58, .. }) => assert!(!fits),
            other => assert!(fits && !matches!(other, Err(Error::Limit { what: "one sample", .. })), "{other:?}"),
        }
    }
}

#[test]
fn no_more_splits_are_wanted_than_the_scratch_holds() {
    let choice = Choice { geometry: Some(Geometry::Rows4), workgroup_size: Some(1), ..Choice::by(By::Split) };
    let prefer = Preference { choice, workgroups: 1 << 20 };
    // Channels, splits, and planes of C floats: a shift and two sums of each split, for each of the folded samples.
    for (channels, splits, planes) in [(4, 11, 23), (2, 6, 26)] {
        let shape = Shape::new(&[32, channels], Layout::ChannelsFirst).unwrap();
        let point = TuningPoint {
            operation: Operation::ForwardTraining,
            rows: true,
            channels: channels as u64,
            values: 64,
            prefer,
            inner: None,
            fraction_of_copy: None,
        };
        let tuning = Tuning { points: vec![point], ..Tuning::none() };
        // A binding that just holds the tensor, and so 32 planes at most.
        let capabilities = binding_of(4 * shape.elements() as u64);
        let choice = Choice::default();
        let plan = Plan::new(Operation::ForwardTraining, &shape, DType::F32, &capabilities, &tuning, &choice).unwrap();
        assert_eq!((plan.splits(), plan.scratch_planes()), (splits, planes), "{channels}");
    }
}

#[test]
fn a_long_column_is_held_by_a_larger_workgroup() {
    for (values, workgroup_size) in [(64 * 32, 64), (64 * 32 + 1, 128), (256 * 32, 256)] {
        let choice = Choice { geometry: Some(Geometry::Scalar), ..Choice::resident(32) };
        let capabilities = Capabilities { device_type: wgpu::DeviceType::Cpu, ..Capabilities::default_limits() };
        let plan = planned(&[1, 2, values], DType::F32, &capabilities, choice).unwrap();
        assert_eq!((plan.workgroup_size, plan.tile), (workgroup_size, 1), "{values}");
    }
}

#[test]
fn limits_are_kept_to_the_last_byte_and_named() {
    let all = Capabilities::default_limits();
    let (split, whole) = (Choice::by(By::Split), Choice { workgroup_size: Some(64), ..Choice::by(By::Whole) });
    let alone = Choice { workgroup_size: Some(1), geometry: Some(Geometry::Scalar), ..split };
    let few = limited(|limits| limits.max_compute_workgroups_per_dimension = 4);
    let sized = |size| Choice { workgroup_size: Some(size), ..Choice::default() };
    let narrow = limited(|limits| limits.max_compute_workgroup_size_x = 64);
    let little = limited(|limits| limits.max_compute_workgroup_storage_size = 4096);
    let [no, one] = [0, 1].map(|size| limited(|limits| limits.max_compute_invocations_per_workgroup = size));
    let cpu = |binding| Capabilities { device_type: wgpu::DeviceType::Cpu, ..binding_of(binding) };
    let [m, n] = [(1 << 31) - 1, 1 << 31];
    for (good, bad, what, needed, allowed) in [
        ((vec![m, 1], &all, split), (vec![n, 1], &all, split), "a channel", 1 << 31, (1 << 31) - 1),
        ((vec![4, 16, 16, 16], &few, whole), (vec![4, 17, 16, 16], &few, whole), "the dispatch", 17, 16),
        ((vec![8, 8], &all, sized(256)), (vec![8, 8], &all, sized(512)), "a workgroup", 512, 256),
        ((vec![8, 8], &narrow, sized(64)), (vec![8, 8], &narrow, sized(128)), "a workgroup", 128, 64),
        ((vec![8, 8], &little, sized(128)), (vec![8, 8], &little, sized(256)), "a workgroup", 256, 128),
        ((vec![8, 8], &one, Choice::default()), (vec![8, 8], &no, Choice::default()), "a workgroup", 1, 0),
        // A sample of 75 elements, and 64 that its part may begin behind its binding.
        (
            (vec![2, 3, 5, 5], &binding_of(556), split),
            (vec![2, 3, 5, 5], &binding_of(555), split),
            "one sample",
            556,
            555,
        ),
        // A shift and two sums for each split.
        ((vec![2, 64], &binding_of(768), split), (vec![2, 64], &binding_of(767), split), SCRATCH, 768, 767),
        // And for each part: of 200, and of 32 with two samples folded.
        (
            (vec![200, 16, 20, 20], &cpu(401 * 64), split),
            (vec![200, 16, 20, 20], &cpu(401 * 64 - 1), split),
            SCRATCH,
            401 * 64,
            401 * 64 - 1,
        ),
        // And for each part and split, of which one invocation has two for 16384 values.
        (
            (vec![4095, 1, 16384], &binding_of(1 << 16), alone),
            (vec![4096, 1, 16384], &binding_of(1 << 16), alone),
            SCRATCH,
            16385 * 4,
            1 << 16,
        ),
        (
            (vec![2, 254], &binding_of(1 << 13), split),
            (vec![64, 254], &binding_of(1 << 12), split),
            SCRATCH,
            130 * 254 * 4,
            1 << 12,
        ),
    ] {
        let plan = |(dims, capabilities, choice): (Vec<usize>, &Capabilities, Choice)| {
            planned(&dims, DType::F32, capabilities, choice)
        };
        plan(good).unwrap();
        match plan(bad) {
            Err(Error::Limit { what: named, needed: wanted, allowed: least, .. }) => {
                assert_eq!((named, wanted, least), (what, needed, allowed))
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

const SCRATCH: &str = "the scratch buffer";

/// What is too large, how much it needs, what allows how much, and what to do.
#[test]
fn limits_are_said_in_plain_words() {
    let sized = Choice { workgroup_size: Some(512), ..Choice::default() };
    let (split, whole) = (Choice::by(By::Split), Choice { workgroup_size: Some(64), ..Choice::by(By::Whole) });
    let webgpu = Capabilities::default_limits();
    let cpu = Capabilities { device_type: wgpu::DeviceType::Cpu, ..binding_of(401 * 64 - 1) };
    let few = limited(|limits| limits.max_compute_workgroups_per_dimension = 4);
    let binding = "but the device's max_storage_buffer_binding_size allows";
    let cases: [(&[usize], &Capabilities, Choice, String); 6] = [
        (
            &[2, 1 << 24],
            &webgpu,
            split,
            format!(
                "the scratch buffer needs 201326592 bytes (192.0 MiB), {binding} 134217728 bytes (128.0 MiB); split the \
                 tensor over C, since channels do not depend on each other, or open the device with a higher limit where \
                 the adapter has one"
            ),
        ),
        (
            &[200, 16, 20, 20],
            &cpu,
            split,
            format!(
                "the scratch buffer needs 25664 bytes, {binding} 25663 bytes; use a smaller batch, or open the device with \
                 a higher limit where the adapter has one"
            ),
        ),
        (
            &[2, 64, 1024, 1024],
            &webgpu,
            Choice::default(),
            format!(
                "one sample needs 268435456 bytes (256.0 MiB), {binding} 134217728 bytes (128.0 MiB); open the device with \
                 a higher limit where the adapter has one, or split the tensor over C, since channels do not depend on each \
                 other; by itself a layer splits tensors over N only"
            ),
        ),
        (
            &[1 << 31, 1],
            &webgpu,
            split,
            "a channel needs 2147483648 values, but the kernels' counter allows 2147483647 values; use smaller batches, or \
             statistics() with RunningPolicy::pooled over parts of the data"
                .into(),
        ),
        (
            &[4, 17, 16, 16],
            &few,
            whole,
            "the dispatch needs 17 workgroups, but the square of the device's max_compute_workgroups_per_dimension allows \
             16 workgroups; split the tensor over C; channels do not depend on each other"
                .into(),
        ),
        (
            &[8, 8],
            &webgpu,
            sized,
            "a workgroup needs 512 invocations, but the device (max_compute_invocations_per_workgroup, \
             max_compute_workgroup_size_x and max_compute_workgroup_storage_size / 32) allows 256 invocations; choose a \
             smaller workgroup size; a device that allows none runs no compute shaders"
                .into(),
        ),
    ];
    for (dims, capabilities, choice, said) in cases {
        assert_eq!(planned(dims, DType::F32, capabilities, choice).unwrap_err().to_string(), said);
    }
}

#[test]
fn what_is_forced_and_cannot_run_is_named() {
    let dims = [8, 64, 8, 8];
    let none = Choice::default();
    let long: [usize; 3] = [1, 16, 1 << 20];
    for (dims, choice, named, because) in [
        (&dims[..], Choice::resident(5), "resident", "[4, 8, 16, 32]"),
        (&dims, Choice { workgroup_size: Some(96), ..none }, "workgroup size 96", "power of two"),
        (&dims, Choice::split(0, None), "splits 0", "between 1 and 128"),
        (&dims, Choice::split(100, None), "splits 100", "make 64, not 100"),
        (&dims, Choice { geometry: Some(Geometry::Rows4), ..none }, "rows4", "inner 64, 64 channels and 512 elements"),
        (&dims, Choice { reduction: Some(Reduction::Subgroup), ..none }, "subgroup", "has it: false"),
        (&dims, Choice { storage: Some(Storage::F16Words), ..none }, "f16_words", "dtype is f32"),
        (&long, Choice::by(By::Resident), "resident", "262144 values per channel exceed 256 lanes with 32"),
        (&[256, 64, 1 << 16], Choice::by(By::Whole), "whole", "one binding does not hold the tensor"),
        (&[8, 1, 1 << 20], Choice { workgroup_size: Some(128), ..Choice::by(By::Whole) }, "whole", "2097152 values"),
    ] {
        let refused = planned(dims, DType::F32, &Capabilities::default_limits(), choice).unwrap_err();
        let Error::KernelUnavailable { kernel, reason } = refused else { panic!("{named}: {refused}") };
        assert!(kernel == named && reason.contains(because), "{kernel}, {reason}; expected {named}, {because}");
    }
}

#[test]
fn a_larger_workgroup_is_no_way_to_forced_splits() {
    let cpu = Capabilities { device_type: wgpu::DeviceType::Cpu, ..Capabilities::default_limits() };
    let splits = |splits: u32| planned(&[64, 16, 32, 32], DType::F32, &cpu, Choice::split(splits, None));
    assert_eq!(splits(128).unwrap().workgroup_size, 8);
    assert!(splits(200).unwrap_err().to_string().contains("between 1 and 128"));
}

#[test]
fn features_are_used_where_they_help() {
    let able = Capabilities { subgroups: true, shader_f16: true, ..Capabilities::default_limits() };
    let unable = Capabilities::default_limits();
    for (dims, capabilities, storage, reduction) in [
        // One element at a time, words are shared.
        ([8, 1, 63, 63], &able, Storage::F16, Reduction::Subgroup),
        ([8, 1, 64, 64], &able, Storage::F16Words, Reduction::Subgroup),
        // Several columns in a workgroup.
        ([8, 16, 4, 4], &able, Storage::F16Words, Reduction::Tree),
        ([8, 1, 63, 63], &unable, Storage::F16Words, Reduction::Tree),
    ] {
        let plan = planned(&dims, DType::F16, capabilities, Choice::default()).unwrap();
        assert_eq!((plan.storage, plan.reduction), (storage, reduction), "{dims:?}");
    }
}

#[test]
fn pipelines_are_told_their_workgroup() {
    let plan = planned(&[8, 16, 32, 32], DType::F32, &Capabilities::default_limits(), Choice::by(By::Split)).unwrap();
    assert_eq!(plan.constants(), [("WORKGROUP", 256.0)]);
}

/// What the numbers of a plan are where they cannot be wrong, only slow.
#[test]
fn work_is_dealt_out_as_the_device_wants_it() {
    let on = |device_type| Capabilities { device_type, ..Capabilities::default_limits() };
    let (cpu, gpu, other) = (on(wgpu::DeviceType::Cpu), on(wgpu::DeviceType::DiscreteGpu), on(wgpu::DeviceType::Other));
    let none = Choice::default();
    let split = Choice { workgroup_size: Some(256), ..Choice::by(By::Split) };
    let sized = |size| Choice { workgroup_size: Some(size), ..none };
    for (dims, capabilities, choice, strategy, [size, tile, splits, segment, held]) in [
        // Enough workgroups; no more than there are full rounds; as many as keep the device busy.
        (&[8, 16, 32, 32][..], &gpu, split, By::Split, [256, 1, 8, 256, 0]),
        (&[8, 16, 32, 32], &cpu, none, By::Split, [8, 1, 2, 1024, 0]),
        (&[8, 3, 7, 7], &cpu, none, By::Split, [8, 1, 10, 40, 0]),
        // Rows: the widest tile that leaves the fewest columns out.
        (&[4096, 96], &gpu, split, By::Split, [256, 8, 128, 32, 0]),
        (&[4096, 64], &gpu, split, By::Split, [256, 16, 256, 16, 0]),
        (&[4096, 128], &gpu, split, By::Split, [256, 32, 128, 32, 0]),
        (&[4096, 40], &gpu, Choice { geometry: Some(Geometry::Scalar), ..split }, By::Split, [256, 8, 128, 32, 0]),
        // No lane's run is longer than the error bound counts on; results beyond what it counts on only where they must be.
        (&[200_000, 32], &gpu, sized(8), By::Split, [8, 8, 25, 8000, 0]),
        (&[1_048_578, 32], &gpu, sized(8), By::Split, [8, 8, 65, 8066, 0]),
        (&[8, 256], &gpu, split, By::Split, [256, 64, 2, 4, 0]),
        // A column in registers, several columns in a workgroup where they are short; not rows in small pieces.
        (&[8, 64, 8, 8], &other, none, By::Resident, [256, 8, 1, 128, 4]),
        (&[64, 256], &other, none, By::Resident, [256, 32, 1, 64, 8]),
        (&[4096, 64], &other, none, By::Split, [256, 16, 256, 16, 0]),
        (&[4096, 64], &other, Choice::by(By::Resident), By::Resident, [256, 1, 1, 4096, 16]),
        // A column for one workgroup.
        (&[8, 64, 8, 8], &other, Choice::by(By::Whole), By::Whole, [256, 8, 1, 128, 0]),
        (&[1, 4, 1 << 19], &cpu, Choice::by(By::Whole), By::Whole, [16, 1, 1, 131_072, 0]),
    ] {
        let plan = planned(dims, DType::F32, capabilities, choice).unwrap();
        let found = [plan.workgroup_size, plan.tile, plan.splits(), plan.segment, plan.approach.held()];
        assert_eq!((plan.strategy(), found), (strategy, [size, tile, splits, segment, held]), "{dims:?}");
    }
}

#[test]
fn forced_choices_are_kept() {
    let shape = Shape::new(&[8, 16, 32, 32], Layout::ChannelsFirst).unwrap();
    let choice = Choice { geometry: Some(Geometry::Scalar), workgroup_size: Some(64), ..Choice::split(4, None) };
    let (capabilities, tuning) = (Capabilities::default_limits(), Tuning::none());
    let plan = Plan::new(Operation::Inference, &shape, DType::F32, &capabilities, &tuning, &choice).unwrap();
    assert_eq!((plan.geometry, plan.workgroup_size, plan.splits()), (Geometry::Scalar, 64, 4));
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
