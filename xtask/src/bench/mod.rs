//! `bench`: how fast, with how much work and memory, compared with other programs.
//!
//! Programs run alternately, in the same run, on the same files; the page cache is warm for all.
//! Each has a home of its own without knowledge of earlier copies, and destinations are empty
//! unless a job says otherwise. What a job does is in [`jobs`], how a run is measured in
//! [`measure`], the image in [`image`], counting requests in [`requests`], and copies through
//! networks that are slow or break in [`networks`].

mod image;
mod jobs;
mod measure;
mod networks;
mod requests;
mod table;

use std::cell::OnceCell;
use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use diolkos_tests::{DockerRegistry, Home, Layout};

use crate::shell::{self, Result};
use jobs::{Job, Place};
pub use measure::measure_child;
use measure::{Run, Summary};
use table::Table;

/// What the user asked for.
pub struct Request {
    /// Runs of each program for each job.
    pub runs: usize,
    /// Only jobs whose name contains one of these; all if there are none.
    pub jobs: Vec<String>,
    /// Count requests instead of measuring.
    pub requests: bool,
    /// Measure through networks that are slow or break, instead of on a good one.
    pub networks: bool,
    /// Print tables as markdown.
    pub markdown: bool,
    /// Where the image is kept.
    pub cache: Option<PathBuf>,
    /// What is measured, if not the release build.
    pub program: Option<PathBuf>,
}

/// A program under comparison; all have the same command line.
struct Program {
    name: &'static str,
    path: PathBuf,
}

/// Measures all jobs and prints a table.
pub fn run(request: &Request) -> Result<()> {
    let path = match &request.program {
        Some(path) => std::path::absolute(path)?,
        None => shell::build_release()?.join("diolkos"),
    };
    let mut programs = vec![Program { name: "diolkos", path }];
    if shell::installed("skopeo") {
        programs.push(Program { name: "skopeo", path: "skopeo".into() });
    } else {
        eprintln!("note: skopeo is not installed, so there is nothing to compare with");
    }
    if request.requests {
        print_table(&requests::count(&programs)?, request.markdown);
        return Ok(());
    }
    if request.networks {
        print_table(&networks::measure(&programs, request.runs)?, request.markdown);
        return Ok(());
    }
    let cache = request.cache.clone().or_else(default_cache).ok_or("HOME is not set")?;
    let place = Place {
        image: image::Images::make(&cache)?,
        work: tempfile::tempdir_in(&cache)?,
        source: DockerRegistry::start()?,
        destination: DockerRegistry::start()?,
        daemon: OnceCell::new(),
    };
    jobs::prepare(&place, &programs[0].path)?;
    let wanted = |job: &&Job| {
        request.jobs.is_empty() || request.jobs.iter().any(|word| job.name.contains(word.as_str()))
    };
    println!("{}\n", conditions(&programs, &place, request.runs)?);
    let mut rows = Vec::new();
    for job in jobs::ALL.iter().filter(wanted) {
        if !jobs::can_run(&place, job) {
            eprintln!("left out: {}", job.name);
            continue;
        }
        eprintln!("measuring: {}", job.name);
        let measured = measure_job(job, &place, &programs, request.runs)?;
        rows.push(table::row(job.name, &measured));
    }
    print_table(&Table { head: table::head(&programs), rows }, request.markdown);
    Ok(())
}

/// Says what was measured on what, without which numbers mean nothing.
fn conditions(programs: &[Program], place: &Place, runs: usize) -> Result<String> {
    let mut versions = Vec::new();
    for program in programs {
        let version = shell::output(Command::new(&program.path).arg("--version"))?;
        versions.push(version.trim().to_owned());
    }
    let cores = std::thread::available_parallelism()?;
    let layers = Layout::new(&place.image.layout).manifest("bench")?["layers"].clone();
    let sizes: Vec<_> = layers
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|layer| Some(shell::bytes(layer["size"].as_u64()?)))
        .collect();
    Ok(format!(
        "Medians of {runs} runs, of what is short {MORE} times as many, on {cores} cores; an image \
         with gzip layers of {}; {}.",
        sizes.join(", "),
        versions.join("; ")
    ))
}

/// Returns where the image is kept between runs.
pub fn default_cache() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(caches.join("diolkos-bench"))
}

/// A job that takes less time than this is measured more often, since chance weighs more.
const SHORT: Duration = Duration::from_millis(100);
/// How many times as often.
const MORE: usize = 10;

/// Runs each program `runs` times, in turns, after one run that does not count.
fn measure_job(
    job: &Job,
    place: &Place,
    programs: &[Program],
    runs: usize,
) -> Result<Vec<Summary>> {
    let mut measured: Vec<Vec<Run>> = programs.iter().map(|_| Vec::new()).collect();
    let mut sizes = vec![None; programs.len()];
    let (mut round, mut last) = (0, runs);
    while round <= last {
        for (index, program) in programs.iter().enumerate() {
            let home = Home::new();
            jobs::clean(place, job)?;
            let arguments = (job.arguments)(place);
            let run = measure::run(&home, &program.path, &arguments)
                .map_err(|why| format!("{}: {}: {why}", job.name, program.name))?;
            sizes[index] = (job.size)(place)?;
            if round > 0 {
                measured[index].push(run);
            } else if run.wall < SHORT {
                last = runs * MORE;
            }
        }
        round += 1;
    }
    Ok(measured.iter().zip(sizes).map(|(runs, size)| Summary::of(runs, size)).collect())
}

fn print_table(table: &Table, markdown: bool) {
    print!("{}", if markdown { table.markdown() } else { table.plain() });
}
