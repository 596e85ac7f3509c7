//! Batches in several tensors, and steps that are cut between their stages. That their results are right is for the matrix.

use super::Adapter;
use super::misuse::owed;
use batchnorm_wgpu::host::{download, guarded, storage};
use batchnorm_wgpu::kernels::Strategy;
use batchnorm_wgpu::{
    Backward, BatchNorm, Choice, Config, Error, ForwardTraining, Layout, MicroBatch, MicroStep, Shape, Step, wgpu,
};
use batchnorm_wgpu_check::data::normal;
use libtest_mimic::{Failed, Trial};
use wgpu::BufferBinding;

/// The checks as tests of an adapter.
pub fn trials(adapter: &Adapter) -> Vec<Trial> {
    let test = |name: &str, check: fn(&Adapter) -> Result<(), Failed>| {
        adapter.test(&format!("{}::micro_batches::{name}", adapter.key), check)
    };
    vec![
        test("a_cut_step_is_the_step_to_the_bit", cut),
        test("those_of_another_batch_are_refused", of_another),
        test("what_they_share_is_one_binding", shared),
        test("none_writes_over_another", over_another),
        test("a_backward_pass_has_its_own_forward_pass", own_forward),
    ]
}

/// A batch of 7 samples in tensors of 3, 3 and 1, which lie in one buffer.
struct Batch {
    layer: BatchNorm,
    micro_batches: Vec<MicroBatch>,
    x: wgpu::Buffer,
    y: wgpu::Buffer,
    saved: wgpu::Buffer,
    /// Enough for a larger batch, too.
    scratch: wgpu::Buffer,
}

const SAMPLES: usize = 3;
/// Bytes between the tensors of two micro-batches.
const STRIDE: u64 = 2048;

impl Batch {
    fn new(adapter: &Adapter) -> Result<Self, Error> {
        let shape = Shape::new(&[7, 4, 5, 5], Layout::ChannelsFirst)?;
        let layer = BatchNorm::new(&adapter.kernels, shape, Config::default())?.with_label("bn1");
        let micro_batches = layer.micro_batches(SAMPLES)?;
        let new = |size| storage(&adapter.device, "of micro-batches", size);
        let (x, y) = (new(3 * STRIDE)?, new(3 * STRIDE)?);
        let (saved, scratch) = (new(layer.saved_size())?, new(2 * micro_batches[0].scratch_size())?);
        Ok(Self { layer, micro_batches, x, y, saved, scratch })
    }

    fn forward<'a>(&'a self, number: u64) -> ForwardTraining<'a> {
        let at = |buffer: &'a wgpu::Buffer| BufferBinding { buffer, offset: number * STRIDE, size: None };
        let whole = wgpu::Buffer::as_entire_buffer_binding;
        ForwardTraining::new(at(&self.x), at(&self.y), whole(&self.saved), whole(&self.scratch))
    }

    /// The micro-batches of these numbers, bound in this order.
    fn bind(&self, numbers: &[u64]) -> Result<Vec<MicroStep>, Error> {
        let bind = |&number: &u64| self.micro_batches[number as usize].forward_training(&self.forward(number));
        numbers.iter().map(bind).collect()
    }
}

fn is_mismatch(name: &'static str) -> impl Fn(&Error) -> bool {
    move |error| matches!(error.kind(), Error::Mismatch { name: of, .. } if *of == name)
}

/// With the reducing part in a pass of its own the results are the same. A step of one dispatch reduces nothing.
fn cut(adapter: &Adapter) -> Result<(), Failed> {
    let shape = Shape::new(&[4, 8, 6, 6], Layout::ChannelsFirst)?;
    let data = normal(shape.elements(), 7);
    for strategy in [Strategy::Split, Strategy::Whole] {
        let layer = BatchNorm::with_choice(&adapter.kernels, shape.clone(), Config::default(), &Choice::by(strategy))?;
        let new = |size| storage(&adapter.device, "of a cut step", size);
        let (x, y) = (new(layer.tensor_size())?, new(layer.tensor_size())?);
        let (saved, scratch) = (new(layer.saved_size())?, new(layer.scratch_size())?);
        let whole = wgpu::Buffer::as_entire_buffer_binding;
        let step =
            layer.forward_training(&ForwardTraining::new(whole(&x), whole(&y), whole(&saved), whole(&scratch)))?;
        let run = |encode: &dyn Fn(&mut wgpu::CommandEncoder)| {
            let mut encoder = adapter.device.create_command_encoder(&Default::default());
            [&y, &saved, &scratch].into_iter().for_each(|buffer| encoder.clear_buffer(buffer, 0, None));
            encode(&mut encoder);
            guarded(&adapter.device, "running a cut step", || {
                adapter.queue.write_buffer(&x, 0, bytemuck::cast_slice(&data));
                adapter.queue.submit([encoder.finish()])
            })?;
            download(&adapter.device, &adapter.queue, &[&y, &saved, &scratch])
        };
        let pass = |encoder: &mut wgpu::CommandEncoder, encode: &dyn Fn(&mut wgpu::ComputePass<'_>)| {
            encode(&mut encoder.begin_compute_pass(&Default::default()));
        };
        let expected = run(&|encoder| step.encode_pass(encoder))?;
        let in_two = run(&|encoder| {
            pass(encoder, &|pass| step.encode_reduce(pass));
            pass(encoder, &|pass| step.encode_apply(pass));
        })?;
        let reduced = run(&|encoder| pass(encoder, &|pass| step.encode_reduce(pass)))?;
        let written = |bytes: &Vec<u8>| bytes.iter().any(|&byte| byte != 0);
        let stages = (written(&reduced[0]), written(&reduced[2]));
        if in_two != expected || stages != (false, strategy == Strategy::Split) {
            return Err(format!("{strategy}: the same in two passes: {}, {stages:?}", in_two == expected).into());
        }
    }
    Ok(())
}

fn of_another(adapter: &Adapter) -> Result<(), Failed> {
    let batch = Batch::new(adapter)?;
    for samples in [0, 7, 8] {
        owed("micro-batches", batch.layer.micro_batches(samples), is_mismatch("micro-batch"))?;
    }
    Step::of_micro_batches(batch.bind(&[0, 1, 2])?)?;
    for numbers in [&[0, 1u64] as &[u64], &[0, 2, 1], &[1, 0, 2], &[0, 1, 2, 2], &[0, 0, 2], &[]] {
        owed("order", Step::of_micro_batches(batch.bind(numbers)?), is_mismatch("micro-batches"))?;
    }
    // Two of them are as large, but those of another batch.
    let other = batch.layer.with_batch(9)?.micro_batches(SAMPLES)?;
    let mut steps = batch.bind(&[0, 1])?;
    steps.push(other[2].forward_training(&batch.forward(2))?);
    owed("another batch", Step::of_micro_batches(steps), is_mismatch("micro-batches"))?;
    // The same batch, whose partial results lie elsewhere.
    let in_two = |splits| {
        let choice = Choice { workgroup_size: Some(4), ..Choice::split(splits, None) };
        let (shape, config) = (batch.layer.shape().clone(), Config::default());
        BatchNorm::with_choice(&adapter.kernels, shape, config, &choice)?.micro_batches(SAMPLES)
    };
    let mut steps = Vec::new();
    for (number, of) in [in_two(1)?, in_two(2)?, in_two(1)?].iter().enumerate() {
        steps.push(of[number].forward_training(&batch.forward(number as u64))?);
    }
    owed("another plan", Step::of_micro_batches(steps), is_mismatch("micro-batches"))
}

fn shared(adapter: &Adapter) -> Result<(), Failed> {
    let batch = Batch::new(adapter)?;
    let other = storage(&adapter.device, "another", batch.scratch.size().max(256))?;
    let last = |forward: ForwardTraining<'_>| -> Result<Step, Error> {
        let mut steps = batch.bind(&[0, 1])?;
        steps.push(batch.micro_batches[2].forward_training(&forward)?);
        Step::of_micro_batches(steps)
    };
    let whole = wgpu::Buffer::as_entire_buffer_binding;
    let mut forward = batch.forward(2);
    forward.scratch = whole(&other);
    owed("another scratch", last(forward), is_mismatch("scratch"))?;
    owed("gamma in one alone", last(batch.forward(2).gamma(whole(&other))), is_mismatch("gamma"))?;
    last(batch.forward(2))?;
    Ok(())
}

/// What the first writes the second would read as its x.
fn over_another(adapter: &Adapter) -> Result<(), Failed> {
    let batch = Batch::new(adapter)?;
    let mut steps = batch.bind(&[0])?;
    let mut second = batch.forward(1);
    second.y = BufferBinding { buffer: &batch.y, offset: 256, size: None };
    steps.push(batch.micro_batches[1].forward_training(&second)?);
    steps.extend(batch.bind(&[2])?);
    let is_overlap = |error: &Error| matches!(error.kind(), Error::Overlap { first: "y", second: "y", .. });
    owed("y over y", Step::of_micro_batches(steps), is_overlap)
}

fn own_forward(adapter: &Adapter) -> Result<(), Failed> {
    let batch = Batch::new(adapter)?;
    let steps = batch.bind(&[0, 1, 2])?;
    let dy = storage(&adapter.device, "dy", 2 * STRIDE)?;
    let dx = storage(&adapter.device, "dx", 2 * STRIDE)?;
    let whole = wgpu::Buffer::as_entire_buffer_binding;
    let backward = |of: usize, number: usize| {
        let bindings = Backward::new(steps[of].saved()?, whole(&dy), whole(&batch.scratch)).dx(whole(&dx));
        batch.micro_batches[number].backward_training(&bindings)
    };
    backward(1, 1)?;
    owed("that of another one", backward(0, 1), is_mismatch("saved"))?;
    let of_batch = batch
        .layer
        .backward_training(&Backward::new(steps[0].saved()?, whole(&dy), whole(&batch.scratch)).dx(whole(&dx)));
    owed("that of a part for the whole", of_batch, is_mismatch("saved"))
}
