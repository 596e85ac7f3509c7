//! Waiting, where somebody asked to.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Blocks until `future` is done, and polls the device whenever it waits. So every blocking call is its async one, and there is one
/// code for both. Never in a browser, which lets nobody block.
pub(crate) fn driven<T>(device: &wgpu::Device, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        // A lost device answers by its callbacks; they are what the future waits for.
        if device.poll(wgpu::PollType::wait_indefinitely()).is_err() {
            std::thread::yield_now();
        }
    }
}
