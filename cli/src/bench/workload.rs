//! What is timed: shapes, and operations bound to tensors.

use super::clock::Job;
use super::epilogue::{Bound, Epilogue, Function};
use crate::AnyError;
use batchnorm_wgpu::host::{Gpu, half, storage, upload};
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

/// ResNet-50's, and what peers are slow at.
const LARGE: [(&[usize], Layout); 13] = [
    (&[64, 64, 112, 112], Layout::ChannelsFirst),
    (&[64, 256, 56, 56], Layout::ChannelsFirst),
    (&[64, 128, 56, 56], Layout::ChannelsFirst),
    (&[64, 512, 28, 28], Layout::ChannelsFirst),
    (&[64, 256, 28, 28], Layout::ChannelsFirst),
    (&[64, 1024, 14, 14], Layout::ChannelsFirst),
    (&[32, 2048, 7, 7], Layout::ChannelsFirst),
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

/// The shapes for an adapter: the large ones only where `large`, and only those that one binding holds. With `texts`, those
/// that contain one of these, separated by commas.
pub fn shapes(gpu: &Gpu, large: bool, texts: Option<&str>) -> Result<Vec<Shape>, AnyError> {
    let software = gpu.info.device_type == wgpu::DeviceType::Cpu;
    let large = if large { &LARGE[..] } else { &[] };
    let binding = gpu.device.limits().max_storage_buffer_binding_size;
    let most = if software { binding.min(SOFTWARE_BYTES) } else { binding };
    let all = SMALL.iter().chain(large).map(|(dims, layout)| Shape::new(dims, *layout));
    let mut shapes = all.collect::<Result<Vec<_>, _>>()?;
    shapes.retain(|shape| shape.elements() as u64 * 4 <= most);
    let Some(texts) = texts else { return Ok(shapes) };
    let names: Vec<String> = shapes.iter().map(Shape::to_string).collect();
    if let Some(unknown) = texts.split(',').find(|text| !names.iter().any(|name| name.contains(text))) {
        return Err(format!("no shape contains {unknown:?}; there are: {}", names.join(", ")).into());
    }
    shapes.retain(|shape| texts.split(',').any(|text| shape.to_string().contains(text)));
    Ok(shapes)
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
        // A million values over and over: as far as time goes that is random.
        let pattern = normal(1 << 20, 7);
        let values: Vec<f32> = pattern.iter().copied().cycle().take(shape.elements()).collect();
        let bytes = encode(&values, dtype);
        let set = || -> Result<Set, AnyError> {
            let channels = shape.channels();
            let plane = || storage(&gpu.device, "parameters", channels as u64 * 4);
            let ones = vec![1f32; channels];
            let running = RunningStatistics::new(channels).to_bytes()?;
            let buffer = |_| upload(&gpu.device, &gpu.queue, "tensor", &bytes);
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
        let sets = (0..sets(number as u64, bytes.len() as u64)).map(|_| set()).collect::<Result<_, _>>()?;
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
