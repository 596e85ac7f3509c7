//! `Plan::new`: whatever is asked for comes as a plan that keeps what `batchnorm_wgpu_check::plan` lists, or as an error
//! that the request explains.

#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use batchnorm_wgpu::kernels::{Geometry, Reduction, Storage, Strategy};
use batchnorm_wgpu::{
    Approach, Capabilities, Choice, DType, Layout, Operation, Preference, Shape, Tuning, TuningPoint, wgpu,
};
use batchnorm_wgpu_check::plan::Request;
use libfuzzer_sys::fuzz_target;

/// The request; the library's types know nothing of fuzzing.
#[derive(Debug)]
struct Drawn(Option<Request>);

impl<'a> Arbitrary<'a> for Drawn {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let dims = (0..u.int_in_range(1..=5)?).map(|_| magnitude(u)).collect::<Result<Vec<_>>>()?;
        let layout = *u.choose(&[Layout::ChannelsFirst, Layout::ChannelsLast])?;
        let Ok(shape) = Shape::new(&dims, layout) else { return Ok(Self(None)) };
        Ok(Self(Some(Request {
            operation: *u.choose(&Operation::ALL)?,
            shape,
            dtype: *u.choose(&DType::ALL)?,
            capabilities: capabilities(u)?,
            choice: choice(u)?,
            tuning: tuning(u)?,
        })))
    }
}

/// A number of any size, small ones more often.
fn magnitude(u: &mut Unstructured<'_>) -> Result<usize> {
    let bits = u.int_in_range(0..=34)?;
    u.int_in_range(0..=(1usize << bits))
}

fn limit(u: &mut Unstructured<'_>) -> Result<u32> {
    Ok(magnitude(u)?.try_into().unwrap_or(u32::MAX))
}

fn optional<'a, T>(u: &mut Unstructured<'a>, draw: impl Fn(&mut Unstructured<'a>) -> Result<T>) -> Result<Option<T>> {
    if u.arbitrary()? { draw(u).map(Some) } else { Ok(None) }
}

/// WebGPU's limits, or any; wgpu opens no device whose alignment is below 32 or no power of two.
fn capabilities(u: &mut Unstructured<'_>) -> Result<Capabilities> {
    const KINDS: [wgpu::DeviceType; 5] = [
        wgpu::DeviceType::Cpu,
        wgpu::DeviceType::DiscreteGpu,
        wgpu::DeviceType::IntegratedGpu,
        wgpu::DeviceType::VirtualGpu,
        wgpu::DeviceType::Other,
    ];
    let given = wgpu::Limits::default();
    Ok(Capabilities {
        limits: wgpu::Limits {
            max_compute_invocations_per_workgroup: optional(u, limit)?
                .unwrap_or(given.max_compute_invocations_per_workgroup),
            max_compute_workgroup_size_x: optional(u, limit)?.unwrap_or(given.max_compute_workgroup_size_x),
            max_compute_workgroup_storage_size: optional(u, limit)?.unwrap_or(given.max_compute_workgroup_storage_size),
            max_compute_workgroups_per_dimension: optional(u, limit)?
                .unwrap_or(given.max_compute_workgroups_per_dimension),
            max_storage_buffer_binding_size: optional(u, magnitude)?
                .map_or(given.max_storage_buffer_binding_size, |size| size as u64),
            min_storage_buffer_offset_alignment: 1 << u.int_in_range(5..=12)?,
            ..given
        },
        subgroups: u.arbitrary()?,
        shader_f16: u.arbitrary()?,
        device_type: *u.choose(&KINDS)?,
    })
}

fn approach(u: &mut Unstructured<'_>) -> Result<Approach> {
    Ok(match u.choose(&Strategy::ALL)? {
        Strategy::Split => Approach::Split { splits: optional(u, limit)?, reverse: u.arbitrary()? },
        Strategy::Resident => Approach::Resident { held: optional(u, held)? },
        &other => other.into(),
    })
}

fn choice(u: &mut Unstructured<'_>) -> Result<Choice> {
    Ok(Choice {
        approach: optional(u, approach)?,
        geometry: optional(u, |u| u.choose(&Geometry::ALL).copied())?,
        reduction: optional(u, |u| u.choose(&Reduction::ALL).copied())?,
        workgroup_size: optional(u, |u| workgroup_size(u))?,
        storage: optional(u, |u| u.choose(&Storage::ALL).copied())?,
    })
}

/// Mostly a power of two.
fn workgroup_size(u: &mut Unstructured<'_>) -> Result<u32> {
    if u.ratio(1, 8)? { limit(u) } else { Ok(1 << u.int_in_range(0..=31)?) }
}

/// Mostly a number for which there is a kernel.
fn held(u: &mut Unstructured<'_>) -> Result<u32> {
    if u.ratio(1, 8)? { limit(u) } else { u.choose(&Strategy::HELD).copied() }
}

/// Any preferences: also such as no file has, and that suit neither the shape nor the device.
fn tuning(u: &mut Unstructured<'_>) -> Result<Tuning> {
    let points = (0..u.int_in_range(0..=3)?).map(|_| point(u)).collect::<Result<Vec<_>>>()?;
    Ok(Tuning { points, ..Tuning::none() })
}

fn point(u: &mut Unstructured<'_>) -> Result<TuningPoint> {
    Ok(TuningPoint {
        operation: *u.choose(&Operation::ALL)?,
        rows: u.arbitrary()?,
        channels: magnitude(u)? as u64,
        values: u.arbitrary()?,
        prefer: Preference { choice: choice(u)?, workgroups: limit(u)? },
        fraction_of_copy: None,
    })
}

fuzz_target!(|drawn: Drawn| {
    let Drawn(Some(request)) = drawn else { return };
    if let Err(broken) = request.check() {
        panic!("{request:?}: {broken}");
    }
});
