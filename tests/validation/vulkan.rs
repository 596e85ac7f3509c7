//! The trials.

use crate::messages;
use batchnorm_wgpu::host::{Gpu, storage};
use batchnorm_wgpu::wgpu::hal::{Instance as _, api::Vulkan};
use batchnorm_wgpu::{Kernels, Operation, Options, RuntimeChecks, USEFUL_FEATURES, adapter_key, wgpu};
use batchnorm_wgpu_check::case::Case;
use batchnorm_wgpu_check::matrix::{Ranking, matrix, part_cases, part_limits};
use batchnorm_wgpu_check::run::run;
use libtest_mimic::{Arguments, Failed, Trial};

pub fn main() {
    let arguments = Arguments::from_args();
    messages::listen();
    let trials = adapters().map_or_else(
        |missing| vec![layer_is_present(missing)],
        |adapters| adapters.iter().flat_map(of_adapter).collect(),
    );
    // Loaders and drivers have their say about the machine first.
    messages::take();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let unclaimed = messages::take_all();
    if !unclaimed.is_empty() {
        panic!("messages outside of every trial:\n{}", unclaimed.join("\n"));
    }
    conclusion.exit();
}

/// The Vulkan adapters under the layer, or what is missing.
fn adapters() -> Result<Vec<wgpu::Adapter>, &'static str> {
    let instance = instance().map_err(|_| "Vulkan")?;
    println!("{LAYER:?} {}", layer_version(&instance).ok_or("VK_LAYER_KHRONOS_validation")?);
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::VULKAN));
    if adapters.is_empty() { Err("a Vulkan adapter") } else { Ok(adapters) }
}

/// An instance with the layer. wgpu above wgpu-hal stays without flags: with them it would write into each shader that its
/// source is WGSL, which older layers take for an error, and look no further.
fn instance() -> Result<wgpu::Instance, wgpu::hal::InstanceError> {
    let descriptor = wgpu::hal::InstanceDescriptor {
        name: "validation",
        flags: wgpu::InstanceFlags::VALIDATION | wgpu::InstanceFlags::DEBUG,
        memory_budget_thresholds: Default::default(),
        backend_options: Default::default(),
        telemetry: None,
        display: None,
    };
    // SAFETY: the instance is handed over to wgpu at once.
    unsafe { Ok(wgpu::Instance::from_hal::<Vulkan>(wgpu::hal::vulkan::Instance::init(&descriptor)?)) }
}

const LAYER: &std::ffi::CStr = c"VK_LAYER_KHRONOS_validation";

/// The version of the layer, where it is installed.
fn layer_version(instance: &wgpu::Instance) -> Option<String> {
    // SAFETY: nothing is destroyed.
    let entry = unsafe { instance.as_hal::<Vulkan>() }?.shared_instance().entry();
    // SAFETY: the loader outlives the instance.
    let layers = unsafe { entry.enumerate_instance_layer_properties() }.ok()?;
    let found = layers.iter().find(|layer| layer.layer_name_as_c_str() == Ok(LAYER))?;
    let version = found.spec_version;
    Some(format!("{}.{}.{}", version >> 22 & 0x7f, version >> 12 & 0x3ff, version & 0xfff))
}

fn layer_is_present(missing: &'static str) -> Trial {
    let required = std::env::var("BATCHNORM_REQUIRE_VALIDATION").is_ok_and(|value| !value.is_empty());
    let absent = move || Err(format!("{missing} is missing; scripts/setup installs it").into());
    Trial::test("the_validation_layer_is_present", absent).with_ignored_flag(!required)
}

/// A check and its name.
type Check = (&'static str, fn(&wgpu::Adapter, Length) -> Result<(), Failed>);

/// A check of what the layer says, and its name.
type Provoked = (&'static str, fn(&wgpu::Adapter) -> Result<(), Failed>);

/// Whether a check runs one case in a few, or all that it has.
#[derive(Clone, Copy, PartialEq)]
enum Length {
    Short,
    Long,
}

/// Calls that the layer must have something to say about.
const PROVOKED: [Provoked; 2] =
    [("an_invalid_call_is_heard", invalid_call), ("a_missing_barrier_is_heard", missing_barrier)];

const CHECKS: [Check; 4] = [
    ("tensors_in_one_buffer", pooled),
    ("tensors_in_parts", in_parts),
    ("default_limits", default_limits),
    ("without_runtime_checks", without_runtime_checks),
];

fn of_adapter(adapter: &wgpu::Adapter) -> Vec<Trial> {
    let checks = CHECKS.into_iter().flat_map(|(name, check)| both_lengths(adapter, name, check));
    let kernels = Operation::ALL.into_iter().flat_map(|operation| {
        let check = move |adapter: &wgpu::Adapter, length| every_kernel(adapter, operation, length);
        both_lengths(adapter, &format!("kernels::{}", operation.name()), check)
    });
    let provoked = PROVOKED.into_iter().map(|(name, check)| trial(adapter, name, check));
    provoked.chain(checks).chain(kernels).collect()
}

/// The test in short, and the one that `--ignored` runs.
fn both_lengths(
    adapter: &wgpu::Adapter,
    name: &str,
    check: impl Fn(&wgpu::Adapter, Length) -> Result<(), Failed> + Copy + Send + 'static,
) -> [Trial; 2] {
    let short = trial(adapter, name, move |adapter| check(adapter, Length::Short));
    let long = trial(adapter, &format!("{name}_at_length"), move |adapter| check(adapter, Length::Long));
    [short, long.with_ignored_flag(true)]
}

fn trial(
    adapter: &wgpu::Adapter,
    name: &str,
    check: impl Fn(&wgpu::Adapter) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    let adapter = adapter.clone();
    Trial::test(format!("{}::{name}", adapter_key(&adapter.get_info())), move || check(&adapter))
}

/// Opens a device for a check and closes it again, then takes what was said.
fn heard(
    adapter: &wgpu::Adapter,
    limits: wgpu::Limits,
    features: wgpu::Features,
    check: impl FnOnce(&Gpu) -> Result<(), Failed>,
) -> Result<Vec<String>, Failed> {
    messages::take();
    let gpu = Gpu::from_adapter(adapter, limits, adapter.features() & features)?;
    check(&gpu)?;
    drop(gpu);
    Ok(messages::take())
}

fn is_heard(adapter: &wgpu::Adapter, id: &str, provoke: fn(&Gpu) -> Result<(), Failed>) -> Result<(), Failed> {
    let said = heard(adapter, wgpu::Limits::default(), wgpu::Features::empty(), provoke)?;
    match said.iter().any(|message| message.contains(id)) {
        true => Ok(()),
        false => Err(format!("nothing about {id}: {said:?}").into()),
    }
}

/// A buffer of no bytes.
fn invalid_call(adapter: &wgpu::Adapter) -> Result<(), Failed> {
    is_heard(adapter, "VUID-VkBufferCreateInfo-size-00912", |gpu| {
        // SAFETY: the buffer is nobody else's, is never used, and drivers take the size as it comes.
        unsafe {
            let device = gpu.device.as_hal::<Vulkan>().ok_or("not Vulkan")?;
            let buffer = device.raw_device().create_buffer(&Default::default(), None)?;
            device.raw_device().destroy_buffer(buffer, None);
        }
        Ok(())
    })
}

/// Two writes of a buffer with nothing between them.
fn missing_barrier(adapter: &wgpu::Adapter) -> Result<(), Failed> {
    is_heard(adapter, "SYNC-HAZARD-WRITE-AFTER-WRITE", |gpu| {
        let buffer = storage(&gpu.device, "written twice", 64)?;
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        // SAFETY: the commands stay within the buffer, and the encoder is never submitted.
        unsafe {
            let device = gpu.device.as_hal::<Vulkan>().ok_or("not Vulkan")?;
            let buffer = buffer.as_hal::<Vulkan>().ok_or("not Vulkan")?.raw_handle();
            encoder.as_hal_mut::<Vulkan, _, _>(|encoder| {
                let commands = encoder.ok_or("not Vulkan")?.raw_handle();
                (0..2).for_each(|value| device.raw_device().cmd_fill_buffer(commands, buffer, 0, 64, value));
                Ok(())
            })
        }
    })
}

/// Messages about what is right: part of the text, and why.
const ALLOWED: [(&str, &str); 1] = [(
    "Invalid source language operand: 10",
    "that is WGSL, which wgpu notes in debug builds and old layers do not know",
)];

/// Runs cases on a device, about which the layer must have nothing to say.
fn is_silent(
    adapter: &wgpu::Adapter,
    length: Length,
    limits: wgpu::Limits,
    features: wgpu::Features,
    options: Options,
    cases: impl FnOnce(&Kernels) -> Vec<Case>,
) -> Result<(), Failed> {
    let mut said = heard(adapter, limits, features, |gpu| {
        let kernels = Kernels::with_options(&gpu.device, options);
        let cases: Vec<Case> = cases(&kernels).into_iter().step_by(one_in(adapter, length)).collect();
        if cases.is_empty() {
            return Err("no case to run".into());
        }
        for case in &cases {
            run(&kernels, &gpu.queue, case.operation, &case.inputs(), &case.setup)?;
        }
        Ok(())
    })?;
    said.retain(|message| !ALLOWED.iter().any(|(text, _)| message.contains(text)));
    if said.is_empty() { Ok(()) } else { Err(said.join("\n").into()) }
}

/// Of how many cases one is run. SwiftShader takes several times as long as others, and what wgpu records for it is the same.
fn one_in(adapter: &wgpu::Adapter, length: Length) -> usize {
    let slow = adapter_key(&adapter.get_info()) == "swiftshader";
    match (slow, length) {
        (false, Length::Long) => 1,
        (true, Length::Long) => 8,
        (false, Length::Short) => 10,
        (true, Length::Short) => 20,
    }
}

/// The quick choice of the matrix: every kernel by every geometry and reduction, with every storage and activation.
fn covering(kernels: &Kernels) -> Vec<Case> {
    let Ranking { mut cases, quick, .. } = Ranking::new(matrix(kernels), kernels);
    cases.truncate(quick);
    cases
}

fn every_kernel(adapter: &wgpu::Adapter, operation: Operation, length: Length) -> Result<(), Failed> {
    is_silent(adapter, length, adapter.limits(), USEFUL_FEATURES, Options::default(), |kernels| {
        covering(kernels).into_iter().filter(|case| case.operation == operation).collect()
    })
}

fn pooled(adapter: &wgpu::Adapter, length: Length) -> Result<(), Failed> {
    is_silent(adapter, length, adapter.limits(), USEFUL_FEATURES, Options::default(), |kernels| {
        matrix(kernels).into_iter().filter(|case| case.setup.pooled).step_by(29).collect()
    })
}

fn in_parts(adapter: &wgpu::Adapter, length: Length) -> Result<(), Failed> {
    is_silent(adapter, length, part_limits(adapter.limits()), USEFUL_FEATURES, Options::default(), |kernels| {
        part_cases(kernels).into_iter().step_by(17).collect()
    })
}

/// Without subgroups and half precision.
fn default_limits(adapter: &wgpu::Adapter, length: Length) -> Result<(), Failed> {
    is_silent(adapter, length, wgpu::Limits::default(), wgpu::Features::empty(), Options::default(), |kernels| {
        matrix(kernels).into_iter().step_by(97).collect()
    })
}

fn without_runtime_checks(adapter: &wgpu::Adapter, length: Length) -> Result<(), Failed> {
    let runtime_checks = RuntimeChecks { bounds: false, loop_bounding: false, zero_workgroup_memory: true };
    let options = Options { runtime_checks, ..Options::default() };
    is_silent(adapter, length, adapter.limits(), USEFUL_FEATURES, options, |kernels| {
        matrix(kernels).into_iter().step_by(97).collect()
    })
}
