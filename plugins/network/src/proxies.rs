//! Proxies, as the environment names them.
//!
//! The rules are those of other programs of this field, so that an environment that works for them
//! works here: of the upper-case and the lower-case variable the first that is not empty counts,
//! `ALL_PROXY` does not, and what is on this machine is never asked for through a proxy.
//!
//! # Source
//! The documentation of Go's `golang.org/x/net/http/httpproxy`, `Config`.

use std::env;
use std::net::IpAddr;
use std::sync::OnceLock;

use diolkos_sdk::{Error, ErrorKind, Result};
use reqwest::Url;

/// Which proxy is for which address.
#[derive(Debug, Default)]
pub struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    direct: Vec<Direct>,
    /// The variable that names something else than a proxy, by the scheme that it is for.
    unusable: Vec<(&'static str, &'static str)>,
}

/// Addresses that are reached without a proxy.
#[derive(Debug, PartialEq, Eq)]
enum Direct {
    All,
    Network(IpAddr, u32),
    Address(IpAddr, Option<u16>),
    /// A domain with a dot before it, and whether it is meant itself as well.
    Domain(String, Option<u16>, bool),
}

impl Proxies {
    /// Returns what the environment says; it is read once.
    pub fn current() -> &'static Self {
        static CURRENT: OnceLock<Proxies> = OnceLock::new();
        CURRENT.get_or_init(|| Self::from(|name| env::var(name).ok()))
    }

    fn from(variable: impl Fn(&str) -> Option<String>) -> Self {
        let either = |upper: &str| {
            let values = [upper.to_owned(), upper.to_ascii_lowercase()].map(|name| variable(&name));
            values.into_iter().flatten().find(|value| !value.is_empty())
        };
        // In a CGI program, a header of the request would set it.
        let is_cgi = variable("REQUEST_METHOD").is_some_and(|method| !method.is_empty());
        let mut unusable = Vec::new();
        let mut named = |scheme, variable| {
            let text = either(variable)?;
            let found = proxy(&text);
            if found.is_none() {
                unusable.push((scheme, variable));
            }
            found
        };
        let https = named("https", "HTTPS_PROXY");
        let http = if is_cgi { None } else { named("http", "HTTP_PROXY") };
        let direct = either("NO_PROXY").as_deref().map(directs).unwrap_or_default();
        Self { http, https, direct, unusable }
    }

    /// Refuses an environment that names no proxy where it should for a URL: going without one may be
    /// what nobody wants. The value may hold a password, and is not told.
    pub fn check(&self, url: &Url) -> Result<()> {
        let unusable = self.unusable.iter().find(|(scheme, _)| *scheme == url.scheme());
        let Some((_, variable)) = unusable.filter(|_| !self.is_direct(url)) else {
            return Ok(());
        };
        let message = format!("{variable} (or the same in lower case) is no address of a proxy");
        Err(Error::new(ErrorKind::InvalidInput, message)
            .with_hint("write http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT"))
    }

    /// Returns the proxy for a URL; with the user's name and password, if it wants them.
    pub fn of(&self, url: &Url) -> Option<&Url> {
        let proxy = match url.scheme() {
            "https" => self.https.as_ref()?,
            "http" => self.http.as_ref()?,
            _ => return None,
        };
        (!self.is_direct(url)).then_some(proxy)
    }

    /// Tells whether a URL is reached without a proxy, whatever proxies there are.
    fn is_direct(&self, url: &Url) -> bool {
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return true;
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let address: Option<IpAddr> = host.parse().ok();
        let here = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        here || self.direct.iter().any(|it| it.takes(host, address, port))
    }
}

/// Returns a proxy's address without its user.
pub fn shown(proxy: &Url) -> String {
    let host = proxy.host_str().unwrap_or_default();
    proxy.port_or_known_default().map_or(host.to_owned(), |port| format!("{host}:{port}"))
}

fn proxy(text: &str) -> Option<Url> {
    let known = |url: &Url| matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h");
    let has_scheme = text.contains("://");
    let url = if has_scheme { Url::parse(text) } else { Url::parse(&format!("http://{text}")) };
    let mut url = url.ok().filter(known)?;
    if url.scheme() == "socks5" {
        // Names are for the proxy to resolve. Other schemes are as special as this one.
        let _ = url.set_scheme("socks5h");
    }
    Some(url).filter(Url::has_host)
}

fn directs(text: &str) -> Vec<Direct> {
    let words = text.split(',').map(|word| word.trim().to_ascii_lowercase());
    words.filter(|word| !word.is_empty()).filter_map(|word| Direct::parse(&word)).collect()
}

impl Direct {
    fn parse(word: &str) -> Option<Self> {
        if word == "*" {
            return Some(Self::All);
        }
        if let Some((address, bits)) = word.split_once('/') {
            let (address, bits) = (address.parse::<IpAddr>().ok()?, bits.parse().ok()?);
            let all = if address.is_ipv4() { 32 } else { 128 };
            return (bits <= all).then_some(Self::Network(address, bits));
        }
        if let Ok(address) = word.parse() {
            return Some(Self::Address(address, None));
        }
        let (host, port) = match word.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (word, None),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = host.parse() {
            return Some(Self::Address(address, port));
        }
        let host = if host.starts_with("*.") { &host[1..] } else { host };
        match host.strip_prefix('.') {
            _ if host.is_empty() => None,
            Some(_) => Some(Self::Domain(host.to_owned(), port, false)),
            None => Some(Self::Domain(format!(".{host}"), port, true)),
        }
    }

    fn takes(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        let this_port = |wanted: &Option<u16>| wanted.is_none_or(|wanted| wanted == port);
        match self {
            Self::All => true,
            Self::Network(network, bits) => {
                address.is_some_and(|address| is_in_network(address, *network, *bits))
            }
            Self::Address(wanted, wanted_port) => {
                address == Some(*wanted) && this_port(wanted_port)
            }
            Self::Domain(domain, wanted_port, itself) => {
                let host = host.to_ascii_lowercase();
                (host.ends_with(domain.as_str()) || (*itself && host == domain[1..]))
                    && this_port(wanted_port)
            }
        }
    }
}

fn is_in_network(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let differ = u32::from(address) ^ u32::from(network);
            differ.checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let differ = u128::from(address) ^ u128::from(network);
            differ.checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(variables: &[(&str, &str)], url: &str) -> Option<String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let url = Url::parse(url).unwrap();
        Proxies::from(variable).of(&url).map(ToString::to_string)
    }

    fn is_direct(no_proxy: &str, url: &str) -> bool {
        of(&[("https_proxy", "p:3"), ("NO_PROXY", no_proxy)], url).is_none()
    }

    #[test]
    fn the_first_variable_that_is_not_empty_counts() {
        let one = [("HTTPS_PROXY", "http://a:1"), ("https_proxy", "http://b:2")];
        assert_eq!(of(&one, "https://r.example/").as_deref(), Some("http://a:1/"));
        let two = [("HTTPS_PROXY", ""), ("https_proxy", "http://b:2")];
        assert_eq!(of(&two, "https://r.example/").as_deref(), Some("http://b:2/"));
        assert_eq!(of(&two, "http://r.example/"), None);
        assert_eq!(of(&[("ALL_PROXY", "http://a:1")], "https://r.example/"), None);
        let cgi = [("HTTP_PROXY", "http://a:1"), ("REQUEST_METHOD", "GET")];
        assert_eq!(of(&cgi, "http://r.example/"), None);
    }

    #[test]
    fn a_proxy_may_lack_its_scheme_and_have_a_user() {
        let proxy = |text| of(&[("http_proxy", text)], "http://r.example/");
        assert_eq!(proxy("p:3128").as_deref(), Some("http://p:3128/"));
        assert_eq!(proxy("u:w@p:3128").as_deref(), Some("http://u:w@p:3128/"));
        assert_eq!(proxy("socks5://p:1080").as_deref(), Some("socks5h://p:1080"));
        assert_eq!(proxy("https://p").as_deref(), Some("https://p/"));
        for none in ["a b", "http://", "ftp://p:3", "http://u:w@p:99999", "p:x"] {
            assert_eq!(proxy(none), None, "{none}");
        }
        let broken = Proxies::from(|name| (name == "http_proxy").then(|| "u:hush@p:x".to_owned()));
        let check = |url| broken.check(&Url::parse(url).unwrap());
        assert!(check("https://r.example/").is_ok());
        assert!(check("http://127.0.0.1:5000/").is_ok(), "it is reached without a proxy");
        let error = check("http://r.example/").unwrap_err();
        assert!(error.message().contains("HTTP_PROXY") && !error.message().contains("hush"));
        let url = Url::parse("http://u:w@p:3128").unwrap();
        assert_eq!(shown(&url), "p:3128");
    }

    #[test]
    fn what_is_reached_directly_is_said_in_many_ways() {
        for (no_proxy, url) in [
            ("*", "https://r.example/"),
            ("r.example", "https://r.example/"),
            ("R.Example", "https://r.example:5000/"),
            ("r.example", "https://deep.r.example/"),
            (".r.example", "https://deep.r.example/"),
            ("*.r.example", "https://deep.r.example/"),
            ("a, r.example:443 ", "https://r.example/"),
            ("r.example:5000", "https://r.example:5000/"),
            ("10.1.2.3", "https://10.1.2.3/"),
            ("10.1.2.3:5000", "https://10.1.2.3:5000/"),
            ("10.1.0.0/16", "https://10.1.2.3/"),
            ("0.0.0.0/0", "https://10.1.2.3/"),
            ("fd00::/8", "https://[fd12::1]/"),
            ("[fd12::1]:443", "https://[fd12::1]/"),
            ("", "https://localhost/"),
            ("", "https://127.0.0.2:5000/"),
            ("", "https://[::1]/"),
        ] {
            assert!(is_direct(no_proxy, url), "{no_proxy} {url}");
        }
        for (no_proxy, url) in [
            ("", "https://r.example/"),
            (".r.example", "https://r.example/"),
            ("*.r.example", "https://r.example/"),
            ("r.example", "https://other-r.example/"),
            ("r.example:5000", "https://r.example/"),
            ("10.1.2.3:5000", "https://10.1.2.3/"),
            ("10.1.0.0/16", "https://10.2.2.3/"),
            ("10.1.0.0/33", "https://10.1.2.3/"),
            ("fd00::/8", "https://10.1.2.3/"),
        ] {
            assert!(!is_direct(no_proxy, url), "{no_proxy} {url}");
        }
    }

    proptest! {
        #[test]
        fn no_environment_makes_it_panic(proxy: String, no_proxy in "[a-z0-9.:/*\\[\\], ]{0,40}") {
            of(&[("https_proxy", &proxy), ("NO_PROXY", &no_proxy)], "https://r.example/");
            of(&[("https_proxy", &proxy), ("NO_PROXY", &no_proxy)], "https://[fd12::1]:5000/");
        }
    }
}
