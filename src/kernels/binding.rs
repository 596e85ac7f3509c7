//! What kernels bind, and the WGSL that declares and accesses it. Kernels call `load_NAME` and `store_NAME`; whether the
//! binding exists, is bound read_write, or is written over another one, is settled here and nowhere else.

use super::variant::Geometry;

/// Whether a kernel writes a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Only read.
    Read,
    /// Written, and possibly read.
    Write,
}

/// How much of what a binding holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    /// A tensor: one f32 per element.
    Elements,
    /// A number of planes of C f32.
    Channels(u32),
    /// The running statistics as words, updated by the kernel.
    Running,
    /// Partial results: planes of C f32, as many as the plan's splits need.
    Scratch,
}

/// Number of planes of C words in the running statistics.
pub(crate) const RUNNING_PLANES: u32 = 8;
/// Number of planes of C floats in the saved statistics: shift, remainder, biased variance, inv_std.
pub(crate) const SAVED_PLANES: u32 = 4;

/// A storage binding of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Binding {
    /// The binding's one name: in WGSL, in errors, in the descriptors of the operations.
    pub name: &'static str,
    /// Whether the kernel writes it.
    pub access: Access,
    /// How much it holds.
    pub extent: Extent,
    /// Whether it may be absent. Absent, it reads as [`Binding::default`] and writes go nowhere.
    pub optional: bool,
    /// What an absent binding reads as: 1 for gamma, 0 for beta.
    pub default: u32,
    /// The binding whose bytes this one may overwrite in place.
    pub over: Option<&'static str>,
}

const fn read(name: &'static str, extent: Extent) -> Binding {
    Binding { name, access: Access::Read, extent, optional: false, default: 0, over: None }
}

const fn write(name: &'static str, extent: Extent) -> Binding {
    Binding { name, access: Access::Write, extent, optional: false, default: 0, over: None }
}

const fn optional(binding: Binding) -> Binding {
    Binding { optional: true, ..binding }
}

pub(super) const X: Binding = read("x", Extent::Elements);
pub(super) const DY: Binding = read("dy", Extent::Elements);
pub(super) const GAMMA: Binding = Binding { default: 1, ..optional(read("gamma", Extent::Channels(1))) };
pub(super) const BETA: Binding = optional(read("beta", Extent::Channels(1)));
pub(super) const SAVED: Binding = read("saved", Extent::Channels(SAVED_PLANES));
pub(super) const SAVED_OUT: Binding = write("saved", Extent::Channels(SAVED_PLANES));
pub(super) const SAVED_IF_WANTED: Binding = optional(SAVED_OUT);
pub(super) const RUNNING: Binding = read("running", Extent::Channels(RUNNING_PLANES));
pub(super) const RUNNING_UPDATE: Binding = optional(write("running", Extent::Running));
pub(super) const SCRATCH: Binding = read("scratch", Extent::Scratch);
pub(super) const SCRATCH_OUT: Binding = write("scratch", Extent::Scratch);
pub(super) const Y: Binding = write("y", Extent::Elements);
pub(super) const Y_OVER_X: Binding = Binding { over: Some("x"), ..Y };
pub(super) const DX: Binding = Binding { over: Some("dy"), ..optional(write("dx", Extent::Elements)) };
pub(super) const DGAMMA: Binding = optional(write("dgamma", Extent::Channels(1)));
pub(super) const DBETA: Binding = optional(write("dbeta", Extent::Channels(1)));

impl Binding {
    /// The declaration of a present binding.
    pub(super) fn declaration(&self, number: usize, pooled: bool) -> String {
        let access = if pooled || self.access == Access::Write { "read_write" } else { "read" };
        let element = match self.extent {
            Extent::Elements => "Value",
            Extent::Channels(_) | Extent::Scratch => "f32",
            Extent::Running => "u32",
        };
        format!("@group(0) @binding({number}) var<storage, {access}> {}: array<{element}>;\n", self.name)
    }

    /// The functions through which a kernel accesses the binding, by what it holds:
    /// - a tensor: `load_NAME(i)`, `store_NAME(i, v)`, and `element_of_NAME(work, element)` for one element of a channel;
    /// - planes of C: `load_NAME(work, plane)`, `store_NAME(work, plane, v)`;
    /// - partial results: `store_NAME(work, row, v)` stores a row of all columns, which is `fold` planes of C, as which
    ///   `load_NAME(work, plane)` loads it.
    ///
    /// `array` is the variable they access, `None` for an absent binding; in place it is another binding's.
    pub(super) fn accessors(&self, array: Option<&str>, geometry: Geometry) -> String {
        let name = self.name;
        let load =
            |body: &dyn Fn(&str) -> String| array.map_or_else(|| format!("return Value({}.0);", self.default), body);
        let store = |body: &dyn Fn(&str) -> String| array.map_or_else(String::new, body);
        match (self.extent, self.access) {
            // As words they have functions of their own, in a part.
            (Extent::Running, _) => String::new(),
            (Extent::Elements, Access::Read) => {
                let element = load(&|array| geometry.load_element(array));
                let value = load(&|array| format!("return {array}[i];"));
                format!(
                    "fn load_{name}(i: u32) -> Value {{ {value} }}\n\
                     fn element_of_{name}(work: Work, element: u32) -> Value {{ {element} }}\n"
                )
            }
            (Extent::Elements, Access::Write) => {
                let body = store(&|array| format!("{array}[i] = v;"));
                format!("fn store_{name}(i: u32, v: Value) {{ {body} }}\n")
            }
            (Extent::Channels(_) | Extent::Scratch, Access::Read) => {
                let body = load(&|array| geometry.load_plane(array));
                format!("fn load_{name}(work: Work, plane: u32) -> Value {{ {body} }}\n")
            }
            (Extent::Channels(_), Access::Write) => {
                let body = store(&|array| geometry.store_plane(array));
                format!("fn store_{name}(work: Work, plane: u32, v: Value) {{ {body} }}\n")
            }
            (Extent::Scratch, Access::Write) => {
                let body = store(&|array| geometry.store_row(array));
                format!("fn store_{name}(work: Work, row: u32, v: Value) {{ {body} }}\n")
            }
        }
    }
}
