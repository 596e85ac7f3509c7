//! What callers get wrong, each with the error it owes them; and the host layer, which most callers start with.

mod backward;
mod bindings;
mod host;
mod layer;

use super::Adapter;
use batchnorm_wgpu::kernels::Strategy;
use batchnorm_wgpu::{BatchNorm, Choice, Config, Error, ForwardTraining, Layout, Shape, wgpu};
use libtest_mimic::{Failed, Trial};

/// A check and its name.
type Check = (&'static str, fn(&Adapter) -> Result<(), Failed>);

/// The checks as tests of an adapter.
pub fn trials(adapter: &Adapter) -> Vec<Trial> {
    let test = |(name, check): Check| adapter.test(&format!("{}::misuse::{name}", adapter.key), check);
    let checks = [&bindings::CHECKS[..], &backward::CHECKS, &layer::CHECKS, &host::CHECKS];
    checks.concat().into_iter().map(test).collect()
}

/// The test's way to say that the error was another one than owed.
pub fn owed<T: std::fmt::Debug>(
    what: &str,
    outcome: Result<T, Error>,
    is: impl Fn(&Error) -> bool,
) -> Result<(), Failed> {
    match outcome {
        Err(error) if is(&error) => Ok(()),
        other => Err(format!("{what}: got {other:?}").into()),
    }
}

struct Fixture {
    layer: BatchNorm,
    tensor: wgpu::Buffer,
    other: wgpu::Buffer,
    small: wgpu::Buffer,
    saved: wgpu::Buffer,
    scratch: wgpu::Buffer,
}

impl Fixture {
    fn new(adapter: &Adapter) -> Result<Self, Error> {
        let shape = Shape::new(&[4, 8, 6, 6], Layout::ChannelsFirst)?;
        // The strategy that binds everything, scratch too.
        let choice = Choice::by(Strategy::Split);
        let layer = BatchNorm::with_choice(&adapter.kernels, shape, Config::default(), &choice)?;
        let size = layer.shape().elements() as u64 * 4;
        Ok(Self {
            tensor: buffer(adapter, 2 * size, wgpu::BufferUsages::STORAGE),
            other: buffer(adapter, size, wgpu::BufferUsages::STORAGE),
            small: buffer(adapter, 28, wgpu::BufferUsages::STORAGE),
            saved: buffer(adapter, layer.saved_size(), wgpu::BufferUsages::STORAGE),
            scratch: buffer(adapter, layer.scratch_size(), wgpu::BufferUsages::STORAGE),
            layer,
        })
    }

    fn forward(&self) -> ForwardTraining<'_> {
        ForwardTraining::new(
            self.tensor.as_entire_buffer_binding(),
            self.other.as_entire_buffer_binding(),
            self.saved.as_entire_buffer_binding(),
            self.scratch.as_entire_buffer_binding(),
        )
    }
}

/// A value with a change.
fn with<T>(mut value: T, change: impl FnOnce(&mut T)) -> T {
    change(&mut value);
    value
}

fn buffer(adapter: &Adapter, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    adapter.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
}

fn at(buffer: &wgpu::Buffer, offset: u64) -> wgpu::BufferBinding<'_> {
    wgpu::BufferBinding { buffer, offset, size: None }
}
