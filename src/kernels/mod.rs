//! The table of kernels: one row per kernel. Tests, checks and benchmarks iterate over it.
//!
//! A row names the WGSL parts that make up its shader, what it binds and what it moves. A [`Variant`] is a row with its
//! geometry, its reduction and its bindings settled, and gives the WGSL text. [`program`] says which kernels an operation
//! runs.

mod binding;
mod variant;

pub use binding::{Access, Binding, Extent};
pub(crate) use binding::{RUNNING_PLANES, SAVED_PLANES};
pub use variant::{Geometry, Reduction, Strategy, Variant};

use crate::operation::Operation;
use binding::{
    BETA, DBETA, DGAMMA, DX, DY, GAMMA, RUNNING, RUNNING_UPDATE, SAVED, SAVED_IF_WANTED, SAVED_OUT, SCRATCH,
    SCRATCH_OUT, X, Y, Y_OVER_X,
};
use parts::*;

/// A part of a shader: its path below `shaders/`, and its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Part {
    /// Path below `shaders/`.
    pub path: &'static str,
    /// WGSL.
    pub text: &'static str,
    /// Whether it is there for the second time, for a kernel that goes over its column twice: what both have in common
    /// gets names that end in `_again` (`WALKED` in `variant.rs`).
    pub again: bool,
}

macro_rules! part {
    ($path:literal) => {
        $crate::kernels::Part { path: $path, text: include_str!(concat!("../../shaders/", $path)), again: false }
    };
}
pub(crate) use part;

/// Parts that kernels share, besides those that [`Variant::parts`] adds to every shader.
mod parts {
    use super::Part;

    pub(super) const CURSOR: Part = part!("common/cursor.wgsl");
    pub(super) const WALK: Part = part!("common/walk.wgsl");
    pub(super) const SHIFT: Part = part!("common/shift.wgsl");
    pub(super) const COLUMN_MOMENTS: Part = part!("common/column_moments.wgsl");
    pub(super) const WHOLE_MOMENTS: Part = part!("common/whole_moments.wgsl");
    pub(super) const SCRATCH_OF_MOMENTS: Part = part!("common/moments.wgsl");
    pub(super) const MERGE_MOMENTS: Part = part!("common/merge_moments.wgsl");
    pub(super) const INV_STD: Part = part!("common/inv_std.wgsl");
    pub(super) const PUBLISH: Part = part!("common/publish.wgsl");
    pub(super) const AFFINE: Part = part!("common/affine.wgsl");
    pub(super) const CENTRE_SAVED: Part = part!("common/centre_saved.wgsl");
    pub(super) const CENTRE_RUNNING: Part = part!("common/centre_running.wgsl");
    pub(super) const SCRATCH_OF_GRADIENTS: Part = part!("common/gradient_scratch.wgsl");
    pub(super) const MERGE_GRADIENT_SUMS: Part = part!("common/merge_gradient_sums.wgsl");
    pub(super) const GRADIENT_STATE: Part = part!("common/gradient_state.wgsl");
    pub(super) const STORE_GRADIENT_SUMS: Part = part!("common/store_gradient_sums.wgsl");
    pub(super) const PUBLISH_GRADIENTS: Part = part!("common/publish_gradients.wgsl");
    pub(super) const GRADIENT: Part = part!("common/gradient.wgsl");
    pub(super) const APPLY_GRADIENT: Part = part!("common/apply_gradient.wgsl");

    pub(super) const fn again(part: Part) -> Part {
        Part { again: true, ..part }
    }
}

/// Which part of a column a workgroup of the kernel owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Span {
    /// One segment of each of its columns; all segments are dispatched.
    Segment,
    /// Its columns whole, of which it reads partial results only.
    Column,
}

/// A row of the table.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// The kernel's one name: file stem, pipeline label, test id, value on the command line.
    pub name: &'static str,
    /// The parts of its shader besides those that every kernel has; the last one is the kernel's own file.
    pub parts: &'static [Part],
    /// What it binds, in the order of the binding numbers, which start at 1; the uniform parameters are binding 0.
    pub bindings: &'static [Binding],
    /// Whether it sums over the lanes of a workgroup, so that the choice of [`Reduction`] matters.
    pub reduces: bool,
    /// Which part of a column a workgroup owns.
    pub span: Span,
    /// Tensor elements that it reads and writes per element of x, with every optional output wanted.
    pub moves: u32,
    /// Whether it reads again what a dispatch before it read, so that going backwards finds the last of it in a cache.
    pub rereads: bool,
    /// Whether its lanes hold their values in registers, so that its text depends on how many those are.
    pub holds: bool,
}

/// What most rows have in common.
const ROW: Kernel = Kernel {
    name: "",
    parts: &[],
    bindings: &[],
    reduces: true,
    span: Span::Segment,
    moves: 0,
    rereads: false,
    holds: false,
};

const MOMENTS: Kernel = Kernel {
    name: "moments",
    parts: &[CURSOR, WALK, SHIFT, COLUMN_MOMENTS, SCRATCH_OF_MOMENTS, part!("moments.wgsl")],
    bindings: &[X, SCRATCH_OUT],
    moves: 1,
    ..ROW
};
const NORMALIZE: Kernel = Kernel {
    name: "normalize",
    parts: &[CURSOR, WALK, SCRATCH_OF_MOMENTS, MERGE_MOMENTS, INV_STD, PUBLISH, AFFINE, part!("normalize.wgsl")],
    bindings: &[X, SCRATCH, GAMMA, BETA, SAVED_OUT, RUNNING_UPDATE, Y],
    moves: 2,
    rereads: true,
    ..ROW
};
const COLLECT: Kernel = Kernel {
    name: "collect",
    parts: &[SCRATCH_OF_MOMENTS, MERGE_MOMENTS, INV_STD, PUBLISH, part!("collect.wgsl")],
    bindings: &[SCRATCH, SAVED_IF_WANTED, RUNNING_UPDATE],
    span: Span::Column,
    ..ROW
};
const FORWARD_RESIDENT: Kernel = Kernel {
    name: "forward_resident",
    parts: &[CURSOR, SHIFT, INV_STD, PUBLISH, part!("forward_resident.wgsl")],
    bindings: &[X, GAMMA, BETA, SAVED_OUT, RUNNING_UPDATE, Y],
    moves: 2,
    holds: true,
    ..ROW
};
const FORWARD_WHOLE: Kernel = Kernel {
    name: "forward_whole",
    parts: &[
        CURSOR,
        WALK,
        SHIFT,
        COLUMN_MOMENTS,
        WHOLE_MOMENTS,
        INV_STD,
        PUBLISH,
        again(WALK),
        again(AFFINE),
        part!("forward_whole.wgsl"),
    ],
    bindings: &[X, GAMMA, BETA, SAVED_OUT, RUNNING_UPDATE, Y],
    moves: 3,
    ..ROW
};
const STATISTICS_WHOLE: Kernel = Kernel {
    name: "statistics_whole",
    parts: &[CURSOR, WALK, SHIFT, COLUMN_MOMENTS, WHOLE_MOMENTS, INV_STD, PUBLISH, part!("statistics_whole.wgsl")],
    bindings: &[X, SAVED_IF_WANTED, RUNNING_UPDATE],
    moves: 1,
    ..ROW
};
const INFER: Kernel = Kernel {
    name: "infer",
    parts: &[CURSOR, WALK, INV_STD, CENTRE_RUNNING, AFFINE, part!("infer.wgsl")],
    bindings: &[X, GAMMA, BETA, RUNNING, Y_OVER_X],
    reduces: false,
    moves: 2,
    ..ROW
};
const GRADIENT_SUMS: Kernel = Kernel {
    name: "gradient_sums",
    parts: &[
        CURSOR,
        WALK,
        CENTRE_SAVED,
        SCRATCH_OF_GRADIENTS,
        GRADIENT_STATE,
        STORE_GRADIENT_SUMS,
        part!("gradient_sums.wgsl"),
    ],
    bindings: &[X, DY, SAVED, SCRATCH_OUT],
    moves: 2,
    ..ROW
};
const GRADIENT_INPUT: Kernel = Kernel {
    name: "gradient_input",
    parts: &[
        CURSOR,
        WALK,
        CENTRE_SAVED,
        SCRATCH_OF_GRADIENTS,
        MERGE_GRADIENT_SUMS,
        PUBLISH_GRADIENTS,
        GRADIENT,
        APPLY_GRADIENT,
        part!("gradient_input.wgsl"),
    ],
    bindings: &[X, DY, SCRATCH, SAVED, GAMMA, DGAMMA, DBETA, DX],
    moves: 3,
    rereads: true,
    ..ROW
};
const GRADIENT_MERGE: Kernel = Kernel {
    name: "gradient_merge",
    parts: &[CENTRE_SAVED, SCRATCH_OF_GRADIENTS, MERGE_GRADIENT_SUMS, PUBLISH_GRADIENTS, part!("gradient_merge.wgsl")],
    bindings: &[SCRATCH, SAVED, DGAMMA, DBETA],
    span: Span::Column,
    ..ROW
};
const BACKWARD_RESIDENT: Kernel = Kernel {
    name: "backward_resident",
    parts: &[CURSOR, CENTRE_SAVED, PUBLISH_GRADIENTS, GRADIENT, part!("backward_resident.wgsl")],
    bindings: &[X, DY, SAVED, GAMMA, DGAMMA, DBETA, DX],
    moves: 3,
    holds: true,
    ..ROW
};
const BACKWARD_WHOLE: Kernel = Kernel {
    name: "backward_whole",
    parts: &[
        CURSOR,
        WALK,
        CENTRE_SAVED,
        GRADIENT_STATE,
        PUBLISH_GRADIENTS,
        GRADIENT,
        again(WALK),
        again(APPLY_GRADIENT),
        part!("backward_whole.wgsl"),
    ],
    bindings: &[X, DY, SAVED, GAMMA, DGAMMA, DBETA, DX],
    moves: 5,
    ..ROW
};
const FROZEN_SUMS: Kernel = Kernel {
    name: "frozen_sums",
    parts: &[
        CURSOR,
        WALK,
        INV_STD,
        CENTRE_RUNNING,
        SCRATCH_OF_GRADIENTS,
        GRADIENT_STATE,
        STORE_GRADIENT_SUMS,
        part!("frozen_sums.wgsl"),
    ],
    bindings: &[X, DY, RUNNING, GAMMA, SCRATCH_OUT, DX],
    moves: 3,
    ..ROW
};
const FROZEN_INPUT: Kernel = Kernel {
    name: "frozen_input",
    parts: &[CURSOR, WALK, INV_STD, CENTRE_RUNNING, part!("frozen_input.wgsl")],
    bindings: &[DY, RUNNING, GAMMA, DX],
    reduces: false,
    moves: 2,
    ..ROW
};
const FROZEN_MERGE: Kernel = Kernel {
    name: "frozen_merge",
    parts: &[
        INV_STD,
        CENTRE_RUNNING,
        SCRATCH_OF_GRADIENTS,
        MERGE_GRADIENT_SUMS,
        PUBLISH_GRADIENTS,
        part!("gradient_merge.wgsl"),
    ],
    bindings: &[SCRATCH, RUNNING, DGAMMA, DBETA],
    span: Span::Column,
    ..ROW
};
const FROZEN_WHOLE: Kernel = Kernel {
    name: "frozen_whole",
    parts: &[CURSOR, WALK, INV_STD, CENTRE_RUNNING, GRADIENT_STATE, PUBLISH_GRADIENTS, part!("frozen_whole.wgsl")],
    bindings: &[X, DY, RUNNING, GAMMA, DGAMMA, DBETA, DX],
    moves: 3,
    ..ROW
};

/// The table.
pub static KERNELS: [&Kernel; 16] = [
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
    &FROZEN_MERGE,
    &FROZEN_WHOLE,
];

/// Which gradients a backward operation is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gradients {
    /// dx, and dgamma or dbeta or both.
    All,
    /// dx alone.
    Input,
    /// dgamma or dbeta or both.
    Parameters,
}

/// The kernels that an operation runs, in order; none where there is no such strategy. `gradients` matters to the backward
/// operations only.
pub fn program(operation: Operation, strategy: Strategy, gradients: Gradients) -> &'static [&'static Kernel] {
    use {Gradients as Of, Operation as Op, Strategy as By};
    match (operation, strategy, gradients) {
        (Op::ForwardTraining, By::Split, _) => &[&MOMENTS, &NORMALIZE],
        (Op::ForwardTraining, By::Whole, _) => &[&FORWARD_WHOLE],
        (Op::ForwardTraining, By::Resident, _) => &[&FORWARD_RESIDENT],
        (Op::Inference, By::Split, _) => &[&INFER],
        (Op::BackwardTraining, By::Split, Of::All | Of::Input) => &[&GRADIENT_SUMS, &GRADIENT_INPUT],
        (Op::BackwardTraining, By::Split, Of::Parameters) => &[&GRADIENT_SUMS, &GRADIENT_MERGE],
        (Op::BackwardTraining, By::Whole, _) => &[&BACKWARD_WHOLE],
        (Op::BackwardTraining, By::Resident, _) => &[&BACKWARD_RESIDENT],
        (Op::BackwardFrozen, By::Split, Of::All | Of::Parameters) => &[&FROZEN_SUMS, &FROZEN_MERGE],
        (Op::BackwardFrozen, By::Whole, Of::All | Of::Parameters) => &[&FROZEN_WHOLE],
        (Op::BackwardFrozen, By::Split | By::Whole, Of::Input) => &[&FROZEN_INPUT],
        (Op::Statistics, By::Split, _) => &[&MOMENTS, &COLLECT],
        (Op::Statistics, By::Whole, _) => &[&STATISTICS_WHOLE],
        (Op::Inference, By::Whole, _) => &[],
        (Op::Inference | Op::BackwardFrozen | Op::Statistics, By::Resident, _) => &[],
    }
}
