//! Logging in and out: what is kept, what is said, and that other programs find it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use diolkos_tests::{
    Access, Format, Home, Image, Outcome, Platform, Registry, Run as _, built_program, require,
};
use serde_json::{Value, json};

const USER: &str = "ada";
const PASSWORD: &str = "hush-hush:1815";

fn with_password() -> Registry {
    Registry::start_with(Access::basic(USER, PASSWORD)).unwrap()
}

fn with_token() -> Registry {
    let access = Access::token(USER, PASSWORD);
    Registry::start_with(access).unwrap()
}

fn auth(user: &str, password: &str) -> String {
    BASE64.encode(format!("{user}:{password}"))
}

/// Prepares the program with a command and without HTTPS.
fn command(home: &Home, arguments: &[&str]) -> Command {
    let mut command = home.diolkos();
    command.arg(arguments[0]).arg("--tls-verify=false").args(&arguments[1..]);
    command
}

/// Runs what [`command`] makes and insists that no secret is in what it says.
fn run(home: &Home, arguments: &[&str]) -> Outcome {
    without_secrets(command(home, arguments).run())
}

fn log_in(home: &Home, key: &str) -> Outcome {
    run(home, &["login", "-u", USER, "-p", PASSWORD, key]).expect_success()
}

fn without_secrets(outcome: Outcome) -> Outcome {
    for text in [&outcome.stdout, &outcome.stderr] {
        for secret in [PASSWORD, "hush", &auth(USER, PASSWORD)] {
            assert!(!text.contains(secret), "{text}");
        }
    }
    outcome
}

/// Runs a command with an answer on its standard input.
fn with_input(command: &mut Command, input: &str) -> Outcome {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Outcome {
        command: format!("{command:?}").replace(PASSWORD, "..."),
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn keys(path: &Path) -> Vec<String> {
    read(path)["auths"].as_object().unwrap().keys().cloned().collect()
}

/// Adds a helper program, and returns a search path that has it.
fn helper(home: &Home, name: &str, script: &str) -> String {
    let dir = home.path("helpers");
    fs::create_dir_all(&dir).unwrap();
    let file = dir.join(format!("docker-credential-{name}"));
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", dir.display(), std::env::var("PATH").unwrap())
}

/// A helper that keeps one login in a file.
fn keeper(home: &Home, name: &str) -> (String, PathBuf) {
    let kept = home.path(format!("kept-by-{name}"));
    let script = format!(
        r#"case $1 in
        store) cat > "{0}";;
        get) cat > /dev/null; cat "{0}" 2>/dev/null || {{ echo "credentials not found in native keychain"; exit 1; }};;
        erase) cat > /dev/null; rm "{0}";;
        esac"#,
        kept.display()
    );
    (helper(home, name, &script), kept)
}

#[test]
fn a_login_is_kept_for_the_owner_alone_and_forgotten_again() {
    for registry in [with_password(), with_token()] {
        let (home, host) = (Home::new(), registry.host());
        let file = home.path("new/auth.json");
        let authfile = format!("--authfile={}", file.display());
        let said = run(&home, &["login", &authfile, "-u", USER, "-p", PASSWORD, &host]);
        let said = said.expect_success();
        assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("Login Succeeded!\n", ""));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&file), json!({"auths": {&host: {"auth": auth(USER, PASSWORD)}}}));
        let who = run(&home, &["login", &authfile, "--get-login", &host]).expect_success();
        assert_eq!(who.stdout, format!("{USER}\n"));
        let said = run(&home, &["logout", &authfile, &host]).expect_success();
        assert_eq!(said.stdout, format!("Removed login credentials for {host}\n"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "{\n\t\"auths\": {}\n}");
        for arguments in
            [&["logout", &authfile, &host][..], &["login", &authfile, "--get-login", &host]]
        {
            let said = run(&home, arguments).expect_code(1);
            assert_eq!(said.stdout, "");
            assert!(said.stderr.contains(&format!("not logged into {host}")), "{}", said.stderr);
        }
    }
}

#[test]
fn a_wrong_password_changes_nothing() {
    for registry in [with_password(), with_token()] {
        let (home, host) = (Home::new(), registry.host());
        log_in(&home, &host);
        let before = fs::read(home.path("auth.json")).unwrap();
        let said =
            run(&home, &["--debug", "login", "-u", USER, "-p", "hush", &host]).expect_code(1);
        assert_eq!(said.stdout, "");
        let words = format!("logging into \"{host}\": invalid username/password");
        assert!(said.stderr.contains(&words), "{}", said.stderr);
        assert_eq!(fs::read(home.path("auth.json")).unwrap(), before);
    }
}

#[test]
fn a_registry_that_cannot_be_reached_is_another_failure() {
    let home = Home::new();
    let said = run(&home, &["login", "-u", USER, "-p", PASSWORD, "127.0.0.1:1"]).expect_code(1);
    for words in ["authenticating creds for \"127.0.0.1:1\"", "connection refused"] {
        assert!(said.stderr.contains(words), "{}", said.stderr);
    }
    assert_eq!(fs::read_to_string(home.path("auth.json")).unwrap(), "{}");
}

#[test]
fn under_the_other_name_errors_have_its_form() {
    let (registry, home) = (with_password(), Home::new());
    symlink(built_program(), home.path("skopeo")).unwrap();
    let host = registry.host();
    let as_skopeo = |arguments: &[&str]| {
        let mut command = home.command(home.path("skopeo"));
        without_secrets(command.args(arguments).run())
    };
    let said = as_skopeo(&["login", "--tls-verify=false", "-u", USER, "-p", PASSWORD, &host]);
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("Login Succeeded!\n", ""));
    let cases: [(&[&str], &str); 9] = [
        (&["login"], "please provide a registry to log in to"),
        (&["login", "a", "b"], "login accepts only one registry to log in to"),
        (&["logout"], "please provide a registry to log out from"),
        (&["logout", "--all", "a"], "--all takes no arguments"),
        (
            &["login", "--password-stdin", "-p", "x", "a"],
            "can't specify both --password-stdin and --password",
        ),
        (&["login", "--password-stdin", "a"], "must provide --username with --password-stdin"),
        (&["login", "--get-login", "nobody.example"], "not logged into nobody.example"),
        (
            &["login", "--authfile", "a", "--compat-auth-file", "b", "x"],
            "options for paths to the credential file and to the Docker-compatible credential file \
             can not be set simultaneously",
        ),
        (
            &["logout", "--authfile", "/none", "x"],
            "credential file is not accessible: faccessat /none: no such file or directory",
        ),
    ];
    for (arguments, words) in cases {
        let said = as_skopeo(arguments).expect_code(1);
        assert_eq!(said.stdout, "", "{arguments:?}");
        let line = format!(" level=fatal msg=\"{words}\"\n");
        assert!(said.stderr.ends_with(&line), "{arguments:?}: {}", said.stderr);
    }
    let said = as_skopeo(&["login", "--tls-verify=false", "-u", USER, "-p", "hush", &host]);
    let line = format!("msg=\"logging into \\\"{host}\\\": invalid username/password\"\n");
    assert!(said.stderr.ends_with(&line), "{}", said.stderr);
    assert_eq!(said.code, Some(1));
}

#[test]
fn a_password_comes_from_standard_input_whole() {
    let (registry, home) = (with_password(), Home::new());
    let arguments = ["login", "--debug", "-u", USER, "--password-stdin", "-v", &registry.host()];
    let said = with_input(&mut command(&home, &arguments), &format!("{PASSWORD}\n"));
    let said = without_secrets(said).expect_success();
    let file = home.path("auth.json");
    assert_eq!(said.stdout, format!("Used:  {}\nLogin Succeeded!\n", file.display()));
}

#[test]
fn a_login_that_is_kept_is_tried_first_and_what_is_missing_is_asked_for() {
    let (registry, home) = (with_password(), Home::new());
    let host = registry.host();
    log_in(&home, &host);
    let said = run(&home, &["login", &host]).expect_success();
    assert_eq!(
        said.stdout,
        format!(
            "Authenticating with existing credentials for {host}\nExisting credentials are valid. \
             Already logged in to {host}\n"
        )
    );
    let changed = json!({"auths": {&host: {"auth": auth("old", "hush")}}});
    fs::write(home.path("auth.json"), changed.to_string()).unwrap();
    let said = with_input(&mut command(&home, &["login", &host]), "\n").expect_code(1);
    let asked = format!(
        "Authenticating with existing credentials for {host}\nExisting credentials are invalid, \
         please enter valid username and password\nUsername (old): Password: "
    );
    assert_eq!(said.stdout, asked);
    let words = "inappropriate ioctl for device";
    assert!(said.stderr.contains("getting username and password"), "{}", said.stderr);
    assert!(said.stderr.contains(words), "{}", said.stderr);
    // A new password for the user who is known.
    let arguments = ["login", "-p", PASSWORD, &host];
    let said = with_input(&mut command(&home, &arguments), &format!("{USER}\n")).expect_success();
    assert_eq!(said.stdout, "Username (old): Login Succeeded!\n");
    assert_eq!(read(&home.path("auth.json"))["auths"][&host]["auth"], auth(USER, PASSWORD));
}

#[test]
fn what_other_programs_wrote_survives() {
    let (registry, home) = (with_password(), Home::new());
    let (host, file) = (registry.host(), home.path("auth.json"));
    let foreign = json!({
        "HttpHeaders": {"X-Meta": ["a"]},
        "auths": {"other.example": {"auth": "b3RoZXI6eA==", "email": "o@x"}},
        "number": 1.50,
    });
    fs::write(&file, serde_json::to_string_pretty(&foreign).unwrap()).unwrap();
    log_in(&home, &host);
    assert_eq!(keys(&file), [&host, "other.example"]);
    run(&home, &["logout", &host]).expect_success();
    assert_eq!(read(&file), foreign);
    let said = run(&home, &["logout", "--all"]).expect_success();
    assert_eq!(said.stdout, "Removed login credentials for all registries\n");
    assert_eq!(read(&file)["auths"], json!({}));
    assert_eq!(read(&file)["HttpHeaders"], foreign["HttpHeaders"]);
}

#[test]
fn logins_at_the_same_time_lose_nothing() {
    let (registry, home) = (with_password(), Home::new());
    let host = registry.host();
    thread::scope(|scope| {
        for number in 0..8 {
            let (home, host) = (&home, &host);
            scope.spawn(move || log_in(home, &format!("{host}/team{number}")));
        }
    });
    assert_eq!(keys(&home.path("auth.json")).len(), 8);
    let left: Vec<_> = fs::read_dir(home.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_part_of_a_registry_has_a_login_of_its_own() {
    let (registry, home) = (with_password(), Home::new());
    let host = registry.host();
    log_in(&home, &format!("{host}/team"));
    let who = |key: &str| run(&home, &["login", "--get-login", key]);
    assert_eq!(who(&format!("{host}/team/app")).expect_success().stdout, format!("{USER}\n"));
    who(&format!("{host}/others")).expect_code(1);
    let said = run(&home, &["login", "-u", USER, "-p", PASSWORD, &format!("{host}/a:1")]);
    assert!(said.expect_code(1).stderr.contains("contains tag or digest"));
    let said = log_in(&home, &format!("http://{host}/v1/"));
    assert_eq!(said.stdout, "Login Succeeded!\n");
    assert_eq!(keys(&home.path("auth.json")), [host.clone(), format!("{host}/team")]);
}

#[test]
fn dockers_file_is_written_as_docker_reads_it() {
    let (registry, home) = (with_password(), Home::new());
    let host = registry.host();
    let dir = home.path("docker");
    let file = dir.join("config.json");
    let compat = format!("--compat-auth-file={}", file.display());
    run(&home, &["login", &compat, "-u", USER, "-p", PASSWORD, &host]).expect_success();
    assert_eq!(keys(&file), [host.as_str()]);
    let key = format!("{host}/team");
    let said = run(&home, &["login", &compat, "-u", USER, "-p", PASSWORD, &key]).expect_code(1);
    assert!(said.stderr.contains("in Docker-compatible format with namespaced key"));
    // Where DOCKER_CONFIG is set and REGISTRY_AUTH_FILE is not, that is the file.
    let mut command = command(&home, &["logout", "--all"]);
    command.env_remove("REGISTRY_AUTH_FILE").env("DOCKER_CONFIG", &dir).succeed();
    assert!(keys(&file).is_empty());
    assert_eq!(fs::read_to_string(home.path("auth.json")).unwrap(), "{}");
}

#[test]
fn helpers_keep_logins_in_place_of_files() {
    let (registry, home) = (with_password(), Home::new());
    let (host, file) = (registry.host(), home.path("auth.json"));
    // A store for all registries is known in Docker's own file alone.
    let compat = format!("--compat-auth-file={}", file.display());
    let named = format!("--authfile={}", file.display());
    for (config, flag, in_file) in [
        (json!({"credHelpers": {&host: "box"}}), &named, Value::Null),
        (json!({"credsStore": "box"}), &compat, json!({&host: {}})),
    ] {
        fs::write(&file, config.to_string()).unwrap();
        let (path, kept) = keeper(&home, "box");
        let run = |arguments: &[&str]| {
            let mut command = command(&home, arguments);
            command.env_remove("REGISTRY_AUTH_FILE").env("PATH", &path).args([flag, "--debug"]);
            without_secrets(command.run())
        };
        let said = run(&["login", "-v", "-u", USER, "-p", PASSWORD, &host]).expect_success();
        assert_eq!(said.stdout, "Used:  credential helper: box\nLogin Succeeded!\n");
        assert_eq!(read(&kept), json!({"ServerURL": host, "Username": USER, "Secret": PASSWORD}));
        assert_eq!(read(&file)["auths"], in_file);
        let said = run(&["login", "--get-login", &host]).expect_success();
        assert_eq!(said.stdout, format!("{USER}\n"));
        assert!(run(&["login", &host]).expect_success().stdout.contains("are valid"));
        run(&["logout", &host]).expect_success();
        assert!(!kept.exists());
        run(&["logout", &host]).expect_code(1);
    }
}

#[test]
fn a_store_in_a_file_that_others_read_gets_no_login() {
    let (registry, home) = (with_password(), Home::new());
    let (host, file) = (registry.host(), home.path("auth.json"));
    fs::write(&file, json!({"credsStore": "box"}).to_string()).unwrap();
    let (path, kept) = keeper(&home, "box");
    let run = |arguments: &[&str]| command(&home, arguments).env("PATH", &path).run();
    run(&["login", "-u", USER, "-p", PASSWORD, &host]).expect_success();
    assert!(!kept.exists());
    assert!(read(&file)["auths"][&host]["auth"].is_string());
    let said = run(&["login", "--get-login", &host]).expect_success();
    assert_eq!(said.stdout, format!("{USER}\n"));
}

#[test]
fn a_helper_that_is_missing_is_named_and_one_that_complains_is_quoted() {
    let home = Home::new();
    let config = json!({"credHelpers": {"q.example": "gone", "r.example": "locked"}});
    fs::write(home.path("auth.json"), config.to_string()).unwrap();
    let path = helper(&home, "locked", "echo the box is locked; exit 1");
    let find = |registry: &str| {
        let mut command = home.diolkos();
        command.args(["login", "--get-login", registry]).env("PATH", &path).run().expect_code(1)
    };
    let said = find("q.example").stderr;
    for words in ["`docker-credential-gone` is not installed", "auth.json", "hint: install"] {
        assert!(said.contains(words), "{said}");
    }
    assert!(find("r.example").stderr.contains("failed to get: the box is locked"));
}

#[test]
fn an_identity_token_is_not_replaced_by_a_password() {
    let (registry, home) = (with_password(), Home::new());
    let host = registry.host();
    let config = json!({"auths": {&host: {"auth": auth("0000", ""), "identitytoken": "hush"}}});
    fs::write(home.path("auth.json"), config.to_string()).unwrap();
    let said = run(&home, &["login", "-u", USER, "-p", PASSWORD, &host]).expect_code(1);
    let words = "currently logged in, auth file contains an Identity token";
    assert!(said.stderr.contains(words), "{}", said.stderr);
    assert_eq!(read(&home.path("auth.json")), config);
    run(&home, &["logout", &host]).expect_success();
    assert!(keys(&home.path("auth.json")).is_empty());
}

#[test]
fn broken_files_are_named_and_not_shown() {
    let home = Home::new();
    let cases = ["hush", "{\"auths\": {\"q.example\": {\"auth\": \"hush!\"}}}", ""];
    for content in cases {
        fs::write(home.path("auth.json"), content).unwrap();
        let said = run(&home, &["--debug", "login", "--get-login", "q.example"]).expect_code(1);
        assert!(said.stderr.contains("get credentials"), "{}", said.stderr);
        assert!(said.stderr.contains("auth.json"), "{}", said.stderr);
        assert_eq!(fs::read_to_string(home.path("auth.json")).unwrap(), content);
    }
}

#[test]
fn what_we_keep_other_programs_use() {
    let (Some(_), registry) = (require("skopeo"), with_password()) else { return };
    let home = Home::new();
    let host = registry.host();
    Image::small(Format::Oci, Platform::AMD64, "login").seed(&registry, "team/app", "1");
    let inspect = || {
        let mut skopeo = home.skopeo();
        skopeo.args(["inspect", "--raw", "--tls-verify=false"]);
        skopeo.arg(registry.reference("team/app:1")).run()
    };
    assert_ne!(inspect().code, Some(0));
    for key in [host.clone(), format!("{host}/team")] {
        log_in(&home, &key);
        inspect().expect_success();
        let mut theirs = home.command("skopeo");
        let said = theirs.args(["login", "--get-login", &key]).succeed();
        assert_eq!(said.stdout, format!("{USER}\n"));
        let mut theirs = home.command("skopeo");
        let said = theirs.args(["logout", &key]).succeed();
        assert_eq!(said.stdout, format!("Removed login credentials for {key}\n"));
        run(&home, &["login", "--get-login", &key]).expect_code(1);
    }
}

#[test]
fn what_other_programs_keep_we_find() {
    let registry = with_password();
    let host = registry.host();
    for program in ["skopeo", "podman"] {
        let Some(_) = require(program) else { continue };
        let home = Home::new();
        let mut theirs = home.command(program);
        theirs.args(["login", "--tls-verify=false", "-u", USER, "-p", PASSWORD, &host]).succeed();
        let who = run(&home, &["login", "--get-login", &host]).expect_success();
        assert_eq!(who.stdout, format!("{USER}\n"), "{program}");
        let said = run(&home, &["login", &host]).expect_success();
        assert!(said.stdout.contains("Existing credentials are valid."), "{}", said.stdout);
        run(&home, &["logout", &host]).expect_success();
        assert_eq!(keys(&home.path("auth.json")), [""; 0], "{program}");
    }
}

/// Runs a shell command on a terminal of its own; types an answer as soon as a question is there.
fn on_a_terminal(home: &Home, shell: &str, answers: &[(&str, &str)]) -> String {
    let mut child = home
        .command("script")
        .args(["--quiet", "--return", "--command", shell, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut screen = String::new();
    let mut buffer = [0; 1024];
    let mut answers = answers.iter().peekable();
    let mut seen = 0;
    while let Ok(count @ 1..) = stdout.read(&mut buffer) {
        screen += &String::from_utf8_lossy(&buffer[..count]);
        if let Some((question, answer)) = answers.peek()
            && screen[seen..].contains(question)
        {
            seen = screen.len();
            stdin.write_all(answer.as_bytes()).unwrap();
            stdin.flush().unwrap();
            answers.next();
        }
    }
    child.wait().unwrap();
    screen
}

#[test]
fn a_terminal_is_asked_without_showing_the_password() {
    let Some(_) = require("script") else { return };
    let (registry, home) = (with_password(), Home::new());
    let program = built_program().display();
    let shell = format!("{program} login --tls-verify=false {}; stty -a", registry.host());
    let typed = format!("{PASSWORD}\n");
    let screen = on_a_terminal(&home, &shell, &[("Username: ", "ada\n"), ("Password: ", &typed)]);
    assert!(screen.contains("Username: ada\r\nPassword: \r\nLogin Succeeded!"), "{screen}");
    assert!(!screen.contains(PASSWORD), "{screen}");
    assert!(screen.contains(" echo "), "{screen}");
}

#[test]
fn an_interrupted_question_leaves_the_terminal_as_it_was() {
    let Some(_) = require("script") else { return };
    let (registry, home) = (with_password(), Home::new());
    let program = built_program().display();
    let host = registry.host();
    // The shell goes on, the program does not.
    let shell = format!("trap : INT; {program} login -u ada {host}; echo code $?; stty -a");
    let begun = std::time::Instant::now();
    let screen = on_a_terminal(&home, &shell, &[("Password: ", "\x03")]);
    assert!(screen.contains("code 1") && screen.contains("interrupted"), "{screen}");
    assert!(screen.contains(" echo "), "{screen}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn what_a_helper_leaves_behind_holds_nobody_up() {
    let (registry, home) = (with_password(), Home::new());
    let host = registry.host();
    let script = format!(
        "cat > /dev/null; sleep 20 > /dev/null & echo to the user >&2; \
         echo '{{\"ServerURL\":\"{host}\",\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}'"
    );
    let path = helper(&home, "box", &script);
    let config = json!({"credHelpers": {&host: "box"}});
    fs::write(home.path("auth.json"), config.to_string()).unwrap();
    let start = std::time::Instant::now();
    let said = command(&home, &["login", "--get-login", &host]).env("PATH", &path).run();
    assert_eq!(said.expect_success().stdout, format!("{USER}\n"));
    assert!(start.elapsed().as_secs() < 15, "{:?}", start.elapsed());
}
