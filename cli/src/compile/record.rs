//! What a compiler said of all kernels for one GPU, as it is written to a file and read again by `bn report`.

use batchnorm_wgpu_compile::figures::{CompilerFigures, KernelReport};
use batchnorm_wgpu_compile::process::Report;
use serde::{Deserialize, Serialize};

/// What a record says it is.
pub const SCHEMA: &str = "batchnorm-compile-1";

/// The report of one GPU on one day. The format is described in `benches/records/README.md`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CompilerRecord {
    /// [`SCHEMA`].
    pub schema: String,
    /// The day, `YYYY-MM-DD`.
    pub date: String,
    /// The driver's and the GPU's short names, `radv-navi21`: the folder of the record.
    pub compiler: String,
    /// What the GPU is, for people.
    pub gpu: String,
    /// What the driver calls it.
    pub name: String,
    /// Driver and its version.
    pub driver: String,
    /// Version of this project.
    pub version: String,
    /// What it says of each kernel.
    pub kernels: Vec<KernelReport>,
    /// What could not be compiled, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
}

impl CompilerRecord {
    /// Of a report.
    pub fn new(report: &Report, date: &str) -> Self {
        Self {
            schema: SCHEMA.into(),
            date: date.into(),
            compiler: report.family.key(),
            gpu: report.family.gpu.into(),
            name: report.machine.name.clone(),
            driver: report.machine.driver.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            kernels: report.kernels.clone(),
            failed: report.failed.clone(),
        }
    }
}

/// Names of the columns of a table, and what they mean. The first one, and the last, are text.
pub const HEADER: [(&str, &str); 15] = [
    ("kernel", ""),
    ("workgroup\nsize", "invocations in a workgroup"),
    ("registers", "that each invocation has of its own"),
    ("spilled", "registers that do not fit and lie in memory"),
    ("waves", "that a SIMD unit may have in flight; more hide more of the memory's latency"),
    ("per\nelement", "instructions of the innermost loop that loads a tensor, for each element that it takes"),
    ("load", "bytes of the narrowest load of a tensor"),
    ("store", "bytes of the narrowest store to one"),
    ("promised", "bytes that the geometry promises for both"),
    ("instructions", "of the whole kernel"),
    ("code\nbytes", ""),
    ("workgroup\nbytes", "memory that a workgroup shares"),
    ("scalar\nregisters", "that a wave shares"),
    ("variants", "with different activations and bindings, of which each figure is the worst"),
    ("chosen for", "the first operation and shape that an automatic plan takes it for"),
];

/// How many of the columns a narrow table has.
pub const LEAST_COLUMNS: usize = 8;

/// The cells of a kernel, one for each column.
pub fn cells(kernel: &KernelReport) -> Vec<String> {
    let number = |figure: Option<u32>| figure.map_or("-".into(), |it| it.to_string());
    let CompilerFigures { vector_registers, scalar_registers, spilled, waves, workgroup_bytes, .. } = kernel.figures;
    let CompilerFigures { code_bytes, instructions, per_element, load_bytes, store_bytes, promised_bytes, .. } =
        kernel.figures;
    vec![
        kernel.name.clone(),
        kernel.workgroup_size.to_string(),
        number(vector_registers),
        number(spilled),
        number(waves),
        per_element.map_or("-".into(), |it| format!("{it:.1}")),
        number(load_bytes),
        number(store_bytes),
        number(promised_bytes),
        number(instructions),
        number(code_bytes),
        number(workgroup_bytes),
        number(scalar_registers),
        kernel.variants.to_string(),
        kernel.chosen_for.clone().unwrap_or_else(|| "-".into()),
    ]
}
