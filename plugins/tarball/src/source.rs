//! The image that is made of archives.

use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::Path;
use std::time::SystemTime;

use diolkos_formats::bytes::digest_of;
use diolkos_formats::files::{drain, failed, spool};
use diolkos_formats::inflate::Form;
use diolkos_formats::made::{About, Layer, MadeImage, Step};
use diolkos_sdk::model::media_type;
use diolkos_sdk::{Error, ErrorKind, Host, Platform, Result, ResultExt, Session};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::reference::STDIN;

/// What the history says of each layer.
const COMMENT: &str = "imported from tarball";

/// Makes an image of archives, the base first.
pub(crate) fn open(paths: &[String], session: &Session) -> Result<MadeImage> {
    let mut layers = Vec::new();
    let mut history = Vec::new();
    let mut created = Timestamp::default();
    for path in paths {
        let (file, changed) = open_archive(path, session)?;
        let layer = look(path, file, &session.host)?;
        created = created.max(changed);
        history.push(Step {
            created: changed.to_string(),
            created_by: format!("/bin/sh -c #(nop) ADD file:{} in /", layer.diff_id.hex()),
            comment: COMMENT.to_owned(),
            empty_layer: false,
        });
        layers.push(layer);
    }
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let choice = &session.platform;
    let architecture = given(&choice.architecture);
    let about = About {
        created: created.to_string(),
        architecture: architecture.unwrap_or_else(|| Platform::host_architecture().to_owned()),
        variant: choice.variant.clone().unwrap_or_default(),
        os: given(&choice.os).unwrap_or_else(|| Platform::host_os().to_owned()),
        command: Vec::new(),
        history,
    };
    MadeImage::new("tarball", false, &about, layers)
}

/// Opens an archive that can be read twice, and tells when it was changed.
fn open_archive(path: &str, session: &Session) -> Result<(File, Timestamp)> {
    let here = Path::new(path);
    let timestamp = |time: SystemTime| {
        Timestamp::try_from(time)
            .map_err(|error| Error::new(ErrorKind::Corrupt, format!("{path}: {error}")))
    };
    if path == STDIN {
        return Ok((spool(io::stdin(), here, session)?, timestamp(SystemTime::now())?));
    }
    let file = File::open(here)
        .map_err(|error| failed("open", here, error).context(format!("error opening {path:?}")))?;
    let found = file.metadata().map_err(|error| failed("stat", here, error))?;
    if found.is_dir() {
        return Err(Error::new(ErrorKind::InvalidInput, format!("{path} is a directory"))
            .with_hint("give an archive of it, as `tar -c -C DIRECTORY .` makes it"));
    }
    let changed = timestamp(found.modified().map_err(|error| failed("stat", here, error))?)?;
    if found.is_file() { Ok((file, changed)) } else { Ok((spool(file, here, session)?, changed)) }
}

/// Reads an archive whole.
fn look(path: &str, file: File, host: &Host) -> Result<Layer> {
    let reading = |error| failed("read", path.as_ref(), error);
    let mut from = &file;
    from.rewind().map_err(reading)?;
    let form = Form::of_reader(from).map_err(reading)?;
    from.rewind().map_err(reading)?;
    let mut raw = Hashed { from, hash: Sha256::new(), size: 0 };
    let diff_id = match form {
        None => None,
        Some(form) => {
            let mut inflated = form.inflate(&mut raw).map_err(reading)?;
            let mut hash = Sha256::new();
            drain(&mut inflated, host, damaged, |bytes| {
                hash.update(bytes);
                Ok(())
            })
            .map_err(|error| error.context(format!("{path}: it cannot be decompressed")))?;
            Some(digest_of(hash))
        }
    };
    // What follows the compressed bytes is part of the file.
    drain(&mut raw, host, damaged, |_| Ok(())).context(|| format!("cannot read {path}"))?;
    let digest = digest_of(raw.hash);
    let media_type = match form {
        None => media_type::OCI_LAYER,
        Some(Form::Zstd) => media_type::OCI_LAYER_ZSTD,
        // There are no types for the others: what is copied is looked at.
        Some(_) => media_type::OCI_LAYER_GZIP,
    };
    let diff_id = diff_id.unwrap_or_else(|| digest.clone());
    Ok(Layer { digest, size: raw.size, diff_id, media_type, file })
}

fn damaged(error: io::Error) -> Error {
    Error::new(ErrorKind::Corrupt, "damaged bytes").with_source(error)
}

/// Hashes what is read.
struct Hashed<'a> {
    from: &'a File,
    hash: Sha256,
    size: u64,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.size += count as u64;
        Ok(count)
    }
}
