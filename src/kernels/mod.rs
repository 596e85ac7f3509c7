//! The table of kernels: one row per kernel. Tests, checks and benchmarks iterate over it.
//!
//! A row names its file and what it binds. A [`Variant`] is a row with its [`Settings`] and its bindings settled, and gives the
//! text of its [`Shader`]. [`kernels_of`] says which kernels an operation runs.
//!
//! For tests, tools and people who read kernels: it changes as they do, and no version promises it.

mod binding;
mod geometry;
mod link;
mod storage;
mod variant;

pub use binding::{Access, Binding, Extent, PARAMETER_PLANES, RUNNING_PLANES, STATISTIC_PLANES};
pub use geometry::Geometry;
pub use link::{COMMON, Place, Shader, Source};
pub use storage::Storage;
pub(crate) use variant::constants;
pub use variant::{Reduction, Settings, Strategy, Variant};

use crate::operation::Operation;
use binding::{
    BETA, DBETA, DGAMMA, DRESIDUAL, DX, DY, GAMMA, RESIDUAL, RESIDUAL_BEHIND, RUNNING, RUNNING_UPDATE, SAVED,
    SAVED_IF_WANTED, SAVED_OUT, SCRATCH, SCRATCH_OUT, X, X_BEHIND, Y, Y_OF_INFERENCE,
};
use link::source;
use std::hash::{Hash, Hasher};

/// Which part of a column a workgroup of the kernel owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Span {
    /// One segment of each of its columns; all segments are dispatched.
    Segment,
    /// Its columns whole, of which it reads partial results only.
    Column,
}

/// A row of the table. Two rows are equal if their names are: no two have the same.
#[derive(Debug)]
pub struct Kernel {
    /// The kernel's one name: file stem, pipeline label, test id, value on the command line.
    pub name: &'static str,
    /// Its file. What kernels share stands in [`COMMON`].
    pub source: Source,
    /// What it may bind, in the order of the binding numbers; the uniform parameters are binding 0.
    pub bindings: &'static [Binding],
    /// Whether the choice of [`Reduction`] matters to it: it sums over the lanes of a workgroup, and is not one of the textbook's.
    pub reduces: bool,
    /// Which part of a column a workgroup owns.
    pub span: Span,
    /// How often it reads each element of the tensors that it binds; it writes each once.
    pub passes: u32,
    /// Whether it applies the activation, or sees through it.
    pub activates: bool,
    /// Whether it takes the centre of a column from what a forward pass saved.
    pub centres: bool,
    /// Whether it reads again what a dispatch before it read, so that going backwards finds the last of it in a cache.
    pub rereads: bool,
    /// Whether its lanes hold their values in registers, so that its text depends on how many those are.
    pub holds: bool,
    /// Whether the statistics are held fixed, so that dx needs no sums.
    pub frozen: bool,
}

impl PartialEq for Kernel {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Kernel {}

impl Hash for Kernel {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl Kernel {
    /// Tensors that it reads and writes, for a layer without residual and activation.
    pub(crate) fn moves(&'static self) -> u32 {
        let variant = Variant::new(self, Settings::plain(Geometry::Scalar, Reduction::Tree, 0));
        let bindings = self.bindings.iter().enumerate();
        let residuals = bindings.filter(|(_, binding)| ["residual", "dresidual"].contains(&binding.name));
        Variant { absent: residuals.fold(variant.absent, |bits, (i, _)| bits | 1 << i), ..variant }.moves()
    }

    /// Whether it is one of the textbook's, which go about a column element by element.
    pub(crate) fn is_plain(&self) -> bool {
        self.source.path.starts_with("plain/")
    }
}

/// What most rows have in common.
const ROW: Kernel = Kernel {
    name: "",
    source: Source { path: "", text: "" },
    bindings: &[],
    reduces: true,
    span: Span::Segment,
    passes: 1,
    activates: false,
    centres: false,
    rereads: false,
    holds: false,
    frozen: false,
};

const MOMENTS: Kernel = Kernel { name: "moments", source: source!("moments.wgsl"), bindings: &[X, SCRATCH_OUT], ..ROW };
const NORMALIZE: Kernel = Kernel {
    name: "normalize",
    source: source!("normalize.wgsl"),
    bindings: &[X, RESIDUAL, SCRATCH, GAMMA, BETA, SAVED_OUT, RUNNING_UPDATE, Y],
    rereads: true,
    activates: true,
    ..ROW
};
const COLLECT: Kernel = Kernel {
    name: "collect",
    source: source!("collect.wgsl"),
    bindings: &[SCRATCH, SAVED_IF_WANTED, RUNNING_UPDATE],
    span: Span::Column,
    ..ROW
};
const FORWARD_RESIDENT: Kernel = Kernel {
    name: "forward_resident",
    source: source!("forward_resident.wgsl"),
    bindings: &[X, RESIDUAL, GAMMA, BETA, SAVED_OUT, RUNNING_UPDATE, Y],
    holds: true,
    activates: true,
    ..ROW
};
const FORWARD_WHOLE: Kernel = Kernel {
    name: "forward_whole",
    source: source!("forward_whole.wgsl"),
    bindings: &[X, RESIDUAL, GAMMA, BETA, SAVED_OUT, RUNNING_UPDATE, Y],
    passes: 2,
    activates: true,
    ..ROW
};
const STATISTICS_WHOLE: Kernel = Kernel {
    name: "statistics_whole",
    source: source!("statistics_whole.wgsl"),
    bindings: &[X, SAVED_IF_WANTED, RUNNING_UPDATE],
    ..ROW
};
const INFER: Kernel = Kernel {
    name: "infer",
    source: source!("infer.wgsl"),
    bindings: &[X, RESIDUAL, GAMMA, BETA, RUNNING, SAVED_IF_WANTED, Y_OF_INFERENCE],
    reduces: false,
    activates: true,
    ..ROW
};

const PLAIN_FORWARD: Kernel = Kernel {
    name: "plain_forward",
    source: source!("plain/forward.wgsl"),
    bindings: &[X, RESIDUAL, GAMMA, BETA, SAVED_OUT, RUNNING_UPDATE, Y],
    reduces: false,
    passes: 3,
    activates: true,
    ..ROW
};

/// What most rows of the backward pass have in common.
const BACKWARD: Kernel = Kernel { activates: true, centres: true, ..ROW };

const GRADIENT_SUMS: Kernel = Kernel {
    name: "gradient_sums",
    source: source!("gradient_sums.wgsl"),
    bindings: &[X, DY, RESIDUAL_BEHIND, SAVED, SCRATCH_OUT, DRESIDUAL],
    ..BACKWARD
};
const GRADIENT_INPUT: Kernel = Kernel {
    name: "gradient_input",
    source: source!("gradient_input.wgsl"),
    bindings: &[X, DY, RESIDUAL_BEHIND, SCRATCH, SAVED, DGAMMA, DBETA, DX],
    rereads: true,
    ..BACKWARD
};
const GRADIENT_MERGE: Kernel = Kernel {
    name: "gradient_merge",
    source: source!("gradient_merge.wgsl"),
    bindings: &[SCRATCH, SAVED, DGAMMA, DBETA],
    span: Span::Column,
    activates: false,
    ..BACKWARD
};
const BACKWARD_RESIDENT: Kernel = Kernel {
    name: "backward_resident",
    source: source!("backward_resident.wgsl"),
    bindings: &[X, DY, RESIDUAL_BEHIND, SAVED, DGAMMA, DBETA, DRESIDUAL, DX],
    holds: true,
    ..BACKWARD
};
const BACKWARD_WHOLE: Kernel = Kernel {
    name: "backward_whole",
    source: source!("backward_whole.wgsl"),
    bindings: &[X, DY, RESIDUAL_BEHIND, SAVED, DGAMMA, DBETA, DRESIDUAL, DX],
    passes: 2,
    ..BACKWARD
};
const PLAIN_BACKWARD: Kernel = Kernel {
    name: "plain_backward",
    source: source!("plain/backward.wgsl"),
    bindings: &[X, DY, RESIDUAL_BEHIND, SAVED, DGAMMA, DBETA, DRESIDUAL, DX],
    reduces: false,
    passes: 2,
    ..BACKWARD
};

/// What the rows of the frozen backward pass have in common.
const FROZEN: Kernel = Kernel { frozen: true, ..BACKWARD };

const FROZEN_SUMS: Kernel = Kernel {
    name: "frozen_sums",
    source: source!("frozen_sums.wgsl"),
    bindings: &[X, DY, RESIDUAL_BEHIND, SAVED, SCRATCH_OUT, DRESIDUAL, DX],
    ..FROZEN
};
const FROZEN_INPUT: Kernel = Kernel {
    name: "frozen_input",
    source: source!("frozen_input.wgsl"),
    bindings: &[X_BEHIND, DY, RESIDUAL_BEHIND, SAVED, DRESIDUAL, DX],
    reduces: false,
    ..FROZEN
};
const FROZEN_WHOLE: Kernel = Kernel {
    name: "frozen_whole",
    source: source!("frozen_whole.wgsl"),
    bindings: &[X, DY, RESIDUAL_BEHIND, SAVED, DGAMMA, DBETA, DRESIDUAL, DX],
    ..FROZEN
};

/// The table.
pub static KERNELS: [&Kernel; 17] = [
    &PLAIN_FORWARD,
    &PLAIN_BACKWARD,
    &MOMENTS,
    &NORMALIZE,
    &COLLECT,
    &FORWARD_RESIDENT,
    &FORWARD_WHOLE,
    &STATISTICS_WHOLE,
    &INFER,
    &GRADIENT_SUMS,
    &GRADIENT_INPUT,
    &GRADIENT_MERGE,
    &BACKWARD_RESIDENT,
    &BACKWARD_WHOLE,
    &FROZEN_SUMS,
    &FROZEN_INPUT,
    &FROZEN_WHOLE,
];

/// Which gradients a backward operation is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// dx, and dgamma or dbeta or both.
    All,
    /// dx or the residual's gradient or both.
    Input,
    /// dgamma or dbeta or both, perhaps the residual's gradient, and no dx.
    Parameters,
}

impl Wanted {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::All, Self::Input, Self::Parameters];
}

/// The kernels that an operation runs, in order; none where there is no such strategy. `wanted` matters to the backward
/// operations only.
pub fn kernels_of(operation: Operation, strategy: Strategy, wanted: Wanted) -> &'static [&'static Kernel] {
    use {Operation as Op, Strategy as By, Wanted as Of};
    match (operation, strategy, wanted) {
        (Op::ForwardTraining, By::Split, _) => &[&MOMENTS, &NORMALIZE],
        (Op::ForwardTraining, By::Whole, _) => &[&FORWARD_WHOLE],
        (Op::ForwardTraining, By::Resident, _) => &[&FORWARD_RESIDENT],
        (Op::ForwardTraining, By::Plain, _) => &[&PLAIN_FORWARD],
        (Op::Inference, By::Split, _) => &[&INFER],
        (Op::BackwardTraining, By::Split, Of::All | Of::Input) => &[&GRADIENT_SUMS, &GRADIENT_INPUT],
        (Op::BackwardTraining, By::Split, Of::Parameters) => &[&GRADIENT_SUMS, &GRADIENT_MERGE],
        (Op::BackwardTraining, By::Whole, _) => &[&BACKWARD_WHOLE],
        (Op::BackwardTraining, By::Resident, _) => &[&BACKWARD_RESIDENT],
        (Op::BackwardTraining, By::Plain, _) => &[&PLAIN_BACKWARD],
        (Op::BackwardFrozen, By::Split, Of::All | Of::Parameters) => &[&FROZEN_SUMS, &GRADIENT_MERGE],
        (Op::BackwardFrozen, By::Whole, Of::All | Of::Parameters) => &[&FROZEN_WHOLE],
        (Op::BackwardFrozen, By::Split | By::Whole, Of::Input) => &[&FROZEN_INPUT],
        (Op::Statistics, By::Split, _) => &[&MOMENTS, &COLLECT],
        (Op::Statistics, By::Whole, _) => &[&STATISTICS_WHOLE],
        (Op::Inference, By::Whole, _) => &[],
        (Op::Inference | Op::BackwardFrozen | Op::Statistics, By::Resident | By::Plain, _) => &[],
    }
}
