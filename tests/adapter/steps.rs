//! What may be changed of a bound step, and a layer for another batch size.

use super::Adapter;
use super::misuse::owed;
use batchnorm_wgpu::host::{download, guarded, storage};
use batchnorm_wgpu::kernels::Strategy;
use batchnorm_wgpu::{
    BatchNorm, Choice, Config, Error, Inference, Kernels, Layout, Operation, RunningPolicy, RunningStatistics, Shape,
    Statistics, Step, Training, TrainingSteps, wgpu,
};
use batchnorm_wgpu_check::data::normal;
use batchnorm_wgpu_check::matrix::part_limits;
use libtest_mimic::{Failed, Trial};

/// The checks as tests of an adapter.
pub fn trials(adapter: &Adapter) -> Vec<Trial> {
    let test = |name: &str, check: fn(&Adapter) -> Result<(), Failed>| {
        adapter.test(&format!("{}::steps::{name}", adapter.key), check)
    };
    vec![
        test("a_schedule_is_binding_anew_to_the_bit", schedule),
        test("a_schedule_holds_for_tensors_in_parts", schedule_in_parts),
        test("what_was_encoded_before_takes_what_is_set_last", set_last),
        test("what_a_step_does_not_have_is_refused", refused),
        test("a_lost_device_is_an_error_or_silent", lost),
        test("another_batch_size_is_the_same_layer", another_batch),
    ]
}

/// Buffers of one layer, and what is bound over them.
struct Network {
    kernels: Kernels,
    queue: wgpu::Queue,
    shape: Shape,
    choice: Choice,
    x: wgpu::Buffer,
    outputs: Outputs,
    scratch: wgpu::Buffer,
}

/// All that a step leaves.
struct Outputs {
    y: wgpu::Buffer,
    dx: wgpu::Buffer,
    dgamma: wgpu::Buffer,
    saved: wgpu::Buffer,
    running: wgpu::Buffer,
    inferred: wgpu::Buffer,
    observed: wgpu::Buffer,
    saved_of_statistics: wgpu::Buffer,
}

/// A training step, then inference by the statistics that it left, then a second set of running statistics.
struct Steps {
    training: TrainingSteps,
    inference: Step,
    statistics: Step,
}

impl Network {
    fn new(adapter: &Adapter, dims: &[usize], strategy: Strategy) -> Result<Self, Error> {
        let shape = Shape::new(dims, Layout::ChannelsFirst)?;
        let choice = Choice::by(strategy);
        let layer = BatchNorm::with_choice(&adapter.kernels, shape.clone(), Config::default(), &choice)?;
        let new = |size| storage(&adapter.device, "of a schedule", size);
        let tensor = || new(layer.tensor_size());
        let running = || -> Result<_, Error> {
            let buffer = new(RunningStatistics::size(shape.channels()))?;
            adapter.queue.write_buffer(&buffer, 0, &RunningStatistics::new(shape.channels()).to_bytes()?);
            Ok(buffer)
        };
        let outputs = Outputs {
            y: tensor()?,
            dx: tensor()?,
            dgamma: new(4 * shape.channels() as u64)?,
            saved: new(layer.saved_size())?,
            running: running()?,
            inferred: tensor()?,
            observed: running()?,
            saved_of_statistics: new(layer.saved_size())?,
        };
        let (x, scratch) = (tensor()?, new(layer.scratch_size())?);
        let (kernels, queue) = (adapter.kernels.clone(), adapter.queue.clone());
        Ok(Self { kernels, queue, choice, x, outputs, scratch, shape })
    }

    /// Binds everything with a momentum and an eps.
    fn bind(&self, momentum: f64, eps: f64) -> Result<Steps, Error> {
        let config = Config { eps, running: RunningPolicy::exponential(momentum), ..Config::default() };
        let layer = BatchNorm::with_choice(&self.kernels, self.shape.clone(), config, &self.choice)?;
        // `whole` is no strategy of inference.
        let inferring = BatchNorm::new(&self.kernels, self.shape.clone(), config)?;
        let whole = wgpu::Buffer::as_entire_buffer_binding;
        let outputs = &self.outputs;
        let training = layer.training(
            &Training::new(
                whole(&self.x),
                whole(&outputs.y),
                whole(&self.x),
                whole(&outputs.saved),
                whole(&self.scratch),
            )
            .dx(whole(&outputs.dx))
            .dgamma(whole(&outputs.dgamma))
            .running(whole(&outputs.running)),
        )?;
        let inference =
            inferring.inference(&Inference::new(whole(&self.x), whole(&outputs.inferred), whole(&outputs.running)))?;
        let statistics = layer.statistics(
            &Statistics::new(whole(&self.x), whole(&self.scratch))
                .saved(whole(&outputs.saved_of_statistics))
                .running(whole(&outputs.observed)),
        )?;
        Ok(Steps { training, inference, statistics })
    }

    /// Runs the steps on the `i`-th batch and returns all that they leave.
    fn run(&self, steps: &Steps, i: u64) -> Result<Vec<Vec<u8>>, Error> {
        let x = normal(self.shape.elements(), 100 + i);
        let device = self.kernels.device();
        let mut encoder = device.create_command_encoder(&Default::default());
        let Steps { training, inference, statistics } = steps;
        for step in [&training.forward, &training.backward, inference, statistics] {
            step.encode_pass(&mut encoder);
        }
        guarded(device, "running the steps", || {
            self.queue.write_buffer(&self.x, 0, bytemuck::cast_slice(&x));
            self.queue.submit([encoder.finish()])
        })?;
        let Outputs { y, dx, dgamma, saved, running, inferred, observed, saved_of_statistics } = &self.outputs;
        download(device, &self.queue, &[y, dx, dgamma, saved, running, inferred, observed, saved_of_statistics])
    }
}

impl Steps {
    fn set(&self, queue: &wgpu::Queue, momentum: f64, eps: f64) -> Result<(), Error> {
        self.training.set_momentum(queue, momentum)?;
        self.statistics.set_momentum(queue, momentum)?;
        self.training.set_eps(queue, eps)?;
        self.statistics.set_eps(queue, eps)?;
        self.inference.set_eps(queue, eps)
    }
}

/// Momentum and eps of ten steps, the ends of their ranges among them.
fn ten_steps() -> impl Iterator<Item = (u64, f64, f64)> {
    (0..10).map(|i| {
        let momentum = [0.9, 0.5, 0.0, 0.3, 0.1, 1.0, 0.25, 0.07, 0.01, 0.6][i];
        (i as u64, momentum, 1e-5 * 4_f64.powi(i as i32))
    })
}

fn same_as_bound_anew(adapter: &Adapter, dims: &[usize], strategy: Strategy) -> Result<(), Failed> {
    let (once, anew) = (Network::new(adapter, dims, strategy)?, Network::new(adapter, dims, strategy)?);
    let steps = once.bind(0.1, 1e-5)?;
    for (i, momentum, eps) in ten_steps() {
        steps.set(&once.queue, momentum, eps)?;
        let (got, expected) = (once.run(&steps, i)?, anew.run(&anew.bind(momentum, eps)?, i)?);
        let names = ["y", "dx", "dgamma", "saved", "running", "inferred", "observed", "saved of statistics"];
        let differ = names.iter().zip(got.iter().zip(&expected)).filter(|(_, (got, expected))| got != expected);
        let differ: Vec<_> = differ.map(|(name, _)| name).collect();
        if !differ.is_empty() {
            return Err(format!("{strategy}, step {i}: {differ:?} differ from those of a step bound anew").into());
        }
    }
    Ok(())
}

fn schedule(adapter: &Adapter) -> Result<(), Failed> {
    for strategy in [Strategy::Split, Strategy::Whole] {
        same_as_bound_anew(adapter, &[4, 8, 6, 6], strategy)?;
    }
    Ok(())
}

fn schedule_in_parts(adapter: &Adapter) -> Result<(), Failed> {
    let small = adapter.with_limits(part_limits(adapter.adapter.limits()))?;
    let dims = [40, 8, 2, 2];
    let layer = BatchNorm::new(&small.kernels, Shape::new(&dims, Layout::ChannelsFirst)?, Config::default())?;
    if layer.plan(Operation::ForwardTraining)?.parts < 3 {
        return Err(format!("{dims:?} is not bound in parts").into());
    }
    same_as_bound_anew(&small, &dims, Strategy::Split)
}

/// Commands that are encoded already run with what is set before they are submitted, the last of several values.
fn set_last(adapter: &Adapter) -> Result<(), Failed> {
    let network = Network::new(adapter, &[4, 8, 6, 6], Strategy::Split)?;
    let steps = network.bind(0.1, 1e-5)?;
    let x = normal(network.shape.elements(), 100);
    network.queue.write_buffer(&network.x, 0, bytemuck::cast_slice(&x));
    let mut encoder = adapter.device.create_command_encoder(&Default::default());
    steps.training.forward.encode_pass(&mut encoder);
    let commands = encoder.finish();
    for momentum in [0.9, 0.25, 0.0] {
        steps.training.set_momentum(&network.queue, momentum)?;
    }
    network.queue.submit([commands]);
    let running = download(&adapter.device, &network.queue, &[&network.outputs.running])?;
    let running = RunningStatistics::from_bytes(&running[0])?;
    let new = RunningStatistics::new(8);
    match (running.mean == new.mean, running.var == new.var, running.averaged == [1; 8]) {
        (true, true, true) => Ok(()),
        _ => Err(format!("momentum 0 leaves the running statistics as they are, got {running:?}").into()),
    }
}

fn refused(adapter: &Adapter) -> Result<(), Failed> {
    let network = Network::new(adapter, &[4, 8, 6, 6], Strategy::Split)?;
    let queue = &network.queue;
    let Steps { training: TrainingSteps { forward, backward }, inference, statistics } = network.bind(0.1, 1e-5)?;
    for momentum in [-0.1, 1.1, f64::NAN] {
        let outside = |error: &Error| matches!(error, Error::Momentum { .. });
        owed("momentum", forward.set_momentum(queue, momentum), outside)?;
        owed("momentum", statistics.set_momentum(queue, momentum), outside)?;
    }
    for eps in [0.0, -1e-5, f64::NAN, 1e-40] {
        owed("eps", forward.set_eps(queue, eps), |error| matches!(error, Error::Eps { .. }))?;
    }
    said(
        backward.set_momentum(queue, 0.5),
        "momentum: expected a step that updates running statistics by RunningPolicy::exponential, got backward_training",
    )?;
    said(inference.set_momentum(queue, 0.5), "got inference")?;
    said(
        backward.set_eps(queue, 1e-3),
        "eps: expected a step that computes 1 / sqrt(variance + eps): a forward pass, whose backward pass takes it from \
         there, or statistics with `saved`, got backward_training",
    )?;
    let layer = |running| {
        let layer = BatchNorm::new(&adapter.kernels, network.shape.clone(), Config { running, ..Config::default() });
        Ok::<_, Error>(layer?.with_label("layer3.bn1"))
    };
    let whole = wgpu::Buffer::as_entire_buffer_binding;
    let bind = |layer: &BatchNorm, saved, running| {
        let bound = |is: bool, buffer| is.then(|| whole(buffer));
        layer.statistics(
            &Statistics::new(whole(&network.x), whole(&network.scratch))
                .saved(bound(saved, &network.outputs.saved))
                .running(bound(running, &network.outputs.running)),
        )
    };
    let exponential = layer(RunningPolicy::default())?;
    let without = bind(&exponential, true, false)?;
    said(without.set_momentum(queue, 0.5), "layer3.bn1: momentum: ")?;
    said(without.set_momentum(queue, 0.5), "got statistics without running statistics")?;
    said(bind(&exponential, false, true)?.set_eps(queue, 1e-3), "got statistics")?;
    said(without.saved().map(drop), "layer3.bn1: saved: ")?;
    for (policy, name) in [(RunningPolicy::cumulative(), "cumulative"), (RunningPolicy::pooled(), "pooled")] {
        let step = bind(&layer(policy)?, false, true)?;
        said(step.set_momentum(queue, 0.5), &format!("got statistics with RunningPolicy::{name}"))?;
    }
    Ok(())
}

fn said(outcome: Result<(), Error>, words: &str) -> Result<(), Failed> {
    owed(words, outcome, |error| error.to_string().contains(words))
}

/// As everything that is submitted to a lost device.
fn lost(adapter: &Adapter) -> Result<(), Failed> {
    let own = adapter.with_default_limits()?;
    let network = Network::new(&own, &[4, 8, 6, 6], Strategy::Split)?;
    let steps = network.bind(0.1, 1e-5)?;
    own.device.destroy();
    match steps.training.set_momentum(&network.queue, 0.5) {
        Ok(()) | Err(Error::DeviceLost { .. }) => Ok(()),
        other => Err(format!("got {other:?}").into()),
    }
}

fn another_batch(adapter: &Adapter) -> Result<(), Failed> {
    let shape = |n| Shape::new(&[n, 8, 6, 6], Layout::ChannelsFirst);
    let choice = Choice::by(Strategy::Split);
    let config = Config { eps: 1e-3, in_place: true, ..Config::default() };
    let new = |n| BatchNorm::with_choice(&adapter.kernels, shape(n)?, config, &choice);
    let layer = new(4)?.with_label("layer3.bn1");
    let (got, expected) = (layer.with_batch(9)?, new(9)?);
    let described = |layer: &BatchNorm| {
        let plans = Operation::ALL.map(|operation| layer.plan(operation).map_err(|error| error.kind().to_string()));
        let config = *layer.description().config();
        (layer.shape().clone(), config, plans, [layer.tensor_size(), layer.scratch_size(), layer.saved_size()])
    };
    if described(&got) != described(&expected) || got.label() != Some("layer3.bn1") {
        let [got, expected] = [&got, &expected].map(described);
        return Err(format!("got {got:?}, expected {expected:?}").into());
    }
    let empty = |error: &Error| {
        matches!(error, Error::InLayer { .. }) && matches!(error.kind(), Error::EmptyBatch { dims } if dims[0] == 0)
    };
    owed("no sample", layer.with_batch(0), empty)
}
