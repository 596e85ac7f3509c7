//! The kernels' algorithm in f32 on the CPU, one channel at a time, with the roughest arithmetic that WGSL allows and
//! with faults on demand. It exists to hold the bound against, and shares nothing with it.

use super::DType;
use crate::config::Activation;

/// A mistake to plant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The last element is not read.
    DroppedTail,
    /// The first values that the last lane of the first split takes are not read.
    DroppedChunk,
    /// The last split is not read.
    DroppedSplit,
    /// m - 1 divides where m should.
    Unbiased,
    /// var = E[x^2] - E[x]^2, in one pass over x as it is.
    RawMoments,
    /// inv_std = 1/sqrt(var).
    NoEps,
    /// The mean is kept as one f32.
    SingleMean,
    /// The mask of ReLU lets z = 0 through.
    MaskWithEquality,
    /// The mask of ReLU is that of bn(x) alone.
    MaskWithoutResidual,
    /// ReLU turns a NaN into 0, and its mask does too.
    NanToZero,
    /// The slope of leaky ReLU is not applied to the gradient.
    SlopeForgotten,
    /// ReLU6 is ReLU.
    SixForgotten,
    /// The derivative of SiLU is that of a sigmoid's gate: z does not change it.
    GateAlone,
    /// SiLU's exponential is that of -z, which overflows.
    ExponentialOfMinusZ,
    /// y recovers the centred value without the subtraction of beta.
    RecoveredWithBeta,
    /// Storage drops bits instead of rounding.
    Truncated,
    /// Storage saturates instead of overflowing to infinity.
    Saturated,
}

/// Values that a lane sums before it merges them with those before.
const BLOCK: usize = 128;

/// What a lane takes of a block, run by run.
type Block = Vec<Vec<usize>>;

/// Runs of four, then single values.
fn runs_of(block: &[usize]) -> Block {
    let (fours, rest) = block.split_at(block.len() / 4 * 4);
    fours.chunks(4).chain(rest.chunks(1)).map(<[usize]>::to_vec).collect()
}

/// What a device makes of divisions, inverse square roots and exponentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// The nearest f32.
    Nearest,
    /// As far off as WGSL allows, in a direction that depends on the bits.
    Rough,
    /// The same, always towards zero.
    Low,
    /// The same, always away from zero.
    High,
}

/// How a channel is spread over invocations, and how they compute.
#[derive(Clone, Copy, Debug)]
pub struct Gpu {
    pub lanes: usize,
    pub splits: usize,
    pub rounding: Rounding,
    pub fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    n: f32,
    mean: f32,
    m2: f32,
}

/// One channel's inputs, rounded to `dtype`, and what to do with them.
#[derive(Clone, Debug, Default)]
pub struct Task {
    pub x: Vec<f32>,
    pub dy: Vec<f32>,
    pub residual: Option<Vec<f32>>,
    /// gamma, beta, eps.
    pub parameters: [f32; 3],
    pub activation: Activation,
    pub negative_slope: f32,
    /// Mean and variance, where they are frozen.
    pub running: Option<[f32; 2]>,
    pub dtype: DType,
    /// The backward pass works from the stored y.
    pub in_place: bool,
    /// Values that the shift is taken from.
    pub first_part: Option<usize>,
}

/// Everything that one channel's forward and backward give.
#[derive(Clone, Debug)]
pub struct Output {
    pub mean: f32,
    pub var: f32,
    pub y: Vec<f32>,
    pub dx: Vec<f32>,
    pub dgamma: f32,
    pub dbeta: f32,
    pub dresidual: Vec<f32>,
}

#[derive(Clone, Copy, Debug)]
pub struct Statistics {
    pub shift: f32,
    pub remainder: f32,
    pub var: f32,
}

impl Gpu {
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// A value up to 2 ulp away, in a direction that depends on its bits.
    fn blur(&self, exact: f32) -> f32 {
        self.blur_by(exact, 2)
    }

    /// A value up to so many ulp away.
    fn blur_by(&self, exact: f32, ulps: u32) -> f32 {
        if exact == 0.0 || !exact.is_finite() {
            return exact;
        }
        let offset = match self.rounding {
            Rounding::Nearest => return exact,
            Rounding::Rough => (exact.to_bits().wrapping_mul(0x9e37_79b9) >> 16) % (2 * ulps + 1),
            Rounding::Low => 0,
            Rounding::High => 2 * ulps,
        };
        f32::from_bits((exact.to_bits() + offset).saturating_sub(ulps))
    }

    /// exp(z) of a z that is not positive, 3 + 2|z| ulp away. What is subnormal is flushed.
    fn exp(&self, z: f32) -> f32 {
        let exact = self.blur_by(f64::from(z).exp() as f32, (3.0 + 2.0 * z.abs()) as u32);
        if self.rounding != Rounding::Nearest && exact < f32::MIN_POSITIVE { 0.0 } else { exact }
    }

    fn divide(&self, a: f32, b: f32) -> f32 {
        self.blur(a / b)
    }

    /// The runs of each block of each lane of each split: four values a lane count apart, then single ones.
    fn work(&self, m: usize) -> Vec<Vec<Vec<Block>>> {
        let segment = m.div_ceil(self.splits);
        let end = if self.has(Fault::DroppedTail) { m - 1 } else { m };
        let lane = |split: usize, lane: usize| {
            let own = (split * segment + lane..end.min((split + 1) * segment)).step_by(self.lanes);
            let own: Vec<_> = own.collect();
            let mut blocks: Vec<Block> = own.chunks(BLOCK).map(runs_of).collect();
            if self.has(Fault::DroppedChunk) && split == 0 && lane + 1 == self.lanes.min(segment) {
                blocks[0].remove(0);
            }
            blocks
        };
        let splits = if self.has(Fault::DroppedSplit) { self.splits - 1 } else { self.splits };
        (0..splits).map(|split| (0..self.lanes).map(|index| lane(split, index)).collect()).collect()
    }

    /// Values that the busiest lane takes.
    pub fn longest_run(&self, m: usize) -> usize {
        m.div_ceil(self.splits).div_ceil(self.lanes)
    }

    fn run_of(d: &[f32]) -> Moments {
        match *d {
            [a, b, c, d] => {
                let mean = 0.25 * ((a + b) + (c + d));
                let [a, b, c, d] = [a - mean, b - mean, c - mean, d - mean];
                Moments { n: 4.0, mean, m2: (a * a + b * b) + (c * c + d * d) }
            }
            _ => Moments { n: 1.0, mean: d[0], m2: 0.0 },
        }
    }

    fn merge(&self, a: Moments, b: Moments) -> Moments {
        let n = a.n + b.n;
        if n == 0.0 {
            return a;
        }
        let (delta, ratio) = (b.mean - a.mean, self.divide(b.n, n));
        Moments { n, mean: a.mean + delta * ratio, m2: a.m2 + (b.m2 + delta * delta * (a.n * ratio)) }
    }

    fn combine(&self, parts: &[Moments]) -> Moments {
        let n = tree(parts, |part| part.n);
        if n == 0.0 {
            return Moments::default();
        }
        let mean = self.divide(tree(parts, |part| part.n * part.mean), n);
        let m2 = tree(parts, |part| if part.n == 0.0 { 0.0 } else { part.m2 + part.n * (part.mean - mean).powi(2) });
        Moments { n, mean, m2 }
    }

    pub fn statistics(&self, x: &[f32], first_part: Option<usize>) -> Statistics {
        let m = x.len();
        let n = first_part.unwrap_or(m);
        let mut sample = [x[0], x[n / 2], x[n - 1]];
        sample.sort_by(f32::total_cmp);
        let shift = if self.has(Fault::RawMoments) { 0.0 } else { sample[1] };
        let block = |runs: &Block| {
            runs.iter().fold(Moments::default(), |block, run| {
                let d: Vec<_> = run.iter().map(|&i| x[i] - shift).collect();
                self.merge(block, Self::run_of(&d))
            })
        };
        let lane = |blocks: &Vec<Block>| blocks.iter().map(block).fold(Moments::default(), |a, b| self.merge(a, b));
        let workgroup = |lanes: &Vec<_>| self.combine(&lanes.iter().map(lane).collect::<Vec<_>>());
        let total = self.combine(&self.work(m).iter().map(workgroup).collect::<Vec<_>>());
        let divisor = if self.has(Fault::Unbiased) { m - 1 } else { m } as f32;
        let var = if self.has(Fault::RawMoments) {
            let squares: Vec<_> = x.iter().map(|x| x * x).collect();
            (tree(&squares, |square| *square) / m as f32 - total.mean * total.mean).max(0.0)
        } else {
            self.divide(total.m2, divisor)
        };
        if self.has(Fault::SingleMean) {
            return Statistics { shift: shift + total.mean, remainder: 0.0, var };
        }
        Statistics { shift, remainder: total.mean, var }
    }

    /// Sums of dy and dy * xc.
    fn sums(&self, dy: &[f32], centered: &[f32]) -> (f32, f32) {
        let sum = |terms: &[f32]| {
            let run = |run: &Vec<usize>| match run[..] {
                [a, b, c, d] => (terms[a] + terms[b]) + (terms[c] + terms[d]),
                _ => terms[run[0]],
            };
            let block = |runs: &Block| runs.iter().fold(0.0, |block, one| block + run(one));
            let lane = |blocks: &Vec<Block>| blocks.iter().fold(0.0, |lane, one| lane + block(one));
            let workgroup = |lanes: &Vec<_>| tree(&lanes.iter().map(lane).collect::<Vec<_>>(), |lane| *lane);
            tree(&self.work(terms.len()).iter().map(workgroup).collect::<Vec<_>>(), |part| *part)
        };
        let products: Vec<_> = dy.iter().zip(centered).map(|(dy, c)| dy * c).collect();
        (sum(dy), sum(&products))
    }

    /// The number of the task's dtype that memory holds after an f32 is stored.
    fn store(&self, dtype: DType, value: f32) -> f32 {
        if value.is_nan() {
            return value;
        }
        let dropped = match dtype {
            DType::F32 => return value,
            DType::F16 => 13,
            DType::Bf16 => 16,
        };
        let bits = value.to_bits();
        let half = (1 << (dropped - 1)) - 1 + ((bits >> dropped) & 1);
        let rounded = if self.has(Fault::Truncated) { bits } else { bits + half } >> dropped << dropped;
        let limit = if dtype == DType::F16 { 65536.0 } else { f32::INFINITY };
        let largest = if dtype == DType::F16 { 65504.0 } else { f32::from_bits(0x7f7f_0000) };
        match f32::from_bits(rounded) {
            // Here the spacing of numbers is 2^-24, as that of f32 above 1/2.
            _ if dtype == DType::F16 && value.abs() < 6.103_515_6e-5 => ((value.abs() + 0.5) - 0.5).copysign(value),
            stored if stored.abs() < limit => stored,
            stored if self.has(Fault::Saturated) => largest.copysign(stored),
            stored => f32::INFINITY.copysign(stored),
        }
    }

    pub fn activated(&self, task: &Task, z: f32) -> f32 {
        let six = task.activation == Activation::Relu6 && !self.has(Fault::SixForgotten);
        match task.activation {
            Activation::None => z,
            Activation::Relu | Activation::Relu6 if self.has(Fault::NanToZero) => z.max(0.0),
            Activation::Relu | Activation::Relu6 if z <= 0.0 => 0.0,
            Activation::Relu | Activation::Relu6 if six && z >= 6.0 => 6.0,
            Activation::Relu | Activation::Relu6 => z,
            Activation::LeakyRelu if z > 0.0 => z,
            Activation::LeakyRelu => z * task.negative_slope,
            Activation::Silu if self.has(Fault::ExponentialOfMinusZ) => z / (1.0 + (-z).exp()),
            Activation::Silu => {
                let near = if z > 0.0 { z } else { limited(z) };
                near * self.sigmoids(z)[0]
            }
        }
    }

    pub fn through_activation(&self, task: &Task, z: f32, dy: f32) -> f32 {
        let through = if self.has(Fault::MaskWithEquality) { z >= 0.0 } else { z > 0.0 };
        let six = task.activation == Activation::Relu6 && !self.has(Fault::SixForgotten) && z >= 6.0;
        let masked = if !six && (through || (z.is_nan() && !self.has(Fault::NanToZero))) { dy } else { 0.0 };
        match task.activation {
            Activation::None => dy,
            Activation::Relu | Activation::Relu6 => masked,
            Activation::LeakyRelu if z > 0.0 || self.has(Fault::SlopeForgotten) => dy,
            Activation::LeakyRelu => dy * task.negative_slope,
            Activation::Silu => {
                let [of_z, of_minus_z] = self.sigmoids(z);
                let change = if self.has(Fault::GateAlone) { 1.0 } else { 1.0 + limited(z) * of_minus_z };
                dy * (of_z * change)
            }
        }
    }

    /// sigmoid(z) and sigmoid(-z).
    fn sigmoids(&self, z: f32) -> [f32; 2] {
        let e = self.exp(-limited(z).abs());
        let [more, less] = [1.0, e].map(|part| self.divide(part, 1.0 + e));
        if z > 0.0 { [more, less] } else { [less, more] }
    }

    /// What the backward pass takes for the centred values when y lies over x.
    fn recovered(&self, y: &[f32], scale: f32, beta: f32) -> Vec<f32> {
        let stretch = self.divide(1.0, scale);
        let beta = if self.has(Fault::RecoveredWithBeta) { 0.0 } else { beta };
        y.iter().map(|y| (y - beta) * stretch).collect()
    }

    /// Forward and backward of one channel.
    pub fn run(&self, task: &Task) -> Output {
        let [gamma, beta, eps] = task.parameters;
        let statistics = match task.running {
            Some([mean, var]) => Statistics { shift: mean, remainder: 0.0, var },
            None => self.statistics(&task.x, task.first_part),
        };
        let eps = if self.has(Fault::NoEps) { 0.0 } else { eps };
        let inv_std = self.blur(1.0 / (statistics.var + eps).sqrt());
        let scale = gamma * inv_std;
        let centered: Vec<_> = task.x.iter().map(|x| (x - statistics.shift) - statistics.remainder).collect();
        let residual = |i: usize| task.residual.as_ref().map_or(0.0, |residual| residual[i]);
        let z: Vec<_> = centered.iter().enumerate().map(|(i, c)| (c * scale + beta) + residual(i)).collect();
        let output = |&z: &f32| self.store(task.dtype, self.activated(task, z));
        let y: Vec<_> = z.iter().map(output).collect();
        let masked = |(i, &dy): (usize, &f32)| {
            let z = if self.has(Fault::MaskWithoutResidual) { centered[i] * scale + beta } else { z[i] };
            self.through_activation(task, z, dy)
        };
        let dz: Vec<_> = task.dy.iter().enumerate().map(masked).collect();
        let centered = if task.in_place { self.recovered(&y, scale, beta) } else { centered };
        let (s1, s2) = self.sums(&dz, &centered);
        let m = task.x.len() as f32;
        let (a, b) = (self.divide(s1, m), self.divide(inv_std * inv_std * s2, m));
        let dx = |(dz, c): (&f32, &f32)| {
            let dx = if task.running.is_some() { dz * scale } else { scale * (dz - a - c * b) };
            self.store(task.dtype, dx)
        };
        Output {
            mean: statistics.shift + statistics.remainder,
            var: statistics.var,
            dx: dz.iter().zip(&centered).map(dx).collect(),
            y,
            dgamma: inv_std * s2,
            dbeta: s1,
            dresidual: dz.iter().map(|&dz| self.store(task.dtype, dz)).collect(),
        }
    }
}

/// z, but no further than 104 from 0. A NaN stays a NaN.
fn limited(z: f32) -> f32 {
    z.clamp(-104.0, 104.0)
}

/// Sum in a binary tree.
fn tree<T>(parts: &[T], value: impl Fn(&T) -> f32 + Copy) -> f32 {
    match parts {
        [] => 0.0,
        [part] => value(part),
        _ => {
            let (left, right) = parts.split_at(parts.len() / 2);
            tree(left, value) + tree(right, value)
        }
    }
}
