//! What crosses the boundary arrives as it left, and what goes wrong on one side is an error on
//! the other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{layout, linked};
use crate::*;

fn digest(byte: u8) -> Digest {
    Digest::from_hash(Algorithm::Sha256, &[byte; 32]).unwrap()
}

fn descriptor() -> Descriptor {
    Descriptor {
        media_type: "a/b".into(),
        digest: digest(1),
        size: Some(7),
        urls: vec!["https://example.test/x".into()],
        annotations: BTreeMap::from([("k".into(), "v".into())]),
        data: Some("AA==".into()),
        platform: Some(Platform {
            os: "linux".into(),
            architecture: "arm".into(),
            variant: "v7".into(),
            os_version: "1".into(),
            os_features: vec!["f".into()],
            features: vec!["g".into()],
        }),
        artifact_type: Some("x/y".into()),
    }
}

/// Answers every call with what it was asked, and fails or panics on demand.
struct Echo;

impl Transport for Echo {
    fn parse(&self, details: &str) -> Result<Box<dyn ImageRef>> {
        match details {
            "panic" => panic!("parse was told to"),
            "error" => Err(Error::new(ErrorKind::RateLimited, "outer")
                .with_hint("wait")
                .with_retry_after(Duration::from_millis(1500))
                .with_source(Error::new(ErrorKind::Io, "inner"))),
            _ => Ok(Box::new(EchoRef(details.to_owned()))),
        }
    }
    fn extension(&self, name: &str, input: &[u8]) -> Option<Result<Vec<u8>>> {
        (name == "test.echo/1").then(|| Ok(input.to_vec()))
    }
}

struct EchoRef(String);

impl ImageRef for EchoRef {
    fn names(&self) -> Names {
        Names {
            details: self.0.clone(),
            docker_reference: Some("docker.io/library/a:1".into()),
            policy_identity: "id".into(),
            policy_namespaces: vec!["n1".into(), "n2".into()],
            location: Some(Location { scope: "s".into(), place: "p".into() }),
        }
    }
    fn open(&self, session: &Session) -> Result<Box<dyn Source>> {
        session.host.warn(format!("{:?} {:?}", session.options, session.platform));
        session.host.debug(session.temp_dir.to_string_lossy());
        Ok(Box::new(EchoSource))
    }
    fn create(&self, _: &Session) -> Result<Box<dyn Destination>> {
        Ok(Box::new(EchoDestination))
    }
}

struct EchoSource;

impl Source for EchoSource {
    fn manifest(&self, instance: Option<&Digest>) -> Result<RawManifest> {
        Ok(RawManifest::new(format!("{instance:?}").into_bytes(), "type"))
    }
    fn blob(&self, blob: &Descriptor, from: u64) -> Result<Blob> {
        assert_eq!(*blob, descriptor());
        Ok(Blob { size: blob.size, reader: Box::new(EchoReader(from)) })
    }
}

struct EchoReader(u64);

impl BlobReader for EchoReader {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        assert!(self.0 != 99, "read was told to");
        buffer[0] = u8::try_from(self.0).unwrap();
        Ok(1)
    }
}

impl Drop for EchoReader {
    fn drop(&mut self) {
        assert!(self.0 != 98, "drop was told to");
    }
}

struct EchoDestination;

impl Destination for EchoDestination {
    fn accepts(&self) -> Accepts {
        Accepts {
            manifest_types: vec!["m".into()],
            layer_form: LayerForm::Decompress,
            signatures: Err("why".into()),
            several_images: false,
            foreign_layers: false,
            parallel_blobs: false,
            needs_size: true,
        }
    }
    fn put_blob(&self, _: &BlobIncoming) -> Result<Option<Box<dyn BlobWriter>>> {
        Ok(None)
    }
    fn reuse(&self, wanted: &BlobWanted) -> Result<Option<Descriptor>> {
        assert_eq!(wanted.role, BlobRole::Layer(3));
        Ok(wanted.candidates.first().map(|candidate| candidate.blob.clone()))
    }
    fn put_manifest(&self, _: &RawManifest, _: Option<&Digest>) -> Result<()> {
        panic!("put_manifest was told to")
    }
    fn commit(self: Box<Self>, top: &TopLevel) -> Result<Committed> {
        Ok(Committed {
            details: Some(format!("{} {} {}", top.digest.short(), top.media_type, top.size)),
        })
    }
}

fn echo() -> Box<dyn Transport> {
    linked("echo-plugin", || Plugin::new().with("echo", Echo)).unwrap().remove(0).1
}

#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<(LogLevel, String)>>>);

impl HostServices for Recorder {
    fn is_cancelled(&self) -> bool {
        false
    }
    fn log(&self, level: LogLevel, message: &str) {
        self.0.lock().unwrap().push((level, message.to_owned()));
    }
}

fn session(host: Host) -> Session {
    Session {
        options: [("a", "1"), ("a", "2"), ("b", "x")].into_iter().collect(),
        platform: PlatformChoice { os: Some("plan9".into()), ..PlatformChoice::default() },
        temp_dir: "/some/where".into(),
        host,
    }
}

#[test]
fn errors_keep_kind_hint_delay_and_chain() {
    let error = echo().parse("error").err().unwrap();
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    assert_eq!(error.hint(), Some("wait"));
    assert_eq!(error.retry_after(), Some(Duration::from_millis(1500)));
    assert_eq!(error.chain(), ["outer", "inner"]);
}

#[test]
fn panics_become_errors_that_name_the_plugin_and_the_call() {
    let error = echo().parse("panic").err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Panicked);
    assert_eq!(error.message(), "plugin `echo-plugin` panicked in parse: parse was told to");

    let reference = echo().parse("x").unwrap();
    let source = reference.open(&session(Host::silent())).unwrap();
    let mut blob = source.blob(&descriptor(), 99).unwrap();
    let error = blob.reader.read(&mut [0; 4]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
    drop(source.blob(&descriptor(), 98).unwrap());

    let destination = reference.create(&session(Host::silent())).unwrap();
    let error = destination.put_manifest(&RawManifest::new(vec![], ""), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
}

#[test]
fn names_descriptors_and_sessions_arrive_whole() {
    let recorder = Recorder::default();
    let reference = echo().parse("x").unwrap();
    assert_eq!(reference.names(), EchoRef("x".into()).names());
    let session = session(Host::new(recorder.clone()));
    let source = reference.open(&session).unwrap();
    let mut blob = source.blob(&descriptor(), 5).unwrap();
    let mut buffer = [0; 2];
    assert_eq!((blob.size, blob.reader.read(&mut buffer).unwrap(), buffer[0]), (Some(7), 1, 5));
    let logged = recorder.0.lock().unwrap().clone();
    assert_eq!(
        logged[0],
        (LogLevel::Warning, format!("{:?} {:?}", session.options, session.platform))
    );
    assert_eq!(logged[1], (LogLevel::Debug, "/some/where".into()));
    let manifest = source.manifest(Some(&digest(9))).unwrap();
    assert_eq!(manifest.bytes, format!("{:?}", Some(digest(9))).into_bytes());
}

#[test]
fn destinations_answer_through_the_boundary_as_without_it() {
    let reference = echo().parse("x").unwrap();
    let destination = reference.create(&session(Host::silent())).unwrap();
    assert_eq!(destination.accepts(), EchoDestination.accepts());
    let wanted = BlobWanted {
        blob: descriptor(),
        role: BlobRole::Layer(3),
        candidates: vec![BlobCandidate { blob: descriptor(), location: None }],
        probably_new: true,
    };
    assert_eq!(destination.reuse(&wanted).unwrap(), Some(descriptor()));
    let top = TopLevel { digest: digest(1), media_type: "m".into(), size: 3 };
    let committed = destination.commit(&top).unwrap();
    assert_eq!(committed.details.unwrap(), "010101010101 m 3");
}

#[test]
fn unknown_extensions_are_absent_and_known_ones_answer() {
    assert!(echo().extension("test.other/1", b"x").is_none());
    assert_eq!(echo().extension("test.echo/1", b"x").unwrap().unwrap(), b"x");
}

#[test]
fn the_layouts_of_abi_1_are_what_they_were_when_it_was_frozen() {
    let golden = include_str!("abi-1.layout");
    let now = layout::dump();
    if std::env::var_os("DIOLKOS_WRITE_LAYOUT").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/abi/abi-1.layout"), &now).unwrap();
        return;
    }
    assert_eq!(now, golden, "a layout of ABI 1 has changed: use an extension instead");
}
