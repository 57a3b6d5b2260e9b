//! Proxies that the environment names, and what registries see of us.

use diolkos_tests::{
    Authority, Format, Home, Image, Nginx, Platform, Registry, Run as _, Site, WebProxy, require,
};

/// A name that nobody resolves but the proxy.
const NAME: &str = "registry.test";

fn seeded() -> (Registry, Home, Image) {
    let (registry, home) = (Registry::start().unwrap(), Home::new());
    let image = Image::small(Format::Oci, Platform::AMD64, "proxies");
    image.seed(&registry, "app", "1");
    (registry, home, image)
}

#[test]
fn plain_requests_go_to_the_proxy_as_they_are() {
    let (registry, home, _) = seeded();
    let proxy = WebProxy::start(&registry.host()).unwrap();
    for (http, https) in [("HTTP_PROXY", "HTTPS_PROXY"), ("http_proxy", "https_proxy")] {
        home.copy_command(&[], &format!("docker://{NAME}/app:1"), "dir:out")
            .env(http, proxy.url())
            .env(https, proxy.url())
            .succeed();
    }
    let plain = format!("GET http://{NAME}/v2/");
    assert!(proxy.asked().iter().any(|one| one.starts_with(&plain)), "{:?}", proxy.asked());
}

#[test]
fn tls_goes_through_the_proxy_in_a_tunnel() {
    let (Some(_), Some(_)) = (require("nginx"), require("openssl")) else { return };
    let (registry, home, image) = seeded();
    let authority = Authority::new().unwrap();
    let site = Site::before(&registry.host()).tls(authority.server().unwrap());
    let nginx = Nginx::start(&site).unwrap();
    let proxy = WebProxy::start(&nginx.host()).unwrap();
    authority.write_directory(&home.path("certs"), false).unwrap();
    let copy = |flag: &str, source: &str, destination: &str| {
        let mut command = home.diolkos();
        command.args(["copy", flag, source, destination]);
        command.env("HTTPS_PROXY", proxy.url()).succeed();
    };
    copy("--src-cert-dir=certs", &format!("docker://{NAME}/app:1"), "oci:out:1");
    copy("--dest-cert-dir=certs", "oci:out:1", &format!("docker://{NAME}/new:1"));
    image.check_in(&registry, "new", "1").unwrap();
    let asked = proxy.asked();
    assert!(asked.iter().all(|one| *one == format!("CONNECT {NAME}:443")), "{asked:?}");
}

#[test]
fn what_is_excepted_is_reached_directly() {
    let (registry, home, _) = seeded();
    let proxy = WebProxy::start(&registry.host()).unwrap();
    for exception in [NAME, ".test", "*"] {
        let said = home
            .copy_command(&[], &format!("docker://{NAME}/app:1"), "dir:out")
            .env("HTTP_PROXY", proxy.url())
            .env("HTTPS_PROXY", proxy.url())
            .env("NO_PROXY", exception)
            .run();
        assert_eq!(said.code, Some(1), "{}", said.stderr);
        assert_eq!(proxy.asked(), Vec::<String>::new(), "{exception}");
        said.expect_words(&[NAME]);
    }
}

#[test]
fn loopback_is_nobody_elses() {
    let (registry, home, _) = seeded();
    let proxy = WebProxy::start(&registry.host()).unwrap();
    let port = registry.host().rsplit_once(':').unwrap().1.to_owned();
    for host in ["127.0.0.1", "localhost"] {
        home.copy_command(&[], &format!("docker://{host}:{port}/app:1"), "dir:out")
            .env("HTTP_PROXY", proxy.url())
            .env("HTTPS_PROXY", proxy.url())
            .succeed();
    }
    assert_eq!(proxy.asked(), Vec::<String>::new());
}

#[test]
fn a_proxy_that_is_not_there_is_named() {
    let (registry, home, _) = seeded();
    let proxy = WebProxy::start(&registry.host()).unwrap();
    let url = proxy.url();
    drop(proxy);
    let said = home
        .copy_command(&[], &format!("docker://{NAME}/app:1"), "dir:out")
        .env("HTTP_PROXY", &url)
        .env("HTTPS_PROXY", &url)
        .run()
        .expect_code(1);
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let words = format!("proxyconnect tcp: dial tcp {address}: connect: connection refused");
    said.expect_words(&[&words, NAME, "HTTPS_PROXY"]);
}

#[test]
fn a_proxy_for_plain_http_knows_names_that_we_do_not() {
    let (registry, home, _) = seeded();
    let proxy = WebProxy::start(&registry.host()).unwrap();
    // An empty variable says nothing.
    home.copy_command(&[], &format!("docker://{NAME}/app:1"), "dir:out")
        .env("HTTP_PROXY", "")
        .env("http_proxy", proxy.url())
        .env("ALL_PROXY", "http://127.0.0.1:1")
        .succeed();
}

#[test]
fn registries_see_who_we_are_with_the_prefix_in_front() {
    let (registry, home, _) = seeded();
    home.copy(&[], &registry.reference("app:1"), "dir:out").expect_success();
    let agents = |registry: &Registry| -> Vec<String> {
        let requests = registry.requests();
        requests.iter().map(|one| one.header("user-agent").unwrap_or("").to_owned()).collect()
    };
    let plain = agents(&registry);
    assert!(plain.iter().all(|agent| agent.to_lowercase().contains("diolkos/")), "{plain:?}");
    registry.forget_requests();
    home.diolkos()
        .args(["--user-agent-prefix=ci-7", "copy", "--src-tls-verify=false"])
        .args([&registry.reference("app:1"), "dir:out"])
        .succeed();
    let prefixed: Vec<_> = plain.iter().map(|agent| format!("ci-7 {agent}")).collect();
    assert_eq!(agents(&registry), prefixed);
}
