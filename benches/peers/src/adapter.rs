//! Opening Burn's device on the adapter that was asked for.

use burn::tensor::wgpu::WgpuBackend;
use burn::tensor::wgpu::wgpu::{self, AdapterInfo, Backend, DeviceType};
use burn::tensor::{Device, DeviceKind};

/// Graphics APIs that Burn can be pinned to.
const BACKENDS: [(Backend, WgpuBackend); 4] = [
    (Backend::Vulkan, WgpuBackend::Vulkan),
    (Backend::Metal, WgpuBackend::Metal),
    (Backend::Dx12, WgpuBackend::Dx12),
    (Backend::Gl, WgpuBackend::Gl),
];

/// An adapter, and the words in which Burn must be asked for it.
struct Candidate {
    info: AdapterInfo,
    api: WgpuBackend,
    /// Its place among the adapters of its kind on its graphics API.
    index: usize,
}

impl Candidate {
    fn key(&self) -> String {
        key(&self.info)
    }

    /// Burn names only the first software adapter of a graphics API.
    fn kind(&self) -> Option<DeviceKind> {
        match (self.info.device_type, self.index) {
            (DeviceType::DiscreteGpu, index) => Some(DeviceKind::DiscreteGpu(index)),
            (DeviceType::IntegratedGpu, index) => Some(DeviceKind::IntegratedGpu(index)),
            (DeviceType::VirtualGpu, index) => Some(DeviceKind::VirtualGpu(index)),
            (DeviceType::Cpu, 0) => Some(DeviceKind::Cpu),
            // Burn's public interface has no name for the kind `Other`; its default may still be it.
            (DeviceType::Other, 0) => Some(DeviceKind::DefaultDevice),
            _ => None,
        }
    }

    fn rank(&self) -> (u8, bool, bool, String) {
        let kind = match self.info.device_type {
            DeviceType::DiscreteGpu => 0,
            DeviceType::IntegratedGpu => 1,
            DeviceType::VirtualGpu => 2,
            DeviceType::Other => 3,
            DeviceType::Cpu => 4,
        };
        (kind, self.info.backend == Backend::Gl, self.key() != "lavapipe", self.key())
    }
}

/// A device of Burn's, and what its adapter says of itself.
pub struct Opened {
    /// Without autodiff.
    pub device: Device,
    /// The adapter that Burn really took.
    pub info: AdapterInfo,
}

/// Opens the adapter whose short name is `wanted`, or whose name contains it; with `None` the best one: `bn`'s rules.
pub fn open(wanted: Option<&str>) -> Result<Opened, String> {
    let candidate = find(wanted)?;
    let kind = candidate.kind().ok_or_else(|| unreachable_by_burn(&candidate, "another software adapter"))?;
    let options = Device::wgpu_options().device_kind(kind).graphics_api(candidate.api);
    let (device, setup) = options
        .init_with_setup()
        .map_err(|error| format!("Burn could not open the adapter {}: {error}", candidate.key()))?;
    let info = setup.adapter.get_info();
    if key(&info) != candidate.key() {
        return Err(unreachable_by_burn(&candidate, &key(&info)));
    }
    Ok(Opened { device, info })
}

fn unreachable_by_burn(candidate: &Candidate, got: &str) -> String {
    format!(
        "expected the adapter {}, but Burn opens {got}: it picks by kind, not by name. Hide the others, for a Vulkan \
         driver with `VK_DRIVER_FILES=PATH_OF_ITS_JSON_MANIFEST`",
        candidate.key()
    )
}

fn find(wanted: Option<&str>) -> Result<Candidate, String> {
    let mut candidates: Vec<Candidate> = BACKENDS.into_iter().flat_map(|(backend, api)| list(backend, api)).collect();
    candidates.sort_by_key(Candidate::rank);
    let keys: Vec<String> = candidates.iter().map(Candidate::key).collect();
    let text = wanted.unwrap_or_default().to_lowercase();
    let has_name = || candidates.iter().position(|it| it.info.name.to_lowercase().contains(&text));
    let found = keys.iter().position(|key| *key == text).or_else(has_name);
    let place = found.ok_or_else(|| {
        let wanted = wanted.map_or("an adapter".into(), |name| format!("an adapter named {name:?}"));
        let there = if keys.is_empty() { "none".into() } else { keys.join(", ") };
        format!("expected {wanted}, found {there}; see `bn info`, and install a graphics driver where one is missing")
    })?;
    Ok(candidates.swap_remove(place))
}

/// The adapters of one graphics API, counted as Burn counts them.
fn list(backend: Backend, api: WgpuBackend) -> Vec<Candidate> {
    let descriptor =
        wgpu::InstanceDescriptor { backends: backend.into(), ..wgpu::InstanceDescriptor::new_without_display_handle() };
    let instance = wgpu::Instance::new(descriptor);
    let infos: Vec<AdapterInfo> =
        pollster::block_on(instance.enumerate_adapters(backend.into())).iter().map(wgpu::Adapter::get_info).collect();
    let index = |at: usize| infos[..at].iter().filter(|it| it.device_type == infos[at].device_type).count();
    infos.iter().enumerate().map(|(at, info)| Candidate { info: info.clone(), api, index: index(at) }).collect()
}

/// The short name that `bn` gives an adapter.
pub fn key(info: &AdapterInfo) -> String {
    let name = info.name.to_lowercase();
    match info.backend {
        Backend::Vulkan if name.starts_with("llvmpipe") => return "lavapipe".into(),
        Backend::Vulkan if name.starts_with("swiftshader") => return "swiftshader".into(),
        Backend::Gl if name.contains("llvmpipe") => return "gl".into(),
        _ => {}
    }
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let backend = format!("{:?}", info.backend).to_lowercase();
    words.chain([backend.as_str()]).collect::<Vec<_>>().join("-")
}
