//! A browser with a page of its own: the program, and the server that the page talks to.

use super::shaders::Constants;
use crate::AnyError;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tiny_http::{Header, Method, Request, Response, Server};

/// Names under which Chromium and Chrome are installed.
const NAMES: [&str; 5] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];

/// What makes Chromium compile with no screen, no network and no GPU, on SwiftShader, which comes with it. SwiftShader
/// decides what runs; what compiles is for Tint to decide, the same on every device.
const FLAGS: [&str; 11] = [
    "--headless",
    "--disable-gpu-sandbox",
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// How often the server looks whether the browser is still there.
const LOOK: Duration = Duration::from_millis(200);
/// Last lines of what the browser said that an error quotes.
const QUOTED: usize = 5;

/// What a browser's WebGPU is.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct BrowserDevice {
    /// The browser's name for itself.
    pub browser: String,
    /// The adapter: vendor, architecture, description.
    pub adapter: String,
    /// Those features that the device was opened with.
    pub features: Vec<String>,
}

/// What the page is given to compile.
#[derive(Clone, Debug, Serialize)]
pub struct CompileJob {
    /// Its number.
    pub id: usize,
    /// WGSL.
    pub wgsl: String,
    /// What a pipeline is made with; `None` where none is made.
    pub constants: Option<Constants>,
}

/// What the browser made of a job.
#[derive(Clone, Debug, Deserialize)]
pub struct Finding {
    /// The job's number.
    pub id: usize,
    /// What the compiler said.
    pub messages: Vec<Message>,
}

/// Something that the compiler said.
#[derive(Clone, Debug, Deserialize)]
pub struct Message {
    /// How bad it is.
    pub severity: Severity,
    /// The line of the text, from 1; 0 for none.
    pub line: usize,
    /// In the compiler's words.
    pub message: String,
}

/// How bad a message is, as WebGPU tells them apart.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The shader is refused.
    Error,
    /// The shader is taken.
    Warning,
    /// Neither.
    Info,
}

/// Who gives the page its jobs and takes its answers.
pub trait Supervisor {
    /// The device is open; comes before all else.
    ///
    /// # Errors
    /// A device that will not do.
    fn open(&mut self, device: BrowserDevice) -> Result<(), AnyError>;
    /// The next jobs; none when there are no more.
    fn jobs(&mut self) -> Vec<CompileJob>;
    /// What came of some jobs.
    ///
    /// # Errors
    /// What shows that the browser's answers mean nothing.
    fn take(&mut self, findings: Vec<Finding>) -> Result<(), AnyError>;
    /// Whether all jobs are answered.
    fn is_done(&self) -> bool;
}

/// The first browser on the search path.
///
/// # Errors
/// None is installed.
pub fn find() -> Result<PathBuf, AnyError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut programs = NAMES.iter().flat_map(|name| {
        let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
        folders.iter().map(move |folder| folder.join(&file))
    });
    let found = programs.find(|program| program.is_file());
    let missing = format!("no browser on PATH; looked for {}. Install one, or give its path", NAMES.join(", "));
    found.ok_or_else(|| missing.into())
}

/// Starts a browser and serves its page until all jobs are answered.
///
/// # Errors
/// A browser that cannot be started, ends, has no WebGPU, or says nothing for as long as `patience`.
pub fn run(program: &Path, patience: Duration, supervisor: &mut impl Supervisor) -> Result<(), AnyError> {
    let server = Server::http("127.0.0.1:0").map_err(|error| format!("cannot serve a page on 127.0.0.1: {error}"))?;
    let mut browser = Browser::start(program, &format!("http://{}/", server.server_addr()))?;
    let mut heard = Instant::now();
    while !supervisor.is_done() {
        if let Some(request) = server.recv_timeout(LOOK)? {
            answer(request, supervisor).map_err(|error| browser.blame(&error.to_string()))?;
            heard = Instant::now();
        } else if let Some(status) = browser.ended()? {
            return Err(browser.blame(&format!("it ended ({status}) before all shaders were compiled")));
        } else if heard.elapsed() > patience {
            return Err(browser.blame(&format!("its page said nothing for {} s", patience.as_secs())));
        }
    }
    Ok(())
}

/// Answers one request of the page.
fn answer(mut request: Request, supervisor: &mut impl Supervisor) -> Result<(), AnyError> {
    let mut content = String::new();
    request.as_reader().read_to_string(&mut content)?;
    let (mut status, mut body, mut kind) = (200, String::new(), "application/json");
    match (request.method(), request.url()) {
        (Method::Get, "/") => (body, kind) = (include_str!("page.html").into(), "text/html"),
        (Method::Get, "/shaders") => body = serde_json::to_string(&supervisor.jobs())?,
        (Method::Post, "/device") => supervisor.open(serde_json::from_str(&content)?)?,
        (Method::Post, "/findings") => supervisor.take(serde_json::from_str(&content)?)?,
        (Method::Post, "/failure") => return Err(serde_json::from_str::<String>(&content)?.into()),
        // Browsers ask for an icon.
        _ => status = 404,
    }
    let header = Header::from_bytes("Content-Type", kind).map_err(|()| "a header of the page is malformed")?;
    request.respond(Response::from_string(body).with_status_code(status).with_header(header))?;
    Ok(())
}

/// A running browser, which ends with its value. Nothing of it is left.
struct Browser {
    program: PathBuf,
    child: Child,
    folder: TempDir,
}

impl Browser {
    fn start(program: &Path, url: &str) -> Result<Self, AnyError> {
        let folder = TempDir::with_prefix("bn-browser-")?;
        let log = std::fs::File::create(folder.path().join(LOG))?;
        let child = Command::new(program)
            .args(FLAGS)
            .args(sandbox(&folder)?)
            .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("cannot start the browser {}: {error}", program.display()))?;
        Ok(Self { program: program.into(), child, folder })
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>, AnyError> {
        Ok(self.child.try_wait()?)
    }

    /// An error that says what the browser said last.
    fn blame(&self, what: &str) -> AnyError {
        let log = std::fs::read(self.folder.path().join(LOG)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(QUOTED)..].join("\n  ");
        let said = if last.is_empty() { String::new() } else { format!("\nIts last lines:\n  {last}") };
        format!("the browser {}: {what}{said}", self.program.display()).into()
    }
}

/// Where the browser's messages go.
const LOG: &str = "browser.log";

/// Chromium has no sandbox for root, and refuses to start unless told to go without.
#[cfg(unix)]
fn sandbox(folder: &TempDir) -> Result<Option<&'static str>, AnyError> {
    use std::os::unix::fs::MetadataExt;
    // What this process creates belongs to its user.
    Ok((folder.path().metadata()?.uid() == 0).then_some("--no-sandbox"))
}

#[cfg(not(unix))]
fn sandbox(_: &TempDir) -> Result<Option<&'static str>, AnyError> {
    Ok(None)
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Its other processes end once they see this one gone, and write to the folder until then.
        for _ in 0..50 {
            if std::fs::remove_dir_all(self.folder.path()).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    struct Idle;

    impl Supervisor for Idle {
        fn open(&mut self, _: BrowserDevice) -> Result<(), AnyError> {
            Ok(())
        }
        fn jobs(&mut self) -> Vec<CompileJob> {
            Vec::new()
        }
        fn take(&mut self, _: Vec<Finding>) -> Result<(), AnyError> {
            Ok(())
        }
        fn is_done(&self) -> bool {
            false
        }
    }

    /// What comes of a browser that is a shell script. `$url` is the page.
    fn error_of(script: &str, patience: Duration) -> String {
        let folder = TempDir::new().unwrap();
        let program = folder.path().join("browser");
        std::fs::write(&program, format!("#!/bin/sh\nfor url; do :; done\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        run(&program, patience, &mut Idle).unwrap_err().to_string()
    }

    #[test]
    fn a_browser_that_ends_is_an_error_that_quotes_it() {
        let error = error_of("echo no display >&2; exit 3", Duration::from_secs(60));
        assert!(error.contains("exit status: 3") && error.contains("no display"), "{error}");
    }

    #[test]
    fn a_page_that_says_nothing_is_an_error() {
        let error = error_of("exec sleep 60", Duration::from_secs(1));
        assert!(error.contains("said nothing for 1 s"), "{error}");
    }

    #[test]
    fn a_program_that_is_none_is_an_error() {
        let error = run(Path::new("/no/such/browser"), Duration::from_secs(1), &mut Idle).unwrap_err().to_string();
        assert!(error.contains("/no/such/browser"), "{error}");
    }
}
