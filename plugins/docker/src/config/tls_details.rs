//! containers-tls-details.yaml(5): which versions, ciphers and groups of TLS may be spoken.
//!
//! The file narrows what [`rustls`] offers by itself. What it allows and this library does not
//! have is left out, with a note; names that nobody knows are mistakes.

use std::path::Path;
use std::sync::Arc;

use diolkos_network::tls::Allowed;
use diolkos_sdk::{Error, Result};
use rustls::crypto::{CryptoProvider, ring};
use rustls::version::{TLS12, TLS13};
use rustls::{ALL_VERSIONS, CipherSuite, NamedGroup, SupportedProtocolVersion};
use serde::Deserialize;

use super::text::{self, invalid};
use super::yaml;

static ONLY_TLS12: &[&SupportedProtocolVersion] = &[&TLS12];
static ONLY_TLS13: &[&SupportedProtocolVersion] = &[&TLS13];

/// What of TLS may be spoken.
#[derive(Clone, Debug)]
pub(crate) struct TlsDetails {
    versions: &'static [&'static SupportedProtocolVersion],
    provider: Arc<CryptoProvider>,
    notes: Vec<String>,
}

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    min_version: Option<String>,
    cipher_suites: Option<Vec<String>>,
    named_groups: Option<Vec<String>>,
}

/// What nobody restricted.
impl Default for TlsDetails {
    fn default() -> Self {
        Self {
            versions: ALL_VERSIONS,
            provider: Arc::new(ring::default_provider()),
            notes: Vec::new(),
        }
    }
}

impl TlsDetails {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](diolkos_sdk::ErrorKind::InvalidInput) if it does not exist, has
    /// unknown keys or names, or allows nothing that we could speak.
    ///
    /// # Source
    /// containers-tls-details.yaml(5); names are those of IANA's TLS parameters.
    pub fn read(path: &Path) -> Result<Self> {
        parse(&text::read(path).map_err(|error| parsing(path, error))?, path)
    }

    /// Returns the versions to offer, and a provider that has cipher suites for them: the allowed
    /// ones and the allowed groups only. Their order is that of the library, which knows best.
    pub fn allowed(&self) -> Allowed {
        Allowed { versions: self.versions, provider: self.provider.clone() }
    }

    /// Returns what was left out, for the log.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// Parses a file's text.
///
/// # Errors
/// Those of [`TlsDetails::read`].
pub(crate) fn parse(text: &str, path: &Path) -> Result<TlsDetails> {
    let file = yaml::parse::<File>(text).map(Option::unwrap_or_default);
    file.and_then(TlsDetails::try_from).map_err(|error| parsing(path, error))
}

fn parsing(path: &Path, error: Error) -> Error {
    error.context(format!("parsing TLS details `{}`", path.display()))
}

impl TryFrom<File> for TlsDetails {
    type Error = Error;

    fn try_from(file: File) -> Result<Self> {
        let mut notes = Vec::new();
        let mut provider = ring::default_provider();
        if let Some(names) = &file.cipher_suites {
            let allowed = suites(names)?;
            provider.cipher_suites.retain(|suite| allowed.contains(&suite.suite()));
            let had = |suite| ring::ALL_CIPHER_SUITES.iter().any(|had| had.suite() == suite);
            let lacking = names.iter().zip(&allowed).filter(|(_, suite)| !had(**suite));
            notes.extend(lacking.map(|(name, _)| left_out("cipher suite", name)));
        }
        // None at all is what other readers of the file take for no restriction.
        if let Some(names) = file.named_groups.as_ref().filter(|names| !names.is_empty()) {
            let allowed = groups(names)?;
            provider.kx_groups.retain(|group| allowed.contains(&Some(group.name())));
            let had = |group| ring::ALL_KX_GROUPS.iter().any(|had| Some(had.name()) == group);
            let lacking = names.iter().zip(&allowed).filter(|(_, group)| !had(**group));
            notes.extend(lacking.map(|(name, _)| left_out("named group", name)));
            if provider.kx_groups.is_empty() {
                return Err(invalid(format!(
                    "no TLS named group is left: this program has none of {}",
                    names.join(", ")
                ))
                .with_hint("allow x25519, secp256r1 or secp384r1 in namedGroups"));
            }
        }
        let versions = oldest(file.min_version.as_deref(), &mut notes)?;
        provider.cipher_suites.retain(|suite| versions.contains(&suite.version()));
        if provider.cipher_suites.is_empty() {
            let what = match file.cipher_suites.as_deref() {
                None | Some([]) => "cipherSuites allows none".to_owned(),
                Some(names) => format!("this program has none of {}", names.join(", ")),
            };
            let newest = if versions.len() == 1 { " of TLS 1.3" } else { "" };
            return Err(invalid(format!("no TLS cipher suite{newest} is left: {what}"))
                .with_hint("allow TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384 or another one"));
        }
        let has = |version: &SupportedProtocolVersion| {
            provider.cipher_suites.iter().any(|suite| suite.version() == version)
        };
        let versions = match (has(&TLS12), has(&TLS13)) {
            (true, false) => ONLY_TLS12,
            (false, true) => ONLY_TLS13,
            _ => versions,
        };
        Ok(Self { versions, provider: Arc::new(provider), notes })
    }
}

fn left_out(what: &str, name: &str) -> String {
    format!("the TLS {what} `{name}` is left out, this program does not have it")
}

/// Returns the versions from the oldest allowed one on.
fn oldest(
    version: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<&'static [&'static SupportedProtocolVersion]> {
    match version {
        None | Some("" | "1.2") => Ok(ALL_VERSIONS),
        Some(version @ ("1.0" | "1.1")) => {
            notes.push(format!("TLS {version} is allowed, but nothing below 1.2 is ever spoken"));
            Ok(ALL_VERSIONS)
        }
        Some("1.3") => Ok(ONLY_TLS13),
        Some(other) => Err(invalid(format!("unrecognized TLS minimum version {other:?}"))
            .with_hint("use \"1.2\" or \"1.3\"")),
    }
}

/// Finds cipher suites by IANA's names.
fn suites(names: &[String]) -> Result<Vec<CipherSuite>> {
    // The library knows all of them by number, whether it speaks them or not.
    let all: Vec<(String, CipherSuite)> = (0..=u16::MAX)
        .filter_map(|number| {
            let suite = CipherSuite::from(number);
            let name = suite.as_str()?;
            // Only here those of TLS 1.3 are marked as such.
            Some((name.replacen("TLS13_", "TLS_", 1), suite))
        })
        .collect();
    let find = |name: &String| {
        let found = all.iter().find(|(known, _)| known == name);
        let unknown = || invalid(format!("unrecognized TLS cipher suite {name:?}"));
        found.map(|(_, suite)| *suite).ok_or_else(unknown)
    };
    names.iter().map(find).collect()
}

/// IANA's names of groups, in IANA's spelling. Those without a value no version of the library
/// has.
const GROUPS: [(&str, Option<NamedGroup>); 20] = [
    ("x25519", Some(NamedGroup::X25519)),
    ("secp256r1", Some(NamedGroup::secp256r1)),
    ("secp384r1", Some(NamedGroup::secp384r1)),
    ("secp521r1", Some(NamedGroup::secp521r1)),
    ("X25519MLKEM768", Some(NamedGroup::X25519MLKEM768)),
    ("SecP256r1MLKEM768", Some(NamedGroup::secp256r1MLKEM768)),
    ("SecP384r1MLKEM1024", None),
    ("MLKEM512", Some(NamedGroup::MLKEM512)),
    ("MLKEM768", Some(NamedGroup::MLKEM768)),
    ("MLKEM1024", Some(NamedGroup::MLKEM1024)),
    ("x448", Some(NamedGroup::X448)),
    ("ffdhe2048", Some(NamedGroup::FFDHE2048)),
    ("ffdhe3072", Some(NamedGroup::FFDHE3072)),
    ("ffdhe4096", Some(NamedGroup::FFDHE4096)),
    ("ffdhe6144", Some(NamedGroup::FFDHE6144)),
    ("ffdhe8192", Some(NamedGroup::FFDHE8192)),
    ("brainpoolP256r1tls13", None),
    ("brainpoolP384r1tls13", None),
    ("brainpoolP512r1tls13", None),
    ("curveSM2", None),
];

/// Finds groups by IANA's names.
fn groups(names: &[String]) -> Result<Vec<Option<NamedGroup>>> {
    let find = |name: &String| {
        let found = GROUPS.iter().find(|(known, _)| known == name);
        let unknown = || invalid(format!("unrecognized TLS named group {name:?}"));
        found.map(|(_, group)| *group).ok_or_else(unknown)
    };
    names.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedCipherSuite};

    use super::*;

    fn of(text: &str) -> TlsDetails {
        parse(text, Path::new("tls.yaml")).unwrap()
    }

    fn refusal(text: &str) -> String {
        let error = parse(text, Path::new("tls.yaml")).unwrap_err();
        assert_eq!(error.kind(), diolkos_sdk::ErrorKind::InvalidInput);
        let text = error.chain().join(": ");
        assert!(text.contains("`tls.yaml`"), "{text}");
        text
    }

    fn versions(details: &TlsDetails) -> Vec<ProtocolVersion> {
        details.versions.iter().map(|version| version.version).collect()
    }

    fn suites(details: &TlsDetails) -> Vec<CipherSuite> {
        details.provider.cipher_suites.iter().map(SupportedCipherSuite::suite).collect()
    }

    fn groups(details: &TlsDetails) -> Vec<NamedGroup> {
        details.provider.kx_groups.iter().map(|group| group.name()).collect()
    }

    /// Checks that the library takes what is left.
    fn is_usable(details: &TlsDetails) -> bool {
        let builder = ClientConfig::builder_with_provider(details.provider.clone())
            .with_protocol_versions(details.versions);
        builder.map(|builder| builder.with_root_certificates(RootCertStore::empty())).is_ok()
    }

    #[test]
    fn an_empty_file_restricts_nothing() {
        for text in ["", "# nothing\n", "{}", "minVersion: ''\nnamedGroups: []\n", "minVersion:"] {
            let details = of(text);
            assert_eq!(versions(&details).len(), 2, "{text}");
            assert_eq!(suites(&details), suites(&TlsDetails::default()), "{text}");
            assert_eq!(groups(&details), groups(&TlsDetails::default()), "{text}");
            assert!(details.notes().is_empty() && is_usable(&details), "{text}");
        }
    }

    #[test]
    fn only_what_is_allowed_is_left() {
        let details = of("
minVersion: 1.2
cipherSuites:
  - TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
  - TLS_AES_128_GCM_SHA256
namedGroups: [secp256r1, x25519]
");
        assert_eq!(
            suites(&details),
            [
                CipherSuite::TLS13_AES_128_GCM_SHA256,
                CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
            ]
        );
        assert_eq!(groups(&details), [NamedGroup::X25519, NamedGroup::secp256r1]);
        assert_eq!(versions(&details).len(), 2);
        assert!(is_usable(&details));
    }

    #[test]
    fn versions_without_a_cipher_suite_are_not_offered() {
        for (text, version) in [
            ("minVersion: '1.3'", ProtocolVersion::TLSv1_3),
            ("cipherSuites: [TLS_AES_128_GCM_SHA256]", ProtocolVersion::TLSv1_3),
            ("cipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]", ProtocolVersion::TLSv1_2),
        ] {
            let details = of(text);
            assert_eq!(versions(&details), [version], "{text}");
            assert!(is_usable(&details), "{text}");
        }
    }

    #[test]
    fn versions_that_are_never_spoken_may_be_allowed() {
        for version in ["1.0", "1.1"] {
            let details = of(&format!("minVersion: \"{version}\""));
            assert_eq!(versions(&details).len(), 2);
            assert!(details.notes()[0].contains(version), "{:?}", details.notes());
        }
    }

    #[test]
    fn what_this_library_lacks_is_left_out_with_a_note() {
        let details = of("
cipherSuites: [TLS_RSA_WITH_RC4_128_SHA, TLS_AES_128_CCM_SHA256, TLS_AES_256_GCM_SHA384]
namedGroups: [secp521r1, X25519MLKEM768, SecP384r1MLKEM1024, x25519]
");
        assert_eq!(suites(&details), [CipherSuite::TLS13_AES_256_GCM_SHA384]);
        assert_eq!(groups(&details), [NamedGroup::X25519]);
        let notes = details.notes().join("\n");
        for name in [
            "TLS_RSA_WITH_RC4_128_SHA",
            "TLS_AES_128_CCM_SHA256",
            "secp521r1",
            "X25519MLKEM768",
            "SecP384r1MLKEM1024",
        ] {
            assert!(notes.contains(name), "{notes}");
        }
        assert_eq!(details.notes().len(), 5);
    }

    #[test]
    fn a_file_that_leaves_nothing_is_refused() {
        for (text, words) in [
            ("cipherSuites: []", "no TLS cipher suite is left: cipherSuites allows none"),
            ("cipherSuites: [TLS_RSA_WITH_RC4_128_SHA]", "none of TLS_RSA_WITH_RC4_128_SHA"),
            (
                "minVersion: '1.3'\ncipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]",
                "no TLS cipher suite of TLS 1.3 is left",
            ),
            ("namedGroups: [secp521r1]", "no TLS named group is left"),
        ] {
            let refusal = refusal(text);
            assert!(refusal.contains(words), "{text}: {refusal}");
        }
    }

    #[test]
    fn unknown_keys_and_names_are_refused() {
        for (text, words) in [
            ("minVersion: '1.4'", "unrecognized TLS minimum version \"1.4\""),
            ("cipherSuites: [TLS_NEW]", "unrecognized TLS cipher suite \"TLS_NEW\""),
            ("cipherSuites: [TLS13_AES_128_GCM_SHA256]", "unrecognized TLS cipher suite"),
            ("namedGroups: [P-256]", "unrecognized TLS named group \"P-256\""),
            ("namedGroups: [X25519]", "unrecognized TLS named group \"X25519\""),
            ("maxVersion: '1.3'", "maxVersion"),
            ("minVersion: {}", "line 1"),
            ("\ncipherSuites: x", "line 2"),
            ("minVersion: 1.2\nminVersion: 1.3", "line 2"),
        ] {
            let refusal = refusal(text);
            assert!(refusal.contains(words), "{text}: {refusal}");
        }
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let error = TlsDetails::read(Path::new("/diolkos-has-no-such")).unwrap_err();
        assert!(error.chain()[1].contains("no such file"), "{error:?}");
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,200}") {
            let _ = parse(&text, Path::new("x"));
        }

        #[test]
        fn what_is_left_of_any_choice_is_usable(
            text in "(minVersion: '1\\.[0-4]'\n)?(cipherSuites:\n)?\
                     (- TLS_(AES_128_GCM|AES_256_GCM|ECDHE_RSA_WITH_AES_128_GCM)_SHA(256|384)\n){0,3}\
                     (namedGroups: \\[(x25519|secp(256|384|521)r1)?\\]\n)?",
        ) {
            if let Ok(details) = parse(&text, Path::new("x")) {
                prop_assert!(is_usable(&details));
            }
        }
    }
}
