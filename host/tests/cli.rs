//! The built program, run as users and scripts run it: usage, names, exit codes, plugins as files.
//! No plugin library is loaded here; `tests/` does that.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// A home of its own, and the program in a directory without plugins beside it.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        // A copy, since the build tree has plugins beside the program.
        let built = env!("CARGO_BIN_EXE_diolkos");
        std::fs::hard_link(built, bin.join("diolkos"))
            .or_else(|_| std::fs::copy(built, bin.join("diolkos")).map(drop))
            .unwrap();
        symlink("diolkos", bin.join("skopeo")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Writes a manifest into the user's plugin directory.
    fn plugin(&self, file: &str, text: &str) -> PathBuf {
        self.write(&format!("data/diolkos/plugins/{file}.toml"), text)
    }

    fn run_as(&self, program: &str, args: &[&str]) -> Ran {
        let output = Command::new(self.path("bin").join(program))
            .args(args)
            .env_clear()
            .env("HOME", self.dir.path())
            .env("XDG_DATA_HOME", self.path("data"))
            .env("TZ", "UTC")
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        Ran::new(&output, self.dir.path())
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.run_as("diolkos", args)
    }
}

/// What a run gave, with the place's own path as `[DIR]`.
#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn new(output: &Output, dir: &Path) -> Self {
        let text = |bytes: &[u8]| {
            String::from_utf8(bytes.to_vec()).unwrap().replace(dir.to_str().unwrap(), "[DIR]")
        };
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    #[track_caller]
    fn fails_with(&self, code: i32, stderr: &str) {
        assert_eq!((self.code, &*self.stdout), (code, ""), "{self:?}");
        assert!(self.stderr.contains(stderr), "{}\nlacks\n{stderr}", self.stderr);
    }

    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }
}

fn manifest(name: &str, transport: &str, options: &str) -> String {
    format!(
        "manifest_version = 1\nname = \"{name}\"\nversion = \"1.2.3\"\nabi = \"1.0\"\n\
         library = \"lib{name}.so\"\n[[transport]]\nname = \"{transport}\"\n\
         syntax = \"{transport}:PLACE\"\nsummary = \"an image in a {transport}\"\n\
         capabilities = [\"source\"]\n{options}"
    )
}

#[test]
fn the_version_says_whose_behaviour_is_matched_under_either_name() {
    let place = Place::new();
    let ours = env!("CARGO_PKG_VERSION");
    for flag in ["--version", "-v"] {
        assert_eq!(
            place.run(&[flag]).ok(),
            format!("diolkos version {ours} (compatible with skopeo 1.22)\n")
        );
        assert_eq!(
            place.run_as("skopeo", &[flag]).ok(),
            format!("skopeo version 1.22.0 (diolkos {ours})\n")
        );
    }
    assert!(place.run(&["--debug", "--version"]).ok().starts_with("diolkos version"));
}

#[test]
fn wrong_usage_is_exit_code_1_in_the_words_that_scripts_know() {
    let place = Place::new();
    place.run(&[]).fails_with(1, "error: missing command 'diolkos COMMAND'");
    place
        .run(&["copi"])
        .fails_with(1, "unknown command `copi`\nhint: did you mean `diolkos copy`?");
    place.run(&["copy", "--nonsense"]).fails_with(1, "error: unknown flag: --nonsense\nhint: ");
    place.run(&["copy", "--al"]).fails_with(1, "unknown flag: --al\nhint: did you mean `--all`?");
    place.run(&["copy", "-qx", "a"]).fails_with(1, "unknown shorthand flag: 'x' in -qx");
    place.run(&["copy", "a"]).fails_with(1, "error: Exactly two arguments expected");
    place.run(&["copy", "a", "b", "--policy"]).fails_with(1, "flag needs an argument: --policy");
    place.run(&["copy", "--retry-times", "x"]).fails_with(
        1,
        r#"invalid argument "x" for "--retry-times" flag: strconv.ParseInt: parsing "x": invalid syntax"#,
    );
    place.run(&["copy", "--quiet=perhaps"]).fails_with(
        1,
        r#"invalid argument "perhaps" for "-q, --quiet" flag: strconv.ParseBool: parsing "perhaps": invalid syntax"#,
    );
    place
        .run(&["--command-timeout", "5", "inspect", "x"])
        .fails_with(1, r#"time: missing unit in duration "5""#);
    place
        .run(&["--insecure-policy", "--require-signed", "inspect", "x"])
        .fails_with(1, "--insecure-policy and --require-signed are mutually exclusive");
    place.run(&["inspect"]).fails_with(1, "Exactly one argument expected");
    place
        .run(&["inspect", "--raw", "--format", "x", "y"])
        .fails_with(1, "raw output does not support format option");
    place.run(&["delete"]).fails_with(1, "Usage: delete imageReference");
}

#[test]
fn as_skopeo_an_error_is_one_line_of_logrus() {
    let place = Place::new();
    let ran = place.run_as("skopeo", &["inspect", "x"]);
    ran.fails_with(
        1,
        r#"Z" level=fatal msg="Error parsing image name \"x\": Invalid image name \"x\", expected colon-separated transport:reference""#,
    );
    assert_eq!(ran.stderr.lines().count(), 1);
    assert!(ran.stderr.starts_with("time=\"2"), "{}", ran.stderr);
    place.run_as("skopeo", &["copi"]).fails_with(
        1,
        r"Unrecognized command `skopeo copi`\n\nDid you mean this?\n\tcopy\n\nTry 'skopeo --help'",
    );
    place
        .run_as("skopeo", &["--insecure-policy", "copy", "x", "dir:y"])
        .fails_with(1, r#"msg="Invalid source name x: Invalid image name \"x\", expected"#);
    let ran = place.run_as("skopeo", &["copy"]);
    ran.fails_with(1, r#"level=fatal msg="Exactly two arguments expected""#);
    assert!(ran.stderr.contains("Usage: skopeo copy"), "{}", ran.stderr);
}

#[test]
fn an_unknown_transport_is_answered_with_plugins_refusals_and_places() {
    let place = Place::new();
    place.plugin("net", &manifest("net", "net", ""));
    place.plugin("bad", "manifest_version = 1\nname = ");
    let ran = place.run(&["inspect", "x:y"]);
    ran.fails_with(1, "caused by: Invalid image name \"x:y\", unknown transport \"x\"");
    for part in [
        "caused by: no installed plugin provides it; there are net",
        "[DIR]/data/diolkos/plugins/bad.toml` is broken",
        "`/usr/lib/diolkos/plugins`",
        "hint: install the plugin for `x:`",
    ] {
        assert!(ran.stderr.contains(part), "{} lacks {part}", ran.stderr);
    }
}

#[test]
fn help_lists_what_is_installed_and_loads_nothing() {
    let place = Place::new();
    assert!(place.run(&["--help"]).ok().contains("no plugins are installed"));
    place.plugin("net", &manifest("net", "net", ""));
    let help = place.run(&["--help"]).ok();
    assert!(help.contains("net:PLACE  an image in a net"), "{help}");
    assert!(!help.contains("generate"), "{help}");
    let help = place.run(&["copy", "-h"]).ok();
    assert!(help.contains("--multi-arch"), "{help}");
    assert!(
        help.contains("Usage: diolkos copy [OPTIONS] SOURCE-IMAGE DESTINATION-IMAGE\n"),
        "{help}"
    );
    assert!(
        place.run(&["plugin", "info", "-h"]).ok().contains("diolkos plugin info [OPTIONS] NAME")
    );
}

#[test]
fn flags_of_commands_come_from_manifests() {
    let place = Place::new();
    place
        .run(&["copy", "--src-level", "3", "net:a", "net:b"])
        .fails_with(1, "unknown flag: --src-level");
    let option = "[[transport.option]]\nname = \"level\"\ntype = \"integer\"\nhelp = \"How much\"\n\
                  source-aliases = [\"slevel\"]\n";
    place.plugin("net", &manifest("net", "net", option));
    let help = place.run(&["copy", "--help"]).ok();
    for part in ["--src-level <NUMBER>", "--dest-level <NUMBER>", "How much [net]"] {
        assert!(help.contains(part), "{help}");
    }
    for flag in ["--src-level", "--slevel"] {
        place
            .run(&["copy", flag, "x", "net:a", "net:b"])
            .fails_with(1, "strconv.ParseInt: parsing \"x\"");
    }
    // The flag is fine, and then the library is missed.
    place
        .run(&["inspect", "--level", "3", "net:a"])
        .fails_with(1, "cannot load plugin `net` for `net:`");
}

#[test]
fn a_plugin_that_others_can_change_is_refused_and_the_rest_goes_on() {
    let place = Place::new();
    let open = place.plugin("open", &manifest("open", "open", ""));
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o666)).unwrap();
    place.plugin("net", &manifest("net", "net", ""));
    place.write("data/diolkos/plugins/libnet.so", "no library at all");
    let ran = place.run(&["inspect", "open:x"]);
    ran.fails_with(1, "can be written to by everybody\nhint: run `chmod go-w ");
    let ran = place.run(&["inspect", "net:x"]);
    ran.fails_with(1, "it is not a shared library that this system can load");
}

#[test]
fn the_list_shows_what_is_used_shadowed_and_refused_and_where_it_was_looked_for() {
    let place = Place::new();
    place.plugin("net", &manifest("net", "net", ""));
    place.write("data/diolkos/plugins/libnet.so", "");
    place.plugin("bad", &manifest("other", "other", ""));
    let extra = place.write("extra/net.toml", &manifest("net", "net", ""));
    place.write("extra/libnet.so", "");
    let extra = extra.parent().unwrap().to_str().unwrap().to_owned();
    let list = place.run(&["plugin", "list", "--plugin-dir", &extra]).ok();
    let words = |name: &str, status: &str| {
        list.lines().any(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.first() == Some(&name) && words.get(2) == Some(&status)
        })
    };
    assert!(words("net", "ok") && words("net", "shadowed") && words("bad", "refused"), "{list}");
    assert!(list.contains("net (shadowed): `[DIR]/extra/net.toml` comes first"), "{list}");
    assert!(list.contains("bad (refused): plugin manifest"), "{list}");
    assert!(list.contains("[DIR]/extra (--plugin-dir; 1 found)"), "{list}");
    let json = place.run(&["plugin", "list", "--json"]).ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let statuses: Vec<_> = json["plugins"]
        .as_array()
        .unwrap()
        .iter()
        .map(|plugin| format!("{} {}", plugin["name"], plugin["status"]))
        .collect();
    assert_eq!(statuses, ["\"bad\" \"refused\"", "\"net\" \"ok\""]);
    assert_eq!(json["plugins"][1]["transports"][0]["syntax"], "net:PLACE");
}

#[test]
fn the_plugin_path_and_the_programs_own_directory_are_searched() {
    let place = Place::new();
    place.write("bin/Cargo.toml", "[package]\n");
    place.write("bin/here.toml", &manifest("here", "here", ""));
    place.write("lib/diolkos/plugins/near.toml", &manifest("near", "near", ""));
    let help = place.run(&["--help"]).ok();
    assert!(help.contains("here:PLACE") && help.contains("near:PLACE"), "{help}");
    let list = place.run(&["plugin", "list"]).ok();
    assert!(!list.contains("Cargo.toml"), "{list}");
}

#[test]
fn info_shows_what_a_plugin_brings() {
    let place = Place::new();
    let option =
        "[[transport.option]]\nname = \"level\"\ntype = \"integer\"\nhelp = \"How much\"\n";
    place.plugin("net", &manifest("net", "web", option));
    for name in ["net", "web"] {
        let info = place.run(&["plugin", "info", name]).ok();
        for part in ["web:PLACE", "--level, --src-level, --dest-level  How much", "1.2.3"] {
            assert!(info.contains(part), "{info}");
        }
    }
    place
        .run(&["plugin", "info", "none"])
        .fails_with(1, "there is no plugin `none`; installed: net");
}

#[test]
fn a_check_names_the_case_that_fails_and_ends_with_1() {
    let place = Place::new();
    let path = place.plugin("net", &manifest("net", "net", ""));
    place.write("data/diolkos/plugins/libnet.so", "no library at all");
    for name in ["net", path.to_str().unwrap()] {
        let ran = place.run(&["plugin", "check", name]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.stdout.contains("ok       manifest\nFAILED   library: "), "{ran:?}");
        assert!(ran.stderr.contains("plugin `net` failed 1 of 2 cases"), "{ran:?}");
    }
}

#[test]
fn the_digest_of_a_manifest_is_printed() {
    let place = Place::new();
    place.write("manifest.json", "{}");
    assert_eq!(
        place.run(&["manifest-digest", "manifest.json"]).ok(),
        "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\n"
    );
    place.run_as("skopeo", &["manifest-digest", "none"]).fails_with(
        1,
        r#"msg="Error reading manifest from none: open none: no such file or directory""#,
    );
    place.run(&["manifest-digest"]).fails_with(1, "Usage: diolkos manifest-digest manifest");
}

#[test]
fn list_tags_refuses_what_is_no_repository() {
    let place = Place::new();
    place.plugin("net", &manifest("net", "net", ""));
    place.run(&["list-tags", "x"]).fails_with(1, "Invalid \"x\": does not specify a transport");
    place.run(&["list-tags", "x:y"]).fails_with(1, "Invalid \"x:y\": does not specify a transport");
    place
        .run(&["list-tags", "net:x"])
        .fails_with(1, "Unsupported transport 'net' for tag listing. Only supported: ");
}

#[test]
fn deprecated_flags_work_with_a_warning() {
    let place = Place::new();
    place.run(&["--tls-verify=false", "inspect", "x"]).fails_with(
        1,
        "warning: '--tls-verify' is deprecated, please set this on the specific subcommand\n",
    );
}

#[test]
fn completions_and_manual_pages_are_made_from_what_is_installed() {
    let place = Place::new();
    let option =
        "[[transport.option]]\nname = \"level\"\ntype = \"integer\"\nhelp = \"How much\"\n";
    place.plugin("net", &manifest("net", "net", option));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(place.run(&["completion", shell]).ok().contains("src-level"), "{shell}");
    }
    place.run(&["completion", "tcsh"]).fails_with(1, "invalid argument \"tcsh\"");
    std::fs::create_dir(place.path("man")).unwrap();
    place.run(&["generate", "man", "man"]).ok();
    let page = |name: &str| std::fs::read_to_string(place.path("man").join(name)).unwrap();
    assert!(page("diolkos.1").contains("net:PLACE"));
    assert!(page("diolkos-copy.1").contains("src\\-level"));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = Place::new();
    let status = Command::new("sh")
        .args(["-c", "\"$1\" completion bash 2>err | head -c 1 >/dev/null", "sh"])
        .arg(place.path("bin/diolkos"))
        .current_dir(place.dir.path())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(std::fs::read_to_string(place.path("err")).unwrap(), "");
}

/// Starts a command that waits for ever: nobody writes into the pipe that it reads.
fn waiting(place: &Place, args: &[&str]) -> std::process::Child {
    let made = Command::new("mkfifo").arg(place.path("pipe")).status().unwrap();
    assert!(made.success());
    Command::new(place.path("bin/diolkos"))
        .args(args)
        .args(["manifest-digest", "pipe"])
        .current_dir(place.dir.path())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_time_limit_ends_even_what_does_not_listen() {
    let place = Place::new();
    let begun = Instant::now();
    let child = waiting(&place, &["--command-timeout", "100ms"]);
    let ran = Ran::new(&child.wait_with_output().unwrap(), place.dir.path());
    ran.fails_with(1, "caused by: context deadline exceeded\nhint: allow more time");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn a_second_signal_ends_the_program_at_once() {
    let place = Place::new();
    let child = waiting(&place, &[]);
    let interrupt = || {
        std::thread::sleep(Duration::from_millis(300));
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    };
    interrupt();
    interrupt();
    let ran = Ran::new(&child.wait_with_output().unwrap(), place.dir.path());
    ran.fails_with(1, "caused by: interrupted");
}

#[test]
fn the_version_is_printed_without_a_look_at_any_manifest() {
    let place = Place::new();
    // Whoever opens this manifest waits for ever.
    let manifest = place.plugin("pipe", "");
    std::fs::remove_file(&manifest).unwrap();
    assert!(Command::new("mkfifo").arg(&manifest).status().unwrap().success());
    let output = Command::new("timeout")
        .arg("20")
        .arg(place.path("bin/diolkos"))
        .arg("--version")
        .env("HOME", place.dir.path())
        .env("XDG_DATA_HOME", place.path("data"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.starts_with(b"diolkos version "));
}
