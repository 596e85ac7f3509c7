//! `bn shader --check-hlsl`: what naga writes for Direct3D, through a compiler that is not naga's.

use crate::output::progress;
use crate::{AnyError, ExitStatus};
use batchnorm_wgpu::kernels::{Storage, Variant};
use batchnorm_wgpu_compile::subject;
use batchnorm_wgpu_compile::translate::Checked;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the checker is called, and how it is had.
pub const CHECKER: &str = "glslangValidator";
const INSTALL: &str = "on Debian or Ubuntu `apt-get install glslang-tools`, or give its path: --check-hlsl=PATH";

/// A rule of what the checker cannot judge, and why.
type Unknown = (&'static str, fn(&Variant) -> bool);

/// What the checker does not know of HLSL. What it takes all the same has to be taken off this list.
const UNKNOWN: [Unknown; 1] = [("glslang's HLSL has no float16_t, which naga writes for WGSL's f16", |variant| {
    variant.settings.storage == Storage::F16
})];

/// A shader, and the name of what it is.
struct CheckedText {
    name: String,
    variant: Variant,
    workgroup_size: u32,
}

/// Every variant that a check of results covers, with all of its bindings, and what automatic plans choose with theirs.
fn checked_texts(name: &str) -> Vec<CheckedText> {
    let mut all: Vec<(Variant, u32)> = Variant::apart().map(|variant| (variant, 256)).collect();
    let chosen = subject::all().into_iter().filter(|text| text.chosen_for.is_some());
    all.extend(chosen.flat_map(|text| text.variants.into_iter().map(move |variant| (variant, text.workgroup_size))));
    let mut seen = std::collections::HashSet::new();
    // The size is one number in the text, which any one stands for.
    all.retain(|(variant, _)| seen.insert(*variant) && variant.name().starts_with(name));
    let text =
        |(variant, workgroup_size): (Variant, u32)| CheckedText { name: variant.name(), variant, workgroup_size };
    all.into_iter().map(text).collect()
}

/// What the checker says of a text: nothing, or the complaint.
fn complaint(program: &Path, hlsl: &str) -> Result<Option<String>, AnyError> {
    let spawned = Command::new(program)
        // It wants this one first.
        .arg("--stdin")
        .args(["-D", "-S", "comp", "-e", "main", "-V", "--target-env", "vulkan1.1", "-o"])
        .arg(if cfg!(windows) { "NUL" } else { "/dev/null" })
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("{} is not there; {INSTALL}", program.display()),
        _ => format!("{}: {error}", program.display()),
    })?;
    if let Some(mut input) = child.stdin.take() {
        // One that ends early has complained.
        let _ = input.write_all(hlsl.as_bytes());
    }
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let error =
        || text.lines().find(|line| line.contains("ERROR") || line.contains("error")).unwrap_or("no reason given");
    Ok((!output.status.success()).then(|| error().to_owned()))
}

/// What is wrong with a shader, in words.
fn fault(program: &Path, text: &CheckedText) -> Result<Option<String>, AnyError> {
    let CheckedText { name, variant, workgroup_size } = text;
    let hlsl = match Checked::read(&variant.shader_of(Some(*workgroup_size)).text).and_then(|checked| checked.hlsl()) {
        Ok(hlsl) => hlsl,
        Err(error) => return Ok(Some(format!("{name}: {error}"))),
    };
    let unknown = UNKNOWN.iter().find(|(_, is_so)| is_so(variant));
    Ok(match (complaint(program, &hlsl)?, unknown) {
        (None, None) | (Some(_), Some(_)) => None,
        (Some(complaint), None) => Some(format!("{name}: {complaint}")),
        (None, Some((why, _))) => {
            Some(format!("{name}: is taken now; take it off the list in cli/src/shader/hlsl.rs: {why}"))
        }
    })
}

/// Checks every shader whose name begins with `name`.
pub fn check(program: &Path, name: &str) -> Result<ExitStatus, AnyError> {
    let all = checked_texts(name);
    if all.is_empty() {
        return Err(super::unknown(name));
    }
    // One that takes everything would say nothing.
    if complaint(program, "void main() { undeclared = 1; }")?.is_none() {
        return Err(format!("{} takes what is no HLSL, so that it checks nothing", program.display()).into());
    }
    let bar = progress(all.len() as u64, "hlsl");
    let (next, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let job = || -> Result<(), AnyError> {
        while let Some(text) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            let fault = fault(program, text).inspect_err(|_| next.store(all.len(), Ordering::Relaxed))?;
            faults.lock().unwrap_or_else(PoisonError::into_inner).extend(fault);
            bar.inc(1);
        }
        Ok(())
    };
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(job)).collect();
        threads.into_iter().try_for_each(|it| it.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause)))
    })?;
    bar.finish_and_clear();
    let faults = faults.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (why, is_so) in UNKNOWN {
        let number = all.iter().filter(|text| is_so(&text.variant)).count();
        if number > 0 {
            println!("not judged: {number} shaders: {why}");
        }
    }
    let judged = all.iter().filter(|text| !UNKNOWN.iter().any(|(_, is_so)| is_so(&text.variant))).count();
    println!("{judged} shaders in HLSL checked by {}, {} refused", program.display(), faults.len());
    faults.iter().for_each(|fault| println!("  {fault}"));
    Ok(if faults.is_empty() { ExitStatus::Passed } else { ExitStatus::Failed })
}
