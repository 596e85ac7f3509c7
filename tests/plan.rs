//! The plan without a device: for random shapes, limits and choices, what the kernels and the error bound count on holds.

use batchnorm_wgpu::Capabilities;
use batchnorm_wgpu::kernels::{Geometry, Reduction, Span};
use batchnorm_wgpu::{Choice, Config, Error, Layout, Plan, Shape, wgpu};
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
    (device_type, any::<bool>(), 0u32..4, prop_oneof![Just(65535u32), 1u32..200]).prop_map(
        |(device_type, subgroups, size, grid)| Capabilities {
            limits: wgpu::Limits {
                max_compute_invocations_per_workgroup: 100 << size,
                max_compute_workgroup_size_x: 100 << size,
                max_compute_workgroups_per_dimension: grid,
                max_storage_buffer_binding_size: 1 << 32,
                ..wgpu::Limits::default()
            },
            subgroups,
            device_type,
        },
    )
}

fn choice() -> impl Strategy<Value = Choice> {
    let geometry = prop::option::of(prop::sample::select(Geometry::ALL.to_vec()));
    let reduction = prop::option::of(prop::sample::select(Reduction::ALL.to_vec()));
    let size = prop::option::of(prop_oneof![(0u32..12).prop_map(|bits| 1 << bits), 0u32..300]);
    (geometry, reduction, size, prop::option::of(0u32..40)).prop_map(|(geometry, reduction, workgroup_size, splits)| {
        Choice { geometry, reduction, workgroup_size, splits }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_covers_every_value_once(shape in shape(), capabilities in capabilities(), choice in choice()) {
        let plan = match Plan::new(&shape, &capabilities, &choice) {
            // Without a forced choice only limits refuse.
            Err(Error::KernelUnavailable { .. }) => { prop_assert_ne!(choice, Choice::default()); return Ok(()); }
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
        prop_assert_eq!(plan.columns as usize * per_column, shape.channels());
        prop_assert_eq!(plan.values as usize * per_value, shape.values_per_channel());
        prop_assert_eq!(plan.inner as usize * per_value, shape.inner());
        // Segments cover the values, and none is empty.
        let (splits, segment) = (u64::from(plan.splits), u64::from(plan.segment));
        prop_assert!(splits * segment >= plan.values.into());
        prop_assert!((splits - 1) * segment < plan.values.into());
        // Tiles and lanes make up the workgroup.
        prop_assert!(plan.workgroup_size.is_power_of_two() && plan.tile.is_power_of_two());
        prop_assert!(plan.tile <= plan.workgroup_size);
        prop_assert!(plan.workgroup_size <= capabilities.limits.max_compute_invocations_per_workgroup);
        prop_assert!(plan.workgroup_size * 32 <= capabilities.limits.max_compute_workgroup_storage_size);
        prop_assert!(plan.reduction == Reduction::Tree || (capabilities.subgroups && plan.tile == 1));
        // The sequential part of a sum is no longer than the error bound counts on.
        let lanes = u64::from(plan.workgroup_size / plan.tile);
        let longest = 4 * (64 + (shape.values_per_channel() as f64).sqrt() as u64);
        prop_assert!(segment.div_ceil(lanes) <= longest, "{segment} over {lanes} lanes, longest {longest}");
        // The grid holds every workgroup and is hardly larger.
        for span in [Span::Segment, Span::Column] {
            let [x, y] = plan.grid(span).map(u64::from);
            let dimension = u64::from(capabilities.limits.max_compute_workgroups_per_dimension);
            let groups = u64::from(plan.groups(span));
            prop_assert!(x <= dimension && y <= dimension && x * y >= groups && x * (y - 1) < groups);
        }
        let params = plan.params(&shape, &Config::default(), Span::Segment);
        prop_assert_eq!(params.tile * params.lanes, plan.workgroup_size);
        prop_assert_eq!(params.groups, plan.groups(Span::Segment));
    }
}

#[test]
fn forced_choices_are_kept() {
    let shape = Shape::new(&[8, 16, 32, 32], Layout::ChannelsFirst).unwrap();
    let choice =
        Choice { geometry: Some(Geometry::Scalar), workgroup_size: Some(64), splits: Some(4), ..Choice::default() };
    let plan = Plan::new(&shape, &Capabilities::default_limits(), &choice).unwrap();
    assert_eq!((plan.geometry, plan.workgroup_size, plan.splits), (Geometry::Scalar, 64, 4));
}

#[test]
fn the_widest_geometry_that_fits_is_chosen() {
    let chosen = |dims: &[usize], layout| {
        let shape = Shape::new(dims, layout).unwrap();
        Plan::new(&shape, &Capabilities::default_limits(), &Choice::default()).unwrap().geometry
    };
    assert_eq!(chosen(&[2, 3, 8, 8], Layout::ChannelsFirst), Geometry::Planes4);
    assert_eq!(chosen(&[2, 3, 7, 7], Layout::ChannelsFirst), Geometry::Scalar);
    assert_eq!(chosen(&[2, 7, 7, 64], Layout::ChannelsLast), Geometry::Rows4);
    assert_eq!(chosen(&[2, 7, 7, 65], Layout::ChannelsLast), Geometry::Scalar);
    assert_eq!(chosen(&[128, 64], Layout::ChannelsFirst), Geometry::Rows4);
}
