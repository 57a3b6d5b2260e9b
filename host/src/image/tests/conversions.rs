use diolkos_sdk::ErrorKind;
use diolkos_sdk::model::media_type::{
    DOCKER_V2S1, DOCKER_V2S1_SIGNED, OCI_FOREIGN_LAYER_GZIP, OCI_INDEX, OCI_LAYER_ZSTD,
};

use super::*;
use crate::compress::Compression;

fn converted(raw: &RawManifest, to: &str) -> Converted {
    let image = image(raw);
    image.can_convert_to(to).unwrap();
    image.convert(to, Some(CONFIG.as_bytes()), &unchanged(&image), None).unwrap()
}

#[test]
fn docker_to_oci_and_back_and_again_is_the_same() {
    let first = converted(&docker(), OCI_MANIFEST);
    let (config, bytes) = first.config.clone().unwrap();
    assert_eq!(config.media_type, OCI_CONFIG);
    assert_eq!(config.digest, sha256(&bytes));
    let oci = image(&first.manifest);
    let back = oci.convert(DOCKER_V2S2, Some(&bytes), &unchanged(&oci), None).unwrap();
    assert_eq!(back.config.clone().unwrap().0.media_type, DOCKER_CONFIG);
    assert_eq!(back.config.clone().unwrap().1, bytes, "the config's bytes stay");
    let docker = image(&back.manifest);
    let again = docker.convert(OCI_MANIFEST, Some(&bytes), &unchanged(&docker), None).unwrap();
    assert_eq!(again, first);
}

#[test]
fn layers_change_in_the_words_of_the_new_type() {
    let image = image(&docker());
    let mut layers = unchanged(&image);
    layers[0].digest = digest('a');
    layers[0].compression = Some(Compression::Zstd);
    let converted =
        image.convert(OCI_MANIFEST, Some(CONFIG.as_bytes()), &layers, None).unwrap().manifest;
    assert!(text(&converted).contains(OCI_LAYER_ZSTD));
    let error = image.convert(DOCKER_V2S1, Some(CONFIG.as_bytes()), &layers, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ManifestRejected);
}

#[test]
fn zstd_leaves_oci_only_recompressed() {
    let bytes = text(&oci()).replacen(OCI_LAYER_GZIP, OCI_LAYER_ZSTD, 1).into_bytes();
    let image = image(&RawManifest::new(bytes, OCI_MANIFEST));
    image.can_convert_to(DOCKER_V2S2).unwrap();
    let mut layers = unchanged(&image);
    let error = image.convert(DOCKER_V2S2, Some(b"{}"), &layers, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("not officially supported for docker images"));

    layers[0].digest = digest('a');
    layers[0].compression = Some(Compression::Gzip);
    let converted = image.convert(DOCKER_V2S2, Some(b"{}"), &layers, None).unwrap().manifest;
    let first = format!(
        r#""layers":[{{"mediaType":"{DOCKER_LAYER_GZIP}","size":10,"digest":"{}"}}"#,
        digest('a')
    );
    assert!(text(&converted).contains(&first), "{}", text(&converted));
}

#[test]
fn foreign_layers_stay_foreign_where_they_were_not_copied() {
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let bytes = text(&docker())
        .replacen(DOCKER_LAYER_GZIP, foreign, 1)
        .replacen("\"}]", "\",\"urls\":[\"https://y\"]}]", 1)
        .into_bytes();
    let image = image(&RawManifest::new(bytes, DOCKER_V2S2));
    let mut layers = unchanged(&image);
    layers[0].urls_kept = true;
    let to_oci = |layers: &[LayerWritten]| {
        let converted = image.convert(OCI_MANIFEST, Some(CONFIG.as_bytes()), layers, None);
        text(&converted.unwrap().manifest).to_owned()
    };
    let same = to_oci(&layers);
    assert!(same.contains(OCI_FOREIGN_LAYER_GZIP) && same.contains(r#""urls":["https://y"]"#));
    layers[0].digest = digest('a');
    assert!(!to_oci(&layers).contains("urls"), "the second layer was copied");
    layers[1].urls_kept = true;
    assert!(to_oci(&layers).contains(r#""urls":["https://y"]"#));
}

#[test]
fn schema_1_is_written_with_a_layer_for_each_step_of_the_history() {
    let name = "registry.example:5000/a/b:tag".parse().unwrap();
    let image = image(&docker());
    let converted = image
        .convert(DOCKER_V2S1, Some(CONFIG.as_bytes()), &unchanged(&image), Some(&name))
        .unwrap();
    assert!(converted.config.is_none());
    let [(empty, bytes)] = converted.blobs.as_slice() else { panic!("one empty layer") };
    assert_eq!(empty.digest, sha256(bytes));
    assert_eq!(
        empty.digest.hex(),
        "a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"
    );
    assert_eq!(converted.manifest.media_type, DOCKER_V2S1_SIGNED);
    assert!(text(&converted.manifest).starts_with(
        r#"{"name":"a/b","tag":"tag","architecture":"amd64","fsLayers":[{"blobSum":"#
    ));

    let schema1 = super::image(&converted.manifest);
    let told: Vec<_> =
        schema1.layers().iter().map(|layer| (layer.blob.digest.clone(), layer.empty)).collect();
    let [one, two] = [0, 1].map(|at| sha256(&layers()[at]));
    assert_eq!(told, [(one, false), (empty.digest.clone(), true), (two, false)]);
    assert!(!schema1.embedded_name_differs(&name));
    let other = "x/y".parse().unwrap();
    assert!(schema1.embedded_name_differs(&other));
    let renamed = schema1.with_layers(&unchanged(&schema1), Some(&other)).unwrap();
    assert!(text(&renamed).starts_with(r#"{"name":"x/y","tag":"","#));
    assert_eq!(
        schema1.with_layers(&unchanged(&schema1), Some(&name)).unwrap(),
        converted.manifest,
        "the bytes stay, signature and all"
    );
}

#[test]
fn schema_1_becomes_schema_2_without_its_empty_layers() {
    let schema1 = image(&converted(&docker(), DOCKER_V2S1).manifest);
    assert!(schema1.needs_diff_ids(OCI_MANIFEST) && !schema1.needs_diff_ids(DOCKER_V2S1));
    let mut layers = unchanged(&schema1);
    let error = schema1.convert(DOCKER_V2S2, None, &layers, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal, "a diff ID is missing");
    layers[0].diff_id = Some(digest('1'));
    layers[2].diff_id = Some(digest('2'));
    let converted = schema1.convert(DOCKER_V2S2, None, &layers, None).unwrap();
    let schema2 = image(&converted.manifest);
    assert_eq!(schema2.layers().len(), 2);
    assert_eq!(schema2.layers()[0].blob.digest, sha256(&super::layers()[0]));
    let config = String::from_utf8(converted.config.unwrap().1).unwrap();
    assert!(config.contains(&format!(
        r#""rootfs":{{"type":"layers","diff_ids":["{}","{}"]}}"#,
        digest('1'),
        digest('2')
    )));
    assert!(config.contains(r#""container":"c""#), "unknown fields stay: {config}");
    assert!(!config.contains("\"id\":") && !config.contains("throwaway"));
}

#[test]
fn what_cannot_be_converted_says_why() {
    let image = image(&docker());
    let layers = unchanged(&image);
    let error =
        |to: &str, config: Option<&[u8]>| image.convert(to, config, &layers, None).unwrap_err();
    assert_eq!(
        error(OCI_INDEX, None).message(),
        "Unsupported conversion type: application/vnd.oci.image.index.v1+json"
    );
    assert_eq!(error("x", None).kind(), ErrorKind::Unsupported);
    assert_eq!(error(OCI_MANIFEST, None).kind(), ErrorKind::Corrupt);
    assert_eq!(error(OCI_MANIFEST, Some(b"[]")).kind(), ErrorKind::Corrupt);
    assert_eq!(
        error(DOCKER_V2S1, Some(b"{}")).message(),
        format!("Cannot convert an image with 0 history entries to {DOCKER_V2S1_SIGNED}")
    );
    assert_eq!(
        error(DOCKER_V2S1, Some(br#"{"history":[{},{},{}]}"#)).message(),
        "Invalid image configuration, needs more than the 2 distributed layers"
    );
}

#[test]
fn a_schema_1_chain_that_does_not_hold_together_is_refused() {
    let id = |c: char| c.to_string().repeat(64);
    let document = |entries: &[(char, &str)]| {
        let blobs = vec![format!(r#"{{"blobSum":"{}"}}"#, digest('b')); entries.len()];
        let history: Vec<_> = entries
            .iter()
            .map(|(own, parent)| {
                let v1 = format!(r#"{{"id":"{}","parent":"{parent}"}}"#, id(*own));
                format!(r#"{{"v1Compatibility":{v1:?}}}"#)
            })
            .collect();
        let text = format!(
            r#"{{"schemaVersion":1,"fsLayers":[{}],"history":[{}]}}"#,
            blobs.join(","),
            history.join(",")
        );
        Manifest::parse(&RawManifest::new(text.into_bytes(), ""))
    };
    let layers = |entries: &[(char, &str)]| match document(entries).unwrap() {
        Manifest::Image(image) => image.layers().len(),
        Manifest::Index(_) => panic!("an image"),
    };
    assert_eq!(layers(&[('2', &id('1')), ('1', "")]), 2);
    assert_eq!(layers(&[('2', &id('1')), ('2', &id('1')), ('1', "")]), 2, "repeated entries go");
    for (entries, expected) in [
        (&[][..], "no FSLayers in manifest".to_owned()),
        (&[('x', "")], format!("image ID {:?} is invalid", id('x'))),
        (&[('1', "2")], "Invalid parent ID in the base layer of the image".into()),
        (
            &[('2', "nobody"), ('1', "")],
            format!("Invalid parent ID. Expected {}, got \"nobody\"", id('1')),
        ),
        (
            &[('1', &id('2')), ('2', &id('1')), ('1', "")],
            format!("ID {} appears multiple times in manifest", id('1')),
        ),
    ] {
        assert_eq!(document(entries).unwrap_err().message(), expected);
    }
}
