//! What was measured to be fast, as data: plans look up the shape nearest to their own.

use crate::capabilities::adapter_key;
use crate::choice::{Approach, Choice};
use crate::error::{Error, Result};
use crate::kernels::{Geometry, Reduction, Strategy};
use crate::operation::Operation;
use crate::shape::Shape;
use serde::{Deserialize, Serialize};

/// What a tuning file says it is.
const SCHEMA: &str = "batchnorm-tuning-1";

/// What was measured to be fast on an adapter: the file that `bn tune` writes.
///
/// ```
/// use batchnorm_wgpu::Tuning;
/// let file = r#"{ "schema": "batchnorm-tuning-1", "adapter": "lavapipe", "measured": "2026-11-21", "points": [
///     { "operation": "inference", "rows": false, "channels": 64, "values": 1024,
///       "prefer": { "strategy": "split", "workgroup_size": 8, "workgroups": 64 } } ] }"#;
/// assert_eq!(Tuning::from_json(file)?.points.len(), 1);
/// # Ok::<(), batchnorm_wgpu::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    /// `batchnorm-tuning-1`.
    pub schema: String,
    /// Short name of the adapter ([`adapter_key`]), or what else it is for.
    pub adapter: String,
    /// When, on what and with which driver it was measured.
    pub measured: String,
    /// The shapes that were measured.
    pub points: Vec<TuningPoint>,
}

/// What was fastest for one operation on one shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TuningPoint {
    /// The operation.
    pub operation: Operation,
    /// Whether neighbouring elements belong to neighbouring channels: inner is 1.
    pub rows: bool,
    /// Channels.
    pub channels: u64,
    /// Values per channel.
    pub values: u64,
    /// Elements of a channel that lie side by side, where that was noted: planes of 7 x 7 are taken otherwise than those of 14 x 14.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inner: Option<u64>,
    /// What was fastest.
    pub prefer: Preference,
    /// How fast it was: fraction of the copy kernel's speed, on the bytes that the operation must move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fraction_of_copy: Option<f64>,
}

impl TuningPoint {
    /// A preference for this operation on this shape, not measured.
    pub fn new(operation: Operation, shape: &Shape, prefer: Preference) -> Self {
        let (channels, values) = (shape.channels() as u64, shape.elements_per_channel() as u64);
        let inner = Some(shape.inner() as u64);
        Self { operation, rows: shape.inner() == 1, channels, values, inner, prefer, fraction_of_copy: None }
    }

    /// Whether it was measured with this operation on a shape like this one.
    pub fn is_about(&self, operation: Operation, shape: &Shape) -> bool {
        self.place() == Self::new(operation, shape, self.prefer).place()
    }

    /// What it is looked up by.
    fn place(&self) -> (Operation, bool, u64, u64, Option<u64>) {
        (self.operation, self.rows, self.channels, self.values, self.inner)
    }
}

/// What a plan should be like, as far as the shape and the device allow. What it leaves open is as a plan has it by itself: the
/// strategy `split`, workgroups of 256 invocations. Splits and a storage in it do not count.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Prefer", into = "Prefer")]
pub struct Preference {
    /// The choices; files have neither splits nor a storage.
    pub choice: Choice,
    /// Workgroups in all: by these, not by a number of splits, `split` is preferred for other shapes.
    pub workgroups: u32,
}

/// Invocations of a workgroup where a preference says nothing of them: what WebGPU allows everywhere.
const WORKGROUP_SIZE: u32 = 256;

/// A preference as files have it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Prefer {
    strategy: Strategy,
    /// Absent: the widest that fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    geometry: Option<Geometry>,
    /// Absent: by subgroups where the device has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reduction: Option<Reduction>,
    workgroup_size: u32,
    #[serde(default)]
    workgroups: u32,
    /// 0 but for `resident`.
    #[serde(default)]
    held: u32,
    /// False but for `split`.
    #[serde(default)]
    reverse: bool,
}

impl TryFrom<Prefer> for Preference {
    type Error = String;

    fn try_from(file: Prefer) -> Result<Self, String> {
        let Prefer { strategy, geometry, reduction, workgroup_size, workgroups, held, reverse } = file;
        let reverse = (reverse || strategy == Strategy::Split).then_some(reverse);
        let approach = Approach::said(Some(strategy), None, reverse, (held > 0).then_some(held))
            .map_err(|misplaced| format!("{misplaced}, not {strategy}"))?;
        let workgroup_size = Some(workgroup_size);
        Ok(Self { choice: Choice { approach, geometry, reduction, workgroup_size, storage: None }, workgroups })
    }
}

impl From<Preference> for Prefer {
    fn from(preference: Preference) -> Self {
        let Preference { choice, workgroups } = preference;
        Self {
            strategy: preference.strategy(),
            geometry: choice.geometry,
            reduction: choice.reduction,
            workgroup_size: preference.workgroup_size(),
            workgroups,
            held: choice.held().unwrap_or_default(),
            reverse: choice.reverse().unwrap_or_default(),
        }
    }
}

impl Preference {
    /// The strategy.
    pub fn strategy(&self) -> Strategy {
        self.choice.strategy().unwrap_or(Strategy::Split)
    }

    /// Invocations per workgroup.
    pub fn workgroup_size(&self) -> u32 {
        self.choice.workgroup_size.unwrap_or(WORKGROUP_SIZE)
    }
}

/// Tuning files that come with the crate, by the [`adapter_key`] of the adapter they were measured on.
const BUILT_IN: [(&str, &str); 3] = [
    ("lavapipe", include_str!("../tuning/lavapipe.json")),
    ("swiftshader", include_str!("../tuning/swiftshader.json")),
    ("gl", include_str!("../tuning/gl.json")),
];

/// Where nothing was measured on a software adapter, which runs the invocations between two barriers one after the other: few
/// workgroups of few invocations, as wide as a vector of the processor.
pub(crate) const SOFTWARE: Preference = split(8, 32);

const fn split(workgroup_size: u32, workgroups: u32) -> Preference {
    prefer(Approach::Split { splits: None, reverse: Some(false) }, workgroup_size, workgroups)
}

const fn prefer(approach: Approach, workgroup_size: u32, workgroups: u32) -> Preference {
    let (approach, workgroup_size) = (Some(approach), Some(workgroup_size));
    Preference {
        choice: Choice { approach, geometry: None, reduction: None, workgroup_size, storage: None },
        workgroups,
    }
}

impl Tuning {
    /// An empty one: plans go by an estimate, or on software adapters by what is usual there.
    pub fn none() -> Self {
        Self { schema: SCHEMA.into(), adapter: "none".into(), measured: String::new(), points: Vec::new() }
    }

    /// The one that comes with the crate for an adapter; an empty one where there is none.
    pub fn built_in(info: &wgpu::AdapterInfo) -> Self {
        let key = adapter_key(info);
        let Some((_, json)) = BUILT_IN.iter().find(|(name, _)| *name == key) else { return Self::none() };
        // A test reads them all; should one ever be wrong, plans are sound all the same.
        Self::from_json(json).unwrap_or_else(|error| {
            log::error!("built-in tuning for {key}: {error}");
            Self::none()
        })
    }

    /// Every tuning that comes with the crate, by the [`adapter_key`] of its adapter.
    ///
    /// # Errors
    /// As [`Tuning::from_json`].
    pub fn all_built_in() -> Result<Vec<(&'static str, Self)>> {
        BUILT_IN.iter().map(|(key, json)| Ok((*key, Self::from_json(json)?))).collect()
    }

    /// Reads a tuning file.
    ///
    /// # Errors
    /// [`Error::Tuning`] that says where it is not one.
    pub fn from_json(text: &str) -> Result<Self> {
        let tuning: Self = serde_json::from_str(text).map_err(|error| Error::Tuning { reason: error.to_string() })?;
        if tuning.schema != SCHEMA {
            return Err(Error::Tuning { reason: format!("expected schema {SCHEMA:?}, got {:?}", tuning.schema) });
        }
        let unfit = |point: &&TuningPoint| {
            !point.prefer.workgroup_size().is_power_of_two() || point.channels == 0 || point.values == 0
        };
        if let Some(point) = tuning.points.iter().find(unfit) {
            let reason =
                format!("expected a workgroup size that is a power of two, channels and values above 0, got {point:?}");
            return Err(Error::Tuning { reason });
        }
        Ok(tuning)
    }

    /// The text of the tuning file.
    pub fn to_json(&self) -> String {
        // Plain data without maps: this cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The same with these points, each in place of what it had for that operation and shape.
    #[must_use]
    pub fn with_points(mut self, points: impl IntoIterator<Item = TuningPoint>) -> Self {
        for point in points {
            self.points.retain(|other| other.place() != point.place());
            self.points.push(point);
        }
        self
    }

    /// What to try for a shape, best first: what was fastest on the nearest shapes, by the ratios of their channels and
    /// values per channel. With each, the larger of the two ratios, 1 or more.
    pub(crate) fn preferences(&self, operation: Operation, shape: &Shape) -> Vec<(f64, Preference)> {
        let rows = shape.inner() == 1;
        let logarithms = |point: &TuningPoint| {
            let channels = (point.channels as f64 / shape.channels() as f64).ln();
            let values = (point.values as f64 / shape.elements_per_channel() as f64).ln();
            (channels.abs(), values.abs())
        };
        let distance = |point: &TuningPoint| {
            let (channels, values) = logarithms(point);
            channels * channels + values * values
        };
        let ratio = |point: &TuningPoint| {
            let (channels, values) = logarithms(point);
            channels.max(values).exp()
        };
        // What was fast for one workgroup to a column says nothing of columns many times as long, or of a few of them.
        let alike = |point: &TuningPoint| {
            let (channels, values) = (shape.channels() as u64, shape.elements_per_channel() as u64);
            point.prefer.strategy() == Strategy::Split
                || (point.values.saturating_mul(4) >= values && channels.saturating_mul(4) >= point.channels)
        };
        // Where elements can be taken four at a time, a point that could not says little.
        let widest = Geometry::ALL.into_iter().find(|geometry| geometry.fold(shape).is_some());
        let narrow =
            |point: &TuningPoint| point.prefer.choice.geometry.is_some_and(|geometry| Some(geometry) != widest);
        let mut near: Vec<_> =
            self.points.iter().filter(|point| point.operation == operation && point.rows == rows).collect();
        near.retain(|point| alike(point));
        let other = |point: &TuningPoint| point.inner != Some(shape.inner() as u64);
        near.sort_by(|one, two| {
            let by_distance = distance(one).total_cmp(&distance(two));
            narrow(one).cmp(&narrow(two)).then(by_distance).then(other(one).cmp(&other(two)))
        });
        // This shape itself was measured: what was fastest is, also where four elements at a time were not.
        let itself = near.iter().position(|point| point.is_about(operation, shape));
        if let Some(itself) = itself {
            near[..=itself].rotate_right(1);
        }
        near.into_iter().map(|point| (ratio(point), point.prefer)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Layout;

    const OPERATION: Operation = Operation::ForwardTraining;

    /// 64 channels of 1000 values in planes.
    fn shape() -> Shape {
        Shape::new(&[10, 64, 10, 10], Layout::ChannelsFirst).unwrap()
    }

    /// A point that is known by its number of workgroups.
    fn point(channels: u64, values: u64, workgroups: u32) -> TuningPoint {
        TuningPoint {
            operation: OPERATION,
            rows: false,
            channels,
            values,
            inner: None,
            prefer: split(64, workgroups),
            fraction_of_copy: None,
        }
    }

    /// Numbers of workgroups in the order of preference.
    fn preferred(points: &[TuningPoint]) -> Vec<u32> {
        let tuning = Tuning { points: points.to_vec(), ..Tuning::none() };
        tuning.preferences(OPERATION, &shape()).iter().map(|(_, preference)| preference.workgroups).collect()
    }

    #[test]
    fn near_is_by_the_ratios_of_channels_and_values() {
        let near = point(72, 1100, 0);
        for (channels, values) in [(8, 1000), (512, 1000), (64, 125), (64, 8000)] {
            assert_eq!(preferred(&[point(channels, values, 1), near.clone()]), [0, 1], "{channels} of {values}");
        }
    }

    #[test]
    fn only_points_of_the_operation_in_the_same_order_count() {
        let other = TuningPoint { operation: Operation::Inference, ..point(64, 1000, 1) };
        let rows = TuningPoint { rows: true, ..point(64, 1000, 2) };
        assert_eq!(preferred(&[other, rows, point(1, 1, 3)]), [3]);
    }

    #[test]
    fn one_workgroup_to_a_column_says_nothing_of_longer_or_fewer_columns() {
        let whole = |channels, values, number| TuningPoint {
            prefer: prefer(Approach::Whole, 64, number),
            ..point(channels, values, number)
        };
        assert_eq!(
            preferred(&[whole(64, 250, 1), whole(64, 249, 2), whole(256, 1000, 3), whole(257, 1000, 4)]),
            [1, 3]
        );
        assert_eq!(preferred(&[point(257, 1000, 5), point(64, 10, 6)]), [5, 6]);
    }

    #[test]
    fn points_that_took_less_than_four_elements_come_last() {
        let taking = |geometry, channels, number| {
            let mut point = point(channels, 1000, number);
            point.prefer.choice.geometry = Some(geometry);
            point
        };
        let narrow = taking(Geometry::Scalar, 64, 1);
        assert_eq!(preferred(&[narrow.clone(), taking(Geometry::Planes4, 80, 2), point(96, 1000, 3)]), [2, 3, 1]);
    }

    #[test]
    fn adapters_that_were_measured_have_their_tuning() {
        let known = |name: &str, backend| {
            let info =
                wgpu::AdapterInfo { name: name.into(), ..wgpu::AdapterInfo::new(wgpu::DeviceType::Cpu, backend) };
            Tuning::built_in(&info).adapter
        };
        assert_eq!(known("llvmpipe (LLVM 15)", wgpu::Backend::Vulkan), "lavapipe");
        assert_eq!(known("llvmpipe (LLVM 15)", wgpu::Backend::Gl), "gl");
        assert_eq!(known("llvmpipe (LLVM 15)", wgpu::Backend::Metal), "none");
    }

    #[test]
    fn what_another_strategy_has_is_refused_with_its_place() {
        let good = Tuning { points: vec![point(1, 1, 1)], ..Tuning::none() }.to_json();
        let with = |strategy: &str, from: &str, to: &str| good.replace("\"split\"", strategy).replace(from, to);
        for (text, said) in [
            (with("\"split\"", "\"held\": 0", "\"held\": 8"), "held is for the strategy resident, not split at line"),
            (
                with("\"whole\"", "\"reverse\": false", "\"reverse\": true"),
                "reverse is for the strategy split, not whole",
            ),
        ] {
            let error = Tuning::from_json(&text).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("line 18 column"), "{error}");
        }
    }

    #[test]
    fn refuses_points_that_say_nothing() {
        let read = |point| Tuning::from_json(&Tuning { points: vec![point], ..Tuning::none() }.to_json());
        let sized = |workgroup_size| TuningPoint { prefer: split(workgroup_size, 1), ..point(1, 1, 0) };
        assert!(read(sized(64)).is_ok());
        for unfit in [sized(0), sized(96), point(0, 1, 0), point(1, 0, 0)] {
            assert!(matches!(read(unfit.clone()), Err(Error::Tuning { .. })), "{unfit:?}");
        }
    }
}
