//! Developer commands: `cargo xtask COMMAND`.
//!
//! - `demo`: builds everything, copies a real image around and checks every byte,
//! - `test`: installs the programs that tests need, builds, runs all tests,
//! - `bench`: measures against other programs on a real image,
//! - `install`: makes the tree that a package holds.
//!
//! Each is a module of that name; what they share is in [`shell`].

mod bench;
mod demo;
mod install;
mod shell;
mod test;

use std::process::ExitCode;

use clap::{Arg, ArgAction, Command, value_parser};

fn main() -> ExitCode {
    let matches = command_line().get_matches();
    let done = match matches.subcommand() {
        Some(("demo", _)) => demo::run(),
        Some(("test", matches)) => {
            test::run(&test::Request { install: !matches.get_flag("no-install") })
        }
        Some(("bench", matches)) => bench::run(&bench::Request {
            runs: *matches.get_one("runs").expect("it has a default"),
            jobs: matches.get_many::<String>("job").unwrap_or_default().cloned().collect(),
            requests: matches.get_flag("requests"),
            networks: matches.get_flag("networks"),
            markdown: matches.get_flag("markdown"),
            cache: matches.get_one("cache").cloned(),
            program: matches.get_one("program").cloned(),
        }),
        Some(("install", matches)) => {
            let prefix: &String = matches.get_one("prefix").expect("it has a default");
            install::run(prefix.as_ref())
        }
        Some(("measure", matches)) => {
            let words: Vec<_> = matches.get_many::<String>("words").unwrap_or_default().collect();
            return bench::measure_child(&words);
        }
        _ => unreachable!("clap requires a command"),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn command_line() -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    Command::new("cargo xtask")
        .about("Developer commands of Diolkos")
        .subcommand_required(true)
        .subcommand(Command::new("demo").about("Copy a real image around and check every byte"))
        .subcommand(
            Command::new("test")
                .about("Run all tests, with the real programs they need")
                .arg(flag("no-install", "Install no programs")),
        )
        .subcommand(
            Command::new("bench")
                .about("Measure against other programs on a real Debian image")
                .arg(
                    Arg::new("runs")
                        .long("runs")
                        .value_parser(value_parser!(usize))
                        .default_value("5")
                        .help("Runs of each program for each job"),
                )
                .arg(
                    Arg::new("job")
                        .long("job")
                        .action(ArgAction::Append)
                        .help("Only jobs whose name contains this"),
                )
                .arg(
                    Arg::new("cache")
                        .long("cache")
                        .value_parser(value_parser!(std::path::PathBuf))
                        .help("Directory that keeps the image [default: ~/.cache/diolkos-bench]"),
                )
                .arg(
                    Arg::new("program")
                        .long("program")
                        .value_parser(value_parser!(std::path::PathBuf))
                        .help("Measure this program instead of building one"),
                )
                .arg(flag("requests", "Count HTTP requests instead"))
                .arg(flag("networks", "Measure through networks that are slow or break instead"))
                .arg(flag("markdown", "Print tables as markdown")),
        )
        .subcommand(
            Command::new("install")
                .about("Install the program, its plugins and manual pages; honours DESTDIR")
                .arg(
                    Arg::new("prefix").long("prefix").default_value("/usr/local").help("Where to"),
                ),
        )
        .subcommand(
            Command::new("measure").hide(true).arg(
                Arg::new("words")
                    .num_args(2..)
                    .trailing_var_arg(true)
                    .allow_hyphen_values(true)
                    .required(true),
            ),
        )
}
