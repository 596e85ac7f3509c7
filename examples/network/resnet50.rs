//! The batch norms of ResNet-50 (He et al. 2015; stride 2 in the 3x3 convolutions, as PyTorch has it).

use batchnorm_wgpu::{Layout, Result, Shape};

/// A stage: blocks, channels of the first two batch norms of a block (the third has four times as many), and the width of the
/// image before and after.
const STAGES: [(usize, usize, usize, usize); 4] =
    [(3, 64, 56, 56), (4, 128, 56, 28), (6, 256, 28, 14), (3, 512, 14, 7)];

/// Names and shapes of its 53 batch norms, in order, for batches of `n` images of 224 x 224.
pub fn layers(n: usize) -> Result<Vec<(String, Shape)>> {
    let square = |c, width| Shape::new(&[n, c, width, width], Layout::ChannelsFirst);
    let mut layers = vec![("bn1".to_owned(), square(64, 112)?)];
    for (stage, &(blocks, channels, before, width)) in (1..).zip(&STAGES) {
        for block in 0..blocks {
            let name = |of: &str| format!("layer{stage}.{block}.{of}");
            let first = if block == 0 { before } else { width };
            layers.push((name("bn1"), square(channels, first)?));
            layers.push((name("bn2"), square(channels, width)?));
            layers.push((name("bn3"), square(4 * channels, width)?));
            if block == 0 {
                layers.push((name("downsample.1"), square(4 * channels, width)?));
            }
        }
    }
    Ok(layers)
}
