//! What a value is made of, and the WGSL that depends on it.

use super::{Part, part};
use crate::shape::Shape;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a value of the shader's inner loops is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Geometry {
    /// One element. Runs for every shape.
    Scalar,
    /// Four neighbouring elements of one channel: inner a multiple of four.
    Planes4,
    /// Four neighbouring elements of a row of channels: inner 1, and N * C a multiple of four such that the samples can be
    /// taken two or four at a time where C alone is not.
    Rows4,
}

impl Geometry {
    /// All, the widest first.
    pub const ALL: [Self; 3] = [Self::Planes4, Self::Rows4, Self::Scalar];

    /// Name, also the stem of its WGSL part.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Planes4 => "planes4",
            Self::Rows4 => "rows4",
        }
    }

    pub(super) fn part(self) -> Part {
        match self {
            Self::Scalar => part!("common/scalar.wgsl"),
            Self::Planes4 => part!("common/planes4.wgsl"),
            Self::Rows4 => part!("common/rows4.wgsl"),
        }
    }

    /// How many samples of a shape count as one, so that values fill its rows: 1 but for [`Geometry::Rows4`] where C is no
    /// multiple of four. `None` where the geometry does not run for the shape.
    pub fn fold(self, shape: &Shape) -> Option<usize> {
        match self {
            Self::Scalar => Some(1),
            Self::Planes4 => shape.inner().is_multiple_of(4).then_some(1),
            Self::Rows4 if shape.inner() == 1 => {
                let fold = [1, 2, 4].into_iter().find(|fold| (shape.channels() * fold).is_multiple_of(4));
                fold.filter(|&fold| shape.values_per_channel().is_multiple_of(fold))
            }
            Self::Rows4 => None,
        }
    }

    /// Whether a value has four parts.
    pub(super) fn is_wide(self) -> bool {
        self != Self::Scalar
    }

    /// Channels that a value spans.
    pub(crate) fn channels_per_value(self) -> usize {
        if self == Self::Rows4 { 4 } else { 1 }
    }

    /// Elements of one channel that a value holds.
    pub(crate) fn elements_per_value(self) -> usize {
        if self == Self::Planes4 { 4 } else { 1 }
    }

    /// Elements of a value.
    pub(crate) fn elements(self) -> usize {
        self.channels_per_value() * self.elements_per_value()
    }

    /// What stands in WGSL for each part of the work's channels.
    fn channels(self) -> &'static [&'static str] {
        match self {
            Self::Scalar => &["work.channel"],
            Self::Planes4 => &["work.channel.x"],
            Self::Rows4 => &["work.channel.x", "work.channel.y", "work.channel.z", "work.channel.w"],
        }
    }

    /// Body of a function that loads the value of `work`'s channels in a plane of C.
    pub(super) fn load_plane(self, array: &str) -> String {
        let at = |channel: &&str| format!("{array}[plane * params.channels + {channel}]");
        format!("return Value({});", self.channels().iter().map(at).collect::<Vec<_>>().join(", "))
    }

    /// Body of a function that stores the value of `work`'s channels in a plane of C. Of the channels of folded samples only
    /// the first are stored.
    pub(super) fn store_plane(self, array: &str) -> String {
        let store = |(place, part): &(&str, &str)| {
            let store = format!("{array}[plane * params.channels + {place}] = v{part};");
            if self.channels_per_value() == 1 { store } else { format!("if ({place} < params.channels) {{ {store} }}") }
        };
        self.places().iter().map(store).collect::<Vec<_>>().join(" ")
    }

    /// Body of a function that stores a value in a row of all columns.
    pub(super) fn store_row(self, array: &str) -> String {
        let length = if self.channels_per_value() == 1 { "params.columns" } else { "4u * params.columns" };
        let store = |(place, part): &(&str, &str)| format!("{array}[row * {length} + {place}] = v{part};");
        self.places().iter().map(store).collect::<Vec<_>>().join(" ")
    }

    /// The places of `work`'s column in a row of all columns, each with the part of a value that belongs there. They are the
    /// channels, and from C on those of folded samples.
    fn places(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Scalar => &[("work.column", "")],
            Self::Planes4 => &[("work.column", ".x")],
            Self::Rows4 => &[
                ("4u * work.column", ".x"),
                ("4u * work.column + 1u", ".y"),
                ("4u * work.column + 2u", ".z"),
                ("4u * work.column + 3u", ".w"),
            ],
        }
    }

    /// Body of a function that loads one element of each of `work`'s channels from a tensor, of which `load` loads values. The
    /// element lies in the tensor's first part, which begins where its binding does.
    pub(super) fn load_element(self, load: &str) -> String {
        match self {
            Self::Scalar => format!("return {load}(index_of(work.column, element));"),
            Self::Planes4 => format!("return Value({load}(index_of(work.column, element / 4u))[element % 4u]);"),
            Self::Rows4 => {
                let element = |(_, part): &(&str, &str)| format!("{load}(at{part} / 4u)[at{part} % 4u]");
                let parts = self.places().iter().map(element).collect::<Vec<_>>().join(", ");
                format!("let at = element * params.channels + work.channel; return Value({parts});")
            }
        }
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
