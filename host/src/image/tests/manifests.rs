use diolkos_sdk::ErrorKind;
use diolkos_sdk::model::media_type::{
    DOCKER_LIST, DOCKER_V2S1, DOCKER_V2S1_SIGNED, OCI_FOREIGN_LAYER, OCI_INDEX, OCI_LAYER_ZSTD,
};
use proptest::prelude::*;

use super::*;
use crate::compress::Compression;

#[test]
fn the_stored_type_counts_unless_it_is_none() {
    for (stored, expected) in [
        (OCI_MANIFEST, OCI_MANIFEST),
        ("", OCI_MANIFEST),
        ("application/json", OCI_MANIFEST),
        ("text/plain; charset=utf-8", OCI_MANIFEST),
        ("application/vnd.oci.image.manifest.v1+json; charset=utf-8", OCI_MANIFEST),
    ] {
        let raw = RawManifest::new(oci().bytes, stored);
        let parsed = Manifest::parse(&raw).unwrap();
        assert_eq!(parsed.media_type(), expected);
        assert_eq!(parsed.raw().media_type, expected);
        assert_eq!(parsed.raw().bytes, raw.bytes);
    }
    let as_schema1 = RawManifest::new(oci().bytes, DOCKER_V2S1);
    let error = Manifest::parse(&as_schema1).unwrap_err();
    assert_eq!(error.message(), "unsupported schema version 2");
    let error = Manifest::parse(&RawManifest::new(b"<html>".to_vec(), "text/html")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn what_could_be_read_as_two_things_is_refused() {
    let with = |field: &str| {
        let bytes = text(&docker()).replacen('{', &format!("{{{field},"), 1).into_bytes();
        Manifest::parse(&RawManifest::new(bytes, DOCKER_V2S2)).map(|_| ())
    };
    with(r#""harmless":[]"#).unwrap();
    with(r#""manifests":null"#).unwrap();
    for field in [r#""manifests":[]"#, r#""FSLayers":[]"#, r#""history":{}"#] {
        let error = with(field).unwrap_err();
        assert!(error.message().starts_with("rejecting ambiguous manifest"), "{error}");
    }
    let index =
        format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[],"config":{{}}}}"#);
    for media_type in [OCI_INDEX, DOCKER_LIST] {
        let raw = RawManifest::new(index.clone().into_bytes(), media_type);
        assert_eq!(Manifest::parse(&raw).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn schema_2_with_types_of_others_is_refused() {
    let bytes = text(&docker()).replacen(DOCKER_LAYER_GZIP, OCI_LAYER_GZIP, 1).into_bytes();
    let error = Manifest::parse(&RawManifest::new(bytes, DOCKER_V2S2)).unwrap_err();
    assert_eq!(
        error.message(),
        "unsupported docker v2s2 media type: \"application/vnd.oci.image.layer.v1.tar+gzip\""
    );
}

#[test]
fn descriptors_with_nonsense_are_corrupt() {
    let digest = sha256(&layers()[0]).to_string();
    for (what, instead) in [
        (digest.as_str(), "sha256:short"),
        (digest.as_str(), ""),
        (r#""size":"#, r#""size":-"#),
        (r#""size":"#, r#""size":1."#),
        (r#""layers":["#, r#""layers":[7,"#),
        (r#""layers":["#, r#""layers":{},"x":["#),
    ] {
        let bytes = text(&oci()).replace(what, instead).into_bytes();
        let error = Manifest::parse(&RawManifest::new(bytes, OCI_MANIFEST)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{instead}");
    }
}

#[test]
fn a_manifest_keeps_its_bytes_when_no_digest_differs() {
    for raw in [docker(), oci()] {
        let image = image(&raw);
        let mut layers = unchanged(&image);
        layers[0].compression = Some(Compression::Zstd);
        layers[1].urls_kept = true;
        assert_eq!(image.with_layers(&layers, None).unwrap(), raw);
        let converted = image.convert(&raw.media_type, Some(b"x"), &layers, None).unwrap();
        assert_eq!(converted.manifest, raw);
        assert_eq!(converted.config.unwrap().1, b"x");
    }
}

#[test]
fn a_changed_layer_changes_its_descriptor_and_nothing_else() {
    let image = image(&oci());
    let mut layers = unchanged(&image);
    layers[0] = LayerWritten {
        digest: digest('a'),
        size: 7,
        compression: Some(Compression::Zstd),
        diff_id: None,
        urls_kept: false,
        annotations_kept: false,
    };
    layers[1].compression = Some(Compression::None);
    let written = image.with_layers(&layers, None).unwrap();
    let second = sha256(&super::layers()[1]);
    assert_eq!(
        text(&written),
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"{OCI_CONFIG}","digest":"{}","size":{},"data":"e30="}},"layers":[{{"mediaType":"{OCI_LAYER_ZSTD}","digest":"{}","size":7}},{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{second}","size":10,"annotations":{{"k":"\u003cv\u003e"}}}}],"annotations":{{"a":"1","b":"2"}}}}"#,
            sha256(CONFIG.as_bytes()),
            CONFIG.len(),
            digest('a'),
        )
    );
}

#[test]
fn schema_2_has_no_word_for_zstd_and_another_type_may() {
    let image = image(&docker());
    let mut layers = unchanged(&image);
    layers[0].digest = digest('a');
    layers[0].compression = Some(Compression::Zstd);
    let error = image.with_layers(&layers, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ManifestRejected);
    assert_eq!(
        error.chain().join(": "),
        format!(
            "preparing updated manifest, layer \"{}\": zstd compression is not supported for type \
             \"{DOCKER_LAYER_GZIP}\"",
            digest('a')
        )
    );
    layers[0].compression = Some(Compression::Gzip);
    image.with_layers(&layers, None).unwrap();
    assert_eq!(image.with_layers(&layers[1..], None).unwrap_err().kind(), ErrorKind::Internal);
}

#[test]
fn an_artifact_is_left_alone() {
    let text = format!(
        r#"{{"schemaVersion":2,"artifactType":"text/x","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{}","size":2}},"layers":[{{"mediaType":"{OCI_LAYER_GZIP}","digest":"{}","size":1}}],"subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":3}}}}"#,
        digest('1'),
        digest('2'),
        digest('3'),
    );
    let raw = RawManifest::new(text.into_bytes(), "");
    let image = image(&raw);
    assert_eq!(image.media_type(), OCI_MANIFEST);
    assert!(!image.is_container_image());
    assert!(!image.layers()[0].recompressible);
    assert_eq!(image.artifact_type(), Some("text/x"));
    assert_eq!(image.subject().unwrap().digest, digest('3'));
    let mut layers = unchanged(&image);
    assert_eq!(image.with_layers(&layers, None).unwrap().bytes, raw.bytes);
    layers[0].digest = digest('4');
    for error in [
        image.with_layers(&layers, None).unwrap_err(),
        image.can_convert_to(DOCKER_V2S2).unwrap_err(),
        image.convert(DOCKER_V2S2, Some(b"{}"), &layers, None).unwrap_err(),
        crate::image::inspect::Inspection::new(&image, Some(b"{}")).unwrap_err(),
    ] {
        assert_eq!(
            error.message(),
            "unsupported image-specific operation on artifact with type \"text/x\""
        );
    }
    image.can_convert_to(OCI_MANIFEST).unwrap();
}

#[test]
fn layers_say_what_may_be_done_with_them() {
    let text = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"{OCI_CONFIG}","digest":"{0}"}},"layers":[{{"mediaType":"{OCI_LAYER_ZSTD}","digest":"{0}","size":1}},{{"mediaType":"{OCI_FOREIGN_LAYER}","digest":"{0}","urls":["https://x"]}},{{"mediaType":"{OCI_LAYER_GZIP}+encrypted","digest":"{0}","size":1}}]}}"#,
        digest('1'),
    );
    let image = image(&RawManifest::new(text.into_bytes(), OCI_MANIFEST));
    let told: Vec<_> = image
        .layers()
        .iter()
        .map(|layer| (layer.compression, layer.recompressible, layer.blob.size))
        .collect();
    assert_eq!(
        told,
        [
            (Some(Compression::Zstd), true, Some(1)),
            (Some(Compression::None), true, None),
            (None, false, Some(1))
        ]
    );
    assert!(image.can_convert_to(DOCKER_V2S2).unwrap_err().message().contains("encrypted"));
}

#[test]
fn a_million_layers_are_read_or_refused_quickly() {
    let started = std::time::Instant::now();
    for entry in ["{},", "null,", "[[[[", "{\"a\":"] {
        let mut text = String::from(r#"{"schemaVersion":2,"layers":["#);
        text.extend(std::iter::repeat_n(entry, 1_000_000));
        text.push_str("{}]}");
        let raw = RawManifest::new(text.into_bytes(), OCI_MANIFEST);
        assert_eq!(Manifest::parse(&raw).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    let layer = format!(r#"{{"digest":"{}"}},"#, digest('1'));
    let text = format!(
        r#"{{"config":{{"digest":"{0}"}},"layers":[{1}{{"digest":"{0}"}}]}}"#,
        digest('2'),
        layer.repeat(40_000)
    );
    let image = image(&RawManifest::new(text.into_bytes(), OCI_MANIFEST));
    assert_eq!(image.layers().len(), 40_001);
    assert!(started.elapsed().as_secs() < 20);
}

/// A manifest of each kind, to be damaged.
fn samples() -> Vec<RawManifest> {
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":1,"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#,
        digest('1')
    );
    let schema1 = image(&docker());
    let layers = unchanged(&schema1);
    let schema1 = schema1.convert(DOCKER_V2S1_SIGNED, Some(CONFIG.as_bytes()), &layers, None);
    vec![
        docker(),
        oci(),
        RawManifest::new(index.clone().into_bytes(), OCI_INDEX),
        RawManifest::new(index.into_bytes(), DOCKER_LIST),
        schema1.unwrap().manifest,
    ]
}

/// Does everything that can be done to a manifest.
fn use_all(raw: &RawManifest) {
    let _ = guess_media_type(&raw.bytes);
    let _ = digest_of(&raw.bytes);
    match Manifest::parse(raw) {
        Err(error) => {
            assert!(
                matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported),
                "{error:?}"
            );
        }
        Ok(Manifest::Image(image)) => {
            let mut layers = unchanged(&image);
            for layer in &mut layers {
                layer.diff_id = Some(digest('d'));
            }
            for changed in [false, true] {
                if let (true, Some(first)) = (changed, layers.first_mut()) {
                    first.digest = digest('e');
                    first.compression = Some(Compression::Gzip);
                }
                let _ = image.with_layers(&layers, None);
                for to in [OCI_MANIFEST, DOCKER_V2S2, DOCKER_V2S1, OCI_INDEX, "x"] {
                    let _ = image.can_convert_to(to);
                    let _ = image.convert(to, Some(CONFIG.as_bytes()), &layers, None);
                    let _ = image.convert(to, Some(b"{}"), &layers, None);
                    let _ = image.convert(to, None, &layers, None);
                }
            }
            if let Ok(inspection) = inspect::Inspection::new(&image, Some(CONFIG.as_bytes())) {
                inspection.to_json();
            }
            let _ = inspect::ConfigInspection::new(&image, Some(CONFIG.as_bytes()));
        }
        Ok(Manifest::Index(index)) => {
            let _ = index.choose(&diolkos_sdk::PlatformChoice::default());
            let _ = index.convert(DOCKER_LIST, &[]);
            let _ = index.convert(OCI_INDEX, &[]);
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        kind in 0_usize..7,
    ) {
        let types =
            [OCI_MANIFEST, OCI_INDEX, DOCKER_V2S2, DOCKER_LIST, DOCKER_V2S1, DOCKER_V2S1_SIGNED, ""];
        use_all(&RawManifest::new(bytes, types[kind]));
    }

    #[test]
    fn a_damaged_manifest_is_read_or_refused(
        sample in 0_usize..5,
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..4),
    ) {
        let mut raw = samples().swap_remove(sample);
        for (at, byte, how) in edits {
            let at = at.index(raw.bytes.len().max(1));
            if at >= raw.bytes.len() {
                break;
            }
            match how {
                0 => raw.bytes[at] = byte,
                1 => raw.bytes.insert(at, byte),
                2 => { raw.bytes.remove(at); }
                _ => raw.bytes.truncate(at.max(1)),
            }
        }
        use_all(&raw);
    }

    #[test]
    fn a_field_with_another_value_is_read_or_refused(
        sample in 0_usize..5,
        at in any::<prop::sample::Index>(),
        value in prop_oneof![
            Just("null"), Just("{}"), Just("[]"), Just("-1"), Just("1e9"), Just("\"\""),
            Just("true"), Just("[{}]"), Just("\"\\ud800\""), Just("99999999999999999999"),
        ],
    ) {
        let mut raw = samples().swap_remove(sample);
        let text = text(&raw).to_owned();
        let colons: Vec<_> = text.match_indices("\":").map(|(at, _)| at + 2).collect();
        let start = colons[at.index(colons.len())];
        let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<serde::de::IgnoredAny>();
        values.next();
        let end = start + values.byte_offset();
        raw.bytes = format!("{}{value}{}", &text[..start], &text[end..]).into_bytes();
        use_all(&raw);
    }
}
