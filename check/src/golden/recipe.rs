//! Golden cases of the library's own reference, so that other implementations can be held against it.

use super::{Golden, LARGEST, OUTPUTS, OutputExtent, Problem};
use crate::case::{Case, Inputs, Operation};
use crate::data::Data;
use crate::judge::Wide;
use crate::stored::Stored;
use batchnorm_wgpu::{
    Activation, Average, Config, DType, Layout, RunningPolicy, RunningStatistics, Shape, VarianceEstimate, reference,
};
use safetensors::Dtype;

/// What a case to be written is like.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Shape, data, parameters, config; the operation is [`Operation::ForwardTraining`] or [`Operation::Inference`].
    pub case: Case,
    /// Whether there is a backward pass.
    pub gradient: bool,
    /// Other numbers of the same kind.
    pub seed: u64,
    /// Free text about where the answers come from.
    pub source: String,
}

/// Batches tracked before the call.
const TRACKED: u32 = 7;
/// Bytes of an element at the most: x, dy and the residual in f32, three answers in float64.
const ELEMENT: u64 = 3 * 4 + 3 * 8;
/// Usual dimensions by rank, channels first; a name says which others there are.
const DIMS: [&[usize]; 4] = [&[16, 5], &[4, 3, 11], &[4, 6, 5, 7], &[2, 4, 3, 4, 5]];
/// What dimensions are called besides N and C.
const PLANE: [&str; 4] = ["", "l", "hw", "dhw"];

impl Recipe {
    /// The ordinary case of a mode: normal data, weight and bias, a backward pass, PyTorch's policy.
    pub fn new(mode: Operation, shape: &Shape) -> Self {
        let source = concat!("float64 reference of batchnorm-wgpu ", env!("CARGO_PKG_VERSION"));
        Self { case: Case::new(mode, shape), gradient: true, seed: 0, source: source.into() }
    }

    /// The name of the case, such as `nhwc_train_f16_add_relu`: the layout, the mode, and what is not as usual. The seed is
    /// not in it.
    pub fn name(&self) -> String {
        let Case { operation, ref shape, data, gamma, beta, residual, config, .. } = self.case;
        let Config { eps, running, dtype, activation, negative_slope, .. } = config;
        let usual = Self::new(operation, shape).case;
        let mut words = vec![letters(shape), if operation.trains() { "train" } else { "eval" }.into()];
        if !standard().any(|one| one == *shape) {
            words.push(shape.dims().iter().map(usize::to_string).collect::<Vec<_>>().join("x"));
        }
        if data != usual.data {
            words.push(data.to_string().replace(['(', '-'], "_").replace(')', ""));
        }
        words.extend((dtype != DType::F32).then(|| dtype.to_string()));
        words.extend((eps != usual.config.eps).then(|| format!("eps_{eps:e}")));
        match running.average {
            average if average == usual.config.running.average => {}
            Average::Exponential { momentum } => words.push(format!("momentum_{momentum}")),
            Average::Cumulative => words.push("cumulative".into()),
            Average::Pooled => words.push("pooled".into()),
        }
        let slope = match activation == Activation::LeakyRelu && negative_slope != usual.config.negative_slope {
            true => format!("_{negative_slope}"),
            false => String::new(),
        };
        let activated = format!("{activation}{slope}");
        let flags = [
            (running.variance == VarianceEstimate::Biased, "biased_running"),
            (!gamma && !beta, "no_affine"),
            (gamma && !beta, "weight_only"),
            (!gamma && beta, "bias_only"),
            (residual, "add"),
            (activation != Activation::None, activated.as_str()),
            (!self.gradient, "forward"),
        ];
        words.extend(flags.iter().filter(|(set, _)| *set).map(|(_, flag)| (*flag).to_owned()));
        words.join("_")
    }

    /// The case, with its answers in float64.
    ///
    /// # Errors
    /// [`Problem::Unsupported`] for a case that the library refuses, [`Problem::Wrong`] for one that is too large for a file.
    pub fn golden(&self) -> Result<Golden, Problem> {
        let elements = self.case.shape.elements() as u64;
        if elements > LARGEST / ELEMENT {
            let expected = format!("at most {} elements", LARGEST / ELEMENT);
            return Err(Problem::wrong("x", expected, elements.to_string()));
        }
        let inputs = self.case.inputs_of(self.seed);
        // What is not finite enters the running statistics, as the format has it.
        let config = Config { running: inputs.config.running.propagate_non_finite(), ..inputs.config };
        let running = RunningStatistics::from_mean_var(&inputs.running.mean, &inputs.running.var, TRACKED)?;
        let dy = if self.gradient { inputs.dy } else { vec![0.0; inputs.dy.len()] };
        let golden = Golden {
            inputs: Inputs { config, running, dy, ..inputs },
            mode: self.case.operation,
            gradient: self.gradient,
            answers: Default::default(),
            tolerance: None,
            source: self.source.clone(),
        };
        golden.check_supported()?;
        golden.answered()
    }
}

impl Golden {
    /// The case with the reference's answers for all outputs.
    fn answered(mut self) -> Result<Self, Problem> {
        let wide = Wide::new(&self.inputs);
        let (shape, layer, mut running) = (&self.inputs.shape, &wide.layer(), wide.running.clone());
        let (x, dy, mean, var) = (&wide.x, &wide.dy, &wide.running.mean, &wide.running.var);
        let mut values = Vec::new();
        let gradients = if self.mode.trains() {
            let forward = reference::forward_training(x, shape, layer)?;
            running.update(&forward.statistics, &self.inputs.config.running)?;
            values.extend([("y", forward.y)]);
            values.extend([("batch_mean", forward.statistics.mean), ("batch_var", forward.statistics.var)]);
            reference::backward_training(x, dy, shape, layer)?
        } else {
            values.push(("y", reference::inference(x, shape, mean, var, layer)?));
            reference::backward_frozen(x, dy, shape, mean, var, layer)?
        };
        let tracked = running.tracked.iter().take(1).map(|&count| count as f64).collect();
        values.extend([("running_mean", running.mean), ("running_var", running.var), ("num_batches_tracked", tracked)]);
        values.extend([("dx", gradients.dx), ("dweight", gradients.dgamma), ("dbias", gradients.dbeta)]);
        values.push(("dresidual", gradients.dresidual));
        let stored = |(name, values): (&str, Vec<f64>)| {
            let output = OUTPUTS.iter().find(|output| output.name == name && self.lacks(output.needs).is_none())?;
            let (dtype, dims) = match output.extent {
                OutputExtent::Tensor => (Dtype::F64, shape.dims().to_vec()),
                OutputExtent::Channels => (Dtype::F64, vec![values.len()]),
                OutputExtent::One => (Dtype::I64, Vec::new()),
            };
            Some((output.name, Stored { dtype, dims, values }))
        };
        self.answers = values.into_iter().filter_map(stored).collect();
        Ok(self)
    }
}

/// What a shape is called, such as `nhwc`.
fn letters(shape: &Shape) -> String {
    let plane = match PLANE.get(shape.dims().len() - 2) {
        Some(letters) => (*letters).to_owned(),
        None => format!("{}d", shape.dims().len() - 2),
    };
    match shape.layout() {
        Layout::ChannelsLast if !plane.is_empty() => format!("n{plane}c"),
        _ => format!("nc{plane}"),
    }
}

/// Usual dimensions in a layout.
fn laid_out(dims: &[usize], layout: Layout) -> Option<Shape> {
    let mut dims = dims.to_vec();
    if layout == Layout::ChannelsLast {
        dims[1..].rotate_left(1);
    }
    Shape::new(&dims, layout).ok()
}

/// The shapes with the usual dimensions: every rank in both layouts, which for rank 2 are one.
fn standard() -> impl Iterator<Item = Shape> {
    let both = |dims: &'static [usize]| {
        let last = (dims.len() > 2).then_some(Layout::ChannelsLast);
        [Some(Layout::ChannelsFirst), last].into_iter().flatten().filter_map(|layout| laid_out(dims, layout))
    };
    DIMS.into_iter().flat_map(both)
}

/// Changes a recipe.
type Change = fn(&mut Recipe);

/// What the set has of (N, C, H, W) in training.
const NCHW: [Change; 20] = [
    |recipe| recipe.case.config.dtype = DType::F16,
    |recipe| recipe.case.config.dtype = DType::Bf16,
    |recipe| recipe.case.config.eps = 1e-2,
    |recipe| recipe.case.config.running = RunningPolicy::cumulative(),
    |recipe| recipe.case.config.running = RunningPolicy::cumulative().biased(),
    |recipe| recipe.case.config.running = RunningPolicy::default().biased(),
    |recipe| recipe.case.config.running = RunningPolicy::exponential(0.0),
    |recipe| recipe.case.config.running = RunningPolicy::exponential(1.0),
    |recipe| (recipe.case.gamma, recipe.case.beta) = (false, false),
    |recipe| recipe.case.beta = false,
    |recipe| recipe.case.gamma = false,
    |recipe| recipe.case.config.activation = Activation::Relu,
    |recipe| recipe.case.residual = true,
    add_relu,
    |recipe| recipe.gradient = false,
    |recipe| recipe.case.data = Data::Normal { mean: 1e3 },
    |recipe| recipe.case.data = Data::Constant { value: 3.0 },
    |recipe| recipe.case.data = Data::MixedScales,
    |recipe| recipe.case.data = Data::FirstIsOutlier,
    |recipe| recipe.case.data = Data::OneNan,
];
/// What the set has of (N, H, W, C) in training.
const NHWC: [Change; 5] = [
    |recipe| recipe.case.config.dtype = DType::F16,
    |recipe| recipe.case.config.dtype = DType::Bf16,
    add_relu,
    |recipe| {
        add_relu(recipe);
        recipe.case.config.dtype = DType::F16;
    },
    |recipe| recipe.case.data = Data::Normal { mean: 1e3 },
];
/// What the set has of both in inference.
const EVAL: [Change; 3] =
    [|recipe| recipe.case.config.dtype = DType::F16, |recipe| recipe.case.config.dtype = DType::Bf16, add_relu];
/// What the set has of other dimensions in training: one sample, one channel, two values, a plane of a ResNet's end, channels
/// that are no multiple of anything, a long plane.
const OTHERS: [(&[usize], Layout); 6] = [
    (&[1, 4, 6, 6], Layout::ChannelsFirst),
    (&[4, 1, 5, 7], Layout::ChannelsFirst),
    (&[2, 3], Layout::ChannelsFirst),
    (&[8, 32, 7, 7], Layout::ChannelsFirst),
    (&[3, 4, 4, 13], Layout::ChannelsLast),
    (&[2, 2, 4099], Layout::ChannelsFirst),
];

fn add_relu(recipe: &mut Recipe) {
    recipe.case.residual = true;
    recipe.case.config.activation = Activation::Relu;
}

/// A set of cases: every rank, layout and mode, then what else there is on the usual (N, C, H, W) and (N, H, W, C).
pub fn set() -> Vec<Recipe> {
    let (train, eval) = (Operation::ForwardTraining, Operation::Inference);
    let mut recipes: Vec<Recipe> =
        standard().flat_map(|shape| [train, eval].map(|mode| Recipe::new(mode, &shape))).collect();
    let planes = standard().filter(|shape| shape.dims().len() == 4);
    for shape in planes {
        let of_layout: &[Change] = if shape.layout() == Layout::ChannelsFirst { &NCHW } else { &NHWC };
        for (mode, changes) in [(train, of_layout), (eval, &EVAL)] {
            recipes.extend(changes.iter().map(|change| {
                let mut recipe = Recipe::new(mode, &shape);
                change(&mut recipe);
                recipe
            }));
        }
    }
    let others = OTHERS.into_iter().filter_map(|(dims, layout)| Shape::new(dims, layout).ok());
    recipes.extend(others.map(|shape| Recipe::new(train, &shape)));
    recipes
}
