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
/// [`Error::OutOfMemory`], [`Error::DeviceLost`] or [`Error::Device`], which name `during`. Where the device is lost by
/// the time of the error, it is `DeviceLost`, whatever wgpu reports of the objects that came of it.
pub fn guarded<T>(device: &wgpu::Device, during: &'static str, create: impl FnOnce() -> T) -> Result<T> {
    match scoped(device, create) {
        (value, None) => Ok(value),
        (_, Some(error)) => Err(blamed(is_lost(device), during, error)),
    }
}

/// The error of a call that wgpu refused for `reason`, outside of any error scope.
pub(crate) fn refused(device: &wgpu::Device, during: &'static str, reason: impl ToString) -> Error {
    named(is_lost(device), during, reason.to_string())
}

/// What `create` made, and the first error that the device reported meanwhile.
fn scoped<T>(device: &wgpu::Device, create: impl FnOnce() -> T) -> (T, Option<wgpu::Error>) {
    let scopes = [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::OutOfMemory]
        .map(|filter| device.push_error_scope(filter));
    let value = create();
    // Scopes are popped in the reverse order of pushing; every one is popped, also after an error.
    let errors = scopes.into_iter().rev().filter_map(|scope| now_or_never(scope.pop()).flatten()).collect::<Vec<_>>();
    (value, errors.into_iter().next())
}

/// Whether the device is lost. wgpu has no call that says so: a lost device takes work in silence, and only what is made of
/// that work is refused, as invalid. But it maps nothing, while a device that is there maps a buffer of its memory.
fn is_lost(device: &wgpu::Device) -> bool {
    let descriptor = wgpu::BufferDescriptor {
        label: Some("whether the device is lost"),
        size: wgpu::COPY_BUFFER_ALIGNMENT,
        usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: true,
    };
    let (maps, error) = scoped(device, || device.create_buffer(&descriptor).get_mapped_range_mut(..).is_ok());
    // Without memory a buffer is not mapped either.
    !maps && !matches!(error, Some(wgpu::Error::OutOfMemory { .. }))
}

fn blamed(lost: bool, during: &'static str, error: wgpu::Error) -> Error {
    match error {
        wgpu::Error::OutOfMemory { .. } if !lost => Error::OutOfMemory { during },
        wgpu::Error::OutOfMemory { source } => named(lost, during, source.to_string()),
        wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
            named(lost, during, description)
        }
    }
}

fn named(lost: bool, during: &'static str, reason: String) -> Error {
    match lost {
        true => Error::DeviceLost { during, reason },
        false => Error::Device { during, reason },
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
        let memory = || wgpu::Error::OutOfMemory { source: Box::new(std::fmt::Error) };
        let invalid = || wgpu::Error::Validation { source: Box::new(std::fmt::Error), description: "why".into() };
        assert!(matches!(blamed(false, "testing", memory()), Error::OutOfMemory { during: "testing" }));
        assert!(matches!(blamed(false, "testing", invalid()), Error::Device { reason, .. } if reason == "why"));
    }

    #[test]
    fn a_lost_device_is_to_blame_for_every_error() {
        let memory = wgpu::Error::OutOfMemory { source: Box::new(std::fmt::Error) };
        let invalid = wgpu::Error::Validation { source: Box::new(std::fmt::Error), description: "why".into() };
        for error in [memory, invalid] {
            assert!(matches!(blamed(true, "testing", error), Error::DeviceLost { during: "testing", .. }));
        }
    }
}
