//! What storing costs.

use super::{ETA, promise};
use crate::dtype::DType;

impl DType {
    /// Bits of the significand, with the implicit one.
    fn precision(self) -> i32 {
        match self {
            DType::F32 => 24,
            DType::F16 => 11,
            DType::Bf16 => 8,
        }
    }

    /// Exponent of the smallest normal number.
    fn min_exponent(self) -> i32 {
        match self {
            DType::F16 => -14,
            DType::F32 | DType::Bf16 => -126,
        }
    }

    /// 2 to the exponent of the largest finite number.
    fn binade(self) -> f64 {
        2f64.powi(if self == DType::F16 { 15 } else { 127 })
    }

    /// Largest relative error of rounding to nearest: 2^-24, 2^-11, 2^-8.
    pub fn unit_roundoff(self) -> f64 {
        2f64.powi(-self.precision())
    }

    /// The largest finite number.
    pub fn max(self) -> f64 {
        (2.0 - 2.0 * self.unit_roundoff()) * self.binade()
    }

    /// The least magnitude that [`round`](Self::round) makes infinite, half an ulp above [`max`](Self::max): 65520 for
    /// F16.
    pub fn overflow(self) -> f64 {
        (2.0 - self.unit_roundoff()) * self.binade()
    }

    /// The nearest number of this type, ties to even; infinite beyond the range. Use it to make stored inputs.
    ///
    /// ```
    /// use batchnorm_wgpu::reference::bound::DType;
    /// assert_eq!(DType::F16.round(1.0 + 1.0 / 2048.0), 1.0);
    /// assert_eq!(DType::Bf16.round(1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0);
    /// assert_eq!(DType::F16.round(65520.0), f64::INFINITY);
    /// ```
    pub fn round(self, value: f64) -> f64 {
        if value == 0.0 || !value.is_finite() {
            return value;
        }
        // f64 subnormals have biased exponent 0 and lie far below every other type's numbers.
        let exponent = ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023;
        let quantum = 2f64.powi(exponent.max(self.min_exponent()) - self.precision() + 1);
        let rounded = (value / quantum).round_ties_even() * quantum;
        if rounded.abs() > self.max() { f64::INFINITY.copysign(rounded) } else { rounded }
    }

    /// Largest error of storing an f32 result that is within `error` of `value` and does not overflow.
    ///
    /// - F32: none, a result is an f32 already.
    /// - F16: half an ulp, since the kernels round to nearest in integer arithmetic; in the subnormal range, which is
    ///   kept, half of 2^-24.
    /// - Bf16: half an ulp likewise; subnormals are those of f32 and may be flushed.
    ///
    /// A result that is exact and representable costs nothing.
    pub fn storage_error(self, value: f64, error: f64) -> f64 {
        if self == DType::F32 || (error == 0.0 && self.round(value) == value) {
            return 0.0;
        }
        let relative = self.unit_roundoff() * (value.abs() + error);
        match self {
            DType::F16 => relative.max(2f64.powi(-25)),
            _ => relative + ETA,
        }
    }
}

/// Tolerance of storing as `dtype` an f32 result that is within `error` of `value`.
///
/// Infinite where it may overflow and may not. Where it overflows for certain, which only F16 and Bf16 promise anything
/// about, it is `error` itself, by which [`settle_overflow`] tells. An infinity for certain stays one.
pub(super) fn stored(value: f64, error: f64, dtype: DType) -> f64 {
    if value.is_infinite() && error == 0.0 {
        return 0.0;
    }
    let error = promise(error);
    let (least, most) = (value.abs() - error, value.abs() + error);
    match dtype {
        DType::F32 if most <= dtype.max() => error,
        DType::F32 => f64::INFINITY,
        _ if most < dtype.overflow() => error + dtype.storage_error(value, error),
        _ if least >= dtype.overflow() => error,
        _ => f64::INFINITY,
    }
}

/// Makes every element of `want` that overflows `dtype` for certain infinite, with tolerance 0: there a kernel has to
/// answer that infinity.
///
/// `want` is what the reference says of a tensor stored as `dtype` (y or dx), `tolerance` what the bound says of it, of
/// the same length. Call it before [`compare`](super::compare), which otherwise refuses the infinity: the bound gives
/// such an element the finite tolerance of the result before storage. Where it is open whether an element overflows the
/// tolerance is infinite and stays so. F32 tensors are left as they are.
///
/// ```
/// use batchnorm_wgpu::reference::bound::{DType, settle_overflow};
/// let (mut want, mut tolerance) = ([7e4, -7e4, 3.0], [1.0, 1.0, 1e-3]);
/// settle_overflow(&mut want, &mut tolerance, DType::F16);
/// assert_eq!((want, tolerance), ([f64::INFINITY, f64::NEG_INFINITY, 3.0], [0.0, 0.0, 1e-3]));
/// ```
pub fn settle_overflow(want: &mut [f64], tolerance: &mut [f64], dtype: DType) {
    if dtype == DType::F32 {
        return;
    }
    for (want, tolerance) in want.iter_mut().zip(tolerance) {
        if want.abs() - *tolerance >= dtype.overflow() {
            (*want, *tolerance) = (f64::INFINITY.copysign(*want), 0.0);
        }
    }
}
