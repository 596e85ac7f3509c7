//! What a plan costs on a GPU that nobody has measured, from the little that is known of one: what kind of device it is.
//!
//! An estimate ranks the plans of one operation; it says nothing of seconds. It counts the bytes that go to memory and back, and
//! divides by the share of memory's speed that the plan can ask for:
//! - *Balance*: workgroups are handed to processors in rounds, and in the last round some processors have none.
//! - *Bytes in flight*: memory is busy as long as enough loads are on their way (Little 1961: bandwidth times latency). A processor
//!   with few invocations, or with many that wait at a barrier, asks for less.
//! - *Pieces*: memory moves lines. Whoever reads a row in pieces shorter than a line reads the rest of it for nothing.
//! - *Registers*: a lane that holds more values than it has registers writes them to memory and reads them again.
//!
//! The numbers of [`Kind`] are round on purpose. What they rest on stands beside them; no GPU has confirmed them.

use super::Plan;
use crate::choice::{Approach, Choice};
use crate::dtype::DType;
use crate::kernels::{Kernel, Span, Strategy, Wanted, kernels_of};
use crate::operation::Operation;
use crate::shape::Shape;
use crate::tuning::Preference;

/// A kind of GPU, as far as an estimate goes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Kind {
    /// What runs workgroups: multiprocessors, compute units, cores.
    processors: u32,
    /// Bytes of loads that a processor has to have on their way for its share of memory's speed.
    in_flight: f64,
    /// Invocations that a processor has at once, at the most.
    invocations: u32,
    /// What a dispatch costs besides, as the bytes that memory would move meanwhile.
    dispatch: f64,
}

/// Cards: 30 to 170 processors, 0.3 to 4 TB/s at some 500 ns, which is 2 to 20 KiB for each; a dispatch takes some 3 us.
const DISCRETE: Kind = Kind { processors: 100, in_flight: 16e3, invocations: 1536, dispatch: 3e6 };
/// Beside a processor: 4 to 40 processors, 50 to 400 GB/s at some 300 ns, which is 2 to 4 KiB for each.
const INTEGRATED: Kind = Kind { processors: 16, in_flight: 4e3, invocations: 1024, dispatch: 3e5 };

/// 32-bit registers of a lane, before compilers keep values in memory or a processor runs out of lanes to hide latency with:
/// 64 K registers for 512 lanes, and what Mesa's compiler for RDNA 3 gives a lane.
const REGISTERS: u32 = 128;
/// 32-bit registers of a processor, which its lanes share.
const ALL_REGISTERS: u32 = 65536;
/// Registers that a resident kernel needs besides the values that it holds, by the reports of Mesa's compilers.
const OTHER_REGISTERS: u32 = 60;
/// Bytes of a line of memory.
const LINE: f64 = 64.0;
/// How much more a plan costs whose lanes hold more than their registers: it is the last to be taken.
const SPILLED: f64 = 8.0;

/// Workgroup sizes that are tried, of equals the first: 256 is what WebGPU allows everywhere, with fewer than 64 some
/// processors leave lanes empty, and of 1024 each would have 64 registers at the most, which is less than summing kernels take.
const SIZES: [u32; 4] = [256, 128, 512, 64];
/// Workgroups that split columns, for each processor.
const WORKGROUPS: u32 = 8;

/// What to try on a GPU that nobody has measured, best first.
pub(super) fn preferences(
    operation: Operation,
    shape: &Shape,
    dtype: DType,
    device_type: wgpu::DeviceType,
    plan: impl Fn(&Preference) -> Option<Plan>,
) -> Vec<Preference> {
    let kind = match device_type {
        wgpu::DeviceType::IntegratedGpu => &INTEGRATED,
        // A browser does not tell: more workgroups than a small device needs cost it little.
        _ => &DISCRETE,
    };
    // In steps of a twentieth: no estimate is better than that.
    let rank = |plan: Plan| kind.cost(&plan, operation, shape, dtype).log(1.05).round();
    let ranked = kind.candidates().filter_map(|preference| Some((rank(plan(&preference)?), preference)));
    let mut ranked: Vec<(f64, Preference)> = ranked.collect();
    // Stable: of equals the first.
    ranked.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    // Where none can run, the last one says why.
    let last = kind.preference(Approach::Split { splits: None, reverse: Some(false) }, SIZES[0]);
    ranked.into_iter().map(|(_, preference)| preference).chain([last]).collect()
}

impl Kind {
    fn preference(&self, approach: Approach, workgroup_size: u32) -> Preference {
        let (approach, workgroup_size) = (Some(approach), Some(workgroup_size));
        let choice = Choice { approach, workgroup_size, ..Choice::default() };
        Preference { choice, workgroups: self.processors * WORKGROUPS }
    }

    fn candidates(&self) -> impl Iterator<Item = Preference> {
        let approaches = Strategy::HELD.map(|held| Approach::Resident { held: Some(held) }).into_iter();
        let approaches = approaches.chain([Approach::Whole, Approach::Split { splits: None, reverse: Some(false) }]);
        approaches.flat_map(move |approach| SIZES.map(|size| self.preference(approach, size)))
    }

    /// Bytes that memory could have moved while the operation runs.
    fn cost(&self, plan: &Plan, operation: Operation, shape: &Shape, dtype: DType) -> f64 {
        let tensor = dtype.bytes(shape.elements()) as f64;
        let kernels = kernels_of(operation, plan.strategy(), Wanted::All).iter();
        let of_kernel = |kernel: &&'static Kernel| {
            let moved = f64::from(kernel.moves()) * tensor * spilled(plan, kernel) * pieces(plan, dtype);
            self.dispatch * f64::from(plan.parts) + moved / self.share(plan, kernel, dtype)
        };
        kernels.map(of_kernel).sum()
    }

    /// The share of memory's speed that a kernel can ask for.
    fn share(&self, plan: &Plan, kernel: &Kernel, dtype: DType) -> f64 {
        let groups = plan.groups(kernel.span, 0);
        if kernel.span == Span::Column {
            // It moves no tensor.
            return 1.0;
        }
        let rounds = groups.div_ceil(self.processors);
        let balance = f64::from(groups) / f64::from(rounds * self.processors);
        let at_once =
            rounds.min(self.invocations / plan.workgroup_size).min(ALL_REGISTERS / registers_of_group(plan, kernel));
        let lanes = plan.tile * (plan.workgroup_size / plan.tile).min(plan.segment);
        let per_lane = plan.segment.div_ceil(plan.workgroup_size / plan.tile).min(plan.approach.held().max(4));
        let value = plan.geometry.elements() as u64 * dtype.size();
        let of_group = f64::from(lanes) * f64::from(per_lane) * value as f64;
        // What waits at a barrier loads nothing: with a single workgroup the processor does either this or that.
        let overlap = if at_once == 1 && plan.strategy() != Strategy::Split { 0.5 } else { 1.0 };
        balance * (overlap * f64::from(at_once.max(1)) * of_group / self.in_flight).min(1.0)
    }
}

/// Registers of a lane.
fn registers(plan: &Plan, kernel: &Kernel) -> u32 {
    let tensors = if kernel.centres { 2 } else { 1 };
    OTHER_REGISTERS + plan.approach.held() * plan.geometry.elements() as u32 * tensors
}

fn registers_of_group(plan: &Plan, kernel: &Kernel) -> u32 {
    registers(plan, kernel).saturating_mul(plan.workgroup_size)
}

/// How many times more is moved where a lane holds more than its registers.
fn spilled(plan: &Plan, kernel: &Kernel) -> f64 {
    let spills = registers(plan, kernel) > REGISTERS.min(ALL_REGISTERS / plan.workgroup_size);
    if spills && kernel.holds { SPILLED } else { 1.0 }
}

/// How many times more is moved where rows are read in short pieces.
fn pieces(plan: &Plan, dtype: DType) -> f64 {
    let piece = u64::from(plan.tile.min(plan.columns)) * plan.geometry.elements() as u64 * dtype.size();
    if plan.interleaved && plan.tile < plan.columns { (LINE / piece as f64).max(1.0) } else { 1.0 }
}
