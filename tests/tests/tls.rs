//! Certificates: whose are believed, which are shown, and what is said when they do not fit.

use std::fs;

use diolkos_tests::{
    Authority, Format, Home, Image, KeyPair, Nginx, Outcome, Platform, Registry, Run as _, Site,
    require,
};

/// An nginx with TLS before a registry with an image.
struct World {
    registry: Registry,
    nginx: Nginx,
    authority: Authority,
    server: KeyPair,
    home: Home,
    image: Image,
}

impl World {
    /// `None` when a program is missing.
    fn new(site: impl FnOnce(Site, &Authority) -> Site) -> Option<Self> {
        let (Some(_), Some(_)) = (require("nginx"), require("openssl")) else { return None };
        let (registry, authority) = (Registry::start().unwrap(), Authority::new().unwrap());
        let image = Image::small(Format::Oci, Platform::AMD64, "tls");
        image.seed(&registry, "app", "1");
        let server = authority.server().unwrap();
        let plain = Site::before(&registry.host()).tls(server.clone());
        let nginx = Nginx::start(&site(plain, &authority)).unwrap();
        Some(Self { registry, nginx, authority, server, home: Home::new(), image })
    }

    fn pull(&self, flags: &[&str]) -> Outcome {
        let mut command = self.home.diolkos();
        command.arg("copy").args(flags).args([&self.nginx.reference("app:1"), "oci:out:1"]);
        command.run()
    }

    /// Writes a directory of certificates and returns the flag that names it.
    fn certificates(&self, client: bool) -> String {
        let directory = self.home.path("certs");
        self.authority.write_directory(&directory, client).unwrap();
        format!("--src-cert-dir={}", directory.display())
    }
}

#[test]
fn a_private_authority_is_believed_when_it_is_named() {
    let Some(world) = World::new(|site, _| site) else { return };
    let refused = world.pull(&[]).expect_code(1);
    assert!(
        refused.stderr.contains("certificate signed by unknown authority"),
        "{}",
        refused.stderr
    );
    world.pull(&[&world.certificates(false)]).expect_success();
    world.pull(&["--src-tls-verify=false"]).expect_success();
}

#[test]
fn certificates_are_found_below_the_users_configuration() {
    let Some(world) = World::new(|site, authority| site.clients_of(authority.certificate())) else {
        return;
    };
    // The name of the directory is that of the registry, with its port.
    let directory = world.home.path(".config/containers/certs.d").join(world.nginx.host());
    world.authority.write_directory(&directory, true).unwrap();
    world.pull(&[]).expect_success();
}

#[test]
fn a_client_certificate_is_shown_where_one_is_wanted() {
    let Some(world) = World::new(|site, authority| site.clients_of(authority.certificate())) else {
        return;
    };
    let without = world.pull(&[&world.certificates(false)]).expect_code(1);
    assert!(without.stderr.contains("400"), "{}", without.stderr);
    let flag = world.certificates(true);
    world.pull(&[&flag]).expect_success();
    let push = ["--dest-cert-dir".to_owned(), world.home.path("certs").display().to_string()];
    let mut command = world.home.diolkos();
    command.arg("copy").args(&push).args(["oci:out:1", &world.nginx.reference("new:1")]).succeed();
    world.image.check_in(&world.registry, "new", "1").unwrap();
    // Half a pair is an error that names the other half.
    fs::remove_file(world.home.path("certs/client.key")).unwrap();
    world.pull(&[&flag]).expect_code(1).expect_words(&["client.key"]);
}

#[test]
fn any_certificate_will_do_without_verification() {
    // Below version 1.3 the key's curve would have to be one that we calculate with.
    let Some(world) =
        World::new(|site, authority| site.protocols("TLSv1.3").tls(authority.plain().unwrap()))
    else {
        return;
    };
    world.pull(&["--src-tls-verify=false"]).expect_success();
    // It is HTTPS that is wrong here, and said so, whatever the server says to plain HTTP.
    let flag = world.certificates(false);
    let refused = world.pull(&[&flag]).expect_code(1);
    assert!(refused.stderr.contains("tls"), "{}", refused.stderr);
}

#[test]
fn a_servers_own_certificate_may_be_given_in_place_of_its_authority() {
    let Some(world) = World::new(|site, _| site) else { return };
    let directory = world.home.path("certs");
    fs::create_dir(&directory).unwrap();
    let other = world.authority.server().unwrap();
    fs::copy(other.certificate, directory.join("other.crt")).unwrap();
    world.pull(&["--src-cert-dir=certs"]).expect_code(1);
    fs::copy(&world.server.certificate, directory.join("server.crt")).unwrap();
    world.pull(&["--src-cert-dir=certs"]).expect_success();
}

#[test]
fn of_several_client_certificates_the_one_that_the_server_knows_is_shown() {
    let Some(world) = World::new(|site, authority| site.clients_of(authority.certificate())) else {
        return;
    };
    let flag = world.certificates(true);
    let strangers = Authority::new().unwrap();
    let stranger = strangers.client().unwrap();
    // First by name.
    fs::copy(stranger.certificate, world.home.path("certs/a.cert")).unwrap();
    fs::copy(stranger.key, world.home.path("certs/a.key")).unwrap();
    world.pull(&[&flag]).expect_success();
}

#[test]
fn certificates_that_cannot_be_used_are_named() {
    let Some(world) = World::new(|site, authority| site.clients_of(authority.certificate())) else {
        return;
    };
    let flag = world.certificates(true);
    let key = world.home.path("certs/client.key");
    let other = world.authority.client().unwrap();
    fs::copy(&other.key, &key).unwrap();
    world.pull(&[&flag]).expect_code(1).expect_words(&["client.key", "is not the key of"]);
    fs::write(&key, "-----BEGIN NONSENSE-----\n").unwrap();
    world.pull(&[&flag]).expect_code(1).expect_words(&["client.key", "no private key"]);
    fs::remove_file(world.home.path("certs/ca.crt")).unwrap();
    fs::create_dir(world.home.path("certs/ca.crt")).unwrap();
    world.pull(&[&flag]).expect_code(1).expect_words(&["certs/ca.crt"]);
    fs::write(world.home.path("file"), "").unwrap();
    world.pull(&["--src-cert-dir=file"]).expect_code(1).expect_words(&["`file`"]);
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let Some(world) = World::new(|site, _| site) else { return };
    let port = world.nginx.host().rsplit_once(':').unwrap().1.to_owned();
    let mut command = world.home.diolkos();
    // Another address of the same machine, which is not in the certificate.
    command.args(["copy", &world.certificates(false)]);
    let said = command.arg(format!("docker://127.0.0.3:{port}/app:1")).arg("oci:out:1").run();
    assert_eq!(said.code, Some(1), "{}", said.stderr);
}

#[test]
fn a_server_without_tls_is_named_as_one() {
    let (registry, home) = (Registry::start().unwrap(), Home::new());
    home.diolkos()
        .args(["copy", &registry.reference("app:1"), "oci:out:1"])
        .run()
        .expect_code(1)
        .expect_words(&["server gave HTTP response to HTTPS client"]);
}

#[test]
fn http_2_serves_pulls_and_pushes() {
    let Some(world) = World::new(|site, _| site.http2()) else { return };
    let image = Image::noise(&[3_000_000, 100_000, 1000, 1000, 1000], 1);
    image.write_layout(&world.home.path("in"), "1").unwrap();
    let flag = world.certificates(false).replace("--src", "--dest");
    let mut command = world.home.diolkos();
    command.args(["copy", &flag, "oci:in:1", &world.nginx.reference("big:1")]).succeed();
    image.check_in(&world.registry, "big", "1").unwrap();
    let mut command = world.home.diolkos();
    command.args(["copy", &world.certificates(false), &world.nginx.reference("big:1"), "dir:out"]);
    command.succeed();
    assert!(!world.nginx.log().is_empty());
}

#[test]
fn tls_details_say_which_versions_are_spoken() {
    let Some(world) = World::new(|site, _| site.protocols("TLSv1.2")) else { return };
    let certificates = world.certificates(false);
    let pull = |details: &str| {
        fs::write(world.home.path("details.yaml"), details).unwrap();
        let mut command = world.home.diolkos();
        command.args(["--tls-details=details.yaml", "copy", &certificates]);
        command.args([&world.nginx.reference("app:1"), "oci:out:1"]).run()
    };
    pull("minVersion: \"1.2\"\n").expect_success();
    pull("{}\n").expect_success();
    pull("minVersion: \"1.3\"\n").expect_code(1).expect_words(&["protocol version not supported"]);
    pull("cipherSuites:\n  - TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\nnamedGroups: [secp256r1]\n")
        .expect_success();
    // Only suites that nginx has no certificate for.
    pull("cipherSuites: [\"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\"]\n").expect_code(1);
    for wrong in ["minVersion: \"1.9\"\n", "cipherSuites: [\"NO_SUCH_SUITE\"]\n", "unknown: 1\n"] {
        pull(wrong).expect_code(1).expect_words(&["details.yaml"]);
    }
}
