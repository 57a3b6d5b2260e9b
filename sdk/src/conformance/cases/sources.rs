//! Reading: what is there, what is not, in pieces and from several threads.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::conformance::bench::{Bench, During, Failure};
use crate::conformance::drive;
use crate::conformance::image::{sha256, sha512};
use crate::{Algorithm, Descriptor, ErrorKind, Source};

type Outcome = Result<(), Failure>;

/// An open source on an image, and what to read of it.
fn opened(bench: &Bench<'_>) -> Result<(Box<dyn Source>, Vec<Descriptor>), Failure> {
    bench.provide(0)?;
    let source = bench.open(0)?;
    let manifest = source.manifest(None).during("reading the manifest")?;
    let blobs = drive::blobs_of(&*source, &manifest, None).during("listing the blobs")?;
    Ok((source, blobs))
}

fn size(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("a length fits u64")
}

pub fn a_missing_image_is_reported_as_such(bench: &Bench<'_>) -> Outcome {
    bench.expect_missing(0)
}

pub fn a_missing_blob_is_reported_as_such(bench: &Bench<'_>) -> Outcome {
    let (source, _) = opened(bench)?;
    let missing = Descriptor::new("application/octet-stream", sha256(b"nowhere"), 7);
    match drive::read_blob(&*source, &missing) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::new(format!("should be of kind NotFound: {error:?}"))),
        Ok(bytes) => Err(Failure::new(format!("got {} bytes of a missing blob", bytes.len()))),
    }
}

pub fn an_unknown_instance_is_reported_as_such(bench: &Bench<'_>) -> Outcome {
    let (source, _) = opened(bench)?;
    match source.manifest(Some(&sha256(b"nowhere"))) {
        // A storage that keeps no instances may say that instead.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::ImageNotFound | ErrorKind::NotFound | ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(Failure::new(format!("should be of kind ImageNotFound: {error:?}"))),
        Ok(_) => Err(Failure::new("an instance that is not there has a manifest")),
    }
}

pub fn what_is_read_has_the_digest_and_size_it_is_listed_with(bench: &Bench<'_>) -> Outcome {
    let (source, blobs) = opened(bench)?;
    for blob in &blobs {
        let declared = source.blob(blob, 0).during("opening a blob")?.size;
        let bytes = drive::read_blob(&*source, blob).during("reading a blob")?;
        for said in [declared, blob.size].into_iter().flatten() {
            ensure!(said == size(&bytes), "{} has {} bytes, not {said}", blob.digest, bytes.len());
        }
        let digest = match blob.digest.algorithm() {
            Algorithm::Sha256 => sha256(&bytes),
            Algorithm::Sha512 => sha512(&bytes),
        };
        ensure!(digest == blob.digest, "{} has the bytes of {digest}", blob.digest);
    }
    Ok(())
}

pub fn buffers_of_any_size_read_the_same_bytes(bench: &Bench<'_>) -> Outcome {
    let (source, blobs) = opened(bench)?;
    for blob in &blobs {
        let whole = drive::read_blob(&*source, blob).during("reading a blob")?;
        for buffer in [997, 65_536, 3_000_000] {
            let bytes = drive::read_from(&*source, blob, 0, buffer)
                .during(&format!("reading a blob by {buffer} bytes"))?;
            ensure!(bytes == whole, "{} differs when read by {buffer} bytes", blob.digest);
        }
        let mut open = source.blob(blob, 0).during("opening a blob")?;
        let mut buffer = vec![0; drive::CHUNK];
        while open.reader.read(&mut buffer).during("reading a blob")? > 0 {}
        let after = open.reader.read(&mut buffer).during("reading after the end")?;
        ensure!(after == 0, "{} has {after} bytes after its end", blob.digest);
    }
    Ok(())
}

pub fn reading_resumes_at_any_offset_or_says_it_cannot(bench: &Bench<'_>) -> Outcome {
    let (source, blobs) = opened(bench)?;
    for blob in &blobs {
        let whole = drive::read_blob(&*source, blob).during("reading a blob")?;
        for from in [1, whole.len() / 2, whole.len().saturating_sub(1), whole.len()] {
            let at = u64::try_from(from).expect("a length fits u64");
            let what = format!("{} from byte {from} of {}", blob.digest, whole.len());
            match drive::read_from(&*source, blob, at, drive::CHUNK) {
                Ok(rest) => {
                    ensure!(rest == whole[from..], "{what} is not the rest of it");
                    let said = source.blob(blob, at).during(&what)?.size;
                    ensure!(
                        said.is_none() || said == Some(size(&whole)),
                        "{what}: the whole blob is said to have {said:?} bytes"
                    );
                }
                Err(error) if error.kind() == ErrorKind::Unsupported => {}
                // There is no byte at the end to begin with, and some protocols say so.
                Err(error) if from == whole.len() && error.kind() == ErrorKind::InvalidInput => {}
                Err(error) => return Err(error).during(&format!("reading {what}")),
            }
        }
        if let Ok(bytes) = drive::read_from(&*source, blob, size(&whole) + 10, drive::CHUNK) {
            ensure!(bytes.is_empty(), "{} bytes were read from behind the end", bytes.len());
        }
    }
    Ok(())
}

pub fn an_extent_holds_what_reading_gives(bench: &Bench<'_>) -> Outcome {
    let (source, blobs) = opened(bench)?;
    for blob in &blobs {
        let whole = drive::read_blob(&*source, blob).during("reading a blob")?;
        for from in [0, whole.len() / 3] {
            let at = u64::try_from(from).expect("a length fits u64");
            let mut open = match source.blob(blob, at) {
                Ok(open) => open,
                Err(error) if from > 0 && error.kind() == ErrorKind::Unsupported => continue,
                Err(error) => return Err(error).during("opening a blob"),
            };
            let Some(extent) = open.reader.extent() else { continue };
            let length = usize::try_from(extent.length)
                .map_err(|_| Failure::new("the extent is longer than memory"))?;
            ensure!(
                length == whole.len() - from,
                "the extent has {length} bytes, the rest of the blob {}",
                whole.len() - from
            );
            let file = extent.file.try_clone_to_owned().during("duplicating the file")?;
            let mut bytes = vec![0; length];
            File::from(file)
                .read_exact_at(&mut bytes, extent.offset)
                .during("reading the extent")?;
            ensure!(bytes == whole[from..], "the extent of {} holds other bytes", blob.digest);
            // A host that cannot use the extent after all reads as usual.
            let mut first = vec![0; drive::CHUNK];
            let count = open.reader.read(&mut first).during("reading after all")?;
            ensure!(
                whole[from..].starts_with(&first[..count]),
                "after asking for the extent, {} reads otherwise",
                blob.digest
            );
        }
    }
    Ok(())
}

pub fn an_image_can_be_read_twice_and_from_several_threads(bench: &Bench<'_>) -> Outcome {
    let (source, blobs) = opened(bench)?;
    let manifest = source.manifest(None).during("reading the manifest")?;
    let read_all = || {
        blobs
            .iter()
            .map(|blob| drive::read_blob(&*source, blob).during("reading a blob"))
            .collect::<Result<Vec<_>, Failure>>()
    };
    let first = read_all()?;
    let rounds = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let again = source.manifest(None).during("reading the manifest again")?;
                    ensure!(again == manifest, "the manifest differs the second time");
                    read_all()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread.join().unwrap_or_else(|_| Err(Failure::new("panicked while reading")))
            })
            .collect::<Result<Vec<_>, Failure>>()
    })?;
    for round in rounds {
        ensure!(round == first, "blobs differ when read from several threads");
    }
    Ok(())
}
