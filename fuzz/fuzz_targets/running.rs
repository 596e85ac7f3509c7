//! `RunningStatistics::from_bytes`: what is read is written again byte for byte.

#![no_main]

use batchnorm_wgpu::RunningStatistics;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(running) = RunningStatistics::from_bytes(bytes) else { return };
    assert_eq!(RunningStatistics::size(running.channels()), bytes.len() as u64);
    assert_eq!(running.to_bytes().unwrap(), bytes);
});
