//! Standard output and standard error, which may be pipes whose reader has gone: `bn info | head -1`. The macros `print`,
//! `println` and `eprintln` stand for those of the standard library, which panic then.

use crate::output;
use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;

macro_rules! print {
    ($($text:tt)*) => { $crate::stream::out(format_args!($($text)*)) };
}

macro_rules! println {
    () => { $crate::stream::out(format_args!("\n")) };
    ($($text:tt)*) => { $crate::stream::out(format_args!("{}\n", format_args!($($text)*))) };
}

macro_rules! eprintln {
    ($($text:tt)*) => { $crate::stream::err(format_args!("{}\n", format_args!($($text)*))) };
}

/// The exit code of a program whose reader has gone, as a shell tells it of one that SIGPIPE ended.
const READER_GONE: u8 = 141;

/// Why the program ends although its work is not done.
struct Ending {
    code: u8,
    /// What is said of it.
    message: Option<String>,
}

/// Prints to standard output.
pub fn out(text: Arguments<'_>) {
    // The standard library's is the one that tests capture.
    if cfg!(test) {
        return std::print!("{text}");
    }
    printed(io::stdout().write_fmt(text));
}

/// Writes all of a document to standard output.
pub fn bytes(contents: &[u8]) {
    let mut out = io::stdout().lock();
    printed(out.write_all(contents).and_then(|()| out.flush()));
}

/// Prints to standard error. Where that is impossible, there is nobody to tell.
pub fn err(text: Arguments<'_>) {
    if cfg!(test) {
        return std::eprint!("{text}");
    }
    match io::stderr().write_fmt(text) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => printed(Err(error)),
        _ => {}
    }
}

/// Ends the program where nobody reads any more; where it still has a file to write, it goes on for that.
///
/// It ends by unwinding, so that processes and temporary files that it made end with it.
fn printed(outcome: io::Result<()>) {
    let Err(error) = outcome else { return };
    let ending = match error.kind() {
        ErrorKind::BrokenPipe if output::is_awaited() => return,
        ErrorKind::BrokenPipe => Ending { code: READER_GONE, message: None },
        _ => Ending { code: 2, message: Some(format!("bn: standard output: cannot be written: {error}")) },
    };
    resume_unwind(Box::new(ending))
}

/// The exit code of the work, or that of the [`Ending`] that cut it short.
pub fn until_reader_is_gone(work: impl FnOnce() -> ExitCode) -> ExitCode {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|cause| match cause.downcast::<Ending>() {
        Ok(ending) => {
            // Standard error may be gone too.
            let _ = ending.message.map(|message| writeln!(io::stderr(), "{message}"));
            ExitCode::from(ending.code)
        }
        Err(panic) => resume_unwind(panic),
    })
}
