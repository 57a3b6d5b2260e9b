//! A transport around another one that fails where a test says.
//!
//! ```
//! # use std::sync::Arc;
//! # use diolkos_sdk::conformance::faults::{Call, Fault, Faults, Rule};
//! # use diolkos_sdk::{ErrorKind, Transport};
//! # fn example(transport: Box<dyn Transport>) {
//! let faults = Faults::new()
//!     .with(Rule::new(Call::Blob, Fault::Fails(ErrorKind::Unavailable)).times(2))
//!     .with(Rule::new(Call::Write, Fault::Fails(ErrorKind::Io)).after(3));
//! let transport = faults.wrap(transport);
//! // … copy through it, then:
//! assert_eq!(faults.count(Call::Blob), 0);
//! # let _: Box<dyn Transport> = transport;
//! # }
//! ```
//!
//! Rules count calls across all objects of the wrapped transport. The fast path for files is
//! switched off while a rule stands that it would pass by.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::{
    Accepts, Blob, BlobIncoming, BlobReader, BlobSums, BlobWanted, BlobWriter, Committed,
    Descriptor, Destination, Digest, Error, ErrorKind, Extent, FileTarget, Host, HostServices,
    ImageRef, LogLevel, Names, RawManifest, Result, Session, Signature, Source, Tags, TopLevel,
    Transport,
};

/// A call that a fault can be tied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is the method of that name")]
pub enum Call {
    Parse,
    Open,
    Create,
    Delete,
    Tags,
    Manifest,
    Blob,
    Read,
    SourceSignatures,
    Layers,
    Current,
    Reuse,
    PutBlob,
    Write,
    Finish,
    PutManifest,
    PutSignatures,
    Commit,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails with an error of this kind; the wrapped transport is not called.
    Fails(ErrorKind),
    /// The call panics.
    Panics,
    /// The call takes this much longer.
    Slow(Duration),
    /// From this call on, [`Faults::host`] says that the operation was stopped.
    Cancels,
    /// `Read`: gives one byte only, which is legal.
    ShortRead,
    /// `Read`: one bit of what is read is wrong. `Manifest`: one bit of it is wrong.
    FlipsBit,
    /// `Read`: the blob ends here. `Manifest`: its last byte is missing.
    Truncates,
    /// `Read`: bytes follow when the blob has ended; count those with `after`. `Manifest`: a line
    /// feed follows it.
    Appends,
    /// `Blob`: the declared size is larger by this. A negative number makes it smaller.
    WrongSize(i64),
    /// `Manifest`: another manifest comes in its place.
    OtherManifest(RawManifest),
    /// `Commit`, `Finish`, `PutManifest`: the call is made and succeeds, and then fails with an
    /// error of this kind, as when a connection breaks before the answer.
    FailsAfterwards(ErrorKind),
}

/// A fault, and at which calls it happens.
#[derive(Clone, Debug)]
pub struct Rule {
    call: Call,
    fault: Fault,
    blob: Option<Digest>,
    after: u64,
    times: u64,
    seen: u64,
}

impl Rule {
    /// Makes a rule that holds for every such call.
    pub fn new(call: Call, fault: Fault) -> Self {
        Self { call, fault, blob: None, after: 0, times: u64::MAX, seen: 0 }
    }

    /// Lets this many calls pass first.
    #[must_use]
    pub fn after(mut self, calls: u64) -> Self {
        self.after = calls;
        self
    }

    /// Ends the rule after this many faults.
    #[must_use]
    pub fn times(mut self, faults: u64) -> Self {
        self.times = faults;
        self
    }

    /// Restricts the rule to one blob; calls for others are not counted.
    #[must_use]
    pub fn of(mut self, blob: &Digest) -> Self {
        self.blob = Some(blob.clone());
        self
    }

    fn concerns(&self, call: Call, blob: Option<&Digest>) -> bool {
        self.call == call && (self.blob.is_none() || self.blob.as_ref() == blob)
    }
}

/// Rules, and what was called so far.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<State>);

#[derive(Debug, Default)]
struct State {
    rules: Mutex<Vec<Rule>>,
    counts: Mutex<BTreeMap<Call, u64>>,
    cancelled: AtomicBool,
}

impl Faults {
    /// Makes an empty set of rules; a transport wrapped with it only counts calls.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a rule.
    #[must_use]
    pub fn with(self, rule: Rule) -> Self {
        self.rules().push(rule);
        self
    }

    /// Drops all rules; what is wrapped works from now on.
    pub fn clear(&self) {
        self.rules().clear();
        self.0.cancelled.store(false, Ordering::SeqCst);
    }

    /// Wraps a transport.
    pub fn wrap(&self, transport: Box<dyn Transport>) -> Box<dyn Transport> {
        Box::new(Faulty { faults: self.clone(), inner: transport })
    }

    /// Returns how often something was called.
    pub fn count(&self, call: Call) -> u64 {
        let counts = self.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(&call).copied().unwrap_or(0)
    }

    /// Makes a host that stops the operation when a rule with [`Fault::Cancels`] says so.
    pub fn host(&self) -> Host {
        struct Stopping(Arc<State>);
        impl HostServices for Stopping {
            fn is_cancelled(&self) -> bool {
                self.0.cancelled.load(Ordering::SeqCst)
            }
            fn log(&self, _: LogLevel, _: &str) {}
        }
        Host::new(Stopping(self.0.clone()))
    }

    fn rules(&self) -> std::sync::MutexGuard<'_, Vec<Rule>> {
        self.0.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn concern(&self, call: Call, blob: &Digest) -> bool {
        self.rules().iter().any(|rule| rule.concerns(call, Some(blob)))
    }

    /// Counts a call; does at once what any call can do wrong, and returns the rest.
    fn strike(&self, call: Call, blob: Option<&Digest>) -> Result<Vec<Fault>> {
        let mut counts = self.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(call).or_default() += 1;
        drop(counts);
        let mut due = Vec::new();
        for rule in self.rules().iter_mut().filter(|rule| rule.concerns(call, blob)) {
            rule.seen += 1;
            if rule.seen > rule.after && rule.seen - rule.after <= rule.times {
                due.push(rule.fault.clone());
            }
        }
        let mut rest = Vec::new();
        for fault in due {
            match fault {
                Fault::Fails(kind) => return Err(failure(kind, call)),
                Fault::Panics => panic!("a test made {call:?} panic"),
                Fault::Slow(delay) => std::thread::sleep(delay),
                Fault::Cancels => self.0.cancelled.store(true, Ordering::SeqCst),
                other => rest.push(other),
            }
        }
        Ok(rest)
    }

    /// Makes a call that may fail although it was carried out.
    fn around<T>(
        &self,
        call: Call,
        blob: Option<&Digest>,
        body: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let faults = self.strike(call, blob)?;
        let value = body()?;
        for fault in faults {
            if let Fault::FailsAfterwards(kind) = fault {
                return Err(failure(kind, call));
            }
        }
        Ok(value)
    }
}

fn failure(kind: ErrorKind, call: Call) -> Error {
    Error::new(kind, format!("a test made {call:?} fail"))
}

struct Faulty<T: ?Sized> {
    faults: Faults,
    inner: Box<T>,
}

impl<T: ?Sized> Faulty<T> {
    fn wrap<U: ?Sized>(&self, inner: Box<U>) -> Faulty<U> {
        Faulty { faults: self.faults.clone(), inner }
    }
}

impl Transport for Faulty<dyn Transport> {
    fn parse(&self, details: &str) -> Result<Box<dyn ImageRef>> {
        self.faults.strike(Call::Parse, None)?;
        Ok(Box::new(self.wrap(self.inner.parse(details)?)))
    }
    fn check_policy_scope(&self, scope: &str) -> Result<()> {
        self.inner.check_policy_scope(scope)
    }
    fn extension(&self, name: &str, input: &[u8]) -> Option<Result<Vec<u8>>> {
        self.inner.extension(name, input)
    }
}

impl ImageRef for Faulty<dyn ImageRef> {
    fn names(&self) -> Names {
        self.inner.names()
    }
    fn open(&self, session: &Session) -> Result<Box<dyn Source>> {
        self.faults.strike(Call::Open, None)?;
        Ok(Box::new(self.wrap(self.inner.open(session)?)))
    }
    fn create(&self, session: &Session) -> Result<Box<dyn Destination>> {
        self.faults.strike(Call::Create, None)?;
        Ok(Box::new(self.wrap(self.inner.create(session)?)))
    }
    fn delete(&self, session: &Session) -> Result<()> {
        self.faults.around(Call::Delete, None, || self.inner.delete(session))
    }
    fn tags(&self, session: &Session) -> Result<Tags> {
        self.faults.around(Call::Tags, None, || self.inner.tags(session))
    }
}

impl Source for Faulty<dyn Source> {
    fn manifest(&self, instance: Option<&Digest>) -> Result<RawManifest> {
        let faults = self.faults.strike(Call::Manifest, instance)?;
        let mut manifest = self.inner.manifest(instance)?;
        for fault in faults {
            match fault {
                Fault::FlipsBit => flip(&mut manifest.bytes),
                Fault::Truncates => drop(manifest.bytes.pop()),
                Fault::Appends => manifest.bytes.push(b'\n'),
                Fault::OtherManifest(other) => manifest = other,
                _ => {}
            }
        }
        Ok(manifest)
    }
    fn blob(&self, blob: &Descriptor, from: u64) -> Result<Blob> {
        let faults = self.faults.strike(Call::Blob, Some(&blob.digest))?;
        let mut open = self.inner.blob(blob, from)?;
        for fault in faults {
            if let Fault::WrongSize(difference) = fault {
                open.size =
                    open.size.or(blob.size).map(|size| size.saturating_add_signed(difference));
            }
        }
        let wrapped = self.wrap(open.reader);
        let digest = blob.digest.clone();
        Ok(Blob { size: open.size, reader: Box::new(Reader { wrapped, digest, ended: false }) })
    }
    fn signatures(&self, instance: Option<&Digest>) -> Result<Vec<Signature>> {
        self.faults.around(Call::SourceSignatures, instance, || self.inner.signatures(instance))
    }
    fn layers(&self, instance: Option<&Digest>) -> Result<Option<Vec<Descriptor>>> {
        self.faults.around(Call::Layers, instance, || self.inner.layers(instance))
    }
    fn extension(&self, name: &str, input: &[u8]) -> Option<Result<Vec<u8>>> {
        self.inner.extension(name, input)
    }
}

fn flip(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 0x10;
    }
}

struct Reader {
    wrapped: Faulty<dyn BlobReader>,
    digest: Digest,
    ended: bool,
}

impl BlobReader for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let faults = self.wrapped.faults.strike(Call::Read, Some(&self.digest))?;
        if self.ended {
            return Ok(0);
        }
        let room =
            if faults.contains(&Fault::ShortRead) { buffer.len().min(1) } else { buffer.len() };
        if faults.contains(&Fault::Truncates) {
            self.ended = true;
            return Ok(0);
        }
        let count = self.wrapped.inner.read(&mut buffer[..room])?;
        if faults.contains(&Fault::FlipsBit) {
            flip(&mut buffer[..count]);
        }
        if count == 0 && room > 0 && faults.contains(&Fault::Appends) {
            self.ended = true;
            buffer[0] = b'!';
            return Ok(1);
        }
        Ok(count)
    }
    fn extent(&self) -> Option<Extent<'_>> {
        if self.wrapped.faults.concern(Call::Read, &self.digest) {
            return None;
        }
        self.wrapped.inner.extent()
    }
}

impl Destination for Faulty<dyn Destination> {
    fn accepts(&self) -> Accepts {
        self.inner.accepts()
    }
    fn current(&self) -> Result<Option<Digest>> {
        self.faults.around(Call::Current, None, || self.inner.current())
    }
    fn reuse(&self, wanted: &BlobWanted) -> Result<Option<Descriptor>> {
        self.faults.around(Call::Reuse, Some(&wanted.blob.digest), || self.inner.reuse(wanted))
    }
    fn put_blob(&self, blob: &BlobIncoming) -> Result<Option<Box<dyn BlobWriter>>> {
        self.faults.strike(Call::PutBlob, blob.digest.as_ref())?;
        let Some(writer) = self.inner.put_blob(blob)? else { return Ok(None) };
        Ok(Some(Box::new(Writer { wrapped: self.wrap(writer), digest: blob.digest.clone() })))
    }
    fn put_manifest(&self, manifest: &RawManifest, instance: Option<&Digest>) -> Result<()> {
        self.faults
            .around(Call::PutManifest, instance, || self.inner.put_manifest(manifest, instance))
    }
    fn put_signatures(&self, signatures: &[Signature], instance: Option<&Digest>) -> Result<()> {
        self.faults.around(Call::PutSignatures, instance, || {
            self.inner.put_signatures(signatures, instance)
        })
    }
    fn commit(self: Box<Self>, top: &TopLevel) -> Result<Committed> {
        let Self { faults, inner } = *self;
        faults.around(Call::Commit, None, || inner.commit(top))
    }
    fn extension(&self, name: &str, input: &[u8]) -> Option<Result<Vec<u8>>> {
        self.inner.extension(name, input)
    }
}

struct Writer {
    wrapped: Faulty<dyn BlobWriter>,
    digest: Option<Digest>,
}

impl BlobWriter for Writer {
    fn write(&mut self, chunk: &[u8]) -> Result<()> {
        self.wrapped.faults.strike(Call::Write, self.digest.as_ref())?;
        self.wrapped.inner.write(chunk)
    }
    fn file(&self) -> Option<FileTarget<'_>> {
        let rules = self.wrapped.faults.rules();
        if rules.iter().any(|rule| rule.concerns(Call::Write, self.digest.as_ref())) {
            return None;
        }
        drop(rules);
        self.wrapped.inner.file()
    }
    fn finish(self: Box<Self>, sums: &BlobSums) -> Result<()> {
        let Faulty { faults, inner } = self.wrapped;
        faults.around(Call::Finish, Some(&sums.digest), || inner.finish(sums))
    }
}
