//! `bn survey`: all that can be learnt of one GPU within some minutes, in order of value. Every step is a process of its own
//! with a time limit, and its result is on disk before the next begins: whatever fails or hangs, the rest is there.

mod results;
mod step;
mod summary;

use crate::adapter::AdapterArgs;
use crate::bench::record::Record;
use crate::bench::{processor, today};
use crate::output::replace;
use crate::{AnyError, ExitStatus};
use batchnorm_wgpu::wgpu;
use results::{Checks, Peer, Peers, Survey, SurveyFolder, load};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use step::{Done, Log, StepEnd};
use summary::SurveyResults;

/// Arguments of `bn survey`.
#[derive(clap::Args)]
pub struct SurveyArgs {
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Minutes that the whole may take
    #[arg(long, value_name = "N", default_value_t = 10.0, value_parser = minutes)]
    minutes: f64,
    /// Folder for the results, new or empty
    #[arg(long, value_name = "DIR", default_value = "survey")]
    out: PathBuf,
    /// Golden cases
    #[arg(long, value_name = "DIR", default_value = "tests/golden")]
    golden: PathBuf,
    /// The script that times PyTorch
    #[arg(long, value_name = "FILE", default_value = "benches/peers/pytorch.py")]
    pytorch: PathBuf,
    /// The Python that may have PyTorch
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: PathBuf,
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(minutes) if (0.5..=600.0).contains(&minutes) => Ok(minutes),
        _ => Err("expected minutes, from 0.5 to 600".into()),
    }
}

/// Shapes as `bn bench --shapes` takes them.
struct Shapes {
    /// What matters most: those of networks.
    first: &'static str,
    /// Tensors that may be too large for the card.
    large: &'static str,
    /// What peers are slow at, and small ones.
    rest: &'static str,
    /// Those on which every strategy is forced.
    forced: &'static str,
    /// Those that others are timed on, as `pytorch.py` takes them.
    peers: &'static str,
    /// The same for us.
    ours: &'static str,
    /// Those that are tuned.
    tuned: &'static str,
}

const GPU: Shapes = Shapes {
    first: "64x256x56x56,64x64x112x112,64x1024x14x14,64x2048x7x7,64x512x28x28,140000x256,64x56x56x64:channels_last,64x56x56x65:channels_last,\
            64x64x56x56,64x128x56x56,64x256x28x28,64x512x14x14,64x128x28x28,64x256x14x14,64x512x7x7",
    large: "4x128x1024x1024:f16:f32",
    rest: "128x512,8x16x7x7,2x3x1024x1024,256x4096,32x64x32x32",
    forced: "64x256x56x56,64x64x112x112,64x2048x7x7,140000x256,64x56x56x64",
    peers: "64x256x56x56,64x64x112x112,64x1024x14x14,64x2048x7x7,140000x256,64x64x56x56,4x128x1024x1024:f16,\
            4x128x1024x1024,64x512x28x28,64x65x56x56,128x512",
    ours: "64x256x56x56,64x64x112x112,64x1024x14x14,64x2048x7x7,140000x256,64x56x56x64:channels_last,64x64x56x56,\
           4x128x1024x1024:f16:f32,64x512x28x28,64x56x56x65:channels_last,128x512",
    tuned: "64x256x56x56,64x2048x7x7,64x56x56x64:channels_last,64x64x112x112,140000x256,64x1024x14x14,128x512",
};

/// A software adapter takes as long for a thousandth.
const SOFTWARE: Shapes = Shapes {
    first: "32x64x32x32,32x256x14x14,32x28x28x64:channels_last",
    large: "4x16x256x256",
    rest: "128x512,8x16x7x7",
    forced: "32x64x32x32",
    peers: "32x64x32x32,32x256x14x14,128x512",
    ours: "32x64x32x32,32x256x14x14,128x512",
    tuned: "8x16x7x7,128x512",
};

/// The steps and their shares of the time. What one leaves goes to those after it.
const SHARES: [(&str, f64); 10] = [
    (GOLDEN, 60.0),
    (MATRIX, 120.0),
    (BENCH, 110.0),
    (LARGE, 40.0),
    (REST, 30.0),
    (PEERS, 70.0),
    (OURS, 30.0),
    (PEERS_AGAIN, 50.0),
    (TUNE, 60.0),
    (TUNED, 35.0),
];
const GOLDEN: &str = "golden cases";
const MATRIX: &str = "cross-check";
const BENCH: &str = "bench";
const LARGE: &str = "bench of large tensors";
const REST: &str = "bench of small tensors";
const PEERS: &str = "PyTorch";
const OURS: &str = "bench in turn";
const PEERS_AGAIN: &str = "PyTorch again";
const TUNE: &str = "tune";
const TUNED: &str = "bench as tuned";

/// Longest cross-check.
const MATRIX_SECONDS: f64 = 120.0;

/// What a step leaves of its time for starting, for what it is at when its time is up, and for ending.
fn inner_limit(limit: Duration) -> f64 {
    (limit.as_secs_f64() * 0.8 - 1.0).max(0.5)
}

/// A survey under way.
struct SurveyRun<'a> {
    arguments: &'a SurveyArgs,
    folder: SurveyFolder,
    log: Log,
    end: Instant,
    program: PathBuf,
    shapes: &'static Shapes,
    survey: Survey,
    checks: Checks,
    peers: Peers,
}

/// Runs the steps and sums them up.
pub fn run(arguments: &SurveyArgs) -> Result<ExitStatus, AnyError> {
    let end = Instant::now() + Duration::from_secs_f64(arguments.minutes * 60.0);
    let gpu = arguments.adapter.open()?;
    let software = gpu.info.device_type == wgpu::DeviceType::Cpu;
    let folder = SurveyFolder::create(&arguments.out)?;
    let mut run = SurveyRun {
        arguments,
        log: Log::create(folder.path("log.txt"))?,
        folder,
        end,
        program: std::env::current_exe()?,
        shapes: if software { &SOFTWARE } else { &GPU },
        survey: Survey {
            date: today(),
            version: env!("CARGO_PKG_VERSION").into(),
            minutes: arguments.minutes,
            processor: processor(),
            environment: environment(),
            adapter: gpu.key(),
            ..Survey::default()
        },
        checks: Checks::default(),
        peers: Peers::default(),
    };
    // The steps open devices of their own.
    drop(gpu);
    run.look_around()?;
    run.check()?;
    run.bench()?;
    run.others(software)?;
    run.tune()?;
    run.sum_up()
}

/// Variables that say which driver is loaded.
fn environment() -> Vec<String> {
    let tells = |name: &str| ["VK_", "WGPU_", "LD_LIBRARY_PATH", "__EGL_VENDOR"].iter().any(|it| name.starts_with(it));
    let mut found: Vec<String> = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .filter(|(name, _)| tells(name))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    found.sort();
    found
}

impl SurveyRun<'_> {
    /// Which adapters there are, what the card is, and whether there is PyTorch.
    fn look_around(&mut self) -> Result<(), AnyError> {
        let seconds = Duration::from_secs(30);
        let output = self.folder.path("adapters.partial");
        let done = self.log.run("info", self.bn().args(["info", "--json"]), seconds, Some(&output));
        self.survey.adapters = load(&output).unwrap_or_default();
        self.note(done)?;
        let mut smi = Command::new("nvidia-smi");
        smi.args([
            "--query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit,pcie.link.gen.max",
        ]);
        let done = self.log.run("nvidia-smi", smi.arg("--format=csv"), seconds, Some(&output));
        let good = done.ending == StepEnd::Good;
        self.survey.nvidia_smi = std::fs::read_to_string(&output).ok().filter(|_| good);
        let question =
            "import torch; print(torch.__version__, torch.cuda.is_available() and torch.cuda.get_device_name())";
        let mut python = Command::new(&self.arguments.python);
        let done = self.log.run("PyTorch's version", python.args(["-c", question]), 2 * seconds, Some(&output));
        self.survey.pytorch = match (&done.ending, std::fs::read_to_string(&output)) {
            (StepEnd::Good, Ok(text)) => text.trim().replace(" False", ", without CUDA"),
            _ => "not there".into(),
        };
        std::fs::remove_file(&output).ok();
        self.save()
    }

    fn check(&mut self) -> Result<(), AnyError> {
        let output = self.folder.path("report.partial");
        let golden = self.arguments.golden.clone();
        self.step(GOLDEN, |bn, limit| {
            let limit = limit.to_string();
            bn.args(["check", "--time-limit", &limit, "--golden"]).arg(&golden).arg("--json").arg(&output)
        })?;
        self.checks.golden = load(&output).unwrap_or_default();
        std::fs::remove_file(&output).ok();
        self.folder.save("checks.json", &self.checks)?;
        self.step(MATRIX, |bn, limit| {
            bn.args(["check", "--full", "--time-limit", &limit.min(MATRIX_SECONDS).to_string(), "--json"]).arg(&output)
        })?;
        self.checks.matrix = load(&output).unwrap_or_default();
        std::fs::remove_file(&output).ok();
        self.folder.save("checks.json", &self.checks)
    }

    /// The time of the plans that the library chooses, and of every strategy on some shapes.
    fn bench(&mut self) -> Result<(), AnyError> {
        let Shapes { first, large, rest, forced, .. } = *self.shapes;
        let steps: [(_, &[&str]); 3] = [
            (BENCH, &["--shapes", first, "--strategies", forced]),
            (LARGE, &["--shapes", large, "--quick"]),
            (REST, &["--shapes", rest]),
        ];
        let mut whole: Option<Record> = None;
        for (name, flags) in steps {
            let Some(record) = self.record(name, flags, None)? else { continue };
            match &mut whole {
                None => whole = Some(record),
                Some(whole) => {
                    whole.rows.extend(record.rows);
                    whole.not_timed.extend(record.not_timed);
                }
            }
            self.folder.save("bench.json", &whole)?;
        }
        Ok(())
    }

    /// A record of `bn bench`, where it came to one.
    fn record(&mut self, name: &str, flags: &[&str], tuning: Option<&Path>) -> Result<Option<Record>, AnyError> {
        let output = self.folder.path("record.partial");
        self.step(name, |bn, limit| {
            bn.arg("bench").args(flags).args(["--time-limit", &limit.to_string(), "--json"]).arg(&output);
            if let Some(tuning) = tuning {
                bn.arg("--tuning").arg(tuning);
            }
            bn
        })?;
        let record = load(&output);
        std::fs::remove_file(&output).ok();
        Ok(record)
    }

    /// Others in turn with us, twice.
    fn others(&mut self, software: bool) -> Result<(), AnyError> {
        let without = match (self.survey.pytorch.as_str(), software) {
            ("not there", _) => Some("there is no PyTorch"),
            (text, false) if text.contains("without CUDA") => Some("PyTorch has no CUDA device"),
            _ => None,
        };
        if let Some(why) = without {
            return self.note(Done::left_out(PEERS, why));
        }
        let devices = if software { "cpu" } else { "cuda" };
        // Ours of the first round were timed by the bench.
        self.peers.ours.extend(load::<Record>(&self.folder.path("bench.json")));
        self.round(PEERS, devices)?;
        let ours = self.record(OURS, &["--quick", "--shapes", self.shapes.ours], None)?;
        self.peers.ours.extend(ours);
        self.round(PEERS_AGAIN, devices)
    }

    fn round(&mut self, name: &str, devices: &str) -> Result<(), AnyError> {
        let output = self.folder.path("peers.partial");
        let limit = self.limit(name);
        let mut python = Command::new(&self.arguments.python);
        python.arg(&self.arguments.pytorch).args(["--samples", "5", "--devices", devices]);
        python.args(["--shapes", self.shapes.peers, "--time-limit", &inner_limit(limit).to_string()]);
        let done = self.log.run(name, python.arg("--out").arg(&output), limit, None);
        self.peers.others.extend(load::<Vec<Peer>>(&output));
        std::fs::remove_file(&output).ok();
        self.note(done)?;
        self.folder.save("peers.json", &self.peers)
    }

    /// Looks for faster plans, and times them.
    fn tune(&mut self) -> Result<(), AnyError> {
        let (tuning, tuned) = (self.folder.path("tuning.json"), self.shapes.tuned);
        self.step(TUNE, |bn, limit| {
            bn.args(["tune", "--shapes", tuned, "--time-limit", &limit.to_string(), "--out"]).arg(&tuning)
        })?;
        if !tuning.exists() {
            return self.note(Done::left_out(TUNED, "there is no tuning"));
        }
        match self.record(TUNED, &["--quick", "--shapes", self.shapes.ours], Some(&tuning))? {
            Some(record) => self.folder.save("tuned.json", &record),
            None => Ok(()),
        }
    }

    fn sum_up(&self) -> Result<ExitStatus, AnyError> {
        let [bench, tuned] = ["bench.json", "tuned.json"].map(|name| load::<Record>(&self.folder.path(name)));
        let found = SurveyResults {
            survey: &self.survey,
            checks: &self.checks,
            bench: bench.as_ref(),
            peers: &self.peers,
            tuned: tuned.as_ref(),
        };
        replace(&self.folder.path("summary.txt"), summary::text(&found).as_bytes())?;
        print!("{}", summary::text_to_width(&found));
        eprintln!("results: {}", self.arguments.out.display());
        Ok(if summary::passed(&found) { ExitStatus::Passed } else { ExitStatus::Failed })
    }

    /// This program, for the adapter of the survey.
    fn bn(&self) -> Command {
        Command::new(&self.program)
    }

    /// Runs `bn` as `arguments` say, given the seconds that it may start new work for.
    fn step(&mut self, name: &str, arguments: impl Fn(&mut Command, f64) -> &mut Command) -> Result<(), AnyError> {
        let limit = self.limit(name);
        let mut bn = self.bn();
        arguments(&mut bn, inner_limit(limit)).args(["--adapter", &self.survey.adapter]);
        let done = self.log.run(name, &mut bn, limit, None);
        self.note(done)
    }

    /// The time of a step: its share of what is left.
    fn limit(&self, name: &str) -> Duration {
        let shares = SHARES.iter().skip_while(|(other, _)| *other != name).map(|(_, share)| share);
        let own = shares.clone().next().copied().unwrap_or(1.0);
        let limit = self.end.saturating_duration_since(Instant::now()).mul_f64(own / shares.sum::<f64>().max(own));
        eprintln!("{name}: at most {:.0} s", limit.as_secs_f64());
        limit
    }

    /// Keeps what came of a step.
    fn note(&mut self, done: Done) -> Result<(), AnyError> {
        match done.trouble() {
            Some(trouble) => eprintln!("{trouble}"),
            None => eprintln!("{}: done in {:.0} s", done.name, done.seconds),
        }
        self.survey.steps.push(done);
        self.save()
    }

    fn save(&self) -> Result<(), AnyError> {
        self.folder.save("survey.json", &self.survey)
    }
}
