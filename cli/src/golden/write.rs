//! `bn golden`: cases of the library's own reference, for other implementations.

use crate::activation::ActivationArgs;
use crate::names::{average, dtype, layout};
use crate::output::{self, Claim, Folder};
use crate::terminal::{number, prose, table, text};
use crate::{AnyError, ExitStatus};
use batchnorm_wgpu::{Average, Config, DType, Layout, RunningPolicy, Shape};
use batchnorm_wgpu_check::case::{Case, Operation};
use batchnorm_wgpu_check::data::Data;
use batchnorm_wgpu_check::golden::{GoldenError, MODES, Recipe, set};
use std::path::{Path, PathBuf};

/// Arguments of `bn golden`. Of what takes a list there is a case for every combination.
#[derive(clap::Args)]
pub struct GoldenArgs {
    /// The file (*.safetensors) to write a single case to, or the folder for several, whose files are named after the options.
    /// A file that exists is replaced only with --force
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Write the default set: every rank, layout, dtype and mode, then options and data
    #[arg(long, conflicts_with_all = ["shape", "layout", "dtype", "mode", "eps", "momentum", "biased_running_var",
        "activation", "negative_slope", "residual", "no_weight", "no_bias", "no_gradient", "data"])]
    set: bool,
    /// The dimensions of x in the order of the layout; can be given several times
    #[arg(long, value_name = "DIMS", value_parser = dims, default_value = "4,6,5,7")]
    shape: Vec<Dims>,
    /// channels_first, channels_last or both
    #[arg(long, value_name = "LIST", value_parser = layouts, value_delimiter = ',', default_value = "channels_first")]
    layout: Vec<Several<Layout>>,
    /// The type of x, dy and the residual: f32, f16, bf16 or several, separated by commas
    #[arg(long, value_name = "LIST", value_parser = dtype, value_delimiter = ',', default_value = "f32")]
    dtype: Vec<DType>,
    /// train, eval or both
    #[arg(long, value_name = "LIST", value_parser = modes, value_delimiter = ',', default_value = "train")]
    mode: Vec<Several<Operation>>,
    /// The number added to the variance
    #[arg(long, value_name = "NUMBER", default_value_t = Config::default().eps)]
    eps: f64,
    /// The weight of the new batch in the running statistics, or `cumulative`, PyTorch's None, for their mean over all batches
    #[arg(long, value_name = "NUMBER", value_parser = average, default_value = "0.1")]
    momentum: Average,
    /// Update the running variance with the biased variance of the batch
    #[arg(long)]
    biased_running_var: bool,
    #[command(flatten)]
    activation: ActivationArgs,
    /// Add a residual before the activation
    #[arg(long)]
    residual: bool,
    /// Leave out weight (gamma)
    #[arg(long)]
    no_weight: bool,
    /// Leave out bias (beta)
    #[arg(long)]
    no_bias: bool,
    /// Leave out the backward pass
    #[arg(long)]
    no_gradient: bool,
    /// The kind of values in x: normal(MEAN), constant(VALUE), first-is-outlier, mixed-scales, one-nan and others
    #[arg(long, value_name = "KIND", default_value = "normal(0.5)")]
    data: Data,
    /// The seed of all values; another one gives other values of the same kind
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// A note to keep in the file about where it comes from
    #[arg(long, value_name = "TEXT")]
    source: Option<String>,
}

/// Dimensions as they are given.
#[derive(Clone)]
struct Dims(Vec<usize>);

fn dims(text: &str) -> Result<Dims, String> {
    let dims: Result<_, _> = text.split([',', 'x']).map(str::parse).collect();
    dims.map(Dims).map_err(|_| "expected dimensions such as 8,16,7,7 or 8x16x7x7".into())
}

/// What one word of a list stands for.
#[derive(Clone)]
struct Several<T>(Vec<T>);

fn modes(name: &str) -> Result<Several<Operation>, String> {
    let all = || MODES.map(|(_, mode)| mode).to_vec();
    let found = MODES.iter().find(|(one, _)| *one == name).map(|(_, mode)| vec![*mode]);
    let found = found.or_else(|| (name == "both").then(all));
    found.map(Several).ok_or_else(|| format!("expected {} or both", MODES.map(|(name, _)| name).join(", ")))
}

fn layouts(name: &str) -> Result<Several<Layout>, String> {
    match name {
        "both" => Ok(Several(vec![Layout::ChannelsFirst, Layout::ChannelsLast])),
        one => layout(one).map(|layout| Several(vec![layout])).map_err(|expected| format!("{expected}, both")),
    }
}

/// Writes the cases, all or none.
pub fn run(arguments: &GoldenArgs) -> Result<ExitStatus, AnyError> {
    let recipes = if arguments.set { seeded_set(arguments) } else { arguments.recipes()? };
    let files = places(&arguments.out, &recipes)?;
    let claims = files.iter().map(|file| Claim::result(file, Folder::Made)).collect::<Result<Vec<_>, _>>()?;
    let contents =
        recipes.iter().zip(&files).map(|(recipe, file)| contents(recipe, file)).collect::<Result<Vec<_>, _>>()?;
    claims.iter().zip(&contents).try_for_each(|(claim, contents)| claim.write(contents))?;
    let rows = recipes.iter().zip(files.iter().zip(&contents));
    let columns = [text("file"), text("shape"), text("dtype"), text("data").extra(), number("bytes").extra()];
    println!("{}", table(columns, rows.map(|(recipe, (file, contents))| row(recipe, file, contents))));
    let written = format!("wrote {} cases; `bn check --golden {}` runs them", files.len(), arguments.out.display());
    println!("{}", prose(&written));
    Ok(ExitStatus::Passed)
}

fn row(recipe: &Recipe, file: &Path, contents: &[u8]) -> Vec<String> {
    let Case { shape, config, data, .. } = &recipe.case;
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    vec![name, shape.to_string(), config.dtype.to_string(), data.to_string(), contents.len().to_string()]
}

/// The bytes of a case's file.
fn contents(recipe: &Recipe, file: &Path) -> Result<Vec<u8>, GoldenError> {
    let bytes = recipe.golden().and_then(|golden| golden.to_bytes());
    bytes.map_err(|problem| GoldenError { file: file.display().to_string(), problem })
}

/// Where each case goes.
fn places(out: &Path, recipes: &[Recipe]) -> Result<Vec<PathBuf>, AnyError> {
    let is_file = out.extension().is_some_and(|extension| extension == "safetensors");
    match (is_file, recipes) {
        (true, [_]) => Ok(vec![out.to_owned()]),
        (true, _) => {
            Err(format!("{}: expected a folder for {} cases, got a file", out.display(), recipes.len()).into())
        }
        (false, _) if !output::is_folder(out) => Err(output::unknown_ending(out).into()),
        (false, _) => Ok(recipes.iter().map(|recipe| out.join(format!("{}.safetensors", recipe.name()))).collect()),
    }
}

fn seeded_set(arguments: &GoldenArgs) -> Vec<Recipe> {
    set().into_iter().map(|recipe| arguments.described(recipe)).collect()
}

impl GoldenArgs {
    /// With the seed and the source.
    fn described(&self, recipe: Recipe) -> Recipe {
        Recipe { seed: self.seed, source: self.source.clone().unwrap_or(recipe.source), ..recipe }
    }

    /// Every combination of what was given.
    fn recipes(&self) -> Result<Vec<Recipe>, AnyError> {
        self.activation.check()?;
        let mut recipes: Vec<Recipe> = Vec::new();
        let layouts = || self.layout.iter().flat_map(|Several(layouts)| layouts);
        let modes = || self.mode.iter().flat_map(|Several(modes)| modes);
        for (Dims(dims), &layout) in self.shape.iter().flat_map(|dims| layouts().map(move |layout| (dims, layout))) {
            let shape = Shape::new(dims, layout)?;
            for (&dtype, &mode) in self.dtype.iter().flat_map(|dtype| modes().map(move |mode| (dtype, mode))) {
                let recipe = self.recipe(mode, &shape, dtype);
                recipe.case.config.check()?;
                // What was given twice is written once.
                if recipes.iter().all(|other| other.name() != recipe.name()) {
                    recipes.push(recipe);
                }
            }
        }
        Ok(recipes)
    }

    fn recipe(&self, mode: Operation, shape: &Shape, dtype: DType) -> Recipe {
        let policy = RunningPolicy { average: self.momentum, ..RunningPolicy::default() };
        let running = if self.biased_running_var { policy.biased() } else { policy };
        let recipe = Recipe::new(mode, shape);
        let case = Case {
            data: self.data,
            gamma: !self.no_weight,
            beta: !self.no_bias,
            residual: self.residual,
            config: self.activation.applied_to(Config { eps: self.eps, running, dtype, ..recipe.case.config }),
            ..recipe.case
        };
        self.described(Recipe { case, gradient: !self.no_gradient, ..recipe })
    }
}
