//! `bn info`.

use crate::terminal::{number, table, text};
use crate::{AnyError, ExitStatus};
use batchnorm_wgpu::host::{adapter_key, adapters};
use batchnorm_wgpu::kernels::Variant;
use batchnorm_wgpu::{Capabilities, USEFUL_FEATURES, wgpu};
use serde::Serialize;

/// Arguments of `bn info`.
#[derive(clap::Args)]
pub struct InfoArgs {
    /// Print JSON, which has all there is to say, instead of a table
    #[arg(long)]
    json: bool,
}

/// What matters of an adapter.
#[derive(Serialize)]
struct AdapterRow {
    key: String,
    name: String,
    backend: String,
    kind: String,
    driver: String,
    subgroup_sizes: Option<[u32; 2]>,
    timestamps: bool,
    shader_f16: bool,
    invocations_per_workgroup: u32,
    workgroup_bytes: u32,
    storage_binding_bytes: u64,
    storage_buffers_per_stage: u32,
    offset_alignment: u32,
    kernels: Vec<String>,
    kernels_in_all: usize,
}

/// Lists the adapters.
pub fn run(arguments: &InfoArgs) -> Result<ExitStatus, AnyError> {
    let rows: Vec<AdapterRow> = adapters().iter().map(row).collect();
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(ExitStatus::Passed);
    }
    if rows.is_empty() {
        // The library's error says what to install.
        batchnorm_wgpu::host::Gpu::open(None)?;
    }
    let columns = [
        text("adapter").means("the name that --adapter takes"),
        text("name"),
        text("kind"),
        number("kernels").means("kernel variants that can run; the others need subgroups or f16"),
        number("subgroups").means("invocations in a subgroup").extra(),
        text("f16").means("whether WGSL's f16 is there").extra(),
        text("timestamps").means("whether the device has a clock, for `bn bench`").extra(),
        number("binding\nMiB").means("the largest storage binding").extra(),
        number("workgroup\nKiB").means("memory that a workgroup shares").extra(),
        number("invocations").means("the most in a workgroup").extra(),
        number("buffers").means("storage buffers that a shader binds").extra(),
        number("offset").means("the alignment of a binding's offset in bytes").extra(),
        text("driver").extra(),
    ];
    let cells = rows.iter().map(|row| {
        let yes = |it| if it { "yes" } else { "no" }.to_owned();
        vec![
            row.key.clone(),
            format!("{} ({})", row.name, row.backend),
            row.kind.clone(),
            format!("{} of {}", row.kernels.len(), row.kernels_in_all),
            row.subgroup_sizes.map_or("none".into(), |[min, max]| match min == max {
                true => format!("{min}"),
                false => format!("{min} to {max}"),
            }),
            yes(row.shader_f16),
            yes(row.timestamps),
            (row.storage_binding_bytes >> 20).to_string(),
            (row.workgroup_bytes / 1024).to_string(),
            row.invocations_per_workgroup.to_string(),
            row.storage_buffers_per_stage.to_string(),
            row.offset_alignment.to_string(),
            row.driver.clone(),
        ]
    });
    println!("{}", table(columns, cells));
    Ok(ExitStatus::Passed)
}

fn row(adapter: &wgpu::Adapter) -> AdapterRow {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let subgroups = (features & USEFUL_FEATURES).contains(wgpu::Features::SUBGROUP);
    let own = Capabilities {
        limits: limits.clone(),
        subgroups: features.contains(wgpu::Features::SUBGROUP),
        shader_f16: features.contains(wgpu::Features::SHADER_F16),
        device_type: info.device_type,
    };
    let names = |capabilities: &Capabilities| -> Vec<String> {
        Variant::every().filter(|variant| variant.check(capabilities).is_ok()).map(|variant| variant.name()).collect()
    };
    let all = Capabilities { subgroups: true, shader_f16: true, ..own.clone() };
    AdapterRow {
        key: adapter_key(&info),
        name: info.name.clone(),
        backend: format!("{:?}", info.backend),
        kind: match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete GPU",
            wgpu::DeviceType::IntegratedGpu => "integrated GPU",
            wgpu::DeviceType::VirtualGpu => "virtual GPU",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "other",
        }
        .into(),
        driver: match info.driver_info.is_empty() {
            true => info.driver.clone(),
            false => info.driver_info.clone(),
        },
        subgroup_sizes: subgroups.then_some([info.subgroup_min_size, info.subgroup_max_size]),
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
        shader_f16: features.contains(wgpu::Features::SHADER_F16),
        invocations_per_workgroup: limits.max_compute_invocations_per_workgroup,
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        storage_binding_bytes: limits.max_storage_buffer_binding_size,
        storage_buffers_per_stage: limits.max_storage_buffers_per_shader_stage,
        offset_alignment: limits.min_storage_buffer_offset_alignment,
        kernels_in_all: names(&all).len(),
        kernels: names(&own),
    }
}
