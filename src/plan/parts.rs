//! Tensors that one binding does not hold: they are split over the samples into parts.

use super::Plan;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernels::Span;
use crate::shape::Shape;

/// What wgpu binds at most, whatever the device reports.
pub(crate) const LARGEST_BINDING: u64 = 2_147_483_644;

/// Most bytes that one binding holds.
pub(crate) fn most_bytes(limits: &wgpu::Limits) -> u64 {
    limits.max_storage_buffer_binding_size.min(LARGEST_BINDING)
}

/// Most elements of a tensor that one binding holds.
fn most_elements(dtype: DType, limits: &wgpu::Limits) -> u64 {
    most_bytes(limits) / 4 * 4 / dtype.size()
}

/// Whether a tensor is bound as a whole.
pub(super) fn fits_binding(shape: &Shape, dtype: DType, limits: &wgpu::Limits) -> bool {
    shape.slices_per_micro_batch().is_none() && holds(shape, dtype, limits)
}

/// Whether a binding holds a tensor.
fn holds(shape: &Shape, dtype: DType, limits: &wgpu::Limits) -> bool {
    (shape.outer() * shape.widest_slice()) as u64 <= most_elements(dtype, limits)
}

/// How many slices of the tensor a part has, a slice being `fold` samples, or of channels last `fold` positions: all where
/// one binding holds the tensor, those of a micro-batch where it comes in such.
pub(super) fn slices_per_part(shape: &Shape, fold: usize, dtype: DType, limits: &wgpu::Limits) -> Result<usize> {
    let slices = shape.outer() / fold;
    if fits_binding(shape, dtype, limits) {
        return Ok(slices);
    }
    let slice = (shape.widest_slice() * fold) as u64;
    // A part begins where it does, its binding at the device's alignment before it.
    let alignment = u64::from(limits.min_storage_buffer_offset_alignment);
    let aligned = (slice * dtype.size()).is_multiple_of(alignment) && !shape.has_views()
        || shape.slices_per_micro_batch().is_some();
    let slack = if aligned { 0 } else { alignment / dtype.size() };
    let most = most_elements(dtype, limits).saturating_sub(slack) / slice;
    if most == 0 {
        return Err(Error::Limit {
            what: "one sample",
            limit: "the device's max_storage_buffer_binding_size",
            unit: "bytes",
            needed: dtype.bytes((slice + slack) as usize),
            allowed: most_bytes(limits),
            hint: "open the device with a higher limit where the adapter has one, or split the tensor over C, since \
                   channels do not depend on each other; by itself a layer splits tensors over N only",
        });
    }
    if let Some(given) = shape.slices_per_micro_batch().map(|slices| slices / fold) {
        return match given as u64 <= most {
            true => Ok(given),
            false => Err(Error::Limit {
                what: "one micro-batch",
                limit: "the device's max_storage_buffer_binding_size",
                unit: "bytes",
                needed: dtype.bytes((given as u64 * slice) as usize),
                allowed: most_bytes(limits),
                hint: "make micro-batches of fewer samples, or open the device with a higher limit where the adapter has one",
            }),
        };
    }
    // Parts of equal size, as far as that goes.
    let parts = (slices as u64).div_ceil(most);
    Ok((slices as u64).div_ceil(parts) as usize)
}

impl Plan {
    /// Number of dispatches of a kernel: one for each part of the tensors that it goes over.
    pub fn parts(&self, span: Span) -> u32 {
        match span {
            Span::Segment => self.parts,
            Span::Column => 1,
        }
    }

    /// Values of one column in a part.
    pub(super) fn values_of(&self, part: u32) -> u32 {
        self.part_values.min(self.values - part * self.part_values)
    }

    /// Workgroups that share a column in a part.
    pub(super) fn splits_of(&self, part: u32) -> u32 {
        self.values_of(part).div_ceil(self.segment)
    }

    /// Workgroups that share a column, in all parts.
    pub fn all_splits(&self) -> u32 {
        (self.parts - 1) * self.splits() + self.splits_of(self.parts - 1)
    }

    /// Elements of a part of a tensor, and of those before it.
    pub fn elements_of(&self, part: u32) -> [u64; 2] {
        let of = |values: u32| u64::from(values) * u64::from(self.columns) * self.geometry.elements() as u64;
        [of(self.values_of(part)), u64::from(part) * of(self.part_values)]
    }

    /// Elements of a channel in the first part, which the shift is taken from.
    pub fn first_part(&self) -> u64 {
        u64::from(self.values_of(0)) * u64::from(self.fold) * self.geometry.elements_per_value() as u64
    }
}
