//! What the kernels of a device hold, forget, and say of themselves.

use super::Adapter;
use crate::training::Training;
use batchnorm_wgpu::kernels::Strategy;
use batchnorm_wgpu::{Choice, Kernels, Options};
use libtest_mimic::{Failed, Trial};
use std::sync::Arc;

/// The checks as tests of an adapter.
pub fn trials(adapter: &Adapter) -> Vec<Trial> {
    let test = |name: &str, check: fn(&Adapter) -> Result<(), Failed>| {
        adapter.test(&format!("{}::kernels::{name}", adapter.key), check)
    };
    vec![test("those_of_no_step_are_forgotten", trim), test("an_edit_shows", described)]
}

/// Trimming forgets the kernels that no step has, and no others; they are compiled again when they are wanted.
fn trim(adapter: &Adapter) -> Result<(), Failed> {
    let kernels = Kernels::new(&adapter.device);
    let choice = Choice { strategy: Some(Strategy::Split), ..Choice::default() };
    let training = || Training::new(&kernels, &adapter.queue, &[4, 8, 6, 6], &choice);
    let compiled = |when: &str, expected: usize| match kernels.compiled() {
        actual if actual == expected => Ok(()),
        actual => Err(Failed::from(format!("{when}: expected {expected} compiled kernels, got {actual}"))),
    };
    compiled("before a layer is bound", 0)?;
    let step = training()?;
    compiled("two of each pass", 4)?;
    kernels.trim();
    compiled("trimmed while a step has them", 4)?;
    step.holds()?;
    drop(step);
    compiled("not trimmed", 4)?;
    kernels.trim();
    compiled("trimmed when no step has them", 0)?;
    training()?.holds()
}

fn described(adapter: &Adapter) -> Result<(), Failed> {
    let edited = Options { edit: Some(Arc::new(|_, wgsl| wgsl)), ..Options::default() };
    for (options, expected) in [(Options::default(), "edited: false"), (edited, "edited: true")] {
        let said = format!("{:?}", Kernels::with_options(&adapter.device, options));
        if !said.contains(expected) {
            return Err(format!("expected {expected}, got {said}").into());
        }
    }
    Ok(())
}
