//! Names on the command line, as tables and files spell them.

use batchnorm_wgpu::{Activation, DType, Layout, Operation};

/// Finds a name in a table.
pub fn named<T: Copy>(name: &str, all: &[T], name_of: fn(T) -> &'static str) -> Result<T, String> {
    let names: Vec<_> = all.iter().map(|&one| name_of(one)).collect();
    all.iter().copied().find(|&one| name_of(one) == name).ok_or(format!("expected one of {}", names.join(", ")))
}

/// An operation by its name.
pub fn operation(name: &str) -> Result<Operation, String> {
    named(name, &Operation::ALL, Operation::name)
}

/// A dtype by its name.
pub fn dtype(name: &str) -> Result<DType, String> {
    named(name, &DType::ALL, DType::name)
}

/// An activation by its name.
pub fn activation(name: &str) -> Result<Activation, String> {
    named(name, &Activation::ALL, Activation::name)
}

/// A layout by its name.
pub fn layout(name: &str) -> Result<Layout, String> {
    let name_of = |layout| match layout {
        Layout::ChannelsFirst => "channels_first",
        Layout::ChannelsLast => "channels_last",
    };
    named(name, &[Layout::ChannelsFirst, Layout::ChannelsLast], name_of)
}
