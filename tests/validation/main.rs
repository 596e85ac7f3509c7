//! The kernels under Vulkan's validation layer, which has no message for them. The layer is that of Debian's package
//! `vulkan-validationlayers`; wgpu asks it to look for missing barriers too.
//!
//! With `BATCHNORM_REQUIRE_VALIDATION` set, a layer that is missing is a failure, without it an ignored test.

#[cfg(any(windows, target_os = "linux"))]
mod messages;
#[cfg(any(windows, target_os = "linux"))]
mod vulkan;

fn main() {
    #[cfg(any(windows, target_os = "linux"))]
    vulkan::main();
}
