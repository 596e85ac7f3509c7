//! What kernels and plans need to know of a device, as plain data.

/// What kernels and plans need to know of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Capabilities {
    /// `device.limits()`: never the adapter's.
    pub limits: wgpu::Limits,
    /// Whether the device was opened with `wgpu::Features::SUBGROUP`.
    pub subgroups: bool,
    /// What kind of adapter it is; software adapters want few fat workgroups.
    pub device_type: wgpu::DeviceType,
}

impl Capabilities {
    /// Reads them off a device.
    pub fn of(device: &wgpu::Device) -> Self {
        Self {
            limits: device.limits(),
            subgroups: device.features().contains(wgpu::Features::SUBGROUP),
            device_type: device.adapter_info().device_type,
        }
    }

    /// A device with WebGPU's default limits and no optional feature.
    pub fn default_limits() -> Self {
        Self { limits: wgpu::Limits::default(), subgroups: false, device_type: wgpu::DeviceType::Other }
    }
}
