//! Which credentials are used, where they go, and that nobody reads them.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use diolkos_tests::{
    Access, Answer, Fault, Format, Home, Image, Outcome, Platform, Registry, Run as _, Tokens,
};

const USER: &str = "me";
const PASSWORD: &str = "hush-hush";

/// What must not be seen: the password, also encoded, and whatever token it buys.
fn secrets() -> [String; 3] {
    let pair = BASE64.encode(format!("{USER}:{PASSWORD}"));
    [PASSWORD.to_owned(), pair.trim_end_matches('=').to_owned(), "secret-token".to_owned()]
}

#[track_caller]
fn secret(outcome: Outcome) -> Outcome {
    let secrets = secrets();
    outcome.expect_secrecy(&secrets.each_ref().map(String::as_str))
}

/// Writes an auth.json with one entry.
fn auth(key: &str, user: &str, password: &str) -> String {
    let pair = BASE64.encode(format!("{user}:{password}"));
    serde_json::json!({"auths": {key: {"auth": pair}}}).to_string()
}

/// A registry with an image that only the user may read.
fn private(access: Access) -> (Registry, Home, Image) {
    let (registry, home) = (Registry::start_with(access).unwrap(), Home::new());
    let image = Image::small(Format::Oci, Platform::AMD64, "private");
    image.seed(&registry, "team/app", "1");
    (registry, home, image)
}

fn basic() -> Access {
    Access::basic(USER, PASSWORD)
}

fn pull(registry: &Registry, home: &Home, flags: &[&str]) -> Outcome {
    secret(home.copy(flags, &registry.reference("team/app:1"), "oci:out:1"))
}

#[test]
fn files_are_read_wherever_they_are_named() {
    let (registry, home, _) = private(basic());
    let file = home.path("mine.json");
    fs::write(&file, auth(&registry.host(), USER, PASSWORD)).unwrap();
    for flag in ["--authfile", "--src-authfile"] {
        pull(&registry, &home, &[&format!("{flag}={}", file.display())]).expect_success();
    }
    pull(&registry, &home, &[]).expect_code(1);
    let run = |name: &str, value: &str| {
        let mut command = home.copy_command(&[], &registry.reference("team/app:1"), "oci:out:1");
        secret(command.env(name, value).run())
    };
    run("REGISTRY_AUTH_FILE", file.to_str().unwrap()).expect_success();
}

#[test]
fn files_are_found_in_their_usual_places() {
    let (registry, home, _) = private(basic());
    let text = auth(&registry.host(), USER, PASSWORD);
    for (place, variable) in [
        ("run/containers/auth.json", None),
        ("config/containers/auth.json", None),
        (".docker/config.json", None),
        ("docker/config.json", Some(("DOCKER_CONFIG", "docker"))),
    ] {
        let file = home.path(place);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &text).unwrap();
        let mut command = home.copy_command(&[], &registry.reference("team/app:1"), "oci:out:1");
        command.env_remove("REGISTRY_AUTH_FILE");
        if let Some((name, directory)) = variable {
            command.env(name, home.path(directory));
        }
        secret(command.run()).expect_success();
        fs::remove_file(file).unwrap();
    }
}

#[test]
fn each_side_has_a_file_of_its_own() {
    let (source, home, image) = private(basic());
    let destination = Registry::start_with(Access::basic("other", "hush-hush-2")).unwrap();
    fs::write(home.path("source.json"), auth(&source.host(), USER, PASSWORD)).unwrap();
    fs::write(home.path("target.json"), auth(&destination.host(), "other", "hush-hush-2")).unwrap();
    let flags = ["--src-authfile=source.json", "--dest-authfile=target.json"];
    let (from, to) = (source.reference("team/app:1"), destination.reference("app:1"));
    secret(home.copy(&flags, &from, &to)).expect_success();
    image.check_in(&destination, "app", "1").unwrap();
    let swapped = ["--src-authfile=target.json", "--dest-authfile=source.json"];
    secret(home.copy(&swapped, &from, &to)).expect_code(1);
}

#[test]
fn the_longest_key_that_fits_is_used() {
    let (registry, home, _) = private(basic());
    let host = registry.host();
    let right = BASE64.encode(format!("{USER}:{PASSWORD}"));
    let wrong = BASE64.encode("me:wrong");
    let cases = [
        (serde_json::json!({&host: {"auth": right}}), 0),
        (serde_json::json!({format!("{host}/team"): {"auth": right}, &host: {"auth": wrong}}), 0),
        (
            serde_json::json!({
                format!("{host}/team/app"): {"auth": right},
                format!("{host}/team"): {"auth": wrong},
            }),
            0,
        ),
        (serde_json::json!({format!("{host}/team/other"): {"auth": right}}), 1),
        (serde_json::json!({format!("{host}/te"): {"auth": right}}), 1),
    ];
    for (auths, code) in cases {
        fs::write(home.path("auth.json"), serde_json::json!({"auths": auths}).to_string()).unwrap();
        pull(&registry, &home, &[]).expect_code(code);
    }
}

#[test]
fn a_refusal_names_the_file_and_the_key_that_the_credentials_are_from() {
    for access in [basic(), Access::Token(Tokens::new(USER, PASSWORD).private())] {
        let (registry, home, _) = private(access);
        let key = format!("{}/team", registry.host());
        fs::write(home.path("mine.json"), auth(&key, USER, "wrong-hush-hush")).unwrap();
        let file = home.path("mine.json").display().to_string();
        pull(&registry, &home, &[&format!("--authfile={file}")])
            .expect_code(1)
            .expect_words(&[&file, &key]);
    }
}

#[test]
fn a_refusal_without_credentials_says_that_there_were_none() {
    for access in [basic(), Access::Token(Tokens::new(USER, PASSWORD).private())] {
        let (registry, home, _) = private(access);
        let outcome = pull(&registry, &home, &[]).expect_code(1);
        let said = outcome.stderr.to_lowercase();
        assert!(said.contains("no credentials") || said.contains("without credentials"), "{said}");
        assert!(said.contains(&registry.host()), "{said}");
    }
}

#[test]
fn what_is_forbidden_names_the_credentials_too() {
    let (registry, home, _) = private(basic());
    registry.always("GET", "/manifests/", Fault::status(403, "DENIED"));
    fs::write(home.path("auth.json"), auth(&registry.host(), USER, PASSWORD)).unwrap();
    let file = home.path("auth.json").display().to_string();
    pull(&registry, &home, &[]).expect_code(1).expect_words(&[&file, &registry.host()]);
}

#[test]
fn nothing_secret_is_shown_for_debugging() {
    for access in [basic(), Access::token(USER, PASSWORD)] {
        let (registry, home, _) = private(access);
        let image = Image::small(Format::Oci, Platform::AMD64, "push");
        image.write_layout(&home.path("in"), "1").unwrap();
        fs::write(home.path("auth.json"), auth(&registry.host(), USER, PASSWORD)).unwrap();
        let run = |flags: &[&str], source: &str, destination: &str| {
            let outcome = home.copy_command(flags, source, destination).arg("--debug").run();
            // There is something to see, or the test would prove nothing.
            secret(outcome).expect_words(&["/v2/"])
        };
        run(&[], "oci:in:1", &registry.reference("team/new:1")).expect_success();
        run(&[], &registry.reference("team/new:1"), "oci:out:1").expect_success();
        let flag = format!("--dest-creds={USER}:{PASSWORD}");
        run(&[&flag], "oci:in:1", &registry.reference("team/newer:1")).expect_success();
        registry.always("", "/v2/", Fault::status(403, "DENIED"));
        run(&[], &registry.reference("team/new:1"), "oci:out:1").expect_code(1);
    }
}

#[test]
fn every_kind_of_challenge_is_answered() {
    let bearer = "Bearer realm=\"{realm}\",service=\"s\",scope=\"{scope}\"";
    let tokens: [&[&str]; 7] = [
        &[bearer],
        &["Negotiate", bearer],
        &[bearer, "Negotiate", "Digest realm=\"x\", nonce=\"y\""],
        &["Negotiate, Bearer realm=\"{realm}\",service=\"s\",scope=\"{scope}\""],
        &["Digest realm=\"a, Bearer b\", qop=\"auth\", bearer realm=\"{realm}\" , service=s"],
        &["BEARER  realm = \"{realm}\",service=\"a \\\"b\\\"\",,scope=\"{scope}\","],
        &["Custom dG9rZW4=, Bearer realm=\"{realm}\",scope=\"{scope}\""],
    ];
    let passwords: [&[&str]; 4] = [
        &["basic realm=x"],
        &["Negotiate", "Basic realm=\"x\", charset=\"UTF-8\""],
        &["Negotiate, NTLM, Basic realm=\"a \\\" b, c\""],
        &["Basic"],
    ];
    let all = tokens.map(|lines| (Access::token(USER, PASSWORD), lines));
    let all = all.into_iter().chain(passwords.map(|lines| (basic(), lines)));
    for (access, lines) in all {
        let (registry, home, image) = private(access);
        registry.always("", "/v2/", Fault::challenges(lines));
        fs::write(home.path("auth.json"), auth(&registry.host(), USER, PASSWORD)).unwrap();
        pull(&registry, &home, &[]).expect_success();
        let outcome = home.copy(&[], "oci:out:1", &registry.reference("team/new:1"));
        assert_eq!(outcome.code, Some(0), "{lines:?}: {}", outcome.stderr);
        image.check_in(&registry, "team/new", "1").unwrap();
    }
}

#[test]
fn a_challenge_that_nobody_can_answer_is_shown_as_it_is() {
    let (registry, home, _) = private(basic());
    registry.always("", "/v2/", Fault::challenges(&["Negotiate"]));
    fs::write(home.path("auth.json"), auth(&registry.host(), USER, PASSWORD)).unwrap();
    pull(&registry, &home, &[]).expect_code(1).expect_words(&[&registry.host()]);
}

#[test]
fn tokens_that_run_out_in_the_middle_are_renewed() {
    // More than there are transfers at a time: a token that others have used up before the first
    // use by who asked for it is no token that ran out.
    let access = || Access::Token(Tokens::new(USER, PASSWORD).for_requests(20));
    let (source, destination) =
        (Registry::start_with(access()).unwrap(), Registry::start_with(access()).unwrap());
    let home = Home::new();
    // Small layers, and one that is sent as a stream.
    let sizes: Vec<usize> = std::iter::once(2_000_000).chain([1000; 40]).collect();
    let image = Image::noise(&sizes, 1);
    image.seed(&source, "app", "1");
    let flag = format!("--dest-creds={USER}:{PASSWORD}");
    let (from, to) = (source.reference("app:1"), destination.reference("app:1"));
    secret(home.copy(&[&flag], &from, &to)).expect_success();
    image.check_in(&destination, "app", "1").unwrap();
    assert!(source.tokens() >= 2 && destination.tokens() >= 4);
}

#[test]
fn a_token_service_that_wants_post_is_asked_by_post() {
    let access = Access::Token(Tokens::new(USER, PASSWORD).by_post_only().private());
    let (registry, home, _) = private(access);
    fs::write(home.path("auth.json"), auth(&registry.host(), USER, PASSWORD)).unwrap();
    pull(&registry, &home, &[]).expect_success();
}

#[test]
fn an_identity_token_is_exchanged() {
    let identity = "hush-hush-identity";
    let tokens = Tokens::new(USER, PASSWORD).with_identity(identity).private();
    let (registry, home, _) = private(Access::Token(tokens));
    let entry = |token: &str| {
        let user = BASE64.encode("00000000-0000-0000-0000-000000000000:");
        let auths = serde_json::json!({registry.host(): {"auth": user, "identitytoken": token}});
        fs::write(home.path("auth.json"), serde_json::json!({"auths": auths}).to_string()).unwrap();
    };
    entry(identity);
    pull(&registry, &home, &[]).expect_success();
    assert!(!registry.requests_of("POST", "/token").is_empty());
    entry("hush-hush-wrong");
    let file = home.path("auth.json").display().to_string();
    pull(&registry, &home, &[]).expect_code(1).expect_words(&[&file]);
}

#[test]
fn credentials_stay_behind_when_blobs_are_elsewhere() {
    for access in [basic(), Access::Token(Tokens::new(USER, PASSWORD).private())] {
        let (registry, home, _) = private(access);
        let storage = registry.start_storage([127, 0, 0, 2].into()).unwrap();
        registry.always("GET", "/blobs/sha256", Fault::Redirect(storage.host()));
        registry.always("POST", "/uploads/", Fault::LocationAt(storage.host()));
        fs::write(home.path("auth.json"), auth(&registry.host(), USER, PASSWORD)).unwrap();
        pull(&registry, &home, &[]).expect_success();
        // Another one, that cannot be mounted from where the first was.
        let pushed = Image::small(Format::Oci, Platform::AMD64, "pushed");
        pushed.write_layout(&home.path("in"), "1").unwrap();
        secret(home.copy(&[], "oci:in:1", &registry.reference("team/new:1"))).expect_success();
        pushed.check_in(&registry, "team/new", "1").unwrap();
        let seen = storage.requests();
        assert!(seen.iter().any(|one| one.method == "GET") && seen.len() > 4, "{seen:?}");
        assert!(seen.iter().all(|one| !one.is_authorized()), "{seen:?}");
    }
}

#[test]
fn signed_addresses_of_blobs_are_not_shown() {
    let (registry, home, image) = private(Access::Open);
    let storage = registry.start_storage([127, 0, 0, 2].into()).unwrap();
    let layer = &image.layers()[0];
    let location =
        format!("http://{}/v2/team/app/blobs/{layer}?X-Amz-Signature=hush-hush", storage.host());
    let answer = Answer::empty(307).header("Location", location);
    registry.always("GET", layer, Fault::Answer(answer));
    pull(&registry, &home, &["--debug"]).expect_success().expect_words(&[&storage.host()]);
    assert!(storage.requests()[0].target.contains("hush-hush"));
    storage.always("GET", "", Fault::status(403, "DENIED"));
    fs::remove_dir_all(home.path("out")).unwrap();
    pull(&registry, &home, &["--debug"]).expect_code(1).expect_words(&[&storage.host()]);
}

#[test]
fn a_helper_is_asked_and_a_broken_one_is_named() {
    let (registry, home, _) = private(basic());
    let helpers = serde_json::json!({"credHelpers": {registry.host(): "of-tests"}});
    fs::write(home.path("auth.json"), helpers.to_string()).unwrap();
    let run = |script: &str| {
        let program = home.path("bin/docker-credential-of-tests");
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::write(&program, script).unwrap();
        home.command("chmod").args(["+x", program.to_str().unwrap()]).succeed();
        let mut command = home.copy_command(&[], &registry.reference("team/app:1"), "oci:out:1");
        let path = format!("{}:/usr/bin:/bin", home.path("bin").display());
        secret(command.env("PATH", path).run())
    };
    let answer = format!(r#"{{"ServerURL":"x","Username":"{USER}","Secret":"{PASSWORD}"}}"#);
    run(&format!("#!/bin/sh\ncat >asked\necho '{answer}'\n")).expect_success();
    assert_eq!(fs::read_to_string(home.path("asked")).unwrap().trim(), registry.host());
    run("#!/bin/sh\necho 'the vault is shut' >&2\nexit 3\n")
        .expect_code(1)
        .expect_words(&["docker-credential-of-tests"]);
}

#[test]
fn whoever_logs_in_is_known_until_they_log_out() {
    let (registry, home, _) = private(basic());
    let host = registry.host();
    let login = |password: &str| {
        let mut child = home
            .diolkos()
            .args(["login", "--tls-verify=false", "--username", USER, "--password-stdin", &host])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that refuses its arguments does not read.
        let _ = child.stdin.take().unwrap().write_all(password.as_bytes());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!errors.contains(PASSWORD) && !said.contains(PASSWORD));
        (output.status.code(), said, errors)
    };
    let (code, said, errors) = login("wrong");
    assert_eq!((code, said.as_str()), (Some(1), ""), "{errors}");
    assert_eq!(login(PASSWORD).1, "Login Succeeded!\n");
    pull(&registry, &home, &[]).expect_success();
    let known = home.diolkos().args(["login", "--get-login", &host]).succeed();
    assert_eq!(known.stdout, "me\n");
    let out = home.diolkos().args(["logout", &host]).succeed();
    assert_eq!(out.stdout, format!("Removed login credentials for {host}\n"));
    pull(&registry, &home, &[]).expect_code(1);
}
