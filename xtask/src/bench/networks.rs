//! Copies through networks that are far away, slow or break: wall time, and what was moved twice.
//!
//! Between the programs and each registry stands a [`Proxy`]; registries are real ones. A program
//! that gives up is part of the result.

use std::path::Path;
use std::time::Duration;

use diolkos_tests::{DockerRegistry, Home, Image, Network, Proxy};

use super::Program;
use super::measure::{self, Run, median};
use super::table::{Table, duration};
use crate::shell::{Result, bytes};

/// A network, what is copied through it, and how.
struct Scene {
    name: &'static str,
    network: fn() -> Network,
    /// Sizes of the image's layers, which do not compress.
    layers: &'static [usize],
    /// Whether the destination has the image already.
    again: bool,
    /// Whether the destination is a registry behind such a network too, or a directory.
    to_registry: bool,
}

const FAR: fn() -> Network = || Network::good().with_latency(Duration::from_millis(25));

const SCENES: [Scene; 5] = [
    Scene {
        name: "50 ms away, 20 layers of 200 kB, registry → registry",
        network: FAR,
        layers: &[200_000; 20],
        again: false,
        to_registry: true,
    },
    Scene {
        name: "the same again",
        network: FAR,
        layers: &[200_000; 20],
        again: true,
        to_registry: true,
    },
    Scene {
        name: "cut every 5 MB, 3 layers of 20 MB, registry → registry",
        network: || Network::good().cutting_after(5_000_000),
        layers: &[20_000_000; 3],
        again: false,
        to_registry: true,
    },
    Scene {
        name: "8 MB/s for each connection, 50 ms away, one layer of 200 MB, registry → dir",
        network: || FAR().with_share(8_000_000),
        layers: &[200_000_000],
        again: false,
        to_registry: false,
    },
    Scene {
        name: "50 ms away, one layer of 200 MB, registry → dir",
        network: FAR,
        layers: &[200_000_000],
        again: false,
        to_registry: false,
    },
];

/// What one copy did.
struct Outcome {
    run: Run,
    down: u64,
    up: u64,
}

/// Runs each program in each scene and returns a row for each of them.
pub fn measure(programs: &[Program], runs: usize) -> Result<Table> {
    let head = ["network", "program", "wall", "memory", "bytes down", "bytes up", "wall ratio"];
    let mut table = Table { head: head.map(str::to_owned).to_vec(), rows: Vec::new() };
    for scene in &SCENES {
        eprintln!("measuring: {}", scene.name);
        let measured = measure_scene(scene, programs, runs)?;
        let theirs = measured.get(1).and_then(|outcomes| wall(outcomes));
        for (index, (program, outcomes)) in programs.iter().zip(&measured).enumerate() {
            let ratio = match (wall(outcomes), theirs) {
                (Some(ours), Some(theirs)) if index == 0 => {
                    format!("{:.2}", ours.as_secs_f64() / theirs.as_secs_f64())
                }
                _ => String::new(),
            };
            table.rows.push(row(scene, program, outcomes, &ratio));
        }
    }
    Ok(table)
}

fn wall(outcomes: &[Outcome]) -> Option<Duration> {
    (!outcomes.is_empty()).then(|| median(outcomes.iter().map(|outcome| outcome.run.wall)))
}

fn row(scene: &Scene, program: &Program, outcomes: &[Outcome], ratio: &str) -> Vec<String> {
    let mut row = vec![scene.name.to_owned(), program.name.to_owned()];
    if let Some(wall) = wall(outcomes) {
        let size: usize = scene.layers.iter().sum();
        let moved = |count: fn(&Outcome) -> u64| {
            let count = median(outcomes.iter().map(count));
            format!("{} ({:.2})", bytes(count), count as f64 / size as f64)
        };
        row.push(duration(wall));
        row.push(bytes(median(outcomes.iter().map(|outcome| outcome.run.memory))));
        row.push(moved(|outcome| outcome.down));
        row.push(moved(|outcome| outcome.up));
    } else {
        row.push("gives up".to_owned());
        row.extend([(); 3].map(|()| String::new()));
    }
    row.push(ratio.to_owned());
    row
}

/// Returns what each program's copies did; nothing for one that gave up.
fn measure_scene(scene: &Scene, programs: &[Program], runs: usize) -> Result<Vec<Vec<Outcome>>> {
    let source = DockerRegistry::start()?;
    let seeds = Home::new();
    let layout = seeds.path("layout");
    Image::noise(scene.layers, 1).write_layout(&layout, "1")?;
    let layout = format!("oci:{}:1", layout.display());
    copy(&seeds, &programs[0].path, &layout, &source.reference("a:1"))?;
    let mut measured: Vec<Vec<Outcome>> = programs.iter().map(|_| Vec::new()).collect();
    let mut gave_up = vec![false; programs.len()];
    for round in 0..=runs {
        for (index, program) in programs.iter().enumerate() {
            if gave_up[index] {
                continue;
            }
            let destination = DockerRegistry::start()?;
            let home = Home::new();
            let to = |host: &Proxy| {
                let directory = format!("dir:{}", home.path("out").display());
                if scene.to_registry { host.reference("a:1") } else { directory }
            };
            if scene.again {
                let host = Proxy::start(&destination.host(), Network::good())?;
                copy(&home, &program.path, &source.reference("a:1"), &to(&host))?;
            }
            let from = Proxy::start(&source.host(), (scene.network)())?;
            let host = Proxy::start(&destination.host(), (scene.network)())?;
            match copy(&home, &program.path, &from.reference("a:1"), &to(&host)) {
                Ok(run) if round > 0 => {
                    let (down, up) = (from.to_client(), host.to_server());
                    measured[index].push(Outcome { run, down, up });
                }
                Ok(_) => {}
                Err(why) => {
                    eprintln!("{} gives up: {why}", program.name);
                    gave_up[index] = true;
                    measured[index].clear();
                }
            }
        }
    }
    Ok(measured)
}

fn copy(home: &Home, program: &Path, from: &str, to: &str) -> Result<Run> {
    let flag = |side: &str, name: &str| {
        name.starts_with("docker:").then(|| format!("--{side}-tls-verify=false"))
    };
    let mut arguments = ["--insecure-policy", "copy", "--quiet"].map(str::to_owned).to_vec();
    arguments.extend(flag("src", from));
    arguments.extend(flag("dest", to));
    arguments.extend([from.to_owned(), to.to_owned()]);
    measure::run(home, program, &arguments)
}
