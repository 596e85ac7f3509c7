//! That statistics and parameters have indices of their own: programs of batch norm, run with fewer channels than statistics, are an
//! instance norm. The library has no such layer yet; its kernels must not take one index for the other.

use super::Adapter;
use batchnorm_wgpu::host::{download, guarded, storage, upload};
use batchnorm_wgpu::kernels::{self, PARAMETER_PLANES, STATISTIC_PLANES, Strategy};
use batchnorm_wgpu::plan::Params;
use batchnorm_wgpu::program::{Description, Dispatch, Given};
use batchnorm_wgpu::{Choice, Config, Error, Layout, Operation, Shape, wgpu};
use batchnorm_wgpu_check::compute::{BindingUse, CompiledKernel};
use batchnorm_wgpu_check::data::normal;
use libtest_mimic::{Failed, Trial};
use std::collections::HashMap;

/// The checks as tests of an adapter.
pub fn trials(adapter: &Adapter) -> Vec<Trial> {
    let name = format!("{}::indices::instances_share_the_parameters_of_their_channel", adapter.key);
    vec![adapter.test(&name, instances)]
}

const SAMPLES: usize = 3;
const CHANNELS: usize = 4;

/// The statistics of each channel of each sample, and parameters for each channel: to the bit what a batch norm of one sample of so
/// many times the channels gives, with as many copies of the parameters.
fn instances(adapter: &Adapter) -> Result<(), Failed> {
    let of_channels = |seed| normal(CHANNELS, seed);
    let copies = |values: Vec<f32>| values.repeat(SAMPLES);
    for ([height, width], strategy) in [
        ([2, 6], Strategy::Split),
        ([2, 6], Strategy::Whole),
        ([2, 6], Strategy::Resident),
        ([3, 5], Strategy::Split),
        ([3, 5], Strategy::Plain),
    ] {
        let shape = Shape::new(&[1, SAMPLES * CHANNELS, height, width], Layout::ChannelsFirst)?;
        let layer = adapter.kernels.describe(shape, Config::default(), &Choice::by(strategy))?;
        let [y, dx, saved] =
            run(adapter, &layer, SAMPLES * CHANNELS, &copies(of_channels(1)), &copies(of_channels(2)))?;
        let [y_shared, dx_shared, saved_shared] = run(adapter, &layer, CHANNELS, &of_channels(1), &of_channels(2))?;
        let statistics = STATISTIC_PLANES.len() * SAMPLES * CHANNELS;
        let parameters = statistics..statistics + PARAMETER_PLANES.len() * CHANNELS;
        for (what, holds) in [
            ("y", y == y_shared),
            ("dx", dx == dx_shared),
            ("statistics", saved[..statistics] == saved_shared[..statistics]),
            ("parameters", saved_shared[parameters.clone()] == [of_channels(1), of_channels(2)].concat()),
            ("y in all places", y.iter().all(|&y| y != 0.0)),
        ] {
            if !holds {
                return Err(format!("{strategy} over planes of {height} x {width}: {what} differs").into());
            }
        }
        if saved_shared[parameters.end..].iter().any(|&word| word != 0.0) {
            return Err(format!("{strategy}: more was saved than statistics and parameters").into());
        }
    }
    Ok(())
}

/// y, dx and what is saved, with parameters of so many channels.
fn run(
    adapter: &Adapter,
    layer: &Description,
    channels: usize,
    gamma: &[f32],
    beta: &[f32],
) -> Result<[Vec<f32>; 3], Error> {
    const FORWARD: [&str; 6] = ["x", "y", "gamma", "beta", "saved", "scratch"];
    const BACKWARD: [&str; 5] = ["x", "dy", "dx", "saved", "scratch"];
    let Adapter { device, queue, .. } = adapter;
    let elements = layer.shape().elements();
    let mut buffers: HashMap<&str, wgpu::Buffer> = HashMap::new();
    for (name, values) in
        [("x", normal(elements, 3)), ("dy", normal(elements, 4)), ("gamma", gamma.into()), ("beta", beta.into())]
    {
        // As much is bound as a batch norm of all statistics would read.
        let padded = [values, vec![f32::NAN; elements]].concat();
        buffers.insert(name, upload(device, queue, name, bytemuck::cast_slice(&padded))?);
    }
    for (name, extent) in Operation::ALL.into_iter().flat_map(|operation| layer.bindings(operation)) {
        if !buffers.contains_key(name) {
            buffers.insert(name, storage(device, name, layer.size_of(extent))?);
        }
    }
    for (operation, names) in [(Operation::ForwardTraining, &FORWARD[..]), (Operation::BackwardTraining, &BACKWARD)] {
        for mut dispatch in layer.lower(operation, &Given::apart(names))?.dispatches {
            assert_eq!(dispatch.params.statistics, dispatch.params.channels);
            dispatch.params.channels = channels as u32;
            run_dispatch(adapter, &dispatch, &buffers)?;
        }
    }
    let contents = download(device, queue, &[&buffers["y"], &buffers["dx"], &buffers["saved"]])?;
    let [y, dx, saved] = [0, 1, 2].map(|i| bytemuck::pod_collect_to_vec::<u8, f32>(&contents[i]));
    Ok([y, dx, saved])
}

fn run_dispatch(adapter: &Adapter, dispatch: &Dispatch, buffers: &HashMap<&str, wgpu::Buffer>) -> Result<(), Error> {
    let Adapter { device, queue, .. } = adapter;
    let params = guarded(device, "creating parameters", || {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("parameters"),
            size: size_of::<Params>() as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    })?;
    queue.write_buffer(&params, 0, bytemuck::bytes_of(&dispatch.params));
    let (mut accesses, mut bound) = (vec![BindingUse::Uniform], vec![params.as_entire_buffer_binding()]);
    for binding in &dispatch.bindings {
        accesses.push(match binding.access {
            kernels::Access::Read => BindingUse::Read,
            kernels::Access::Write => BindingUse::Write,
        });
        let (buffer, size) = (&buffers[binding.name], wgpu::BufferSize::new(binding.bytes));
        bound.push(wgpu::BufferBinding { buffer, offset: binding.begin, size });
    }
    let [workgroups, 1] = dispatch.grid else {
        panic!("{:?}: a small tensor has one row of workgroups", dispatch.grid)
    };
    let pipeline = CompiledKernel::new(device, &dispatch.variant.name(), &dispatch.shader().text, &accesses, &[])?;
    pipeline.bind(&bound, workgroups)?.run(queue)
}
