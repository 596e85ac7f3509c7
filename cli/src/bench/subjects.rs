//! What is timed: operations and shapes.

use crate::AnyError;
use batchnorm_wgpu::host::Gpu;
use batchnorm_wgpu::{DType, Layout, Operation, Shape, wgpu};

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
/// the list that contain the text. After colons may stand a layout and dtypes, such as `8x5x5x3:channels_last:f16`.
///
/// Besides, what is too large for the adapter, in words.
pub fn subjects(gpu: &Gpu, large: bool, texts: Option<&str>) -> Result<(Vec<Subject>, Vec<String>), AnyError> {
    let software = gpu.info.device_type == wgpu::DeviceType::Cpu;
    let buffer = gpu.device.limits().max_buffer_size;
    let most = if software { buffer.min(SOFTWARE_BYTES) } else { buffer };
    let shapes = |list: &[(&[usize], Layout)]| -> Result<Vec<Shape>, AnyError> {
        let shapes = list.iter().map(|(dims, layout)| Shape::new(dims, *layout)).collect::<Result<Vec<_>, _>>()?;
        Ok(shapes.into_iter().filter(|shape| shape.elements() as u64 * 4 <= most).collect())
    };
    let mut offered = shapes(&SMALL)?;
    if large {
        offered.extend(shapes(&LARGE)?);
    }
    let Some(texts) = texts else {
        return Ok((offered.into_iter().map(|shape| Subject { shape, dtypes: Vec::new() }).collect(), Vec::new()));
    };
    let (mut subjects, mut too_large): (Vec<Subject>, Vec<String>) = Default::default();
    for wanted in texts.split(',').map(AskedShape::parse) {
        let wanted = wanted?;
        let (name, dtypes, found) = (wanted.name, &wanted.dtypes, wanted.among(&offered)?);
        if found.is_empty() {
            let names: Vec<String> = offered.iter().map(Shape::to_string).collect();
            return Err(format!(
                "{name}: expected a shape, such as 8x3x5x5, or a part of one of these: {}",
                names.join(", ")
            )
            .into());
        }
        for shape in found {
            let asked = if dtypes.is_empty() { vec![None] } else { dtypes.iter().copied().map(Some).collect() };
            for dtype in asked {
                if shape.elements() as u64 * dtype.map_or(4, DType::size) > most {
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

/// What a text of `--shapes` asks for.
#[derive(Debug, PartialEq)]
struct AskedShape<'a> {
    name: &'a str,
    layout: Option<Layout>,
    dtypes: Vec<DType>,
}

impl<'a> AskedShape<'a> {
    fn parse(text: &'a str) -> Result<Self, AnyError> {
        let mut words = text.split(':');
        let name = words.next().unwrap_or_default();
        let mut wanted = Self { name, layout: None, dtypes: Vec::new() };
        for word in words {
            let dtype = DType::ALL.into_iter().find(|dtype| dtype.name() == word);
            let layout = [Layout::ChannelsFirst, Layout::ChannelsLast].into_iter().find(|it| it.to_string() == word);
            match (dtype, layout) {
                (Some(dtype), _) => wanted.dtypes.push(dtype),
                (None, Some(layout)) => wanted.layout = Some(layout),
                (None, None) => {
                    let expected = "channels_first, channels_last, f32, f16 or bf16 after a colon";
                    return Err(format!("{text}: expected {expected}, got {word:?}").into());
                }
            }
        }
        Ok(wanted)
    }

    /// The shape that is meant to the last dimension, else those that contain the text, else the one that it writes out.
    fn among(&self, offered: &[Shape]) -> Result<Vec<Shape>, AnyError> {
        let dims: Option<Vec<usize>> = self.name.split('x').map(|text| text.parse().ok()).collect();
        let dims = dims.filter(|dims| dims.len() > 1);
        let of_layout = |shape: &&Shape| self.layout.is_none_or(|layout| shape.layout() == layout);
        let exact = |shape: &&Shape| dims.as_deref().is_some_and(|dims| shape.dims() == dims);
        if let Some(shape) = offered.iter().filter(of_layout).find(exact) {
            return Ok(vec![shape.clone()]);
        }
        let contains = |shape: &&Shape| shape.to_string().contains(self.name);
        let containing: Vec<Shape> = offered.iter().filter(of_layout).filter(contains).cloned().collect();
        match dims {
            Some(dims) if containing.is_empty() || self.layout.is_some() => {
                Ok(vec![Shape::new(&dims, self.layout.unwrap_or_default())?])
            }
            _ => Ok(containing),
        }
    }
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
        ];
        let found = |text| -> Vec<String> {
            AskedShape::parse(text).unwrap().among(&offered).unwrap().iter().map(Shape::to_string).collect()
        };
        assert_eq!(found("32x64"), ["32x64x32x32 channels_first", "8x32x64 channels_first"]);
        assert_eq!(found("8x32x64"), ["8x32x64 channels_first"]);
        assert_eq!(found("32x28x28x64"), ["32x28x28x64 channels_last"]);
        assert_eq!(found("32x64:channels_first"), ["32x64 channels_first"]);
        assert_eq!(found("channels_last"), ["32x28x28x64 channels_last"]);
        assert_eq!(found("5x5x3:channels_last"), ["5x5x3 channels_last"]);
        assert_eq!(found("nothing"), [""; 0]);
        assert_eq!(AskedShape::parse("5x3:bf16:f16").unwrap().dtypes, [DType::Bf16, DType::F16]);
        assert!(AskedShape::parse("8x3:f64").is_err_and(|error| error.to_string().contains("got \"f64\"")));
        assert!(AskedShape::parse("8x0").unwrap().among(&offered).is_err());
    }
}
