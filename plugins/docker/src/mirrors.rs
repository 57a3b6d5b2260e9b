//! An image that may be had in several places: whom to ask, and what to say when nobody has it.
//!
//! The manifest is asked for in one place after the other; the first that has it is asked for
//! everything else, and those behind it for what it turns out to lack or to refuse, and when it goes
//! away or breaks off again and again.
//!
//! # Source
//! containers-registries.conf(5), "Remapping and mirroring registries".

use std::sync::atomic::{AtomicUsize, Ordering};

use diolkos_sdk::{Error, ErrorKind, Reference, Result};

use crate::registry::{Place, Repository};
use crate::source::Reader;

/// The places of one image, first the best; the last is its own.
pub(crate) struct Mirrors {
    places: Vec<Place>,
    chosen: AtomicUsize,
}

impl Mirrors {
    /// Takes the places, of which there is one at least.
    ///
    /// # Errors
    /// None of them can be used at all, and why.
    pub fn new(mut places: Vec<Place>) -> Result<Self> {
        if places.iter().all(|place| place.repository.is_err()) {
            let failures =
                places.drain(..).filter_map(|place| Some((place.name, place.repository.err()?)));
            return Err(combine(failures.collect()));
        }
        Ok(Self { places, chosen: AtomicUsize::new(0) })
    }

    /// Reads from the first place that can, which is the chosen one from then on.
    pub fn choose<T>(&self, read: impl Fn(&Reader<'_>) -> Result<T>) -> Result<T> {
        let (index, value) = self.first(0, read)?;
        self.chosen.store(index, Ordering::Relaxed);
        Ok(value)
    }

    /// Tells whether there is one place alone.
    pub fn is_single(&self) -> bool {
        self.places.len() == 1
    }

    /// Reads from the chosen place, or one behind it where that does not have what is wanted.
    pub fn read<T>(&self, read: impl Fn(&Reader<'_>) -> Result<T>) -> Result<T> {
        self.read_behind(0, read)
    }

    /// As [`Mirrors::read`], but passes so many places over, the last excepted.
    pub fn read_behind<T>(
        &self,
        passed_over: usize,
        read: impl Fn(&Reader<'_>) -> Result<T>,
    ) -> Result<T> {
        let begin = self.chosen.load(Ordering::Relaxed).saturating_add(passed_over);
        let begin = begin.min(self.places.len() - 1);
        self.first(begin, read).map(|(_, value)| value)
    }

    fn first<T>(
        &self,
        begin: usize,
        read: impl Fn(&Reader<'_>) -> Result<T>,
    ) -> Result<(usize, T)> {
        let mut failures = Vec::new();
        for (index, place) in self.places.iter().enumerate().skip(begin) {
            let error = match &place.repository {
                Ok(repository) => match read(&Reader::new(repository)) {
                    Ok(value) => return Ok((index, value)),
                    Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                    Err(error) => {
                        note(repository, &place.name, &error);
                        error
                    }
                },
                Err(error) => same(error),
            };
            failures.push((place.name.clone(), error));
        }
        Err(combine(failures))
    }
}

fn note(repository: &Repository, name: &Reference, error: &Error) {
    repository.host.info(format!("not from {name}: {}", error.chain().join(": ")));
}

/// Makes an error that says the same.
fn same(error: &Error) -> Error {
    let copy = Error::new(error.kind(), error.chain().join(": "));
    match error.hint() {
        Some(hint) => copy.with_hint(hint.to_owned()),
        None => copy,
    }
}

/// Makes one error of those of all places that were tried; the last one's kind decides.
fn combine(mut failures: Vec<(Reference, Error)>) -> Error {
    let Some((name, error)) = failures.pop() else {
        return Error::new(ErrorKind::Internal, "there was no place to read the image from");
    };
    if failures.is_empty() {
        return error;
    }
    let others: Vec<String> = failures
        .iter()
        .map(|(name, error)| format!("[{name}: {}]", error.chain().join(": ")))
        .collect();
    error.context(format!("(Mirrors also failed: {}): {name}", others.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(name: &str, kind: ErrorKind, message: &'static str) -> (Reference, Error) {
        (name.parse().unwrap(), Error::new(kind, message))
    }

    #[test]
    fn every_place_that_was_tried_is_named_and_the_last_decides() {
        let error = combine(vec![
            failure("m.example/a:1", ErrorKind::Unavailable, "connection refused"),
            failure("n.example/a:1", ErrorKind::ImageNotFound, "manifest unknown"),
            failure("r.example/a:1", ErrorKind::Denied, "denied"),
        ]);
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert_eq!(
            error.chain().join(": "),
            "(Mirrors also failed: [m.example/a:1: connection refused] [n.example/a:1: manifest \
             unknown]): r.example/a:1: denied"
        );
    }

    #[test]
    fn one_place_alone_adds_no_words() {
        let error = combine(vec![failure("r.example/a:1", ErrorKind::Denied, "denied")]);
        assert_eq!(error.chain(), ["denied"]);
    }
}
