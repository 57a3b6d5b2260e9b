//! The registry that most people run, with what they have in front of it.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use diolkos_tests::{
    Authority, DockerRegistry, Home, Image, Network, Nginx, Outcome, Proxy, Run as _, Site, Terms,
    TokenServer, require,
};

const USER: &str = "me";
const PASSWORD: &str = "hush-hush";

/// Writes the file that credentials are looked for in.
fn know(home: &Home, host: &str, entry: serde_json::Value) {
    let auths = serde_json::json!({"auths": {host: entry}});
    fs::write(home.path("auth.json"), auths.to_string()).unwrap();
}

fn password(password: &str) -> serde_json::Value {
    serde_json::json!({"auth": BASE64.encode(format!("{USER}:{password}"))})
}

#[track_caller]
fn there_and_back(home: &Home, flag: &str, image: &Image, reference: &str) {
    image.write_directory(&home.path("in")).unwrap();
    let run = |side: &str, source: &str, destination: &str| -> Outcome {
        let mut command = home.diolkos();
        command.args(["copy", "--preserve-digests", &format!("--{side}-{flag}")]);
        command.args([source, destination]).run().expect_secrecy(&[PASSWORD])
    };
    run("dest", "dir:in", reference).expect_success();
    run("src", reference, "dir:out").expect_success();
    let digests = |name: &str| diolkos_tests::directory_digests(&home.path(name)).unwrap();
    assert_eq!(digests("in"), digests("out"));
}

fn image() -> Image {
    Image::noise(&[3_000_000, 100_000, 1000], 1)
}

fn all(programs: &[&str]) -> bool {
    programs.iter().all(|program| require(program).is_some())
}

#[test]
fn a_password_file_lets_us_in_and_others_not() {
    if !all(&["docker-registry", "htpasswd"]) {
        return;
    }
    let registry = DockerRegistry::start_with(&Terms::default().password(USER, PASSWORD)).unwrap();
    let home = Home::new();
    know(&home, &registry.host(), password(PASSWORD));
    there_and_back(&home, "tls-verify=false", &image(), &registry.reference("app:1"));
    for entry in [password("wrong"), serde_json::json!({})] {
        know(&home, &registry.host(), entry);
        home.copy(&[], &registry.reference("app:1"), "dir:no").expect_code(1);
    }
}

#[test]
fn both_kinds_of_registries_take_the_password_of_a_flag() {
    if !all(&["docker-registry", "htpasswd", "openssl"]) {
        return;
    }
    let tokens = TokenServer::start(USER, PASSWORD, "hush-hush-identity").unwrap();
    let image = image();
    for terms in [Terms::default().password(USER, PASSWORD), Terms::default().tokens(&tokens)] {
        let registry = DockerRegistry::start_with(&terms).unwrap();
        let (home, reference) = (Home::new(), registry.reference("team/app:1"));
        image.write_layout(&home.path("in"), "1").unwrap();
        let copy = |flag: &str, source: &str, destination: &str| {
            home.copy(&[flag], source, destination).expect_secrecy(&[PASSWORD])
        };
        copy("--dest-creds=me:hush-hush", "oci:in:1", &reference).expect_success();
        copy("--src-creds=me:hush-hush", &reference, "dir:out").expect_success();
        copy("--src-creds=me:wrong", &reference, "dir:no").expect_code(1);
        copy("--src-no-creds", &reference, "dir:no").expect_code(1);
    }
}

#[test]
fn signed_tokens_are_had_for_a_password() {
    if !all(&["docker-registry", "openssl"]) {
        return;
    }
    let tokens = TokenServer::start(USER, PASSWORD, "hush-hush-identity").unwrap();
    let registry = DockerRegistry::start_with(&Terms::default().tokens(&tokens)).unwrap();
    let home = Home::new();
    know(&home, &registry.host(), password(PASSWORD));
    there_and_back(&home, "tls-verify=false", &image(), &registry.reference("team/app:1"));
    assert!(!tokens.asked().is_empty());
    know(&home, &registry.host(), password("wrong"));
    home.copy(&[], &registry.reference("team/app:1"), "dir:no").expect_code(1);
    // The anonymous get a token that is good for nothing.
    fs::write(home.path("auth.json"), "{}").unwrap();
    home.copy(&[], &registry.reference("team/app:1"), "dir:no").expect_code(1);
}

#[test]
fn signed_tokens_are_had_for_an_identity_token() {
    if !all(&["docker-registry", "openssl"]) {
        return;
    }
    let tokens = TokenServer::start(USER, PASSWORD, "hush-hush-identity").unwrap();
    let registry = DockerRegistry::start_with(&Terms::default().tokens(&tokens)).unwrap();
    let home = Home::new();
    let user = BASE64.encode("00000000-0000-0000-0000-000000000000:");
    let entry = serde_json::json!({"auth": user, "identitytoken": "hush-hush-identity"});
    know(&home, &registry.host(), entry);
    there_and_back(&home, "tls-verify=false", &image(), &registry.reference("team/app:1"));
    let asked = tokens.asked();
    assert!(asked.iter().all(|one| one == "POST refresh_token"), "{asked:?}");
}

#[test]
fn a_registry_with_tls_of_its_own_is_reached() {
    if !all(&["docker-registry", "openssl"]) {
        return;
    }
    let authority = Authority::new().unwrap();
    let terms = Terms::default().tls(authority.server().unwrap());
    let registry = DockerRegistry::start_with(&terms).unwrap();
    let home = Home::new();
    authority.write_directory(&home.path("certs"), false).unwrap();
    // Go's server offers HTTP/2 by itself.
    there_and_back(&home, "cert-dir=certs", &image(), &registry.reference("app:1"));
}

#[test]
fn nginx_with_client_certificates_and_http_2_passes_us_on() {
    if !all(&["docker-registry", "nginx", "openssl"]) {
        return;
    }
    let registry = DockerRegistry::start().unwrap();
    let authority = Authority::new().unwrap();
    let site = Site::before(&registry.host())
        .tls(authority.server().unwrap())
        .clients_of(authority.certificate())
        .http2();
    let nginx = Nginx::start(&site).unwrap();
    let home = Home::new();
    authority.write_directory(&home.path("certs"), true).unwrap();
    there_and_back(&home, "cert-dir=certs", &image(), &nginx.reference("app:1"));
}

#[test]
fn a_small_limit_of_nginx_is_got_through_in_pieces() {
    if !all(&["docker-registry", "nginx"]) {
        return;
    }
    let registry = DockerRegistry::start().unwrap();
    let nginx = Nginx::start(&Site::before(&registry.host()).body_limit(1 << 20)).unwrap();
    there_and_back(&Home::new(), "tls-verify=false", &image(), &nginx.reference("app:1"));
    let refused = nginx.log().iter().filter(|line| line.contains(" 413 ")).count();
    assert!((1..=4).contains(&refused), "{:?}", nginx.log());
}

#[test]
fn a_network_that_breaks_now_and_then_does_not_keep_us_from_it() {
    if !all(&["docker-registry"]) {
        return;
    }
    for (network, image) in [
        // This registry gives an upload up when a request of it breaks off: whatever is larger
        // than what one connection carries has to wait for a better one.
        (Network::good().cutting_after(5_000_000).only_first(4), Image::noise(&[12_000_000], 3)),
        (Network::good().cutting_after(5_000_000), Image::noise(&[3_500_000; 12], 2)),
    ] {
        let registry = DockerRegistry::start().unwrap();
        let proxy = Proxy::start(&registry.host(), network).unwrap();
        there_and_back(&Home::new(), "tls-verify=false", &image, &proxy.reference("app:1"));
        assert!(proxy.cuts() > 0, "no cut in {} connections", proxy.connections());
    }
}
