//! Error scopes as `Result`: what wgpu would report to its uncaptured-error handler comes back to the caller.

use crate::error::{Error, Result};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Runs `create` and returns what it made, or the error that the device reported meanwhile.
///
/// On native backends errors are known at once. In a browser they arrive later: there the value is returned, and the error
/// goes to the scope's future, which nobody awaits.
///
/// A lost device takes work without an error, as WebGPU has it, and does nothing; what reads results back tells.
///
/// # Errors
/// [`Error::OutOfMemory`], [`Error::DeviceLost`] or [`Error::Device`], which name `during`.
pub fn guarded<T>(device: &wgpu::Device, during: &'static str, create: impl FnOnce() -> T) -> Result<T> {
    let scopes = [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::OutOfMemory]
        .map(|filter| device.push_error_scope(filter));
    let value = create();
    // Scopes are popped in the reverse order of pushing; every one is popped, also after an error.
    let errors = scopes.into_iter().rev().filter_map(|scope| now_or_never(scope.pop()).flatten()).collect::<Vec<_>>();
    match errors.into_iter().next() {
        None => Ok(value),
        Some(error) => Err(typed(error, during)),
    }
}

fn typed(error: wgpu::Error, during: &'static str) -> Error {
    match error {
        wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory { during },
        wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
            // wgpu has no kind of its own for what is made on, or copied from, a lost device.
            match description.contains("device is lost") {
                true => Error::DeviceLost { during, reason: description },
                false => Error::Device { during, reason: description },
            }
        }
    }
}

fn now_or_never<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_their_kind() {
        let source = || Box::new(std::fmt::Error);
        let memory = typed(wgpu::Error::OutOfMemory { source: source() }, "testing");
        assert!(matches!(memory, Error::OutOfMemory { during: "testing" }));
        let invalid = wgpu::Error::Validation { source: source(), description: "why".into() };
        assert!(matches!(typed(invalid, "testing"), Error::Device { reason, .. } if reason == "why"));
    }
}
