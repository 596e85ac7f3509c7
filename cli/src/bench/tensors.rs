//! Tensors, and operations bound to them.

use super::elements::encode;
use super::epilogue::{Epilogue, Function};
use crate::AnyError;
use batchnorm_wgpu::host::measure::{Job, sets};
use batchnorm_wgpu::host::{Gpu, guarded, storage, upload};
use batchnorm_wgpu::{
    Backward, BatchNorm, DType, ForwardTraining, Inference, Operation, RunningStatistics, Shape, Step, View, Views,
    wgpu,
};
use batchnorm_wgpu_check::compute::BoundKernel;
use batchnorm_wgpu_check::data::normal;

/// Tensors for the operations on one shape, several sets of them.
pub struct TensorSets {
    shape: Shape,
    dtype: DType,
    sets: Vec<Set>,
}

/// Some tensors may be the same buffer: see [`TensorSets::new`].
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

impl TensorSets {
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
        let Views { x, y, residual } = shape.views();
        let of_view = |view: Option<View>| {
            let channels = view.map_or(shape.channels(), |view| view.of);
            dtype.bytes(shape.outer() * channels * shape.inner()).next_multiple_of(16)
        };
        // x, dy, y, dx, the residual and dz, which is the residual's gradient.
        let tensors = [x, y, y, x, residual, residual].map(of_view);
        let size =
            |number| places.iter().zip(tensors).filter(|(place, _)| **place == number).map(|(_, bytes)| bytes).max();
        let sizes: Vec<u64> = (0..number).filter_map(size).collect();
        let bytes = sizes.iter().copied().max().unwrap_or_default();
        let pattern = upload(&gpu.device, &gpu.queue, "pattern", &encode(&normal(PATTERN, 7), dtype))?;
        let set = || -> Result<Set, AnyError> {
            let channels = shape.channels();
            let plane = || storage(&gpu.device, "parameters", channels as u64 * 4);
            let ones = vec![1f32; channels];
            let running = RunningStatistics::new(channels).to_bytes()?;
            let buffers = sizes.iter().map(|&bytes| filled(gpu, &pattern, bytes)).collect::<Result<Vec<_>, _>>()?;
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
    pub fn epilogues(&self, epilogue: &Epilogue, function: Function) -> Result<Vec<BoundKernel>, AnyError> {
        let bind = |set: &Set| match function {
            Function::Relu => epilogue.bind(&[&set.y]),
            Function::AddRelu => epilogue.bind(&[&set.y, &set.residual]),
            Function::Gate => epilogue.bind(&[&set.dz, &set.y, &set.dy]),
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
    let backward = Backward::new(&left, whole(if how == Use::BehindGate { &set.dz } else { &set.dy }), scratch.clone())
        .dx(whole(&set.dx))
        .dresidual(with_residual.then(|| whole(&set.dz)))
        .dgamma(whole(&set.dgamma))
        .dbeta(whole(&set.dbeta));
    Ok(match operation {
        Operation::ForwardTraining => {
            let running = Some(running);
            layer.forward_training(
                &ForwardTraining::new(x, y, saved, scratch).residual(residual).gamma(gamma).beta(beta).running(running),
            )?
        }
        Operation::Inference => {
            layer.inference(&Inference::new(x, y, running).residual(residual).gamma(gamma).beta(beta))?
        }
        Operation::BackwardTraining => layer.backward_training(&backward)?,
        Operation::BackwardFrozen => layer.backward_frozen(&backward)?,
        Operation::Statistics => {
            let (saved, running) = (Some(saved), Some(running));
            layer.statistics(&batchnorm_wgpu::Statistics::new(x, scratch).saved(saved).running(running))?
        }
    })
}
