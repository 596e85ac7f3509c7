//! The elementwise kernels of a network that does not fuse: what follows a batch norm, as a pass of its own.

use super::copy::{CopyKernel, constants};
use super::elements::{decode, encode};
use crate::AnyError;
use batchnorm_wgpu::host::{Gpu, download, storage, upload};
use batchnorm_wgpu::reference::bound::compare;
use batchnorm_wgpu::{DType, wgpu};
use batchnorm_wgpu_check::compute::{BindingUse, BoundKernel, CompiledKernel};
use batchnorm_wgpu_check::data::normal;

/// What an epilogue computes of its tensors, the first of which it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// z = relu(z).
    Relu,
    /// z = relu(z + residual).
    AddRelu,
    /// z = dy where y > 0, of y and dy.
    Gate,
}

macro_rules! shader {
    ($name:literal) => {
        include_str!(concat!("../../shaders/", $name, ".wgsl"))
    };
}

impl Function {
    const ALL: [Self; 3] = [Self::Relu, Self::AddRelu, Self::Gate];

    fn text(self) -> &'static str {
        match self {
            Self::Relu => shader!("epilogue_relu"),
            Self::AddRelu => shader!("epilogue_add_relu"),
            Self::Gate => shader!("epilogue_gate"),
        }
    }

    /// Name, the end of the stem of its file.
    fn name(self) -> &'static str {
        match self {
            Self::Relu => "relu",
            Self::AddRelu => "add_relu",
            Self::Gate => "gate",
        }
    }

    /// Tensors that it reads and writes, in all.
    pub fn moves(self) -> u32 {
        match self {
            Self::Relu => 2,
            Self::AddRelu | Self::Gate => 3,
        }
    }

    /// How it uses its tensors.
    fn accesses(self) -> &'static [BindingUse] {
        match self {
            Self::Relu => &[BindingUse::Write],
            Self::AddRelu => &[BindingUse::Write, BindingUse::Read],
            Self::Gate => &[BindingUse::Write, BindingUse::Read, BindingUse::Read],
        }
    }

    /// What it makes of an element, given what is bound in order.
    fn of(self, [z, second, third]: [f32; 3]) -> f32 {
        match self {
            Self::Relu => z.max(0.0),
            Self::AddRelu => (z + second).max(0.0),
            Self::Gate if second > 0.0 => third,
            Self::Gate => 0.0,
        }
    }
}

/// The parts that know a dtype.
fn parts(dtype: DType) -> &'static [&'static str] {
    match dtype {
        DType::F32 => &[shader!("epilogue_f32")],
        DType::F16 => &[shader!("epilogue_words"), shader!("epilogue_f16")],
        DType::Bf16 => &[shader!("epilogue_words"), shader!("epilogue_bf16")],
    }
}

/// The whole shader.
fn text(dtype: DType, function: Function) -> String {
    [&[shader!("epilogue"), function.text()], parts(dtype)].concat().concat()
}

/// Names and texts of all.
pub fn texts() -> impl Iterator<Item = (String, String)> {
    let all = DType::ALL.into_iter().flat_map(|dtype| Function::ALL.map(|function| (dtype, function)));
    all.map(|(dtype, function)| (format!("epilogue.{}.{dtype}", function.name()), text(dtype, function)))
}

/// An elementwise kernel, laid out as the fastest copy kernel is.
pub struct Epilogue {
    function: Function,
    dtype: DType,
    pipeline: CompiledKernel,
    workgroup_size: u32,
    workgroups: u32,
}

/// The epilogues of all dtypes of a run.
pub struct Epilogues(Vec<Epilogue>);

impl Epilogues {
    /// Compiles and verifies them.
    pub fn new(gpu: &Gpu, copy: &CopyKernel, dtypes: &[DType]) -> Result<Self, AnyError> {
        let all = dtypes.iter().flat_map(|&dtype| Function::ALL.map(|function| (dtype, function)));
        Ok(Self(all.map(|(dtype, function)| Epilogue::new(gpu, copy, dtype, function)).collect::<Result<_, _>>()?))
    }

    /// One of them.
    pub fn get(&self, dtype: DType, function: Function) -> Result<&Epilogue, AnyError> {
        let found = self.0.iter().find(|one| (one.dtype, one.function) == (dtype, function));
        found.ok_or_else(|| format!("no epilogue {function:?} of {dtype} was made").into())
    }
}

impl Epilogue {
    fn new(gpu: &Gpu, copy: &CopyKernel, dtype: DType, function: Function) -> Result<Self, AnyError> {
        let (workgroup_size, workgroups, segments) = copy.layout();
        let (wgsl, constants) = (text(dtype, function), constants(workgroup_size, segments));
        let pipeline = CompiledKernel::new(&gpu.device, "epilogue", &wgsl, function.accesses(), &constants)?;
        let epilogue = Self { function, dtype, pipeline, workgroup_size, workgroups };
        epilogue.verify(gpu)?;
        Ok(epilogue)
    }

    /// Binds tensors of whole vectors.
    pub fn bind(&self, tensors: &[&wgpu::Buffer]) -> Result<BoundKernel, AnyError> {
        self.bind_to(tensors, self.workgroups)
    }

    /// Binds tensors of whole vectors, for at most so many workgroups.
    fn bind_to(&self, tensors: &[&wgpu::Buffer], most: u32) -> Result<BoundKernel, AnyError> {
        let vectors = tensors.iter().map(|tensor| tensor.size() / 16).min().unwrap_or(0);
        let useful = vectors.div_ceil(self.workgroup_size.into()).max(1);
        let buffers: Vec<_> = tensors.iter().map(|tensor| tensor.as_entire_buffer_binding()).collect();
        Ok(self.pipeline.bind(&buffers, useful.min(most.into()) as u32)?)
    }

    /// Holds its results against the host's, a last place aside: WGSL leaves the rounding of an f16 open.
    fn verify(&self, gpu: &Gpu) -> Result<(), AnyError> {
        // Few workgroups, so that lanes go through full rounds and a tail.
        const WORKGROUPS: u32 = 16;
        let vectors = 5 * WORKGROUPS * self.workgroup_size + 3;
        let count = vectors as usize * 16 / self.dtype.size() as usize;
        let host: Vec<Vec<f32>> = (1..=3).map(|seed| self.operand(count, seed)).collect();
        let upload = |values: &Vec<f32>| upload(&gpu.device, &gpu.queue, "operand", &encode(values, self.dtype));
        let given = host.iter().map(upload).collect::<Result<Vec<_>, _>>()?;
        let out = storage(&gpu.device, "dz", given[0].size())?;
        let tensors = match self.function {
            Function::Relu => vec![&given[0]],
            Function::AddRelu => vec![&given[0], &given[1]],
            Function::Gate => vec![&out, &given[1], &given[2]],
        };
        self.bind_to(&tensors, self.workgroups.min(WORKGROUPS))?.run(&gpu.queue)?;
        let bytes = download(&gpu.device, &gpu.queue, &tensors[..1])?.concat();
        hold(self.function, self.dtype, &host, &decode(&bytes, self.dtype))
    }

    /// Values of the dtype; those that take the place of y as a relu leaves them.
    fn operand(&self, count: usize, seed: u64) -> Vec<f32> {
        let least = if self.function == Function::Gate && seed == 2 { 0.0 } else { f32::MIN };
        let values: Vec<f32> = normal(count, seed).into_iter().map(|value| value.max(least)).collect();
        decode(&encode(&values, self.dtype), self.dtype)
    }
}

/// Holds what came of the operands `host` against what should have.
fn hold(function: Function, dtype: DType, host: &[Vec<f32>], got: &[f32]) -> Result<(), AnyError> {
    let last_place = match dtype {
        DType::F32 => f64::from(f32::EPSILON),
        DType::F16 => 1.0 / 1024.0,
        DType::Bf16 => 1.0 / 128.0,
    };
    let wanted = (0..got.len()).map(|i| function.of([host[0][i], host[1][i], host[2][i]]).into());
    let want: Vec<f64> = wanted.collect();
    let tolerance: Vec<f64> = want.iter().map(|want| last_place * want.abs()).collect();
    let outcome = compare(got, &want, &tolerance)?;
    match outcome.passed() {
        true => Ok(()),
        false => Err(format!("the epilogue {function:?} of {dtype} is wrong: {outcome}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_results_are_refused() {
        let host = [vec![1.0, -2.0, 3.0], vec![1.0; 3], vec![1.0; 3]];
        let hold = |got: [f32; 3]| hold(Function::Relu, DType::F16, &host, &got);
        assert!(hold([1.0, 0.0, 3.0]).is_ok() && hold([1.0, 0.0, 3.0 + 3.0 / 1024.0]).is_ok());
        for got in [[1.0, -2.0, 3.0], [1.0, 0.0, 3.01], [f32::NAN, 0.0, 3.0], [1.0, 0.0, f32::INFINITY]] {
            assert!(hold(got).is_err_and(|error| error.to_string().contains("of f16 is wrong")), "{got:?}");
        }
    }
}
