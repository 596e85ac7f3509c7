//! `Golden::from_bytes`: any bytes are a golden case or an error.

#![no_main]

use batchnorm_wgpu_check::golden::Golden;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = Golden::from_bytes(bytes);
    if let Some(framed) = framed(bytes) {
        let _ = Golden::from_bytes(&framed);
    }
});

/// The same with the header's length set right, which a change to the header would have to hit by chance; `None` where
/// nothing looks like the end of a header.
fn framed(bytes: &[u8]) -> Option<Vec<u8>> {
    let header = bytes.get(8..)?;
    let length = header.windows(2).position(|pair| pair == b"}}")? + 2;
    let mut framed = (length as u64).to_le_bytes().to_vec();
    framed.extend_from_slice(header);
    Some(framed)
}
