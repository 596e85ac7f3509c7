//! What there is to choose of a plan: left open in part by who asks for one, settled in the plan.

use crate::kernels::{Geometry, Reduction, Storage, Strategy};
use serde::{Serialize, Serializer, ser::SerializeStruct};

/// Choices taken out of a plan's hands, or preferred. `None` leaves a choice to the plan; a forced one that cannot run is an error.
///
/// ```
/// use batchnorm_wgpu::{Approach, Choice, kernels::{Geometry, Strategy}};
/// let whole = Choice::by(Strategy::Whole);
/// let scalar = Choice { geometry: Some(Geometry::Scalar), ..Choice::split(4, None) };
/// assert_eq!(scalar.approach, Some(Approach::Split { splits: Some(4), reverse: None }));
/// assert_eq!((whole.splits(), scalar.splits()), (None, Some(4)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Choice {
    /// How to go about a column.
    pub approach: Option<Approach>,
    /// What a value is made of.
    pub geometry: Option<Geometry>,
    /// How a workgroup sums over its lanes.
    pub reduction: Option<Reduction>,
    /// Invocations per workgroup, a power of two.
    pub workgroup_size: Option<u32>,
    /// How the shaders see the elements of tensors; one of the layer's dtype.
    pub storage: Option<Storage>,
}

/// A [`Strategy`] with what only it has to choose: in a [`Choice`] each may be left open, in a [`Plan`](crate::Plan) all is
/// [`Settled`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Approach<N = Option<u32>, B = Option<bool>> {
    /// [`Strategy::Split`].
    Split {
        /// Workgroups that share a column; of a tensor in parts, in each part but the last, which may have fewer.
        splits: N,
        /// Whether the second dispatch goes backwards, to find in a cache what the first read last.
        reverse: B,
    },
    /// [`Strategy::Whole`].
    Whole,
    /// [`Strategy::Resident`].
    Resident {
        /// Values that a lane holds in registers, one of [`Strategy::HELD`].
        held: N,
    },
    /// [`Strategy::Plain`].
    Plain,
}

/// An approach with nothing left open.
pub type Settled = Approach<u32, bool>;

/// Something is chosen that only another strategy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is for the strategy {strategy}")]
pub struct Misplaced {
    /// What is chosen: `splits`, `reverse` or `held`.
    pub what: &'static str,
    /// The strategy that has it.
    pub strategy: Strategy,
}

impl<N, B> Approach<N, B> {
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

impl Settled {
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

impl Choice {
    /// A strategy; the rest is left to the plan.
    pub fn by(strategy: Strategy) -> Self {
        Self { approach: Some(strategy.into()), ..Self::default() }
    }

    /// [`Strategy::Split`] with so many splits, in this direction; either may be `None`, and the rest is left to the plan.
    pub fn split(splits: impl Into<Option<u32>>, reverse: impl Into<Option<bool>>) -> Self {
        let approach = Approach::Split { splits: splits.into(), reverse: reverse.into() };
        Self { approach: Some(approach), ..Self::default() }
    }

    /// [`Strategy::Resident`] with so many values held by a lane; the rest is left to the plan.
    pub fn resident(held: u32) -> Self {
        Self { approach: Some(Approach::Resident { held: Some(held) }), ..Self::default() }
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

/// As a choice that forces it.
impl From<Settled> for Approach {
    fn from(settled: Settled) -> Self {
        match settled {
            Approach::Split { splits, reverse } => Self::Split { splits: Some(splits), reverse: Some(reverse) },
            Approach::Whole => Self::Whole,
            Approach::Resident { held } => Self::Resident { held: Some(held) },
            Approach::Plain => Self::Plain,
        }
    }
}

/// Side by side, with 1, `false` and 0 for what the strategy does not have.
impl Serialize for Settled {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Approach", 4)?;
        fields.serialize_field("strategy", &self.strategy())?;
        fields.serialize_field("splits", &self.splits())?;
        fields.serialize_field("held", &self.held())?;
        fields.serialize_field("reverse", &self.reverse())?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_side_by_side_becomes_an_approach_or_is_refused() {
        use Strategy::{Plain, Resident, Split, Whole};
        let of = |strategy, what| Err(Misplaced { what, strategy });
        for (said, approach) in [
            ((None, None, None, None), Ok(None)),
            ((Some(Split), Some(2), Some(true), None), Ok(Choice::split(2, true).approach)),
            ((Some(Resident), None, None, Some(8)), Ok(Choice::resident(8).approach)),
            ((Some(Whole), None, None, None), Ok(Some(Approach::Whole))),
            ((Some(Plain), None, None, None), Ok(Some(Approach::Plain))),
            ((None, Some(2), None, None), of(Split, "splits")),
            ((Some(Resident), Some(2), None, None), of(Split, "splits")),
            ((Some(Whole), None, Some(false), None), of(Split, "reverse")),
            ((None, None, None, Some(4)), of(Resident, "held")),
            ((Some(Split), Some(2), None, Some(4)), of(Resident, "held")),
        ] {
            let (strategy, splits, reverse, held) = said;
            assert_eq!(Approach::said(strategy, splits, reverse, held), approach, "{said:?}");
        }
    }

    #[test]
    fn what_a_strategy_does_not_have_is_neutral() {
        let of = |settled: Settled| (settled.strategy(), settled.splits(), settled.reverse(), settled.held());
        assert_eq!(of(Approach::Split { splits: 3, reverse: true }), (Strategy::Split, 3, true, 0));
        assert_eq!(of(Approach::Split { splits: 3, reverse: false }), (Strategy::Split, 3, false, 0));
        assert_eq!(of(Approach::Resident { held: 4 }), (Strategy::Resident, 1, false, 4));
        assert_eq!(of(Approach::Whole), (Strategy::Whole, 1, false, 0));
        assert_eq!(of(Approach::Plain), (Strategy::Plain, 1, false, 0));
        let forced = |settled| Choice { approach: Some(Approach::from(settled)), ..Choice::default() };
        assert_eq!(forced(Approach::Split { splits: 3, reverse: true }), Choice::split(3, true));
        assert_eq!(forced(Approach::Resident { held: 4 }), Choice::resident(4));
        for settled in [Approach::Whole, Approach::Plain] {
            assert_eq!(forced(settled), Choice::by(settled.strategy()));
        }
    }
}
