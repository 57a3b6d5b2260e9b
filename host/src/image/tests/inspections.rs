use diolkos_sdk::model::media_type::DOCKER_V2S1;

use super::inspect::{ConfigInspection, Inspection};
use super::*;

#[test]
fn an_image_is_shown_with_its_fields_in_order() {
    let mut inspection = Inspection::new(&image(&oci()), Some(CONFIG.as_bytes())).unwrap();
    inspection.digest = digest('a').to_string();
    let [one, two] = [0, 1].map(|at| (sha256(&layers()[at]), layers()[at].len()));
    let layer = |(digest, size): &(Digest, usize)| {
        format!(
            r#"        {{
            "MIMEType": "{OCI_LAYER_GZIP}",
            "Digest": "{digest}",
            "Size": {size},
            "Annotations": {{
                "k": "\u003cv\u003e"
            }}
        }}"#
        )
    };
    let expected = format!(
        r#"{{
    "Digest": "{}",
    "RepoTags": [],
    "Created": "2020-01-02T03:04:05.678Z",
    "DockerVersion": "20.10.7",
    "Labels": {{
        "a": "é\u2028",
        "z": "1"
    }},
    "Architecture": "amd64",
    "Os": "linux",
    "Layers": [
        "{}",
        "{}"
    ],
    "LayersData": [
{},
{}
    ],
    "Env": [
        "PATH=/bin",
        "A=\u003cb\u003e \u0026 c"
    ]
}}
"#,
        digest('a'),
        one.0,
        two.0,
        layer(&one),
        layer(&two),
    );
    assert_eq!(inspection.to_json(), expected);
    assert_eq!(inspection.render("{{json}}").unwrap(), expected);
    inspection.name = "docker.io/library/x".into();
    inspection.repo_tags = None;
    assert!(inspection.to_json().starts_with("{\n    \"Name\": \"docker.io/library/x\",\n"));
    assert!(inspection.to_json().contains("\"RepoTags\": null"));
    assert_eq!(
        inspection
            .render("{{.Name}} {{.Architecture}} {{(index .LayersData 1).MIMEType}}")
            .unwrap(),
        format!("docker.io/library/x amd64 {OCI_LAYER_GZIP}\n")
    );
    let json = inspection.render("{{json .}}").unwrap();
    assert!(json.starts_with(r#"{"Name":"docker.io/library/x","Digest":"#), "{json}");
    assert!(json.contains("A=<b> & c"));
}

#[test]
fn what_a_config_does_not_say_is_shown_as_the_original_shows_it() {
    let shown = |raw: &RawManifest| Inspection::new(&image(raw), Some(b"{}")).unwrap().to_json();
    let oci = shown(&oci());
    assert!(oci.contains("\"Created\": null") && oci.contains("\"Labels\": null"));
    let docker = shown(&docker());
    assert!(docker.contains("\"Created\": \"0001-01-01T00:00:00Z\""));
    assert!(docker.contains("\"Annotations\": null") && docker.contains("\"Env\": null"));
}

#[test]
fn schema_1_is_shown_from_its_newest_entry() {
    let source = image(&docker());
    let name = "a/b:tag".parse().unwrap();
    let schema1 = source
        .convert(DOCKER_V2S1, Some(CONFIG.as_bytes()), &unchanged(&source), Some(&name))
        .unwrap();
    let schema1 = image(&schema1.manifest);
    let shown = Inspection::new(&schema1, None).unwrap();
    assert_eq!(shown.tag, "tag");
    assert_eq!(shown.created().unwrap(), "2020-01-02T03:04:05.678Z");
    assert_eq!(shown.layers.len(), 3);
    assert!(shown.layers_data.iter().all(|layer| layer.size == -1 && layer.mime_type.is_empty()));
    assert_eq!(shown.env.unwrap()[0], "PATH=/bin");
    let config = ConfigInspection::new(&schema1, None).unwrap().to_json();
    assert!(config.contains("\"diff_ids\": [\n            \"\",\n            \"\"\n        ]"));
}

#[test]
fn a_config_is_shown_in_the_form_of_oci() {
    let config = ConfigInspection::new(&image(&docker()), Some(CONFIG.as_bytes())).unwrap();
    let json = config.to_json();
    assert!(json.starts_with("{\n    \"created\": \"2020-01-02T03:04:05.678Z\",\n    \"author\""));
    assert!(json.contains("\"ExposedPorts\": {\n            \"80/tcp\": {}\n        }"));
    assert!(!json.contains("Hostname"));
    for (format, expected) in [
        ("{{.OS}}/{{.Architecture}}", "linux/amd64\n"),
        ("{{.Config.Env}}", "[PATH=/bin A=<b> & c]\n"),
        ("{{range $p, $_ := .Config.ExposedPorts}}{{$p}}{{end}}", "80/tcp\n"),
        ("{{.Config.Volumes}}", "map[/v:{}]\n"),
        ("{{(index .History 1).EmptyLayer}} {{len .RootFS.DiffIDs}}", "true 2\n"),
        ("{{json .Config.Cmd}}", "[\"sh\"]\n"),
        ("{{range .History}}{{.CreatedBy}};{{end}}", "ADD <x> in /;CMD [\"sh\"];RUN y;\n"),
    ] {
        assert_eq!(config.render(format).unwrap(), expected, "{format}");
    }
    let error = config.render("{{.Os}}").unwrap_err();
    assert!(error.message().ends_with("can't evaluate field Os in type interface {}"), "{error}");
}
