//! A search for data whose statistics leave their tolerance: random channels with patterns that follow the kernels' own
//! blocks, the worst of which are changed at random as long as they get worse.

use super::*;

/// Levels of a pattern.
const LEVELS: usize = 8;

/// A channel, and how it is summed.
#[derive(Clone, Debug)]
struct Candidate {
    m: usize,
    gpu: Gpu,
    /// Where the values lie, and how far from there the shift, in deviations.
    at: f64,
    far: f64,
    /// The size of a deviation.
    spread: f64,
    /// How much the value's split, lane, block and run, its place and chance have to do with it.
    shares: [f64; 6],
    patterns: [[f64; LEVELS]; 4],
    seed: u64,
}

impl Candidate {
    fn new(random: &mut Random, m: usize) -> Self {
        let mut pick = |from: &[usize]| from[(random.uniform() * from.len() as f64) as usize];
        let (lanes, splits) = (pick(&[1, 4, 64, 256]), pick(&[1, 2, 2, 3, 8]));
        let rounding = ROUNDINGS[pick(&[0, 1, 2, 3])];
        let mut candidate = Self {
            m: m.min(8192 * lanes * splits),
            gpu: Gpu { lanes, splits, rounding, fault: None },
            at: [0.0, 1.3, -1e3][pick(&[0, 1, 2])],
            far: 0.0,
            spread: 0.0,
            shares: [0.0; 6],
            patterns: [[0.0; LEVELS]; 4],
            seed: 0,
        };
        for part in 0..5 {
            candidate.redraw(part, random);
        }
        candidate
    }

    /// Draws one part anew.
    fn redraw(&mut self, part: usize, random: &mut Random) {
        match part {
            0 => self.far = 10f64.powf(5.0 * random.uniform() - 1.0) * (random.uniform() - 0.5).signum(),
            1 => self.spread = 10f64.powf(-4.0 * random.uniform()),
            2 => {
                let at = (random.uniform() * 6.0) as usize;
                self.shares = self.shares.map(|share| share * 0.3);
                self.shares[at] = 1.0;
            }
            3 => {
                let pattern = &mut self.patterns[(random.uniform() * 4.0) as usize];
                *pattern = std::array::from_fn(|_| (random.uniform() - 0.5).signum() * random.uniform().sqrt());
            }
            _ => self.seed = random.uniform().to_bits(),
        }
    }

    /// A little different from this one.
    fn changed(&self, random: &mut Random) -> Self {
        let mut next = self.clone();
        match (random.uniform() * 10.0) as usize {
            0 => next.gpu.rounding = ROUNDINGS[(random.uniform() * 4.0) as usize],
            1 | 2 => next.far *= 0.5 + random.uniform(),
            3 | 4 => next.spread *= 0.5 + random.uniform(),
            5 => next.shares[(random.uniform() * 6.0) as usize] *= 2.0 * random.uniform(),
            part => next.redraw(part - 5, random),
        }
        next
    }

    fn values(&self) -> Vec<f32> {
        let (segment, lanes) = (self.m.div_ceil(self.gpu.splits), self.gpu.lanes);
        let mut random = Random(self.seed);
        let mut value = |i: usize| {
            let (split, own) = (i / segment, i % segment);
            let turn = own / lanes;
            let levels = [split, own % lanes, turn / 128, turn % 128 / 4];
            let of_patterns = levels.iter().zip(&self.patterns).map(|(level, pattern)| pattern[level % LEVELS]);
            let all = of_patterns.chain([2.0 * i as f64 / self.m as f64 - 1.0, random.normal()]);
            let deviation: f64 = all.zip(&self.shares).map(|(value, share)| value * share).sum();
            (self.at + self.spread * deviation) as f32
        };
        let mut x: Vec<f32> = (0..self.m).map(&mut value).collect();
        let shift = (self.at - self.far * self.spread) as f32;
        (x[0], x[self.m / 2], x[self.m - 1]) = (shift, shift, shift);
        x
    }

    /// The errors of mean and variance, over their tolerances.
    fn ratios(&self) -> [f64; 2] {
        let x = self.values();
        let (wide, shape) = (widen(&x), Shape::new(&[self.m, 1], Layout::ChannelsFirst).unwrap());
        let want = reference::statistics(&wide, &shape).unwrap();
        let bound = statistics(&wide, &shape, &Execution::default()).unwrap();
        let got = self.gpu.statistics(&x, None);
        let pair = f64::from(got.shift) + f64::from(got.remainder);
        let mean = compare(&[pair], &want.mean, &bound.mean_pair).unwrap();
        let var = compare(&[got.var], &want.var, &bound.var).unwrap();
        [mean.worst_ratio, var.worst_ratio]
    }
}

/// The worst of one of the ratios that a number of random candidates and a number of changes to each of the worst find.
fn worst(of: usize, m: usize, random_ones: usize, changes: usize) -> (f64, Candidate) {
    let mut random = Random(m as u64);
    let mut found: Vec<_> = (0..random_ones)
        .map(|_| Candidate::new(&mut random, m))
        .map(|candidate| (candidate.ratios()[of], candidate))
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.truncate(4);
    for (ratio, candidate) in &mut found {
        for _ in 0..changes {
            let next = candidate.changed(&mut random);
            let of_next = next.ratios()[of];
            if of_next > *ratio {
                (*ratio, *candidate) = (of_next, next);
            }
        }
    }
    found.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

#[test]
fn no_search_leaves_the_tolerance() {
    for (m, random_ones, changes) in
        [(5, 400, 100), (30, 400, 100), (300, 200, 60), (2000, 100, 30), (20_000, 40, 20), (300_000, 12, 4)]
    {
        search(m, random_ones, changes);
    }
}

/// The same with more and longer channels.
#[test]
#[ignore = "takes minutes"]
fn no_long_search_leaves_the_tolerance() {
    for (m, random_ones, changes) in [(7, 4000, 2000), (400, 4000, 2000), (8192, 400, 100), (1_000_000, 80, 40)] {
        search(m, random_ones, changes);
    }
}

fn search(m: usize, random_ones: usize, changes: usize) {
    for (of, name) in ["mean", "var"].into_iter().enumerate() {
        let (ratio, candidate) = worst(of, m, random_ones, changes);
        println!("{name} of {m}: {ratio:.3}: {candidate:?}");
        assert!(ratio < 0.8, "{name}, {ratio}: {candidate:?}");
    }
}

/// Merges in a lane may err in the quotient of the counts always the same way. What that does to M2 is, per unit of the
/// error and of M2, at most 2.5 by the page; here is the most that a climb from several beginnings finds.
#[test]
fn the_merges_of_a_lane_move_m2_by_no_more_than_the_page_says() {
    let mut largest = 0.0f64;
    for (runs, blocks) in [(2, 1), (32, 1), (1, 64), (8, 8), (32, 64)] {
        let mut x: Vec<f64> = (0..runs * blocks).map(|i| (1.0 + i as f64).sqrt().recip()).collect();
        for _ in 0..400 {
            let (_, gradient) = merges(&x, runs);
            x.iter_mut().zip(gradient).for_each(|(x, slope)| *x += 0.5 * slope);
            let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
            x.iter_mut().for_each(|x| *x /= norm);
        }
        largest = largest.max(merges(&x, runs).0);
    }
    println!("{largest:.3}");
    assert!(largest > 1.7 && largest < 2.5, "{largest}");
}

/// The sum of n_b |delta_b| |c| over all merges of a lane, and its gradient; every value stands for a run.
fn merges(x: &[f64], runs: usize) -> (f64, Vec<f64>) {
    let means: Vec<f64> = x.chunks(runs).map(|block| block.iter().sum::<f64>() / block.len() as f64).collect();
    let (total, outer) = sequence(&means, runs as f64);
    let (mut sum, mut gradient) = (total, Vec::new());
    for (block, outer) in x.chunks(runs).zip(outer) {
        let (total, inner) = sequence(block, 1.0);
        sum += total;
        gradient.extend(inner.iter().map(|slope| slope + outer / runs as f64));
    }
    (sum, gradient)
}

/// The same of merges one after the other, of parts of equal weight.
fn sequence(x: &[f64], weight: f64) -> (f64, Vec<f64>) {
    let (mut sum, mut mean, mut gradient) = (0.0, x[0], vec![0.0; x.len()]);
    // The slopes by the sums of the first values.
    let mut of_sums = vec![0.0; x.len() + 1];
    for k in 1..x.len() {
        let delta = x[k] - mean;
        let next = mean + delta / (k + 1) as f64;
        let sign = weight * delta.signum() * next.signum();
        sum += sign * delta * next;
        gradient[k] += sign * next;
        of_sums[k] -= sign * next / k as f64;
        of_sums[k + 1] += sign * delta / (k + 1) as f64;
        mean = next;
    }
    let mut tail = 0.0;
    for k in (0..x.len()).rev() {
        tail += of_sums[k + 1];
        gradient[k] += tail;
    }
    (sum, gradient)
}
