use diolkos_sdk::model::media_type::{DOCKER_LIST, OCI_INDEX};
use diolkos_sdk::{ErrorKind, PlatformChoice};

use super::*;

fn index(media_type: &str, entries: &[(char, &str)]) -> Index {
    let entries: Vec<_> = entries
        .iter()
        .map(|(digest, rest)| {
            let digest = super::digest(*digest);
            format!(r#"{{"mediaType":"{OCI_MANIFEST}","size":5,"digest":"{digest}"{rest}}}"#)
        })
        .collect();
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{media_type}","manifests":[{}],"annotations":{{"x":"y"}}}}"#,
        entries.join(",")
    );
    match Manifest::parse(&RawManifest::new(text.into_bytes(), media_type)).unwrap() {
        Manifest::Index(index) => index,
        Manifest::Image(_) => panic!("an index"),
    }
}

const AMD64: &str = r#","platform":{"os":"linux","architecture":"amd64"}"#;
const ARM_V6: &str = r#","platform":{"os":"linux","architecture":"arm","variant":"v6"}"#;
const ARM_V7: &str =
    r#","platform":{"os":"linux","architecture":"arm","variant":"v7","os.version":"1"}"#;
const AMD64_ZSTD: &str = r#","platform":{"os":"linux","architecture":"amd64"},"annotations":{"io.github.containers.compression.zstd":"true"}"#;

fn linux(architecture: &str, variant: Option<&str>) -> PlatformChoice {
    PlatformChoice {
        os: Some("linux".into()),
        architecture: Some(architecture.into()),
        variant: variant.map(str::to_owned),
    }
}

#[test]
fn the_instance_that_fits_best_is_chosen() {
    let choose = |media_type: &str, entries: &[(char, &str)], platform: &PlatformChoice| {
        index(media_type, entries).choose(platform).map(|chosen| chosen.digest.clone()).ok()
    };
    for media_type in [OCI_INDEX, DOCKER_LIST] {
        let entries = [('6', ARM_V6), ('7', ARM_V7), ('a', AMD64), ('b', AMD64)];
        let chosen = |platform| choose(media_type, &entries, &platform);
        assert_eq!(chosen(linux("amd64", None)), Some(digest('a')), "the first of equal ones");
        assert_eq!(chosen(linux("amd64", Some("v3"))), Some(digest('a')));
        assert_eq!(chosen(linux("arm", None)), Some(digest('7')));
        assert_eq!(chosen(linux("arm", Some("v6"))), Some(digest('6')));
        assert_eq!(chosen(linux("arm", Some("v5"))), None);
        assert_eq!(chosen(linux("s390x", None)), None);
    }
    let entries = [('0', ""), ('a', AMD64), ('c', AMD64_ZSTD)];
    let chosen = |media_type, platform| choose(media_type, &entries, &platform);
    assert_eq!(chosen(OCI_INDEX, linux("amd64", None)), Some(digest('c')), "zstd is better");
    assert_eq!(chosen(DOCKER_LIST, linux("amd64", None)), Some(digest('a')));
    assert_eq!(chosen(OCI_INDEX, linux("arm", None)), Some(digest('0')), "better than none");
    assert_eq!(chosen(DOCKER_LIST, linux("arm", None)), None);
}

#[test]
fn when_none_fits_the_message_says_what_was_looked_for_and_what_there_is() {
    let error = index(DOCKER_LIST, &[('a', AMD64)]).choose(&linux("arm", Some("v7"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        error.message(),
        "no image found in manifest list for architecture \"arm\", variant \"v7\", OS \"linux\""
    );
    assert_eq!(error.hint(), Some("the image exists for linux/amd64"));
    let error = index(OCI_INDEX, &[('a', AMD64)]).choose(&linux("arm", None)).unwrap_err();
    assert_eq!(
        error.message(),
        "no image found in image index for architecture \"arm\", variant \"\", OS \"linux\""
    );
}

fn as_it_was(index: &Index) -> Vec<InstanceWritten> {
    let written = index.instances().iter().map(|instance| InstanceWritten {
        digest: instance.digest.clone(),
        size: instance.size.unwrap(),
        media_type: instance.media_type.clone(),
        zstd: false,
    });
    written.collect()
}

#[test]
fn an_index_keeps_its_bytes_when_nothing_differs() {
    for media_type in [OCI_INDEX, DOCKER_LIST] {
        let index = index(media_type, &[('a', AMD64), ('c', AMD64_ZSTD)]);
        let mut written = as_it_was(&index);
        written[1].zstd = true;
        assert_eq!(index.with_instances(&written).unwrap(), *index.raw());
        assert_eq!(index.convert(media_type, &[]).unwrap(), *index.raw());
        assert_eq!(index.with_instances(&[]).unwrap_err().kind(), ErrorKind::Internal);
    }
}

#[test]
fn what_became_of_an_instance_is_written_into_its_descriptor() {
    let data = format!(r#"{ARM_V7},"data":"AAAA","artifactType":"t","urls":["u"]"#);
    let index = index(OCI_INDEX, &[('a', AMD64), ('b', &data)]);
    let mut written = as_it_was(&index);
    written[0].zstd = true;
    written[1].digest = digest('f');
    written[1].size = 9;
    written[1].media_type = DOCKER_V2S2.into();
    assert_eq!(
        text(&index.with_instances(&written).unwrap()),
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":5,"annotations":{{"io.github.containers.compression.zstd":"true"}},"platform":{{"architecture":"amd64","os":"linux"}}}},{{"mediaType":"{DOCKER_V2S2}","digest":"{}","size":9,"urls":["u"],"platform":{{"architecture":"arm","os":"linux","os.version":"1","variant":"v7"}},"artifactType":"t"}}],"annotations":{{"x":"y"}}}}"#,
            digest('a'),
            digest('f'),
        )
    );
}

#[test]
fn converting_keeps_what_both_types_know() {
    let features = r#","platform":{"architecture":"amd64","os":"linux","features":["sse4"]}"#;
    let list = index(DOCKER_LIST, &[('a', features)]);
    let oci = list.convert(OCI_INDEX, &[]).unwrap();
    assert_eq!(
        text(&oci),
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":5,"platform":{{"architecture":"amd64","os":"linux"}}}}]}}"#,
            digest('a')
        )
    );
    let index = index(OCI_INDEX, &[('c', AMD64_ZSTD)]);
    let list = index.convert(DOCKER_LIST, &as_it_was(&index)).unwrap();
    assert_eq!(
        text(&list),
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{DOCKER_LIST}","manifests":[{{"mediaType":"{OCI_MANIFEST}","size":5,"digest":"{}","platform":{{"architecture":"amd64","os":"linux"}}}}]}}"#,
            digest('c')
        )
    );
    let error = index.convert(OCI_MANIFEST, &[]).unwrap_err();
    assert_eq!(
        error.message(),
        "Can not convert image index to MIME type \"application/vnd.oci.image.manifest.v1+json\", \
         which is not a list type"
    );
}
