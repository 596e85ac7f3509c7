//! What a record says of the day and the machine.

/// Today, `YYYY-MM-DD`.
pub fn today() -> String {
    jiff::Zoned::now().date().to_string()
}

/// The processor and its cores.
pub fn processor() -> String {
    use sysinfo::{CpuRefreshKind, RefreshKind, System};
    let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()));
    let cpus = system.cpus();
    let brand = cpus.first().map_or("unknown", |cpu| cpu.brand());
    format!("{}, {} cores", brand.trim(), cpus.len())
}
