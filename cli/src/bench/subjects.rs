//! What is timed: operations and shapes.

use crate::AnyError;
use crate::asked::AskedShape;
use batchnorm_wgpu::host::Gpu;
use batchnorm_wgpu::{DType, Layout, Operation, Shape, View, Views, wgpu};

/// Shapes that a software adapter can do in seconds: those that peers are measured with, then tails, few channels, small.
const SMALL: [(&[usize], Layout); 12] = [
    (&[32, 64, 32, 32], Layout::ChannelsFirst),
    (&[32, 256, 14, 14], Layout::ChannelsFirst),
    (&[8, 64, 56, 56], Layout::ChannelsFirst),
    (&[128, 512], Layout::ChannelsFirst),
    (&[32, 512, 7, 7], Layout::ChannelsFirst),
    (&[2, 3, 512, 512], Layout::ChannelsFirst),
    (&[4, 16, 256, 256], Layout::ChannelsFirst),
    (&[32, 28, 28, 64], Layout::ChannelsLast),
    (&[32, 28, 28, 65], Layout::ChannelsLast),
    (&[2, 512, 512, 3], Layout::ChannelsLast),
    (&[8000, 256], Layout::ChannelsFirst),
    (&[8, 16, 7, 7], Layout::ChannelsFirst),
];

/// Those of ResNet-50 at batch 64, and what peers are slow at.
const LARGE: [(&[usize], Layout); 18] = [
    (&[64, 64, 112, 112], Layout::ChannelsFirst),
    (&[64, 256, 56, 56], Layout::ChannelsFirst),
    (&[64, 128, 56, 56], Layout::ChannelsFirst),
    (&[64, 64, 56, 56], Layout::ChannelsFirst),
    (&[64, 512, 28, 28], Layout::ChannelsFirst),
    (&[64, 256, 28, 28], Layout::ChannelsFirst),
    (&[64, 128, 28, 28], Layout::ChannelsFirst),
    (&[64, 1024, 14, 14], Layout::ChannelsFirst),
    (&[64, 512, 14, 14], Layout::ChannelsFirst),
    (&[64, 256, 14, 14], Layout::ChannelsFirst),
    (&[64, 2048, 7, 7], Layout::ChannelsFirst),
    (&[64, 512, 7, 7], Layout::ChannelsFirst),
    (&[4, 128, 1024, 1024], Layout::ChannelsFirst),
    (&[64, 56, 56, 64], Layout::ChannelsLast),
    (&[64, 56, 56, 65], Layout::ChannelsLast),
    (&[140_000, 256], Layout::ChannelsFirst),
    (&[2, 3, 1024, 1024], Layout::ChannelsFirst),
    (&[256, 4096], Layout::ChannelsFirst),
];

/// DenseNet's: x is the first of the channels that a block's layers have appended to one tensor.
const CONCATENATED: [(&[usize], Layout, usize); 2] =
    [(&[32, 128, 28, 28], Layout::ChannelsFirst, 256), (&[32, 28, 28, 128], Layout::ChannelsLast, 256)];

/// Operations that are timed.
pub const OPERATIONS: [Operation; 4] =
    [Operation::ForwardTraining, Operation::BackwardTraining, Operation::Inference, Operation::BackwardFrozen];

/// Bytes of the largest tensor that a software adapter is timed with.
const SOFTWARE_BYTES: u64 = 64 << 20;

/// A shape with the dtypes that it is timed in; empty for those of the whole run.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// The shape of x.
    pub shape: Shape,
    /// Its own dtypes.
    pub dtypes: Vec<DType>,
}

impl Subject {
    /// Whether a dtype can be added: those of the whole run stay apart from a shape's own.
    fn takes(&self, dtype: Option<DType>) -> bool {
        self.dtypes.is_empty() == dtype.is_none()
    }
}

/// The subjects for an adapter: those of the list that a buffer holds, the large ones only where `large`. With `texts`,
/// separated by commas, those that the texts name, in that order: a shape written out, such as `8x3x5x5`; or the shapes of
/// the list that contain the text. After colons may stand what an [`AskedShape`] takes, such as `8x5x5x3:channels_last:f16`.
///
/// Besides, what is too large for the adapter, in words.
pub fn subjects(gpu: &Gpu, large: bool, texts: Option<&str>) -> Result<(Vec<Subject>, Vec<String>), AnyError> {
    let software = gpu.info.device_type == wgpu::DeviceType::Cpu;
    let buffer = gpu.device.limits().max_buffer_size;
    let most = if software { buffer.min(SOFTWARE_BYTES) } else { buffer };
    let shapes = |list: &[(&[usize], Layout)]| -> Result<Vec<Shape>, AnyError> {
        let shapes = list.iter().map(|(dims, layout)| Shape::new(dims, *layout)).collect::<Result<Vec<_>, _>>()?;
        Ok(shapes.into_iter().filter(|shape| largest_tensor(shape) * 4 <= most).collect())
    };
    let mut offered = shapes(&SMALL)?;
    if large {
        offered.extend(shapes(&LARGE)?);
        for (dims, layout, of) in CONCATENATED {
            let x = Some(View { first: 0, of });
            let shape = Shape::new(dims, layout)?.with_views(Views { x, ..Views::default() })?;
            offered.extend((largest_tensor(&shape) * 4 <= most).then_some(shape));
        }
    }
    let Some(texts) = texts else {
        return Ok((offered.into_iter().map(|shape| Subject { shape, dtypes: Vec::new() }).collect(), Vec::new()));
    };
    let (mut subjects, mut too_large): (Vec<Subject>, Vec<String>) = Default::default();
    for text in texts.split(',') {
        let asked = AskedShape::parse(text).map_err(|error| format!("{text}: {error}"))?;
        let (name, dtypes, found) = (&asked.text, &asked.dtypes, among(&asked, &offered)?);
        if found.is_empty() {
            let names: Vec<String> = offered.iter().map(Shape::to_string).collect();
            return Err(format!(
                "{name}: expected a shape, such as 8x3x5x5, or a part of one of these: {}",
                names.join(", ")
            )
            .into());
        }
        for shape in found {
            let dtypes = if dtypes.is_empty() { vec![None] } else { dtypes.iter().copied().map(Some).collect() };
            for dtype in dtypes {
                if largest_tensor(&shape) * dtype.map_or(4, DType::size) > most {
                    let dtype = dtype.map_or("", DType::name);
                    too_large
                        .push(format!("{shape} {dtype}: expected at most {} MB on this adapter", most / 1_000_000));
                    continue;
                }
                let known = subjects.iter().position(|subject| subject.shape == shape && subject.takes(dtype));
                match (known, dtype) {
                    (None, _) => {
                        subjects.push(Subject { shape: shape.clone(), dtypes: dtype.into_iter().collect() });
                    }
                    (Some(at), Some(dtype)) if !subjects[at].dtypes.contains(&dtype) => subjects[at].dtypes.push(dtype),
                    _ => {}
                }
            }
        }
    }
    Ok((subjects, too_large))
}

/// The shape that is meant to the last dimension, else those that contain the text, else the one that it writes out. All with
/// the views that the text asks for, if any.
fn among(asked: &AskedShape, offered: &[Shape]) -> Result<Vec<Shape>, AnyError> {
    let dims = asked.dims().filter(|dims| dims.len() > 1);
    let of_layout = |shape: &&Shape| asked.layout.is_none_or(|layout| shape.layout() == layout);
    let exact = |shape: &&Shape| dims.as_deref() == Some(shape.dims()) && shape.views() == Views::default();
    if let Some(shape) = offered.iter().filter(of_layout).find(exact) {
        return Ok(vec![asked.shape(shape.dims(), shape.layout())?]);
    }
    let has_views = asked.views != Views::default();
    // Written out, it is the whole tensor, also where the list has some of its channels as a view.
    let is_view = |shape: &&Shape| dims.as_deref() == Some(shape.dims());
    if let Some(shape) = offered.iter().filter(of_layout).find(is_view) {
        return Ok(vec![asked.shape(shape.dims(), shape.layout())?]);
    }
    let contains = |shape: &&Shape| !has_views && shape.to_string().contains(&asked.text);
    let containing: Vec<Shape> = offered.iter().filter(of_layout).filter(contains).cloned().collect();
    match dims {
        Some(dims) if containing.is_empty() || asked.layout.is_some() => {
            Ok(vec![asked.shape(&dims, asked.layout.unwrap_or_default())?])
        }
        None if has_views => Err(format!("{}: expected a shape, such as 8x3x5x5, before views", asked.text).into()),
        _ => Ok(containing),
    }
}

/// Elements of the largest tensor that a layer of this shape has: of a view, those of the tensor that it is a part of.
fn largest_tensor(shape: &Shape) -> u64 {
    let Views { x, y, residual } = shape.views();
    let of = [x, y, residual].into_iter().flatten().map(|view| view.of).max();
    (shape.outer() * shape.inner() * of.unwrap_or(shape.channels())) as u64
}

/// Whether the shape is one of the small ones.
pub fn is_small(shape: &Shape) -> bool {
    SMALL.iter().any(|(dims, layout)| shape.dims() == *dims && shape.layout() == *layout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_named_or_written_out() {
        let offered = [
            Shape::new(&[32, 64, 32, 32], Layout::ChannelsFirst).unwrap(),
            Shape::new(&[8, 32, 64], Layout::ChannelsFirst).unwrap(),
            Shape::new(&[32, 28, 28, 64], Layout::ChannelsLast).unwrap(),
            AskedShape::parse("8x64x4:x=0/256").unwrap().shape(&[8, 64, 4], Layout::ChannelsFirst).unwrap(),
        ];
        let found = |text| -> Vec<String> {
            among(&AskedShape::parse(text).unwrap(), &offered).unwrap().iter().map(Shape::to_string).collect()
        };
        assert_eq!(found("32x64"), ["32x64x32x32 channels_first", "8x32x64 channels_first"]);
        assert_eq!(found("8x32x64"), ["8x32x64 channels_first"]);
        assert_eq!(found("32x28x28x64"), ["32x28x28x64 channels_last"]);
        assert_eq!(found("32x64:channels_first"), ["32x64 channels_first"]);
        assert_eq!(found("channels_last"), ["32x28x28x64 channels_last"]);
        assert_eq!(found("5x5x3:channels_last"), ["5x5x3 channels_last"]);
        assert_eq!(found("nothing"), [""; 0]);
        assert_eq!(found("x=0/256"), ["8x64x4 channels_first x=0/256"]);
        assert_eq!(found("8x64x4"), ["8x64x4 channels_first"]);
        assert_eq!(found("8x64x4:x=64/128:y=1/65"), ["8x64x4 channels_first x=64/128 y=1/65"]);
        assert_eq!(found("32x64x32x32:x=64/128"), ["32x64x32x32 channels_first x=64/128"]);
        for (text, said) in [("8x0", "at least one channel"), ("8x5:x=4/8", "within"), ("channels_last:x=0/8", "views")]
        {
            let refused = among(&AskedShape::parse(text).unwrap(), &offered);
            assert!(refused.as_ref().is_err_and(|error| error.to_string().contains(said)), "{text}: {refused:?}");
        }
        assert_eq!(offered.each_ref().map(largest_tensor)[2..], [32 * 28 * 28 * 64, 8 * 256 * 4]);
    }
}
