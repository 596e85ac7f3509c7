//! What the allocator keeps of memory that was freed.

/// Gives freed memory back to the system. Drivers of software adapters compile in many threads, and glibc keeps for each what it
/// freed: over thousands of shaders that becomes a gigabyte that nobody uses.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub(crate) fn give_back() {
    // SAFETY: the function takes the allocator's own locks, and touches nothing that is allocated.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators do so by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn give_back() {}
