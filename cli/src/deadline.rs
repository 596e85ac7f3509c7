//! A limit on how long a command starts new work.

use std::time::{Duration, Instant};

/// `--time-limit`, for commands that do many things one after the other.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct TimeLimit {
    /// Start nothing new after this many seconds, and say what was left out
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    time_limit: Option<f64>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 1e9 => Ok(seconds),
        _ => Err("expected seconds, more than 0".into()),
    }
}

impl TimeLimit {
    /// The deadline, counted from now.
    pub fn start(self) -> Deadline {
        Deadline { end: self.time_limit.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds)) }
    }

    /// What was left out, for people.
    pub fn left_out(self, what: &[String]) -> Option<String> {
        let seconds = self.time_limit.filter(|_| !what.is_empty())?;
        Some(format!("left out, since {seconds} s had passed:\n  {}", what.join("\n  ")))
    }
}

/// When to stop starting new work; never, where there is no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deadline {
    end: Option<Instant>,
}

impl Deadline {
    /// Whether it has passed.
    pub fn passed(&self) -> bool {
        self.end.is_some_and(|end| Instant::now() >= end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_passes_once_its_time_is_up() {
        assert!(!TimeLimit::default().start().passed());
        assert!(!TimeLimit { time_limit: Some(1e6) }.start().passed());
        assert!(TimeLimit { time_limit: Some(1e-9) }.start().passed());
        assert!(seconds("0").is_err() && seconds("-1").is_err() && seconds("NaN").is_err());
        let left = TimeLimit { time_limit: Some(2.0) }.left_out(&["one".into(), "two".into()]);
        assert_eq!(left.unwrap(), "left out, since 2 s had passed:\n  one\n  two");
    }
}
