//! The steps of a survey: programs of their own, each with a limit, so that none of them ends the survey.

use crate::AnyError;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "how", content = "what")]
pub enum StepEnd {
    /// With exit code 0.
    Good,
    /// With another exit code.
    Failed(i32),
    /// By a signal: it crashed.
    Crashed,
    /// It was ended, since its time was up.
    OutOfTime,
    /// It did not start, or was left out, and why.
    LeftOut(String),
}

/// What came of a step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Done {
    /// What it is called.
    pub name: String,
    /// The program and its arguments.
    pub command: String,
    /// Seconds that it was given.
    pub limit: f64,
    /// Seconds that it took.
    pub seconds: f64,
    /// How it ended.
    pub ending: StepEnd,
}

impl Done {
    /// A step that was not begun.
    pub fn left_out(name: &str, why: impl ToString) -> Self {
        let ending = StepEnd::LeftOut(why.to_string());
        Self { name: name.into(), command: String::new(), limit: 0.0, seconds: 0.0, ending }
    }

    /// For people, such as `bench: ended after its 110 s`; `None` where all went well.
    pub fn trouble(&self) -> Option<String> {
        let Self { name, limit, .. } = self;
        match &self.ending {
            StepEnd::Good => None,
            StepEnd::Failed(code) => Some(format!("{name}: exit code {code}; log.txt says why")),
            StepEnd::Crashed => Some(format!("{name}: crashed; log.txt may say why")),
            StepEnd::OutOfTime => Some(format!("{name}: stopped after its {limit:.0} s")),
            StepEnd::LeftOut(why) => Some(format!("{name}: left out: {why}")),
        }
    }
}

/// Appends to the log.
pub struct Log {
    path: PathBuf,
}

impl Log {
    /// A log in a file that is made now.
    pub fn create(path: PathBuf) -> Result<Self, AnyError> {
        File::create_new(&path).map_err(|error| format!("cannot create {}: {error}", path.display()))?;
        Ok(Self { path })
    }

    fn open(&self) -> std::io::Result<File> {
        File::options().append(true).open(&self.path)
    }

    /// Appends a line.
    pub fn say(&self, line: &str) {
        // What cannot be logged is on the terminal all the same.
        self.open().and_then(|mut file| writeln!(file, "{line}")).ok();
    }

    /// Runs a program until it ends or `limit` has passed. What it prints goes to the log, standard output also to `output`
    /// where one is given.
    pub fn run(&self, name: &str, command: &mut Command, limit: Duration, output: Option<&Path>) -> Done {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let text = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        self.say(&format!("\n==> {name}, at most {:.0} s: {text}", limit.as_secs_f64()));
        let begin = Instant::now();
        let ending = self.ending(command, begin + limit, output);
        let seconds = begin.elapsed().as_secs_f64();
        self.say(&format!("==> {name}: {ending:?} after {seconds:.1} s"));
        Done { name: name.into(), command: text, limit: limit.as_secs_f64(), seconds, ending }
    }

    fn ending(&self, command: &mut Command, end: Instant, output: Option<&Path>) -> StepEnd {
        let files = || -> std::io::Result<(Stdio, Stdio)> {
            let own = output.map(File::create).transpose()?;
            Ok((own.map_or_else(|| self.open(), Ok)?.into(), self.open()?.into()))
        };
        let (out, errors) = match files() {
            Ok(files) => files,
            Err(error) => return StepEnd::LeftOut(format!("its output cannot be written: {error}")),
        };
        // A group of its own, so that what it starts can be ended with it.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(command, 0);
        let mut child = match command.stdin(Stdio::null()).stdout(out).stderr(errors).spawn() {
            Ok(child) => child,
            Err(error) => return StepEnd::LeftOut(error.to_string()),
        };
        loop {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return StepEnd::Good,
                Ok(Some(status)) => return status.code().map_or(StepEnd::Crashed, StepEnd::Failed),
                Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
                // Out of time, or out of reach.
                Ok(None) | Err(_) => {
                    end_all(&mut child);
                    return StepEnd::OutOfTime;
                }
            }
        }
    }
}

/// Ends a process and those that it started. One that is stuck in a driver may stay; nobody waits for it.
fn end_all(child: &mut Child) {
    #[cfg(unix)]
    Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).stderr(Stdio::null()).status().ok();
    child.kill().ok();
    let patience = Instant::now() + Duration::from_secs(3);
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(20));
    }
}

// Of processes Linux tells in /proc.
#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_step_ends_well_or_badly_or_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::create(folder.path().join("log.txt")).unwrap();
        let output = folder.path().join("out");
        let run = |script: &str, limit| {
            let mut command = Command::new("sh");
            log.run("step", command.args(["-c", script]), Duration::from_secs_f64(limit), Some(&output)).ending
        };
        assert_eq!(run("echo hello", 20.0), StepEnd::Good);
        assert_eq!(std::fs::read_to_string(&output).unwrap(), "hello\n");
        assert_eq!(run("echo trouble >&2; exit 3", 20.0), StepEnd::Failed(3));
        assert_eq!(run("kill -9 $$", 20.0), StepEnd::Crashed);
        assert_eq!(run("exec sleep 60", 0.1), StepEnd::OutOfTime);
        // What a step started ends with it.
        let pid = folder.path().join("pid");
        assert_eq!(run(&format!("sleep 60 & echo $! >{}; wait", pid.display()), 0.5), StepEnd::OutOfTime);
        std::thread::sleep(Duration::from_millis(200));
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", std::fs::read_to_string(&pid).unwrap().trim()));
        assert!(stat.as_ref().map_or(true, |stat| stat.contains(") Z ")), "{stat:?}");
        let missing = log.run("step", &mut Command::new("/no/such/program"), Duration::from_secs(1), None);
        assert!(missing.trouble().unwrap().starts_with("step: left out: "));
        let text = std::fs::read_to_string(folder.path().join("log.txt")).unwrap();
        assert!(text.contains("trouble\n") && text.contains("==> step: Failed(3)"), "{text}");
        assert!(Log::create(folder.path().join("log.txt")).is_err());
    }
}
