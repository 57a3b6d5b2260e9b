//! What the integration tests share: a scripted server, a registry in memory, the real registry.

#![allow(dead_code, reason = "each test file uses a part of this")]

pub mod memory;
pub mod real;
pub mod server;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use diolkos_sdk::conformance::image::sha256;
use diolkos_sdk::{
    BlobIncoming, BlobRole, BlobSums, BlobWanted, Descriptor, Digest, Host, HostServices, ImageRef,
    LogLevel, PlatformChoice, Result, Session, Source, Transport,
};

/// A host that keeps what is logged and can be stopped.
#[derive(Clone, Default)]
pub struct Services {
    pub stopped: Arc<AtomicBool>,
    pub log: Arc<Mutex<Vec<(LogLevel, String)>>>,
}

impl HostServices for Services {
    fn is_cancelled(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
    fn log(&self, level: LogLevel, message: &str) {
        self.log.lock().unwrap().push((level, message.to_owned()));
    }
}

impl Services {
    pub fn text(&self) -> String {
        let log = self.log.lock().unwrap();
        log.iter().map(|(_, message)| message.as_str()).collect::<Vec<_>>().join("\n")
    }
}

/// A transport of its own, so that nothing learnt elsewhere counts, and a session.
pub struct User {
    pub transport: diolkos_docker::Docker,
    pub services: Services,
    options: Vec<(String, String)>,
}

impl User {
    /// A user who reaches registries without TLS.
    pub fn new() -> Self {
        Self::with(&[("tls-verify", "false")])
    }

    pub fn with(options: &[(&str, &str)]) -> Self {
        Self {
            transport: diolkos_docker::Docker::default(),
            services: Services::default(),
            options: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }
    }

    pub fn session(&self) -> Session {
        Session {
            options: self.options.iter().cloned().collect(),
            platform: PlatformChoice::default(),
            temp_dir: std::env::temp_dir(),
            host: Host::new(self.services.clone()),
        }
    }

    pub fn image(&self, name: &str) -> Box<dyn ImageRef> {
        self.transport.parse(&format!("//{name}")).unwrap()
    }

    pub fn open(&self, name: &str) -> Box<dyn Source> {
        self.image(name).open(&self.session()).unwrap()
    }

    pub fn create(&self, name: &str) -> Box<dyn diolkos_sdk::Destination> {
        self.image(name).create(&self.session()).unwrap()
    }
}

/// Reads a blob to its end, or to where it broke off.
pub fn read(source: &dyn Source, blob: &Descriptor, from: u64) -> (Vec<u8>, Result<Option<u64>>) {
    let mut all = Vec::new();
    let mut opened = match source.blob(blob, from) {
        Ok(opened) => opened,
        Err(error) => return (all, Err(error)),
    };
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match opened.reader.read(&mut buffer) {
            Ok(0) => return (all, Ok(opened.size)),
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            Err(error) => return (all, Err(error)),
        }
    }
}

pub fn blob_of(bytes: &[u8]) -> Descriptor {
    let size = bytes.len() as u64;
    Descriptor::new("application/vnd.oci.image.layer.v1.tar+gzip", sha256(bytes), size)
}

pub fn digest_of(bytes: &[u8]) -> Digest {
    sha256(bytes)
}

pub fn wanted(bytes: &[u8], probably_new: bool) -> BlobWanted {
    BlobWanted {
        blob: blob_of(bytes),
        role: BlobRole::Layer(0),
        candidates: Vec::new(),
        probably_new,
    }
}

pub fn incoming(bytes: &[u8]) -> BlobIncoming {
    BlobIncoming {
        digest: Some(sha256(bytes)),
        size: Some(bytes.len() as u64),
        media_type: String::new(),
        role: BlobRole::Layer(0),
        locations: Vec::new(),
    }
}

pub fn sums(bytes: &[u8]) -> BlobSums {
    BlobSums { digest: sha256(bytes), size: bytes.len() as u64, diff_id: None }
}

/// Writes a blob as the engine does; `false` when the destination had it.
pub fn put(
    destination: &dyn diolkos_sdk::Destination,
    bytes: &[u8],
    incoming: &BlobIncoming,
) -> Result<bool> {
    let Some(mut writer) = destination.put_blob(incoming)? else { return Ok(false) };
    for chunk in bytes.chunks(256 * 1024) {
        writer.write(chunk)?;
    }
    writer.finish(&sums(bytes))?;
    Ok(true)
}
