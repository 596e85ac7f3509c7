//! What a forward pass leaves for its backward pass, and with which layer: so that the two cannot be bound unlike.

use super::BatchNorm;
#[cfg(doc)]
use super::{Backward, ForwardTraining, Inference, Step};
use crate::config::{Activation, Config};
use crate::error::{Error, Result};
use crate::operation::Operation;
use crate::shape::Shape;
use wgpu::BufferBinding;

/// What a forward pass leaves for its backward pass: which buffers hold x (or y, with [`Config::in_place`]), the residual and the
/// saved statistics, and what the layer was like. From [`Step::saved`], or [`BatchNorm::saved_from`] for what was uploaded
/// or moved. It keeps the buffers alive.
#[derive(Clone, Debug)]
pub struct Saved {
    /// The forward pass.
    forward: Operation,
    shape: Shape,
    /// Which micro-batch, where the batch comes in several.
    micro_batch: Option<u32>,
    config: Config,
    x: OwnedBinding,
    residual: Option<OwnedBinding>,
    saved: OwnedBinding,
    /// Whether y was written over x, from which the layer does not work.
    x_is_lost: bool,
}

/// A binding that keeps its buffer.
#[derive(Clone, Debug)]
struct OwnedBinding {
    buffer: wgpu::Buffer,
    offset: u64,
    size: Option<wgpu::BufferSize>,
}

impl OwnedBinding {
    fn of(binding: &BufferBinding<'_>) -> Self {
        Self { buffer: binding.buffer.clone(), offset: binding.offset, size: binding.size }
    }

    fn binding(&self) -> BufferBinding<'_> {
        BufferBinding { buffer: &self.buffer, offset: self.offset, size: self.size }
    }
}

impl BatchNorm {
    /// What a backward pass needs of a forward pass that is no [`Step`] at hand: its results were uploaded, or moved to other
    /// buffers. `forward` is [`Operation::ForwardTraining`] or [`Operation::Inference`]; `x` is the input, or with
    /// [`Config::in_place`] the output; `residual` is that of the forward pass, if it had one; `saved` holds what
    /// [`ForwardTraining::saved`] does. Whether the contents are those of such a pass of this layer is up to the caller.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for another operation.
    pub fn saved_from(
        &self,
        forward: Operation,
        x: BufferBinding<'_>,
        residual: Option<BufferBinding<'_>>,
        saved: BufferBinding<'_>,
    ) -> Result<Saved> {
        match forward {
            Operation::ForwardTraining | Operation::Inference => {}
            other => return Err(nothing_saved(other)),
        }
        let (x, residual, saved) =
            (OwnedBinding::of(&x), residual.as_ref().map(OwnedBinding::of), OwnedBinding::of(&saved));
        let (shape, config) = (self.shape().clone(), *self.description.config());
        let micro_batch = self.description.micro_batch_number();
        Ok(Saved { forward, shape, micro_batch, config, x, residual, saved, x_is_lost: false })
    }
}

/// The error where an operation has nothing for a backward pass.
pub(super) fn nothing_saved(operation: Operation) -> Error {
    Error::Mismatch {
        name: "saved",
        expected: "a forward_training of one tensor (each of several micro-batches has its own), or an inference that was given \
                   `saved` to write"
            .into(),
        actual: operation.name().into(),
    }
}

impl Saved {
    /// The same, with y written over x although the layer works from x.
    pub(super) fn without_x(self) -> Self {
        Self { x_is_lost: true, ..self }
    }

    /// x, or with [`Config::in_place`] y.
    pub(super) fn x(&self) -> BufferBinding<'_> {
        self.x.binding()
    }

    pub(super) fn residual(&self) -> Option<BufferBinding<'_>> {
        self.residual.as_ref().map(OwnedBinding::binding)
    }

    pub(super) fn statistics(&self) -> BufferBinding<'_> {
        self.saved.binding()
    }

    /// Refuses a backward pass that does not belong to the forward pass.
    pub(super) fn check(&self, layer: &BatchNorm, forward: Operation) -> Result<()> {
        let described = |forward: Operation, shape: &Shape, micro_batch: Option<u32>, config: &Config| {
            let number = micro_batch.map(|number| format!(", number {number}"));
            [
                forward.name().into(),
                format!("{shape}{}", number.unwrap_or_default()),
                config.dtype.to_string(),
                format!("activation {}", config.activation_in_words()),
                format!("in_place {}", config.in_place),
            ]
        };
        let wanted =
            described(forward, layer.shape(), layer.description.micro_batch_number(), layer.description.config());
        let found = described(self.forward, &self.shape, self.micro_batch, &self.config);
        // Channels first or last is the same where there are no other dimensions after N.
        let same_shape = self.shape.reduced() == layer.shape().reduced()
            && self.shape.views() == layer.shape().views()
            && self.shape.slices_per_micro_batch() == layer.shape().slices_per_micro_batch()
            && self.micro_batch == layer.description.micro_batch_number();
        let differs = |i: &usize| if *i == 1 { !same_shape } else { wanted[*i] != found[*i] };
        let differing: Vec<usize> = (0..wanted.len()).filter(differs).collect();
        if differing.is_empty() {
            return Ok(());
        }
        let words = |of: &[String]| differing.iter().map(|&i| of[i].as_str()).collect::<Vec<_>>().join(", ");
        Err(Error::Mismatch {
            name: "saved",
            expected: format!("that of a forward pass with {}, as the backward pass has", words(&wanted)),
            actual: format!("that of one with {}", words(&found)),
        })
    }

    /// Refuses a backward pass that reads x where inference wrote y over it.
    pub(super) fn check_x(&self, backward: Operation, parameters: bool) -> Result<()> {
        let reads_x =
            backward == Operation::BackwardTraining || parameters || self.config.activation != Activation::None;
        match self.x_is_lost && reads_x {
            false => Ok(()),
            true => Err(Error::Overlap {
                first: "x",
                second: "y",
                hint: "the backward pass needs x: give y bytes of its own, or set Config::in_place",
            }),
        }
    }
}
