//! One run of a program: time, work and memory.
//!
//! The program runs below a process of its own, this one's `measure` command, which has no other
//! child: what the system accounts to its children is then this run and nothing else, helper
//! processes included. The memory that a child inherits until it becomes another program counts
//! as its peak, so that no result is below the few megabytes of that process.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use diolkos_tests::Home;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

use crate::shell::Result;

/// What one run cost.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub wall: Duration,
    /// User and system time, all threads.
    pub cpu: Duration,
    /// Peak resident memory in bytes.
    pub memory: u64,
}

/// Medians over several runs.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    pub run: Run,
    /// Bytes of the result, where a job asks for it.
    pub size: Option<u64>,
}

impl Summary {
    pub fn of(runs: &[Run], size: Option<u64>) -> Self {
        let run = Run {
            wall: median(runs.iter().map(|run| run.wall)),
            cpu: median(runs.iter().map(|run| run.cpu)),
            memory: median(runs.iter().map(|run| run.memory)),
        };
        Self { run, size }
    }
}

/// Returns the middle one of some values.
pub fn median<T: Ord + Copy + Default>(values: impl Iterator<Item = T>) -> T {
    let mut values: Vec<_> = values.collect();
    values.sort();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Runs a program in a home and measures it.
pub fn run(home: &Home, program: &Path, arguments: &[String]) -> Result<Run> {
    let report = home.path("report");
    let mut command = home.command(env::current_exe()?);
    command
        .arg("measure")
        .arg(&report)
        .arg(program)
        .args(arguments)
        .env("_CONTAINERS_ROOTLESS_UID", "1000")
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let output = command.output()?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {}", output.status, stderr.trim()).into());
    }
    let report = fs::read_to_string(report)?;
    let mut numbers = report.split_ascii_whitespace().map(str::parse::<u64>);
    let mut next = || numbers.next().unwrap_or(Ok(0));
    Ok(Run {
        wall: Duration::from_micros(next()?),
        cpu: Duration::from_micros(next()?),
        memory: next()? * 1024,
    })
}

/// The `measure` command: runs a program and writes what it cost into a file.
pub fn measure_child(words: &[&String]) -> ExitCode {
    let [report, program, arguments @ ..] = words else { return ExitCode::FAILURE };
    let arguments = arguments.iter().map(OsString::from);
    let start = Instant::now();
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).status();
    let wall = start.elapsed();
    let written = status.map_err(|error| format!("{program}: {error}")).and_then(|status| {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(|error| error.to_string())?;
        let cpu = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        let text = format!("{} {cpu} {}\n", wall.as_micros(), usage.max_rss());
        fs::write(report, text).map_err(|error| error.to_string())?;
        Ok(status.success())
    });
    match written {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
