//! Images in the Docker daemon: real ones beside `skopeo` and `docker`, and daemons that fail.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::Duration;

use diolkos_tests::{
    Authority, DockerDaemon, Fault, Format, Home, Image, Layer, LayerForm, Layout, Packing,
    Platform, Registry, Run as _, Script, ScriptedDaemon, noise, peak_memory, require,
    require_root,
};
use serde_json::Value;

/// Makes a home with an image of hard things in `oci:in:1`.
fn world(packing: Packing) -> Home {
    let home = Home::new();
    Image::hard_things(Format::Oci, packing).write_layout(&home.path("in"), "1").unwrap();
    home
}

/// Returns what [`Home::identity`] is of `oci:in:1` once it was a Docker image: a config that becomes an
/// OCI one again has its members in another order.
fn expected(home: &Home) -> (String, Value) {
    home.copy(&[], "oci:in:1", "docker-archive:expected.tar").expect_success();
    home.identity(&[], "docker-archive:expected.tar")
}

/// Returns the digest of the config in `oci:in:1`.
fn id(home: &Home) -> String {
    let manifest = Layout::new(home.path("in")).manifest("1").unwrap();
    manifest["config"]["digest"].as_str().unwrap().to_owned()
}

/// Runs a copy with one daemon on both sides.
fn copy(home: &Home, host: &str, source: &str, destination: &str) {
    let (from, to) = (format!("--src-daemon-host={host}"), format!("--dest-daemon-host={host}"));
    home.copy(&[&from, &to], source, destination).expect_success();
}

#[test]
fn an_image_in_the_daemon_has_its_name_and_its_id() {
    let Some(daemon) = DockerDaemon::start() else { return };
    let host = daemon.host();
    let from = format!("--src-daemon-host={host}");
    for packing in [Packing::Gzip, Packing::Zstd, Packing::Plain] {
        let home = world(packing);
        let expected = expected(&home);
        copy(&home, &host, "oci:in:1", "docker-daemon:app:1");
        assert_eq!(home.identity(&[&from], "docker-daemon:app:1"), expected);
        let said = daemon.docker(&["image", "inspect", "app:1", "--format", "{{.Id}}"]).succeed();
        let id = id(&home);
        assert_eq!(said.stdout.trim(), id, "an image's ID is its config's digest");
        assert_eq!(home.identity(&[&from], &format!("docker-daemon:{id}")), expected);
        copy(&home, &host, "docker-daemon:app:1", "docker-daemon:r.example:5000/other:2");
        assert_eq!(home.identity(&[&from], "docker-daemon:r.example:5000/other:2"), expected);
        daemon.docker(&["rmi", "-f", &id]).succeed();
    }
}

#[test]
fn what_the_daemon_has_already_is_neither_fetched_nor_sent() {
    let Some(daemon) = DockerDaemon::start() else { return };
    let registry = Registry::start().unwrap();
    let home = Home::new();
    let layer = |seed| LayerForm::new(Layer::new().file("f", noise(300_000, seed)), Packing::Gzip);
    let first = Image::new(Format::Oci, Platform::AMD64, &[layer(1), layer(2), layer(3)]);
    // The base comes again on top, and what was second is third.
    let layers = [layer(1), layer(4), layer(2), layer(1)];
    let second = Image::new(Format::Oci, Platform::AMD64, &layers);
    let layers = [layer(1), layer(2), layer(5)];
    let third = Image::new(Format::Docker, Platform::AMD64, &layers);
    for (tag, image) in [("1", &first), ("2", &second), ("3", &third)] {
        image.seed(&registry, "app", tag);
    }
    let to = format!("--dest-daemon-host={}", daemon.host());
    let from = format!("--src-daemon-host={}", daemon.host());
    let pull = |tag: &str, image: &Image| {
        registry.forget_requests();
        let destination = format!("docker-daemon:app:{tag}");
        home.copy(&[&to], &registry.reference(&format!("app:{tag}")), &destination)
            .expect_success();
        let said = daemon.docker(&["image", "inspect", &format!("app:{tag}"), "-f", "{{.Id}}"]);
        assert_eq!({ said }.succeed().stdout.trim(), image.config().unwrap());
        let fetched = registry.requests_of("GET", "/blobs/").len();
        let config = registry.requests_of("GET", &image.config().unwrap()).len();
        assert_eq!(config, 1, "the config is asked for once");
        fetched - 1
    };
    assert_eq!(pull("1", &first), 3);
    assert_eq!(pull("1", &first), 0);
    assert_eq!(pull("3", &third), 1);
    // Of the second, no layer is where it would be on the same ones, but for one that is repeated.
    assert_eq!(pull("2", &second), 3);
    let tarred = |tag: &str| {
        let archive = format!("docker-archive:{tag}.tar");
        home.copy(&[], &registry.reference(&format!("app:{tag}")), &archive).expect_success();
        home.identity(&[], &archive)
    };
    for tag in ["1", "2", "3"] {
        let there = home.identity(&[&from], &format!("docker-daemon:app:{tag}"));
        assert_eq!(there, tarred(tag));
    }
    // What is gone is sent again.
    daemon.docker(&["rmi", "-f", "app:1", "app:2", "app:3"]).succeed();
    assert_eq!(pull("1", &first), 3);
}

#[test]
fn skopeo_and_docker_see_what_we_see() {
    let (Some(_), Some(daemon)) = (require("skopeo"), DockerDaemon::start()) else { return };
    let home = world(Packing::Gzip);
    let host = daemon.host();
    let (from, to) = (format!("--src-daemon-host={host}"), format!("--dest-daemon-host={host}"));
    let expected = expected(&home);
    home.skopeo().args(["copy", &to, "oci:in:1", "docker-daemon:theirs:1"]).succeed();
    assert_eq!(home.identity(&[&from], "docker-daemon:theirs:1"), expected);
    home.copy(&[&to], "oci:in:1", "docker-daemon:ours:1").expect_success();
    home.skopeo().args(["copy", &from, "docker-daemon:ours:1", "dir:back"]).succeed();
    home.copy(&[&from], "docker-daemon:ours:1", "dir:ours").expect_success();
    let manifest = |dir: &str| fs::read_to_string(home.path(dir).join("manifest.json")).unwrap();
    assert_eq!(manifest("back"), manifest("ours"));
    let at = format!("--daemon-host={host}");
    for arguments in [&["inspect"][..], &["inspect", "--raw"], &["inspect", "--config"]] {
        let say = |mut program: Command| {
            let mut said =
                program.args(arguments).args([&at, "docker-daemon:ours:1"]).succeed().json();
            // Debian's skopeo does not know it yet.
            said.as_object_mut().unwrap().remove("LayersData");
            said
        };
        assert_eq!(say(home.diolkos()), say(home.skopeo()), "{arguments:?}");
    }
    // What Docker made itself, with steps that made no layer.
    fs::create_dir(home.path("context")).unwrap();
    let file = "FROM scratch\nENV a=b\nADD Dockerfile /\nLABEL c=d\n";
    fs::write(home.path("context/Dockerfile"), file).unwrap();
    let context = home.path("context").display().to_string();
    let mut build = daemon.docker(&["build", "-q", "-t", "built:1", &context]);
    let said = build.env("DOCKER_BUILDKIT", "0").succeed();
    let by_name = home.identity(&[&from], "docker-daemon:built:1");
    let by_id = format!("docker-daemon:{}", said.stdout.trim());
    assert_eq!(home.identity(&[&from], &by_id), by_name);
    home.copy(&[&from, &to], &by_id, "docker-daemon:again:1").expect_success();
    let again = daemon.docker(&["image", "inspect", "again:1", "--format", "{{.Id}}"]).succeed();
    assert_eq!(again.stdout, said.stdout);
    // What goes wrong is said in the same words.
    let link = home.path("skopeo");
    std::os::unix::fs::symlink(diolkos_tests::built_program(), &link).unwrap();
    let nowhere = format!("--src-daemon-host=unix://{}", home.path("no.sock").display());
    for arguments in [
        ["copy", &from, "docker-daemon:nosuch:1", "dir:x"],
        ["copy", &nowhere, "docker-daemon:ours:1", "dir:x"],
        ["copy", "--src-daemon-host=tcp://127.0.0.1:1", "docker-daemon:ours:1", "dir:x"],
        ["copy", "--src-daemon-host=foo", "docker-daemon:ours:1", "dir:x"],
        ["copy", &from, "docker-daemon:ours", "dir:x"],
        ["copy", &from, "docker-daemon:sha256:ab", "dir:x"],
        ["copy", &from, "docker-daemon:UP:1", "dir:x"],
        ["copy", &to, "oci:in:1", "docker-daemon:ours"],
        ["delete", &at, "docker-daemon:ours:1", ""],
    ] {
        let arguments: Vec<&str> = arguments.into_iter().filter(|it| !it.is_empty()).collect();
        let say = |mut program: Command| {
            let said = program.args(&arguments).run().expect_code(1).stderr;
            // The time is each program's own.
            said.split_once("level=").map(|(_, rest)| rest.to_owned()).unwrap_or(said)
        };
        let mut ours = home.command(&link);
        ours.arg("--insecure-policy").env("_CONTAINERS_ROOTLESS_UID", "1000");
        ours.env("DIOLKOS_PLUGIN_PATH", diolkos_tests::built_program().parent().unwrap());
        assert_eq!(say(ours), say(home.skopeo()), "{arguments:?}");
    }
}

#[test]
fn layers_reach_the_daemon_without_a_copy_on_disk_or_in_memory() {
    let daemon = ScriptedDaemon::start(Script::default()).unwrap();
    let home = Home::new();
    let layer = |seed| Layer::new().file("noise", noise(24 << 20, seed));
    let layers =
        [LayerForm::new(layer(1), Packing::Stored), LayerForm::new(layer(2), Packing::Plain)];
    Image::new(Format::Oci, Platform::AMD64, &layers).write_layout(&home.path("in"), "1").unwrap();
    let host = format!("--dest-daemon-host={}", daemon.host());
    let mut command = home.copy_command(&[&host], "oci:in:1", "docker-daemon:app:1");
    // There is no directory for temporary files.
    command.args(["--tmpdir", "/diolkos-has-no-such"]);
    let peak = peak_memory(&mut command);
    assert!(peak < 40 << 20, "{peak} bytes");
    let asked: Vec<String> = daemon.requests();
    assert_eq!(asked, ["GET /_ping", "POST /v1.43/images/load?quiet=1"]);
    let [archive] = &daemon.archives()[..] else { panic!("one archive is sent") };
    fs::write(home.path("sent.tar"), archive).unwrap();
    assert_eq!(home.identity(&[], "docker-archive:sent.tar:app:1"), expected(&home));
}

#[test]
fn a_layer_that_the_daemon_cannot_read_waits_until_its_size_is_known() {
    let daemon = ScriptedDaemon::start(Script::default()).unwrap();
    let home = world(Packing::Zstd);
    let host = format!("--dest-daemon-host={}", daemon.host());
    home.copy(&[&host], "oci:in:1", "docker-daemon:app:1").expect_success();
    fs::write(home.path("sent.tar"), &daemon.archives()[0]).unwrap();
    assert_eq!(home.identity(&[], "docker-archive:sent.tar:app:1"), expected(&home));
    assert_eq!(fs::read_dir(home.path("tmp")).unwrap().count(), 0, "nothing is left");
    let nowhere = ["--tmpdir=/diolkos-has-no-such", &host];
    home.copy(&nowhere, "oci:in:1", "docker-daemon:app:2")
        .expect_code(1)
        .expect_words(&["/diolkos-has-no-such", "no such file"]);
    assert_eq!(daemon.archives().len(), 1);
}

#[test]
fn a_daemon_that_fails_is_quoted_and_the_copy_with_it() {
    let home = world(Packing::Gzip);
    let error = r#"{"errorDetail":{"message":"no space left on device"},"error":"x"}"#;
    let progress = "{\"status\":\"Loading layer\"}\r\n";
    let load =
        |stop_after, load: Option<(u16, String)>| Script { stop_after, load, ..Script::default() };
    for (script, words) in [
        (
            load(None, Some((200, format!("{progress}{error}\r\n")))),
            "docker engine reported: \"no space left on device\"",
        ),
        // Before it has all of the archive.
        (load(Some(1000), Some((200, error.to_owned()))), "no space left on device"),
        (
            load(Some(1000), Some((500, r#"{"message":"invalid tar header"}"#.to_owned()))),
            "Error response from daemon: invalid tar header",
        ),
        (load(Some(1000), Some((503, "busy".to_owned()))), "Error response from daemon: busy"),
        // What is no Docker daemon.
        (load(None, Some((200, "<html>".to_owned()))), "parsing docker load progress"),
        (load(None, Some((200, "{\"stream\":\"a\"".to_owned()))), "is cut short"),
        (
            load(None, Some((200, format!("{{\"stream\":\"a\"}}{error}")))),
            "no space left on device",
        ),
        (load(Some(1000), None), "error during connect to http://127.0.0.1:"),
        (load(None, None), "error during connect to http://127.0.0.1:"),
    ] {
        let daemon = ScriptedDaemon::start(script.clone()).unwrap();
        let host = format!("--dest-daemon-host={}", daemon.host());
        home.copy(&[&host], "oci:in:1", "docker-daemon:app:1")
            .expect_code(1)
            .expect_words(&["destination: ", words]);
    }
    // What was saved, up to where something went wrong.
    home.copy(&[], "oci:in:1", "docker-archive:whole.tar:app:1").expect_success();
    let whole = fs::read(home.path("whole.tar")).unwrap();
    let half = whole[..whole.len() / 2].to_vec();
    let said = [&half[..], error.as_bytes()].concat();
    let save = |status, body: &[u8], cut| Script {
        save: (status, body.to_vec()),
        cut,
        ..Script::default()
    };
    for (script, words) in [
        (save(200, &said, None), "docker engine reported: \"no space left on device\""),
        (save(200, &half, None), "docker-daemon:app:1 is no sound tar archive"),
        (save(200, &whole, Some(half.len())), "error during connect to http://127.0.0.1:"),
        (save(200, b"", None), "docker-daemon:app:1 is no sound tar archive: it is empty"),
        (save(200, b"<html>", None), "docker-daemon:app:1 is no sound tar archive"),
        (save(404, br#"{"message":"no such image"}"#, None), "daemon: no such image"),
        (save(500, b"", None), "daemon: 500 Internal Server Error"),
    ] {
        let daemon = ScriptedDaemon::start(script).unwrap();
        let host = format!("--src-daemon-host={}", daemon.host());
        home.copy(&[&host], "docker-daemon:app:1", "dir:out").expect_code(1).expect_words(&[
            "source: ",
            "loading image from docker engine",
            words,
        ]);
        assert!(!home.path("out").join("manifest.json").exists());
        assert_eq!(fs::read_dir(home.path("tmp")).unwrap().count(), 0, "nothing is left");
    }
}

#[test]
fn the_version_of_the_api_is_one_that_both_sides_know() {
    let home = world(Packing::Gzip);
    home.copy(&[], "oci:in:1", "docker-archive:whole.tar:app:1").expect_success();
    let whole = fs::read(home.path("whole.tar")).unwrap();
    for (version, platform, path) in [
        (None, false, "/v1.24/images/get?names=app%3A1"),
        (Some("1.43"), true, "/v1.43/images/get?names=app%3A1"),
        (Some("1.48"), false, "/v1.48/images/get?names=app%3A1"),
        (
            Some("1.48"),
            true,
            "/v1.48/images/get?names=app%3A1&platform=%7B%22architecture%22%3A%22amd64%22%2C%22os\
             %22%3A%22linux%22%7D",
        ),
        (Some("9.0"), false, "/v1.51/images/get?names=app%3A1"),
    ] {
        let script = Script { version, save: (200, whole.clone()), ..Script::default() };
        let daemon = ScriptedDaemon::start(script).unwrap();
        let mut command = home.diolkos();
        if platform {
            command.args(["--override-arch", "amd64", "--override-os", "linux"]);
        }
        command.args(["inspect", "--daemon-host", &daemon.host(), "docker-daemon:app:1"]).succeed();
        assert_eq!(daemon.requests(), ["GET /_ping".to_owned(), format!("GET {path}")]);
    }
}

/// Prepares a copy that is told nothing but by its environment.
fn told_by(home: &Home, variables: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = home.diolkos();
    command.env("DOCKER_CONFIG", home.path("docker")).envs(variables.iter().copied());
    command.args(arguments);
    command
}

#[test]
fn the_daemon_is_the_one_that_dockers_own_client_would_use() {
    let authority = Authority::new().unwrap();
    let Some(daemon) = DockerDaemon::start_with_tls(&authority) else { return };
    let home = world(Packing::Gzip);
    let host = daemon.host();
    copy(&home, &host, "oci:in:1", "docker-daemon:app:1");
    let tcp = format!("tcp://{}", daemon.authority());
    let certificates = home.path("certificates");
    fs::create_dir(&certificates).unwrap();
    let client = authority.client().unwrap();
    for (name, file) in [
        ("ca.pem", &authority.certificate()),
        ("cert.pem", &client.certificate),
        ("key.pem", &client.key),
    ] {
        fs::copy(file, certificates.join(name)).unwrap();
    }
    let dir = certificates.display().to_string();
    let inspect = |variables: &[(&str, &str)], flags: &[&str]| {
        let arguments = [&["inspect"], flags, &["docker-daemon:app:1"]].concat();
        told_by(&home, variables, &arguments).run()
    };
    // By variables, without and with TLS, and by flags.
    inspect(&[("DOCKER_HOST", &host)], &[]).expect_success();
    let tls = [("DOCKER_HOST", tcp.as_str()), ("DOCKER_CERT_PATH", &dir)];
    inspect(&[&tls[..], &[("DOCKER_TLS_VERIFY", "1")]].concat(), &[]).expect_success();
    inspect(&[&tls[..], &[("DOCKER_TLS", "1")]].concat(), &[]).expect_success();
    // An authority that Docker's own variables name is believed alone.
    let other = Authority::new().unwrap();
    let theirs = other.certificate().display().to_string();
    let trusted = authority.certificate().display().to_string();
    let elsewhere = home.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for name in ["cert.pem", "key.pem"] {
        fs::copy(certificates.join(name), elsewhere.join(name)).unwrap();
    }
    let elsewhere_dir = elsewhere.display().to_string();
    let system = |dir: &str| {
        let variables = [
            ("DOCKER_HOST", tcp.as_str()),
            ("DOCKER_CERT_PATH", dir),
            ("DOCKER_TLS_VERIFY", "1"),
            ("SSL_CERT_FILE", &trusted),
        ];
        inspect(&variables, &[])
    };
    system(&elsewhere_dir).expect_code(1).expect_words(&["ca.pem` is missing"]);
    fs::copy(&theirs, elsewhere.join("ca.pem")).unwrap();
    system(&elsewhere_dir).expect_code(1).expect_words(&["signed by unknown authority"]);
    system(&dir).expect_success();
    inspect(&[], &["--daemon-host", &tcp, "--cert-dir", &dir]).expect_success();
    // A file of Docker's that makes no sense is passed over, as Docker's own client does it.
    fs::create_dir_all(home.path("docker")).unwrap();
    fs::write(home.path("docker/config.json"), "{").unwrap();
    inspect(&[("DOCKER_TLS", "")], &[]).expect_code(1).expect_words(&[
        "warning: which Docker context is in use is not known",
        "unix:///var/run/docker.sock",
    ]);
    fs::remove_file(home.path("docker/config.json")).unwrap();
    // A proxy that does not answer is not the daemon.
    let far = [("DOCKER_HOST", "tcp://10.9.9.9:23750"), ("HTTP_PROXY", "http://127.0.0.1:1")];
    inspect(&far, &[]).expect_code(1).expect_words(&["proxyconnect tcp", "HTTP_PROXY"]);
    // A flag comes before a variable.
    let wrong = ("DOCKER_HOST", "unix:///nosuch.sock");
    inspect(&[wrong], &["--daemon-host", &host]).expect_success();
    inspect(&[wrong], &[])
        .expect_code(1)
        .expect_words(&["Cannot connect to the Docker daemon at unix:///nosuch.sock"]);
    // By contexts, which Docker's own client makes.
    let make = |name: &str, endpoint: &str| {
        let mut command = daemon.docker(&["context", "create", name, "--docker", endpoint]);
        command.env("DOCKER_CONFIG", home.path("docker")).env_remove("DOCKER_HOST").succeed();
    };
    make("plain", &format!("host={host}"));
    make("far", &format!("host={tcp},ca={dir}/ca.pem,cert={dir}/cert.pem,key={dir}/key.pem"));
    for name in ["plain", "far"] {
        inspect(&[("DOCKER_CONTEXT", name)], &[]).expect_success();
        let mut command = daemon.docker(&["context", "use", name]);
        command.env("DOCKER_CONFIG", home.path("docker")).env_remove("DOCKER_HOST").succeed();
        inspect(&[], &[]).expect_success();
    }
    inspect(&[("DOCKER_CONTEXT", "gone")], &[])
        .expect_code(1)
        .expect_words(&["the Docker context \"gone\" does not exist", "docker context ls"]);
    // What is wrong with certificates is said.
    inspect(&[], &["--daemon-host", &tcp])
        .expect_code(1)
        .expect_words(&["certificate signed by unknown authority", "ca.pem"]);
    fs::remove_file(certificates.join("key.pem")).unwrap();
    inspect(&[], &["--daemon-host", &tcp, "--cert-dir", &dir])
        .expect_code(1)
        .expect_words(&["key.pem` is missing beside"]);
    fs::remove_file(certificates.join("cert.pem")).unwrap();
    inspect(&[], &["--daemon-host", &tcp, "--cert-dir", &dir])
        .expect_code(1)
        .expect_words(&["certificate", "cert.pem and key.pem"]);
    let lax = ["--daemon-host", &tcp, "--tls-verify=false"];
    inspect(&[], &lax).expect_code(1).expect_words(&["cert.pem and key.pem"]);
    let http = format!("http://{}", daemon.authority());
    inspect(&[], &["--daemon-host", &http])
        .expect_code(1)
        .expect_words(&["HTTP request to an HTTPS server", "write tcp://"]);
}

#[test]
fn a_daemon_on_another_machine_is_reached_by_ssh() {
    let Some(daemon) = DockerDaemon::start() else { return };
    let home = world(Packing::Gzip);
    // The other machine is this one.
    fs::create_dir(home.path("bin")).unwrap();
    let ssh = home.path("bin/ssh");
    let write = |text: &str| {
        fs::write(&ssh, text).unwrap();
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
    };
    write(&format!(
        "#!/bin/sh\necho \"$*\" >> {}\nwhile [ \"$1\" != -- ]; do shift; done\nshift 2\n\
         export DOCKER_HOST={}\nexec \"$@\"\n",
        home.path("asked").display(),
        daemon.host()
    ));
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", home.path("bin").display());
    let told = [("DOCKER_HOST", "ssh://me@far.example:2222"), ("PATH", &path)];
    told_by(&home, &told, &["copy", "oci:in:1", "docker-daemon:app:1"]).succeed();
    told_by(&home, &told, &["copy", "docker-daemon:app:1", "oci:back:1"]).succeed();
    let said = daemon.docker(&["image", "inspect", "app:1", "--format", "{{.Id}}"]).succeed();
    assert_eq!(said.stdout.trim(), id(&home));
    assert_eq!(home.identity(&[], "oci:back:1"), expected(&home));
    let asked = fs::read_to_string(home.path("asked")).unwrap();
    let words = "-l me -p 2222 -o ConnectTimeout=30 -T -- far.example docker system dial-stdio";
    assert!(asked.lines().all(|line| line == words), "{asked}");
    write("#!/bin/sh\necho 'far.example: Permission denied (publickey).' >&2\nexit 255\n");
    told_by(&home, &told, &["inspect", "docker-daemon:app:1"]).run().expect_code(1).expect_words(
        &[
            "Cannot connect to the Docker daemon at ssh://far.example:2222",
            "ssh: far.example: Permission denied (publickey).",
        ],
    );
}

/// What serves podman's images by Docker's API, as long as it is kept.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn podman_serves_what_docker_does() {
    let (Some(_), true) = (require("podman"), require_root()) else { return };
    let home = world(Packing::Gzip);
    let socket = tempfile::Builder::new().prefix("pd").tempdir_in("/tmp").unwrap();
    let host = format!("unix://{}", socket.path().join("s").display());
    let serve =
        home.with_storage("podman").args(["system", "service", "--time=0", &host]).spawn().unwrap();
    let _service = Service(serve);
    let is_there = |_: &u32| {
        sleep(Duration::from_millis(100));
        socket.path().join("s").exists()
    };
    assert!((0..200).find(is_there).is_some(), "podman serves");
    let expected = expected(&home);
    copy(&home, &host, "oci:in:1", "docker-daemon:example.test/app:1");
    let from = format!("--src-daemon-host={host}");
    assert_eq!(home.identity(&[&from], "docker-daemon:example.test/app:1"), expected);
    home.with_storage("podman").args(["image", "exists", "example.test/app:1"]).succeed();
    home.copy(&[&from], "docker-daemon:example.test/other:1", "dir:x")
        .expect_code(1)
        .expect_words(&["Error response from daemon: ", "example.test/other:1"]);
}

#[test]
fn a_full_disk_of_the_daemons_and_its_death_end_a_copy() {
    let Some(daemon) = DockerDaemon::start_with_room(24 << 20) else { return };
    let home = Home::new();
    Image::noise(&[12 << 20, 12 << 20], 1).write_layout(&home.path("in"), "1").unwrap();
    let to = format!("--dest-daemon-host={}", daemon.host());
    home.copy(&[&to], "oci:in:1", "docker-daemon:app:1")
        .expect_code(1)
        .expect_words(&["no space left on device"]);
    let left = daemon.docker(&["images", "-q"]).succeed();
    assert_eq!(left.stdout, "");
    drop(daemon);
    let mut daemon = DockerDaemon::start().unwrap();
    let registry = Registry::start().unwrap();
    Image::noise(&[8 << 20], 2).seed(&registry, "app", "1");
    registry.always("GET", "blobs", Fault::SlowAnswer(2 << 20));
    let to = format!("--dest-daemon-host={}", daemon.host());
    let from = registry.reference("app:1");
    let mut command = home.copy_command(&[&to], &from, "docker-daemon:app:1");
    let child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    sleep(Duration::from_secs(1));
    daemon.kill();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error during connect to unix://"), "{said}");
    // And one that is stopped leaves nothing there.
    let daemon = DockerDaemon::start().unwrap();
    let to = format!("--dest-daemon-host={}", daemon.host());
    let mut child = home.copy_command(&[&to], &from, "docker-daemon:app:1").spawn().unwrap();
    sleep(Duration::from_secs(1));
    let pid = child.id().to_string();
    Command::new("kill").args(["-INT", &pid]).succeed();
    assert_ne!(child.wait().unwrap().code(), Some(0));
    sleep(Duration::from_millis(500));
    assert_eq!(daemon.docker(&["images", "-q"]).succeed().stdout, "");
}

#[test]
fn a_socket_that_one_may_not_use_is_named() {
    let home = world(Packing::Gzip);
    let (Some(setpriv), true) = (require("setpriv"), require_root()) else { return };
    let Some(daemon) = DockerDaemon::start() else { return };
    let path = daemon.socket();
    let above = path.parent().unwrap();
    fs::set_permissions(above, fs::Permissions::from_mode(0o711)).unwrap();
    let mut command = home.command(setpriv);
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(diolkos_tests::built_program()).args(["inspect", "--daemon-host", &daemon.host()]);
    command.arg("docker-daemon:app:1").run().expect_code(1).expect_words(&[
        "permission denied while trying to connect to the Docker daemon socket at",
    ]);
}
