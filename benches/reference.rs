//! What the float64 reference takes on the CPU: `cargo bench --bench reference`.

use batchnorm_wgpu::reference::{self, Layer};
use batchnorm_wgpu::{Layout, Shape};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::error::Error;
use std::hint::black_box;

/// A convolutional layer of a small network: (N, C, H, W).
const DIMS: [usize; 4] = [32, 64, 16, 16];

fn bench(criterion: &mut Criterion) {
    if let Err(error) = reference(criterion) {
        panic!("the reference refused {DIMS:?}: {error}");
    }
}

/// Forward and backward in float64.
fn reference(criterion: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let shape = Shape::new(&DIMS, Layout::ChannelsFirst)?;
    let values = |phase: f64| (0..shape.elements()).map(|i| (i as f64 * 0.37 + phase).sin()).collect::<Vec<_>>();
    let (x, dy) = (values(0.0), values(1.0));
    // Refused once or never: in the loop a refusal would pass for speed.
    reference::forward_training(&x, &shape, &Layer::default())?;
    reference::backward_training(&x, &dy, &shape, &Layer::default())?;
    let mut group = criterion.benchmark_group("reference");
    group.throughput(Throughput::Elements(shape.elements() as u64)).sample_size(20);
    group.bench_function("forward_training", |bencher| {
        bencher.iter(|| reference::forward_training(black_box(&x), &shape, &Layer::default()))
    });
    group.bench_function("backward_training", |bencher| {
        bencher.iter(|| reference::backward_training(black_box(&x), black_box(&dy), &shape, &Layer::default()))
    });
    group.finish();
    Ok(())
}

criterion_group!(benches, bench);
criterion_main!(benches);
