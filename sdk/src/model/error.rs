//! Errors with a kind that the engine acts on and a message that a person acts on.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// Why an operation failed, in terms of what the caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The image (manifest, tag) does not exist. Commands end with exit code 2.
    ImageNotFound,
    /// Something else that was asked for does not exist: a blob, a repository, a file.
    NotFound,
    /// The transport cannot do this at all.
    Unsupported,
    /// Credentials are missing or wrong.
    Unauthorized,
    /// The credentials are fine, or none help, and the answer is no.
    Denied,
    /// Too many requests; [`Error::retry_after`] may say when to come back.
    RateLimited,
    /// The other side is away or broke off for now: worth another try.
    Unavailable,
    /// What the user or a configuration file said makes no sense.
    InvalidInput,
    /// Data is not what its digest, size or format says.
    Corrupt,
    /// It exists already and may not be replaced, or somebody else holds it.
    Conflict,
    /// The destination does not take this type of manifest; another type may do.
    ManifestRejected,
    /// The user or a time limit stopped the operation.
    Cancelled,
    /// The operating system failed us: disk full, permission, file name too long.
    Io,
    /// A plugin panicked; the message names it.
    Panicked,
    /// Our own fault, printed with a request to report it.
    Internal,
}

impl ErrorKind {
    /// Every kind, in the order of [`ErrorKind::code`].
    pub const ALL: [Self; 15] = [
        Self::ImageNotFound,
        Self::NotFound,
        Self::Unsupported,
        Self::Unauthorized,
        Self::Denied,
        Self::RateLimited,
        Self::Unavailable,
        Self::InvalidInput,
        Self::Corrupt,
        Self::Conflict,
        Self::ManifestRejected,
        Self::Cancelled,
        Self::Io,
        Self::Panicked,
        Self::Internal,
    ];

    /// Returns the number this kind has in the ABI; numbers are never given away twice.
    pub fn code(self) -> u32 {
        let position = Self::ALL.iter().position(|kind| *kind == self);
        u32::try_from(position.expect("ALL names every kind") + 1).expect("there are few kinds")
    }

    /// Returns the kind with this number; a number from a newer plugin becomes [`Self::Internal`].
    pub fn from_code(code: u32) -> Self {
        let index = usize::try_from(code).unwrap_or(0).wrapping_sub(1);
        Self::ALL.get(index).copied().unwrap_or(Self::Internal)
    }

    /// Tells whether the same request may succeed a little later.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::RateLimited | Self::Unavailable)
    }
}

/// A failure: its kind, one level of message, perhaps a way out, and the error below it.
///
/// `Display` prints this level only; [`StdError::source`] carries the next.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    retry_after: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Makes an error. The message is lower-case, has no full stop, and names the thing.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            hint: None,
            retry_after: None,
            source: None,
        }))
    }

    /// Makes the error of an operation that a transport does not have.
    pub fn unsupported(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// Makes an error from one of the operating system, of the kind that fits it.
    pub fn io(message: impl Into<Cow<'static, str>>, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match source.kind() {
            Io::NotFound => ErrorKind::NotFound,
            Io::ConnectionRefused
            | Io::ConnectionReset
            | Io::ConnectionAborted
            | Io::BrokenPipe
            | Io::TimedOut
            | Io::UnexpectedEof => ErrorKind::Unavailable,
            Io::AlreadyExists => ErrorKind::Conflict,
            Io::InvalidData => ErrorKind::Corrupt,
            _ => ErrorKind::Io,
        };
        Self::new(kind, message).with_source(source)
    }

    /// Adds what the user can do about it; imperative, and only if true.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds how long to wait before another try.
    ///
    /// Zero says that the transport has learnt something (a token, another way to upload) and the
    /// same request is worth repeating at once.
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    /// Sets the cause below this level.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Wraps this error in a level above it, of the same kind.
    #[must_use]
    pub fn context(self, message: impl Into<Cow<'static, str>>) -> Self {
        let (kind, retry_after) = (self.0.kind, self.0.retry_after);
        let mut outer = Self::new(kind, message).with_source(self);
        outer.0.retry_after = retry_after;
        outer
    }

    /// Returns the kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns this level's message.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the first hint of this error and its causes.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref().or_else(|| {
            let below = self.0.source.as_deref()?.downcast_ref::<Self>()?;
            below.hint()
        })
    }

    /// Returns how long to wait before another try, if the other side said so.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Returns the messages of this error and all its causes, outermost first.
    pub fn chain(&self) -> Vec<String> {
        let mut messages = vec![self.0.message.to_string()];
        let mut next = StdError::source(self);
        while let Some(error) = next {
            messages.push(error.to_string());
            next = error.source();
        }
        messages
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.chain().join(": "))
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Adds context to results on their way up.
pub trait ResultExt<T> {
    /// Wraps an error in a level above it; the message is only made when there is one.
    fn context<M: Into<Cow<'static, str>>>(self, message: impl FnOnce() -> M) -> Result<T, Error>;
}

impl<T> ResultExt<T> for Result<T, Error> {
    fn context<M: Into<Cow<'static, str>>>(self, message: impl FnOnce() -> M) -> Result<T, Error> {
        self.map_err(|error| error.context(message()))
    }
}

impl<T> ResultExt<T> for Result<T, std::io::Error> {
    fn context<M: Into<Cow<'static, str>>>(self, message: impl FnOnce() -> M) -> Result<T, Error> {
        self.map_err(|error| Error::io(message(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_keeps_its_number_and_unknown_numbers_are_legal() {
        for (index, kind) in ErrorKind::ALL.into_iter().enumerate() {
            assert_eq!(kind.code() as usize, index + 1);
            assert_eq!(ErrorKind::from_code(kind.code()), kind);
        }
        assert_eq!(ErrorKind::from_code(0), ErrorKind::Internal);
        assert_eq!(ErrorKind::from_code(9999), ErrorKind::Internal);
    }

    #[test]
    fn context_keeps_kind_hint_and_delay_and_display_shows_one_level() {
        let error = Error::new(ErrorKind::RateLimited, "too many requests")
            .with_hint("wait a little")
            .with_retry_after(Duration::from_secs(3))
            .context("reading manifest");
        assert_eq!(error.to_string(), "reading manifest");
        assert_eq!(error.kind(), ErrorKind::RateLimited);
        assert_eq!(error.hint(), Some("wait a little"));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
        assert_eq!(error.chain(), ["reading manifest", "too many requests"]);
    }
}
