//! Processes that run mutants, and what becomes of those that stop answering.

use super::{Answer, MutantFate};
use crate::AnyError;
use std::io::{BufRead, BufReader, Write};
use std::panic::resume_unwind;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::slice;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a process may be silent over one case. Compiling a long shader takes seconds on a busy machine.
const SILENCE: Duration = Duration::from_secs(60);

/// A process, and its answers.
struct Process {
    child: Child,
    questions: ChildStdin,
    answers: Receiver<Answer>,
}

impl Process {
    fn start(arguments: &[String]) -> Result<Self, AnyError> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let questions = child.stdin.take().ok_or("the process has no standard input")?;
        let output = child.stdout.take().ok_or("the process has no standard output")?;
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            // Nobody listens any more when the process was given up.
            let _ =
                lines.filter_map(|line| serde_json::from_str(&line).ok()).try_for_each(|answer| sender.send(answer));
        });
        let process = Self { child, questions, answers };
        match process.answers.recv() {
            Ok(Answer::Alive) => Ok(process),
            _ => Err("a process for mutants did not start; `bn check` may tell why".into()),
        }
    }

    fn ask(&mut self, mutant: usize) -> Result<MutantFate, AnyError> {
        if writeln!(self.questions, "{mutant}").is_err() {
            return Ok(MutantFate::Crashed);
        }
        loop {
            match self.answers.recv_timeout(SILENCE) {
                Ok(Answer::Fate(verdict)) => return Ok(verdict),
                Ok(Answer::Alive) => {}
                Ok(Answer::Unsound { case, reason }) => {
                    return Err(format!(
                        "a case fails without any mutant, so nothing can be told: {case}: {reason}; run `bn check` first"
                    )
                    .into());
                }
                Err(RecvTimeoutError::Timeout) => return Ok(MutantFate::Hung),
                Err(RecvTimeoutError::Disconnected) => return Ok(MutantFate::Crashed),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Leaves nothing to do for the other jobs when one ends: there is nothing left, or something went wrong.
struct EndsAll<'a, 'b>(&'a Mutex<slice::Iter<'b, usize>>);

impl Drop for EndsAll<'_, '_> {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = slice::Iter::default();
    }
}

/// Asks for the verdicts on `mutants` by several processes at once, each started with `arguments`; `done` hears of each.
pub fn judge(
    mutants: &[usize],
    arguments: &[String],
    jobs: usize,
    done: impl Fn(usize, &MutantFate) + Sync,
) -> Result<Vec<(usize, MutantFate)>, AnyError> {
    let (next, verdicts) = (Mutex::new(mutants.iter()), Mutex::new(Vec::new()));
    let job = || -> Result<(), AnyError> {
        let _last = EndsAll(&next);
        let mut process = Process::start(arguments)?;
        while let Some(&mutant) = { next.lock().unwrap_or_else(PoisonError::into_inner).next() } {
            let verdict = process.ask(mutant)?;
            done(mutant, &verdict);
            if matches!(verdict, MutantFate::Hung | MutantFate::Crashed) {
                process = Process::start(arguments)?;
            }
            verdicts.lock().unwrap_or_else(PoisonError::into_inner).push((mutant, verdict));
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(job)).collect();
        let joined = jobs.into_iter().map(|job| job.join().unwrap_or_else(|cause| resume_unwind(cause)));
        joined.collect::<Result<(), AnyError>>()
    })?;
    let mut verdicts = verdicts.into_inner().unwrap_or_else(PoisonError::into_inner);
    verdicts.sort_by_key(|(mutant, _)| *mutant);
    Ok(verdicts)
}
