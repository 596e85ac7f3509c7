//! What an operation dispatches, over one tensor or over micro-batches.

use batchnorm_wgpu::program::{Dispatch, Program, Stage};
use batchnorm_wgpu::{Error, Plan};

/// The dispatches of an operation, in the order in which they run.
pub struct Programs {
    /// The plan that they follow.
    pub plan: Plan,
    /// Each with the number of the micro-batch whose tensors it binds, from 0.
    pub dispatches: Vec<(usize, Dispatch)>,
    /// How the batch comes; `None` where it comes in one tensor.
    pub micro_batches: Option<MicroBatches>,
}

/// How many micro-batches there are.
#[derive(Clone, Copy, Debug)]
pub struct MicroBatches {
    /// Samples of each, but perhaps fewer of the last.
    pub samples: usize,
    /// How many there are.
    pub count: usize,
}

impl Programs {
    /// Those of a batch in one tensor.
    pub fn of_whole(Program { plan, dispatches }: Program) -> Self {
        let dispatches = dispatches.into_iter().map(|dispatch| (0, dispatch)).collect();
        Self { plan, dispatches, micro_batches: None }
    }

    /// Those of micro-batches of `samples` samples: a stage of all of them comes before the next stage of any.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where there is none.
    pub fn of_micro_batches(samples: usize, programs: Vec<Program>) -> Result<Self, Error> {
        let expected = || Error::Mismatch { name: "micro-batch", expected: "some".into(), actual: "none".into() };
        let plan = programs.first().ok_or_else(expected)?.plan.clone();
        let micro_batches = Some(MicroBatches { samples, count: programs.len() });
        let of = |(number, program): (usize, Program)| program.dispatches.into_iter().map(move |it| (number, it));
        let mut dispatches: Vec<(usize, Dispatch)> = programs.into_iter().enumerate().flat_map(of).collect();
        // The first micro-batch has every stage.
        let mut stages: Vec<Stage> = dispatches.iter().map(|(_, dispatch)| dispatch.stage).collect();
        stages.dedup();
        dispatches.sort_by_key(|(_, dispatch)| stages.iter().position(|stage| *stage == dispatch.stage));
        Ok(Self { plan, dispatches, micro_batches })
    }
}
