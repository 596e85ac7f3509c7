//! A driver's compiler, asked through Vulkan. The only part that calls into a driver.

#![allow(unsafe_code)]

use ash::{khr, vk};
use serde::{Deserialize, Serialize};
use std::ffi::CStr;

/// What a compiler says of a pipeline.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PipelineReport {
    /// Its figures by name, as the driver names them.
    pub statistics: Vec<(String, f64)>,
    /// The text of the machine's instructions, where the driver shows it.
    pub assembly: Option<String>,
}

/// A device that compiles.
pub struct Compiler {
    /// The device's own name.
    pub name: String,
    /// The driver and its version.
    pub driver: String,
    /// Whether it computes in f16.
    pub has_f16: bool,
    instance: ash::Instance,
    device: ash::Device,
    executables: khr::pipeline_executable_properties::Device,
    // Last: the others call into what it holds.
    _entry: ash::Entry,
}

/// What went wrong, in words.
type Told<T> = Result<T, String>;

fn told<T>(what: &str, result: ash::prelude::VkResult<T>) -> Told<T> {
    result.map_err(|code| format!("{what}: {code}"))
}

impl Compiler {
    /// Opens the first device of the one driver that there is, by the environment of this process.
    pub fn open(driver: vk::DriverId) -> Told<Self> {
        // SAFETY: the loader is the system's, and nothing else in this process changes its environment.
        let entry = unsafe { ash::Entry::load() }.map_err(|error| format!("Vulkan's loader (libvulkan1): {error}"))?;
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let info = vk::InstanceCreateInfo::default().application_info(&application);
        // SAFETY: `info` names nothing but a version.
        let instance = told("vkCreateInstance", unsafe { entry.create_instance(&info, None) })?;
        let found = Self::find(&instance, driver).and_then(|physical| {
            let opened = open_device(&instance, physical.0)?;
            Ok((physical, opened))
        });
        let ((_, name, driver), (device, has_f16)) = match found {
            Ok(found) => found,
            Err(reason) => {
                // SAFETY: nothing of the instance is left.
                unsafe { instance.destroy_instance(None) };
                return Err(reason);
            }
        };
        let executables = khr::pipeline_executable_properties::Device::new(&instance, &device);
        Ok(Self { name, driver, has_f16, instance, device, executables, _entry: entry })
    }

    /// The device, its name and its driver's version.
    fn find(instance: &ash::Instance, wanted: vk::DriverId) -> Told<(vk::PhysicalDevice, String, String)> {
        // SAFETY: the instance lives.
        let devices = told("vkEnumeratePhysicalDevices", unsafe { instance.enumerate_physical_devices() })?;
        for physical in devices {
            let mut driver = vk::PhysicalDeviceDriverProperties::default();
            let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
            // SAFETY: the handle is of this instance, and the chain is of structures of Vulkan 1.2.
            unsafe { instance.get_physical_device_properties2(physical, &mut properties) };
            let name = properties.properties.device_name_as_c_str().unwrap_or_default().to_string_lossy().into_owned();
            if driver.driver_id == wanted {
                let text = |it: Result<&CStr, _>| it.unwrap_or_default().to_string_lossy().into_owned();
                let version = text(driver.driver_info_as_c_str());
                return Ok((physical, name, format!("{} {version}", text(driver.driver_name_as_c_str()))));
            }
        }
        Err("no such device".into())
    }

    /// Compiles a shader whose entry point is `main` and whose bindings, from 0 on without a gap, are a uniform buffer and then so
    /// many storage buffers.
    pub fn compile(&self, spirv: &[u32], storage_buffers: u32) -> Told<PipelineReport> {
        let mut made = Made::new(&self.device);
        let pipeline = made.pipeline(spirv, storage_buffers)?;
        Ok(PipelineReport { statistics: self.statistics(pipeline)?, assembly: self.assembly(pipeline)? })
    }

    fn statistics(&self, pipeline: vk::Pipeline) -> Told<Vec<(String, f64)>> {
        let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
        // SAFETY: the pipeline was made with the flag that this asks for, and has one executable, number 0.
        let found = unsafe { self.executables.get_pipeline_executable_statistics(&info) };
        let found = told("vkGetPipelineExecutableStatisticsKHR", found)?;
        let statistic = |it: &vk::PipelineExecutableStatisticKHR<'_>| {
            let name = it.name_as_c_str().unwrap_or_default().to_string_lossy().into_owned();
            // SAFETY: `format` says which field of the union holds.
            let value = unsafe {
                match it.format {
                    vk::PipelineExecutableStatisticFormatKHR::BOOL32 => f64::from(it.value.b32),
                    vk::PipelineExecutableStatisticFormatKHR::INT64 => it.value.i64 as f64,
                    vk::PipelineExecutableStatisticFormatKHR::UINT64 => it.value.u64 as f64,
                    _ => it.value.f64,
                }
            };
            (name, value)
        };
        Ok(found.iter().map(statistic).collect())
    }

    /// The last representation that is text: the others are of earlier stages.
    fn assembly(&self, pipeline: vk::Pipeline) -> Told<Option<String>> {
        const WHAT: &str = "vkGetPipelineExecutableInternalRepresentationsKHR";
        let call = self.executables.fp().get_pipeline_executable_internal_representations_khr;
        let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
        let mut count = 0;
        // SAFETY: as for the statistics; without an array the call says how many there are.
        let answer = unsafe { call(self.device.handle(), &info, &mut count, std::ptr::null_mut()) };
        told(WHAT, answer.result())?;
        let mut found = vec![vk::PipelineExecutableInternalRepresentationKHR::default(); count as usize];
        // SAFETY: the array has so many places; without memory for the texts the call says how long they are.
        told(WHAT, unsafe { call(self.device.handle(), &info, &mut count, found.as_mut_ptr()) }.result())?;
        let mut texts: Vec<Vec<u8>> = found.iter().map(|it| vec![0; it.data_size]).collect();
        for (found, text) in found.iter_mut().zip(&mut texts) {
            found.p_data = text.as_mut_ptr().cast();
        }
        // SAFETY: each text has as much memory as its `data_size` says.
        told(WHAT, unsafe { call(self.device.handle(), &info, &mut count, found.as_mut_ptr()) }.result())?;
        let last = found.iter().zip(&texts).rfind(|(it, text)| it.is_text == vk::TRUE && !text.is_empty());
        Ok(last.map(|(_, text)| {
            let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
            String::from_utf8_lossy(&text[..end]).into_owned()
        }))
    }
}

impl Drop for Compiler {
    fn drop(&mut self) {
        // SAFETY: whatever was made of the device is gone by now.
        unsafe {
            self.device.destroy_device(None);
            self.instance.destroy_instance(None);
        }
    }
}

/// Opens a device with what wgpu enables that matters to a compiler: robust access to buffers, f16, subgroups of any size.
fn open_device(instance: &ash::Instance, physical: vk::PhysicalDevice) -> Told<(ash::Device, bool)> {
    let extensions = [khr::pipeline_executable_properties::NAME.as_ptr(), ash::ext::robustness2::NAME.as_ptr()];
    // SAFETY: the handle is of this instance.
    let supported = unsafe { instance.enumerate_device_extension_properties(physical) };
    let supported = told("vkEnumerateDeviceExtensionProperties", supported)?;
    for wanted in [khr::pipeline_executable_properties::NAME, ash::ext::robustness2::NAME] {
        if !supported.iter().any(|it| it.extension_name_as_c_str() == Ok(wanted)) {
            return Err(format!("the driver has no {}", wanted.to_string_lossy()));
        }
    }
    let mut executables =
        vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
    let mut robust = vk::PhysicalDeviceRobustness2FeaturesEXT::default().robust_buffer_access2(true);
    let mut v11 = vk::PhysicalDeviceVulkan11Features::default().storage_buffer16_bit_access(true);
    let mut v12 = vk::PhysicalDeviceVulkan12Features::default().vulkan_memory_model(true);
    let mut v13 = vk::PhysicalDeviceVulkan13Features::default().subgroup_size_control(true).maintenance4(true);
    let mut there12 = vk::PhysicalDeviceVulkan12Features::default();
    let mut there = vk::PhysicalDeviceFeatures2::default().push_next(&mut there12);
    // SAFETY: the chain is of structures of Vulkan 1.2.
    unsafe { instance.get_physical_device_features2(physical, &mut there) };
    // GCN 4 computes f16 in f32.
    v12.shader_float16 = there12.shader_float16;
    let mut features = vk::PhysicalDeviceFeatures2::default()
        .features(vk::PhysicalDeviceFeatures::default().robust_buffer_access(true));
    features = features
        .push_next(&mut executables)
        .push_next(&mut robust)
        .push_next(&mut v11)
        .push_next(&mut v12)
        .push_next(&mut v13);
    let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
    let info = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_extension_names(&extensions)
        .push_next(&mut features);
    // SAFETY: every extension was found to be there; a feature that is not is refused by the call.
    let device = told("vkCreateDevice", unsafe { instance.create_device(physical, &info, None) })?;
    Ok((device, there12.shader_float16 == vk::TRUE))
}

/// What a pipeline is made of, destroyed together.
struct Made<'a> {
    device: &'a ash::Device,
    bindings: vk::DescriptorSetLayout,
    layout: vk::PipelineLayout,
    module: vk::ShaderModule,
    pipeline: vk::Pipeline,
}

impl<'a> Made<'a> {
    fn new(device: &'a ash::Device) -> Self {
        Self {
            device,
            bindings: vk::DescriptorSetLayout::null(),
            layout: vk::PipelineLayout::null(),
            module: vk::ShaderModule::null(),
            pipeline: vk::Pipeline::null(),
        }
    }

    fn pipeline(&mut self, spirv: &[u32], storage_buffers: u32) -> Told<vk::Pipeline> {
        let binding = |(number, kind)| {
            let binding = vk::DescriptorSetLayoutBinding::default().binding(number).descriptor_type(kind);
            binding.descriptor_count(1).stage_flags(vk::ShaderStageFlags::COMPUTE)
        };
        let storage = (1..=storage_buffers).map(|number| (number, vk::DescriptorType::STORAGE_BUFFER));
        let bindings: Vec<_> =
            [(0, vk::DescriptorType::UNIFORM_BUFFER)].into_iter().chain(storage).map(binding).collect();
        let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
        // SAFETY: here and below, what is described lives until the call returns, and `drop` destroys what is made.
        let made = unsafe { self.device.create_descriptor_set_layout(&info, None) };
        self.bindings = told("vkCreateDescriptorSetLayout", made)?;
        let sets = [self.bindings];
        let info = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
        // SAFETY: see above.
        self.layout = told("vkCreatePipelineLayout", unsafe { self.device.create_pipeline_layout(&info, None) })?;
        let info = vk::ShaderModuleCreateInfo::default().code(spirv);
        // SAFETY: see above; naga wrote the words.
        self.module = told("vkCreateShaderModule", unsafe { self.device.create_shader_module(&info, None) })?;
        // As wgpu does on a device with subgroups.
        let stage = vk::PipelineShaderStageCreateInfo::default()
            .flags(vk::PipelineShaderStageCreateFlags::ALLOW_VARYING_SUBGROUP_SIZE)
            .stage(vk::ShaderStageFlags::COMPUTE)
            .module(self.module)
            .name(c"main");
        let capture = vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
            | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
        let info = [vk::ComputePipelineCreateInfo::default().flags(capture).stage(stage).layout(self.layout)];
        // SAFETY: see above.
        let made = unsafe { self.device.create_compute_pipelines(vk::PipelineCache::null(), &info, None) };
        let made = told("vkCreateComputePipelines", made.map_err(|(_, code)| code))?;
        self.pipeline = made.first().copied().unwrap_or_default();
        Ok(self.pipeline)
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        // SAFETY: null handles are ignored, and nothing was ever submitted.
        unsafe {
            self.device.destroy_pipeline(self.pipeline, None);
            self.device.destroy_shader_module(self.module, None);
            self.device.destroy_pipeline_layout(self.layout, None);
            self.device.destroy_descriptor_set_layout(self.bindings, None);
        }
    }
}
