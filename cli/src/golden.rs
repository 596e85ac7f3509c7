//! `bn check --golden`: golden cases of other implementations against the GPU.

use crate::output::{figure, progress, table};
use crate::{AnyError, Verdict};
use batchnorm_wgpu::Kernels;
use batchnorm_wgpu::host::Gpu;
use batchnorm_wgpu_check::golden::{Golden, GoldenError};
use batchnorm_wgpu_check::suite::Outcome;
use std::path::{Path, PathBuf};

/// What came of one file.
pub enum Judged {
    /// It ran.
    Ran(Outcome),
    /// It asks for what the library does not do, and this was allowed.
    Unsupported(String),
}

/// The files of a folder, in order.
///
/// # Errors
/// A folder that cannot be read, or that holds no case.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>, AnyError> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(format!("{}: expected golden cases (*.safetensors), found none", folder.display()).into());
    }
    files.sort();
    Ok(files)
}

/// Runs every file on an adapter. A file that cannot be read or run is an outcome that failed.
pub fn run(gpu: &Gpu, files: &[PathBuf], allow_unsupported: bool) -> Vec<Judged> {
    let kernels = Kernels::new(&gpu.device);
    let bar = progress(files.len() as u64, &gpu.key());
    let judged = bar.wrap_iter(files.iter()).map(|path| match Golden::load(path) {
        Ok(golden) => Judged::Ran(golden.run(&kernels, &gpu.queue)),
        Err(GoldenError::Unsupported { what, .. }) if allow_unsupported => {
            Judged::Unsupported(format!("{}: {what}", path.display()))
        }
        Err(error) => Judged::Ran(Outcome {
            case: path.display().to_string(),
            operation: "golden",
            tensors: String::new(),
            kernels: Vec::new(),
            verdicts: Vec::new(),
            failure: Some(error.to_string()),
            refused: true,
        }),
    });
    let judged = judged.collect();
    bar.finish_and_clear();
    judged
}

/// Prints a line for each file, and the worst element of each that failed.
pub fn print(gpu: &Gpu, judged: &[Judged]) -> Verdict {
    println!("{}: {}", gpu.key(), gpu.info.name);
    let stem = |file: &str| Path::new(file).file_stem().map_or(file.into(), |stem| stem.to_string_lossy().into_owned());
    let rows = judged.iter().map(|judged| match judged {
        Judged::Unsupported(file) => vec![stem(file), "unsupported".into(), String::new(), String::new()],
        Judged::Ran(outcome) => {
            let worst = outcome.verdicts.iter().max_by(|a, b| a.ratio.total_cmp(&b.ratio));
            vec![
                stem(&outcome.case),
                if outcome.failure.is_some() { "FAILED" } else { "pass" }.into(),
                worst.map_or(String::new(), |worst| figure(worst.ratio)),
                worst.map_or(String::new(), |worst| worst.name.into()),
            ]
        }
    });
    println!("{}", table(&["case", "verdict", "worst error/bound", "of"], 2, rows));
    let (mut passed, mut failed, mut unsupported) = (0, 0, 0);
    for judged in judged {
        match judged {
            Judged::Ran(Outcome { failure: None, .. }) => passed += 1,
            Judged::Ran(Outcome { case, failure: Some(failure), .. }) => {
                failed += 1;
                println!("FAILED {case}\n       {failure}");
            }
            Judged::Unsupported(_) => unsupported += 1,
        }
    }
    println!("{}: {passed} passed, {failed} failed, {unsupported} unsupported\n", gpu.key());
    if failed == 0 { Verdict::Passed } else { Verdict::Failed }
}
