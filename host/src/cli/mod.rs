//! The command line: turns arguments into a request and a result into output, and nothing else.
//!
//! - `args` makes the commands, with the flags of installed plugins (`flags`); `usage` words
//!   what the parser refuses.
//! - One file for each command; `endpoint` turns image names into what the engine takes.
//! - `login` and `logout` speak to the one transport that keeps logins; `prompt` asks the user.
//! - `console` writes messages in the form the program's name asks for, `output` writes data,
//!   `progress` shows a copy as it goes.
//! - `signals` stops commands.
//!
//! stdout carries data alone; under the name `skopeo` also a copy's progress, as there. Exit codes:
//! 0 success, 2 the image does not exist, 1 every other failure (wrong usage and stopped commands
//! included).

mod args;
mod check;
mod completion;
mod console;
mod context;
mod copy;
mod delete;
mod endpoint;
mod flags;
mod generate;
mod inspect;
mod list_tags;
mod login;
mod logout;
mod manifest_digest;
mod output;
mod plugin;
mod progress;
mod prompt;
mod retry;
mod signals;
mod usage;
mod values;

use std::ffi::OsString;
use std::mem::ManuallyDrop;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use clap::ArgMatches;
use diolkos_sdk::{Error, ErrorKind, Host, Result};

use args::CommandLine;
use console::{Console, Personality, exit_code};
use context::{Context, Globals, Services};
use signals::Cancellation;

use crate::plugin::{Environment, Transports, Trust};
use crate::user_namespace;

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if user_namespace::is_mapper(&args) {
        return user_namespace::map_ids(&args);
    }
    let personality = Personality::of(args.first().map(OsString::as_os_str));
    let console = Arc::new(Console::new(personality));
    let cancellation = Cancellation::default();
    let panicked = remember_panics(&console);
    let work = AssertUnwindSafe(|| run(&args, &console, &cancellation));
    let result = std::panic::catch_unwind(work).unwrap_or_else(|_| {
        let what = panicked.get().cloned().unwrap_or_default();
        Err(Error::new(ErrorKind::Internal, format!("an assumption was wrong: {what}")))
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error = cancellation.explain(error);
            console.error(&error);
            ExitCode::from(exit_code(error.kind()))
        }
    }
}

/// Keeps the text of the first panic, so that a fault of ours ends in an error like any other.
fn remember_panics(console: &Arc<Console>) -> Arc<OnceLock<String>> {
    let panicked = Arc::new(OnceLock::new());
    let (kept, console) = (panicked.clone(), console.clone());
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        console.debug(&info.to_string());
        let _ = kept.set(info.to_string().replace('\n', " "));
        if std::env::var_os("RUST_BACKTRACE").is_some() {
            usual(info);
        }
    }));
    panicked
}

fn run(args: &[OsString], console: &Arc<Console>, cancellation: &Cancellation) -> Result<()> {
    let personality = console.personality();
    // Scripts ask for the version all the time; it needs no plugin and no parser.
    if args.get(1).is_some_and(|arg| arg == "--version" || arg == "-v") {
        return output::line(&personality.version());
    }
    let (environment, named) = (Environment::current(), args::plugin_dirs(args));
    if environment.elevated && !named.is_empty() {
        console.warn("--plugin-dir is ignored because the program runs with raised privileges");
    }
    let dirs = environment.search_dirs(&named);
    let transports = Transports::discover(&dirs, Trust::current());
    if !environment.elevated && user_namespace::is_needed(args, &transports) {
        return Err(user_namespace::enter(args, |text| console.warn(text)));
    }
    // What is no word of the command line cannot be its command.
    let is_said = |command: &str| args.iter().any(|arg| arg == command);
    // These are about all commands.
    let is_whole = [plugin::NAME, completion::NAME, generate::NAME].into_iter().any(is_said);
    let wanted = |command: &str| is_whole || is_said(command);
    let CommandLine { command, problems } =
        args::command_line_for(personality, &transports, wanted);
    // It goes with the process: taking it apart takes as long as making it.
    let mut command = ManuallyDrop::new(command);
    let root = match command.try_get_matches_from_mut(args) {
        Ok(matches) => matches,
        Err(help) if !help.use_stderr() => {
            return output::write(help.render().to_string().as_bytes());
        }
        Err(refused) => {
            return Err(usage::error(&refused, &command, args, personality, &transports));
        }
    };
    if root.get_flag("version") {
        return output::line(&personality.version());
    }
    let Some((name, matches)) = root.subcommand() else {
        return Err(usage::missing_command(personality));
    };
    let leaf = leaf(matches);
    if args::is_on(leaf, "debug") {
        console.show_debug();
    }
    let globals = Globals::read(&root, leaf)?;
    if globals.tls_verify.is_some() {
        console.warn("'--tls-verify' is deprecated, please set this on the specific subcommand");
    }
    signals::watch(cancellation, console, globals.timeout);
    for problem in &problems {
        console.debug(problem);
    }
    let services = Services { console: console.clone(), cancellation: cancellation.clone() };
    let context = Context {
        transports,
        globals,
        console: console.clone(),
        cancellation: cancellation.clone(),
        host: Host::new(services),
        problems,
    };
    dispatch(&context, name, matches)
}

fn dispatch(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        copy::NAME => copy::run(context, matches),
        inspect::NAME => inspect::run(context, matches),
        list_tags::NAME => list_tags::run(context, matches),
        delete::NAME => delete::run(context, matches),
        login::NAME => login::run(context, matches),
        logout::NAME => logout::run(context, matches),
        manifest_digest::NAME => manifest_digest::run(context, matches),
        plugin::NAME => plugin::run(context, matches),
        completion::NAME => completion::run(context, matches),
        generate::NAME => generate::run(context, matches),
        other => unreachable!("the parser knows no command `{other}`"),
    }
}

/// Returns the arguments of the innermost command, which has the global flags too.
fn leaf(matches: &ArgMatches) -> &ArgMatches {
    match matches.subcommand() {
        Some((_, nested)) => leaf(nested),
        None => matches,
    }
}
