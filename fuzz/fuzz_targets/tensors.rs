//! Tensors of `.npy` and `.safetensors` files: any bytes are tensors or an error.

#![no_main]

use batchnorm_wgpu_check::stored::Stored;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(tensor) = Stored::parse_npy(bytes) {
        assert_eq!(tensor.values.len(), tensor.dims.iter().product::<usize>());
    }
    for name in Stored::names_in_safetensors(bytes).unwrap_or_default() {
        if let Ok(Some(tensor)) = Stored::parse_safetensors(bytes, &name) {
            assert_eq!(tensor.values.len(), tensor.dims.iter().product::<usize>());
        }
    }
});
