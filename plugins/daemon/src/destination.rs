//! Writing an image: an archive that the daemon loads, sent as its bytes come.
//!
//! Layers go as they are, compressed or not, the daemon takes both. The list of the image's parts
//! goes last; without it nothing is loaded. A copy that is given up closes the connection within
//! the archive, which the daemon then forgets.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diolkos_formats::bytes::to_json;
use diolkos_formats::docker_archive::{self, Blobs, Image, NAME, config_name, layer_name};
use diolkos_formats::tar::{Sink, TarStream};
use diolkos_network::sending::{self, Part, Sending};
use diolkos_sdk::{
    Accepts, BlobIncoming, BlobRole, BlobSums, BlobWanted, BlobWriter, Committed, Descriptor,
    Destination, Digest, Error, ErrorKind, Host, LayerForm, RawManifest, Reference, Result,
    TopLevel, image_config,
};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, RequestBuilder, Response};
use serde::Deserialize;

use crate::client::Daemon;
use crate::known;

/// Bytes that are handed to the connection at a time.
const CHUNK: usize = 256 << 10;
/// The longest message in an answer, in bytes.
const MAX_MESSAGE: usize = 1 << 20;

/// An image that is being loaded.
pub(crate) struct DaemonDestination {
    daemon: Daemon,
    name: Reference,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The archive; it is begun with its first member.
    archive: Option<TarStream<Load>>,
    /// What it has by now: names and sizes of its members.
    members: HashMap<Digest, (String, u64)>,
    /// Positions of layers that the daemon has.
    known: HashSet<u32>,
    /// Layers that are left out for that.
    left_out: HashSet<Digest>,
    /// How many members were begun, and for which blobs.
    begun: usize,
    begun_for: HashSet<Digest>,
    busy: bool,
    blobs: Option<Blobs>,
}

impl DaemonDestination {
    /// Prepares to load an image under a name with a tag. Nothing is sent yet.
    pub fn new(daemon: Daemon, name: Reference) -> Self {
        Self { daemon, name, state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Destination for DaemonDestination {
    fn accepts(&self) -> Accepts {
        docker_archive::accepts(LayerForm::Preserve, true)
    }

    fn reuse(&self, wanted: &BlobWanted) -> Result<Option<Descriptor>> {
        let mut state = self.state();
        // A layer in zstd would have to be named in the manifest, which has no word for it.
        if let BlobRole::Layer(position) = wanted.role
            && state.known.contains(&position)
            && !wanted.blob.media_type.ends_with("zstd")
        {
            state.left_out.insert(wanted.blob.digest.clone());
            return Ok(Some(wanted.blob.clone()));
        }
        let found = state.members.get(&wanted.blob.digest);
        Ok(found.map(|(_, size)| Descriptor { size: Some(*size), ..wanted.blob.clone() }))
    }

    fn put_blob(&self, blob: &BlobIncoming) -> Result<Option<Box<dyn BlobWriter>>> {
        let size = blob.size.ok_or_else(|| {
            Error::new(ErrorKind::Internal, "a blob for docker-daemon: has no size")
        })?;
        let mut state = self.state();
        if blob.digest.as_ref().is_some_and(|digest| state.members.contains_key(digest)) {
            return Ok(None);
        }
        if state.busy {
            let message = "two blobs for docker-daemon: were written at once";
            return Err(Error::new(ErrorKind::Internal, message));
        }
        state.begun += 1;
        // Programs that take the first member of a name must not find one that was given up.
        let again = if state.begun_before(blob.digest.as_ref()) {
            format!("{}-", state.begun)
        } else {
            String::new()
        };
        let name = match (&blob.digest, blob.role) {
            (Some(digest), BlobRole::Config) => format!("{again}{}", config_name(digest)),
            (Some(digest), BlobRole::Layer(_)) => format!("{again}{}", layer_name(digest)),
            (None, _) => format!("blob-{}", state.begun),
        };
        if let Some(broken) = state.archive.as_ref().and_then(|archive| archive.sink().failure()) {
            if !state.members.is_empty() {
                return Err(broken);
            }
            // Nothing is lost: it may begin again.
            state.archive = None;
        }
        if state.archive.is_none() {
            state.archive = Some(TarStream::new(Load::begin(&self.daemon)?));
        }
        state.archive()?.begin(&name, size)?;
        state.busy = true;
        Ok(Some(Box::new(Member { state: Arc::clone(&self.state), name, size })))
    }

    fn put_manifest(&self, manifest: &RawManifest, instance: Option<&Digest>) -> Result<()> {
        let blobs = Blobs::of(manifest, instance)?;
        self.state().blobs = Some(blobs);
        Ok(())
    }

    fn extension(&self, name: &str, input: &[u8]) -> Option<Result<Vec<u8>>> {
        image_config::answer(name, input, |config| {
            let asking = known::layers(&self.daemon, &self.name, config);
            let known = self.daemon.runtime().block_on(self.daemon.host(), asking)?;
            self.daemon.host().debug(format!("the daemon has {} of the layers", known.len()));
            self.state().known = known;
            Ok(())
        })
    }

    fn commit(self: Box<Self>, _: &TopLevel) -> Result<Committed> {
        let mut state = self.state();
        let entry = state.entry(&self.name)?;
        let mut archive = state.archive.take().ok_or_else(gone)?;
        drop(state);
        archive.add(NAME, &to_json(&[entry])?)?;
        archive.end()?.answer()?;
        Ok(Committed::default())
    }
}

impl State {
    /// Notes that a blob's member is begun, and tells whether one was before.
    fn begun_before(&mut self, digest: Option<&Digest>) -> bool {
        digest.is_some_and(|digest| !self.begun_for.insert(digest.clone()))
    }

    fn archive(&mut self) -> Result<&mut TarStream<Load>> {
        self.archive.as_mut().ok_or_else(gone)
    }

    /// Makes the image's entry in the list.
    fn entry(&mut self, name: &Reference) -> Result<Image> {
        let blobs = self.blobs.take().ok_or_else(|| {
            Error::new(ErrorKind::Internal, "commit of an image without manifest")
        })?;
        let member = |digest: &Digest| {
            let found = self.members.get(digest).map(|(name, _)| name.clone());
            let left_out = || self.left_out.contains(digest).then(|| layer_name(digest));
            found.or_else(left_out).ok_or_else(|| {
                Error::new(ErrorKind::Internal, format!("commit of an image without {digest}"))
            })
        };
        blobs.entry(vec![name.familiar()], member)
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Internal, "an archive for docker-daemon: is not open")
}

/// A member of the archive that is being written.
struct Member {
    state: Arc<Mutex<State>>,
    name: String,
    size: u64,
}

impl BlobWriter for Member {
    fn write(&mut self, chunk: &[u8]) -> Result<()> {
        lock(&self.state).archive()?.write(chunk)
    }

    fn finish(self: Box<Self>, sums: &BlobSums) -> Result<()> {
        let mut state = lock(&self.state);
        state.archive()?.finish()?;
        state.members.insert(sums.digest.clone(), (self.name.clone(), self.size));
        Ok(())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        lock(&self.state).busy = false;
    }
}

/// A request whose body is an archive.
struct Load {
    daemon: Daemon,
    /// `None` once the daemon has answered.
    sending: Option<Sending<()>>,
    /// What it said, if that was no success.
    failure: Option<Vec<String>>,
    buffer: Vec<u8>,
}

/// Whether a daemon has answered before all was sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heard {
    Nothing,
    Success,
}

impl Load {
    fn begin(daemon: &Daemon) -> Result<Self> {
        let sending = daemon.runtime().block_on(daemon.host(), async {
            let (parts, body) = sending::body();
            let request = daemon.versioned(Method::POST, "/images/load", &[("quiet", "1")]).await?;
            let request = request.header(CONTENT_TYPE, "application/x-tar").body(body);
            let answer = tokio::spawn(load(daemon.clone(), request));
            Ok(Sending::new(parts, answer))
        })?;
        let buffer = Vec::with_capacity(CHUNK);
        Ok(Self { daemon: daemon.clone(), sending: Some(sending), failure: None, buffer })
    }

    /// Returns why nothing can be sent any more. It cannot be mended by trying again: what was sent
    /// before is lost with the request.
    fn failure(&self) -> Option<Error> {
        let mut chain = self.failure.as_ref()?.iter().rev();
        let innermost = Error::new(ErrorKind::Io, chain.next()?.clone());
        Some(chain.fold(innermost, |error, outer| error.context(outer.clone())))
    }

    fn send(&mut self, part: Part) -> Result<Heard> {
        let Some(sending) = &mut self.sending else {
            return Err(self.failure().unwrap_or_else(stopped));
        };
        let host = self.daemon.host().clone();
        let handed = async { Ok(sending.hand_over(part).await) };
        match self.daemon.runtime().block_on(&host, handed)? {
            None => Ok(Heard::Nothing),
            Some(answer) => {
                self.sending = None;
                if let Err(error) = &answer {
                    self.failure = Some(error.chain());
                }
                answer.map(|()| Heard::Success)
            }
        }
    }

    fn flush(&mut self) -> Result<Heard> {
        if self.buffer.is_empty() {
            return Ok(Heard::Nothing);
        }
        let bytes = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.send(Part::Bytes(bytes))
    }

    /// Ends the archive and waits for what the daemon makes of it. It may have seen the archive's end
    /// before the request's.
    fn answer(mut self) -> Result<()> {
        if self.flush()? == Heard::Success || self.send(Part::End)? == Heard::Success {
            return Ok(());
        }
        let Some(sending) = &mut self.sending else { return Err(stopped()) };
        self.daemon.runtime().block_on(self.daemon.host(), sending.answer())
    }
}

impl Sink for Load {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(CHUNK - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            if self.buffer.len() == CHUNK && self.flush()? == Heard::Success {
                self.failure = Some(stopped().chain());
                return Err(stopped());
            }
            rest = later;
        }
        Ok(())
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Unavailable, "the daemon has stopped taking the image")
}

/// Sends the request, and reads what the daemon says meanwhile and at the end.
async fn load(daemon: Daemon, request: RequestBuilder) -> Result<()> {
    let loading = |error: Error| error.context("starting a load operation in docker engine");
    let response = daemon.sent(request).await.map_err(loading)?;
    let response = daemon.checked(response).await.map_err(loading)?;
    read_messages(&daemon, response).await
}

/// A message in the daemon's answer, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Message {
    #[serde(rename = "errorDetail")]
    detail: Option<Detail>,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Detail {
    #[serde(default)]
    message: String,
}

impl Message {
    /// Returns what went wrong, if something did.
    pub fn error(self) -> Option<String> {
        let detail = self.detail.map(|detail| detail.message);
        match (detail, self.error) {
            (Some(words), _) if !words.is_empty() => Some(words),
            (Some(_), None) => Some("an error without words".to_owned()),
            (_, error) => error,
        }
    }
}

/// Reads messages, which follow each other with or without white space, to the last one.
async fn read_messages(daemon: &Daemon, mut response: Response) -> Result<()> {
    let mut rest = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| daemon.unanswered(&error))? {
        rest.extend_from_slice(&chunk);
        let used = judge(daemon.host(), &rest)?;
        rest.drain(..used);
        if rest.len() > MAX_MESSAGE {
            return Err(no_messages("a message is longer than any may be"));
        }
    }
    if !rest.trim_ascii().is_empty() {
        return Err(no_messages("the last message is cut short"));
    }
    Ok(())
}

/// Judges whole messages, and returns how many bytes they take.
fn judge(host: &Host, bytes: &[u8]) -> Result<usize> {
    let mut messages = serde_json::Deserializer::from_slice(bytes).into_iter::<Message>();
    let mut used = 0;
    while let Some(message) = messages.next() {
        match message {
            Ok(message) => {
                let end = messages.byte_offset();
                let text = String::from_utf8_lossy(&bytes[used..end]);
                host.debug(format!("the daemon says: {}", text.trim()));
                used = end;
                if let Some(words) = message.error() {
                    let words = format!("docker engine reported: {words:?}");
                    return Err(Error::new(ErrorKind::Io, words));
                }
            }
            Err(error) if error.is_eof() => break,
            Err(error) => return Err(no_messages(&error.to_string())),
        }
    }
    Ok(used)
}

fn no_messages(why: &str) -> Error {
    Error::new(ErrorKind::Io, format!("parsing docker load progress: {why}"))
        .with_hint("check that the address is a Docker daemon's")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &str) -> Result<usize> {
        judge(&Host::silent(), text.as_bytes())
    }

    #[test]
    fn a_message_tells_an_error_in_either_form() {
        let error = |text: &str| judged(text).unwrap_err().message().to_owned();
        for (text, words) in [
            (r#"{"errorDetail":{"message":"a"},"error":"b"}"#, "\"a\""),
            (r#"{"errorDetail":{"code":1},"error":"b"}"#, "\"b\""),
            (r#"{"errorDetail":{"code":5}}"#, "without words"),
            (r#"{"error":"b"}"#, "\"b\""),
            ("{\"stream\":\"a\"}{\"errorDetail\":{\n\"message\":\"no room\"}}", "no room"),
            ("<html>", "parsing docker load progress"),
            ("{}x", "parsing docker load progress"),
        ] {
            assert!(error(text).contains(words), "{text}: {}", error(text));
        }
    }

    #[test]
    fn a_message_that_has_not_ended_waits_for_the_rest() {
        let whole = r#"{"stream":"Loaded image: a:1\n"}"#;
        assert_eq!(judged(whole).unwrap(), whole.len());
        assert_eq!(judged("{\"stream\":\"a\"}\r\n{\"stre").unwrap(), 14);
        assert_eq!(judged("").unwrap(), 0);
        assert_eq!(judged(" \r\n").unwrap(), 0);
    }
}
