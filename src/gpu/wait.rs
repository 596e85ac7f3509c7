//! Waiting, where somebody asked to.

use super::scope::refused;
use crate::error::Result;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Blocks until `future` is done, and polls the device whenever it waits. So every blocking call is its async one, and there is one
/// code for both. Never in a browser, which lets nobody block.
///
/// # Errors
/// What the future returns, and what the device says when it cannot be polled.
pub(crate) fn driven<T>(
    device: &wgpu::Device,
    during: &'static str,
    future: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        if let Err(error) = device.poll(wgpu::PollType::wait_indefinitely()) {
            // What it waits for may have come all the same.
            return match future.as_mut().poll(&mut context) {
                Poll::Ready(value) => value,
                Poll::Pending => Err(refused(device, during, error)),
            };
        }
    }
}
