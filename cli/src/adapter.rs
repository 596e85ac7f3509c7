//! Choosing adapters on the command line.

use crate::AnyError;
use batchnorm_wgpu::host::{Gpu, adapter_key, adapters};

/// Which adapters a command uses.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct AdapterArgs {
    /// Adapter by short name (see `bn info`) or part of its name. Default: the best one
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
}

impl AdapterArgs {
    /// Opens the adapter.
    pub fn open(&self) -> Result<Gpu, AnyError> {
        Ok(Gpu::open(self.adapter.as_deref())?)
    }
}

/// Short names of all adapters, the best first.
pub fn keys() -> Vec<String> {
    adapters().iter().map(|adapter| adapter_key(&adapter.get_info())).collect()
}
