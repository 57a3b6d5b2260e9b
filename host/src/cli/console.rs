//! What goes to stderr: errors, warnings and the debug log, in the form the program's name asks for.
//!
//! As `diolkos`, an error is a line, its causes are lines below it, and a hint says what to do. As
//! `skopeo`, it is one line of logrus's text format. With `--progress json` every line is an
//! object.

use std::ffi::OsStr;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use diolkos_sdk::{Error, ErrorKind, LogLevel};
use indicatif::MultiProgress;
use serde_json::json;

use super::values::{is_invisible, quote};

/// The version of skopeo whose behaviour is matched.
const SKOPEO_VERSION: &str = "1.22";

/// Under which name the program was started, which decides how it talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Personality {
    /// Itself.
    Diolkos,
    /// As a replacement for skopeo, whose messages scripts may look at.
    Skopeo,
}

impl Personality {
    /// Decides by the program's name, `argv[0]`.
    pub fn of(program: Option<&OsStr>) -> Self {
        match program.and_then(|program| Path::new(program).file_name()) {
            Some(name) if name == "skopeo" => Self::Skopeo,
            _ => Self::Diolkos,
        }
    }

    /// Returns the program's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Diolkos => "diolkos",
            Self::Skopeo => "skopeo",
        }
    }

    /// Returns what `--version` prints.
    pub fn version(self) -> String {
        let ours = env!("CARGO_PKG_VERSION");
        match self {
            Self::Diolkos => {
                format!("diolkos version {ours} (compatible with skopeo {SKOPEO_VERSION})")
            }
            Self::Skopeo => format!("skopeo version {SKOPEO_VERSION}.0 (diolkos {ours})"),
        }
    }
}

/// Writes messages to stderr, whole lines at a time, without tearing progress bars.
pub struct Console {
    personality: Personality,
    debug: AtomicBool,
    json: AtomicBool,
    terminal: bool,
    colour: bool,
    started: Instant,
    bars: Mutex<Option<MultiProgress>>,
}

impl Console {
    /// Makes the console of this process.
    pub fn new(personality: Personality) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            personality,
            debug: AtomicBool::new(false),
            json: AtomicBool::new(false),
            terminal,
            colour: terminal && !plain,
            started: Instant::now(),
            bars: Mutex::new(None),
        }
    }

    /// Returns how the program talks.
    pub fn personality(&self) -> Personality {
        self.personality
    }

    /// Tells whether stderr is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Shows messages for debugging from now on.
    pub fn show_debug(&self) {
        self.debug.store(true, Ordering::Relaxed);
    }

    /// Writes messages as JSON objects from now on.
    pub fn use_json(&self) {
        self.json.store(true, Ordering::Relaxed);
    }

    /// Lets lines pass above `bars`, until the end or the next call.
    pub fn set_bars(&self, bars: Option<MultiProgress>) {
        *self.bars.lock().unwrap_or_else(PoisonError::into_inner) = bars;
    }

    /// Shows a warning.
    pub fn warn(&self, message: &str) {
        self.log(LogLevel::Warning, message);
    }

    /// Shows a message with `--debug` only.
    pub fn debug(&self, message: &str) {
        self.log(LogLevel::Debug, message);
    }

    /// Shows a message of any level, if the level is shown.
    pub fn log(&self, level: LogLevel, message: &str) {
        if level != LogLevel::Warning && !self.debug.load(Ordering::Relaxed) {
            return;
        }
        let word = match level {
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warning => "warning",
        };
        let line = if self.json.load(Ordering::Relaxed) {
            json!({ "event": word, "message": message }).to_string()
        } else {
            match self.personality {
                Personality::Skopeo => self.logrus(word, message),
                Personality::Diolkos => {
                    let colour = if level == LogLevel::Warning { "1;33" } else { "2" };
                    format!("{}: {}", self.paint(word, colour), visible(message))
                }
            }
        };
        self.line(&line);
    }

    /// Shows the error that ends the program.
    pub fn error(&self, error: &Error) {
        let chain: Vec<_> = error.chain().iter().map(|message| without_number(message)).collect();
        let hint = error.hint().map(str::to_owned).or_else(|| ask_for_report(error.kind()));
        let text = if self.json.load(Ordering::Relaxed) {
            let code = exit_code(error.kind());
            json!({ "event": "error", "messages": chain, "hint": hint, "exit_code": code })
                .to_string()
        } else {
            match self.personality {
                Personality::Skopeo => self.logrus("fatal", &chain.join(": ")),
                Personality::Diolkos => self.friendly(&chain, hint.as_deref()),
            }
        };
        self.line(&text);
    }

    /// Writes a line, or several, as they are.
    pub fn line(&self, text: &str) {
        let write = || {
            // One write, so that lines of threads and of other processes do not mix. There is
            // nobody left to tell when stderr is gone.
            let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
        };
        match &*self.bars.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    fn friendly(&self, chain: &[String], hint: Option<&str>) -> String {
        let mut text = String::new();
        for (index, message) in chain.iter().enumerate() {
            if index == 0 {
                text += &self.paint("error", "1;31");
                text += ": ";
            } else {
                text += "\n  caused by: ";
            }
            text += &visible(message).replace('\n', "\n    ");
        }
        if let Some(hint) = hint {
            text += "\n";
            text += &self.paint("hint", "1;36");
            text += ": ";
            text += &visible(hint);
        }
        text
    }

    fn paint(&self, text: &str, code: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Formats a line as logrus's text formatter does.
    fn logrus(&self, level: &str, message: &str) -> String {
        if !self.terminal {
            return format!(
                "time={} level={level} msg={}",
                quote(&now()),
                quote_if_needed(message)
            );
        }
        let (code, word) = match level {
            "fatal" => (31, "FATA"),
            "warning" => (33, "WARN"),
            "info" => (36, "INFO"),
            _ => (37, "DEBU"),
        };
        let seconds = self.started.elapsed().as_secs();
        let message = visible(message.trim_end_matches('\n'));
        format!("\x1b[{code}m{word}\x1b[0m[{seconds:04}] {message:<44} ")
    }
}

/// Returns the exit code that an error of this kind ends the program with.
pub fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::ImageNotFound => 2,
        _ => 1,
    }
}

fn ask_for_report(kind: ErrorKind) -> Option<String> {
    match kind {
        ErrorKind::Internal => Some("this is a fault of diolkos; please report it".into()),
        ErrorKind::Panicked => {
            Some("this is a fault of the plugin; please report it to its publisher".into())
        }
        _ => None,
    }
}

/// Replaces what could command a terminal; messages may carry the text of strangers.
pub fn visible(text: &str) -> String {
    if !text.chars().any(|c| is_invisible(c) && c != '\n') {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push('\n'),
            '\t' => shown.push(' '),
            c if is_invisible(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// Writes an error of the operating system as Go does, `connection refused` instead of
/// `Connection refused (os error 111)`: people look for these words.
pub fn without_number(message: &str) -> String {
    let Some((text, number)) = message.rsplit_once(" (os error ") else {
        return message.to_owned();
    };
    if !number.trim_end_matches(')').bytes().all(|b| b.is_ascii_digit()) {
        return message.to_owned();
    }
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            format!("{}{}", first.to_lowercase(), &text[first.len_utf8()..])
        }
        _ => text.to_owned(),
    }
}

/// Quotes as logrus does: not where only harmless characters stand.
fn quote_if_needed(text: &str) -> String {
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b"-._/@^+".contains(&b);
    if text.bytes().all(harmless) { text.to_owned() } else { quote(text) }
}

/// Returns the local time as logrus writes it.
fn now() -> String {
    let time = jiff::Zoned::now();
    // Go writes `Z` for an offset of zero, in summer as in winter.
    let offset =
        if time.offset().is_zero() { "Z".into() } else { time.strftime("%:z").to_string() };
    format!("{}{offset}", time.strftime("%Y-%m-%dT%H:%M:%S"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(personality: Personality) -> Console {
        Console { terminal: false, colour: false, ..Console::new(personality) }
    }

    fn failure() -> Error {
        Error::new(ErrorKind::Unavailable, "connection closed after 12.0 MB")
            .with_hint("run it again")
            .context("reading layer 3 of 7")
            .context("cannot copy `a` to `b`")
    }

    #[test]
    fn an_error_is_a_line_its_causes_are_lines_and_the_hint_comes_last() {
        let error = failure();
        assert_eq!(
            console(Personality::Diolkos).friendly(&error.chain(), error.hint()),
            "error: cannot copy `a` to `b`\n  caused by: reading layer 3 of 7\n  \
             caused by: connection closed after 12.0 MB\nhint: run it again"
        );
    }

    #[test]
    fn as_skopeo_an_error_is_one_line_of_logrus() {
        let line = console(Personality::Skopeo).logrus("fatal", "unknown transport \"x\"");
        assert!(line.starts_with("time=\"2"), "{line}");
        assert!(line.ends_with(r#"" level=fatal msg="unknown transport \"x\"""#), "{line}");
        let line = console(Personality::Skopeo).logrus("fatal", "plain");
        assert!(line.ends_with("msg=plain"), "{line}");
    }

    #[test]
    fn times_are_rfc_3339_to_the_second() {
        let time = now();
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
        assert!(!time.contains('.') && !time.contains('['), "{time}");
    }

    #[test]
    fn messages_of_strangers_cannot_command_the_terminal() {
        assert_eq!(visible("a\x1b]0;title\x07b\nc\td"), "a\\u{1b}]0;title\\u{7}b\nc d");
    }

    #[test]
    fn errors_of_the_operating_system_have_the_words_that_people_look_for() {
        let error = std::io::Error::from_raw_os_error(111);
        assert_eq!(without_number(&error.to_string()), "connection refused");
        assert_eq!(without_number("Strange (os error x)"), "Strange (os error x)");
    }

    #[test]
    fn the_name_decides_how_the_program_talks() {
        assert_eq!(Personality::of(Some("/usr/bin/skopeo".as_ref())), Personality::Skopeo);
        assert_eq!(Personality::of(Some("skopeo2".as_ref())), Personality::Diolkos);
        assert_eq!(Personality::of(None), Personality::Diolkos);
    }
}
