//! What a run is asked for, and what came of it.

/// What a run is asked for.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct TrainSettings {
    /// Passes over the training images.
    pub epochs: u32,
    /// Images per training step.
    pub batch: usize,
    /// Step width of the descent in the first epoch; see [`TrainSettings::rate_in`].
    pub rate: f64,
    /// Seed of weights and order.
    pub seed: u64,
}

impl TrainSettings {
    /// Step width in epoch `epoch`, from 0: it falls linearly and would reach 0 after the last.
    pub fn rate_in(&self, epoch: u32) -> f32 {
        (self.rate * (1.0 - f64::from(epoch) / f64::from(self.epochs))) as f32
    }
}

/// Loss and accuracy of a pass over a data set.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Figures {
    /// Mean cross-entropy, in nats.
    pub loss: f64,
    /// Share of images classified correctly, in [0, 1].
    pub accuracy: f64,
}

/// One network's epoch: its training batches as they were met, then the test set.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Epoch {
    /// Over the training batches, each before its step.
    pub train: Figures,
    /// Over the test set after the epoch, with running statistics.
    pub test: Figures,
}

/// What came of training.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct History {
    /// Training steps per epoch.
    pub steps_per_epoch: usize,
    /// Epochs that earlier runs trained.
    pub resumed: usize,
    /// The network without batch norm.
    pub plain: Vec<Epoch>,
    /// The network with it.
    pub batch_norm: Vec<Epoch>,
    /// Seconds of training in this run, evaluation apart, of the network without batch norm.
    pub plain_seconds: f64,
    /// And of the one with it.
    pub batch_norm_seconds: f64,
}
