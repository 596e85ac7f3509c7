//! What storing costs.

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

    /// Largest relative error of rounding to nearest: 2^-24, 2^-11, 2^-8.
    pub fn unit_roundoff(self) -> f64 {
        2f64.powi(-self.precision())
    }

    /// The largest finite number.
    pub fn max(self) -> f64 {
        let exponent = if self == DType::F16 { 15 } else { 127 };
        (2.0 - 2.0 * self.unit_roundoff()) * 2f64.powi(exponent)
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

    /// Largest error of storing an f32 result that is within `error` of `value`.
    ///
    /// - F32: none, a result is an f32 already.
    /// - Bf16: half an ulp, since the kernels round to nearest; subnormals may be flushed.
    /// - F16: one ulp, since WGSL lets the conversion go to either neighbour, and some hardware rounds toward 0;
    ///   subnormals are taken to be kept.
    ///
    /// A result that is exact and representable costs nothing.
    pub fn storage_error(self, value: f64, error: f64) -> f64 {
        if self == DType::F32 || (error == 0.0 && self.round(value) == value) {
            return 0.0;
        }
        let magnitude = value.abs() + error;
        match self {
            DType::F16 => 2.0 * self.unit_roundoff() * magnitude + 2f64.powi(-24),
            _ => self.unit_roundoff() * magnitude + super::ETA,
        }
    }
}
