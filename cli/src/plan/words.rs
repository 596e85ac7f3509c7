//! A plan in words.

use super::programs::{MicroBatches, Programs};
use batchnorm_wgpu::kernels::{Geometry, Reduction, Strategy, Variant};
use batchnorm_wgpu::{Operation, Plan};
use std::fmt::Display;

/// How an operation goes about its tensors, who owns what, and how much is moved.
pub fn sentences(operation: Operation, programs: &Programs) -> String {
    let plan = &programs.plan;
    let held = plan.approach.held();
    let reduces = programs.dispatches.iter().any(|(_, dispatch)| dispatch.variant.kernel.reduces);
    let all = [strategy(plan, programs.dispatches.len()), values(plan, programs), workgroups(plan)];
    let rest = [
        (plan.strategy() == Strategy::Split).then(|| splits(plan)),
        (held > 0).then(|| format!("A lane holds up to {held} values in registers.")),
        reduces.then(|| reduction(plan)),
        plan.approach.reverse().then(|| "The second dispatch goes backwards.".into()),
        Some(moves(operation, programs)),
    ];
    all.into_iter().chain(rest.into_iter().flatten()).collect::<Vec<_>>().join(" ")
}

fn strategy(plan: &Plan, dispatches: usize) -> String {
    let what = match plan.strategy() {
        Strategy::Split => "several workgroups may share a column",
        Strategy::Whole => "one workgroup goes over a whole column",
        Strategy::Resident => "one workgroup holds a whole column in registers",
        Strategy::Plain => "one workgroup goes over a whole column, as the textbook has it",
    };
    format!("Strategy {}: {what}; {}.", plan.strategy(), count(dispatches, "dispatch", "dispatches"))
}

fn values(plan: &Plan, programs: &Programs) -> String {
    let what = match plan.geometry {
        Geometry::Scalar => "one element",
        Geometry::Planes4 => "four neighbouring elements of a channel",
        Geometry::Rows4 => "four neighbouring elements of a row, of as many channels",
    };
    let columns = count(plan.columns, "column", "columns");
    let mut text = format!("Geometry {}: a value is {what}; {columns} of ", plan.geometry);
    text += &count(plan.values, "value", "values");
    if plan.fold > 1 {
        text += &format!(", {} samples side by side counting as one", plan.fold);
    }
    if let Some(MicroBatches { samples, count: number }) = programs.micro_batches {
        text += &format!(
            ", in {number} micro-batches of up to {samples} samples, up to {} each, which are reduced one after the other before \
             the first is finished",
            count(plan.part_values, "value", "values")
        );
    } else if plan.parts > 1 {
        text += &format!(", in {} parts of up to {} each, since a binding holds no more", plan.parts, plan.part_values);
    }
    text + "."
}

fn workgroups(plan: &Plan) -> String {
    let lanes = count(plan.workgroup_size / plan.tile, "lane", "lanes");
    let columns = match plan.tile {
        1 => "one column".into(),
        tile => format!("a tile of {tile} columns"),
    };
    let neighbours = match plan.interleaved && plan.tile > 1 {
        true => ", neighbouring ones having neighbouring columns",
        false => "",
    };
    let invocations = count(plan.workgroup_size, "invocation", "invocations");
    format!("A workgroup of {invocations} has {columns}, {lanes} for each{neighbours}.")
}

fn splits(plan: &Plan) -> String {
    let part = if plan.parts > 1 { " of a part" } else { "" };
    match plan.splits() {
        1 => format!("Splits 1: the segment of a workgroup is all of a column{part}."),
        splits => format!(
            "Splits {splits}: so many workgroups share a column{part}, each a segment of {}.",
            count(plan.segment, "value", "values")
        ),
    }
}

fn reduction(plan: &Plan) -> String {
    let what = match plan.reduction {
        Reduction::Tree => "lanes are summed by a tree in workgroup memory",
        Reduction::Subgroup => "lanes are summed within subgroups first",
    };
    format!("Reduction {}: {what}.", plan.reduction)
}

/// Of a tensor in parts, each kernel is counted once: every dispatch has its own elements.
fn moves(operation: Operation, programs: &Programs) -> String {
    let mut kernels: Vec<&Variant> = programs.dispatches.iter().map(|(_, dispatch)| &dispatch.variant).collect();
    kernels.dedup();
    let moved: u32 = kernels.iter().map(|variant| variant.moves()).sum();
    let least = operation.least_moves();
    format!(
        "For each element of x, {} read or written; with every output and no residual {operation} needs {least}.",
        count(moved, "element is", "elements are")
    )
}

fn count<N: Display + PartialEq + From<u8>>(number: N, one: &str, many: &str) -> String {
    let noun = if number == N::from(1) { one } else { many };
    format!("{number} {noun}")
}
