//! Asking the user: lines of standard input, and a password that the terminal does not show.
//!
//! What waits for the user is a thread of its own, so that Ctrl-C and time limits end the waiting
//! at once; the terminal shows what is typed again whichever way it ends.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use diolkos_sdk::login::Secret;
use diolkos_sdk::{Error, ErrorKind, Result};
use rustix::termios::{InputModes, LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::signals::Cancellation;

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;

/// Reads a line of standard input, without its end.
///
/// # Errors
/// Standard input ends before the line does, or the command is stopped.
pub fn line(cancellation: &Cancellation) -> Result<String> {
    let (bytes, ended) = read(cancellation, || read_line(&mut stdin()?))?;
    if !ended {
        return Err(Error::new(ErrorKind::InvalidInput, "EOF"));
    }
    text(bytes)
}

/// Reads a password from the terminal that standard input is, showing nothing of it.
///
/// `ask` writes the question, when nothing that is typed can be seen any more.
///
/// # Errors
/// As [`line()`], and [`ErrorKind::InvalidInput`] when standard input is no terminal.
pub fn password(cancellation: &Cancellation, ask: impl FnOnce() -> Result<()>) -> Result<Secret> {
    let hidden = Hidden::new();
    ask()?;
    let hidden = hidden.map_err(|error| {
        Error::new(ErrorKind::InvalidInput, error.to_string())
            .with_hint("give the password with --password-stdin where there is no terminal")
    })?;
    let read = read(cancellation, || read_line(&mut stdin()?));
    drop(hidden);
    let (bytes, ended) = read?;
    if !ended && bytes.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "EOF"));
    }
    text(bytes).map(Secret::new)
}

/// Reads all of standard input as a password; ends of lines are no part of it.
///
/// # Errors
/// As [`line()`].
pub fn password_from_stdin(cancellation: &Cancellation) -> Result<Secret> {
    let bytes = read(cancellation, || {
        let mut bytes = Vec::new();
        stdin()?.take(MAX_ANSWER as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    })?;
    if bytes.len() > MAX_ANSWER {
        return Err(Error::new(ErrorKind::InvalidInput, "the password is too long"));
    }
    text(bytes).map(|text| Secret::new(without_line_ends(&text)))
}

fn without_line_ends(text: &str) -> String {
    text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).collect()
}

/// Returns standard input without a buffer: the next question needs the rest.
fn stdin() -> io::Result<std::fs::File> {
    Ok(io::stdin().as_fd().try_clone_to_owned()?.into())
}

/// Reads up to the end of a line; tells whether there was one.
fn read_line(input: &mut impl Read) -> io::Result<(Vec<u8>, bool)> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while bytes.len() < MAX_ANSWER {
        match input.read(&mut byte) {
            Ok(0) => return Ok((bytes, false)),
            Ok(_) if byte == *b"\n" => {
                if bytes.last() == Some(&b'\r') {
                    bytes.pop();
                }
                return Ok((bytes, true));
            }
            Ok(_) => bytes.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("the line is too long"))
}

/// Runs what may wait for ever in a thread of its own; nobody waits for that.
fn read<T: Send + 'static>(
    cancellation: &Cancellation,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = sender.send(work());
    });
    loop {
        match receiver.recv_timeout(Duration::from_millis(50)) {
            Ok(result) => {
                return result.map_err(|error| {
                    Error::new(ErrorKind::Io, "standard input").with_source(error)
                });
            }
            Err(RecvTimeoutError::Timeout) if cancellation.why().is_some() => {
                return Err(Error::new(ErrorKind::Cancelled, "the operation was stopped"));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::new(
                    ErrorKind::Internal,
                    "the reader of standard input is gone",
                ));
            }
        }
    }
}

fn text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes)
        .map_err(|_| Error::new(ErrorKind::InvalidInput, "what was typed is not UTF-8"))
}

/// A terminal that does not show what is typed, until this is dropped.
struct Hidden(Termios);

impl Hidden {
    fn new() -> io::Result<Self> {
        let terminal = io::stdin();
        let before = tcgetattr(&terminal)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        hidden.local_modes.insert(LocalModes::ICANON | LocalModes::ISIG);
        hidden.input_modes.insert(InputModes::ICRNL);
        tcsetattr(&terminal, OptionalActions::Now, &hidden)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_where_it_ends_and_the_rest_stays() {
        let mut input = &b"me\r\nrest"[..];
        assert_eq!(read_line(&mut input).unwrap(), (b"me".to_vec(), true));
        assert_eq!(input, b"rest");
        assert_eq!(read_line(&mut input).unwrap(), (b"rest".to_vec(), false));
    }

    #[test]
    fn a_password_of_a_file_has_no_line_ends() {
        assert_eq!(without_line_ends("hush\n"), "hush");
        assert_eq!(without_line_ends("a b\r\nc\n\nd"), "a bcd");
        assert_eq!(without_line_ends(""), "");
    }

    #[test]
    fn a_stopped_command_does_not_wait_for_the_user() {
        let cancellation = Cancellation::default();
        cancellation.stop(super::super::signals::Stop::Interrupt);
        let waits = read(&cancellation, || {
            std::thread::sleep(Duration::from_secs(5));
            Ok(())
        });
        assert_eq!(waits.unwrap_err().kind(), ErrorKind::Cancelled);
    }
}
