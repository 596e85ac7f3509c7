//! The process that runs mutants. A mutant may hang or crash its driver, so the command that asks for it lives elsewhere.

use super::{Answer, Verdict};
use crate::AnyError;
use batchnorm_wgpu::host::Gpu;
use batchnorm_wgpu::{Kernels, wgpu};
use batchnorm_wgpu_check::case::{Case, matrix, part_cases, part_limits};
use batchnorm_wgpu_check::conversion::{self, ConversionError};
use batchnorm_wgpu_check::mutant::{Mutant, Reach, unchanged};
use batchnorm_wgpu_check::suite::{Expectations, Suite};
use std::collections::HashMap;
use std::io::{BufRead, Write};

/// What may be asked for instead of a mutant's number: the shaders as they are.
pub const UNCHANGED: &str = "unchanged";

/// A case, and what it runs.
struct Candidate {
    case: Case,
    /// Which device.
    device: usize,
    variants: Vec<String>,
}

struct Worker {
    /// One with ordinary bindings, and one whose bindings are so small that tensors take several.
    devices: [(wgpu::Device, wgpu::Queue); 2],
    /// In the order in which they are tried, but for those that killed a mutant of late.
    candidates: Vec<Candidate>,
    /// Cases that killed mutants, the last one first.
    killers: Vec<usize>,
    expectations: Expectations,
    reach: Reach,
    /// Most cases per mutant.
    most: usize,
}

/// Answers numbers on standard input with [`Answer`]s on standard output, a line each, until the input ends.
pub fn run(gpu: &Gpu, most: usize) -> Result<(), AnyError> {
    let mut worker = Worker::new(gpu, most)?;
    let mutants = Mutant::all();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mutant = match line.as_str() {
            UNCHANGED => None,
            number => Some(number.parse().ok().and_then(|i: usize| mutants.get(i)).ok_or("no such mutant")?),
        };
        let verdict = worker.judge(mutant)?;
        say(&Answer::Verdict(verdict))?;
    }
    Ok(())
}

fn say(answer: &Answer) -> Result<(), AnyError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(answer)?)?;
    Ok(out.flush()?)
}

impl Worker {
    fn new(gpu: &Gpu, most: usize) -> Result<Self, AnyError> {
        let small = Gpu::from_adapter(&gpu.adapter, part_limits(gpu.device.limits()), gpu.device.features())?;
        let of = |device: usize, kernels: &Kernels, cases: Vec<Case>| -> batchnorm_wgpu::Result<Vec<Candidate>> {
            let candidate = |case: Case| {
                let variants = case.variants(kernels)?.iter().map(|variant| variant.name()).collect();
                Ok(Candidate { case, device, variants })
            };
            cases.into_iter().map(candidate).collect()
        };
        let kernels = [Kernels::new(&gpu.device), Kernels::new(&small.device)];
        let mut candidates = of(0, &kernels[0], matrix(&kernels[0]))?;
        candidates.extend(of(1, &kernels[1], part_cases(&kernels[1]))?);
        Ok(Self {
            devices: [(gpu.device.clone(), gpu.queue.clone()), (small.device, small.queue)],
            candidates: in_turns(candidates),
            killers: Vec::new(),
            expectations: Expectations::default(),
            reach: Reach::new(),
            most,
        })
    }

    /// Runs cases that have the mutant's line until one fails.
    fn judge(&mut self, mutant: Option<&Mutant>) -> Result<Verdict, AnyError> {
        let reached = |candidate: &Candidate| {
            mutant.is_none_or(|mutant| candidate.variants.iter().any(|name| self.reach.has(mutant, name)))
        };
        // Those that found another mutant just now find most.
        let rest = (0..self.candidates.len()).filter(|i| !self.killers.contains(i));
        let order = self.killers.iter().copied().chain(rest).filter(|&i| reached(&self.candidates[i]));
        let order: Vec<usize> = order.take(self.most).collect();
        if let Some(found) = mutant.and_then(|mutant| self.convert(mutant)) {
            return Ok(found);
        }
        let kernels = self.devices.each_ref().map(|(device, _)| match mutant {
            Some(mutant) => mutant.plant(device),
            None => unchanged(device),
        });
        for &i in &order {
            say(&Answer::Alive)?;
            let Candidate { case, device, .. } = &self.candidates[i];
            let queue = self.devices[*device].1.clone();
            let outcome = Suite::new(kernels[*device].clone(), queue, &mut self.expectations).run(case);
            match outcome.failure {
                Some(reason) if outcome.refused => return Ok(Verdict::Invalid { reason }),
                Some(_) => {
                    self.killers.retain(|&killer| killer != i);
                    self.killers.insert(0, i);
                    return Ok(Verdict::Killed { case: outcome.case });
                }
                None => {}
            }
        }
        Ok(Verdict::Survived { cases: order.len() })
    }

    /// The verdict on a mutant of the conversions that their exhaustive test finds.
    fn convert(&self, mutant: &Mutant) -> Option<Verdict> {
        let (device, queue) = &self.devices[0];
        conversion::is_tested(mutant.file).then_some(())?;
        match conversion::check(device, queue, |part| mutant.text_of(part)) {
            Err(wrong @ ConversionError::Wrong { .. }) => Some(Verdict::Killed { case: wrong.to_string() }),
            // What does not compile is seen again by the cases.
            Ok(()) | Err(ConversionError::Library(_)) => None,
        }
    }
}

/// Orders cases so that any number of the first ones runs every program of kernels, with every policy, about equally often,
/// the smallest tensors first.
fn in_turns(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.sort_by_key(|candidate| candidate.case.shape.elements());
    let mut turns: HashMap<String, usize> = HashMap::new();
    let mut turn_of = |candidate: &Candidate| {
        let kernels: Vec<_> = candidate.variants.iter().map(|name| name.split('.').next()).collect();
        let turn =
            turns.entry(format!("{} {kernels:?} {:?}", candidate.device, candidate.case.config.running)).or_default();
        *turn += 1;
        *turn
    };
    let mut ranked: Vec<(usize, Candidate)> =
        candidates.into_iter().map(|candidate| (turn_of(&candidate), candidate)).collect();
    ranked.sort_by_key(|(turn, candidate)| (*turn, candidate.case.shape.elements()));
    ranked.into_iter().map(|(_, candidate)| candidate).collect()
}
