//! What there is to choose of a plan: left open in part by who asks for one, settled in the plan.

use crate::kernels::{Geometry, Reduction, Storage, Strategy};
use serde::{Serialize, Serializer, ser::SerializeStruct};

/// Whether choices may be left open: [`Open`] or [`Settled`].
pub trait Stage {
    /// What is known of a choice between values of `T`.
    type Of<T>;
}

/// Any choice may be left to the plan: each is an `Option`, and `None` leaves it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Open;

/// Every choice is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settled;

impl Stage for Open {
    type Of<T> = Option<T>;
}

impl Stage for Settled {
    type Of<T> = T;
}

/// The choices of a plan. `Choice` alone has `Option`s: choices taken out of the plan's hands, of which one that cannot run is an
/// error. `Choice<Settled>` is what a plan has chosen.
///
/// ```
/// use batchnorm_wgpu::{Approach, Choice, kernels::{Geometry, Strategy}};
/// let split = Choice::by(Strategy::Split);
/// let scalar = Choice { geometry: Some(Geometry::Scalar), ..Choice::default() };
/// let backwards = Choice { approach: Some(Approach::Split { splits: None, reverse: Some(true) }), ..scalar };
/// assert_eq!(backwards.strategy(), split.strategy());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Choice<S: Stage = Open> {
    /// How to go about a column.
    pub approach: S::Of<Approach<S>>,
    /// What a value is made of.
    pub geometry: S::Of<Geometry>,
    /// How a workgroup sums over its lanes.
    pub reduction: S::Of<Reduction>,
    /// Invocations per workgroup, a power of two.
    pub workgroup_size: S::Of<u32>,
    /// How the shaders see the elements of tensors; one of the layer's dtype.
    pub storage: S::Of<Storage>,
}

/// A [`Strategy`] with the choices that only it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Approach<S: Stage = Open> {
    /// [`Strategy::Split`].
    Split {
        /// Workgroups that share a column; where a tensor is in parts, in each part but the last, which may have fewer.
        splits: S::Of<u32>,
        /// Whether the second dispatch goes backwards, to find in a cache what the first read last.
        reverse: S::Of<bool>,
    },
    /// [`Strategy::Whole`].
    Whole,
    /// [`Strategy::Resident`].
    Resident {
        /// Values that a lane holds in registers, one of [`Strategy::HELD`].
        held: S::Of<u32>,
    },
    /// [`Strategy::Plain`].
    Plain,
}

/// Something is chosen that only another strategy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is for the strategy {strategy}")]
pub struct Misplaced {
    /// What is chosen: `splits`, `reverse` or `held`.
    pub what: &'static str,
    /// The strategy that has it.
    pub strategy: Strategy,
}

impl<S: Stage> Approach<S> {
    /// The strategy alone.
    pub fn strategy(&self) -> Strategy {
        match self {
            Self::Split { .. } => Strategy::Split,
            Self::Whole => Strategy::Whole,
            Self::Resident { .. } => Strategy::Resident,
            Self::Plain => Strategy::Plain,
        }
    }
}

/// With the choices that it has left open.
impl From<Strategy> for Approach {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::Split => Self::Split { splits: None, reverse: None },
            Strategy::Whole => Self::Whole,
            Strategy::Resident => Self::Resident { held: None },
            Strategy::Plain => Self::Plain,
        }
    }
}

impl Approach {
    /// What is said side by side, as in a file or on a command line.
    ///
    /// # Errors
    /// [`Misplaced`] when something is said that the strategy does not have.
    pub fn said(
        strategy: Option<Strategy>,
        splits: Option<u32>,
        reverse: Option<bool>,
        held: Option<u32>,
    ) -> Result<Option<Self>, Misplaced> {
        let said = [
            ("splits", Strategy::Split, splits.is_some()),
            ("reverse", Strategy::Split, reverse.is_some()),
            ("held", Strategy::Resident, held.is_some()),
        ];
        if let Some((what, owner, _)) = said.into_iter().find(|(_, owner, said)| *said && strategy != Some(*owner)) {
            return Err(Misplaced { what, strategy: owner });
        }
        Ok(strategy.map(|strategy| match strategy {
            Strategy::Split => Self::Split { splits, reverse },
            Strategy::Resident => Self::Resident { held },
            Strategy::Whole | Strategy::Plain => strategy.into(),
        }))
    }
}

impl Approach<Settled> {
    /// Workgroups that share a column: 1 but for [`Approach::Split`].
    pub fn splits(&self) -> u32 {
        if let Self::Split { splits, .. } = *self { splits } else { 1 }
    }

    /// Whether the second dispatch goes backwards.
    pub fn reverse(&self) -> bool {
        matches!(self, Self::Split { reverse: true, .. })
    }

    /// Values that a lane holds: 0 but for [`Approach::Resident`].
    pub fn held(&self) -> u32 {
        if let Self::Resident { held } = *self { held } else { 0 }
    }
}

/// All left to the plan.
impl Default for Choice {
    fn default() -> Self {
        Self { approach: None, geometry: None, reduction: None, workgroup_size: None, storage: None }
    }
}

impl Choice {
    /// A strategy; the rest is left to the plan.
    pub fn by(strategy: Strategy) -> Self {
        Self { approach: Some(strategy.into()), ..Self::default() }
    }

    /// The strategy, if that is chosen.
    pub fn strategy(&self) -> Option<Strategy> {
        self.approach.as_ref().map(Approach::strategy)
    }

    /// Workgroups that share a column, if that is chosen.
    pub fn splits(&self) -> Option<u32> {
        if let Some(Approach::Split { splits, .. }) = self.approach { splits } else { None }
    }

    /// Whether the second dispatch goes backwards, if that is chosen.
    pub fn reverse(&self) -> Option<bool> {
        if let Some(Approach::Split { reverse, .. }) = self.approach { reverse } else { None }
    }

    /// Values that a lane holds, if that is chosen.
    pub fn held(&self) -> Option<u32> {
        if let Some(Approach::Resident { held }) = self.approach { held } else { None }
    }
}

/// The choice that leaves nothing open.
impl From<Choice<Settled>> for Choice {
    fn from(settled: Choice<Settled>) -> Self {
        Self {
            approach: Some(match settled.approach {
                Approach::Split { splits, reverse } => Approach::Split { splits: Some(splits), reverse: Some(reverse) },
                Approach::Whole => Approach::Whole,
                Approach::Resident { held } => Approach::Resident { held: Some(held) },
                Approach::Plain => Approach::Plain,
            }),
            geometry: Some(settled.geometry),
            reduction: Some(settled.reduction),
            workgroup_size: Some(settled.workgroup_size),
            storage: Some(settled.storage),
        }
    }
}

/// Side by side, with 1, `false` and 0 for what the strategy does not have.
impl Serialize for Choice<Settled> {
    fn serialize<W: Serializer>(&self, writer: W) -> Result<W::Ok, W::Error> {
        let Self { approach, geometry, reduction, workgroup_size, storage } = self;
        let mut fields = writer.serialize_struct("Choice", 8)?;
        fields.serialize_field("strategy", &approach.strategy())?;
        fields.serialize_field("geometry", geometry)?;
        fields.serialize_field("reduction", reduction)?;
        fields.serialize_field("storage", storage)?;
        fields.serialize_field("workgroup_size", workgroup_size)?;
        fields.serialize_field("splits", &approach.splits())?;
        fields.serialize_field("held", &approach.held())?;
        fields.serialize_field("reverse", &approach.reverse())?;
        fields.end()
    }
}
