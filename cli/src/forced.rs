//! Choices of a plan that are forced on the command line.

use crate::names::named;
use batchnorm_wgpu::kernels::{Geometry, Reduction, Storage, Strategy};
use batchnorm_wgpu::{Approach, Choice, DType, Misplaced};
use clap::error::ErrorKind;
use clap::{ArgMatches, Command};

/// The flags, side by side.
#[derive(clap::Args)]
struct Flags {
    /// Force the strategy, how the work on a channel is divided: split, whole, resident or plain
    #[arg(long, value_name = "NAME", value_parser = strategy)]
    strategy: Option<Strategy>,
    /// Force the geometry, which elements are loaded together: scalar, planes4 or rows4
    #[arg(long, value_name = "NAME", value_parser = geometry)]
    geometry: Option<Geometry>,
    /// Force the reduction, how a workgroup sums: tree or subgroup
    #[arg(long, value_name = "NAME", value_parser = reduction)]
    reduction: Option<Reduction>,
    /// Force the number of invocations in a workgroup, a power of two
    #[arg(long, value_name = "N")]
    workgroup_size: Option<u32>,
    /// Force the number of workgroups that share a channel; for the strategy split
    #[arg(long, value_name = "N")]
    splits: Option<u32>,
    /// Force the number of values that a lane holds in registers; for the strategy resident
    #[arg(long, value_name = "N")]
    held: Option<u32>,
    /// Force whether the second dispatch reads the tensor backwards; for the strategy split
    #[arg(long, value_name = "BOOL")]
    reverse: Option<bool>,
    /// Force how shaders load and store elements, such as f16_words; for tensors of the type that it belongs to
    #[arg(long, value_name = "NAME", value_parser = storage)]
    storage: Option<Storage>,
}

/// What is taken out of the plan's hands.
#[derive(Clone, Copy, Debug)]
pub struct Forced(Choice);

impl Forced {
    /// What is forced for tensors of a dtype. A storage is forced on those of its own.
    pub fn choice(&self, dtype: DType) -> Choice {
        Choice { storage: self.0.storage.filter(|storage| storage.dtype() == dtype), ..self.0 }
    }

    /// The storage that is forced, where no tensor has its dtype.
    pub fn idle_storage(&self, dtypes: &[DType]) -> Option<Storage> {
        self.0.storage.filter(|storage| !dtypes.contains(&storage.dtype()))
    }
}

impl clap::FromArgMatches for Forced {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let Flags { strategy, geometry, reduction, workgroup_size, splits, held, reverse, storage } =
            Flags::from_arg_matches(matches)?;
        let approach = Approach::said(strategy, splits, reverse, held).map_err(|Misplaced { what, strategy }| {
            let reason = format!("--{what} is for the strategy {strategy}: give it with --strategy {strategy}\n");
            clap::Error::raw(ErrorKind::MissingRequiredArgument, reason)
        })?;
        Ok(Self(Choice { approach, geometry, reduction, workgroup_size, storage }))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Forced {
    fn augment_args(command: Command) -> Command {
        Flags::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Flags::augment_args_for_update(command)
    }
}

fn strategy(name: &str) -> Result<Strategy, String> {
    named(name, &Strategy::ALL, Strategy::name)
}

fn geometry(name: &str) -> Result<Geometry, String> {
    named(name, &Geometry::ALL, Geometry::name)
}

fn reduction(name: &str) -> Result<Reduction, String> {
    named(name, &Reduction::ALL, Reduction::name)
}

fn storage(name: &str) -> Result<Storage, String> {
    named(name, &Storage::ALL, Storage::name)
}
