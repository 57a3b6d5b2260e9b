//! Under the name `skopeo` the program speaks as scripts expect that one to.

use std::os::unix::fs::symlink;
use std::process::Command;

use diolkos_tests::{Format, Home, Image, Platform, Registry, Run as _, built_program, require};

/// Prepares the program under its other name.
fn as_skopeo(home: &Home) -> Command {
    let link = home.path("skopeo");
    if !link.exists() {
        symlink(built_program(), &link).unwrap();
    }
    let mut command = home.command(link);
    command.env("_CONTAINERS_ROOTLESS_UID", "1000");
    // The plugins are beside the real file, wherever the link is.
    command
}

#[test]
fn the_progress_of_a_copy_is_on_stdout_word_for_word() {
    let Some(_) = require("skopeo") else { return };
    let (ours, theirs) = (Home::new(), Home::new());
    let image = Image::small(Format::Oci, Platform::AMD64, "progress");
    for home in [&ours, &theirs] {
        image.write_layout(&home.path("in"), "1").unwrap();
    }
    let arguments = ["copy", "oci:in:1", "dir:out"];
    let ours_said = as_skopeo(&ours).args(arguments).succeed();
    let theirs_said = theirs.skopeo().args(arguments).succeed();
    let lines = |text: &str| {
        // Only older versions have this line where there are no signatures.
        let lines = text.lines().filter(|line| *line != "Storing signatures");
        let mut lines: Vec<_> = lines.map(str::to_owned).collect();
        // Layers may be begun in any order.
        lines.sort();
        lines
    };
    assert_eq!(lines(&ours_said.stdout), lines(&theirs_said.stdout));
    assert_eq!(ours_said.stderr, "");
    let quiet = as_skopeo(&ours).args(["copy", "-q", "oci:in:1", "dir:out"]).succeed();
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
}

#[test]
fn errors_are_one_line_in_its_form() {
    let (registry, home) = (Registry::start().unwrap(), Home::new());
    Image::small(Format::Oci, Platform::AMD64, "errors").seed(&registry, "app", "1");
    let missing = registry.reference("app:2");
    let cases: [(&[&str], i32, &str); 7] = [
        (
            &["copy", "nothing", "dir:out"],
            1,
            "Invalid image name \\\"nothing\\\", expected colon-separated transport:reference",
        ),
        (&["copy", "dir:in", "unknown:out"], 1, "unknown transport \\\"unknown\\\""),
        (&["inspect", "--tls-verify=false", &missing], 2, "manifest unknown"),
        (&["copy", "--src-tls-verify=false", &missing, "dir:out"], 2, "manifest unknown"),
        (&["copy", "--no-such-flag", "dir:in", "dir:out"], 1, "unknown flag: --no-such-flag"),
        (&["list-tags", "dir:in"], 1, ""),
        (&["copy", "oci:in:1", "oci:out:bad name"], 1, "Invalid image bad name"),
    ];
    for (arguments, code, words) in cases {
        let said = as_skopeo(&home).args(arguments).run().expect_code(code);
        let line = said.stderr.trim_end();
        assert!(!line.contains('\n'), "{arguments:?}: {line}");
        assert!(line.starts_with("time=\"") && line.contains(" level=fatal msg="), "{line}");
        assert!(line.contains(words), "{arguments:?}: {line}");
        assert_eq!(said.stdout, "", "{arguments:?}");
    }
    // Here the help comes first.
    let usage = as_skopeo(&home).args(["copy", "dir:in"]).run().expect_code(1);
    let line = usage.stderr.lines().last().unwrap_or_default();
    assert!(line.ends_with("level=fatal msg=\"Exactly two arguments expected\""), "{line}");
}

#[test]
fn the_version_is_the_one_whose_behaviour_we_have() {
    let home = Home::new();
    let said = as_skopeo(&home).arg("--version").succeed();
    assert!(said.stdout.starts_with("skopeo version 1.22"), "{}", said.stdout);
    let own = home.diolkos().arg("--version").succeed();
    assert!(own.stdout.starts_with("diolkos"), "{}", own.stdout);
}
