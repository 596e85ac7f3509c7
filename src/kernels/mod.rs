//! The table of kernels: one row per kernel. Tests, checks and benchmarks iterate over it.
//!
//! A row names the WGSL parts that make up its shader, what it binds and what it moves. A [`Variant`] is a row with its
//! geometry, its reduction and its bindings settled, and gives the WGSL text.

mod binding;
mod variant;

pub use binding::{Access, Binding, Extent};
pub(crate) use binding::{RUNNING_PLANES, SAVED_PLANES};
pub use variant::{Geometry, Reduction, Variant};

use binding::{
    BETA, DBETA, DGAMMA, DX, DY, GAMMA, RUNNING, RUNNING_UPDATE, SAVED, SAVED_IF_WANTED, SAVED_OUT, SCRATCH,
    SCRATCH_OUT, X, Y, Y_OVER_X,
};

/// A part of a shader: its path below `shaders/`, and its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Part {
    /// Path below `shaders/`.
    pub path: &'static str,
    /// WGSL.
    pub text: &'static str,
}

macro_rules! part {
    ($path:literal) => {
        $crate::kernels::Part { path: $path, text: include_str!(concat!("../../shaders/", $path)) }
    };
}
pub(crate) use part;

const MOMENTS: Part = part!("common/moments.wgsl");
const MERGE_MOMENTS: Part = part!("common/merge_moments.wgsl");
const INV_STD: Part = part!("common/inv_std.wgsl");
const PUBLISH: Part = part!("common/publish.wgsl");
const WALK: Part = part!("common/walk.wgsl");
const AFFINE: Part = part!("common/affine.wgsl");
const CENTRE_SAVED: Part = part!("common/centre_saved.wgsl");
const CENTRE_RUNNING: Part = part!("common/centre_running.wgsl");
const GRADIENT_SCRATCH: Part = part!("common/gradient_scratch.wgsl");
const MERGE_GRADIENT_SUMS: Part = part!("common/merge_gradient_sums.wgsl");
const GRADIENT_STATE: Part = part!("common/gradient_state.wgsl");

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
}

/// The table.
pub static KERNELS: [Kernel; 10] = [
    Kernel {
        name: "moments",
        parts: &[WALK, MOMENTS, part!("moments.wgsl")],
        bindings: &[X, SCRATCH_OUT],
        reduces: true,
        span: Span::Segment,
        moves: 1,
    },
    Kernel {
        name: "normalize",
        parts: &[WALK, MOMENTS, MERGE_MOMENTS, INV_STD, PUBLISH, AFFINE, part!("normalize.wgsl")],
        bindings: &[X, SCRATCH, GAMMA, BETA, SAVED_OUT, RUNNING_UPDATE, Y],
        reduces: true,
        span: Span::Segment,
        moves: 2,
    },
    Kernel {
        name: "collect",
        parts: &[MOMENTS, MERGE_MOMENTS, INV_STD, PUBLISH, part!("collect.wgsl")],
        bindings: &[SCRATCH, SAVED_IF_WANTED, RUNNING_UPDATE],
        reduces: true,
        span: Span::Column,
        moves: 0,
    },
    Kernel {
        name: "infer",
        parts: &[WALK, INV_STD, CENTRE_RUNNING, AFFINE, part!("infer.wgsl")],
        bindings: &[X, GAMMA, BETA, RUNNING, Y_OVER_X],
        reduces: false,
        span: Span::Segment,
        moves: 2,
    },
    Kernel {
        name: "gradient_sums",
        parts: &[WALK, CENTRE_SAVED, GRADIENT_SCRATCH, GRADIENT_STATE, part!("gradient_sums.wgsl")],
        bindings: &[X, DY, SAVED, SCRATCH_OUT],
        reduces: true,
        span: Span::Segment,
        moves: 2,
    },
    Kernel {
        name: "gradient_input",
        parts: &[WALK, CENTRE_SAVED, GRADIENT_SCRATCH, MERGE_GRADIENT_SUMS, part!("gradient_input.wgsl")],
        bindings: &[X, DY, SCRATCH, SAVED, GAMMA, DGAMMA, DBETA, DX],
        reduces: true,
        span: Span::Segment,
        moves: 3,
    },
    Kernel {
        name: "gradient_merge",
        parts: &[CENTRE_SAVED, GRADIENT_SCRATCH, MERGE_GRADIENT_SUMS, part!("gradient_merge.wgsl")],
        bindings: &[SCRATCH, SAVED, DGAMMA, DBETA],
        reduces: true,
        span: Span::Column,
        moves: 0,
    },
    Kernel {
        name: "frozen_sums",
        parts: &[WALK, INV_STD, CENTRE_RUNNING, GRADIENT_SCRATCH, GRADIENT_STATE, part!("frozen_sums.wgsl")],
        bindings: &[X, DY, RUNNING, GAMMA, SCRATCH_OUT, DX],
        reduces: true,
        span: Span::Segment,
        moves: 3,
    },
    Kernel {
        name: "frozen_input",
        parts: &[WALK, INV_STD, CENTRE_RUNNING, part!("frozen_input.wgsl")],
        bindings: &[DY, RUNNING, GAMMA, DX],
        reduces: false,
        span: Span::Segment,
        moves: 2,
    },
    Kernel {
        name: "frozen_merge",
        parts: &[INV_STD, CENTRE_RUNNING, GRADIENT_SCRATCH, MERGE_GRADIENT_SUMS, part!("gradient_merge.wgsl")],
        bindings: &[SCRATCH, RUNNING, DGAMMA, DBETA],
        reduces: true,
        span: Span::Column,
        moves: 0,
    },
];

/// Rows of the table by what the host layer calls them.
pub(crate) mod row {
    use super::{KERNELS, Kernel};
    pub(crate) static MOMENTS: &Kernel = &KERNELS[0];
    pub(crate) static NORMALIZE: &Kernel = &KERNELS[1];
    pub(crate) static COLLECT: &Kernel = &KERNELS[2];
    pub(crate) static INFER: &Kernel = &KERNELS[3];
    pub(crate) static GRADIENT_SUMS: &Kernel = &KERNELS[4];
    pub(crate) static GRADIENT_INPUT: &Kernel = &KERNELS[5];
    pub(crate) static GRADIENT_MERGE: &Kernel = &KERNELS[6];
    pub(crate) static FROZEN_SUMS: &Kernel = &KERNELS[7];
    pub(crate) static FROZEN_INPUT: &Kernel = &KERNELS[8];
    pub(crate) static FROZEN_MERGE: &Kernel = &KERNELS[9];
}
