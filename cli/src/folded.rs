//! The second table of `bn check --accuracy`: a linear layer with its batch norm, apart and folded into one.

use crate::AnyError;
use crate::terminal::{number, prose, table};
use batchnorm_wgpu::host::{Gpu, HostBatchNorm};
use batchnorm_wgpu::reference::bound::compare;
use batchnorm_wgpu::{Config, Layout, RunningStatistics};
use batchnorm_wgpu_check::data::normal;
use ndarray::{Array1, Array2, ArrayView2, Axis};
use serde::Serialize;

/// Rows of x.
const ROWS: usize = 1024;
/// Inputs of the linear layer.
const INPUTS: usize = 64;
/// Its outputs, the channels.
const CHANNELS: usize = 16;

/// Where the mean of the linear layer's output comes from.
#[derive(Clone, Copy)]
enum MeanSource {
    /// x is about 0, the bias is the mean.
    Bias,
    /// x is about the mean, the weights of a channel sum to 1.
    Inputs,
}

/// Largest error over largest value against float64 of both layers, by how they are computed in f32.
#[derive(Serialize)]
struct Errors {
    /// The linear layer on the CPU, then the batch norm on the adapter.
    apart: f64,
    /// The folded linear layer on the CPU.
    folded: f64,
}

#[derive(Serialize)]
pub struct FoldedRow {
    adapter: String,
    /// Mean of the linear layer's output, in deviations.
    mean: f32,
    from_bias: Errors,
    from_inputs: Errors,
}

/// One row of the table.
pub fn measure(gpu: &Gpu, mean: f32) -> Result<FoldedRow, AnyError> {
    let errors = |source| Pair::new(source, mean).errors(gpu);
    Ok(FoldedRow {
        adapter: gpu.key(),
        mean,
        from_bias: errors(MeanSource::Bias)?,
        from_inputs: errors(MeanSource::Inputs)?,
    })
}

/// Prints the rows of an adapter. They have no target: the error is mostly that of the linear layer.
pub fn print(rows: &[FoldedRow]) {
    let heading = format!(
        "The same for a batch norm folded into a linear layer of {INPUTS} inputs and {CHANNELS} outputs with deviation 1:"
    );
    println!("{}", prose(&heading));
    let columns = [
        number("mean"),
        number("from bias,\napart"),
        number("from bias,\nfolded"),
        number("from inputs,\napart"),
        number("from inputs,\nfolded"),
    ];
    let cells = rows.iter().map(|row| {
        let figures = [&row.from_bias, &row.from_inputs].into_iter().flat_map(|errors| [errors.apart, errors.folded]);
        std::iter::once(format!("{:.0e}", row.mean)).chain(figures.map(|error| format!("{error:.1e}"))).collect()
    });
    println!("{}", table(columns, cells));
    let note = "From bias, from inputs: where the mean of the linear layer's output comes from. Apart: the linear layer in \
         f32 on the CPU, then the batch norm on the adapter. There is no target.\n";
    println!("{}", prose(note));
}

/// A linear layer, what goes into it, and the batch norm behind it.
struct Pair {
    x: Array2<f32>,
    /// `[CHANNELS][INPUTS]`
    weight: Array2<f32>,
    bias: Array1<f32>,
    gamma: Array1<f32>,
    beta: Array1<f32>,
}

impl Pair {
    fn new(source: MeanSource, mean: f32) -> Self {
        let (offset, bias) = match source {
            MeanSource::Bias => (0.0, mean),
            MeanSource::Inputs => (mean, 0.0),
        };
        let values = |rows, columns, seed| {
            Array2::from_shape_fn((rows, columns), {
                let values = normal(rows * columns, seed);
                move |(row, column)| values[row * columns + column]
            })
        };
        let mut weight = values(CHANNELS, INPUTS, 22) / (INPUTS as f32).sqrt();
        for mut row in weight.outer_iter_mut() {
            row += (1.0 - row.sum()) / INPUTS as f32;
        }
        Self {
            x: values(ROWS, INPUTS, 21) + offset,
            weight,
            bias: Array1::from_elem(CHANNELS, bias),
            gamma: Array1::from(normal(CHANNELS, 23)) * 0.1 + 1.0,
            beta: normal(CHANNELS, 24).into(),
        }
    }

    fn errors(&self, gpu: &Gpu) -> Result<Errors, AnyError> {
        let exact = linear(&self.x.mapv(f64::from), self.weight.mapv(f64::from).view(), &self.bias.mapv(f64::from));
        let mut norm = HostBatchNorm::new(&gpu.device, &gpu.queue, CHANNELS, Layout::ChannelsFirst, Config::default())?;
        norm.gamma = Some(self.gamma.clone());
        norm.beta = Some(self.beta.clone());
        norm.running = statistics(&exact)?;
        let want = self.normalized(exact, &norm.running);
        let apart = norm.inference(linear(&self.x, self.weight.view(), &self.bias).view(), None)?;
        let folded = norm.fold_into(self.weight.view(), Axis(0), Some(self.bias.view()))?;
        let folded = linear(&self.x, folded.weight.view(), &folded.bias);
        Ok(Errors { apart: error_over_max(&apart, &want)?, folded: error_over_max(&folded, &want)? })
    }

    /// Batch norm of the exact output by the statistics that both ways were given.
    fn normalized(&self, mut y: Array2<f64>, running: &RunningStatistics) -> Array2<f64> {
        for (c, mut channel) in y.axis_iter_mut(Axis(1)).enumerate() {
            let mean = f64::from(running.mean[c]) + f64::from(running.mean_remainder[c]);
            let scale = f64::from(self.gamma[c]) / (f64::from(running.var[c]) + Config::default().eps).sqrt();
            channel.mapv_inplace(|y| (y - mean) * scale + f64::from(self.beta[c]));
        }
        y
    }
}

/// `x * weight + bias`, summed in the order of the inputs and the bias last: the same on every machine.
fn linear<T>(x: &Array2<T>, weight: ArrayView2<'_, T>, bias: &Array1<T>) -> Array2<T>
where
    T: Copy + std::iter::Sum + std::ops::Add<Output = T> + std::ops::Mul<Output = T>,
{
    Array2::from_shape_fn((x.nrows(), weight.nrows()), |(row, c)| {
        let product: T = x.row(row).into_iter().zip(weight.row(c)).map(|(&x, &weight)| x * weight).sum();
        product + bias[c]
    })
}

/// Running statistics that are those of `y`, the mean as two f32.
fn statistics(y: &Array2<f64>) -> Result<RunningStatistics, AnyError> {
    let means = y.columns().into_iter().map(|channel| channel.sum() / ROWS as f64).collect::<Vec<f64>>();
    let var: Vec<f32> = y.var_axis(Axis(0), 0.0).iter().map(|&var| var as f32).collect();
    let mean: Vec<f32> = means.iter().map(|&mean| mean as f32).collect();
    let mean_remainder = means.iter().zip(&mean).map(|(&exact, &mean)| (exact - f64::from(mean)) as f32).collect();
    Ok(RunningStatistics { mean_remainder, ..RunningStatistics::from_mean_var(&mean, &var, 1)? })
}

fn error_over_max(got: &Array2<f32>, want: &Array2<f64>) -> batchnorm_wgpu::Result<f64> {
    let (got, want): (Vec<f32>, Vec<f64>) = got.iter().zip(want).unzip();
    // No error is excused: nothing says how large it may be.
    Ok(compare(&got, &want, &vec![0.0; want.len()])?.error_over_max())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_is_the_largest_error() {
        let want = Array2::from_elem((2, 2), -4.0);
        let mut got = Array2::from_elem((2, 2), -4.0);
        got[[1, 0]] = -3.0;
        assert_eq!(error_over_max(&got, &want).unwrap(), 0.25);
        got[[0, 1]] = f32::NAN;
        assert_eq!(error_over_max(&got, &want).unwrap(), f64::INFINITY);
    }
}
