//! The uniform parameters: what a kernel is told of its plan, its layer and its part of the tensors.

use super::Plan;
use crate::config::{Average, Config, NonFinite, Spread, VarianceEstimate};
use crate::kernels::Kernel;
use crate::shape::Shape;
use bytemuck::{Pod, Zeroable};

impl Plan {
    /// The uniform parameters of one of the operation's kernels for a part of the tensors, which begins `base` values behind
    /// the begin of its bindings.
    pub fn params(&self, shape: &Shape, config: &Config, kernel: &Kernel, part: u32, base: u32) -> Params {
        let policy = &config.running;
        let count = shape.elements_per_channel();
        let correction = match policy.variance {
            VarianceEstimate::Unbiased if count > 1 => count as f64 / (count as f64 - 1.0),
            _ => 1.0,
        };
        let (average, momentum) = match policy.average {
            Average::Exponential { momentum } => (0, momentum),
            Average::Cumulative => (1, 0.0),
            Average::Pooled => (2, 0.0),
        };
        Params {
            tile: self.tile,
            lanes: self.workgroup_size / self.tile,
            interleaved: u32::from(self.interleaved),
            columns: self.columns,
            inner: self.inner,
            fold: self.fold,
            base,
            values: self.values_of(part),
            splits: self.splits_of(part),
            segment: self.segment,
            first_split: part * self.splits(),
            part_values: self.part_values,
            part_splits: self.splits(),
            all_values: self.values,
            all_splits: self.all_splits(),
            groups: self.groups(kernel.span, part),
            reverse: u32::from(self.approach.reverse() && kernel.rereads),
            statistics: shape.channels() as u32,
            channels: shape.channels() as u32,
            count: count as u32,
            count_f32: count as f32,
            eps: config.eps as f32,
            nan_bits: f32::NAN.to_bits(),
            zero: 0,
            average,
            momentum: momentum as f32,
            unbiased: u32::from(policy.variance == VarianceEstimate::Unbiased),
            correction: correction as f32,
            standard_deviation: u32::from(policy.spread == Spread::StandardDeviation),
            propagate: u32::from(policy.non_finite == NonFinite::Propagate),
            window_skip: policy.window.skip,
            window_take: policy.window.take.unwrap_or(u32::MAX),
            negative_slope: config.negative_slope as f32,
            ..Params::zeroed()
        }
    }
}

/// A parameter of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Parameter {
    /// A count, an index or a flag.
    U32(u32),
    /// A number.
    F32(f32),
}

impl From<u32> for Parameter {
    fn from(value: u32) -> Self {
        Self::U32(value)
    }
}

impl From<f32> for Parameter {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

/// Declares the parameters, with their names.
macro_rules! params {
    ($($name:ident: $type:ident),+ $(,)?) => {
        /// The uniform parameters of every kernel; mirrors `Params` in `shaders/common/work.wgsl`, where the fields are
        /// explained.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
        #[allow(missing_docs)]
        pub struct Params {
            $(pub $name: $type,)+
        }

        impl Params {
            /// All of them by name, in order.
            pub fn by_name(&self) -> impl Iterator<Item = (&'static str, Parameter)> {
                [$((stringify!($name), self.$name.into())),+].into_iter()
            }
        }
    };
}

params! {
    tile: u32,
    lanes: u32,
    interleaved: u32,
    columns: u32,
    inner: u32,
    fold: u32,
    base: u32,
    values: u32,
    splits: u32,
    segment: u32,
    first_split: u32,
    part_values: u32,
    part_splits: u32,
    all_values: u32,
    all_splits: u32,
    groups: u32,
    reverse: u32,
    statistics: u32,
    channels: u32,
    count: u32,
    count_f32: f32,
    eps: f32,
    nan_bits: u32,
    zero: u32,
    average: u32,
    momentum: f32,
    unbiased: u32,
    correction: f32,
    standard_deviation: u32,
    propagate: u32,
    window_skip: u32,
    window_take: u32,
    negative_slope: f32,
    slice: u32,
    x_base: u32,
    x_gap: u32,
    y_base: u32,
    y_gap: u32,
    residual_base: u32,
    residual_gap: u32,
    gamma_at: u32,
    beta_at: u32,
    dgamma_at: u32,
    dbeta_at: u32,
}

impl Params {
    /// Where eps lies, in bytes.
    pub(crate) const EPS: u64 = std::mem::offset_of!(Self, eps) as u64;
    /// Where the momentum lies, in bytes.
    pub(crate) const MOMENTUM: u64 = std::mem::offset_of!(Self, momentum) as u64;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities::Capabilities;
    use crate::choice::Choice;
    use crate::config::RunningPolicy;
    use crate::dtype::DType;
    use crate::kernels::{Strategy, Wanted, kernels_of};
    use crate::operation::Operation;
    use crate::shape::Layout;
    use crate::tuning::Tuning;

    const OPERATION: Operation = Operation::ForwardTraining;

    /// Of the first and the second kernel of a split training forward that goes backwards.
    fn params(dims: &[usize], running: RunningPolicy) -> [Params; 2] {
        let shape = Shape::new(dims, Layout::ChannelsFirst).unwrap();
        let choice = Choice::split(None, true);
        let (capabilities, tuning) = (Capabilities::default_limits(), Tuning::none());
        let plan = Plan::new(OPERATION, &shape, DType::F32, &capabilities, &tuning, &choice).unwrap();
        let config = Config { running, ..Config::default() };
        [0, 1].map(|i| plan.params(&shape, &config, kernels_of(OPERATION, Strategy::Split, Wanted::All)[i], 0, 0))
    }

    #[test]
    fn policies_are_numbers() {
        let of = |running| {
            let [_, p] = params(&[5, 2], running);
            let estimate = (p.unbiased, p.correction, p.standard_deviation, p.propagate);
            (p.average, p.momentum, estimate, p.window_skip, p.window_take)
        };
        let plain = (1, 1.25, 0, 0);
        assert_eq!(of(RunningPolicy::exponential(0.5)), (0, 0.5, plain, 0, u32::MAX));
        assert_eq!(of(RunningPolicy::cumulative().window(3, Some(4))), (1, 0.0, plain, 3, 4));
        assert_eq!(of(RunningPolicy::pooled().biased()), (2, 0.0, (0, 1.0, 0, 0), 0, u32::MAX));
        let rest = RunningPolicy::cumulative().average_standard_deviation().propagate_non_finite();
        assert_eq!(of(rest), (1, 0.0, (1, 1.25, 1, 1), 0, u32::MAX));
    }

    #[test]
    fn one_value_has_no_other_estimate() {
        assert_eq!(params(&[1, 2], RunningPolicy::default())[1].correction, 1.0);
        assert_eq!(params(&[2, 2], RunningPolicy::default())[1].correction, 2.0);
    }

    #[test]
    fn only_what_reads_again_goes_backwards() {
        assert_eq!(params(&[5, 2], RunningPolicy::default()).map(|params| params.reverse), [0, 1]);
    }
}
