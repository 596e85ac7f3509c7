//! The activation of a layer, as arguments.

use crate::AnyError;
use crate::names;
use batchnorm_wgpu::{Activation, Config};

/// Arguments of commands that have a layer.
#[derive(clap::Args, Clone, Copy)]
pub struct ActivationArgs {
    /// The activation, applied last: none, relu, leaky_relu, relu6 or silu
    #[arg(long, value_name = "NAME", value_parser = names::activation, default_value = "none")]
    activation: Activation,
    /// What leaky_relu multiplies negative values with [default: 0.01]
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    negative_slope: Option<f64>,
}

impl ActivationArgs {
    /// The configuration with the activation.
    pub fn applied_to(&self, config: Config) -> Config {
        let negative_slope = self.negative_slope.unwrap_or(config.negative_slope);
        Config { activation: self.activation, negative_slope, ..config }
    }

    /// Refuses a slope that nothing is multiplied with.
    pub fn check(&self) -> Result<(), AnyError> {
        if self.negative_slope.is_none() || self.activation == Activation::LeakyRelu {
            return Ok(());
        }
        let given = self.activation;
        Err(format!("--negative-slope is for leaky_relu, and the activation is {given}: give --activation leaky_relu")
            .into())
    }
}
