//! The process that runs mutants. A mutant may hang or crash its driver, so the command that asks for it lives elsewhere.

use super::{Answer, MutantFate};
use crate::AnyError;
use batchnorm_wgpu::host::Gpu;
use batchnorm_wgpu::{Kernels, wgpu};
use batchnorm_wgpu_check::case::Case;
use batchnorm_wgpu_check::conversion::{self, ConversionError};
use batchnorm_wgpu_check::matrix::{matrix, part_cases, part_limits};
use batchnorm_wgpu_check::mutant::{self, Mutant, Reach};
use batchnorm_wgpu_check::suite::{Expectations, Outcome, Suite};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::BufRead;

/// A case, and what it runs.
struct TriedCase {
    case: Case,
    /// Which device.
    device: usize,
    variants: Vec<String>,
}

struct Worker {
    /// One with ordinary bindings, and one whose bindings are so small that tensors take several.
    devices: [(wgpu::Device, wgpu::Queue); 2],
    /// The shaders as they are, on each of them.
    unchanged: [Kernels; 2],
    /// In the order in which they are tried, but for those that killed a mutant of late.
    candidates: Vec<TriedCase>,
    /// Cases that killed mutants and pass without one, the last one first.
    killers: Vec<usize>,
    expectations: Expectations,
    reach: Reach,
    /// Most cases per mutant.
    most: usize,
}

/// Answers numbers on standard input with [`Answer`]s on standard output, a line each, until the input ends; says first that it
/// is there.
pub fn run(gpu: &Gpu, most: usize) -> Result<(), AnyError> {
    let mut worker = Worker::new(gpu, most)?;
    let mutants = Mutant::all();
    say(&Answer::Alive)?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mutant = line.parse().ok().and_then(|i: usize| mutants.get(i)).ok_or("no such mutant")?;
        let answer = worker.judge(mutant)?;
        say(&answer)?;
    }
    Ok(())
}

fn say(answer: &Answer) -> Result<(), AnyError> {
    println!("{}", serde_json::to_string(answer)?);
    Ok(())
}

impl Worker {
    fn new(gpu: &Gpu, most: usize) -> Result<Self, AnyError> {
        let small = Gpu::from_adapter(&gpu.adapter, part_limits(gpu.device.limits()), gpu.device.features())?;
        let of = |device: usize, kernels: &Kernels, cases: Vec<Case>| -> batchnorm_wgpu::Result<Vec<TriedCase>> {
            let candidate = |case: Case| {
                let variants = [case.variants_before(kernels)?, case.variants(kernels)?].concat();
                let variants = variants.iter().map(|variant| variant.name()).collect();
                Ok(TriedCase { case, device, variants })
            };
            cases.into_iter().map(candidate).collect()
        };
        let kernels = [Kernels::new(&gpu.device), Kernels::new(&small.device)];
        let mut candidates = of(0, &kernels[0], matrix(&kernels[0]))?;
        candidates.extend(of(1, &kernels[1], part_cases(&kernels[1]))?);
        Ok(Self {
            unchanged: [mutant::unchanged(&gpu.device), mutant::unchanged(&small.device)],
            devices: [(gpu.device.clone(), gpu.queue.clone()), (small.device, small.queue)],
            candidates: in_turns(candidates),
            killers: Vec::new(),
            expectations: Expectations::default(),
            reach: Reach::new(),
            most,
        })
    }

    /// Runs cases that have the mutant's line until one fails.
    fn judge(&mut self, mutant: &Mutant) -> Result<Answer, AnyError> {
        if let Some(found) = self.convert(mutant) {
            return Ok(Answer::Fate(found));
        }
        let reached = |i: &usize| self.candidates[*i].variants.iter().any(|name| self.reach.has(mutant, name));
        // Those that found another mutant just now find most.
        let rest = (0..self.candidates.len()).filter(|i| !self.killers.contains(i));
        let order = self.killers.iter().copied().chain(rest).filter(reached);
        let order: Vec<usize> = order.take(self.most).collect();
        let kernels = self.devices.each_ref().map(|(device, _)| mutant.plant(device));
        for &i in &order {
            say(&Answer::Alive)?;
            let outcome = self.run(i, &kernels);
            match outcome.failure {
                Some(reason) if outcome.refused => return Ok(Answer::Fate(MutantFate::Invalid { reason })),
                Some(_) => return Ok(self.killed(i)),
                None => {}
            }
        }
        Ok(Answer::Fate(MutantFate::Survived { cases: order.len() }))
    }

    fn run(&mut self, i: usize, kernels: &[Kernels; 2]) -> Outcome {
        let TriedCase { case, device, .. } = &self.candidates[i];
        let queue = self.devices[*device].1.clone();
        Suite::new(kernels[*device].clone(), queue, &mut self.expectations).run(case)
    }

    /// What to say of a mutant that a case found. A case that fails without a mutant too has found nothing.
    fn killed(&mut self, i: usize) -> Answer {
        if !self.killers.contains(&i) {
            let unchanged = self.unchanged.clone();
            if let Outcome { failure: Some(reason), case, .. } = self.run(i, &unchanged) {
                return Answer::Unsound { case, reason };
            }
        }
        self.killers.retain(|&killer| killer != i);
        self.killers.insert(0, i);
        Answer::Fate(MutantFate::Killed { case: self.candidates[i].case.to_string() })
    }

    /// The verdict on a mutant of the conversions that their exhaustive test finds.
    fn convert(&self, mutant: &Mutant) -> Option<MutantFate> {
        conversion::is_tested(mutant.file).then_some(())?;
        let (device, queue) = &self.devices[0];
        match conversion::check(device, queue, &|source| mutant.text_of(source)) {
            Err(wrong @ ConversionError::Wrong { .. }) => Some(MutantFate::Killed { case: wrong.to_string() }),
            // What does not compile is seen again by the cases.
            Ok(()) | Err(ConversionError::Library(_)) => None,
        }
    }
}

/// Orders cases so that any number of the first ones runs every program of kernels, with every policy, about equally often.
/// Those of one program come in no order, lest a hundred neighbours in the matrix, much alike, come before all others.
fn in_turns(mut candidates: Vec<TriedCase>) -> Vec<TriedCase> {
    candidates.sort_by_cached_key(|candidate| {
        let mut hasher = DefaultHasher::new();
        candidate.case.to_string().hash(&mut hasher);
        hasher.finish()
    });
    let mut turns: HashMap<String, usize> = HashMap::new();
    let mut turn_of = |candidate: &TriedCase| {
        let kernels: Vec<_> = candidate.variants.iter().map(|name| name.split('.').next()).collect();
        let program = format!("{} {kernels:?} {:?}", candidate.device, candidate.case.config.running);
        let turn = turns.entry(program).or_default();
        *turn += 1;
        *turn
    };
    let mut ranked: Vec<(usize, TriedCase)> =
        candidates.into_iter().map(|candidate| (turn_of(&candidate), candidate)).collect();
    ranked.sort_by_key(|(turn, _)| *turn);
    ranked.into_iter().map(|(_, candidate)| candidate).collect()
}
