//! What was measured to be fast, as data: plans look up the shape nearest to their own.

use crate::capabilities::adapter_key;
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
    /// What was fastest.
    pub prefer: Preference,
    /// How fast it was: fraction of the copy kernel's speed, on the bytes that the operation must move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fraction_of_copy: Option<f64>,
}

/// What a plan should be like, as far as the shape and the device allow.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preference {
    /// How to go about a column.
    pub strategy: Strategy,
    /// What a value is made of; absent: the widest that fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub geometry: Option<Geometry>,
    /// How a workgroup sums over its lanes; absent: by subgroups where the device has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reduction: Option<Reduction>,
    /// Invocations per workgroup.
    pub workgroup_size: u32,
    /// Workgroups in all, which says how many share a column; `split` only.
    #[serde(default)]
    pub workgroups: u32,
    /// Values that a lane holds; `resident` only.
    #[serde(default)]
    pub held: u32,
    /// Whether the second dispatch goes backwards.
    #[serde(default)]
    pub reverse: bool,
}

/// Tuning files that come with the crate, by the [`adapter_key`] of the adapter they were measured on.
const BUILT_IN: [(&str, &str); 3] = [
    ("lavapipe", include_str!("../tuning/lavapipe.json")),
    ("swiftshader", include_str!("../tuning/swiftshader.json")),
    ("gl", include_str!("../tuning/gl.json")),
];

/// Where nothing was measured, by kind of device. A software adapter runs the invocations between two barriers one after
/// the other: few workgroups of few invocations, as wide as a vector of the processor. A GPU hides latency with many
/// workgroups; no figure stands behind its rows yet.
const BY_DEVICE_TYPE: [(wgpu::DeviceType, Preference); 5] = [
    (wgpu::DeviceType::Cpu, split(8, 32)),
    (wgpu::DeviceType::DiscreteGpu, split(256, 2048)),
    (wgpu::DeviceType::IntegratedGpu, split(256, 256)),
    (wgpu::DeviceType::VirtualGpu, split(256, 1024)),
    (wgpu::DeviceType::Other, split(256, 512)),
];

/// What is tried first on a GPU of which nothing is known, where there are enough channels to keep it busy: what is read
/// once is not read twice. No figure stands behind it yet.
const RESIDENT: Preference = Preference { strategy: Strategy::Resident, held: 8, ..split(256, 0) };
const RESIDENT_CHANNELS: usize = 64;

const fn split(workgroup_size: u32, workgroups: u32) -> Preference {
    Preference {
        strategy: Strategy::Split,
        geometry: None,
        reduction: None,
        workgroup_size,
        workgroups,
        held: 0,
        reverse: false,
    }
}

impl Tuning {
    /// An empty one: plans go by the kind of device.
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
            !point.prefer.workgroup_size.is_power_of_two() || point.channels == 0 || point.values == 0
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

    /// What to try for a shape, best first: what was fastest on the nearest shapes, by the ratios of their channels and
    /// values per channel; last what goes for the kind of device.
    pub(crate) fn preferences(
        &self,
        operation: Operation,
        shape: &Shape,
        device_type: wgpu::DeviceType,
    ) -> Vec<Preference> {
        let rows = shape.inner() == 1;
        let distance = |point: &TuningPoint| {
            let channels = (point.channels as f64 / shape.channels() as f64).ln();
            let values = (point.values as f64 / shape.values_per_channel() as f64).ln();
            channels * channels + values * values
        };
        // What was fast for one workgroup to a column says nothing of columns many times as long, or of a few of them.
        let alike = |point: &TuningPoint| {
            let (channels, values) = (shape.channels() as u64, shape.values_per_channel() as u64);
            point.prefer.strategy == Strategy::Split
                || (point.values.saturating_mul(4) >= values && channels.saturating_mul(4) >= point.channels)
        };
        // Where elements can be taken four at a time, a point that could not says little.
        let widest = Geometry::ALL.into_iter().find(|geometry| geometry.fold(shape).is_some());
        let narrow = |point: &TuningPoint| point.prefer.geometry.is_some_and(|geometry| Some(geometry) != widest);
        let mut near: Vec<_> =
            self.points.iter().filter(|point| point.operation == operation && point.rows == rows).collect();
        near.retain(|point| alike(point));
        near.sort_by(|one, other| narrow(one).cmp(&narrow(other)).then(distance(one).total_cmp(&distance(other))));
        let by_kind = BY_DEVICE_TYPE.iter().find(|(kind, _)| *kind == device_type).unwrap_or(&BY_DEVICE_TYPE[4]);
        let resident = device_type != wgpu::DeviceType::Cpu && shape.channels() >= RESIDENT_CHANNELS;
        near.into_iter().map(|point| point.prefer).chain(resident.then_some(RESIDENT)).chain([by_kind.1]).collect()
    }
}
