//! Single blobs: how they are written, dropped, put twice, found again.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::conformance::bench::{Bench, During, Failure};
use crate::conformance::drive;
use crate::conformance::image::{Content, Image, noise, sha256, sha512, tar};
use crate::{
    BlobCandidate, BlobIncoming, BlobWanted, BlobWriter, Descriptor, Destination, ErrorKind,
    unpacked_layers,
};

type Outcome = Result<(), Failure>;

/// A layer of about this many bytes, in the form that the destination takes.
fn layer(bench: &Bench<'_>, n: u32, length: usize) -> Result<Content, Failure> {
    let (recipe, seed) = (bench.recipe()?, bench.seed(n));
    Ok(Content::layer(recipe, &tar(&format!("file-{seed}"), &noise(seed.into(), length))))
}

fn image_of(bench: &Bench<'_>, layers: Vec<Content>) -> Result<Image, Failure> {
    Ok(Image::of_layers(bench.recipe()?.family, layers))
}

fn create(bench: &Bench<'_>, n: u32) -> Result<Box<dyn Destination>, Failure> {
    bench.reference(n)?.create(&bench.session()).during("opening a destination")
}

fn begin(
    destination: &dyn Destination,
    incoming: &BlobIncoming,
) -> Result<Box<dyn BlobWriter>, Failure> {
    destination
        .put_blob(incoming)
        .during("beginning a blob")?
        .ok_or_else(|| Failure::new("a blob that was never written is said to be there already"))
}

/// Writes what is left of an image whose layers are there, commits it and reads it back.
fn complete(
    bench: &Bench<'_>,
    destination: Box<dyn Destination>,
    image: &Image,
) -> Result<(), Failure> {
    drive::put(&*destination, &image.config).during("writing the config")?;
    destination.put_manifest(&image.manifest, None).during("writing the manifest")?;
    destination.put_signatures(&[], None).during("writing no signatures")?;
    destination.commit(&image.top()).during("committing")?;
    bench.expect(0, image)
}

pub fn size_and_digest_may_be_unknown_beforehand(bench: &Bench<'_>) -> Outcome {
    let image = bench.sample(1)?;
    let destination = create(bench, 0)?;
    let needs_size = destination.accepts().needs_size;
    for content in &image.layers {
        let mut incoming = BlobIncoming { digest: None, ..content.incoming() };
        if !needs_size {
            incoming.size = None;
        }
        let bytes = content.written(&*destination);
        let mut writer = begin(&*destination, &incoming)?;
        writer.write(bytes).during("writing a blob")?;
        writer.finish(&content.sums()).during("finishing a blob")?;
    }
    complete(bench, destination, &image)
}

pub fn a_blob_larger_than_many_buffers_comes_back(bench: &Bench<'_>) -> Outcome {
    let image = image_of(bench, vec![layer(bench, 1, 5 * 1024 * 1024 + 17)?])?;
    bench.push(0, &image)?;
    bench.expect(0, &image)
}

pub fn chunks_of_any_size_make_the_same_blob(bench: &Bench<'_>) -> Outcome {
    let image = image_of(bench, vec![layer(bench, 1, 700_000)?])?;
    let destination = create(bench, 0)?;
    for content in &image.layers {
        let mut rest = content.written(&*destination);
        let mut writer = begin(&*destination, &content.incoming())?;
        for size in [1, 0, 7, 511, 4096, 100_000, 262_144].into_iter().cycle() {
            let (chunk, after) = rest.split_at(size.min(rest.len()));
            writer.write(chunk).during(&format!("writing {size} bytes"))?;
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        writer.finish(&content.sums()).during("finishing a blob")?;
    }
    complete(bench, destination, &image)
}

pub fn an_empty_blob_is_a_blob(bench: &Bench<'_>) -> Outcome {
    let empty = Content::of_type("application/vnd.diolkos.test", Vec::new());
    let image = image_of(bench, vec![layer(bench, 1, 10)?, empty])?;
    bench.push(0, &image)?;
    bench.expect(0, &image)
}

pub fn a_sha512_blob_comes_back_or_is_refused(bench: &Bench<'_>) -> Outcome {
    let mut content = layer(bench, 1, 1000)?;
    content.descriptor.digest = sha512(&content.bytes);
    let image = image_of(bench, vec![content])?;
    match bench.try_push(0, &image)? {
        Ok(_) => bench.expect(0, &image),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::Unsupported | ErrorKind::InvalidInput | ErrorKind::ManifestRejected
            ) =>
        {
            bench.expect_missing(0)
        }
        Err(error) => Err(error).during("writing a blob with a sha512 digest"),
    }
}

pub fn a_blob_written_directly_into_its_file_comes_back(bench: &Bench<'_>) -> Outcome {
    let image = bench.sample(1)?;
    let destination = create(bench, 0)?;
    for content in &image.layers {
        let bytes = content.written(&*destination);
        let mut writer = begin(&*destination, &content.incoming())?;
        let direct = match writer.file() {
            Some(target) => {
                let file = target.file.try_clone_to_owned().during("duplicating the file")?;
                File::from(file)
                    .write_all_at(bytes, target.offset)
                    .during("writing directly into the blob's file")?;
                true
            }
            None => false,
        };
        if !direct {
            writer.write(bytes).during("writing a blob")?;
        }
        writer.finish(&content.sums()).during("finishing a blob")?;
    }
    complete(bench, destination, &image)
}

pub fn a_dropped_writer_leaves_no_blob(bench: &Bench<'_>) -> Outcome {
    let image = bench.sample(1)?;
    let other = bench.sample(2)?;
    let destination = create(bench, 0)?;
    let lost = &other.layers[2];
    let bytes = lost.written(&*destination);
    for part in [0, bytes.len() / 2, bytes.len()] {
        let mut writer = begin(&*destination, &lost.incoming())?;
        writer.write(&bytes[..part]).during("writing a blob")?;
        drop(writer);
        let found = destination.reuse(&wanted(lost)).during("asking for a blob")?;
        ensure!(found.is_none(), "{part} bytes were written, none finished: {found:?} is there");
    }
    drive::stage(&*destination, &image, None).during("staging an image")?;
    destination.put_signatures(&[], None).during("writing no signatures")?;
    destination.commit(&image.top()).during("committing")?;
    bench.expect(0, &image)?;
    if bench.subject.capabilities().source {
        let found = drive::read_blob(&*bench.open(0)?, &lost.descriptor);
        ensure!(found.is_err(), "a blob that was never finished can be read");
    }
    Ok(())
}

pub fn a_blob_can_be_put_again_after_a_broken_write(bench: &Bench<'_>) -> Outcome {
    let image = bench.sample(1)?;
    let destination = create(bench, 0)?;
    for content in &image.layers {
        let bytes = content.written(&*destination);
        for part in [1, bytes.len() / 2] {
            let mut writer = begin(&*destination, &content.incoming())?;
            writer.write(&bytes[..part]).during("writing part of a blob")?;
        }
        drive::put(&*destination, content).during("writing a blob again")?;
    }
    complete(bench, destination, &image)
}

pub fn a_blob_may_be_put_twice(bench: &Bench<'_>) -> Outcome {
    let same = layer(bench, 1, 40_000)?;
    let image = image_of(bench, vec![same.clone(), layer(bench, 2, 10)?, same])?;
    bench.push(0, &image)?;
    bench.expect(0, &image)
}

pub fn blobs_may_be_written_in_parallel(bench: &Bench<'_>) -> Outcome {
    if !bench.accepts()?.parallel_blobs {
        return Ok(());
    }
    let layers: Result<Vec<_>, _> = (0..8).map(|n| layer(bench, n, 200_000)).collect();
    let mut layers = layers?;
    // The same blob twice at the same time, as two instances of an index may have it.
    layers.push(layers[0].clone());
    let image = image_of(bench, layers)?;
    let destination = create(bench, 0)?;
    std::thread::scope(|scope| {
        let writers: Vec<_> = image
            .layers
            .iter()
            .map(|content| scope.spawn(|| put_slowly(&*destination, content)))
            .collect();
        writers.into_iter().try_for_each(|writer| {
            writer.join().unwrap_or_else(|_| Err(Failure::new("panicked while writing a blob")))
        })
    })?;
    complete(bench, destination, &image)
}

/// Writes in small pieces, so that the writers of one destination take turns.
fn put_slowly(destination: &dyn Destination, content: &Content) -> Outcome {
    let what = format!("writing {:?} beside others", content.role);
    let bytes = content.written(destination);
    let Some(mut writer) = destination.put_blob(&content.incoming()).during(&what)? else {
        return Ok(());
    };
    for chunk in bytes.chunks(20_000) {
        writer.write(chunk).during(&what)?;
        std::thread::yield_now();
    }
    writer.finish(&content.sums()).during(&what)
}

fn wanted(content: &Content) -> BlobWanted {
    BlobWanted {
        blob: content.descriptor.clone(),
        role: content.role,
        candidates: Vec::new(),
        probably_new: false,
    }
}

pub fn a_missing_blob_is_not_reused(bench: &Bench<'_>) -> Outcome {
    let destination = create(bench, 0)?;
    let content = layer(bench, 77, 123)?;
    for probably_new in [false, true] {
        let wanted = BlobWanted { probably_new, ..wanted(&content) };
        let found = destination.reuse(&wanted).during("asking for a missing blob")?;
        ensure!(found.is_none(), "a blob that was never written is said to be there: {found:?}");
    }
    Ok(())
}

pub fn a_reused_blob_need_not_be_written(bench: &Bench<'_>) -> Outcome {
    let image = bench.sample(1)?;
    bench.push(0, &image)?;
    let destination = create(bench, 1)?;
    for content in image.contents() {
        match destination.reuse(&wanted(content)).during("asking for a blob")? {
            Some(found) => ensure!(
                found.digest == content.descriptor.digest
                    && (found.size.is_none() || found.size == content.descriptor.size),
                "asked for {:?}, and got {found:?}",
                content.descriptor
            ),
            None => drive::put(&*destination, content).during("writing a blob")?,
        }
    }
    destination.put_manifest(&image.manifest, None).during("writing the manifest")?;
    destination.put_signatures(&[], None).during("writing no signatures")?;
    destination.commit(&image.top()).during("committing")?;
    bench.expect(1, &image)?;
    bench.expect(0, &image)
}

pub fn a_wrong_size_is_not_believed_when_reusing(bench: &Bench<'_>) -> Outcome {
    let image = bench.sample(1)?;
    bench.push(0, &image)?;
    let destination = create(bench, 1)?;
    for content in &image.layers {
        let mut wanted = wanted(content);
        wanted.blob.size = wanted.blob.size.map(|size| size + 1);
        if let Ok(Some(found)) = destination.reuse(&wanted) {
            ensure!(
                found.size.is_none() || found.size == content.descriptor.size,
                "{} has {:?} bytes, not the {:?} that were asked for and confirmed",
                found.digest,
                content.descriptor.size,
                found.size
            );
        }
    }
    Ok(())
}

pub fn only_a_wanted_blob_or_a_candidate_is_reused(bench: &Bench<'_>) -> Outcome {
    let image = bench.sample(1)?;
    bench.push(0, &image)?;
    let destination = create(bench, 1)?;
    let location = bench.reference(0)?.names().location;
    let there = &image.layers[1].descriptor;
    let nowhere = Descriptor::new(there.media_type.clone(), sha256(b"nowhere"), 7);
    let missing = layer(bench, 88, 99)?;
    let candidate =
        |blob: &Descriptor| BlobCandidate { blob: blob.clone(), location: location.clone() };
    let mut wanted = wanted(&missing);
    wanted.candidates = vec![candidate(&nowhere)];
    let found = destination.reuse(&wanted).during("asking for blobs that are not there")?;
    ensure!(found.is_none(), "none of the blobs is there, but {found:?} is given");
    wanted.candidates.push(candidate(there));
    if let Some(found) = destination.reuse(&wanted).during("asking for a candidate")? {
        // Where layers are kept unpacked, equal content is the wanted layer.
        let is_same =
            unpacked_layers::is_wanted(&*destination) && found.digest == missing.descriptor.digest;
        ensure!(
            is_same || found.digest == there.digest,
            "only {} is there, not {found:?}",
            there.digest
        );
    }
    Ok(())
}
