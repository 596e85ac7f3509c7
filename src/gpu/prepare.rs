//! Compiling ahead, several kernels at the same time.

use super::Kernels;
use super::pipelines::lock;
use crate::error::Result;
use crate::kernels::Variant;
use crate::program::Program;
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

impl Kernels {
    /// Compiles the kernels of `programs` that are not compiled yet, in as many threads as the machine has processors (in a
    /// browser, and on OpenGL, one after the other), and returns when all are. Steps that are bound afterwards find them, until
    /// [`Kernels::trim`] forgets those that no step has.
    ///
    /// What an operation dispatches is said by [`BatchNorm::program`](crate::BatchNorm::program), or by
    /// [`Description::lower`](crate::program::Description::lower) where bindings share a buffer. Some drivers do a part of
    /// their work when a kernel is dispatched for the first time, which this does not do ahead.
    ///
    /// ```no_run
    /// use batchnorm_wgpu::{BatchNorm, Kernels, Operation, Result};
    ///
    /// fn prepare(kernels: &Kernels, network: &[BatchNorm]) -> Result<()> {
    ///     const FORWARD: [&str; 7] = ["x", "y", "gamma", "beta", "saved", "running", "scratch"];
    ///     const BACKWARD: [&str; 7] = ["x", "dy", "dx", "dgamma", "dbeta", "saved", "scratch"];
    ///     let mut programs = Vec::new();
    ///     for layer in network {
    ///         programs.push(layer.program(Operation::ForwardTraining, &FORWARD)?);
    ///         programs.push(layer.program(Operation::BackwardTraining, &BACKWARD)?);
    ///     }
    ///     kernels.prepare_with(&programs, |done, all| println!("{done} of {all} kernels"))
    /// }
    /// ```
    ///
    /// # Errors
    /// As binding a step: of the kernel that was refused first. The others may be compiled or not.
    pub fn prepare<'a>(&self, programs: impl IntoIterator<Item = &'a Program>) -> Result<()> {
        self.prepare_with(programs, |_, _| {})
    }

    /// As [`Kernels::prepare`], with `progress(done, all)` called after every kernel, by the thread that has it.
    ///
    /// # Errors
    /// As [`Kernels::prepare`].
    pub fn prepare_with<'a>(
        &self,
        programs: impl IntoIterator<Item = &'a Program>,
        progress: impl Fn(usize, usize) + Sync,
    ) -> Result<()> {
        let dispatches = programs.into_iter().flat_map(|program| &program.dispatches);
        let mut seen = HashSet::new();
        let wanted: Vec<(Variant, u32)> = dispatches
            .map(|dispatch| (dispatch.variant, dispatch.workgroup_size))
            .filter(|wanted| seen.insert(*wanted))
            .collect();
        let (next, done, refused) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(None));
        let compile_the_rest = || {
            while let Some((variant, workgroup_size)) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.pipeline(variant, *workgroup_size) {
                    Ok(_) => progress(done.fetch_add(1, Ordering::Relaxed) + 1, wanted.len()),
                    Err(error) => {
                        next.store(wanted.len(), Ordering::Relaxed);
                        lock(&refused).get_or_insert(error);
                    }
                }
            }
        };
        in_threads(if self.compiles_alone() { 1 } else { wanted.len() }, &compile_the_rest);
        let refused = lock(&refused).take();
        refused.map_or(Ok(()), Err)
    }
}

/// Does the same in this thread and in others, but in no more threads than `most` and than there are processors.
#[cfg(not(target_arch = "wasm32"))]
fn in_threads(most: usize, work: &(dyn Fn() + Sync)) {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 1..processors.min(most) {
            // What a thread that cannot be had would have done, the others do.
            std::thread::Builder::new().name("compiling kernels".into()).spawn_scoped(scope, work).ok();
        }
        work();
    });
}

/// A browser has no threads to give.
#[cfg(target_arch = "wasm32")]
fn in_threads(_: usize, work: &dyn Fn()) {
    work();
}
