//! Plans for GPUs that nobody measured, over the shapes of networks that people train: none leaves a large device half idle, and no
//! lane holds more than its registers.

use batchnorm_wgpu::kernels::{Span, Strategy, Wanted, kernels_of};
use batchnorm_wgpu::{Capabilities, Choice, DType, Layout, Operation, Plan, Shape, Tuning, required_limits, wgpu};
use std::collections::BTreeMap;

/// Channels and height (as wide) of the batch norms of ResNet-50 on 224 x 224.
const RESNET_50: [[usize; 2]; 12] = [
    [64, 112],
    [64, 56],
    [256, 56],
    [128, 56],
    [128, 28],
    [512, 28],
    [256, 28],
    [256, 14],
    [1024, 14],
    [512, 14],
    [512, 7],
    [2048, 7],
];
/// Of a U-Net on 512 x 512.
const U_NET: [[usize; 2]; 5] = [[64, 512], [128, 256], [256, 128], [512, 64], [1024, 32]];
/// Of MobileNetV2 on 224 x 224.
const MOBILE_NET: [[usize; 2]; 19] = [
    [32, 112],
    [16, 112],
    [96, 112],
    [96, 56],
    [24, 56],
    [144, 56],
    [144, 28],
    [32, 28],
    [192, 28],
    [192, 14],
    [64, 14],
    [384, 14],
    [96, 14],
    [576, 14],
    [576, 7],
    [160, 7],
    [960, 7],
    [320, 7],
    [1280, 7],
];
/// Of few channels, and of one-dimensional signals: what others are slow at.
const OTHERS: [[usize; 2]; 4] = [[3, 224], [6, 256], [1, 512], [8, 64]];
const BATCHES: [usize; 6] = [1, 2, 8, 32, 128, 512];

/// What the processors of a large device are. Cards have 30 to 170.
const PROCESSORS: u32 = 100;
/// From this size on a device should be busy.
const BUSY_FROM: u64 = 8 << 20;

/// A plan and what it is for.
struct Case {
    operation: Operation,
    shape: Shape,
    dtype: DType,
    plan: Plan,
}

fn capabilities(shape: &Shape, dtype: DType, device_type: wgpu::DeviceType) -> Capabilities {
    let limits = wgpu::Limits {
        max_compute_invocations_per_workgroup: 1024,
        max_compute_workgroup_size_x: 1024,
        max_compute_workgroup_storage_size: 32768,
        ..required_limits(shape, dtype)
    };
    Capabilities { limits, subgroups: true, shader_f16: true, device_type }
}

/// The automatic plan of every operation that trains, over all shapes.
fn cases(device_type: wgpu::DeviceType) -> impl Iterator<Item = Case> {
    let shapes = [&RESNET_50[..], &U_NET, &MOBILE_NET, &OTHERS].concat();
    shapes.into_iter().flat_map(move |[channels, size]| {
        let layouts = [Layout::ChannelsFirst, Layout::ChannelsLast];
        let dims = BATCHES.into_iter().flat_map(move |n| layouts.map(|layout| (n, layout)));
        dims.flat_map(move |(n, layout)| {
            let dims = match layout {
                Layout::ChannelsFirst => [n, channels, size, size],
                Layout::ChannelsLast => [n, size, size, channels],
            };
            let shape = Shape::new(&dims, layout).unwrap();
            let dtypes = DType::ALL.into_iter();
            dtypes.flat_map(move |dtype| {
                let shape = shape.clone();
                Operation::ALL.map(move |operation| {
                    let capabilities = capabilities(&shape, dtype, device_type);
                    let (tuning, choice) = (Tuning::none(), Choice::default());
                    let plan = Plan::new(operation, &shape, dtype, &capabilities, &tuning, &choice).unwrap();
                    Case { operation, shape: shape.clone(), dtype, plan }
                })
            })
        })
    })
}

#[test]
fn no_plan_leaves_a_large_device_half_idle() {
    for Case { operation, shape, dtype, plan } in cases(wgpu::DeviceType::DiscreteGpu) {
        if dtype.bytes(shape.elements()) < BUSY_FROM {
            continue;
        }
        let kernels = kernels_of(operation, plan.strategy(), Wanted::All).iter();
        for kernel in kernels.filter(|kernel| kernel.span == Span::Segment) {
            let groups = plan.groups(kernel.span, 0);
            let rounds = groups.div_ceil(PROCESSORS);
            assert!(
                2 * groups > rounds * PROCESSORS,
                "{operation} {shape} {dtype}: {groups} workgroups of {}: {plan:?}",
                kernel.name
            );
        }
    }
}

#[test]
fn no_lane_holds_more_than_its_registers() {
    for kind in [wgpu::DeviceType::DiscreteGpu, wgpu::DeviceType::IntegratedGpu, wgpu::DeviceType::Other] {
        for Case { operation, shape, dtype, plan } in cases(kind) {
            if plan.strategy() != Strategy::Resident {
                continue;
            }
            let tensors = if operation == Operation::BackwardTraining { 2 } else { 1 };
            let held = plan.approach.held() * plan.geometry.elements() as u32 * tensors;
            // By the reports of Mesa's compilers: 64 values beside what else a kernel needs, with 512 lanes at the most.
            assert!(held <= 64 && plan.workgroup_size <= 512, "{operation} {shape} {dtype}: {plan:?}");
        }
    }
}

/// What is chosen how often: `cargo test --test gpu_plans -- --ignored --nocapture`.
#[test]
#[ignore = "prints a table"]
fn table() {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for Case { operation, shape, dtype, plan } in cases(wgpu::DeviceType::DiscreteGpu) {
        if dtype == DType::F32 && operation.trains() {
            let [groups, size, held] = [plan.groups(Span::Segment, 0), plan.workgroup_size, plan.approach.held()];
            let strategy = plan.strategy();
            println!("{operation} {shape}: {strategy} {} held {held}, {groups} of {size}", plan.geometry);
            *counts.entry(format!("{operation} {strategy} {size} {held}")).or_default() += 1;
        }
    }
    println!("{counts:#?}");
}
