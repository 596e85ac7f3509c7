//! Checkpoints: any bytes give layers or errors.

#![no_main]

use batchnorm_wgpu::checkpoint::{Parts, Reader};
use libfuzzer_sys::fuzz_target;

/// Channels of the layer in `seeds/checkpoint`.
const CHANNELS: usize = 3;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut file) = Reader::new(bytes) else { return };
    let names: Vec<String> = file.remaining("").map(str::to_owned).collect();
    for name in &names {
        let prefix = name.strip_suffix("weight").unwrap_or(name);
        if let Ok(layer) = file.layer(prefix, CHANNELS, Parts::default()) {
            assert_eq!(layer.gamma.map(|gamma| gamma.len()), Some(CHANNELS));
        }
    }
    let _ = file.finish();
});
