//! The same conversions by the real skopeo: results must have equal digests.
//!
//! Skipped where skopeo is not installed, except in CI.

use std::path::{Path, PathBuf};
use std::process::Command;

use diolkos_sdk::model::media_type::{DOCKER_LIST, DOCKER_V2S1_SIGNED, OCI_INDEX};

use super::*;

fn skopeo() -> Option<PathBuf> {
    let program = Path::new("/usr/bin/skopeo");
    if program.exists() {
        return Some(program.to_owned());
    }
    assert!(std::env::var_os("CI").is_none(), "CI must have skopeo installed");
    None
}

/// Writes an image as the `dir:` transport keeps it.
fn write_dir(dir: &Path, manifest: &RawManifest, blobs: &[&[u8]]) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("version"), "Directory Transport Version: 1.1\n").unwrap();
    std::fs::write(dir.join("manifest.json"), &manifest.bytes).unwrap();
    for blob in blobs {
        std::fs::write(dir.join(sha256(blob).hex()), blob).unwrap();
    }
}

fn copy(skopeo: &Path, arguments: &[&str], from: &Path, to: &Path) -> RawManifest {
    let output = Command::new(skopeo)
        .args(["--insecure-policy", "copy", "-q"])
        .args(arguments)
        .args([format!("dir:{}", from.display()), format!("dir:{}", to.display())])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    RawManifest::new(std::fs::read(to.join("manifest.json")).unwrap(), "")
}

/// Layers as a copy finds them: as they were, of a known compression.
fn copied(image: &ImageManifest) -> Vec<LayerWritten> {
    let blobs = layers();
    let written = image.layers().iter().map(|layer| {
        let blob = blobs.iter().find(|blob| sha256(blob) == layer.blob.digest);
        let size = blob.map_or(32, Vec::len);
        LayerWritten {
            compression: layer.compression,
            diff_id: blob.map(|blob| {
                let mut content = Vec::new();
                std::io::copy(&mut flate2::read::GzDecoder::new(blob.as_slice()), &mut content)
                    .unwrap();
                sha256(&content)
            }),
            ..LayerWritten::unchanged(layer, size as u64)
        }
    });
    written.collect()
}

#[test]
fn conversions_have_the_digests_that_skopeos_have() {
    let Some(skopeo) = skopeo() else { return };
    let dir = tempfile::tempdir().unwrap();
    let blobs = layers();
    let mut all: Vec<&[u8]> = blobs.iter().map(Vec::as_slice).collect();
    all.push(CONFIG.as_bytes());
    let docker_image = image(&docker());
    let schema1_of = |config: &str| {
        let layers = copied(&docker_image);
        docker_image.convert(DOCKER_V2S1_SIGNED, Some(config.as_bytes()), &layers, None).unwrap()
    };
    let schema1 = schema1_of(CONFIG);
    // From a Docker whose configs are written anew.
    let old = schema1_of(&CONFIG.replace("20.10.7", "1.7.0"));
    all.push(&schema1.blobs[0].1);
    for (name, raw) in [
        ("docker", docker()),
        ("oci", oci()),
        ("schema1", schema1.manifest.clone()),
        ("old", old.manifest),
    ] {
        let from = dir.path().join(name);
        write_dir(&from, &raw, &all);
        let image = image(&raw);
        for (format, to) in
            [("oci", OCI_MANIFEST), ("v2s2", DOCKER_V2S2), ("v2s1", DOCKER_V2S1_SIGNED)]
        {
            let target = dir.path().join(format!("{name}-{format}"));
            let theirs = copy(&skopeo, &["--format", format], &from, &target);
            let config = image.config().map(|_| CONFIG.as_bytes());
            let ours = image.convert(to, config, &copied(&image), None).unwrap();
            if to == DOCKER_V2S1_SIGNED {
                // Keys are thrown away, so only what is signed can be compared.
                let payload = |raw: &RawManifest| {
                    let text = text(raw);
                    text[..text.find(",\"signatures\"").unwrap()].to_owned()
                };
                assert_eq!(payload(&ours.manifest), payload(&theirs), "{name} to {format}");
                assert_eq!(
                    digest_of(&ours.manifest.bytes).unwrap(),
                    digest_of(&theirs.bytes).unwrap()
                );
                continue;
            }
            if let Some((descriptor, bytes)) = &ours.config {
                let path = target.join(descriptor.digest.hex());
                let theirs = std::fs::read(&path).unwrap_or_else(|_| {
                    panic!("{name} to {format} has another config: {}", text(&theirs))
                });
                assert_eq!(theirs, *bytes);
            }
            assert_eq!(text(&ours.manifest), text(&theirs), "{name} to {format}");
        }
    }
}

#[test]
fn lists_have_the_digests_that_skopeos_have() {
    let Some(skopeo) = skopeo() else { return };
    let dir = tempfile::tempdir().unwrap();
    let blobs = layers();
    let mut all: Vec<&[u8]> = blobs.iter().map(Vec::as_slice).collect();
    all.push(CONFIG.as_bytes());
    let instance = docker();
    let list = format!(
        r#"{{"schemaVersion":2,"mediaType":"{DOCKER_LIST}","manifests":[{{"mediaType":"{DOCKER_V2S2}","size":{},"digest":"{}","platform":{{"architecture":"arm","os":"linux","variant":"v7","features":["x"]}}}}]}}"#,
        instance.bytes.len(),
        sha256(&instance.bytes)
    );
    let list = RawManifest::new(list.into_bytes(), DOCKER_LIST);
    let from = dir.path().join("list");
    write_dir(&from, &list, &all);
    let name = format!("{}.manifest.json", sha256(&instance.bytes).hex());
    std::fs::write(from.join(name), &instance.bytes).unwrap();

    let image = image(&instance);
    let Ok(Manifest::Index(index)) = Manifest::parse(&list) else { panic!("a list") };
    let converted =
        image.convert(OCI_MANIFEST, Some(CONFIG.as_bytes()), &copied(&image), None).unwrap();
    let written = [InstanceWritten {
        digest: sha256(&converted.manifest.bytes),
        size: converted.manifest.bytes.len() as u64,
        media_type: converted.manifest.media_type.clone(),
        zstd: false,
    }];
    let ours = index.convert(OCI_INDEX, &written).unwrap();
    let as_oci = dir.path().join("oci");
    let theirs = copy(&skopeo, &["--all", "--format", "oci"], &from, &as_oci);
    assert_eq!(text(&ours), text(&theirs));

    // And back, from what skopeo wrote.
    let Ok(Manifest::Index(index)) = Manifest::parse(&theirs) else { panic!("an index") };
    let (_, config) = converted.config.unwrap();
    let oci = super::image(&converted.manifest);
    let back = oci.convert(DOCKER_V2S2, Some(&config), &copied(&oci), None).unwrap().manifest;
    let written = [InstanceWritten {
        digest: sha256(&back.bytes),
        size: back.bytes.len() as u64,
        media_type: back.media_type,
        zstd: false,
    }];
    let ours = index.convert(DOCKER_LIST, &written).unwrap();
    let theirs = copy(&skopeo, &["--all", "--format", "v2s2"], &as_oci, &dir.path().join("docker"));
    assert_eq!(text(&ours), text(&theirs));
}

#[test]
fn inspect_prints_what_skopeo_prints() {
    let Some(skopeo) = skopeo() else { return };
    let dir = tempfile::tempdir().unwrap();
    let blobs = layers();
    let mut all: Vec<&[u8]> = blobs.iter().map(Vec::as_slice).collect();
    all.push(CONFIG.as_bytes());
    for (name, raw) in [("docker", docker()), ("oci", oci())] {
        let from = dir.path().join(name);
        write_dir(&from, &raw, &all);
        let run = |arguments: &[&str]| {
            let output = Command::new(&skopeo)
                .arg("inspect")
                .args(arguments)
                .arg(format!("dir:{}", from.display()))
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let image = image(&raw);
        let mut ours = inspect::Inspection::new(&image, Some(CONFIG.as_bytes())).unwrap();
        ours.digest = digest_of(&raw.bytes).unwrap().to_string();
        let config = inspect::ConfigInspection::new(&image, Some(CONFIG.as_bytes())).unwrap();
        assert_eq!(run(&["--config"]), config.to_json());
        // Older versions print less of layers; what both print must be equal.
        let theirs = run(&[]);
        if theirs.contains("LayersData") {
            assert_eq!(theirs, ours.to_json());
        }
        // Only Go's own functions: older versions have no others.
        for format in [
            "{{.Digest}} {{.Created}} {{.Labels}} {{.Env}}",
            "{{range .Layers}}{{.}} {{end}}",
            "{{len .Layers}} {{eq .Os \"linux\"}} {{not .Tag}} {{js .Env}} {{urlquery .Env}}",
            "{{index .Labels \"a\"}}{{.Labels.nope}}\\n{{with .DockerVersion}}{{.}}{{end}}",
            "{{printf \"%-8s|%5d|%q|%v\" .Os 3 .Architecture .RepoTags}}",
            "{{$x := .Os}}{{if and (eq $x \"linux\") .Env}}{{$x}}{{else}}no{{end}}",
            "{{range $i, $e := .Env}}{{if $i}}, {{end}}{{$e | printf \"%s!\"}}{{end}}",
            "{{- /* nothing */ -}} {{.Os | print}} {{slice .Os 0 2}} {{html .Env}}",
        ] {
            assert_eq!(run(&["--format", format]), ours.render(format).unwrap(), "{format}");
        }
    }
}
