//! What the layer says. wgpu passes its messages on to `log`, each with the records that follow it.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

/// By the thread that made the call, which the layer answers on.
static HEARD: LazyLock<Mutex<Heard>> = LazyLock::new(Mutex::default);

type Heard = HashMap<ThreadId, Vec<String>>;

struct Ear;

impl log::Log for Ear {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target() == "wgpu_hal::vulkan::instance"
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            heard().entry(thread::current().id()).or_default().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

fn heard() -> MutexGuard<'static, Heard> {
    HEARD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listens from now on, to warnings and errors.
pub fn listen() {
    log::set_logger(&Ear).expect("nobody else listens");
    log::set_max_level(log::LevelFilter::Warn);
}

/// What was said on this thread since the last call.
pub fn take() -> Vec<String> {
    heard().remove(&thread::current().id()).unwrap_or_default()
}

/// What was said on any thread and not taken.
pub fn take_all() -> Vec<String> {
    heard().drain().flat_map(|(_, messages)| messages).collect()
}
