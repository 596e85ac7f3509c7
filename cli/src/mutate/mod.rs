//! `bn mutate`: how much of the shaders the cross-check guards, by mutants that it has to find.

mod pool;
mod worker;

use crate::adapter::AdapterArgs;
use crate::output::{Claim, ReportKind, progress};
use crate::terminal::{number, table, text};
use crate::{AnyError, ExitStatus};
use batchnorm_wgpu_check::mutant::{Equivalent, Mutant};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Arguments of `bn mutate`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  bn mutate --sample 20                  every twentieth mutant
  bn mutate --file common/running.wgsl   those of one file
  bn mutate --json mutants.json          all of them, which takes long

Exit codes: 0 every mutant was found, 1 some survived, 2 wrong usage or no adapter.")]
pub struct MutateArgs {
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Take only every N-th mutant
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    sample: u32,
    /// Take only the mutants of files whose path contains TEXT
    #[arg(long, value_name = "TEXT")]
    file: Option<String>,
    /// The number of processes that run mutants at the same time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// Run at most N cases on each mutant, which survives when it passes them [default: all that run its line]
    #[arg(long, value_name = "N")]
    cases: Option<usize>,
    /// Also run the mutants that are known to do the same as the shader
    #[arg(long)]
    equivalents: bool,
    /// Write every mutant with its verdict as JSON to FILE, or to standard output
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// List the mutants and run none
    #[arg(long)]
    list: bool,
    /// Run mutants whose numbers come on standard input
    #[arg(long, hide = true)]
    worker: bool,
}

/// What became of a mutant.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
enum MutantFate {
    /// A case failed.
    Killed {
        /// Its id.
        case: String,
    },
    /// Every case passed.
    Survived {
        /// How many there were.
        cases: usize,
    },
    /// It does not compile, and is none.
    Invalid {
        /// What the compiler says.
        reason: String,
    },
    /// It took its process along, which counts as found.
    Crashed,
    /// It did not come back, which counts as found.
    Hung,
    /// It is on the list of those that do the same, and was not run.
    Equivalent {
        /// Why it does the same.
        reason: String,
    },
}

/// What a process says.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// The process waits for its first mutant, or the next case runs.
    Alive,
    /// All that were needed ran.
    Fate(MutantFate),
    /// A case fails without a mutant too.
    Unsound {
        /// Its id.
        case: String,
        /// In which way.
        reason: String,
    },
}

/// A mutant and what became of it.
#[derive(Serialize)]
struct JudgedMutant<'a> {
    #[serde(flatten)]
    mutant: &'a Mutant,
    #[serde(flatten)]
    verdict: MutantFate,
}

/// How many of a file's mutants met which end.
#[derive(Clone, Copy, Default, Serialize)]
struct Score {
    killed: usize,
    survived: usize,
    equivalent: usize,
    invalid: usize,
}

impl Score {
    fn add(&mut self, verdict: &MutantFate) {
        let count = match verdict {
            MutantFate::Killed { .. } | MutantFate::Crashed | MutantFate::Hung => &mut self.killed,
            MutantFate::Survived { .. } => &mut self.survived,
            MutantFate::Equivalent { .. } => &mut self.equivalent,
            MutantFate::Invalid { .. } => &mut self.invalid,
        };
        *count += 1;
    }

    /// Share of those that are not equivalent that was found.
    fn share(self) -> String {
        match self.killed + self.survived {
            0 => "-".into(),
            mutants => format!("{:.1} %", 100.0 * self.killed as f64 / mutants as f64),
        }
    }

    fn cells(self, of: &str) -> Vec<String> {
        let Self { killed, survived, equivalent, invalid } = self;
        let [killed, survived, equivalent, invalid] = [killed, survived, equivalent, invalid].map(|it| it.to_string());
        vec![of.to_owned(), killed, survived, self.share(), equivalent, invalid]
    }
}

#[derive(Serialize)]
struct MutationReport<'a> {
    adapter: String,
    score: Score,
    mutants: &'a [JudgedMutant<'a>],
}

/// What the report looks like.
const REPORT: ReportKind = ReportKind::Json(&["adapter", "score", "mutants"]);

/// Runs the mutants.
pub fn run(arguments: &MutateArgs) -> Result<ExitStatus, AnyError> {
    let json = Claim::report(arguments.json.as_deref(), REPORT)?;
    let gpu = arguments.adapter.open()?;
    if arguments.worker {
        worker::run(&gpu, arguments.cases.unwrap_or(usize::MAX))?;
        return Ok(ExitStatus::Passed);
    }
    let known = if arguments.equivalents { Vec::new() } else { Equivalent::known()? };
    let all = Mutant::all();
    let is_chosen = |mutant: &Mutant| arguments.file.as_ref().is_none_or(|text| mutant.file.contains(text.as_str()));
    let chosen = all.iter().enumerate().filter(|(_, mutant)| is_chosen(mutant)).map(|(i, _)| i);
    let chosen: Vec<usize> = chosen.step_by(arguments.sample as usize).collect();
    if chosen.is_empty() {
        return Err("no mutant is left; `bn mutate --help` says what --file and --sample take".into());
    }
    if arguments.list {
        chosen.iter().for_each(|&i| println!("{i:>5} {}", all[i]));
        return Ok(ExitStatus::Passed);
    }
    let equivalent = |&i: &usize| {
        let reason = known.iter().find(|equivalent| equivalent.is(&all[i]))?.reason.clone();
        Some((i, MutantFate::Equivalent { reason }))
    };
    let mut verdicts: Vec<(usize, MutantFate)> = chosen.iter().filter_map(equivalent).collect();
    let rest: Vec<usize> = chosen.iter().filter(|i| equivalent(i).is_none()).copied().collect();

    let bar = progress(rest.len() as u64, &gpu.key());
    let mut worker = ["mutate", "--worker", "--adapter", &gpu.key()].map(str::to_owned).to_vec();
    worker.extend(arguments.cases.into_iter().flat_map(|cases| ["--cases".to_owned(), cases.to_string()]));
    verdicts.extend(pool::judge(&rest, &worker, arguments.jobs.into(), |i, verdict| {
        if matches!(verdict, MutantFate::Survived { .. }) {
            bar.suspend(|| eprintln!("survived: {}", all[i]));
        }
        bar.inc(1);
    })?);
    bar.finish_and_clear();
    verdicts.sort_by_key(|(i, _)| *i);
    let outcomes: Vec<JudgedMutant> =
        verdicts.into_iter().map(|(i, verdict)| JudgedMutant { mutant: &all[i], verdict }).collect();
    finish(&gpu.key(), &outcomes, json.as_ref())
}

fn finish(adapter: &str, outcomes: &[JudgedMutant<'_>], json: Option<&Claim>) -> Result<ExitStatus, AnyError> {
    let mut whole = Score::default();
    let mut files: BTreeMap<&str, Score> = BTreeMap::new();
    for outcome in outcomes {
        whole.add(&outcome.verdict);
        files.entry(outcome.mutant.file).or_default().add(&outcome.verdict);
    }
    if let Some(json) = json {
        json.write_json(&MutationReport { adapter: adapter.to_owned(), score: whole, mutants: outcomes })?;
    }
    if !json.is_some_and(Claim::is_standard_output) {
        print(whole, &files, outcomes);
    }
    Ok(if whole.survived == 0 { ExitStatus::Passed } else { ExitStatus::Failed })
}

fn print(whole: Score, files: &BTreeMap<&str, Score>, outcomes: &[JudgedMutant<'_>]) {
    let rows = files.iter().map(|(file, score)| score.cells(file)).chain([whole.cells("all")]);
    let columns = [
        text("file"),
        number("found"),
        number("survived"),
        number("share\nfound").means("of those found and those that survived"),
        number("equivalent").means("known to do the same as the shader, and not run").extra(),
        number("invalid").means("do not compile").extra(),
    ];
    println!("{}", table(columns, rows));
    for outcome in outcomes {
        if let MutantFate::Survived { cases } = outcome.verdict {
            println!("SURVIVED {cases} cases: {}", outcome.mutant);
        }
    }
}
