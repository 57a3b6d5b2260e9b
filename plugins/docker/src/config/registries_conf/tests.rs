//! What the files mean together. Their parts are tested where they are.

use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A text with everything that the format has.
const FULL: &str = r#"
unqualified-search-registries = ["registry.example", "localhost:5000/"]
credential-helpers = ["containers-auth.json", "pass"]
short-name-mode = "enforcing"

[[registry]]
prefix = "example.com/foo"
location = "internal.example/bar"

[[registry.mirror]]
location = "mirror-0.example/foo"
[[registry.mirror]]
location = "mirror-1.example/foo"
insecure = true
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "mirror-2.example/foo"
pull-from-mirror = "tag-only"

[[registry]]
location = "digests.example"
mirror-by-digest-only = true
mirror = [{ location = "mirror.example/d" }]

[[registry]]
prefix = "*.wild.example"
insecure = true

[[registry]]
location = "bad.example"
blocked = true

[aliases]
"app" = "quay.io/me/app"
"#;

fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

fn of(text: &str) -> RegistriesConf {
    parse(text, Path::new("r.conf")).unwrap()
}

fn refusal(text: &str) -> String {
    let error = parse(text, Path::new("r.conf")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    let text = error.chain().join(": ");
    assert!(text.contains("`r.conf`"), "{text}");
    text
}

fn digested(text: &str) -> Reference {
    name(&format!("{text}@sha256:{}", "ab".repeat(32)))
}

/// The places of a name, with `!` for insecure ones.
fn places(conf: &RegistriesConf, name: &Reference) -> Vec<String> {
    let sources = conf.pull_sources(name).unwrap();
    let last = sources.len() - 1;
    let shown = sources.iter().enumerate().map(|(index, source)| {
        assert_eq!(source.is_mirror, index < last);
        let text = source.reference.without_tag_and_digest().to_string();
        format!("{text}{}", if source.insecure { "!" } else { "" })
    });
    shown.collect()
}

struct World {
    dir: TempDir,
    places: Places,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::below(dir.path());
        Self { dir, places }
    }

    fn with(self, path: &str, text: &str) -> Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn load(&self) -> RegistriesConf {
        RegistriesConf::load(&self.places, None).unwrap()
    }
}

const SYSTEM: &str = "etc/containers/registries.conf";
const SYSTEM_DIR: &str = "etc/containers/registries.conf.d";
const USER: &str = "home/.config/containers/registries.conf";
const USER_DIR: &str = "home/.config/containers/registries.conf.d";

/// A file that names itself as the registry to search.
fn search(host: &str) -> String {
    format!("unqualified-search-registries = ['{host}']\n")
}

#[test]
fn without_any_file_names_are_places_and_credentials_are_in_files() {
    let conf = World::new().load();
    assert_eq!(places(&conf, &name("a.b/c:1")), ["a.b/c"]);
    assert_eq!(conf.credential_helpers(), [AUTH_FILE_HELPER]);
    assert!(conf.unqualified_search_registries().is_empty());
    assert_eq!(conf.short_name_mode(), ShortNameMode::Permissive);
    assert_eq!(conf.alias("app").unwrap(), None);
    assert!(conf.check(&name("a.b/c:1")).is_ok());
    assert!(conf.notes().is_empty());
}

#[test]
fn every_key_is_read() {
    let conf = of(FULL);
    assert_eq!(conf.unqualified_search_registries(), ["registry.example", "localhost:5000"]);
    assert_eq!(conf.credential_helpers(), ["containers-auth.json", "pass"]);
    assert_eq!(conf.short_name_mode(), ShortNameMode::Enforcing);
    assert_eq!(conf.alias("app").unwrap().unwrap(), name("quay.io/me/app"));
    assert!(conf.find(&name("bad.example/x")).unwrap().is_blocked());
    assert!(conf.find(&name("a.wild.example/x")).unwrap().is_insecure());
    assert_eq!(conf.find(&name("bad.example/x")).unwrap().prefix(), "bad.example");
    assert_eq!(conf.notes(), &[] as &[String]);
}

#[test]
fn mirrors_that_serve_the_name_come_first_and_the_registry_itself_last() {
    let conf = of(FULL);
    assert_eq!(
        places(&conf, &name("example.com/foo/app:1")),
        ["mirror-0.example/foo/app", "mirror-2.example/foo/app", "internal.example/bar/app"]
    );
    assert_eq!(
        places(&conf, &digested("example.com/foo/app")),
        ["mirror-0.example/foo/app", "mirror-1.example/foo/app!", "internal.example/bar/app"]
    );
    assert_eq!(places(&conf, &name("digests.example/x:1")), ["digests.example/x"]);
    assert_eq!(
        places(&conf, &digested("digests.example/x")),
        ["mirror.example/d/x", "digests.example/x"]
    );
    let tag = conf.pull_sources(&name("example.com/foo/app:1")).unwrap();
    assert!(tag.iter().all(|source| source.reference.tag() == Some("1")));
}

#[test]
fn pushing_goes_to_the_name_itself() {
    let conf = of(FULL);
    let direct = conf.direct(&name("example.com/foo/app:1"));
    assert_eq!(direct.reference, name("example.com/foo/app:1"));
    assert!(!direct.is_mirror && !direct.insecure);
    assert!(conf.direct(&name("x.wild.example/app")).insecure);
}

#[test]
fn a_wildcard_without_location_leaves_the_name_alone() {
    let conf = of(FULL);
    assert_eq!(places(&conf, &name("a.b.wild.example/x:1")), ["a.b.wild.example/x!"]);
    assert!(conf.find(&name("wild.example/x:1")).is_none());
}

#[test]
fn the_longest_prefix_holds() {
    let conf = of("
        [[registry]]
        location = 'a.b'
        [[registry]]
        prefix = 'a.b/c'
        location = 'm.n/c'
        [[registry]]
        prefix = 'a.b/c/d:1'
        location = 'm.n/tagged:2'
    ");
    assert_eq!(places(&conf, &name("a.b/x:1")), ["a.b/x"]);
    assert_eq!(places(&conf, &name("a.b/c/x:1")), ["m.n/c/x"]);
    assert_eq!(places(&conf, &name("a.b/c/d:1")), ["m.n/tagged"]);
    assert_eq!(places(&conf, &name("a.b/cd:1")), ["a.b/cd"]);
}

#[test]
fn of_two_prefixes_of_one_length_the_wildcard_holds() {
    let conf = of("
        [[registry]]
        location = 'a.b.c'
        [[registry]]
        prefix = '*.b.c'
    ");
    assert_eq!(conf.find(&name("a.b.c/x")).unwrap().prefix(), "*.b.c");
}

#[test]
fn what_is_blocked_may_have_mirrors_that_are_not() {
    let conf = of("
        [[registry]]
        location = 'a.b'
        blocked = true
        mirror = [{ location = 'm.n' }]
    ");
    let sources = conf.pull_sources(&name("a.b/c:1")).unwrap();
    assert!(conf.check(&sources[0].reference).is_ok());
    let error = conf.check(&sources[1].reference).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(error.message(), "registry a.b is blocked in r.conf");
    assert_eq!(error.hint(), Some("`blocked` is set in `r.conf`"));
}

#[test]
fn a_refusal_names_the_file_and_the_directory_that_are_read() {
    let text = "[[registry]]\nlocation = 'a.b'\nblocked = true";
    for (file, dir) in [(SYSTEM, USER_DIR), (USER, USER_DIR)] {
        let world = World::new().with(file, text);
        let error = world.load().check(&name("a.b/c")).unwrap_err();
        let (file, dir) = (world.path(file), world.path(dir));
        assert_eq!(
            error.message(),
            format!("registry a.b is blocked in {} or {}", file.display(), dir.display())
        );
    }
}

#[test]
fn a_location_that_cannot_be_used_hurts_only_who_uses_it() {
    let conf = of("[[registry]]\nprefix = 'a.b'\nlocation = 'mirror'");
    let error = conf.pull_sources(&name("a.b/c:1")).unwrap_err();
    let text = error.chain().join(": ");
    assert!(text.contains("`a.b` of `r.conf`") && text.contains("rewriting reference"), "{text}");
    assert!(error.hint().is_some());
    assert!(conf.notes()[0].contains("`mirror`"), "{:?}", conf.notes());
    assert!(conf.pull_sources(&name("b.c/c:1")).is_ok());
}

#[test]
fn contradictions_and_nonsense_are_refused_with_line_and_words() {
    for (text, words) in [
        ("[[registry]]\nblocked = true", "both location and prefix are unset"),
        ("[[registry]]\nprefix = 'a.b'", "location is unset and prefix is not in the format"),
        ("[[registry]]\nprefix = '*.a.b/c'", "line 2: wildcarded prefix should be in the format"),
        ("[[registry]]\nprefix = '*.a.b:80'", "\"*.a.b:80\" is incorrectly formatted"),
        ("[[registry]]\nlocation = 'https://a.b'", "line 2: invalid location 'https://a.b'"),
        (
            "[[registry]]\nprefix = 'http://a'\nlocation='a.b'",
            "line 2: invalid location 'http://a'",
        ),
        (
            "[[registry]]\nlocation = 'a.b'\npull-from-mirror = 'all'",
            "line 3: pull-from-mirror must not be set for a non-mirror registry \"a.b\"",
        ),
        (
            "[[registry]]\nlocation = 'a.b'\n[[registry.mirror]]\ninsecure = true",
            "line 3: invalid condition: mirror location is unset",
        ),
        (
            "[[registry]]\nlocation = 'a.b'\nmirror = [{location = 'm.n', pull-from-mirror = 'x'}]",
            "line 3: unsupported pull-from-mirror value \"x\" for mirror \"m.n\"",
        ),
        (
            "[[registry]]\nlocation = 'a.b'\nmirror-by-digest-only = true\n\
             mirror = [{location = 'm.n', pull-from-mirror = 'all'}]",
            "line 4: cannot set mirror usage mirror-by-digest-only for the registry (\"a.b\")",
        ),
        (
            "[[registry]]\nlocation = 'a.b'\n[[registry]]\nprefix='c.d'\nlocation = 'a.b'\n\
             insecure = true",
            "registry 'a.b' is defined multiple times with conflicting 'insecure' setting",
        ),
        (
            "[[registry]]\nlocation = 'a.b'\n[[registry]]\nprefix='c.d'\nlocation = 'a.b'\n\
             blocked = true",
            "registry 'a.b' is defined multiple times with conflicting 'blocked' setting",
        ),
        ("[[registry]]\nlocation = 1", "line 2: `location` must be a string"),
        ("[[registry]]\nlocation = 'a.b'\ninsecure = 'yes'", "line 3: `insecure` must be true or"),
        ("[registry]\nlocation = 'a.b'", "line 1: `registry` must be an array of tables"),
        ("unqualified-search-registries = ['a.b/c']", "invalid unqualified-search-registries"),
        ("unqualified-search-registries = ['https://a.b']", "URI schemes are not supported"),
        ("unqualified-search-registries = ['']", "invalid unqualified-search-registries"),
        ("short-name-mode = 'strict'", "line 1: invalid short-name mode: \"strict\""),
        ("credential-helpers = 'pass'", "line 1: `credential-helpers` must be a list"),
        ("[aliases]\napp = 'app'", "line 2: invalid alias \"app\""),
        ("[[registry]\n", "line 1"),
    ] {
        let refusal = refusal(text);
        assert!(refusal.contains(words), "{text}: {refusal}");
    }
}

#[test]
fn of_two_tables_with_one_prefix_in_one_file_the_first_holds() {
    let conf = of("
        [[registry]]
        prefix = 'a.b'
        location = 'first.example'
        [[registry]]
        prefix = 'a.b/'
        location = 'second.example'
    ");
    assert_eq!(places(&conf, &name("a.b/c:1")), ["first.example/c"]);
}

#[test]
fn unknown_keys_are_ignored_and_noted() {
    let conf = of("
        colour = 'red'
        additional-layer-store-auth-helper = 'helper'
        [[registry]]
        location = 'a.b'
        speed = 7
        [[registry.mirror]]
        location = 'm.n'
        depth = 8
    ");
    let notes = conf.notes().join("\n");
    for words in [
        "r.conf: line 2: the key `colour` is ignored",
        "line 3: `helper` is not called",
        "line 6: the key `speed` in [[registry]] is ignored",
        "line 9: the key `depth` in [[registry.mirror]] is ignored",
    ] {
        assert!(notes.contains(words), "{notes}");
    }
}

#[test]
fn the_first_version_is_three_lists() {
    let conf = of("
        [registries.search]
        registries = ['a.b', 'c.d/']
        [registries.insecure]
        registries = ['i.j', 'both.example']
        [registries.block]
        registries = ['k.l/m', 'both.example']
    ");
    assert_eq!(conf.unqualified_search_registries(), ["a.b", "c.d"]);
    assert_eq!(places(&conf, &name("i.j/x:1")), ["i.j/x!"]);
    assert!(conf.check(&name("i.j/x:1")).is_ok());
    assert!(conf.check(&name("k.l/m/x:1")).is_err());
    assert!(conf.check(&name("k.l/x:1")).is_ok());
    let both = conf.find(&name("both.example/x")).unwrap();
    assert!(both.is_blocked() && both.is_insecure());
    let refusal = refusal("[registries.block]\nregistries = ['https://a.b']");
    assert!(refusal.contains("URI schemes are not supported"), "{refusal}");
}

#[test]
fn versions_are_not_mixed() {
    for second in ["credential-helpers = []", "short-name-mode = 'disabled'"] {
        let text = format!("{second}\n[registries.search]\nregistries = []");
        assert!(refusal(&text).contains("mixing sysregistry v1/v2 is not supported"), "{text}");
    }
    // Tables without lists say nothing.
    of("[registries.search]\n[registries.block]\n[[registry]]\nlocation = 'a.b'");
    let world = World::new()
        .with(SYSTEM, "[registries.search]\nregistries = ['a.b']")
        .with(&format!("{SYSTEM_DIR}/1.conf"), &search("c.d"));
    assert_eq!(world.load().unqualified_search_registries(), ["c.d"]);
    let world =
        World::new().with(&format!("{SYSTEM_DIR}/1.conf"), "[registries.search]\nregistries = []");
    let error = RegistriesConf::load(&world.places, None).unwrap_err();
    let text = error.chain().join(": ");
    assert!(text.contains("1.conf") && text.contains("must be in v2 format"), "{text}");
}

#[test]
fn later_files_replace_what_they_name() {
    let registry = |prefix: &str, location: &str| {
        format!("[[registry]]\nprefix = '{prefix}'\nlocation = '{location}'\n")
    };
    let world = World::new()
        .with(
            SYSTEM,
            &format!(
                "credential-helpers = ['one']\n{}short-name-mode = 'disabled'\n\
                 [aliases]\na = 'q.io/a'\nb = 'q.io/b'\n{}{}",
                search("main.example"),
                registry("kept.example", "kept.mirror.example"),
                registry("a.b", "main.example"),
            ),
        )
        .with(&format!("{SYSTEM_DIR}/20.conf"), &registry("a.b", "system-20.example"))
        .with(
            &format!("{SYSTEM_DIR}/10.conf"),
            &format!("credential-helpers = []\n{}", registry("a.b", "system-10.example")),
        )
        .with(&format!("{SYSTEM_DIR}/30.txt"), "not read")
        .with(
            &format!("{USER_DIR}/00.conf"),
            &format!("[aliases]\na = 'r.io/a'\nb = ''\n{}", registry("c.d", "user.example")),
        );
    let conf = world.load();
    assert_eq!(places(&conf, &name("kept.example/x:1")), ["kept.mirror.example/x"]);
    assert_eq!(places(&conf, &name("a.b/x:1")), ["system-20.example/x"]);
    assert_eq!(places(&conf, &name("c.d/x:1")), ["user.example/x"]);
    assert_eq!(conf.unqualified_search_registries(), ["main.example"]);
    assert_eq!(conf.credential_helpers(), [AUTH_FILE_HELPER]);
    assert_eq!(conf.short_name_mode(), ShortNameMode::Disabled);
    assert_eq!(conf.alias("a").unwrap().unwrap(), name("r.io/a"));
    assert_eq!(conf.alias("b").unwrap(), None);
}

#[test]
fn a_file_that_was_named_wins_over_those_that_are_found() {
    let mut world = World::new()
        .with("explicit.conf", &search("explicit.example"))
        .with("variable.conf", &search("variable.example"))
        .with(USER, &search("user.example"))
        .with(SYSTEM, &search("system.example"))
        .with(&format!("{SYSTEM_DIR}/1.conf"), "credential-helpers = ['system']")
        .with(&format!("{USER_DIR}/1.conf"), "short-name-mode = 'disabled'");
    let of = |world: &World, explicit: Option<&str>| {
        let explicit = explicit.map(|path| world.path(path));
        let conf = RegistriesConf::load(&world.places, explicit.as_deref()).unwrap();
        let helper = conf.credential_helpers()[0].clone();
        let search = conf.unqualified_search_registries()[0].clone();
        (search, helper == "system", conf.short_name_mode() == ShortNameMode::Disabled)
    };
    let seen = |host: &str, system, user| (host.to_owned(), system, user);
    assert_eq!(of(&world, None), seen("user.example", false, true));
    world.places.registries_conf = Some(world.path("variable.conf"));
    assert_eq!(of(&world, None), seen("variable.example", false, false));
    assert_eq!(of(&world, Some("explicit.conf")), seen("explicit.example", true, true));
    world.places.registries_conf = None;
    fs::remove_file(world.path(USER)).unwrap();
    assert_eq!(of(&world, None), seen("system.example", true, true));
}

#[test]
fn a_file_that_was_named_must_exist() {
    let mut world = World::new();
    let path = world.path("nope.conf");
    let error = RegistriesConf::load(&world.places, Some(&path)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let text = error.chain().join(": ");
    assert!(text.starts_with("loading registries configuration `"), "{text}");
    assert!(text.ends_with("nope.conf: no such file or directory"), "{text}");
    world.places.registries_conf = Some(path);
    assert!(RegistriesConf::load(&world.places, None).is_err());
    // The usual way to have none.
    assert!(RegistriesConf::load(&world.places, Some(Path::new("/dev/null"))).is_ok());
}

#[test]
fn a_choice_that_was_recorded_wins_over_an_alias_of_the_configuration() {
    let recorded = "[aliases]\napp = 'chosen.example/app'\ngone = ''\n";
    let conf = "[aliases]\napp = 'q.io/app'\ngone = 'q.io/gone'\nother = 'q.io/other'\n";
    for (uid, file) in [
        (1000, "home/.cache/containers/short-name-aliases.conf"),
        (0, "var/cache/containers/short-name-aliases.conf"),
    ] {
        let mut world = World::new().with(SYSTEM, conf).with(file, recorded);
        world.places.uid = uid;
        let conf = world.load();
        let of = |text: &str| conf.alias(text).unwrap().map(|name| name.to_string());
        assert_eq!(of("app").as_deref(), Some("chosen.example/app"));
        assert_eq!(of("gone"), None);
        assert_eq!(of("other").as_deref(), Some("q.io/other"));
        assert_eq!(of("unknown"), None);
        assert!(conf.alias("app:1").unwrap_err().message().contains("must not contain tag"));
        // Broken choices harm nobody but who asks for them.
        let world = world.with(file, "[aliases");
        assert!(world.load().alias("app").is_err());
    }
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC{0,300}") {
        let _ = parse(&text, Path::new("x"));
    }

    #[test]
    fn any_mixture_of_the_grammar_is_parsed_or_refused(
        text in "(\\[\\[registry\\]\\]\n|\\[\\[registry.mirror\\]\\]\n|\\[aliases\\]\n|\
                 (prefix|location|insecure|blocked|mirror|a) = ('[*./:@a-c]{0,8}'|true|\\[\\]|1)\n\
                 ){0,12}",
        image in "[a-c]{1,3}\\.[a-c](/[a-c]{1,2}){1,2}:[ab]",
    ) {
        if let Ok(conf) = parse(&text, Path::new("x")) {
            let name = name(&image);
            let _ = conf.pull_sources(&name);
            let _ = conf.check(&name);
        }
    }

    #[test]
    fn any_damage_to_a_valid_text_is_parsed_or_refused(
        start in 0..FULL.len(), length in 0..40usize, put in "\\PC{0,8}",
    ) {
        let mut bytes = FULL.as_bytes().to_vec();
        let end = (start + length).min(bytes.len());
        bytes.splice(start..end, put.bytes());
        if let Ok(conf) = parse(&String::from_utf8_lossy(&bytes), Path::new("x")) {
            let _ = conf.pull_sources(&name("example.com/foo/app:1"));
        }
    }
}
