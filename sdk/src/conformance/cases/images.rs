//! Whole images: written, read, overwritten, abandoned, deleted.

use crate::conformance::bench::{Bench, During, Failure, is_missing};
use crate::conformance::drive;
use crate::conformance::image::{Content, Family, Image, Index, Recipe, sha256, tar};
use crate::{ErrorKind, RawManifest};

type Outcome = Result<(), Failure>;

pub fn an_image_comes_back_byte_for_byte(bench: &Bench<'_>) -> Outcome {
    let image = bench.sample(1)?;
    bench.push(0, &image)?;
    bench.expect(0, &image)
}

pub fn a_docker_image_comes_back_byte_for_byte(bench: &Bench<'_>) -> Outcome {
    // A destination that has said no to the type beforehand has nothing to prove.
    let Some(image) = bench.sample_of(Family::Docker, 1)? else { return Ok(()) };
    match bench.try_push(0, &image)? {
        Ok(_) => bench.expect(0, &image),
        Err(error) if error.kind() == ErrorKind::ManifestRejected => bench.expect_missing(0),
        Err(error) => Err(error).during("writing a Docker image"),
    }
}

pub fn a_manifest_keeps_its_bytes_however_it_is_written(bench: &Bench<'_>) -> Outcome {
    let mut image = bench.sample(1)?;
    let text = String::from_utf8_lossy(&image.manifest.bytes).into_owned();
    let odd = text
        .replacen('{', "\n {  \"annotations\" :\t{\"b\":\"\\u00fc\",\"a\":\"<&>\"},", 1)
        .replace(",\"layers\"", "  ,\r\n\"layers\"")
        + "\n\n";
    image.manifest = RawManifest::new(odd.into_bytes(), image.manifest.media_type);
    bench.push(0, &image)?;
    bench.expect(0, &image)
}

pub fn an_index_comes_back_with_its_instances(bench: &Bench<'_>) -> Outcome {
    let index = Index::sample(bench.recipe()?, bench.seed(1));
    let reference = bench.reference(0)?;
    drive::push_index(&*reference, &bench.session(), &index).during("writing an index")?;
    if !bench.subject.capabilities().source {
        return Ok(());
    }
    let read = drive::pull(&*reference, &bench.session(), None).during("reading the index")?;
    ensure!(
        read.manifest.bytes == index.manifest.bytes,
        "the index differs: wrote {}, read {}",
        index.digest(),
        sha256(&read.manifest.bytes)
    );
    for image in &index.instances {
        let digest = image.digest();
        let read = drive::pull(&*reference, &bench.session(), Some(&digest))
            .during(&format!("reading instance {digest}"))?;
        bench.compare(&read, image)?;
    }
    Ok(())
}

pub fn an_image_is_found_under_the_name_its_commit_gave(bench: &Bench<'_>) -> Outcome {
    let image = bench.sample(1)?;
    let committed = bench.push(0, &image)?;
    let Some(details) = committed.details else { return Ok(()) };
    if !bench.subject.capabilities().source {
        return Ok(());
    }
    let reference = bench
        .subject
        .transport()
        .parse(&details)
        .during(&format!("parsing `{details}`, which the commit gave"))?;
    let pulled = drive::pull(&*reference, &bench.session(), None)
        .during(&format!("reading `{details}`, which the commit gave"))?;
    bench.compare(&pulled, &image)
}

pub fn the_current_digest_is_unknown_or_right(bench: &Bench<'_>) -> Outcome {
    let current = || {
        let destination =
            bench.reference(0)?.create(&bench.session()).during("opening a destination")?;
        destination.current().during("asking for the current digest")
    };
    let before = current()?;
    ensure!(before.is_none(), "there is no image yet, but its digest is {before:?}");
    let image = bench.sample(1)?;
    bench.push(0, &image)?;
    if !can_overwrite(bench, 0)? {
        return Ok(());
    }
    let after = current()?;
    let right = after.is_none() || after == Some(image.digest());
    ensure!(
        right || bench.subject.capabilities().rebuilds_manifests,
        "the image is {}, but the destination says {after:?}",
        image.digest()
    );
    Ok(())
}

/// Some storages refuse to open an image for writing that is there already.
fn can_overwrite(bench: &Bench<'_>, n: u32) -> Result<bool, Failure> {
    match bench.reference(n)?.create(&bench.session()) {
        Ok(_) => Ok(true),
        Err(error) if refuses(error.kind()) => Ok(false),
        Err(error) => Err(error).during("opening an image for overwriting"),
    }
}

fn refuses(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Conflict | ErrorKind::Unsupported | ErrorKind::InvalidInput)
}

pub fn overwriting_replaces_the_image_or_is_refused(bench: &Bench<'_>) -> Outcome {
    let (old, new) = (bench.sample(1)?, bench.sample(2)?);
    bench.push(0, &old)?;
    match bench.try_push(0, &new)? {
        Ok(_) => bench.expect(0, &new),
        Err(error) if refuses(error.kind()) => bench.expect(0, &old),
        Err(error) => Err(error).during("overwriting an image"),
    }
}

pub fn images_of_one_storage_do_not_disturb_each_other(bench: &Bench<'_>) -> Outcome {
    let recipe = bench.recipe()?;
    let mut images: Vec<Image> = (0..4).map(|n| sharing(bench, recipe, n)).collect();
    for (n, image) in (0..).zip(&images) {
        bench.push(n, image)?;
    }
    let other = sharing(bench, recipe, 9);
    if can_overwrite(bench, 1)? {
        bench.push(1, &other)?;
        images[1] = other;
    }
    if bench.subject.capabilities().delete {
        let last = 3;
        bench.reference(last)?.delete(&bench.session()).during("deleting image 3")?;
        images.truncate(3);
        bench.expect_missing(last)?;
    }
    for (n, image) in (0..).zip(&images) {
        bench.expect(n, image)?;
    }
    Ok(())
}

/// Images whose lowest layer is the same.
fn sharing(bench: &Bench<'_>, recipe: Recipe, n: u32) -> Image {
    let layer = |n: u32| {
        let name = format!("file-{}", bench.seed(n));
        Content::layer(recipe, &tar(&name, name.as_bytes()))
    };
    Image::of_layers(recipe.family, vec![layer(100), layer(n)])
}

pub fn without_commit_a_new_image_is_not_there(bench: &Bench<'_>) -> Outcome {
    let image = bench.sample(1)?;
    let reference = bench.reference(0)?;
    for staged in [false, true] {
        let destination = reference.create(&bench.session()).during("opening a destination")?;
        if staged {
            drive::stage(&*destination, &image, None).during("staging an image")?;
        }
        drop(destination);
        bench.expect_missing(0)?;
    }
    bench.push(0, &image)?;
    bench.expect(0, &image)
}

pub fn without_commit_an_old_image_stays_as_it_was(bench: &Bench<'_>) -> Outcome {
    let (old, new) = (bench.sample(1)?, bench.sample(2)?);
    bench.push(0, &old)?;
    let reference = bench.reference(0)?;
    match reference.create(&bench.session()) {
        Ok(destination) => {
            match drive::stage(&*destination, &new, None) {
                Err(error) if !refuses(error.kind()) => return Err(error).during("staging"),
                _ => {}
            }
            bench.expect(0, &old)?;
            drop(destination);
        }
        Err(error) if refuses(error.kind()) => {}
        Err(error) => return Err(error).during("opening an image for overwriting"),
    }
    bench.expect(0, &old)
}

pub fn nothing_is_left_in_the_temporary_directory(bench: &Bench<'_>) -> Outcome {
    let image = bench.sample(1)?;
    let reference = bench.reference(0)?;
    let destination = reference.create(&bench.session()).during("opening a destination")?;
    drive::stage(&*destination, &image, None).during("staging an image")?;
    drop(destination);
    bench.push(0, &image)?;
    bench.expect(0, &image)?;
    drop(reference);
    let left: Vec<_> = std::fs::read_dir(bench.temp_dir())
        .during("listing the temporary directory")?
        .filter_map(|entry| entry.ok().map(|entry| entry.file_name()))
        .collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

pub fn a_deleted_image_is_gone_and_others_stay(bench: &Bench<'_>) -> Outcome {
    let (gone, other) = (bench.sample(1)?, bench.sample(2)?);
    bench.push(0, &gone)?;
    bench.push(1, &other)?;
    bench.reference(0)?.delete(&bench.session()).during("deleting an image")?;
    bench.expect_missing(0)?;
    bench.expect(1, &other)?;
    bench.push(0, &gone)?;
    bench.expect(0, &gone)
}

pub fn deleting_a_missing_image_is_reported_as_such(bench: &Bench<'_>) -> Outcome {
    match bench.reference(0)?.delete(&bench.session()) {
        Err(error) if is_missing(&error) => Ok(()),
        Err(error) => {
            Err(Failure::new(format!("should be of kind ImageNotFound or NotFound: {error:?}")))
        }
        Ok(()) => Err(Failure::new("deleting an image that is not there succeeded")),
    }
}

pub fn tags_are_listed(bench: &Bench<'_>) -> Outcome {
    for n in 0..2 {
        bench.push(n, &bench.sample(n)?)?;
    }
    for n in 0..2 {
        let reference = bench.reference(n)?;
        let tags = reference.tags(&bench.session()).during("listing tags")?.tags;
        let name = reference.names().docker_reference.unwrap_or_default();
        if let Ok(name) = name.parse::<crate::Reference>()
            && let Some(tag) = name.tag()
        {
            // A storage of several repositories lists whole references.
            let listed = |text: &String| text == tag || *text == name.to_string();
            ensure!(tags.iter().any(listed), "`{tag}` is not among the tags {tags:?}");
        }
    }
    Ok(())
}
