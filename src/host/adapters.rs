//! Finding an adapter and opening a device, for programs that have none yet.

use crate::batch_norm::USEFUL_FEATURES;
use crate::capabilities::adapter_key;
use crate::error::{Error, Result};

const INSTALL: &str = "Without a GPU, a software adapter does: on Debian or Ubuntu `apt-get install mesa-vulkan-drivers`; \
     elsewhere update the graphics driver. `VK_DRIVER_FILES` or `VK_ADD_DRIVER_FILES` name further Vulkan drivers. An \
     application must enable a backend feature of wgpu, such as `vulkan`";

/// A device that this crate opened.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// What the adapter says of itself.
    pub info: wgpu::AdapterInfo,
    /// The adapter, for further devices of it.
    pub adapter: wgpu::Adapter,
    /// The device, with the adapter's limits and [`USEFUL_FEATURES`] as far as the adapter has them.
    pub device: wgpu::Device,
    /// Its queue.
    pub queue: wgpu::Queue,
}

impl Gpu {
    /// Opens the adapter whose [`adapter_key`] is `name`, or whose name contains it; with `None` the best one.
    ///
    /// # Errors
    /// [`Error::NoAdapter`], which names what there is and what to install; [`Error::NoDevice`].
    pub fn open(name: Option<&str>) -> Result<Self> {
        Self::open_with(name, wgpu::Features::empty())
    }

    /// As [`Gpu::open`], with those of `features` that the adapter has besides.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub fn open_with(name: Option<&str>, features: wgpu::Features) -> Result<Self> {
        let adapters = adapters();
        let wanted = name.unwrap_or_default().to_lowercase();
        let is_key = |adapter: &&wgpu::Adapter| adapter_key(&adapter.get_info()) == wanted;
        let has_name = |adapter: &&wgpu::Adapter| adapter.get_info().name.to_lowercase().contains(&wanted);
        let found = adapters.iter().find(is_key).or_else(|| adapters.iter().find(has_name));
        let adapter = found.ok_or_else(|| Error::NoAdapter {
            wanted: name.map_or("at all".into(), |name| format!("named {name:?}")),
            found: match adapters.is_empty() {
                true => "none".into(),
                false => adapters.iter().map(|a| adapter_key(&a.get_info())).collect::<Vec<_>>().join(", "),
            },
            hint: INSTALL,
        })?;
        Self::from_adapter(adapter, adapter.limits(), adapter.features() & (USEFUL_FEATURES | features))
    }

    /// Opens a device with just these limits and features.
    ///
    /// # Errors
    /// [`Error::NoDevice`].
    pub fn from_adapter(adapter: &wgpu::Adapter, limits: wgpu::Limits, features: wgpu::Features) -> Result<Self> {
        let info = adapter.get_info();
        let request = adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("batchnorm-wgpu"),
            required_features: features,
            required_limits: limits,
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            memory_hints: wgpu::MemoryHints::default(),
            trace: wgpu::Trace::default(),
        });
        let (device, queue) = pollster::block_on(request)
            .map_err(|error| Error::NoDevice { adapter: info.name.clone(), reason: error.to_string() })?;
        Ok(Self { info, adapter: adapter.clone(), device, queue })
    }

    /// The adapter's short name: see [`adapter_key`].
    pub fn key(&self) -> String {
        adapter_key(&self.info)
    }
}

/// Whether a name is that of a GPU that is not there: Mesa's driver for AMD lists one where `RADV_FORCE_FAMILY` names it. It
/// compiles and runs nothing, and no device of it can be opened.
fn is_null(name: &str) -> bool {
    name.starts_with("Null hardware")
}

/// Every adapter that can compute, the best first: discrete, integrated, virtual, other, software; GL last of its kind.
pub fn adapters() -> Vec<wgpu::Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let found = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let computes = wgpu::DownlevelFlags::COMPUTE_SHADERS;
    let mut adapters: Vec<_> = found
        .into_iter()
        .filter(|adapter| adapter.get_downlevel_capabilities().flags.contains(computes))
        .filter(|adapter| !is_null(&adapter.get_info().name))
        .collect();
    adapters.sort_by_key(|adapter| {
        let info = adapter.get_info();
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => 0,
            wgpu::DeviceType::IntegratedGpu => 1,
            wgpu::DeviceType::VirtualGpu => 2,
            wgpu::DeviceType::Other => 3,
            wgpu::DeviceType::Cpu => 4,
        };
        let key = adapter_key(&info);
        (kind, info.backend == wgpu::Backend::Gl, key != "lavapipe", key)
    });
    adapters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_that_are_not_there_are_known_by_name() {
        assert!(is_null("Null hardware (RADV NAVI21)"));
        for name in
            ["AMD Radeon RX 6800 (RADV NAVI21)", "llvmpipe (LLVM 15.0.6, 256 bits)", "SwiftShader Device (Subzero)"]
        {
            assert!(!is_null(name), "{name}");
        }
    }
}
