//! What kernels bind, and the WGSL that declares and accesses it. Kernels call `load_NAME` and `store_NAME`; whether the
//! binding exists, is bound read_write, or is written over another one, and what its elements are stored in, is settled
//! here and nowhere else.

use super::geometry::Geometry;
use super::storage::Storage;

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
    /// A tensor in the layer's dtype.
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
/// Number of planes of C floats in what a forward pass saves: shift, remainder, biased variance, inv_std, gamma, beta.
pub(crate) const SAVED_PLANES: u32 = 6;

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
    /// Whether it is read only to see through the activation: absent where there is none.
    pub behind_activation: bool,
    /// Whether a kernel that goes over its column twice reads it the second time only.
    pub once: bool,
}

const fn read(name: &'static str, extent: Extent) -> Binding {
    Binding {
        name,
        access: Access::Read,
        extent,
        optional: false,
        default: 0,
        over: None,
        behind_activation: false,
        once: false,
    }
}

const fn write(name: &'static str, extent: Extent) -> Binding {
    Binding { access: Access::Write, ..read(name, extent) }
}

const fn optional(binding: Binding) -> Binding {
    Binding { optional: true, ..binding }
}

const fn behind_activation(binding: Binding) -> Binding {
    Binding { behind_activation: true, ..binding }
}

pub(super) const X: Binding = read("x", Extent::Elements);
pub(super) const X_BEHIND: Binding = behind_activation(X);
pub(super) const RESIDUAL: Binding = Binding { once: true, ..optional(read("residual", Extent::Elements)) };
pub(super) const RESIDUAL_BEHIND: Binding = Binding { once: false, ..behind_activation(RESIDUAL) };
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
pub(super) const Y: Binding = Binding { over: Some("x"), ..write("y", Extent::Elements) };
pub(super) const DX: Binding = Binding { over: Some("dy"), ..optional(write("dx", Extent::Elements)) };
pub(super) const DRESIDUAL: Binding = Binding { over: Some("dy"), ..optional(write("dresidual", Extent::Elements)) };
pub(super) const DGAMMA: Binding = optional(write("dgamma", Extent::Channels(1)));
pub(super) const DBETA: Binding = optional(write("dbeta", Extent::Channels(1)));

impl Binding {
    /// The declaration of a present binding.
    pub(super) fn declaration(&self, number: usize, pooled: bool, form: Form) -> String {
        let access = if pooled || self.access == Access::Write { "read_write" } else { "read" };
        let element = match self.extent {
            Extent::Elements => form.storage.element(form.geometry, self.access),
            Extent::Channels(_) | Extent::Scratch => "f32",
            Extent::Running => "u32",
        };
        format!("@group(0) @binding({number}) var<storage, {access}> {}: array<{element}>;\n", self.name)
    }

    /// The functions through which a kernel accesses the binding, by what it holds:
    /// - a tensor: `load_NAME(i)`, `store_NAME(i, v)`, and, present, `element_of_NAME(work, element)` for one element of a
    ///   channel;
    /// - planes of C: `load_NAME(work, plane)`, `store_NAME(work, plane, v)`;
    /// - partial results: `store_NAME(work, row, v)` stores a row of all columns, which is `fold` planes of C, as which
    ///   `load_NAME(work, plane)` loads it.
    ///
    /// `array` is the variable they access and how its binding is, `None` for an absent one; in place it is another's.
    pub(super) fn accessors(&self, array: Option<(&str, Access)>, form: Form) -> String {
        let name = self.name;
        let load = |body: &dyn Fn(&str, Access) -> String| {
            array
                .map_or_else(|| format!("return Value({}.0);", self.default), |(array, declared)| body(array, declared))
        };
        let store = |body: &dyn Fn(&str) -> String| array.map_or_else(String::new, |(array, _)| body(array));
        let load_plane = || {
            let body = load(&|array, _| form.geometry.load_plane(array));
            format!("fn load_{name}(work: Work, plane: u32) -> Value {{ {body} }}\n")
        };
        match (self.extent, self.access) {
            // As words they have functions of their own, in a part.
            (Extent::Running, _) => String::new(),
            (Extent::Elements, Access::Read) => {
                let value = load(&|array, declared| form.storage.load(form.geometry, array, declared));
                let of_element = array.map_or_else(String::new, |_| {
                    let body = form.geometry.load_element(&format!("load_{name}"));
                    format!("fn element_of_{name}(work: Work, element: u32) -> Value {{ {body} }}\n")
                });
                format!("fn load_{name}(i: u32) -> Value {{ {value} }}\n") + &of_element
            }
            (Extent::Elements, Access::Write) => {
                let body = store(&|array| form.storage.store(form.geometry, array));
                format!("fn store_{name}(i: u32, v: Value) {{ {body} }}\n")
            }
            (Extent::Channels(_) | Extent::Scratch, Access::Read) => load_plane(),
            (Extent::Channels(_), Access::Write) => {
                let body = store(&|array| form.geometry.store_plane(array));
                format!("fn store_{name}(work: Work, plane: u32, v: Value) {{ {body} }}\n")
            }
            (Extent::Scratch, Access::Write) => {
                let body = store(&|array| form.geometry.store_row(array));
                format!("fn store_{name}(work: Work, row: u32, v: Value) {{ {body} }}\n") + &load_plane()
            }
        }
    }
}

/// What a value is made of and what its elements are stored in: what accesses to tensors depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    pub(super) geometry: Geometry,
    pub(super) storage: Storage,
}
