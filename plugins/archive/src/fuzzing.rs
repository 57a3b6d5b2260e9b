//! The readers of archives, for the fuzz targets in `fuzz/`: none may panic, whatever it gets.

use std::fs;

use diolkos_sdk::{Descriptor, Host, ImageRef, Options, PlatformChoice, Session, Transport};

use crate::docker::DockerArchive;
use crate::oci::OciArchive;

/// Reads all of an archive by both transports.
pub fn archive(bytes: &[u8]) {
    let Ok(file) = tempfile::NamedTempFile::new() else { return };
    if fs::write(file.path(), bytes).is_err() {
        return;
    }
    let session = Session {
        options: Options::default(),
        platform: PlatformChoice::default(),
        temp_dir: std::env::temp_dir(),
        host: Host::silent(),
    };
    let path = file.path().display();
    for image in
        [DockerArchive.parse(&path.to_string()), DockerArchive.parse(&format!("{path}:@0"))]
            .into_iter()
            .chain([OciArchive.parse(&path.to_string()), OciArchive.parse(&format!("{path}:@0"))])
            .flatten()
    {
        let _ = image.tags(&session);
        read(&*image, &session);
    }
}

fn read(image: &dyn ImageRef, session: &Session) {
    let Ok(source) = image.open(session) else { return };
    let Ok(manifest) = source.manifest(None) else { return };
    // What the manifest names, as far as it looks like names.
    let text = String::from_utf8_lossy(&manifest.bytes).into_owned();
    for (start, _) in text.match_indices("sha256:").take(20) {
        let Some(Ok(digest)) = text.get(start..start + 71).map(str::parse) else { continue };
        let Ok(mut blob) = source.blob(&Descriptor::new("", digest, 0), 0) else { continue };
        let mut buffer = vec![0; 64 << 10];
        // What inflates without end is for the host to stop.
        for _ in 0..64 {
            if !matches!(blob.reader.read(&mut buffer), Ok(count) if count > 0) {
                break;
            }
        }
    }
}
