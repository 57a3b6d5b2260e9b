//! `plugin check`: whether an installed plugin is sound, case by case.
//!
//! Each case runs in a process of its own, so that one that crashes, hangs or leaves something
//! behind says nothing about the others.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::ArgMatches;
use diolkos_sdk::conformance::{self, Described, Subject, Verdict};
use diolkos_sdk::{Error, ErrorKind, Result, ResultExt, Transport};
use serde::Serialize;
use serde_json::json;

use super::args::is_on;
use super::context::Context;
use super::flags::one;
use super::output;
use crate::levels;
use crate::plugin::registry::check_library;
use crate::plugin::{Environment, Found, Origin, SearchDir, State, Transports, Trust};

/// How long a case may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The exit code of a case, within its own process, that does not apply.
const DOES_NOT_APPLY: i32 = 3;

/// The cases before those of the transports.
const MANIFEST: &str = "manifest";
const LIBRARY: &str = "library";
const TRANSPORTS: &str = "transports";

/// The examples of a transport's manifest.
const EXAMPLES: &str = "examples";
/// Stands for all cases of the conformance kit where they cannot run.
const CONFORMANCE: &str = "conformance";

/// How a case ended.
#[derive(Serialize)]
struct Outcome {
    case: String,
    verdict: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
}

/// Runs the command for a plugin's name or its manifest's file.
pub fn run(context: &Context, matches: &ArgMatches, name: &str) -> Result<()> {
    let own;
    let found = if std::path::Path::new(name).extension().is_some_and(|it| it == "toml") {
        own = by_file(name)?;
        own.found().iter().find(|found| found.path.ends_with(file_name(name))).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no manifest `{name}`"))
        })?
    } else {
        super::plugin::find(context, name)?
    };
    if let Some(case) = one::<String>(matches, "case") {
        return run_here(found, &case);
    }
    let as_json = is_on(matches, "json");
    let mut outcomes = Vec::new();
    for case in cases(found) {
        let outcome = run_apart(context, found, &case)?;
        if !as_json {
            let detail = if outcome.detail.is_empty() {
                String::new()
            } else {
                format!(": {}", outcome.detail)
            };
            output::line(&super::console::visible(&format!(
                "{:8} {case}{detail}",
                outcome.verdict
            )))?;
        }
        // What a library that cannot be loaded does in other cases means nothing.
        let stop = outcome.verdict == "FAILED" && [MANIFEST, LIBRARY].contains(&case.as_str());
        outcomes.push(outcome);
        if stop || context.cancellation.why().is_some() {
            break;
        }
    }
    let failed = outcomes.iter().filter(|outcome| outcome.verdict == "FAILED").count();
    if as_json {
        output::json(&json!({ "plugin": found.name, "file": found.path, "cases": outcomes }))?;
    }
    context.host.check_cancelled()?;
    if failed > 0 {
        let message =
            format!("plugin `{}` failed {failed} of {} cases", found.name, outcomes.len());
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok(())
}

/// Looks at the directory of a manifest that need not be in the search path.
fn by_file(name: &str) -> Result<Transports> {
    let path = std::fs::canonicalize(name).context(|| format!("cannot look at `{name}`"))?;
    let dir = path.parent().unwrap_or(&path).to_owned();
    let environment = Environment::current();
    let known = environment.search_dirs(&[]).into_iter().find(|known| known.path == dir);
    if known.is_none() && environment.elevated {
        let message = format!("`{name}` is in no directory of the system");
        return Err(Error::new(ErrorKind::Denied, message)
            .with_hint("run the check without raised privileges"));
    }
    let dir = known.unwrap_or(SearchDir { path: dir, origin: Origin::Flag });
    Ok(Transports::discover(&[dir], Trust::current()))
}

fn file_name(name: &str) -> &std::path::Path {
    let path = std::path::Path::new(name);
    path.file_name().map_or(path, std::path::Path::new)
}

/// Lists the cases for a plugin, those of its transports as `TRANSPORT/CASE`.
fn cases(found: &Found) -> Vec<String> {
    let mut cases: Vec<_> = [MANIFEST, LIBRARY, TRANSPORTS].map(str::to_owned).into();
    let text = std::fs::read_to_string(&found.path).unwrap_or_default();
    for transport in found.manifest.iter().flat_map(|manifest| &manifest.transports) {
        let name = &transport.name;
        cases.push(format!("{name}/{EXAMPLES}"));
        let described = Described::read(&text, name).ok();
        if described.is_some_and(|described| described.reference.is_some()) {
            cases.extend(conformance::cases().iter().map(|case| format!("{name}/{}", case.name)));
        } else {
            cases.push(format!("{name}/{CONFORMANCE}"));
        }
    }
    cases
}

fn run_apart(context: &Context, found: &Found, case: &str) -> Result<Outcome> {
    let cannot = || "cannot start a process for a case";
    let program = std::env::current_exe().context(cannot)?;
    let mut child = Command::new(program)
        .args(["plugin", "check", "--case", case])
        .arg(&found.path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context(cannot)?;
    let mut pipes = (child.stdout.take(), child.stderr.take());
    let (said, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut texts = (String::new(), String::new());
        let _ = pipes.1.as_mut().map(|pipe| pipe.read_to_string(&mut texts.1));
        let _ = pipes.0.as_mut().map(|pipe| pipe.read_to_string(&mut texts.0));
        let _ = said.send(texts);
    });
    let end = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().context(cannot)? {
            break Some(status);
        }
        if Instant::now() > end || context.cancellation.why().is_some() {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let (stdout, stderr) = heard.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
    let (verdict, detail) = match status {
        None => ("FAILED", format!("it did not end within {} s", LIMIT.as_secs())),
        Some(status) if status.success() => ("ok", stdout.trim().to_owned()),
        Some(status) if status.code() == Some(DOES_NOT_APPLY) => ("-", stdout.trim().to_owned()),
        Some(status) => {
            let text = stderr.trim().trim_start_matches("error: ").replace("\n  caused by: ", ": ");
            let text = text.replace('\n', "; ");
            (
                "FAILED",
                if text.is_empty() { format!("the process ended with {status}") } else { text },
            )
        }
    };
    Ok(Outcome { case: case.to_owned(), verdict, detail })
}

/// Runs one case in this process.
fn run_here(found: &Found, case: &str) -> Result<()> {
    match case {
        MANIFEST => match &found.state {
            State::Refused(error) => Err(levels::copy(error)),
            State::Active | State::Shadowed(_) => Ok(()),
        },
        LIBRARY => {
            let library = check_library(found, &Trust::current())?;
            let (major, minor) = diolkos_sdk::abi::inspect(&library)?;
            output::line(&format!("built for ABI {major}.{minor}"))
        }
        TRANSPORTS => check_transports(found),
        case => {
            let (name, case) = case.split_once('/').ok_or_else(|| unknown(case))?;
            let mut transports = load(found)?;
            let index = transports.iter().position(|(it, _)| it == name);
            let (_, transport) = transports.swap_remove(index.ok_or_else(|| unknown(name))?);
            if case == EXAMPLES {
                return check_examples(found, name, &*transport);
            }
            check_conformance(found, name, transport, case)
        }
    }
}

fn unknown(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no case `{name}`"))
}

fn load(found: &Found) -> Result<Vec<(String, Box<dyn Transport>)>> {
    let library = check_library(found, &Trust::current())?;
    Ok(diolkos_sdk::abi::load(&library)?.transports)
}

/// The manifest and the library name the same transports.
fn check_transports(found: &Found) -> Result<()> {
    let manifest = found.manifest.iter().flat_map(|manifest| &manifest.transports);
    let mut announced: Vec<_> = manifest.map(|it| it.name.clone()).collect();
    let mut there: Vec<_> = load(found)?.into_iter().map(|(name, _)| name).collect();
    announced.sort();
    there.sort();
    if announced == there {
        return output::line(&there.join(", "));
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        format!(
            "the manifest announces {}, the library has {}",
            announced.join(", "),
            there.join(", ")
        ),
    ))
}

/// The examples of the manifest are names that the transport takes, and their normal form is its
/// own normal form.
fn check_examples(found: &Found, name: &str, transport: &dyn Transport) -> Result<()> {
    let manifest = found.manifest.as_ref().and_then(|manifest| manifest.transport(name));
    for example in manifest.map(|it| &it.examples[..]).unwrap_or_default() {
        // An ellipsis stands for digits that nobody wants to read.
        if example.contains('\u{2026}') {
            continue;
        }
        let details = example.strip_prefix(&format!("{name}:")).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("example `{example}` is not of `{name}:`"))
        })?;
        let normal = match transport.parse(details) {
            Ok(reference) => reference.names().details,
            // Some transports look at the place that is named, and it need not be on this machine.
            Err(error) => {
                let why = error.chain().join(": ");
                output::line(&format!("`{example}` cannot be tried here: {why}"))?;
                std::process::exit(DOES_NOT_APPLY);
            }
        };
        let again = transport.parse(&normal)?.names().details;
        if normal != again {
            let message = format!("`{example}` becomes `{normal}`, and that becomes `{again}`");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
    }
    Ok(())
}

fn check_conformance(
    found: &Found,
    name: &str,
    transport: Box<dyn Transport>,
    case: &str,
) -> Result<()> {
    let text = std::fs::read_to_string(&found.path)
        .context(|| format!("cannot read `{}`", found.path.display()))?;
    let described = Described::read(&text, name)?;
    let Some(template) = described.reference else {
        output::line(
            "the manifest does not say how images for checks are named ([transport.check])",
        )?;
        std::process::exit(DOES_NOT_APPLY);
    };
    let Described { capabilities, options, .. } = described;
    let subject = Subject::from_template(name, transport, &template, options, capabilities)?;
    match conformance::run_case(&subject, case).ok_or_else(|| unknown(case))? {
        Verdict::Passed => Ok(()),
        Verdict::DoesNotApply(need) => {
            output::line(&format!("needs {need}"))?;
            std::process::exit(DOES_NOT_APPLY);
        }
        Verdict::Failed(failure) => Err(Error::new(ErrorKind::Corrupt, failure.to_string())),
    }
}
