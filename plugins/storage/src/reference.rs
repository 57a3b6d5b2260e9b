//! What follows `containers-storage:`, and its names.
//!
//! `[DRIVER@ROOT+RUNROOT:OPTIONS]` in front names a store; without it, the one meant is found as
//! podman finds it. Behind it comes a name with a tag or digest, an image ID after `@`, or both;
//! where there is an image of that ID, its first three digits or more do, with or without `@`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diolkos_sdk::{
    Destination, Digest, Error, ErrorKind, Host, ImageRef, Location, Names, Reference, Result,
    Session, Source,
};

use crate::config::{Places, StoreOptions};
use crate::destination::StorageDestination;
use crate::source::StorageSource;
use crate::store::Store;

/// How many digits of an image's ID are enough.
const SHORTEST_ID: usize = 3;

/// An image in a store, or a place for one.
#[derive(Clone, Debug)]
pub(crate) struct StorageRef {
    pub store: Arc<Store>,
    pub name: Option<Reference>,
    pub id: Option<String>,
}

impl StorageRef {
    /// Parses the text after `containers-storage:`.
    pub fn parse(details: &str, places: &Places) -> Result<Self> {
        if details.contains('\0') {
            return Err(invalid(details, "it contains a NUL"));
        }
        let defaults = StoreOptions::load(places)?;
        let (options, rest) = match details.strip_prefix('[') {
            None => (defaults, details),
            Some(after) => {
                let (spec, rest) = after
                    .split_once(']')
                    .ok_or_else(|| invalid(details, "the `[` of a store has no `]`"))?;
                (specified(details, spec, defaults)?, rest)
            }
        };
        let store = Arc::new(Store::locate(options)?);
        Self::of_store(store, rest)
    }

    fn of_store(store: Arc<Store>, text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(invalid(text, "it is empty"));
        }
        let (mut rest, mut id) = (text, None);
        if let Some((before, last)) = text.rsplit_once('@')
            && last.parse::<Digest>().is_err()
        {
            if last.is_empty() {
                return Err(invalid(text, "nothing follows the `@`"));
            }
            let whole = if is_id(last) { Some(last.to_owned()) } else { expand(&store, last)? };
            id = Some(whole.ok_or_else(|| {
                invalid(text, &format!("`{last}` is neither an image's ID nor a digest"))
            })?);
            rest = before;
        }
        if id.is_none() && !rest.contains(['@', ':']) {
            id = expand(&store, rest)?;
            if id.is_some() {
                rest = "";
            }
        }
        let name = match rest {
            "" => None,
            rest => Some(rest.parse::<Reference>()?.or_latest()),
        };
        if name.is_none() && id.is_none() {
            return Err(invalid(text, "it has neither a name nor an image's ID"));
        }
        Ok(Self { store, name, id })
    }

    /// Returns name and ID, as they follow the store.
    pub fn image(&self) -> String {
        let mut text = self.name.as_ref().map(ToString::to_string).unwrap_or_default();
        if let Some(id) = &self.id {
            text.push('@');
            text.push_str(id);
        }
        text
    }

    /// Returns all of it.
    pub fn details(&self) -> String {
        format!("{}{}", self.store.spec(), self.image())
    }
}

/// Returns the whole ID that begins so, if exactly one image has it.
fn expand(store: &Store, start: &str) -> Result<Option<String>> {
    if start.len() < SHORTEST_ID || !start.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(None);
    }
    // Names have no whole image behind them while a reference is parsed; nothing waits here long.
    let images = store.images(&Host::silent())?;
    let ids = images.iter().map(|found| &found.image.id).filter(|id| is_id(id));
    let mut found = ids.filter(|id| id.starts_with(start));
    let first = found.next().cloned();
    Ok(first.filter(|first| found.all(|other| other == first)))
}

/// Takes what stands between the brackets.
fn specified(details: &str, spec: &str, defaults: StoreOptions) -> Result<StoreOptions> {
    let (driver, spec) = match spec.split_once('@') {
        Some((driver, spec)) => (Some(driver.to_owned()), spec),
        None => (None, spec),
    };
    if spec.is_empty() || driver.as_deref() == Some("") {
        return Err(invalid(details, "a store is `[DRIVER@ROOT+RUNROOT:OPTIONS]`"));
    }
    let (spec, driver_options) = match spec.split_once(':') {
        Some((spec, options)) => (spec, options.split(',').map(str::to_owned).collect()),
        None => (spec, Vec::new()),
    };
    let (root, run_root) = spec.split_once('+').unwrap_or((spec, ""));
    let path = |text: &str, default: PathBuf| match text {
        "" => Ok(default),
        text if text.starts_with('/') => Ok(Path::new(text).components().collect()),
        _ => Err(invalid(details, &format!("`{text}` is no absolute path"))),
    };
    Ok(StoreOptions {
        driver,
        root: path(root, defaults.root)?,
        run_root: path(run_root, defaults.run_root)?,
        driver_options,
        is_confined: defaults.is_confined,
        ..StoreOptions::default()
    })
}

/// Tells whether text is a whole image ID.
pub(crate) fn is_id(text: &str) -> bool {
    format!("sha256:{text}").parse::<Digest>().is_ok()
}

fn invalid(text: &str, why: &str) -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        format!("invalid containers-storage: reference `{text}`: {why}"),
    )
}

/// Checks a scope: `[DRIVER@ROOT]` or `[ROOT]`, and what of an image may follow it.
///
/// # Source
/// containers-policy.json(5), `containers-storage:`.
pub(crate) fn check_policy_scope(scope: &str) -> Result<()> {
    let wrong = |why: &str| {
        let message = format!("invalid containers-storage: scope `{scope}`: {why}");
        Error::new(ErrorKind::InvalidInput, message)
    };
    let (spec, rest) = scope
        .strip_prefix('[')
        .and_then(|after| after.split_once(']'))
        .ok_or_else(|| wrong("it does not begin with `[DRIVER@ROOT]` or `[ROOT]`"))?;
    let root = match spec.split_once('@') {
        Some(("", _) | (_, "")) => return Err(wrong("driver or root is missing")),
        Some((_, root)) => root,
        None => spec,
    };
    if !root.starts_with('/') {
        return Err(wrong("the root is no absolute path"));
    }
    let parts: Vec<&str> = rest.splitn(3, '@').collect();
    let is_digest = |text: &str| text.parse::<Digest>().is_ok();
    let fits = match parts.as_slice() {
        [_, last] => is_id(last) || is_digest(last),
        [_, digest, id] => is_digest(digest) && is_id(id),
        _ => true,
    };
    if fits { Ok(()) } else { Err(wrong("what follows `@` is neither a digest nor an image's ID")) }
}

impl ImageRef for StorageRef {
    fn names(&self) -> Names {
        let scope = self.store.scope();
        let root_only = format!("[{}]", self.store.root().display());
        let mut namespaces = Vec::new();
        if let Some(name) = &self.name {
            if self.id.is_some() {
                namespaces.push(format!("{scope}{name}"));
            }
            if let (Some(tag), Some(_)) = (name.tag(), name.digest()) {
                namespaces.push(format!("{scope}{}:{tag}", name.name()));
            }
            let mut part = name.name();
            loop {
                namespaces.push(format!("{scope}{part}"));
                let Some((parent, _)) = part.rsplit_once('/') else { break };
                part = parent.to_owned();
            }
        }
        namespaces.extend([scope.clone(), root_only]);
        Names {
            details: self.details(),
            docker_reference: self.name.as_ref().map(ToString::to_string),
            policy_identity: format!("{scope}{}", self.image()),
            policy_namespaces: namespaces,
            // All images of a store share its layers.
            location: Some(Location { scope, place: String::new() }),
        }
    }

    fn open(&self, session: &Session) -> Result<Box<dyn Source>> {
        Ok(Box::new(StorageSource::open(self, session)?))
    }

    fn create(&self, session: &Session) -> Result<Box<dyn Destination>> {
        Ok(Box::new(StorageDestination::create(self, session)?))
    }

    fn delete(&self, session: &Session) -> Result<()> {
        crate::delete::delete(self, session)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::tests::below;

    fn parse(text: &str) -> Result<StorageRef> {
        let dir = tempfile::tempdir().unwrap();
        StorageRef::parse(text, &below(dir.path(), 0))
    }

    fn refused(text: &str) -> String {
        let error = parse(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
        error.message().to_owned()
    }

    #[test]
    fn names_are_those_that_policies_know() {
        let id = "ab".repeat(32);
        let names = parse(&format!("[vfs@/s+/r:vfs.sync=none]a/b:1@{id}")).unwrap().names();
        assert_eq!(names.details, format!("[vfs@/s+/r:vfs.sync=none]docker.io/a/b:1@{id}"));
        assert_eq!(names.docker_reference.as_deref(), Some("docker.io/a/b:1"));
        assert_eq!(names.policy_identity, format!("[vfs@/s]docker.io/a/b:1@{id}"));
        assert_eq!(
            names.policy_namespaces,
            [
                "[vfs@/s]docker.io/a/b:1",
                "[vfs@/s]docker.io/a/b",
                "[vfs@/s]docker.io/a",
                "[vfs@/s]docker.io",
                "[vfs@/s]",
                "[/s]"
            ]
        );
    }

    #[test]
    fn a_name_gets_a_tag_and_an_id_stands_alone() {
        let name = |text: &str| parse(text).unwrap().image();
        let (id, digest) = ("0".repeat(64), format!("sha256:{}", "1".repeat(64)));
        assert_eq!(name("[vfs@/s]busybox"), "docker.io/library/busybox:latest");
        assert_eq!(name(&format!("[vfs@/s]@{id}")), format!("@{id}"));
        let both = format!("docker.io/library/a@{digest}@{id}");
        assert_eq!(name(&format!("[vfs@/s]a@{digest}@{id}")), both);
    }

    #[test]
    fn what_is_no_reference_is_refused_with_a_reason() {
        assert!(refused("[vfs@/s]").contains("empty"));
        assert!(refused("[vfs@/s]busybox@").contains("nothing follows"));
        assert!(refused("[vfs@/s]busybox@12").contains("neither an image's ID nor a digest"));
        assert!(refused("[vfs@/s").contains("has no `]`"));
        assert!(refused("[vfs@s]a").contains("no absolute path"));
        assert!(refused("[@/s]a").contains("[DRIVER@ROOT"));
        assert_eq!(parse("[btrfs@/s]a").unwrap_err().kind(), ErrorKind::Unsupported);
        refused("[vfs@/s]UPPER:1");
    }

    #[test]
    fn scopes_are_checked() {
        let id = "0".repeat(64);
        for scope in ["[/s]", "[overlay@/s]docker.io/a", &format!("[/s]a:1@{id}")] {
            check_policy_scope(scope).unwrap();
        }
        for scope in ["", "/s", "[s]", "[@/s]", "[/s]a@12", &format!("[/s]a@{id}@{id}")] {
            assert!(check_policy_scope(scope).is_err(), "{scope}");
        }
    }

    proptest! {
        #[test]
        fn details_parse_again_to_the_same_names(text in "[a-z0-9./:@_]{0,40}") {
            if let Ok(reference) = parse(&format!("[vfs@/s+/r]{text}")) {
                let again = parse(&reference.details()).unwrap();
                prop_assert_eq!(again.names(), reference.names());
            }
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in "\\PC{0,80}", scope in "\\PC{0,40}") {
            let _ = parse(&text);
            let _ = check_policy_scope(&scope);
        }
    }
}
