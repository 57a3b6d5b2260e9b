//! `plugin`: which plugins there are, what they bring, and whether they are sound.

use std::fmt::Write as _;
use std::path::Path;

use clap::{ArgMatches, Command};
use diolkos_sdk::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use super::args::{get_words, is_on, switch, text, words};
use super::check;
use super::console::{visible, without_number};
use super::context::Context;
use super::output;
use crate::levels;
use crate::plugin::registry::{SearchState, check_library};
use crate::plugin::{Found, OptionManifest, Side, State, TransportManifest, Trust};

/// The command's name.
pub const NAME: &str = "plugin";

/// Makes the command.
pub fn command() -> Command {
    let as_json = || switch("json", "Print JSON");
    Command::new(NAME)
        .about("Show and check plugins")
        .subcommand(
            Command::new("list")
                .about("List every plugin that was found, used or not, and where it was looked for")
                .arg(as_json()),
        )
        .subcommand(
            Command::new("info")
                .about("Show what a plugin brings: transports, options, flags")
                .arg(as_json())
                .arg(words("NAME", "The plugin, or one of its transports")),
        )
        .subcommand(
            Command::new("check")
                .about(
                    "Check an installed plugin: manifest, permissions, library, and its transports",
                )
                .long_about(
                    "Checks an installed plugin: manifest, permissions, library and ABI, and then \
                     whether its transports do what every transport must. Each case runs in a \
                     process of its own. Ends with exit code 1 if any case failed.",
                )
                .arg(as_json())
                .arg(text("case", "CASE", "Run only this case, within this process").hide(true))
                .arg(words("NAME|FILE", "The plugin, or the file of its manifest")),
        )
}

/// Runs the command.
pub fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    match matches.subcommand() {
        Some(("list", matches)) => list(context, is_on(matches, "json")),
        Some(("info", matches)) => info(context, matches),
        Some(("check", matches)) => check::run(context, matches, &one_word(matches)?),
        _ => Err(Error::new(ErrorKind::InvalidInput, "missing command 'plugin COMMAND'")
            .with_hint("choose list, info or check")),
    }
}

fn one_word(matches: &ArgMatches) -> Result<String> {
    let words = get_words(matches);
    match &words[..] {
        [word] => Ok(word.clone()),
        _ => Err(Error::new(ErrorKind::InvalidInput, "Exactly one argument expected")),
    }
}

/// What there is to say about a plugin's use, in a word and a reason.
struct Status {
    word: &'static str,
    reason: Option<Error>,
    by: Option<String>,
}

impl Status {
    fn of(found: &Found, trust: &Trust) -> Self {
        match &found.state {
            State::Shadowed(by) => {
                Self { word: "shadowed", reason: None, by: Some(by.display().to_string()) }
            }
            State::Refused(error) => {
                Self { word: "refused", reason: Some(levels::copy(error)), by: None }
            }
            // The library is only looked at; it is loaded when its transport is named.
            State::Active => match check_library(found, trust) {
                Ok(_) => Self { word: "ok", reason: None, by: None },
                Err(error) => Self { word: "refused", reason: Some(error), by: None },
            },
        }
    }

    fn reason(&self) -> Option<String> {
        let by = self.by.as_ref().map(|by| format!("`{by}` comes first"));
        by.or_else(|| {
            let chain = self.reason.as_ref()?.chain();
            let words: Vec<_> = chain.iter().map(|message| without_number(message)).collect();
            Some(words.join(": "))
        })
    }

    fn hint(&self) -> Option<&str> {
        self.reason.as_ref().and_then(Error::hint)
    }
}

fn list(context: &Context, as_json: bool) -> Result<()> {
    let trust = Trust::current();
    let plugins: Vec<_> =
        context.transports.found().iter().map(|found| (found, Status::of(found, &trust))).collect();
    if as_json {
        let plugins: Vec<_> =
            plugins.iter().map(|(found, status)| describe(found, status)).collect();
        return output::json(&json!({
            "plugins": plugins,
            "searched": searched(context),
            "problems": context.problems,
        }));
    }
    let mut rows = vec![["PLUGIN", "VERSION", "STATUS", "TRANSPORTS", "FILE"].map(str::to_owned)];
    for (found, status) in &plugins {
        let manifest = found.manifest.as_ref();
        let transports: Vec<_> = manifest
            .iter()
            .flat_map(|manifest| &manifest.transports)
            .map(|transport| mark_shadowed(context, found, transport))
            .collect();
        rows.push([
            found.name.clone(),
            manifest.map_or("-".into(), |manifest| manifest.version.clone()),
            status.word.into(),
            if transports.is_empty() { "-".into() } else { transports.join(",") },
            found.path.display().to_string(),
        ]);
    }
    let mut text = if plugins.is_empty() { "no plugins found\n".into() } else { table(&rows) };
    let reasons =
        plugins.iter().filter_map(|(found, status)| Some((found, status, status.reason()?)));
    for (index, (found, status, reason)) in reasons.enumerate() {
        if index == 0 {
            text.push('\n');
        }
        line(&mut text, &format!("{} ({}): {reason}", found.name, status.word));
        if let Some(hint) = status.hint() {
            line(&mut text, &format!("  hint: {hint}"));
        }
    }
    text += "\nSearched, first wins:\n";
    for searched in context.transports.searched() {
        let state = match &searched.state {
            SearchState::Read(count) => format!("{count} found"),
            SearchState::Missing => "not there".to_owned(),
            SearchState::Unreadable(why) => format!("unreadable: {}", without_number(why)),
        };
        let origin = searched.dir.origin.describe();
        line(&mut text, &format!("  {} ({origin}; {state})", searched.dir.path.display()));
    }
    for (index, problem) in context.problems.iter().enumerate() {
        if index == 0 {
            text += "\nFlags left out:\n";
        }
        line(&mut text, &format!("  {problem}"));
    }
    output::write(text.as_bytes())
}

/// Marks a transport that another plugin provides first.
fn mark_shadowed(context: &Context, found: &Found, transport: &TransportManifest) -> String {
    let first = context.transports.provider(&transport.name);
    if found.is_active() && first.is_some_and(|first| first.path != found.path) {
        return format!("{} (shadowed)", transport.name);
    }
    transport.name.clone()
}

fn line(text: &mut String, line: &str) {
    // Reasons quote files, which may hold anything.
    writeln!(text, "{}", visible(line)).expect("writing to a string cannot fail");
}

fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<_> = (0..N).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        line(&mut text, cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

fn describe(found: &Found, status: &Status) -> Value {
    let manifest = found.manifest.as_ref();
    json!({
        "name": found.name,
        "status": status.word,
        "reason": status.reason(),
        "hint": status.hint(),
        "file": found.path,
        "origin": found.origin,
        "library": found.library(),
        "version": manifest.map(|it| &it.version),
        "publisher": manifest.map(|it| &it.publisher),
        "description": manifest.map(|it| &it.description),
        "license": manifest.map(|it| &it.license),
        "abi": manifest.map(|it| &it.abi),
        "transports": manifest.map(|it| &it.transports),
    })
}

fn searched(context: &Context) -> Vec<Value> {
    let place = |searched: &crate::plugin::registry::Searched| {
        let (state, count, reason) = match &searched.state {
            SearchState::Read(count) => ("read", *count, None),
            SearchState::Missing => ("missing", 0, None),
            SearchState::Unreadable(why) => ("unreadable", 0, Some(why)),
        };
        json!({
            "path": searched.dir.path, "origin": searched.dir.origin,
            "state": state, "manifests": count, "reason": reason,
        })
    };
    context.transports.searched().iter().map(place).collect()
}

/// Finds a plugin by its name, by the name of one of its transports, or by its manifest's file.
///
/// # Errors
/// [`ErrorKind::NotFound`] with the plugins that there are.
pub fn find<'a>(context: &'a Context, name: &str) -> Result<&'a Found> {
    let found = context.transports.found();
    let by_name = || found.iter().find(|found| found.name == name);
    let by_file = || found.iter().find(|found| same_file(&found.path, Path::new(name)));
    by_name().or_else(|| context.transports.provider(name)).or_else(by_file).ok_or_else(|| {
        let names: Vec<_> = found.iter().map(|found| found.name.as_str()).collect();
        let there = if names.is_empty() { "none".into() } else { names.join(", ") };
        Error::new(ErrorKind::NotFound, format!("there is no plugin `{name}`; installed: {there}"))
            .with_hint("run `diolkos plugin list` to see where plugins are looked for")
    })
}

fn same_file(left: &Path, right: &Path) -> bool {
    match (std::fs::canonicalize(left), std::fs::canonicalize(right)) {
        (Ok(left), Ok(right)) => left == right,
        _ => false,
    }
}

fn info(context: &Context, matches: &ArgMatches) -> Result<()> {
    let found = find(context, &one_word(matches)?)?;
    let status = Status::of(found, &Trust::current());
    if is_on(matches, "json") {
        return output::json(&describe(found, &status));
    }
    let mut text = String::new();
    let mut field = |name: &str, value: &str| {
        if !value.is_empty() {
            line(&mut text, &format!("{name:12} {value}"));
        }
    };
    field("plugin", &found.name);
    if let Some(manifest) = &found.manifest {
        field("version", &manifest.version);
        field("description", &manifest.description);
        field("publisher", &manifest.publisher);
        field("licence", &manifest.license);
        field("ABI", &manifest.abi);
    }
    field("manifest", &found.path.display().to_string());
    field("library", &found.library().map(|it| it.display().to_string()).unwrap_or_default());
    field("status", status.word);
    field("reason", &status.reason().unwrap_or_default());
    field("hint", status.hint().unwrap_or_default());
    for transport in found.manifest.iter().flat_map(|manifest| &manifest.transports) {
        text.push('\n');
        line(&mut text, &format!("transport {}", mark_shadowed(context, found, transport)));
        line(&mut text, &format!("  {}", transport.syntax));
        if !transport.summary.is_empty() {
            line(&mut text, &format!("  {}", transport.summary));
        }
        line(&mut text, &format!("  can: {}", transport.capabilities.join(", ")));
        for example in &transport.examples {
            line(&mut text, &format!("  example: {example}"));
        }
        let options: Vec<_> = transport.options.iter().filter(|option| !option.hidden).collect();
        if !options.is_empty() {
            text += "  options:\n";
            let rows: Vec<_> = options
                .iter()
                .map(|option| [flags(option).join(", "), option.help.clone()])
                .collect();
            for row in table(&rows).lines() {
                line(&mut text, &format!("    {row}"));
            }
        }
    }
    output::write(text.as_bytes())
}

/// Returns the flags that an option becomes.
fn flags(option: &OptionManifest) -> Vec<String> {
    let (flag, has) = (option.flag(), |side| option.sides.contains(&side));
    let mut flags = Vec::new();
    if has(Side::Global) || has(Side::Source) {
        flags.push(format!("--{flag}"));
    }
    if has(Side::Source) {
        flags.push(format!("--src-{flag}"));
    }
    if has(Side::Destination) {
        flags.push(format!("--dest-{flag}"));
    }
    flags
}
