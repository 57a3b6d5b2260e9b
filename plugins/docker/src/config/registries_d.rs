//! containers-registries.d(5): where the signatures of images are.
//!
//! Every `*.yaml` of one directory is read; no namespace may be described twice. Of the sections
//! about an image the most specific one that says something about the question at hand holds.
//! (The manual has it that more general ones are never asked; the programs of the field do ask
//! them, and so do we.)

// What is left over is collected in a map, for Serde fills no sets.
#![allow(clippy::zero_sized_map_values)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use diolkos_sdk::{Digest, Reference, Result};
use reqwest::Url;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::places::Places;
use super::text::{self, invalid};
use super::yaml;

/// What a place of signatures is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    /// Also for deleting.
    Write,
}

/// What is said about signatures, merged from all files.
#[derive(Debug, Default)]
pub(crate) struct RegistriesD {
    default: Option<Found>,
    /// By scope: a registry, a namespace, a repository, an image, or `*.domain`.
    scopes: BTreeMap<String, Found>,
    /// Where signatures are unless something else is said; not known without a home.
    usual: Option<PathBuf>,
    notes: Vec<String>,
}

/// Keys that mean nothing here.
type Unknown = BTreeMap<String, IgnoredAny>;

/// A section and the file that has it.
#[derive(Debug)]
struct Found {
    section: Section,
    file: PathBuf,
}

/// One file as it is written.
#[derive(Debug, Default, Deserialize)]
struct File {
    #[serde(rename = "default-docker")]
    default: Option<Section>,
    docker: Option<BTreeMap<String, Option<Section>>>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Section {
    lookaside: Option<String>,
    lookaside_staging: Option<String>,
    // The old names of the same.
    sigstore: Option<String>,
    sigstore_staging: Option<String>,
    use_sigstore_attachments: Option<bool>,
    #[serde(flatten)]
    unknown: Unknown,
}

impl Section {
    /// Returns the first place that is named; an empty text names none.
    fn place(&self, access: Access) -> Option<&str> {
        let staging = match access {
            Access::Read => [&None, &None],
            Access::Write => [&self.lookaside_staging, &self.sigstore_staging],
        };
        let places = staging.into_iter().chain([&self.lookaside, &self.sigstore]);
        places.flatten().map(String::as_str).find(|place| !place.is_empty())
    }
}

impl RegistriesD {
    /// Reads the directory `explicit`, else the user's if it exists, else the system's. One that
    /// does not exist says nothing.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](diolkos_sdk::ErrorKind::InvalidInput) for a file that makes no
    /// sense, and for two that say something of one namespace.
    ///
    /// # Source
    /// containers-registries.d(5).
    pub fn load(places: &Places, explicit: Option<&Path>) -> Result<Self> {
        // Always below ~/.config: other programs do not ask $XDG_CONFIG_HOME for this one.
        let user = places.in_home(".config/containers/registries.d").filter(|dir| dir.exists());
        let dir = match (explicit, user) {
            (Some(dir), _) => dir.to_owned(),
            (None, Some(dir)) => dir,
            (None, None) => places.system_containers().join("registries.d"),
        };
        let usual = if places.uid == 0 {
            Some(PathBuf::from("/var/lib/containers/sigstore"))
        } else {
            places.in_home(".local/share/containers/sigstore")
        };
        let mut conf = Self { usual, ..Self::default() };
        for path in text::list(&dir, ".yaml")? {
            // One that is gone by now was removed at this moment.
            if let Some(text) = text::read_if_any(&path)? {
                conf.merge(&text, &path)?;
            }
        }
        Ok(conf)
    }

    /// Adds a file.
    fn merge(&mut self, text: &str, path: &Path) -> Result<()> {
        let parsing = || format!("parsing `{}`", path.display());
        let file = yaml::parse::<File>(text).map_err(|error| error.context(parsing()))?;
        let file = file.unwrap_or_default();
        self.note(path, "", &file.unknown);
        if let Some(section) = file.default {
            self.note(path, " of default-docker", &section.unknown);
            let found = Found { section, file: path.to_owned() };
            if let Some(first) = self.default.replace(found) {
                return Err(twice("\"default-docker\"", &first.file, path));
            }
        }
        for (scope, section) in file.docker.unwrap_or_default() {
            let section = section.unwrap_or_default();
            self.note(path, &format!(" of {scope}"), &section.unknown);
            let found = Found { section, file: path.to_owned() };
            let what = format!("\"docker\" namespace {scope:?}");
            if let Some(first) = self.scopes.insert(scope, found) {
                return Err(twice(&what, &first.file, path));
            }
        }
        Ok(())
    }

    fn note(&mut self, path: &Path, place: &str, unknown: &Unknown) {
        self.notes.extend(
            unknown
                .keys()
                .map(|key| format!("{}: the key `{key}`{place} is ignored", path.display())),
        );
    }

    /// Returns the sections about an image, most specific first, `default-docker` last.
    fn about(&self, name: &Reference) -> impl Iterator<Item = &Found> {
        let scopes = scopes(name);
        scopes.into_iter().filter_map(|scope| self.scopes.get(&scope)).chain(&self.default)
    }

    /// Returns the URL below which the signatures of a repository are: that of a directory whose
    /// name [`signature_url`] completes. `None` if nothing is said and the user has no home.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](diolkos_sdk::ErrorKind::InvalidInput) if what is said is no URL.
    pub fn lookaside(&self, name: &Reference, access: Access) -> Result<Option<Url>> {
        let said = self.about(name).find_map(|found| Some((found.section.place(access)?, found)));
        let (mut url, base) = if let Some((text, found)) = said {
            let url = Url::parse(text).ok().filter(|url| !url.cannot_be_a_base());
            let url = url.ok_or_else(|| {
                invalid(format!(
                    "invalid signature storage URL `{text}` in `{}`",
                    found.file.display()
                ))
                .with_hint("begin it with https://, http:// or file:///")
            })?;
            // A URL without a path has one slash too, which is not written.
            let is_bare = url.path() == "/" && !text.ends_with('/');
            let base = if is_bare { String::new() } else { url.path().to_owned() };
            (url, base)
        } else {
            let url = self.usual.as_ref().and_then(|path| Url::from_file_path(path).ok());
            let Some(url) = url else { return Ok(None) };
            let base = url.path().to_owned();
            (url, base)
        };
        url.set_path(&format!("{base}/{}", name.path()));
        Ok(Some(url))
    }

    /// Tells whether signatures that are kept in the registry as sigstore attachments are read
    /// and written.
    pub fn uses_sigstore_attachments(&self, name: &Reference) -> bool {
        self.about(name).find_map(|found| found.section.use_sigstore_attachments).unwrap_or(false)
    }

    /// Returns what is odd about the files, though no error, for the log.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// Returns the URL of one signature of a manifest, counted from zero, below [`RegistriesD::lookaside`].
pub(crate) fn signature_url(base: &Url, manifest: &Digest, index: usize) -> Url {
    let mut url = base.clone();
    url.set_path(&format!(
        "{}@{}={}/signature-{}",
        base.path(),
        manifest.algorithm().name(),
        manifest.hex(),
        index + 1
    ));
    url
}

/// Parses a file alone: for those who try texts out.
///
/// # Errors
/// As for [`RegistriesD::load`].
pub(crate) fn parse(text: &str, path: &Path) -> Result<RegistriesD> {
    let mut conf = RegistriesD::default();
    conf.merge(text, path)?;
    Ok(conf)
}

fn twice(what: &str, first: &Path, second: &Path) -> diolkos_sdk::Error {
    invalid(format!(
        "error parsing signature storage configuration: {what} defined both in `{}` and `{}`",
        first.display(),
        second.display()
    ))
}

/// Returns what a section about an image may be called, most specific first: the image, its
/// repository, the namespaces above, the registry, and the domains above it as wildcards, which
/// never have a port.
fn scopes(name: &Reference) -> Vec<String> {
    let repository = name.name();
    let image = name.to_string();
    let mut scopes = vec![image];
    if scopes[0] != repository {
        scopes.push(repository.clone());
    }
    let mut rest = repository.as_str();
    while let Some((parent, _)) = rest.rsplit_once('/') {
        scopes.push(parent.to_owned());
        rest = parent;
    }
    let mut host = rest.split(':').next().unwrap_or_default();
    while let Some((_, parent)) = host.split_once('.') {
        scopes.push(format!("*.{parent}"));
        host = parent;
    }
    scopes
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const FULL: &str = "
default-docker:
  lookaside-staging: file:///mnt/common/staging
docker:
  registry.example:
    lookaside: https://registry.example/sigs/
    use-sigstore-attachments: true
  registry.example/team:
    lookaside: https://team.example:8080
    lookaside-staging: file:///mnt/team
  registry.example/team/app:branch:
    sigstore: http://localhost:4242/old
    sigstore-staging: file:///home/me/old
    use-sigstore-attachments: false
  '*.example.org':
    lookaside: https://org.example/x?key=1
  empty.example:
";

    fn of(text: &str) -> RegistriesD {
        parse(text, Path::new("r.yaml")).unwrap()
    }

    fn url(conf: &RegistriesD, name: &str, access: Access) -> Option<String> {
        conf.lookaside(&name.parse().unwrap(), access).unwrap().map(String::from)
    }

    #[test]
    fn the_most_specific_section_holds() {
        let conf = of(FULL);
        for (name, read, write) in [
            (
                "registry.example/app:1",
                "https://registry.example/sigs//app",
                "https://registry.example/sigs//app",
            ),
            (
                "registry.example/team/x:1",
                "https://team.example:8080/team/x",
                "file:///mnt/team/team/x",
            ),
            (
                "registry.example/team/app:branch",
                "http://localhost:4242/old/team/app",
                "file:///home/me/old/team/app",
            ),
            (
                "registry.example/team/app:other",
                "https://team.example:8080/team/app",
                "file:///mnt/team/team/app",
            ),
            (
                "a.b.example.org:5000/x:1",
                "https://org.example/x/x?key=1",
                "https://org.example/x/x?key=1",
            ),
        ] {
            assert_eq!(url(&conf, name, Access::Read).as_deref(), Some(read), "{name}");
            assert_eq!(url(&conf, name, Access::Write).as_deref(), Some(write), "{name}");
        }
    }

    #[test]
    fn a_section_that_says_nothing_of_the_question_leaves_it_to_the_next() {
        let conf = of(FULL);
        let write = url(&conf, "empty.example/app:1", Access::Write);
        assert_eq!(write.as_deref(), Some("file:///mnt/common/staging/app"));
        assert_eq!(url(&conf, "empty.example/app:1", Access::Read), None);
        let attachments =
            |name: &str| conf.uses_sigstore_attachments(&name.parse::<Reference>().unwrap());
        assert!(attachments("registry.example/team/app:other"));
        assert!(!attachments("registry.example/team/app:branch"));
        assert!(!attachments("elsewhere.example/app:1"));
    }

    #[test]
    fn the_scopes_of_an_image_go_from_itself_to_the_domains_above() {
        let of = |text: &str| scopes(&text.parse().unwrap());
        assert_eq!(
            of("a.b.c:5000/d/e:1"),
            ["a.b.c:5000/d/e:1", "a.b.c:5000/d/e", "a.b.c:5000/d", "a.b.c:5000", "*.b.c", "*.c"]
        );
        assert_eq!(
            of("busybox"),
            ["docker.io/library/busybox", "docker.io/library", "docker.io", "*.io"]
        );
        assert_eq!(of("[::1]:5000/x"), ["[::1]:5000/x", "[::1]:5000"]);
    }

    #[test]
    fn without_any_word_signatures_are_in_the_usual_directory() {
        let dir = tempfile::tempdir().unwrap();
        let mut places = Places::below(dir.path());
        let usual = |places: &Places| {
            url(&RegistriesD::load(places, None).unwrap(), "q.io/a/b:1", Access::Read)
        };
        let home = dir.path().join("home/.local/share/containers/sigstore/a/b");
        assert_eq!(usual(&places), Some(format!("file://{}", home.display())));
        places.uid = 0;
        let system = "file:///var/lib/containers/sigstore/a/b";
        assert_eq!(usual(&places).as_deref(), Some(system));
        places.uid = 1000;
        places.home = None;
        assert_eq!(usual(&places), None);
    }

    #[test]
    fn one_directory_is_read_the_named_one_the_users_or_the_systems() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::below(dir.path());
        let named = dir.path().join("named");
        let host = |explicit: Option<&Path>| {
            let conf = RegistriesD::load(&places, explicit).unwrap();
            url(&conf, "q.io/a:1", Access::Read)
        };
        let usual = host(None);
        for (path, host_name) in [
            ("etc/containers/registries.d", "system.example"),
            ("home/.config/containers/registries.d", "user.example"),
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("x.yml"), "not read").unwrap();
            fs::write(
                path.join("x.yaml"),
                format!("default-docker: {{lookaside: 'https://{host_name}'}}"),
            )
            .unwrap();
            assert_eq!(host(None), Some(format!("https://{host_name}/a")));
        }
        // One that does not exist says nothing, even if it was named.
        assert_eq!(host(Some(&named)), usual);
    }

    #[test]
    fn a_namespace_that_two_files_describe_is_an_error_that_names_both() {
        for (text, what) in [
            ("default-docker: {}", "\"default-docker\" defined both"),
            ("docker: {a.b: {}}", "\"docker\" namespace \"a.b\" defined both"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            for file in ["1.yaml", "2.yaml"] {
                fs::write(dir.path().join(file), text).unwrap();
            }
            let places = Places::below(dir.path());
            let error = RegistriesD::load(&places, Some(dir.path())).unwrap_err();
            for words in [what, "1.yaml`", "2.yaml`"] {
                assert!(error.message().contains(words), "{error}");
            }
        }
    }

    #[test]
    fn what_is_no_url_is_refused_when_it_is_used() {
        for text in ["nowhere", "/a/path", "mailto:me@example.com"] {
            let conf = of(&format!("docker: {{a.b: {{lookaside: '{text}'}}}}"));
            let error = conf.lookaside(&"a.b/c".parse().unwrap(), Access::Read).unwrap_err();
            assert!(error.message().contains(text), "{error}");
            assert!(error.message().contains("`r.yaml`"), "{error}");
            assert_eq!(url(&conf, "c.d/e", Access::Read), None);
        }
    }

    #[test]
    fn a_bare_host_and_one_with_a_slash_differ_as_they_are_written() {
        let of = |text: &str| {
            url(&of(&format!("default-docker: {{lookaside: '{text}'}}")), "a.b/c", Access::Read)
        };
        assert_eq!(of("https://h").as_deref(), Some("https://h/c"));
        assert_eq!(of("https://h/").as_deref(), Some("https://h//c"));
        assert_eq!(of("https://h/x").as_deref(), Some("https://h/x/c"));
    }

    #[test]
    fn signatures_are_numbered_from_one_below_the_digest() {
        let base = Url::parse("file:///sigs/team/app").unwrap();
        let hex = "ab".repeat(32);
        let digest = format!("sha256:{hex}").parse().unwrap();
        assert_eq!(
            signature_url(&base, &digest, 0).as_str(),
            format!("file:///sigs/team/app@sha256={hex}/signature-1")
        );
    }

    #[test]
    fn unknown_keys_are_noted_and_broken_files_are_refused_with_their_line() {
        let conf = of("other: 1\ndocker:\n  a.b:\n    lookasid: https://a.b\n");
        let notes = conf.notes().join("\n");
        assert!(notes.contains("r.yaml: the key `other` is ignored"), "{notes}");
        assert!(notes.contains("the key `lookasid` of a.b is ignored"), "{notes}");
        for text in [
            "docker: []",
            "\ndocker:\n  a.b: text",
            "docker:\n  a.b:\n    lookaside: [x]",
            "docker:\n  a.b:\n    use-sigstore-attachments: maybe",
            "docker:\n  a.b: {}\n  a.b: {}",
            "docker: {",
        ] {
            let error = parse(text, Path::new("r.yaml")).unwrap_err();
            let message = error.chain().join(": ");
            assert!(message.contains("`r.yaml`") && message.contains("line "), "{text}: {message}");
        }
        for text in ["", "# nothing", "docker:", "default-docker:", "docker: {}"] {
            assert!(of(text).notes().is_empty(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,200}") {
            let _ = parse(&text, Path::new("x"));
        }

        #[test]
        fn any_damage_to_a_valid_text_is_parsed_or_refused(
            start in 0..FULL.len(), length in 0..40usize, put in "\\PC{0,8}",
        ) {
            let mut bytes = FULL.as_bytes().to_vec();
            let end = (start + length).min(bytes.len());
            bytes.splice(start..end, put.bytes());
            if let Ok(conf) = parse(&String::from_utf8_lossy(&bytes), Path::new("x")) {
                let name = "registry.example/team/app:branch".parse().unwrap();
                let _ = conf.lookaside(&name, Access::Write);
            }
        }
    }
}
