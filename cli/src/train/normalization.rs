//! The batch norm stages of a training step: the library's float64 reference, with the library's own error bounds.

use super::{error::TrainError, stages::BoundedValues};
use batchnorm_wgpu::{
    Config, Layout, RunningStatistics, Shape,
    reference::{
        self, Layer,
        bound::{self, Execution, StatisticsBound},
    },
};

/// A batch norm layer about to be checked: its shape and what it was given.
pub struct BatchNormStage {
    shape: Shape,
    config: Config,
    x: Vec<f64>,
    gamma: Option<Vec<f64>>,
}

/// The gradients of a batch norm layer.
pub struct ExpectedGradients {
    /// By the input.
    pub dx: BoundedValues,
    /// By gamma.
    pub dgamma: BoundedValues,
    /// By beta.
    pub dbeta: BoundedValues,
}

impl BatchNormStage {
    /// A layer with the default configuration, over `x` [rows, channels].
    ///
    /// # Errors
    /// [`TrainError::BatchNorm`] for a shape that has no statistics.
    pub fn new(x: Vec<f64>, dims: [usize; 2], gamma: Option<Vec<f64>>) -> Result<Self, TrainError> {
        let shape = Shape::new(&dims, Layout::ChannelsFirst)?;
        Ok(Self { shape, config: Config::default(), x, gamma })
    }

    fn layer(&self) -> Layer<'_> {
        Layer { gamma: self.gamma.as_deref(), eps: self.config.eps, ..Layer::default() }
    }

    /// The layer's output.
    ///
    /// # Errors
    /// [`TrainError::BatchNorm`] for arrays that do not fit the shape.
    pub fn forward(&self, beta: &[f64]) -> Result<BoundedValues, TrainError> {
        let layer = Layer { beta: Some(beta), ..self.layer() };
        let values = reference::forward_training(&self.x, &self.shape, &layer)?.y;
        let bounds = bound::forward_training(&self.x, &self.shape, &layer, &Execution::default())?.y;
        Ok(BoundedValues { values, bounds })
    }

    /// The running means and variances after a batch that met those of `before`.
    ///
    /// # Errors
    /// [`TrainError::BatchNorm`] for arrays that do not fit the shape.
    pub fn running(&self, before: &RunningStatistics) -> Result<(BoundedValues, BoundedValues), TrainError> {
        let batch = reference::statistics(&self.x, &self.shape)?;
        let batch_bound = bound::statistics(&self.x, &self.shape, &Execution::default())?;
        let wide = |value: &f32| f64::from(*value);
        let counts = |values: &[u32]| values.iter().map(|&count| u64::from(count)).collect();
        let mut state = reference::RunningStatistics {
            // The kernels carry the mean as two f32.
            mean: before.mean.iter().zip(&before.mean_remainder).map(|(mean, rest)| wide(mean) + wide(rest)).collect(),
            var: before.var.iter().map(wide).collect(),
            tracked: counts(&before.tracked),
            averaged: counts(&before.averaged),
            skipped: counts(&before.skipped),
            values: before.values.clone(),
        };
        let exact = StatisticsBound::exact(self.shape.channels());
        let bounds = bound::running(&state, &exact, &batch, &batch_bound, &self.config.running)?;
        state.update(&batch, &self.config.running)?;
        let means = BoundedValues { values: state.mean, bounds: bounds.mean };
        Ok((means, BoundedValues { values: state.var, bounds: bounds.var }))
    }

    /// The layer's gradients.
    ///
    /// # Errors
    /// [`TrainError::BatchNorm`] for arrays that do not fit the shape.
    pub fn backward(&self, dy: &[f64]) -> Result<ExpectedGradients, TrainError> {
        let layer = self.layer();
        let values = reference::backward_training(&self.x, dy, &self.shape, &layer)?;
        let bounds = bound::backward_training(&self.x, dy, &self.shape, &layer, &Execution::default())?;
        Ok(ExpectedGradients {
            dx: BoundedValues { values: values.dx, bounds: bounds.dx },
            dgamma: BoundedValues { values: values.dgamma, bounds: bounds.dgamma },
            dbeta: BoundedValues { values: values.dbeta, bounds: bounds.dbeta },
        })
    }
}
