//! What needs a process to itself: that nothing grows over thousands of steps, and what happens when memory runs out. One
//! trial at a time, on every adapter present.

mod training;

use batchnorm_wgpu::host::{Gpu, adapters, storage};
use batchnorm_wgpu::{Choice, Error, Kernels, wgpu};
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::Command;
use training::Training;

fn main() {
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    let trials = adapters().into_iter().flat_map(of_adapter).collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// A check, its name, and the adapters that it can be made on.
type Check = (&'static str, fn(&Gpu) -> Result<(), Failed>, fn(&wgpu::AdapterInfo) -> bool);

const CHECKS: [Check; 3] = [
    ("steps_leave_nothing_behind", steps, is_measured),
    ("bindings_leave_nothing_behind", bindings, is_measured),
    ("memory_that_is_not_there_is_an_error", exhausted, allocates_from_the_process),
];

/// Linux tells what a process holds, wgpu what it allocated by Vulkan and Direct3D.
fn is_measured(info: &wgpu::AdapterInfo) -> bool {
    cfg!(target_os = "linux") || matches!(info.backend, wgpu::Backend::Vulkan | wgpu::Backend::Dx12)
}

/// Mesa's OpenGL allocates a buffer when it is first used, and refuses none.
fn allocates_from_the_process(info: &wgpu::AdapterInfo) -> bool {
    cfg!(target_os = "linux") && info.backend == wgpu::Backend::Vulkan && info.device_type == wgpu::DeviceType::Cpu
}

fn of_adapter(adapter: wgpu::Adapter) -> Vec<Trial> {
    let info = adapter.get_info();
    let key = batchnorm_wgpu::adapter_key(&info);
    let trial = |(name, check, _): Check| {
        let adapter = adapter.clone();
        Trial::test(format!("{key}::{name}"), move || {
            check(&Gpu::from_adapter(&adapter, wgpu::Limits::default(), wgpu::Features::empty())?)
        })
    };
    // Not ignored tests elsewhere: `--ignored` runs those.
    CHECKS.into_iter().filter(|(_, _, can)| can(&info)).map(trial).collect()
}

/// Turns before the first look: caches, pools and arenas have their size by then.
const WARM_UP: usize = 1_000;
const TURNS: usize = 10_000;
/// Turns that the device may be behind.
const IN_FLIGHT: usize = 50;
/// Bytes that may be gone after all turns. The smallest thing that a turn could leave behind, a buffer or a bind group, takes
/// more than a quarter of a kilobyte.
const ALLOWANCE: u64 = 256 * TURNS as u64;

fn training(gpu: &Gpu) -> Result<Training, Error> {
    Training::new(&Kernels::new(&gpu.device), &gpu.queue, &[4, 8, 6, 6], &Choice::default())
}

/// One step, recorded and submitted again and again.
fn steps(gpu: &Gpu) -> Result<(), Failed> {
    let training = training(gpu)?;
    stays(gpu, || training.submit().map(drop))?;
    training.judge(&training.read()?)
}

/// The same buffers, bound again and again.
fn bindings(gpu: &Gpu) -> Result<(), Failed> {
    let training = training(gpu)?;
    stays(gpu, || training.bind().map(drop))?;
    training.holds()
}

/// Takes the turns and looks at the memory before and after.
fn stays(gpu: &Gpu, turn: impl Fn() -> Result<(), Error>) -> Result<(), Failed> {
    let take = |turns| -> Result<(), Failed> {
        for i in 0..turns {
            turn()?;
            if i % IN_FLIGHT == 0 {
                // What fills a new buffer waits with wgpu for a submission.
                gpu.queue.submit([]);
                gpu.device.poll(wgpu::PollType::wait_indefinitely())?;
            }
        }
        Ok(())
    };
    take(WARM_UP)?;
    let before = held(&gpu.device);
    take(TURNS)?;
    for ((name, after), (_, before)) in held(&gpu.device).into_iter().zip(before) {
        let (Some(after), Some(before)) = (after, before) else { continue };
        if after > before + ALLOWANCE {
            return Err(format!("{name}: {before} bytes after {WARM_UP} turns, {after} after {TURNS} more").into());
        }
    }
    Ok(())
}

/// Bytes that the process holds, and bytes that wgpu has allocated on the device; `None` where nobody says.
fn held(device: &wgpu::Device) -> [(&'static str, Option<u64>); 2] {
    let allocated = device.generate_allocator_report().map(|report| report.total_allocated_bytes);
    [("the process", resident()), ("the device", allocated)]
}

/// Resident memory of the process but for what is mapped from files.
fn resident() -> Option<u64> {
    Some(status("RssAnon:")? + status("RssShmem:")?)
}

/// An entry of Linux's `/proc/self/status`, in bytes.
fn status(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let entry = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = entry.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Bytes of address space left to the process, and of the buffers that are to fill it; few enough to be had, for a driver
/// that clears what it allocates.
const ROOM: u64 = 256 << 20;
const BUFFER: u64 = 64 << 20;

/// The buffers of a software driver are memory of the process, which can be told that there is no more.
fn exhausted(gpu: &Gpu) -> Result<(), Failed> {
    let training = training(gpu)?;
    let limit = AddressSpace::limit(status("VmSize:").ok_or("no size of the process")? + ROOM)?;
    let hoard: Result<Vec<_>, _> = (0..2 * ROOM / BUFFER).map(|_| storage(&gpu.device, "hoard", BUFFER)).collect();
    drop(limit);
    match hoard {
        // The refusal leaves the device as it was.
        Err(Error::OutOfMemory { .. }) => training.holds(),
        other => Err(format!("got {other:?}").into()),
    }
}

/// A limit on the address space of the process, until it is dropped. `prlimit` belongs to util-linux.
struct AddressSpace {
    before: String,
}

impl AddressSpace {
    fn limit(bytes: u64) -> Result<Self, Failed> {
        let before = prlimit(&["--as", "--noheadings", "--raw", "--output", "SOFT"])?;
        prlimit(&[&format!("--as={bytes}:")])?;
        Ok(Self { before: before.trim().into() })
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        prlimit(&[&format!("--as={}:", self.before)]).expect("a soft limit may be raised again");
    }
}

fn prlimit(arguments: &[&str]) -> Result<String, Failed> {
    let output = Command::new("prlimit").args(["--pid", &std::process::id().to_string()]).args(arguments).output()?;
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout)?),
        false => Err(String::from_utf8_lossy(&output.stderr).into()),
    }
}
