//! The adapters that the tests run on.

pub mod faults;
pub mod indices;
pub mod kernels;
pub mod large;
pub mod measure;
pub mod micro;
pub mod misuse;
pub mod steps;

use batchnorm_wgpu::Capabilities;
use batchnorm_wgpu::host::{Gpu, adapter_key, adapters};
use batchnorm_wgpu::{Kernels, wgpu};
use libtest_mimic::{Failed, Trial};
use std::sync::{Arc, Mutex, PoisonError};

static GL_CONTEXT: Mutex<()> = Mutex::new(());

/// The software adapters that scripts/setup installs.
pub const SOFTWARE: [&str; 3] = ["lavapipe", "swiftshader", "gl"];

/// An opened adapter.
#[derive(Clone)]
pub struct Adapter {
    pub key: String,
    pub adapter: wgpu::Adapter,
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub kernels: Kernels,
    others: Arc<Mutex<Others>>,
}

/// Devices of an adapter beside its first.
#[derive(Default)]
struct Others {
    /// Those that no test runs on.
    idle: Vec<Adapter>,
    opened: usize,
}

/// Devices of an adapter beside its first, at the most: each has kernels of its own in memory.
const MOST_OTHERS: usize = 7;

impl Adapter {
    fn open(adapter: wgpu::Adapter, limits: wgpu::Limits, features: wgpu::Features) -> batchnorm_wgpu::Result<Self> {
        let gpu = Gpu::from_adapter(&adapter, limits, features)?;
        let kernels = Kernels::new(&gpu.device);
        let others = Arc::default();
        Ok(Self { key: gpu.key(), adapter, device: gpu.device, queue: gpu.queue, kernels, others })
    }

    pub fn capabilities(&self) -> Capabilities {
        self.kernels.capabilities().clone()
    }

    /// The same adapter on a device with default limits and no features.
    pub fn with_default_limits(&self) -> batchnorm_wgpu::Result<Self> {
        Self::open(self.adapter.clone(), wgpu::Limits::default(), wgpu::Features::empty())
    }

    /// The same adapter on a device with other limits.
    pub fn with_limits(&self, limits: wgpu::Limits) -> batchnorm_wgpu::Result<Self> {
        Self::open(self.adapter.clone(), limits, self.device.features())
    }

    /// The same device with other kernels.
    pub fn with_kernels(&self, kernels: Kernels) -> Self {
        Self { kernels, ..self.clone() }
    }

    /// A test on this adapter.
    pub fn test(&self, name: &str, test: impl Fn(&Self) -> Result<(), Failed> + Send + 'static) -> Trial {
        let adapter = self.clone();
        Trial::test(name, move || {
            // All threads share one GL context, and wgpu takes six seconds' wait for it, which compiling a long shader can
            // cost, for a deadlock.
            let alone = adapter.adapter.get_info().backend == wgpu::Backend::Gl;
            let _guard = alone.then(|| GL_CONTEXT.lock().unwrap_or_else(PoisonError::into_inner));
            let own = adapter.idle_device()?;
            let outcome = test(&own);
            adapter.give_back(own);
            outcome
        })
    }

    /// A device for one test alone, as long as there are enough: a device of lavapipe compiles one shader at a time. A GPU has
    /// the one for all.
    fn idle_device(&self) -> batchnorm_wgpu::Result<Self> {
        let is_gpu = self.adapter.get_info().device_type != wgpu::DeviceType::Cpu;
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        match others.idle.pop() {
            Some(idle) => Ok(idle),
            None if is_gpu || others.opened == MOST_OTHERS => Ok(self.clone()),
            None => {
                others.opened += 1;
                drop(others);
                self.with_limits(self.device.limits())
            }
        }
    }

    /// Takes a device back after a test.
    fn give_back(&self, device: Self) {
        let is_the_first = Arc::ptr_eq(&device.others, &self.others);
        if !is_the_first {
            self.others.lock().unwrap_or_else(PoisonError::into_inner).idle.push(device);
        }
    }
}

/// Every adapter that gives a device.
pub fn find() -> Vec<Adapter> {
    let open = |adapter: wgpu::Adapter| {
        let (limits, features) = (adapter.limits(), adapter.features() & batchnorm_wgpu::USEFUL_FEATURES);
        let key = adapter_key(&adapter.get_info());
        Adapter::open(adapter, limits, features).map_err(|error| eprintln!("{key}: {error}")).ok()
    };
    adapters().into_iter().filter_map(open).collect()
}
