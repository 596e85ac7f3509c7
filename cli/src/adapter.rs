//! Choosing adapters on the command line.

use crate::AnyError;
use batchnorm_wgpu::host::{Gpu, adapter_key, adapters};
use batchnorm_wgpu::wgpu;

/// Which adapters a command uses.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct AdapterArgs {
    /// Use the adapter of this short name (see `bn info`), or whose name contains NAME [default: the best one]
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
}

impl AdapterArgs {
    /// Opens the adapter.
    pub fn open(&self) -> Result<Gpu, AnyError> {
        Ok(Gpu::open(self.adapter.as_deref())?)
    }

    /// Opens the adapter with those of `features` that it has.
    pub fn open_with(&self, features: wgpu::Features) -> Result<Gpu, AnyError> {
        Ok(Gpu::open_with(self.adapter.as_deref(), features)?)
    }
}

/// Short names of all adapters, the best first.
pub fn keys() -> Vec<String> {
    adapters().iter().map(|adapter| adapter_key(&adapter.get_info())).collect()
}
