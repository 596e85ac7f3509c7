//! What `bn plan --json` prints.

use super::programs::Programs;
use batchnorm_wgpu::kernels::Access;
use batchnorm_wgpu::plan::{Parameter, Params};
use batchnorm_wgpu::program::{Bound, Dispatch, Stage};
use batchnorm_wgpu::{DType, Error, Operation, Plan, Shape, View, Views};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// An operation on tensors of a shape, and what it dispatches or why it is refused.
pub struct Planned<'a> {
    /// Of x.
    pub shape: &'a Shape,
    /// Of every tensor.
    pub dtype: DType,
    /// What is done.
    pub operation: Operation,
    /// What it dispatches.
    pub programs: Result<Programs, Error>,
}

/// The same for a file. It has a plan and dispatches, or the reason why it is refused.
#[derive(Serialize)]
pub struct OperationRecord<'a> {
    dims: &'a [usize],
    layout: String,
    /// Tensors that are channels of wider ones.
    views: BTreeMap<&'static str, ViewRecord>,
    /// Samples of a micro-batch, where the batch comes in several.
    micro_batches: Option<usize>,
    dtype: &'static str,
    operation: &'static str,
    device: &'a str,
    plan: Option<PlanRecord<'a>>,
    dispatches: Vec<DispatchRecord>,
    refused: Option<String>,
}

#[derive(Serialize)]
struct ViewRecord {
    first: usize,
    of: usize,
}

#[derive(Serialize)]
struct PlanRecord<'a> {
    #[serde(flatten)]
    plan: &'a Plan,
    lanes: u32,
    scratch_planes: u64,
}

#[derive(Serialize)]
struct DispatchRecord {
    /// Whose tensors it binds, from 0; 0 where the batch comes in one.
    micro_batch: usize,
    stage: &'static str,
    kernel: String,
    workgroup_size: u32,
    grid: [u32; 2],
    workgroups: u32,
    moves: u32,
    pooled: bool,
    bindings: Vec<BindingRecord>,
    params: Value,
}

#[derive(Serialize)]
struct BindingRecord {
    number: u32,
    name: &'static str,
    role: &'static str,
    access: &'static str,
    begin: u64,
    bytes: u64,
}

impl<'a> OperationRecord<'a> {
    /// Of what is planned for a device.
    pub fn new(planned: &'a Planned<'_>, device: &'a str) -> Self {
        let programs = planned.programs.as_ref();
        let Views { x, y, residual } = planned.shape.views();
        let views = [("x", x), ("y", y), ("residual", residual)].into_iter();
        Self {
            dims: planned.shape.dims(),
            layout: planned.shape.layout().to_string(),
            views: views
                .filter_map(|(name, view)| view.map(|View { first, of }| (name, ViewRecord { first, of })))
                .collect(),
            micro_batches: programs.ok().and_then(|programs| programs.micro_batches).map(|micro| micro.samples),
            dtype: planned.dtype.name(),
            operation: planned.operation.name(),
            device,
            plan: programs.ok().map(|programs| PlanRecord::from(&programs.plan)),
            dispatches: programs.map_or(Vec::new(), |programs| programs.dispatches.iter().map(Into::into).collect()),
            refused: programs.err().map(ToString::to_string),
        }
    }
}

impl<'a> From<&'a Plan> for PlanRecord<'a> {
    fn from(plan: &'a Plan) -> Self {
        Self { plan, lanes: plan.workgroup_size / plan.tile, scratch_planes: plan.scratch_planes() }
    }
}

impl From<&(usize, Dispatch)> for DispatchRecord {
    fn from((micro_batch, dispatch): &(usize, Dispatch)) -> Self {
        let stage = match dispatch.stage {
            Stage::Reduce => "reduce",
            Stage::Settle => "settle",
            Stage::Apply => "apply",
        };
        Self {
            micro_batch: *micro_batch,
            stage,
            kernel: dispatch.variant.name(),
            workgroup_size: dispatch.workgroup_size,
            grid: dispatch.grid,
            workgroups: dispatch.params.groups,
            moves: dispatch.variant.moves(),
            pooled: dispatch.variant.pooled,
            bindings: dispatch.bindings.iter().map(Into::into).collect(),
            params: by_name(&dispatch.params),
        }
    }
}

impl From<&Bound> for BindingRecord {
    fn from(bound: &Bound) -> Self {
        let access = match bound.access {
            Access::Read => "read",
            Access::Write => "write",
        };
        Self {
            number: bound.number,
            name: bound.name,
            role: bound.role,
            access,
            begin: bound.begin,
            bytes: bound.bytes,
        }
    }
}

fn by_name(params: &Params) -> Value {
    let value = |parameter| match parameter {
        Parameter::U32(value) => Value::from(value),
        Parameter::F32(value) => Value::from(value),
    };
    Value::Object(params.by_name().map(|(name, parameter)| (name.to_owned(), value(parameter))).collect())
}
