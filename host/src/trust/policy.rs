//! policy.json: reading it, finding what applies to an image, and deciding.
//!
//! # Source
//! containers-policy.json(5).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use diolkos_sdk::{Error, ErrorKind, Names, Result, ResultExt as _, Transport};

use super::requirement::{Requirement, parse_list};
use super::strict::{Strict, invalid};

/// The policy of the whole system.
const SYSTEM_PATH: &str = "/etc/containers/policy.json";
/// The user's policy, below the home directory.
const USER_PATH: &str = ".config/containers/policy.json";

/// Requirements by scope; the empty scope is the transport's default.
type Scopes = BTreeMap<String, Vec<Requirement>>;

/// What may be copied from where, as policy.json has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    origin: Origin,
    default: Vec<Requirement>,
    transports: BTreeMap<String, Scopes>,
}

/// Where a policy comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `--insecure-policy`.
    CommandLine,
    /// A file.
    File(PathBuf),
    /// Nowhere is a policy.json, so the one that distributions ship is in force.
    BuiltIn,
}

impl Policy {
    /// Returns the policy of `--insecure-policy`: everything may be copied, no file is read.
    pub fn insecure_accept_anything() -> Self {
        Self {
            origin: Origin::CommandLine,
            default: vec![Requirement::InsecureAcceptAnything],
            transports: BTreeMap::new(),
        }
    }

    /// Returns the policy in force where no policy.json exists anywhere, as distributions ship it.
    pub fn default_when_absent() -> Self {
        Self { origin: Origin::BuiltIn, ..Self::insecure_accept_anything() }
    }

    /// Loads `path`, or without one the user's file, the system's, or the built-in default.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] with the file's name for a file that is not a policy; the
    /// operating system's error for one that cannot be read.
    pub fn load(path: Option<&Path>) -> Result<Self> {
        let home = std::env::home_dir();
        Self::load_from(path, home.as_deref(), Path::new(SYSTEM_PATH))
    }

    fn load_from(path: Option<&Path>, home: Option<&Path>, system: &Path) -> Result<Self> {
        let found = match path {
            Some(path) => Some(path.to_owned()),
            None => home
                .map(|home| home.join(USER_PATH))
                .into_iter()
                .chain([system.to_owned()])
                .find(|path| path.exists()),
        };
        match found {
            None => Ok(Self::default_when_absent()),
            Some(path) => Self::read(path).context(|| "Error loading trust policy"),
        }
    }

    fn read(path: PathBuf) -> Result<Self> {
        let bytes = std::fs::read(&path)
            .map_err(|error| Error::io(format!("open {}", path.display()), error))?;
        Self::parse(&bytes, Origin::File(path.clone()))
            .context(|| format!("invalid policy in {:?}", path.display().to_string()))
    }

    /// Parses a policy; every key must be known and appear once.
    fn parse(bytes: &[u8], origin: Origin) -> Result<Self> {
        let text = std::str::from_utf8(bytes).map_err(|_| invalid("it is not UTF-8"))?;
        let document = Strict::open(text, |key| matches!(key, "default" | "transports"))?;
        let default = document
            .raw("default")
            .map(|list| parse_list(list).map_err(|error| at(error, "default", None)))
            .transpose()?;
        let mut transports = BTreeMap::new();
        if let Some(value) = document.raw("transports") {
            for (transport, value) in Strict::open(value.get(), |_| true)?.entries() {
                let mut scopes = Scopes::new();
                for (scope, list) in Strict::open(value.get(), |_| true)?.entries() {
                    let list =
                        parse_list(list).map_err(|error| at(error, transport, Some(scope)))?;
                    scopes.insert(scope.to_owned(), list);
                }
                transports.insert(transport.to_owned(), scopes);
            }
        }
        let default = default.ok_or_else(|| invalid("Default policy is missing"))?;
        Ok(Self { origin, default, transports })
    }

    /// Returns where the policy comes from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Checks the scopes that the policy has for a transport, whose syntax only it knows.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a scope that no image of the transport could ever have.
    pub fn check_scopes(&self, name: &str, transport: &dyn Transport) -> Result<()> {
        let scopes = self.transports.get(name).into_iter().flat_map(Scopes::keys);
        for scope in scopes.filter(|scope| !scope.is_empty()) {
            transport.check_policy_scope(scope).map_err(|error| {
                let file = match &self.origin {
                    Origin::File(path) => path.display().to_string(),
                    Origin::CommandLine | Origin::BuiltIn => String::new(),
                };
                invalid("Error loading trust policy").with_source(
                    invalid(format!("invalid policy in {file:?}: Unknown key {scope:?}"))
                        .with_source(error),
                )
            })?;
        }
        Ok(())
    }

    /// Decides whether an image may be copied.
    ///
    /// Of all scopes that the policy has for the image, the most specific one counts alone; its
    /// requirements must all be met.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] with the reason: `Source image rejected: ...`.
    pub fn check(&self, transport: &str, names: &Names, require_signed: bool) -> Result<()> {
        let decided = self
            .requirements(transport, names)
            .iter()
            .try_for_each(|requirement| decide(*requirement, transport, names));
        // No requirement that passes above has verified a signature.
        let decided = decided.and_then(|()| {
            if !require_signed {
                return Ok(());
            }
            Err(denied(format!(
                "No signature verification policy found for image {transport}:{}",
                names.policy_identity
            )))
        });
        decided.map_err(|error| self.with_place(error)).context(|| "Source image rejected")
    }

    /// Says where the policy is that refused an image, unless the error has better advice.
    fn with_place(&self, error: Error) -> Error {
        match &self.origin {
            Origin::File(path) if error.hint().is_none() => {
                let hint = format!(
                    "look at the policy in `{}`, or name another with --policy",
                    path.display()
                );
                error.with_hint(hint)
            }
            _ => error,
        }
    }

    /// Returns the requirements for an image.
    fn requirements(&self, transport: &str, names: &Names) -> &[Requirement] {
        let Some(scopes) = self.transports.get(transport) else { return &self.default };
        std::iter::once(names.policy_identity.as_str())
            .filter(|identity| !identity.is_empty())
            .chain(names.policy_namespaces.iter().map(String::as_str))
            .chain([""])
            .find_map(|scope| scopes.get(scope))
            .unwrap_or(&self.default)
    }
}

fn decide(requirement: Requirement, transport: &str, names: &Names) -> Result<()> {
    match requirement {
        Requirement::InsecureAcceptAnything => Ok(()),
        Requirement::Reject => Err(denied(format!(
            "Running image {transport}:{} is rejected by policy.",
            names.details
        ))),
        Requirement::SignedBaseLayer => Err(denied("signedBaseLayer not implemented yet!")),
        Requirement::SignedBy | Requirement::SigstoreSigned => Err(denied(format!(
            "the policy requires a signature ({requirement}), and this version cannot verify \
             signatures"
        ))
        .with_hint(
            "give a policy that does not require one with `--policy`, if the image is trusted by \
             other means",
        )),
    }
}

fn denied(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Denied, message)
}

/// Adds to an error where in the file it is.
fn at(error: Error, section: &str, scope: Option<&str>) -> Error {
    error.with_hint(match scope {
        None => format!("look at the requirements of `{section}`"),
        Some("") => format!("look at the requirements of transport `{section}`"),
        Some(scope) => format!("look at the requirements of transport `{section}`, `{scope}`"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ACCEPT: &str = r#"[{"type":"insecureAcceptAnything"}]"#;
    const REJECT: &str = r#"[{"type":"reject"}]"#;

    fn policy(text: &str) -> Policy {
        Policy::parse(text.as_bytes(), Origin::BuiltIn).unwrap()
    }

    fn error_of(text: &str) -> String {
        Policy::parse(text.as_bytes(), Origin::BuiltIn).unwrap_err().to_string()
    }

    fn busybox() -> Names {
        Names {
            details: "//busybox:latest".into(),
            policy_identity: "docker.io/library/busybox:latest".into(),
            policy_namespaces: vec![
                "docker.io/library/busybox".into(),
                "docker.io/library".into(),
                "docker.io".into(),
                "*.io".into(),
            ],
            ..Names::default()
        }
    }

    #[test]
    fn the_most_specific_scope_counts_alone() {
        let text = format!(
            r#"{{"default":{REJECT},"transports":{{"docker":{{"docker.io":{REJECT},
                "docker.io/library":{ACCEPT},"":{REJECT}}},"dir":{{"/x":{ACCEPT}}}}}}}"#
        );
        let policy = policy(&text);
        policy.check("docker", &busybox(), false).unwrap();
        let other = Names { policy_identity: "docker.io/x".into(), ..busybox() };
        policy.check("docker", &other, false).unwrap();
        let elsewhere = Names { policy_namespaces: vec!["quay.io".into()], ..other };
        assert!(policy.check("docker", &elsewhere, false).is_err());
        let in_dir = |identity: &str| Names {
            details: identity.into(),
            policy_identity: identity.into(),
            ..Names::default()
        };
        policy.check("dir", &in_dir("/x"), false).unwrap();
        let error = policy.check("dir", &in_dir("/y"), false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert_eq!(
            error.chain().join(": "),
            "Source image rejected: Running image dir:/y is rejected by policy."
        );
        assert!(policy.check("oci", &in_dir(""), false).is_err(), "the default applies");
    }

    #[test]
    fn a_refusal_says_which_file_is_the_policy() {
        let mut policy = policy(&format!(r#"{{"default":{REJECT}}}"#));
        policy.origin = Origin::File("/etc/p.json".into());
        let error = policy.check("docker", &busybox(), false).unwrap_err();
        assert!(error.hint().unwrap().contains("`/etc/p.json`"));
    }

    #[test]
    fn an_image_without_identity_does_not_match_the_empty_scope_as_its_own() {
        let text =
            format!(r#"{{"default":{ACCEPT},"transports":{{"x":{{"":{REJECT},"a":{ACCEPT}}}}}}}"#);
        let names = Names { policy_namespaces: vec!["a".into()], ..Names::default() };
        policy(&text).check("x", &names, false).unwrap();
    }

    #[test]
    fn all_requirements_must_be_met() {
        let text = r#"{"default":[{"type":"insecureAcceptAnything"},{"type":"reject"}]}"#;
        assert!(policy(text).check("docker", &busybox(), false).is_err());
    }

    #[test]
    fn signatures_that_cannot_be_verified_are_never_taken_as_verified() {
        for requirement in [
            r#"{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k"}"#,
            r#"{"type":"sigstoreSigned","keyPath":"/k"}"#,
        ] {
            let policy = policy(&format!(r#"{{"default":[{requirement}]}}"#));
            let error = policy.check("docker", &busybox(), false).unwrap_err();
            assert_eq!(error.message(), "Source image rejected");
            assert!(error.chain()[1].contains("cannot verify signatures"));
            assert!(error.hint().is_some());
        }
        let error =
            Policy::insecure_accept_anything().check("docker", &busybox(), true).unwrap_err();
        assert_eq!(
            error.chain().join(": "),
            "Source image rejected: No signature verification policy found for image \
             docker:docker.io/library/busybox:latest"
        );
    }

    #[test]
    fn reading_is_strict() {
        for (text, expected) in [
            ("{}", "Default policy is missing"),
            (r#"{"default":[]}"#, "List of verification policy requirements must not be empty"),
            (r#"{"default":null}"#, "List of verification policy requirements must not be empty"),
            (r#"{"default":[{"type":"reject"}],"default":[]}"#, r#"Duplicate key "default""#),
            (r#"{"comment":"x"}"#, r#"Unknown key "comment""#),
            (
                r#"{"default":[{"type":"reject"}],"transports":null}"#,
                "JSON object expected, got <nil>",
            ),
            (
                r#"{"default":[{"type":"reject"}],"transports":{"docker":[]}}"#,
                "JSON object expected, got 91",
            ),
            (
                r#"{"default":[{"type":"reject"}],"transports":{"a":{"x":[],"x":[]}}}"#,
                r#"Duplicate key "x""#,
            ),
            ("[]", "JSON object expected, got 91"),
        ] {
            assert_eq!(error_of(text), expected, "{text}");
        }
        for broken in ["", "{", r#"{"default":[{"type":"reject"}]} x"#] {
            assert!(error_of(broken).starts_with("invalid JSON: "), "{broken}");
        }
    }

    #[test]
    fn scopes_are_checked_by_the_transport_that_they_are_for() {
        struct Paths;
        impl Transport for Paths {
            fn parse(&self, _: &str) -> Result<Box<dyn diolkos_sdk::ImageRef>> {
                unreachable!("no reference is parsed")
            }
            fn check_policy_scope(&self, scope: &str) -> Result<()> {
                if scope.starts_with('/') { Ok(()) } else { Err(invalid("not a path")) }
            }
        }
        let scopes = |scopes: &str| {
            let text = format!(r#"{{"default":{REJECT},"transports":{{"dir":{{{scopes}}}}}}}"#);
            policy(&text).check_scopes("dir", &Paths)
        };
        scopes(&format!(r#""":{REJECT},"/x":{REJECT}"#)).unwrap();
        let error = scopes(&format!(r#""x":{REJECT}"#)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.chain()[1].ends_with("Unknown key \"x\""), "{error:?}");
        policy(&format!(r#"{{"default":{REJECT}}}"#)).check_scopes("oci", &Paths).unwrap();
    }

    #[test]
    fn the_users_file_comes_before_the_systems_and_neither_before_the_one_given() {
        let dir = tempfile::tempdir().unwrap();
        let (home, system) = (dir.path().join("home"), dir.path().join("policy.json"));
        let load = |path: Option<&Path>| Policy::load_from(path, Some(&home), &system);
        assert_eq!(*load(None).unwrap().origin(), Origin::BuiltIn);

        std::fs::write(&system, format!(r#"{{"default":{REJECT}}}"#)).unwrap();
        assert_eq!(*load(None).unwrap().origin(), Origin::File(system.clone()));

        let own = home.join(USER_PATH);
        std::fs::create_dir_all(own.parent().unwrap()).unwrap();
        std::fs::write(&own, "{").unwrap();
        let error = load(None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.message(), "Error loading trust policy");
        assert_eq!(error.chain()[1], format!("invalid policy in {:?}", own.to_str().unwrap()));

        assert!(load(Some(&system)).is_ok());
        let missing = dir.path().join("missing");
        let error = load(Some(&missing)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.chain()[1], format!("open {}", missing.display()));
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "\\PC{0,80}") {
            let _ = Policy::parse(text.as_bytes(), Origin::BuiltIn);
        }

        #[test]
        fn a_policy_with_one_byte_changed_is_read_or_refused(at in 0_usize..150, byte: u8) {
            let mut text = format!(
                r#"{{"default":{REJECT},"transports":{{"docker":{{"a":[{{"type":"signedBy","keyType":"GPGKeys","keyData":"AAAA"}}]}}}}}}"#
            ).into_bytes();
            let at = at % text.len();
            text[at] = byte;
            let _ = Policy::parse(&text, Origin::BuiltIn);
        }
    }
}
