//! Checkpoints of [`HostBatchNorm`].

use super::LayerState;
use crate::error::Result;
use crate::host::HostBatchNorm;

impl HostBatchNorm {
    /// Parameters and running statistics, for a [`Writer`](super::Writer).
    pub fn state(&self) -> LayerState {
        LayerState {
            gamma: self.gamma.as_ref().map(|gamma| gamma.to_vec()),
            beta: self.beta.as_ref().map(|beta| beta.to_vec()),
            running: Some(self.running.clone()),
        }
    }

    /// Takes over what a [`Reader`](super::Reader) gave. Absent running statistics leave the layer's own as they are.
    ///
    /// # Errors
    /// [`Error::Mismatch`](crate::Error::Mismatch) when `state` has another number of channels; nothing is changed then.
    pub fn set_state(&mut self, state: LayerState) -> Result<()> {
        self.named(state.check(self.running.channels()))?;
        self.gamma = state.gamma.map(Into::into);
        self.beta = state.beta.map(Into::into);
        self.running = state.running.unwrap_or_else(|| self.running.clone());
        Ok(())
    }
}
