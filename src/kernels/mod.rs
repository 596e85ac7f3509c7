//! The table of kernels: one row per kernel. Tests, checks and benchmarks iterate over it.
//!
//! A row names the WGSL parts that make up its shader, and what it binds. A [`Variant`] is a row with its [`Settings`] and its
//! bindings settled, and gives the WGSL text. [`program`] says which kernels an operation runs.

mod binding;
mod geometry;
mod storage;
mod variant;

pub use binding::{Access, Binding, Extent};
pub(crate) use binding::{RUNNING_PLANES, SAVED_PLANES};
pub use geometry::Geometry;
pub use storage::Storage;
pub use variant::{Reduction, Settings, Strategy, Variant};

use crate::operation::Operation;
use binding::{
    BETA, DBETA, DGAMMA, DRESIDUAL, DX, DY, GAMMA, RESIDUAL, RESIDUAL_BEHIND, RUNNING, RUNNING_UPDATE, SAVED,
    SAVED_IF_WANTED, SAVED_OUT, SCRATCH, SCRATCH_OUT, X, X_BEHIND, Y,
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
    pub(super) const SAVE: Part = part!("common/saved.wgsl");
    pub(super) const GATE: Part = part!("common/gate.wgsl");
    pub(super) const GRADIENT_INPUTS: Part = part!("common/gradient_inputs.wgsl");
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
}

/// What most rows have in common.
const ROW: Kernel = Kernel {
    name: "",
    parts: &[],
    bindings: &[],
    reduces: true,
    span: Span::Segment,
    passes: 1,
    activates: false,
    centres: false,
    rereads: false,
    holds: false,
};

const MOMENTS: Kernel = Kernel {
    name: "moments",
    parts: &[CURSOR, WALK, SHIFT, COLUMN_MOMENTS, SCRATCH_OF_MOMENTS, part!("moments.wgsl")],
    bindings: &[X, SCRATCH_OUT],
    ..ROW
};
const NORMALIZE: Kernel = Kernel {
    name: "normalize",
    parts: &[CURSOR, WALK, SCRATCH_OF_MOMENTS, MERGE_MOMENTS, INV_STD, SAVE, PUBLISH, AFFINE, part!("normalize.wgsl")],
    bindings: &[X, RESIDUAL, SCRATCH, GAMMA, BETA, SAVED_OUT, RUNNING_UPDATE, Y],
    rereads: true,
    activates: true,
    ..ROW
};
const COLLECT: Kernel = Kernel {
    name: "collect",
    parts: &[SCRATCH_OF_MOMENTS, MERGE_MOMENTS, INV_STD, SAVE, PUBLISH, part!("collect.wgsl")],
    bindings: &[SCRATCH, GAMMA, BETA, SAVED_IF_WANTED, RUNNING_UPDATE],
    span: Span::Column,
    ..ROW
};
const FORWARD_RESIDENT: Kernel = Kernel {
    name: "forward_resident",
    parts: &[CURSOR, SHIFT, INV_STD, SAVE, PUBLISH, part!("forward_resident.wgsl")],
    bindings: &[X, RESIDUAL, GAMMA, BETA, SAVED_OUT, RUNNING_UPDATE, Y],
    holds: true,
    activates: true,
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
        SAVE,
        PUBLISH,
        again(WALK),
        again(AFFINE),
        part!("forward_whole.wgsl"),
    ],
    bindings: &[X, RESIDUAL, GAMMA, BETA, SAVED_OUT, RUNNING_UPDATE, Y],
    passes: 2,
    activates: true,
    ..ROW
};
const STATISTICS_WHOLE: Kernel = Kernel {
    name: "statistics_whole",
    parts: &[
        CURSOR,
        WALK,
        SHIFT,
        COLUMN_MOMENTS,
        WHOLE_MOMENTS,
        INV_STD,
        SAVE,
        PUBLISH,
        part!("statistics_whole.wgsl"),
    ],
    bindings: &[X, GAMMA, BETA, SAVED_IF_WANTED, RUNNING_UPDATE],
    ..ROW
};
const INFER: Kernel = Kernel {
    name: "infer",
    parts: &[CURSOR, WALK, INV_STD, SAVE, AFFINE, part!("infer.wgsl")],
    bindings: &[X, RESIDUAL, GAMMA, BETA, RUNNING, SAVED_IF_WANTED, Y],
    reduces: false,
    activates: true,
    ..ROW
};

/// What most rows of the backward pass have in common.
const BACKWARD: Kernel = Kernel { activates: true, centres: true, ..ROW };

const GRADIENT_SUMS: Kernel = Kernel {
    name: "gradient_sums",
    parts: &[
        CURSOR,
        WALK,
        GATE,
        GRADIENT_INPUTS,
        GRADIENT_STATE,
        SCRATCH_OF_GRADIENTS,
        STORE_GRADIENT_SUMS,
        part!("gradient_sums.wgsl"),
    ],
    bindings: &[X, DY, RESIDUAL_BEHIND, SAVED, SCRATCH_OUT, DRESIDUAL],
    ..BACKWARD
};
const GRADIENT_INPUT: Kernel = Kernel {
    name: "gradient_input",
    parts: &[
        CURSOR,
        WALK,
        GATE,
        GRADIENT_INPUTS,
        SCRATCH_OF_GRADIENTS,
        MERGE_GRADIENT_SUMS,
        PUBLISH_GRADIENTS,
        GRADIENT,
        APPLY_GRADIENT,
        part!("gradient_input.wgsl"),
    ],
    bindings: &[X, DY, RESIDUAL_BEHIND, SCRATCH, SAVED, DGAMMA, DBETA, DX],
    rereads: true,
    ..BACKWARD
};
const GRADIENT_MERGE: Kernel = Kernel {
    name: "gradient_merge",
    parts: &[SCRATCH_OF_GRADIENTS, MERGE_GRADIENT_SUMS, PUBLISH_GRADIENTS, part!("gradient_merge.wgsl")],
    bindings: &[SCRATCH, SAVED, DGAMMA, DBETA],
    span: Span::Column,
    activates: false,
    ..BACKWARD
};
const BACKWARD_RESIDENT: Kernel = Kernel {
    name: "backward_resident",
    parts: &[CURSOR, GATE, PUBLISH_GRADIENTS, GRADIENT, part!("backward_resident.wgsl")],
    bindings: &[X, DY, RESIDUAL_BEHIND, SAVED, DGAMMA, DBETA, DRESIDUAL, DX],
    holds: true,
    ..BACKWARD
};
const BACKWARD_WHOLE: Kernel = Kernel {
    name: "backward_whole",
    parts: &[
        CURSOR,
        WALK,
        GATE,
        GRADIENT_INPUTS,
        GRADIENT_STATE,
        PUBLISH_GRADIENTS,
        GRADIENT,
        again(WALK),
        again(GRADIENT_INPUTS),
        again(APPLY_GRADIENT),
        part!("backward_whole.wgsl"),
    ],
    bindings: &[X, DY, RESIDUAL_BEHIND, SAVED, DGAMMA, DBETA, DRESIDUAL, DX],
    passes: 2,
    ..BACKWARD
};
const FROZEN_SUMS: Kernel = Kernel {
    name: "frozen_sums",
    parts: &[
        CURSOR,
        WALK,
        GATE,
        GRADIENT_INPUTS,
        GRADIENT_STATE,
        SCRATCH_OF_GRADIENTS,
        STORE_GRADIENT_SUMS,
        part!("frozen_sums.wgsl"),
    ],
    bindings: &[X, DY, RESIDUAL_BEHIND, SAVED, SCRATCH_OUT, DRESIDUAL, DX],
    ..BACKWARD
};
const FROZEN_INPUT: Kernel = Kernel {
    name: "frozen_input",
    parts: &[CURSOR, WALK, GATE, GRADIENT_INPUTS, part!("frozen_input.wgsl")],
    bindings: &[X_BEHIND, DY, RESIDUAL_BEHIND, SAVED, DRESIDUAL, DX],
    reduces: false,
    ..BACKWARD
};
const FROZEN_WHOLE: Kernel = Kernel {
    name: "frozen_whole",
    parts: &[CURSOR, WALK, GATE, GRADIENT_INPUTS, GRADIENT_STATE, PUBLISH_GRADIENTS, part!("frozen_whole.wgsl")],
    bindings: &[X, DY, RESIDUAL_BEHIND, SAVED, DGAMMA, DBETA, DRESIDUAL, DX],
    ..BACKWARD
};

/// The table.
pub static KERNELS: [&Kernel; 15] = [
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
pub enum Gradients {
    /// dx, and dgamma or dbeta or both.
    All,
    /// dx or the residual's gradient or both.
    Input,
    /// dgamma or dbeta or both, perhaps the residual's gradient, and no dx.
    Parameters,
}

impl Gradients {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::All, Self::Input, Self::Parameters];
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
        (Op::BackwardFrozen, By::Split, Of::All | Of::Parameters) => &[&FROZEN_SUMS, &GRADIENT_MERGE],
        (Op::BackwardFrozen, By::Whole, Of::All | Of::Parameters) => &[&FROZEN_WHOLE],
        (Op::BackwardFrozen, By::Split | By::Whole, Of::Input) => &[&FROZEN_INPUT],
        (Op::Statistics, By::Split, _) => &[&MOMENTS, &COLLECT],
        (Op::Statistics, By::Whole, _) => &[&STATISTICS_WHOLE],
        (Op::Inference, By::Whole, _) => &[],
        (Op::Inference | Op::BackwardFrozen | Op::Statistics, By::Resident, _) => &[],
    }
}
