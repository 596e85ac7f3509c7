//! Arrays in, arrays out, and every result held against the float64 reference with its error bound.
//!
//! `cargo run --release --example host`

use batchnorm_wgpu::host::{Gpu, HostBatchNorm};
use batchnorm_wgpu::reference::bound::{self, Execution, compare};
use batchnorm_wgpu::reference::{self, Layer};
use batchnorm_wgpu::{Config, Layout, Shape};
use ndarray::{Array1, Array4};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    // The best adapter there is. `bn info` lists them all.
    let gpu = Gpu::open(None)?;
    println!("{}: {}", gpu.key(), gpu.info.name);

    // A layer of 4 channels. Gamma is 1 and beta 0 to begin with; both can be set, and None leaves them out.
    let mut layer = HostBatchNorm::new(&gpu.device, &gpu.queue, 4, Layout::ChannelsFirst, Config::default())?;
    layer.gamma = Some(Array1::linspace(0.5, 2.0, 4));

    // The axes are (N, C, H, W). The mean of x is a thousand deviations from zero.
    let dims = (16, 4, 7, 7);
    let x = Array4::from_shape_fn(dims, |(n, c, h, w)| 1e3 + wave(n * 196 + c * 49 + h * 7 + w));
    let dy = Array4::from_shape_fn(dims, |(n, c, h, w)| wave(n * 211 + c * 59 + h * 13 + w + 1));

    // One training step, and inference with the running statistics that it left behind.
    let forward = layer.forward_training(x.view(), None)?;
    let gradients = layer.backward_training(x.view(), dy.view(), None, &forward.saved)?;
    let inferred = layer.inference(x.view(), None)?;
    println!("batch mean {:.4}", forward.saved.mean());
    println!("batch variance {:.4}", forward.saved.var());
    println!("running mean {:.4?}, variance {:.4?}\n", layer.running.mean, layer.running.var);

    // The same in float64 on the CPU, and how far a float32 kernel may be from it.
    let shape = Shape::new(x.shape(), Layout::ChannelsFirst)?;
    let (x, dy) = (wide(&x), wide(&dy));
    let gamma = layer.gamma.as_ref().map(wide);
    let of_f64 = &Layer { gamma: gamma.as_deref(), ..Layer::default() };
    let execution = &Execution::default();
    let want = reference::forward_training(&x, &shape, of_f64)?;
    let may = bound::forward_training(&x, &shape, of_f64, execution)?;
    let want_gradients = reference::backward_training(&x, &dy, &shape, of_f64)?;
    let may_gradients = bound::backward_training(&x, &dy, &shape, of_f64, execution)?;
    // The running mean is kept as two f32.
    let mean: Vec<f64> =
        wide(&layer.running.mean).iter().zip(wide(&layer.running.mean_remainder)).map(|(a, b)| a + b).collect();
    let var = wide(&layer.running.var);
    let want_inferred = reference::inference(&x, &shape, &mean, &var, of_f64)?;
    let may_inferred = bound::inference(&x, &shape, &mean, &var, of_f64, execution)?;

    let rows = [
        ("y", wide(&forward.y), want.y, may.y),
        ("dx", wide(&gradients.dx), want_gradients.dx, may_gradients.dx),
        ("dgamma", wide(&gradients.dgamma), want_gradients.dgamma, may_gradients.dgamma),
        ("dbeta", wide(&gradients.dbeta), want_gradients.dbeta, may_gradients.dbeta),
        ("inference", wide(&inferred), want_inferred, may_inferred),
    ];
    println!("output      largest error / its bound");
    for (name, got, want, may) in rows {
        let outcome = compare(&got, &want, &may)?;
        println!("{name:<10} {:>26.3}", outcome.worst_ratio);
        if !outcome.passed() {
            return Err(format!("{name}: {outcome}").into());
        }
    }
    println!("Every value lies within its bound.");
    Ok(())
}

/// Something between -1 and 1 without a pattern.
fn wave(i: usize) -> f32 {
    ((i * i % 1009) as f32).sin()
}

/// The values in float64.
fn wide<'a>(values: impl IntoIterator<Item = &'a f32>) -> Vec<f64> {
    values.into_iter().map(|&value| value.into()).collect()
}
