//! Errors taken apart and put together again: [`Error`] cannot be cloned, because its causes need
//! not be, but its texts can.

use diolkos_sdk::{Error, ErrorKind};

/// Makes an error of these levels, outermost first. There must be at least one.
pub(crate) fn error(kind: ErrorKind, levels: Vec<String>, hint: Option<&str>) -> Error {
    let made = levels.into_iter().rev().fold(None, |below: Option<Error>, level| {
        let error = Error::new(kind, level);
        Some(match below {
            Some(below) => error.with_source(below),
            None => error,
        })
    });
    let made = made.expect("callers give at least one level");
    match hint {
        Some(hint) => made.with_hint(hint.to_owned()),
        None => made,
    }
}

/// Copies an error: kind, all messages, hint.
pub(crate) fn copy(error: &Error) -> Error {
    self::error(error.kind(), error.chain(), error.hint())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_says_what_the_error_says() {
        let error = Error::new(ErrorKind::Denied, "no").with_hint("ask").context("opening");
        let copy = copy(&error);
        assert_eq!(copy.chain(), error.chain());
        assert_eq!((copy.kind(), copy.hint()), (error.kind(), error.hint()));
    }
}
