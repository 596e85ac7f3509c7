//! Names on the command line, as tables and files spell them.

use batchnorm_wgpu::{Activation, Average, DType, Layout, Operation};

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

/// How batches enter the running statistics: the weight of the new batch, or `cumulative`.
pub fn average(text: &str) -> Result<Average, String> {
    let expected = "expected the weight of the new batch, a number in [0, 1], or cumulative";
    match (text, text.parse()) {
        ("cumulative", _) => Ok(Average::Cumulative),
        (_, Ok(momentum)) if (0.0..=1.0).contains(&momentum) => Ok(Average::Exponential { momentum }),
        (_, Ok(_)) => Err(format!(
            "{expected}; where momentum is the weight of the old value, as in Keras and ONNX, give 1 minus it"
        )),
        ("None" | "none" | "null", _) => Err(format!("{expected}, which is PyTorch's None")),
        _ => Err(expected.into()),
    }
}

/// A layout by its name.
pub fn layout(name: &str) -> Result<Layout, String> {
    let name_of = |layout| match layout {
        Layout::ChannelsFirst => "channels_first",
        Layout::ChannelsLast => "channels_last",
    };
    named(name, &[Layout::ChannelsFirst, Layout::ChannelsLast], name_of)
}
