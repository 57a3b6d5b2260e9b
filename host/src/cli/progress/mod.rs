//! Showing a copy as it goes: bars on a terminal, lines elsewhere, events for programs, and under
//! the name `skopeo` its lines on stdout.

mod bars;
mod json;
mod lines;
mod skopeo;

use std::io::IsTerminal;
use std::sync::Arc;

use diolkos_sdk::{BlobRole, Error, ErrorKind, Result};

use super::console::{Console, Personality};
use crate::copy::{Event, Progress, Silent};

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bars on a terminal, lines elsewhere.
    Auto,
    /// Bars.
    Bar,
    /// Lines.
    Plain,
    /// One JSON object a line.
    Json,
    /// Nothing.
    None,
}

impl Mode {
    /// The names that `--progress` takes.
    pub const NAMES: [&str; 5] = ["auto", "bar", "plain", "json", "none"];

    /// Reads the value of `--progress`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for anything else than [`Mode::NAMES`].
    pub fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "auto" => Self::Auto,
            "bar" => Self::Bar,
            "plain" => Self::Plain,
            "json" => Self::Json,
            "none" => Self::None,
            _ => {
                let message = format!("unknown kind of progress `{text}`");
                return Err(Error::new(ErrorKind::InvalidInput, message)
                    .with_hint(format!("choose one of {}", Self::NAMES.join(", "))));
            }
        })
    }
}

/// Makes what shows a copy's progress.
pub fn progress(console: &Arc<Console>, mode: Mode) -> Box<dyn Progress> {
    let skopeo = console.personality() == Personality::Skopeo;
    match mode {
        Mode::None => Box::new(Silent),
        Mode::Json => Box::new(json::Json::new(console.clone())),
        Mode::Bar => Box::new(bars::Bars::new(console.clone())),
        Mode::Auto if skopeo => Box::new(skopeo::Skopeo::new(console.clone())),
        Mode::Auto if console.is_terminal() => Box::new(bars::Bars::new(console.clone())),
        Mode::Auto | Mode::Plain => Box::new(lines::Lines::new(console.clone())),
    }
}

/// Tells whether the destination is standard output, where nothing else may then be written.
pub fn destination_is_stdout(details: &str) -> bool {
    let path = details.split(':').next().unwrap_or(details);
    matches!(path, "/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1") || is_same_pipe(path)
}

fn is_same_pipe(path: &str) -> bool {
    // A shell's process substitution or a link to stdout.
    path.starts_with("/dev/")
        && !std::io::stdout().is_terminal()
        && std::fs::canonicalize(path)
            .ok()
            .is_some_and(|path| std::fs::canonicalize("/proc/self/fd/1").ok() == Some(path))
}

/// Names a blob by what it is.
fn role(role: BlobRole) -> String {
    match role {
        BlobRole::Config => "config".into(),
        BlobRole::Layer(index) => format!("layer {}", index + 1),
    }
}

/// Says what was chosen or is begun, in the words that lines and bars share; `None` for events that
/// are shown otherwise.
fn announcement(event: &Event) -> Option<String> {
    match event {
        Event::Selected { platform, available } if *available > 1 => {
            Some(format!("selected {platform} of {available} platforms; use --all for all"))
        }
        Event::Image { digest, platform, number, total } if *total > 1 => {
            let platform = platform.as_deref().unwrap_or("unknown platform");
            Some(format!("image {number} of {total}: {platform} {digest}"))
        }
        Event::Done { digest } => Some(format!("done: {digest}")),
        _ => None,
    }
}

/// Warns of a step that is tried again.
fn warn_of_retry(console: &Console, event: &Event) {
    if let Event::Retry { what, why, delay } = event {
        let delay = super::values::format_duration(*delay);
        console.warn(&match console.personality() {
            Personality::Skopeo => {
                format!("Failed, retrying in {delay} ... ({what}). Error: {why}")
            }
            Personality::Diolkos => format!("{what} failed and is tried again in {delay}: {why}"),
        });
    }
}
