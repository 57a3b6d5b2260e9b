//! Signatures beside the image they belong to.

use crate::conformance::bench::{Bench, During, Failure};
use crate::conformance::drive;
use crate::conformance::image::Index;
use crate::{Digest, ErrorKind, Signature, SignatureFormat};

type Outcome = Result<(), Failure>;

/// What the engine never looks into: bytes that begin as an OpenPGP packet does.
fn simple(text: &str) -> Signature {
    let mut bytes = vec![0x89, 0, 0xff, b'\n'];
    bytes.extend_from_slice(text.as_bytes());
    Signature { format: SignatureFormat::SimpleSigning, bytes }
}

fn sigstore(text: &str) -> Signature {
    let json = format!(
        r#"{{"mimeType":"application/vnd.dev.cosign.simplesigning.v1+json","payload":"e30=","annotations":{{"dev.cosignproject.cosign/signature":"{text}"}}}}"#
    );
    Signature { format: SignatureFormat::SigstoreJson, bytes: json.into_bytes() }
}

pub fn signatures_come_back_or_are_refused(bench: &Bench<'_>) -> Outcome {
    let sets = [
        vec![],
        vec![simple("one")],
        vec![simple("one"), simple("two"), simple("three")],
        vec![sigstore("b25l")],
        vec![simple("one"), sigstore("dHdv"), simple("three")],
    ];
    let kept = bench.accepts()?.signatures.is_ok();
    for (n, signatures) in (0..).zip(&sets) {
        let image = bench.sample(n)?;
        let reference = bench.reference(n)?;
        let pushed = drive::push(&*reference, &bench.session(), &image, signatures);
        let foreign = signatures.iter().any(|s| s.format != SignatureFormat::SimpleSigning);
        match pushed {
            Ok(_) if kept || signatures.is_empty() => {}
            Ok(_) => {
                return Err(Failure::new(
                    "the destination says it keeps no signatures, but takes them",
                ));
            }
            Err(error)
                if !signatures.is_empty()
                    && (!kept || foreign)
                    && error.kind() == ErrorKind::Unsupported =>
            {
                bench.expect_missing(n)?;
                continue;
            }
            Err(error) => {
                return Err(error).during(&format!("writing {} signatures", signatures.len()));
            }
        }
        if bench.subject.capabilities().source {
            let read = bench.try_pull(n)?.during("reading a signed image")?;
            bench.compare(&read, &image)?;
            ensure!(
                read.signatures == *signatures,
                "wrote {signatures:?}, but read {:?}",
                read.signatures
            );
        }
    }
    Ok(())
}

pub fn signatures_go_with_the_image_they_were_made_for(bench: &Bench<'_>) -> Outcome {
    if bench.accepts()?.signatures.is_err() || !bench.subject.capabilities().source {
        return Ok(());
    }
    let reference = bench.reference(0)?;
    let signed = [simple("one"), simple("two")];
    drive::push(&*reference, &bench.session(), &bench.sample(1)?, &signed)
        .during("writing a signed image")?;
    let image = bench.sample(2)?;
    match drive::push(&*reference, &bench.session(), &image, &[simple("new")]) {
        Ok(_) => {
            let read = bench.try_pull(0)?.during("reading the new image")?;
            ensure!(
                read.signatures == [simple("new")],
                "the image was replaced, and its signatures are now {:?}",
                read.signatures
            );
        }
        Err(error) if error.kind() == ErrorKind::Conflict => return Ok(()),
        Err(error) => return Err(error).during("replacing a signed image"),
    }
    let image = bench.sample(3)?;
    drive::push(&*reference, &bench.session(), &image, &[])
        .during("replacing a signed image by one without signatures")?;
    let read = bench.try_pull(0)?.during("reading the unsigned image")?;
    ensure!(read.signatures.is_empty(), "an unsigned image has {:?}", read.signatures);
    Ok(())
}

pub fn signatures_of_instances_stay_apart(bench: &Bench<'_>) -> Outcome {
    if bench.accepts()?.signatures.is_err() {
        return Ok(());
    }
    let index = Index::sample(bench.recipe()?, bench.seed(1));
    let reference = bench.reference(0)?;
    let destination = reference.create(&bench.session()).during("opening a destination")?;
    for (n, image) in index.instances.iter().enumerate() {
        let digest = image.digest();
        drive::stage(&*destination, image, Some(&digest)).during("staging an instance")?;
        destination
            .put_signatures(&[simple(&format!("instance {n}"))], Some(&digest))
            .during("writing an instance's signature")?;
    }
    destination.put_manifest(&index.manifest, None).during("writing the index")?;
    destination.put_signatures(&[simple("index")], None).during("writing the index's signature")?;
    destination.commit(&index.top()).during("committing")?;
    if !bench.subject.capabilities().source {
        return Ok(());
    }
    let source = bench.open(0)?;
    let read = |instance: Option<&Digest>| source.signatures(instance).during("reading signatures");
    ensure!(read(None)? == [simple("index")], "the index has other signatures");
    for (n, image) in index.instances.iter().enumerate() {
        let found = read(Some(&image.digest()))?;
        ensure!(found == [simple(&format!("instance {n}"))], "instance {n} has {found:?}");
    }
    Ok(())
}
