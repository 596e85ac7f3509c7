//! What kernels and plans need to know of a device, as plain data.

/// What kernels and plans need to know of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Capabilities {
    /// `device.limits()`: never the adapter's.
    pub limits: wgpu::Limits,
    /// Whether the device was opened with `wgpu::Features::SUBGROUP`.
    pub subgroups: bool,
    /// Whether it was opened with `wgpu::Features::SHADER_F16`.
    pub shader_f16: bool,
    /// What kind of adapter it is; software adapters want few small workgroups.
    pub device_type: wgpu::DeviceType,
}

impl Capabilities {
    /// Reads them off a device.
    pub fn of(device: &wgpu::Device) -> Self {
        Self {
            limits: device.limits(),
            subgroups: device.features().contains(wgpu::Features::SUBGROUP),
            shader_f16: device.features().contains(wgpu::Features::SHADER_F16),
            device_type: device.adapter_info().device_type,
        }
    }

    /// A device with WebGPU's default limits and no optional feature.
    pub fn default_limits() -> Self {
        Self {
            limits: wgpu::Limits::default(),
            subgroups: false,
            shader_f16: false,
            device_type: wgpu::DeviceType::Other,
        }
    }
}

/// A short name for an adapter, for command lines, test ids and file names: `lavapipe` and `swiftshader` for the software
/// Vulkan drivers, `gl` for Mesa's software OpenGL, otherwise the adapter's name and backend, such as
/// `nvidia-h200-vulkan`.
pub fn adapter_key(info: &wgpu::AdapterInfo) -> String {
    let name = info.name.to_lowercase();
    match info.backend {
        wgpu::Backend::Vulkan if name.starts_with("llvmpipe") => return "lavapipe".into(),
        wgpu::Backend::Vulkan if name.starts_with("swiftshader") => return "swiftshader".into(),
        wgpu::Backend::Gl if name.contains("llvmpipe") => return "gl".into(),
        _ => {}
    }
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let backend = format!("{:?}", info.backend).to_lowercase();
    words.chain([backend.as_str()]).collect::<Vec<_>>().join("-")
}
