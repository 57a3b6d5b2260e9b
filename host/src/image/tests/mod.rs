//! Manifests as a whole: read, written again, converted; and against the real skopeo.

mod conversions;
mod indexes;
mod inspections;
mod interop;
mod manifests;

use std::io::Write as _;

use diolkos_sdk::model::media_type::{
    DOCKER_CONFIG, DOCKER_LAYER_GZIP, DOCKER_V2S2, OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST,
};
use diolkos_sdk::{Algorithm, Digest, RawManifest};

use super::digest::of_blob;
use super::*;

/// A config with all that conversions keep, lose or escape.
const CONFIG: &str = r#"{"architecture":"amd64","config":{"Hostname":"h","User":"u","ExposedPorts":{"80/tcp":{}},"Env":["PATH=/bin","A=<b> & c"],"Cmd":["sh"],"Image":"sha256:1","Volumes":{"/v":{}},"WorkingDir":"/w","Entrypoint":["e"],"OnBuild":null,"Labels":{"z":"1","a":"é\u2028"},"StopSignal":"TERM"},"container":"c","created":"2020-01-02T03:04:05.678Z","author":"me","docker_version":"20.10.7","history":[{"created":"2020-01-02T03:04:05Z","created_by":"ADD <x> in /","comment":"first"},{"created":"2020-01-02T03:04:06Z","created_by":"CMD [\"sh\"]","empty_layer":true,"author":"you"},{"created":"2020-01-02T03:04:07.1+02:00","created_by":"RUN y"}],"os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:1111111111111111111111111111111111111111111111111111111111111111","sha256:2222222222222222222222222222222222222222222222222222222222222222"]}}"#;

fn sha256(bytes: &[u8]) -> Digest {
    of_blob(Algorithm::Sha256, bytes)
}

fn digest(c: char) -> Digest {
    format!("sha256:{}", c.to_string().repeat(64)).parse().unwrap()
}

/// Two layers that are really compressed, so that their diff IDs can be computed.
fn layers() -> Vec<Vec<u8>> {
    ["one", "two"]
        .map(|text| {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(text.repeat(100).as_bytes()).unwrap();
            encoder.finish().unwrap()
        })
        .to_vec()
}

fn docker() -> RawManifest {
    let layers: Vec<_> = layers()
        .iter()
        .map(|layer| {
            let digest = sha256(layer);
            format!(
                r#"{{"mediaType":"{DOCKER_LAYER_GZIP}","size":{},"digest":"{digest}"}}"#,
                layer.len()
            )
        })
        .collect();
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{DOCKER_V2S2}","config":{{"mediaType":"{DOCKER_CONFIG}","size":{},"digest":"{}"}},"layers":[{}]}}"#,
        CONFIG.len(),
        sha256(CONFIG.as_bytes()),
        layers.join(",")
    );
    RawManifest::new(text.into_bytes(), DOCKER_V2S2)
}

fn oci() -> RawManifest {
    let layers: Vec<_> = layers()
        .iter()
        .map(|layer| {
            let digest = sha256(layer);
            format!(
                r#"{{ "mediaType":"{OCI_LAYER_GZIP}","digest":"{digest}","size":{},"annotations":{{"k":"<v>"}} }}"#,
                layer.len()
            )
        })
        .collect();
    let text = format!(
        r#"{{"schemaVersion":2, "mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"{OCI_CONFIG}","digest":"{}","size":{},"data":"e30="}},"layers":[{}],"annotations":{{"b":"2","a":"1"}},"unknown":[1]}}"#,
        sha256(CONFIG.as_bytes()),
        CONFIG.len(),
        layers.join(",")
    );
    RawManifest::new(text.into_bytes(), OCI_MANIFEST)
}

fn image(raw: &RawManifest) -> ImageManifest {
    match Manifest::parse(raw) {
        Ok(Manifest::Image(image)) => image,
        other => panic!("not an image: {other:?}"),
    }
}

fn unchanged(image: &ImageManifest) -> Vec<LayerWritten> {
    image.layers().iter().map(|layer| LayerWritten::unchanged(layer, 10)).collect()
}

fn text(raw: &RawManifest) -> &str {
    std::str::from_utf8(&raw.bytes).unwrap()
}
