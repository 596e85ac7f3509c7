//! What is timed: shapes, and operations bound to tensors.

use super::clock::Job;
use super::epilogue::{Bound, Epilogue, Function};
use crate::AnyError;
use batchnorm_wgpu::host::{Gpu, guarded, half, storage, upload};
use batchnorm_wgpu::{
    Backward, BatchNorm, DType, ForwardTraining, Inference, Layout, Operation, RunningStatistics, Shape, Step, wgpu,
};
use batchnorm_wgpu_check::data::normal;

/// Bytes of tensors that are gone through before one is used again, so that no cache holds it. Larger than the last-level
/// caches of today's desktop processors and GPUs.
const ROTATION: u64 = 256 << 20;
/// Most sets of tensors: small ones would need thousands, and where dispatch dominates the cache does not matter.
const MOST_SETS: u64 = 16;

/// How many sets of `tensors` tensors of `bytes` bytes are gone through in turn.
pub fn sets(tensors: u64, bytes: u64) -> u64 {
    (ROTATION / (tensors * bytes)).clamp(2, MOST_SETS)
}

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
    for wanted in texts.split(',').map(Wanted::parse) {
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
struct Wanted<'a> {
    name: &'a str,
    layout: Option<Layout>,
    dtypes: Vec<DType>,
}

impl<'a> Wanted<'a> {
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

/// Tensors for the operations on one shape, several sets of them.
pub struct Tensors {
    shape: Shape,
    dtype: DType,
    sets: Vec<Set>,
}

/// Some tensors may be the same buffer: see [`Tensors::new`].
struct Set {
    x: wgpu::Buffer,
    dy: wgpu::Buffer,
    y: wgpu::Buffer,
    dx: wgpu::Buffer,
    residual: wgpu::Buffer,
    dz: wgpu::Buffer,
    gamma: wgpu::Buffer,
    beta: wgpu::Buffer,
    dgamma: wgpu::Buffer,
    dbeta: wgpu::Buffer,
    running: wgpu::Buffer,
    saved: wgpu::Buffer,
}

/// What a step does with the tensors besides x, y, dy and dx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Nothing.
    Plain,
    /// It adds the residual, and backward gives its gradient too.
    WithResidual,
    /// Backward it takes the gradient that an epilogue let through for dy.
    BehindGate,
}

impl Tensors {
    /// As many sets as no cache holds, for plain steps: y and dx share a buffer, since no step has both.
    pub fn new(gpu: &Gpu, shape: &Shape, dtype: DType) -> Result<Self, AnyError> {
        Self::arranged(gpu, shape, dtype, [0, 1, 2, 2, 0, 1])
    }

    /// The same for steps with a residual and for separate passes: every tensor has a buffer.
    pub fn apart(gpu: &Gpu, shape: &Shape, dtype: DType) -> Result<Self, AnyError> {
        Self::arranged(gpu, shape, dtype, [0, 1, 2, 3, 4, 5])
    }

    /// The buffers of a set in which x, dy, y, dx, the residual and dz lie, numbered from 0.
    fn arranged(gpu: &Gpu, shape: &Shape, dtype: DType, places: [usize; 6]) -> Result<Self, AnyError> {
        let number = places.iter().max().map_or(0, |last| last + 1);
        let bytes = dtype.bytes(shape.elements()).next_multiple_of(16);
        let pattern = upload(&gpu.device, &gpu.queue, "pattern", &encode(&normal(PATTERN, 7), dtype))?;
        let set = || -> Result<Set, AnyError> {
            let channels = shape.channels();
            let plane = || storage(&gpu.device, "parameters", channels as u64 * 4);
            let ones = vec![1f32; channels];
            let running = RunningStatistics::new(channels).to_bytes()?;
            let buffer = |_| filled(gpu, &pattern, bytes);
            let buffers = (0..number).map(buffer).collect::<Result<Vec<_>, _>>()?;
            let [x, dy, y, dx, residual, dz] = places.map(|place| buffers[place].clone());
            Ok(Set {
                x,
                dy,
                y,
                dx,
                residual,
                dz,
                gamma: upload(&gpu.device, &gpu.queue, "gamma", bytemuck::cast_slice(&ones))?,
                beta: plane()?,
                dgamma: plane()?,
                dbeta: plane()?,
                running: upload(&gpu.device, &gpu.queue, "running", &running)?,
                saved: storage(&gpu.device, "saved", 24 * channels as u64)?,
            })
        };
        let sets = (0..sets(number as u64, bytes)).map(|_| set()).collect::<Result<_, _>>()?;
        Ok(Self { shape: shape.clone(), dtype, sets })
    }

    /// The operation as `layer` does it, bound to each set.
    pub fn steps(&self, gpu: &Gpu, layer: &BatchNorm, operation: Operation, how: Use) -> Result<Vec<Step>, AnyError> {
        let scratch = storage(&gpu.device, "scratch", layer.scratch_size())?;
        self.sets.iter().map(|set| step(set, &scratch, layer, operation, how)).collect()
    }

    /// An epilogue of `function`, bound to each set.
    pub fn epilogues<'a>(
        &self,
        gpu: &Gpu,
        epilogue: &'a Epilogue,
        function: Function,
    ) -> Result<Vec<Bound<'a>>, AnyError> {
        let bind = |set: &Set| match function {
            Function::Relu => epilogue.bind(gpu, &[&set.y]),
            Function::AddRelu => epilogue.bind(gpu, &[&set.y, &set.residual]),
            Function::Gate => epilogue.bind(gpu, &[&set.dz, &set.y, &set.dy]),
        };
        self.sets.iter().map(bind).collect()
    }

    /// The shape of the tensors.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// What they are stored in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
}

/// Values that tensors are made of, over and over: as far as time goes that is random.
const PATTERN: usize = 1 << 20;

/// A buffer of `bytes` bytes full of `pattern`. The device copies: a tensor of gigabytes would be long under way from here.
fn filled(gpu: &Gpu, pattern: &wgpu::Buffer, bytes: u64) -> Result<wgpu::Buffer, AnyError> {
    let tensor = storage(&gpu.device, "tensor", bytes)?;
    guarded(&gpu.device, "filling a tensor", || {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for begin in (0..bytes).step_by(pattern.size() as usize) {
            encoder.copy_buffer_to_buffer(pattern, 0, &tensor, begin, pattern.size().min(bytes - begin));
        }
        gpu.queue.submit([encoder.finish()])
    })?;
    Ok(tensor)
}

/// Values as a tensor's bytes, filled up to whole vectors of sixteen.
pub fn encode(values: &[f32], dtype: DType) -> Vec<u8> {
    fn bytes<T: bytemuck::Pod>(values: &[f32], convert: fn(f32) -> T) -> Vec<u8> {
        bytemuck::cast_slice(&values.iter().map(|&value| convert(value)).collect::<Vec<T>>()).to_vec()
    }
    let mut bytes = match dtype {
        DType::F32 => bytemuck::cast_slice(values).to_vec(),
        DType::F16 => bytes(values, half::f16::from_f32),
        DType::Bf16 => bytes(values, half::bf16::from_f32),
    };
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    bytes
}

/// The values of a tensor's bytes.
pub fn decode(bytes: &[u8], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::F32 => bytemuck::pod_collect_to_vec(bytes),
        DType::F16 => bytemuck::pod_collect_to_vec::<u8, half::f16>(bytes).into_iter().map(f32::from).collect(),
        DType::Bf16 => bytemuck::pod_collect_to_vec::<u8, half::bf16>(bytes).into_iter().map(f32::from).collect(),
    }
}

/// Steps as something to time.
pub fn job(steps: &[Step]) -> Job<'_> {
    Job { steps: steps.len(), encode: Box::new(|i, pass| steps[i].encode(pass)) }
}

fn step(
    set: &Set,
    scratch: &wgpu::Buffer,
    layer: &BatchNorm,
    operation: Operation,
    how: Use,
) -> Result<Step, AnyError> {
    let whole = wgpu::Buffer::as_entire_buffer_binding;
    let with_residual = how == Use::WithResidual;
    let residual = with_residual.then(|| whole(&set.residual));
    let (x, y, saved, scratch) = (whole(&set.x), whole(&set.y), whole(&set.saved), whole(scratch));
    let (gamma, beta, running) = (Some(whole(&set.gamma)), Some(whole(&set.beta)), whole(&set.running));
    // Steps of one operation are timed alone: what the forward pass left is uploaded.
    let forward =
        if operation == Operation::BackwardFrozen { Operation::Inference } else { Operation::ForwardTraining };
    let left = layer.saved_from(forward, x.clone(), residual.clone(), saved.clone())?;
    let backward = Backward {
        saved: &left,
        dy: whole(if how == Use::BehindGate { &set.dz } else { &set.dy }),
        dx: Some(whole(&set.dx)),
        dresidual: with_residual.then(|| whole(&set.dz)),
        dgamma: Some(whole(&set.dgamma)),
        dbeta: Some(whole(&set.dbeta)),
        scratch: scratch.clone(),
    };
    Ok(match operation {
        Operation::ForwardTraining => {
            let running = Some(running);
            layer.forward_training(&ForwardTraining { x, y, residual, gamma, beta, saved, running, scratch })?
        }
        Operation::Inference => layer.inference(&Inference { x, y, residual, gamma, beta, running, saved: None })?,
        Operation::BackwardTraining => layer.backward_training(&backward)?,
        Operation::BackwardFrozen => layer.backward_frozen(&backward)?,
        Operation::Statistics => {
            let (saved, running) = (Some(saved), Some(running));
            layer.statistics(&batchnorm_wgpu::Statistics { x, saved, running, scratch })?
        }
    })
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
            Wanted::parse(text).unwrap().among(&offered).unwrap().iter().map(Shape::to_string).collect()
        };
        assert_eq!(found("32x64"), ["32x64x32x32 channels_first", "8x32x64 channels_first"]);
        assert_eq!(found("8x32x64"), ["8x32x64 channels_first"]);
        assert_eq!(found("32x28x28x64"), ["32x28x28x64 channels_last"]);
        assert_eq!(found("32x64:channels_first"), ["32x64 channels_first"]);
        assert_eq!(found("channels_last"), ["32x28x28x64 channels_last"]);
        assert_eq!(found("5x5x3:channels_last"), ["5x5x3 channels_last"]);
        assert_eq!(found("nothing"), [""; 0]);
        assert_eq!(Wanted::parse("5x3:bf16:f16").unwrap().dtypes, [DType::Bf16, DType::F16]);
        assert!(Wanted::parse("8x3:f64").is_err_and(|error| error.to_string().contains("got \"f64\"")));
        assert!(Wanted::parse("8x0").unwrap().among(&offered).is_err());
    }
}
