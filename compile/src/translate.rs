//! WGSL in the languages that wgpu hands to drivers, through naga as wgpu does it.

use crate::error::CompileError;
use naga::back::{hlsl, msl, pipeline_constants::process_overrides, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ResourceBinding, StorageAccess};
use rspirv::binary::Disassemble;
use std::borrow::Cow;
use std::fmt::Display;

/// SPIR-V of Vulkan 1.1, the first with subgroups.
const SPIRV: (u8, u8) = (1, 3);
/// What wgpu writes where a driver has Vulkan 1.3.
const SPIRV_OF_VULKAN_1_3: (u8, u8) = (1, 6);
/// Metal 3: macOS 13, iOS 16.
const METAL: (u8, u8) = (3, 0);
/// The first with f16.
const SHADER_MODEL: hlsl::ShaderModel = hlsl::ShaderModel::V6_2;

/// A shader that naga has read and checked.
pub struct Checked {
    module: Module,
    info: ModuleInfo,
}

impl Checked {
    /// Reads WGSL.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn read(wgsl: &str) -> Result<Self, CompileError> {
        let module =
            naga::front::wgsl::parse_str(wgsl).map_err(|error| CompileError::Shader(error.emit_to_string(wgsl)))?;
        let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
        validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
        let info = validator.validate(&module).map_err(|error| CompileError::Shader(error.emit_to_string(wgsl)))?;
        Ok(Self { module, info })
    }

    /// As drivers get it: with the values of pipeline constants in the place of these.
    fn settled(&self) -> Result<(Cow<'_, Module>, Cow<'_, ModuleInfo>), CompileError> {
        process_overrides(&self.module, &self.info, None, &Default::default()).map_err(|error| failed("WGSL", error))
    }

    /// SPIR-V, in words.
    ///
    /// # Errors
    /// What naga cannot say in it; so for the others.
    pub fn spirv(&self) -> Result<Vec<u32>, CompileError> {
        let (module, info) = self.settled()?;
        let defaults = spv::Options::default();
        let flags = defaults.flags | spv::WriterFlags::DEBUG;
        let options = spv::Options {
            lang_version: SPIRV,
            flags,
            zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
            force_loop_bounding: false,
            ..defaults
        };
        spv::write_vec(&module, &info, &options, None).map_err(|error| failed("SPIR-V", error))
    }

    /// SPIR-V as wgpu hands it to a Vulkan driver of a desktop GPU: with its runtime checks, as far as such a driver does not make
    /// them itself (`robustBufferAccess2`). wgpu-hal's `Device::compile_stage` and `Adapter::device_from_raw` say the same.
    ///
    /// # Errors
    /// As [`Checked::spirv`].
    pub fn spirv_of_wgpu(&self) -> Result<Vec<u32>, CompileError> {
        let (module, info) = self.settled()?;
        let defaults = spv::Options::default();
        let options = spv::Options {
            lang_version: SPIRV_OF_VULKAN_1_3,
            bounds_check_policies: BoundsCheckPolicies {
                index: BoundsCheckPolicy::Restrict,
                buffer: BoundsCheckPolicy::Unchecked,
                image_load: BoundsCheckPolicy::Unchecked,
                binding_array: BoundsCheckPolicy::Unchecked,
            },
            zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
            force_loop_bounding: true,
            emit_int_div_checks: true,
            ..defaults
        };
        spv::write_vec(&module, &info, &options, None).map_err(|error| failed("SPIR-V", error))
    }

    /// SPIR-V, for people.
    ///
    /// # Errors
    /// As [`Checked::spirv`].
    pub fn disassembly(&self) -> Result<String, CompileError> {
        let module = rspirv::dr::load_words(self.spirv()?).map_err(|error| failed("SPIR-V", error))?;
        Ok(module.disassemble() + "\n")
    }

    /// Metal's shading language.
    ///
    /// # Errors
    /// As [`Checked::spirv`].
    pub fn msl(&self) -> Result<String, CompileError> {
        let (module, info) = self.settled()?;
        let options = msl::Options {
            lang_version: METAL,
            per_entry_point_map: [("main".to_owned(), buffers(&module))].into(),
            fake_missing_bindings: false,
            zero_initialize_workgroup_memory: false,
            force_loop_bounding: false,
            ..Default::default()
        };
        let written = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default());
        let (text, found) = written.map_err(|error| failed("MSL", error))?;
        entry_points(found.entry_point_names, "MSL")?;
        Ok(text)
    }

    /// Direct3D's shading language.
    ///
    /// # Errors
    /// As [`Checked::spirv`].
    pub fn hlsl(&self) -> Result<String, CompileError> {
        let (module, info) = self.settled()?;
        let options = hlsl::Options {
            shader_model: SHADER_MODEL,
            zero_initialize_workgroup_memory: false,
            restrict_indexing: false,
            force_loop_bounding: false,
            ..Default::default()
        };
        let mut text = String::new();
        let pipeline = hlsl::PipelineOptions::default();
        let written = hlsl::Writer::new(&mut text, &options, &pipeline).write(&module, &info, None);
        entry_points(written.map_err(|error| failed("HLSL", error))?.entry_point_names, "HLSL")?;
        Ok(text)
    }
}

/// Whether those that were asked for are there.
fn entry_points(found: Vec<Result<String, impl Display>>, language: &'static str) -> Result<(), CompileError> {
    found.into_iter().try_for_each(|name| name.map(drop)).map_err(|error| failed(language, error))
}

fn failed(language: &'static str, error: impl Display) -> CompileError {
    CompileError::Language { language, reason: error.to_string() }
}

/// The numbers of buffers in Metal, in the order of bindings; after them comes the one that holds their sizes.
fn buffers(module: &Module) -> msl::EntryPointResources {
    let mut bound: Vec<(ResourceBinding, bool)> = module
        .global_variables
        .iter()
        .filter_map(|(_, variable)| {
            let written =
                matches!(variable.space, AddressSpace::Storage { access } if access.contains(StorageAccess::STORE));
            Some((variable.binding?, written))
        })
        .collect();
    bound.sort_by_key(|(binding, _)| (binding.group, binding.binding));
    let sizes_buffer = u8::try_from(bound.len()).ok();
    let targets = bound.into_iter().zip(0..).map(|((binding, mutable), slot)| {
        (binding, msl::BindTarget { buffer: Some(slot), mutable, ..Default::default() })
    });
    msl::EntryPointResources { resources: targets.collect(), sizes_buffer, ..Default::default() }
}
