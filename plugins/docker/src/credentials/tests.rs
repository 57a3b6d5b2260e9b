//! Searches and changes across files and helpers.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use diolkos_sdk::{HostServices, LogLevel};
use serde_json::{Value, json};

use super::tests_support::Scripts;
use super::*;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl HostServices for Log {
    fn is_cancelled(&self) -> bool {
        false
    }
    fn log(&self, _: LogLevel, message: &str) {
        self.0.lock().unwrap().push(message.to_owned());
    }
}

/// A home with helper programs.
struct World {
    temp: tempfile::TempDir,
    scripts: Scripts,
    places: Places,
    files: AuthFiles,
    helpers: Vec<String>,
    log: Log,
    host: Host,
}

impl World {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let scripts = Scripts::new();
        let mut places = Places::below(temp.path());
        places.path = Some(std::env::join_paths([scripts.dir(), Path::new("/bin")]).unwrap());
        let log = Log::default();
        let host = Host::new(log.clone());
        Self { temp, scripts, places, files: AuthFiles::Usual, helpers: Vec::new(), log, host }
    }

    fn lookup(&self) -> Lookup<'_> {
        Lookup {
            places: &self.places,
            files: &self.files,
            helpers: &self.helpers,
            host: &self.host,
        }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.temp.path().join(file)
    }

    fn write(&self, file: &str, content: &Value) -> PathBuf {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content.to_string()).unwrap();
        path
    }

    fn read(&self, file: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(file)).unwrap()).unwrap()
    }

    /// Adds a helper that keeps each server in a file of its own.
    fn keeper(&self, name: &str) -> PathBuf {
        let dir = self.path(&format!("kept-{name}"));
        fs::create_dir(&dir).unwrap();
        self.scripts.add(
            name,
            &format!(
                r#"cd "{}" || exit 9
                input=$(cat)
                case $1 in
                store) server=$(printf %s "$input" | sed 's/.*"ServerURL":"\([^"]*\)".*/\1/');;
                *) server=$input;;
                esac
                file=$(printf %s "$server" | tr / _)
                case $1 in
                store) printf %s "$input" > "$file";;
                get|erase) [ -e "$file" ] || {{ echo "credentials not found in native keychain"; exit 1; }}
                    if [ "$1" = get ]; then cat "$file"; else rm "$file"; fi;;
                list) printf '{{'; sep=; for f in *; do [ -e "$f" ] && printf '%s"%s":"me"' "$sep" "$f" && sep=,; done; printf '}}';;
                esac"#,
                dir.display()
            ),
        );
        dir
    }

    /// Returns `USER PASSWORD` or `token TOKEN`, and where it was.
    fn find(&self, key: &str) -> (String, String) {
        match self.lookup().find(key).unwrap() {
            Answer::Nothing(nothing) => ("nothing".into(), nothing.describe()),
            Answer::Found(Found { identity: Identity::Token(token), origin, .. }) => {
                (format!("token {}", token.reveal()), origin)
            }
            Answer::Found(Found { identity: Identity::Password(who), origin, .. }) => {
                (format!("{} {}", who.username, who.password.reveal()), origin)
            }
        }
    }

    fn store(&self, key: &str) -> Result<String> {
        self.lookup().store(key, &who("hush"))
    }
}

fn who(password: &str) -> Credentials {
    Credentials { username: "me".into(), password: Secret::new(password) }
}

fn entry(pair: &str) -> Value {
    json!({ "auth": BASE64_STANDARD.encode(pair) })
}

const PRIMARY: &str = "run/containers/1000/auth.json";
const USERS: &str = "home/.config/containers/auth.json";
const DOCKERS: &str = "home/.docker/config.json";

#[test]
fn the_first_file_with_credentials_counts_and_an_empty_entry_is_none() {
    let world = World::new();
    world.write(PRIMARY, &json!({"auths": {"q.io": {}, "a.io": entry("first:1")}}));
    world.write(USERS, &json!({"auths": {"q.io": entry("second:2"), "a.io": entry("x:x")}}));
    world.write("home/.dockercfg", &json!({"https://old.io/v1/": entry("old:3")}));
    let (found, origin) = world.find("q.io/org/app");
    assert_eq!(found, "second 2");
    assert_eq!(origin, format!("`{}`, key `q.io`", world.path(USERS).display()));
    assert_eq!(world.find("a.io").0, "first 1");
    assert_eq!(world.find("old.io/x").0, "old 3");
    let (nothing, searched) = world.find("none.io");
    assert_eq!(nothing, "nothing");
    assert!(searched.contains(".dockercfg") && searched.contains("1000/auth.json"), "{searched}");
}

#[test]
fn an_entry_without_a_colon_is_warned_of_without_its_content() {
    let world = World::new();
    world.write(PRIMARY, &json!({"auths": {"q.io": entry("hush")}}));
    assert_eq!(world.find("q.io").0, "nothing");
    let log = world.log.0.lock().unwrap().join("\n");
    assert!(log.contains("\"q.io\" in ") && log.contains("missing colon"), "{log}");
    assert!(!log.contains("hush"), "{log}");
}

#[test]
fn identity_tokens_come_from_files_and_helpers() {
    let world = World::new();
    world.write(
        PRIMARY,
        &json!({
            "auths": {"a.io": {"auth": BASE64_STANDARD.encode("00:"), "identitytoken": "t"}},
            "credHelpers": {"b.io": "tok"},
        }),
    );
    world.scripts.add("tok", r#"echo '{"Username":"<token>","Secret":"u"}'"#);
    assert_eq!(world.find("a.io").0, "token t");
    let (found, origin) = world.find("b.io/x/y");
    assert_eq!(found, "token u");
    assert_eq!(origin, "credential helper `docker-credential-tok`, server `b.io`");
}

#[test]
fn the_helper_of_a_registry_comes_first_then_the_store_then_the_entries() {
    let world = World::new();
    let special = world.keeper("special");
    let general = world.keeper("general");
    let kept = |user: &str| json!({"Username": user, "Secret": "s"}).to_string();
    fs::write(special.join("s.io"), kept("special")).unwrap();
    fs::write(general.join("s.io"), kept("general")).unwrap();
    fs::write(general.join("g.io"), kept("general")).unwrap();
    fs::write(general.join("https:__index.docker.io_v1_"), kept("hub")).unwrap();
    fs::write(general.join("off.io"), kept("general")).unwrap();
    world.write(
        DOCKERS,
        &json!({
            "auths": {
                "https://index.docker.io/v1/": {}, "g.io": {}, "s.io": entry("file:f"),
                "f.io": entry("file:f"), "off.io": entry("file:f"),
            },
            "credHelpers": {"s.io": "special", "off.io": ""},
            "credsStore": "general",
        }),
    );
    assert_eq!(world.find("s.io").0, "special s");
    assert_eq!(world.find("g.io/org").0, "general s");
    assert_eq!(world.find("docker.io/library/busybox").0, "hub s");
    assert_eq!(world.find("f.io").0, "file f");
    assert_eq!(world.find("off.io").0, "file f");
}

#[test]
fn a_store_that_fails_or_is_missing_stops_nobody() {
    let world = World::new();
    for store in ["gone", "locked"] {
        world.scripts.add("locked", "echo locked; exit 1");
        world.write(PRIMARY, &json!({"auths": {"q.io": {}}, "credsStore": store}));
        world.write(USERS, &json!({"auths": {"q.io": entry("later:1")}}));
        assert_eq!(world.find("q.io").0, "later 1");
        let (nothing, why) = world.find("public.io");
        assert_eq!(nothing, "nothing");
        assert!(why.contains(&format!("docker-credential-{store}")), "{why}");
        assert!(why.contains("credsStore in"), "{why}");
    }
}

#[test]
fn a_helper_that_was_named_for_a_registry_must_be_there() {
    let world = World::new();
    let path = world.write(PRIMARY, &json!({"credHelpers": {"q.io": "gone"}}));
    let error = world.lookup().find("q.io/a").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let said = error.chain().join(": ");
    for words in ["`docker-credential-gone` is not installed", "`q.io`", path.to_str().unwrap()] {
        assert!(said.contains(words), "{said}");
    }
    assert!(error.hint().unwrap().contains("install docker-credential-gone"));
    assert_eq!(world.find("other.io").0, "nothing");
}

#[test]
fn helpers_of_registries_conf_are_asked_in_their_order() {
    let mut world = World::new();
    let kept = world.keeper("one");
    world.helpers = vec!["one".into(), FILES.into()];
    world.write(PRIMARY, &json!({"auths": {"q.io": entry("file:f")}}));
    assert_eq!(world.find("q.io").0, "file f");
    assert_eq!(world.store("q.io").unwrap(), "credential helper: one");
    assert_eq!(world.find("q.io/org").0, "me hush");
    // A namespace can only be kept in a file, which comes next.
    assert_eq!(world.store("q.io/org").unwrap(), world.path(PRIMARY).display().to_string());
    assert_eq!(world.lookup().remove("q.io").unwrap(), Removed::Yes);
    assert!(!kept.join("q.io").exists());
    assert_eq!(world.read(PRIMARY)["auths"].as_object().unwrap().len(), 1);
    world.store("z.io").unwrap();
    world.lookup().remove_all().unwrap();
    assert_eq!(fs::read_dir(kept).unwrap().count(), 0);
    assert_eq!(world.read(PRIMARY), json!({"auths": {}}));
    // With one that fails, the next one helps; without a next one, it is an error.
    world.helpers = vec!["gone".into(), FILES.into()];
    world.store("y.io").unwrap();
    assert_eq!(world.find("y.io").0, "me hush");
    assert!(world.lookup().find("z.io").is_err());
}

#[test]
fn what_is_stored_has_the_form_of_other_programs_and_keeps_what_they_wrote() {
    let world = World::new();
    assert_eq!(world.store("q.io").unwrap(), world.path(PRIMARY).display().to_string());
    let expected = format!(
        "{{\n\t\"auths\": {{\n\t\t\"q.io\": {{\n\t\t\t\"auth\": \"{}\"\n\t\t}}\n\t}}\n}}",
        BASE64_STANDARD.encode("me:hush")
    );
    assert_eq!(fs::read_to_string(world.path(PRIMARY)).unwrap(), expected);
    world.write(
        PRIMARY,
        &json!({
            "auths": {"q.io": {"auth": "x", "email": "e", "identitytoken": "t"}, "o.io": {"n": 1}},
            "HttpHeaders": {"a": [1]},
        }),
    );
    world.store("q.io").unwrap();
    world.store("q.io/org").unwrap();
    let auth = entry("me:hush")["auth"].clone();
    assert_eq!(
        world.read(PRIMARY),
        json!({
            "auths": {
                "q.io": {"email": "e", "auth": auth}, "o.io": {"n": 1}, "q.io/org": {"auth": auth},
            },
            "HttpHeaders": {"a": [1]},
        })
    );
    assert_eq!(world.lookup().remove("q.io").unwrap(), Removed::Yes);
    assert_eq!(world.lookup().remove("q.io").unwrap(), Removed::WereNone);
    let left = world.read(PRIMARY);
    assert_eq!(left["auths"].as_object().unwrap().keys().collect::<Vec<_>>(), ["o.io", "q.io/org"]);
    assert_eq!(left["HttpHeaders"], json!({"a": [1]}));
}

#[test]
fn the_helper_of_a_file_keeps_and_forgets_what_the_file_does_not_have() {
    let world = World::new();
    let kept = world.keeper("one");
    world.write(PRIMARY, &json!({"credHelpers": {"q.io": "one"}}));
    assert_eq!(world.store("q.io").unwrap(), "credential helper: one");
    assert_eq!(world.read(PRIMARY), json!({"credHelpers": {"q.io": "one"}}));
    assert_eq!(world.find("q.io").0, "me hush");
    assert_eq!(world.lookup().remove("q.io").unwrap(), Removed::Yes);
    assert!(!kept.join("q.io").exists());
    assert_eq!(world.lookup().remove("q.io").unwrap(), Removed::WereNone);
    world.store("q.io").unwrap();
    world.lookup().remove_all().unwrap();
    assert!(!kept.join("q.io").exists());
    assert_eq!(world.read(PRIMARY), json!({"auths": {}}));
}

#[test]
fn dockers_file_has_dockers_names_and_no_namespaces_and_keeps_its_helpers() {
    let mut world = World::new();
    world.files = AuthFiles::Docker(world.path("config.json"));
    world.helpers = vec!["nobody".into()];
    world.write("config.json", &json!({"credHelpers": {"x.io": ""}, "proxies": {}}));
    world.store("docker.io").unwrap();
    world.store("q.io").unwrap();
    let keys = |world: &World| {
        let auths = world.read("config.json")["auths"].as_object().unwrap().clone();
        auths.keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(keys(&world), ["https://index.docker.io/v1/", "q.io"]);
    assert_eq!(world.find("docker.io/library/x").0, "me hush");
    let error = world.store("q.io/org").unwrap_err();
    assert_eq!(
        error.message(),
        "Credentials cannot be recorded in Docker-compatible format with namespaced key \"q.io/org\""
    );
    assert_eq!(world.lookup().remove("docker.io").unwrap(), Removed::Yes);
    assert_eq!(keys(&world), ["q.io"]);
    world.lookup().remove_all().unwrap();
    let left = world.read("config.json");
    assert_eq!(left, json!({"credHelpers": {"x.io": ""}, "proxies": {}, "auths": {}}));
}

#[test]
fn a_file_with_a_store_keeps_passwords_there_as_docker_does() {
    let mut world = World::new();
    let kept = world.keeper("desk");
    world.files = AuthFiles::Docker(world.path("config.json"));
    world.write("config.json", &json!({"credsStore": "desk", "auths": {"q.io": entry("a:b")}}));
    assert_eq!(world.store("q.io").unwrap(), "credential helper: desk");
    world.store("docker.io").unwrap();
    assert!(kept.join("https:__index.docker.io_v1_").exists());
    assert_eq!(
        world.read("config.json")["auths"],
        json!({"q.io": {}, "https://index.docker.io/v1/": {}})
    );
    assert_eq!(world.find("q.io").0, "me hush");
    assert_eq!(world.lookup().remove("q.io").unwrap(), Removed::Yes);
    assert!(!kept.join("q.io").exists());
    assert_eq!(world.lookup().remove("q.io").unwrap(), Removed::WereNone);
    world.lookup().remove_all().unwrap();
    assert_eq!(fs::read_dir(&kept).unwrap().count(), 0);
    // Where the store's program is missing, the file is as good as it is for other programs.
    world.write("config.json", &json!({"credsStore": "gone"}));
    assert_eq!(world.store("q.io").unwrap(), world.path("config.json").display().to_string());
    assert_eq!(world.find("q.io").0, "me hush");
}

#[test]
fn nothing_secret_is_in_any_message() {
    let world = World::new();
    world.scripts.add("cat", "cat; exit 1");
    world.write(
        PRIMARY,
        &json!({"auths": {"q.io": entry("me:hush")}, "credHelpers": {"h.io": "cat"}}),
    );
    let found = world.lookup().find("q.io").unwrap();
    let error = world.store("h.io").unwrap_err();
    world.store("q.io").unwrap();
    world.write(PRIMARY, &json!({"auths": {"q.io": {"auth": "hush!"}}}));
    let broken = world.lookup().find("q.io").unwrap_err();
    let log = world.log.0.lock().unwrap().join("\n");
    let base64 = BASE64_STANDARD.encode("me:hush");
    for text in [format!("{found:?}"), format!("{error:?}"), format!("{broken:?}"), log] {
        assert!(!text.contains("hush") && !text.contains(&base64), "{text}");
    }
}
