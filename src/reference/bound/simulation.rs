//! The kernels' algorithm in f32 on the CPU, one channel at a time, with the roughest arithmetic that WGSL allows and
//! with faults on demand. It exists to hold the bound against, and shares nothing with it.

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

/// How a channel is spread over invocations, and how they compute.
#[derive(Clone, Copy, Debug)]
pub struct Gpu {
    pub lanes: usize,
    pub splits: usize,
    /// Division off by up to 2 ulp and inverseSqrt too, instead of correctly rounded.
    pub rough: bool,
    pub fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    n: f32,
    mean: f32,
    m2: f32,
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
}

#[derive(Clone, Copy, Debug)]
struct Statistics {
    shift: f32,
    remainder: f32,
    var: f32,
}

impl Gpu {
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// A value up to 2 ulp away, in a direction that depends on its bits.
    fn blur(&self, exact: f32) -> f32 {
        if !self.rough || exact == 0.0 || !exact.is_finite() {
            return exact;
        }
        let offset = exact.to_bits().wrapping_mul(0x9e37_79b9) >> 16;
        f32::from_bits(exact.to_bits() + offset % 5 - 2)
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

    fn statistics(&self, x: &[f32]) -> Statistics {
        let m = x.len();
        let mut sample = [x[0], x[m / 2], x[m - 1]];
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

    /// Forward and backward of one channel; `running` freezes the statistics.
    pub fn run(&self, x: &[f32], dy: &[f32], [gamma, beta, eps]: [f32; 3], running: Option<[f32; 2]>) -> Output {
        let statistics = match running {
            Some([mean, var]) => Statistics { shift: mean, remainder: 0.0, var },
            None => self.statistics(x),
        };
        let m = x.len() as f32;
        let eps = if self.has(Fault::NoEps) { 0.0 } else { eps };
        let inv_std = self.blur(1.0 / (statistics.var + eps).sqrt());
        let scale = gamma * inv_std;
        let centered: Vec<_> = x.iter().map(|x| (x - statistics.shift) - statistics.remainder).collect();
        let (s1, s2) = self.sums(dy, &centered);
        let (a, b) = (self.divide(s1, m), self.divide(inv_std * inv_std * s2, m));
        let dx = |(dy, c): (&f32, &f32)| if running.is_some() { dy * scale } else { scale * (dy - a - c * b) };
        Output {
            mean: statistics.shift + statistics.remainder,
            var: statistics.var,
            y: centered.iter().map(|c| c * scale + beta).collect(),
            dx: dy.iter().zip(&centered).map(dx).collect(),
            dgamma: inv_std * s2,
            dbeta: s1,
        }
    }
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
