//! Processes that compile, one for each GPU at a time: a driver learns which GPU it is for from its environment, which has to be set
//! before the process starts, and a compiler may crash.

use crate::error::CompileError;
use crate::family::{Driver, Family};
use crate::figures::{CompilerFigures, KernelReport};
use crate::subject::CompileSubject;
use crate::translate::Checked;
use crate::vulkan::{Compiler, PipelineReport};
use ash::vk::DriverId;
use batchnorm_wgpu::kernels::Variant;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read, Write};
use std::panic::resume_unwind;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a compiler may take over one kernel.
const PATIENCE: Duration = Duration::from_secs(120);
/// Subjects that one process compiles before it ends.
const CHUNK: usize = 24;

/// What a process is asked to compile: SPIR-V, and how many storage buffers it binds after the uniform one.
#[derive(Serialize, Deserialize)]
struct Question {
    spirv: Vec<u32>,
    storage_buffers: u32,
}

/// What a process says.
#[derive(Serialize, Deserialize)]
enum Reply {
    /// It compiles for this GPU.
    Ready(Machine),
    /// It does not, and why.
    Cannot(String),
    /// What became of a question.
    Compiled(Result<PipelineReport, String>),
}

/// What a driver says of the GPU that it compiles for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The GPU's name.
    pub name: String,
    /// The driver and its version.
    pub driver: String,
    /// Whether it computes in f16.
    pub has_f16: bool,
}

/// What was found for a GPU.
#[derive(Clone, Debug)]
pub struct Report {
    /// The GPU.
    pub family: Family,
    /// What its driver says.
    pub machine: Machine,
    /// What its compiler says, in the order of the subjects.
    pub kernels: Vec<KernelReport>,
    /// What could not be compiled, and why.
    pub failed: Vec<String>,
}

/// Answers questions on standard input, a line each, on standard output, until the input ends.
///
/// # Errors
/// When nobody reads what it says.
pub fn serve(driver: Driver) -> std::io::Result<()> {
    let id = match driver {
        Driver::Radv => DriverId::MESA_RADV,
        Driver::Nvk => DriverId::MESA_NVK,
    };
    let compiler = match Compiler::open(id) {
        Ok(compiler) => compiler,
        Err(reason) => return say(&Reply::Cannot(reason)),
    };
    let Compiler { name, driver, has_f16, .. } = &compiler;
    say(&Reply::Ready(Machine { name: name.clone(), driver: driver.clone(), has_f16: *has_f16 }))?;
    for line in std::io::stdin().lock().lines() {
        let question: Question = serde_json::from_str(&line?)?;
        say(&Reply::Compiled(compiler.compile(&question.spirv, question.storage_buffers)))?;
    }
    Ok(())
}

fn say(reply: &Reply) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(reply)?)?;
    out.flush()
}

/// A process that compiles for one GPU.
struct FamilyProcess {
    child: Child,
    questions: ChildStdin,
    replies: Receiver<Reply>,
    complaints: Option<JoinHandle<String>>,
    machine: Machine,
}

impl FamilyProcess {
    /// Starts `command`, which has to call [`serve`].
    fn start(family: Family, mut command: Command) -> Result<Self, CompileError> {
        family.set_environment(&mut command)?;
        let lost = |reason: String| CompileError::Process { family: family.name.into(), reason };
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| lost(format!("cannot be started: {error}")))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(questions), Some(output), Some(mut errors)) = pipes else {
            return Err(lost("has no standard input and output".into()));
        };
        let (sender, replies) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(|line| line.ok());
            // Nobody listens any more when the process was given up.
            let _ = lines.filter_map(|line| serde_json::from_str(&line).ok()).try_for_each(|reply| sender.send(reply));
        });
        let complaints = std::thread::spawn(move || {
            let mut text = Vec::new();
            // What was read before an error is all that there is.
            let _ = errors.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let machine = Machine { name: String::new(), driver: String::new(), has_f16: false };
        let mut process = Self { child, questions, replies, complaints: Some(complaints), machine };
        match process.replies.recv_timeout(PATIENCE) {
            Ok(Reply::Ready(machine)) => {
                process.machine = machine;
                Ok(process)
            }
            Ok(Reply::Cannot(reason)) => Err(process.no_device(family, reason)),
            _ => Err(process.no_device(family, "the driver ended".into())),
        }
    }

    fn no_device(&mut self, family: Family, reason: String) -> CompileError {
        let complaints = self.last_words();
        let reason = if complaints.is_empty() { reason } else { format!("{reason} ({complaints})") };
        let hint = "The driver's version may not know it; `bn compile --list` says since when it is known";
        CompileError::NoDevice { driver: family.driver.name(), family: family.name.into(), reason, hint }
    }

    /// The last line that the driver said on standard error. Ends the process.
    fn last_words(&mut self) -> String {
        // It may have ended by itself.
        let _ = self.child.kill();
        let all = self.complaints.take().map(|thread| thread.join().unwrap_or_default()).unwrap_or_default();
        all.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned()
    }

    /// The figures of a variant, or why there are none; `Err` when the process is of no use any more.
    fn ask(&mut self, variant: &Variant, size: u32) -> Result<Result<CompilerFigures, String>, String> {
        let translated = Checked::read(&variant.shader_of(Some(size)).text).and_then(|checked| checked.spirv_of_wgpu());
        let spirv = match translated {
            Ok(spirv) => spirv,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let question = Question { spirv, storage_buffers: variant.declared().count() as u32 };
        let asked = serde_json::to_string(&question).map_err(|error| error.to_string())?;
        if writeln!(self.questions, "{asked}").is_ok()
            && let Ok(Reply::Compiled(compiled)) = self.replies.recv_timeout(PATIENCE)
        {
            return Ok(compiled.map(|answer| CompilerFigures::of(variant, &answer)));
        }
        let words = self.last_words();
        Err(format!("the compiler crashed or took longer than {} s {words}", PATIENCE.as_secs()).trim().to_owned())
    }
}

impl Drop for FamilyProcess {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What one process found: the machine, and of every subject its report or why there is none.
type Findings = (Option<Machine>, Vec<(usize, KernelReport)>, Vec<String>);

/// Compiles all `subjects` for all `families` by several processes at once, each `command`, which has to call [`serve`]; `done`
/// hears of every subject.
///
/// # Errors
/// [`CompileError::Missing`], [`CompileError::NoDevice`] or [`CompileError::Process`] when a driver does not compile at all.
pub fn compile(
    families: &[Family],
    subjects: &[CompileSubject],
    command: &(dyn Fn(Family) -> std::io::Result<Command> + Sync),
    jobs: usize,
    done: &(dyn Fn() + Sync),
) -> Result<Vec<Report>, CompileError> {
    let chunks: Vec<(usize, usize)> = (0..families.len())
        .flat_map(|family| (0..subjects.len()).step_by(CHUNK).map(move |begin| (family, begin)))
        .collect();
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::<(usize, Findings)>::new()));
    let job = || -> Result<(), CompileError> {
        while let Some(&(family, begin)) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
            let chunk = begin..subjects.len().min(begin + CHUNK);
            let part = compile_some(families[family], subjects, chunk, command, done).inspect_err(|_| {
                // Nothing is left to do for the others.
                next.store(chunks.len(), Ordering::Relaxed);
            })?;
            found.lock().unwrap_or_else(PoisonError::into_inner).push((family, part));
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(job)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|cause| resume_unwind(cause)))
    })?;
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(families.iter().enumerate().filter_map(|(i, &family)| report(family, i, &found)).collect())
}

fn report(family: Family, number: usize, found: &[(usize, Findings)]) -> Option<Report> {
    let own = || found.iter().filter(|(of, _)| *of == number).map(|(_, found)| found);
    let machine = own().find_map(|(machine, ..)| machine.clone())?;
    let mut kernels: Vec<&(usize, KernelReport)> = own().flat_map(|(_, kernels, _)| kernels).collect();
    kernels.sort_by_key(|(place, _)| *place);
    let kernels = kernels.into_iter().map(|(_, kernel)| kernel.clone()).collect();
    let failed = own().flat_map(|(.., failed)| failed.clone()).collect();
    Some(Report { family, machine, kernels, failed })
}

fn compile_some(
    family: Family,
    subjects: &[CompileSubject],
    chunk: std::ops::Range<usize>,
    command: &(dyn Fn(Family) -> std::io::Result<Command> + Sync),
    done: &(dyn Fn() + Sync),
) -> Result<Findings, CompileError> {
    let start = || {
        let command = command(family)
            .map_err(|error| CompileError::Process { family: family.name.into(), reason: error.to_string() })?;
        FamilyProcess::start(family, command)
    };
    let mut process = start()?;
    let (machine, mut kernels, mut failed) = (process.machine.clone(), Vec::new(), Vec::new());
    for place in chunk {
        let subject = &subjects[place];
        let mut figures = Vec::new();
        for variant in subject.variants.iter().filter(|variant| machine.has_f16 || variant.has("f16") != Some(true)) {
            let failure = match process.ask(variant, subject.workgroup_size) {
                Ok(Ok(found)) => {
                    figures.push((*variant, found));
                    continue;
                }
                Ok(Err(reason)) => reason,
                Err(reason) => {
                    process = start()?;
                    reason
                }
            };
            failed.push(format!("{} in workgroups of {}: {failure}", variant.name(), subject.workgroup_size));
        }
        kernels.extend(KernelReport::new(subject, &figures).map(|kernel| (place, kernel)));
        done();
    }
    Ok((Some(machine), kernels, failed))
}
