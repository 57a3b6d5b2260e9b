//! Libraries as hosts meet them: an old plugin, a newer one, wrong ones of every sort, and one that
//! panics in every call. Each wrong one is one clear error, and the process lives on.

#[path = "../../examples/memory/src/lib.rs"]
#[allow(unused, clippy::pedantic, reason = "the example is a whole plugin with lints of its own")]
mod memory;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::{env, fs};

use diolkos_sdk::abi::{self, ABI_MAJOR, ABI_MINOR};
use diolkos_sdk::conformance::image::sha256;
use diolkos_sdk::conformance::{Capabilities, Subject, run};
use diolkos_sdk::*;

/// Has cargo build the libraries of `tests/plugins`, once, and returns their directory.
fn libraries() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // All features, as these tests are built, so that nothing is compiled twice.
        let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--examples", "--all-features", "--message-format=json"])
            .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo runs the tests, so it can be started");
        assert!(output.status.success(), "cargo cannot build the test plugins");
        let messages = String::from_utf8(output.stdout).expect("cargo's messages are text");
        let file = messages
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .find(|message| message["target"]["name"] == "test-plugin-old")
            .and_then(|message| Some(message["filenames"][0].as_str()?.to_owned()))
            .expect("the old plugin is one of the examples");
        Path::new(&file).parent().expect("a file is in a directory").to_owned()
    })
}

fn library(name: &str) -> PathBuf {
    libraries().join(format!("libtest_plugin_{}.so", name.replace('-', "_")))
}

fn session() -> Session {
    Session {
        options: Options::default(),
        platform: PlatformChoice::default(),
        temp_dir: env::temp_dir(),
        host: Host::silent(),
    }
}

/// Loads what cannot be used and returns the whole error as text.
fn refused(path: &Path) -> String {
    let Err(error) = abi::load(path) else { panic!("{} was accepted", path.display()) };
    let text = error.chain().join(": ");
    assert!(text.contains(&path.display().to_string()), "the file is not named: {text}");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{text}");
    assert!(abi::inspect(path).is_err(), "{text}");
    text
}

#[test]
fn a_plugin_of_abi_1_0_keeps_every_promise_in_this_host() {
    let plugin = abi::load(&library("old")).unwrap();
    assert_eq!(plugin.abi, (1, 0));
    assert!(plugin.compared, "it does not say what it was built from");
    let (name, transport) = plugin.transports.into_iter().next().unwrap();
    assert_eq!(name, "memory");
    let words = ["source", "destination", "delete", "signatures", "several-images"];
    let subject = Subject::from_template(
        "a plugin of ABI 1.0",
        transport,
        "{id}-{n}",
        Options::default(),
        Capabilities::from_words(words),
    );
    let report = run(&subject.unwrap());
    assert!(report.is_ok(), "{report}");
}

#[test]
fn the_frozen_interface_of_abi_1_0_is_the_one_this_host_has() {
    // Once ABI 1 has grown, the golden dump differs from the old one, and only the loading of the
    // old plugin, above, shows that the difference is harmless. Then this test goes.
    assert_eq!(
        include_str!("plugins/abi-1.0/abi-1.layout"),
        include_str!("../src/abi/abi-1.layout")
    );
}

#[test]
fn a_plugin_whose_root_table_has_grown_loads_in_this_host() {
    let plugin = abi::load(&library("newer")).unwrap();
    assert!(plugin.compared);
    let (name, transport) = &plugin.transports[0];
    assert_eq!(name, "newer");
    assert_eq!(transport.parse("x").unwrap().names().details, "x");
    assert_eq!(transport.parse("").err().unwrap().kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_plugin_that_panics_in_every_call_gives_errors_and_does_no_harm() {
    let plugin = abi::load(&library("panics")).unwrap();
    assert!(!plugin.compared, "it was built from the interface that this program has");
    let transport = &plugin.transports[0].1;
    let session = session();
    let panicked = |error: Option<Error>, call: &str| {
        let error = error.unwrap_or_else(|| panic!("{call} succeeded"));
        assert_eq!(error.kind(), ErrorKind::Panicked, "{error:?}");
        assert!(error.message().ends_with(&format!("{call} was told to")), "{error:?}");
        assert!(error.message().contains("plugin `diolkos-sdk`"), "{error:?}");
    };
    panicked(transport.parse("parse").err(), "parse");
    panicked(transport.check_policy_scope("").err(), "check_policy_scope");
    panicked(transport.extension("", b"").unwrap().err(), "extension");

    let closed = transport.parse("open").unwrap();
    assert_eq!(closed.names(), Names::default());
    panicked(closed.open(&session).err(), "open");
    panicked(closed.create(&session).err(), "create");
    panicked(closed.delete(&session).err(), "delete");
    panicked(closed.tags(&session).err(), "tags");
    drop(closed);

    let open = transport.parse("").unwrap();
    let source = open.open(&session).unwrap();
    let blob = Descriptor::new("", sha256(b""), 0);
    panicked(source.manifest(None).err(), "manifest");
    panicked(source.signatures(None).err(), "signatures");
    panicked(source.layers(None).err(), "layers");
    panicked(source.blob(&blob, 1).err(), "blob");
    let mut reader = source.blob(&blob, 0).unwrap().reader;
    assert!(reader.extent().is_none());
    panicked(reader.read(&mut [0; 8]).err(), "read");
    drop(reader);

    let destination = open.create(&session).unwrap();
    assert_eq!(destination.accepts(), Accepts::default());
    panicked(destination.current().err(), "current");
    let role = BlobRole::Config;
    let wanted = BlobWanted { blob, role, candidates: vec![], probably_new: true };
    panicked(destination.reuse(&wanted).err(), "reuse");
    let mut incoming = BlobIncoming {
        digest: None,
        size: None,
        media_type: String::new(),
        role,
        locations: vec![],
    };
    panicked(destination.put_blob(&incoming).err(), "put_blob");
    incoming.size = Some(0);
    let mut writer = destination.put_blob(&incoming).unwrap().unwrap();
    assert!(writer.file().is_none());
    panicked(writer.write(b"x").err(), "write");
    let sums = BlobSums { digest: sha256(b""), size: 0, diff_id: None };
    panicked(writer.finish(&sums).err(), "finish");
    panicked(destination.put_manifest(&RawManifest::new(vec![], ""), None).err(), "put_manifest");
    panicked(destination.put_signatures(&[], None).err(), "put_signatures");
    let top = TopLevel { digest: sha256(b""), media_type: String::new(), size: 0 };
    panicked(destination.commit(&top).err(), "commit");

    a_good_plugin_still_works();
}

fn a_good_plugin_still_works() {
    let plugin = abi::load(&library("old")).unwrap();
    let reference = plugin.transports[0].1.parse("nothing").unwrap();
    assert_eq!(reference.open(&session()).err().unwrap().kind(), ErrorKind::ImageNotFound);
}

#[test]
fn wrong_layouts_are_refused_before_anything_is_called() {
    for name in ["wrong-layout", "fewer"] {
        let text = refused(&library(name));
        assert!(text.contains("the layout of its types differs from this program's"), "{text}");
    }
    a_good_plugin_still_works();
}

#[test]
fn files_that_are_no_libraries_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let whole = fs::read(library("old")).unwrap();
    let mut foreign = whole.clone();
    // The machine of an ELF header; 0xF7 is BPF.
    foreign[18] = 0xF7;
    for path in [
        file("text.so", b"this is no library\n"),
        file("empty.so", b""),
        file("one-byte.so", b"\x7f"),
        file("script.so", b"#!/bin/sh\nexit 1\n"),
        file("foreign.so", &foreign),
        dir.path().to_owned(),
    ] {
        let text = refused(&path);
        assert!(text.contains("it is not a shared library that this system can load"), "{text}");
    }
    let missing = dir.path().join("missing.so");
    let error = abi::load(&missing).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().contains("missing.so"));
    a_good_plugin_still_works();
}

/// The linker maps a library before it looks at it; what lies behind the end of the file would
/// then end the process by a signal.
#[test]
fn a_library_cut_off_anywhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read(library("old")).unwrap();
    let length = whole.len();
    let mut cuts: Vec<usize> = (1..40).map(|part| length * part / 40).collect();
    cuts.extend([16, 52, 63, 64, 65, 500, 1000, 4095, 4096, 4097, length - 4096, length - 1]);
    for cut in cuts {
        let path = dir.path().join(format!("cut-{cut}.so"));
        fs::write(&path, &whole[..cut]).unwrap();
        let text = refused(&path);
        assert!(text.contains("it is not a shared library that this system can load"), "{text}");
    }
    a_good_plugin_still_works();
}

/// Builds a shared library of a few lines of C.
fn compiled(dir: &Path, name: &str, source: &str) -> PathBuf {
    let (input, output) = (dir.join(format!("{name}.c")), dir.join(format!("{name}.so")));
    fs::write(&input, source).unwrap();
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&output, &input])
        .status()
        .expect("a C compiler is installed");
    assert!(status.success(), "cannot compile {name}.c");
    output
}

/// A header as every plugin has it, with its fields in order.
fn header(magic: &str, size: &str, version: (u32, u32), binding: u32, root: &str) -> String {
    format!(
        "static const char text[256] = \"no abi_stable header\";
         static const struct {{
             char magic[8]; unsigned size, major, minor, binding; const void *root; char more[4064];
         }} header = {{ \"{magic}\", {size}, {}, {}, {binding}, {root} }};
         const void *diolkos_plugin_header(void) {{ return &header; }}",
        version.0, version.1
    )
}

#[test]
fn libraries_that_are_no_plugin_of_this_abi_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let good = (ABI_MAJOR, ABI_MINOR);
    let next = (ABI_MAJOR + 1, 3);
    for (name, source, reason) in [
        ("ordinary", "int answer(void) { return 42; }".to_owned(), "it is no Diolkos plugin"),
        (
            "no-header",
            "const void *diolkos_plugin_header(void) { return 0; }".to_owned(),
            "its header is missing",
        ),
        (
            "wrong-magic",
            header("VAULT!!", "32", good, 1, "text"),
            "its header does not begin as a plugin's does",
        ),
        ("short", header("DIOLKOS", "8", good, 1, "text"), "its header has only 8 bytes"),
        (
            "next-major",
            header("DIOLKOS", "32", next, 1, "text"),
            "it was built for plugin ABI 2.3, and this program has 1.",
        ),
        (
            "first-drafts",
            header("DIOLKOS", "32", (0, 9), 1, "text"),
            "it was built for plugin ABI 0.9, and this program has 1.",
        ),
        (
            "binding",
            header("DIOLKOS", "32", good, 77, "text"),
            "it is bound in a way this program does not know (77)",
        ),
        ("no-root", header("DIOLKOS", "32", good, 1, "0"), "its root module is missing"),
        (
            "other-root",
            header("DIOLKOS", "32", good, 1, "text"),
            "it was built with an incompatible version of abi_stable",
        ),
    ] {
        let text = refused(&compiled(dir.path(), name, &source));
        assert!(text.contains(reason), "{name}: {text}");
    }
    a_good_plugin_still_works();
}

#[test]
fn a_header_may_be_longer_than_this_host_knows() {
    // A later minor version may add fields behind those of 1.0.
    let dir = tempfile::tempdir().unwrap();
    let source = header("DIOLKOS", "4096", (ABI_MAJOR, 99), 1, "0");
    let text = refused(&compiled(dir.path(), "long", &source));
    assert!(text.contains("its root module is missing"), "{text}");
}

#[test]
fn a_hint_says_which_side_to_renew() {
    let dir = tempfile::tempdir().unwrap();
    for (name, version, hint) in
        [("newer", (2, 0), "install a newer diolkos"), ("older", (0, 1), "newer version of the")]
    {
        let source = header("DIOLKOS", "32", version, 1, "0");
        let error = abi::load(&compiled(dir.path(), name, &source)).err().unwrap();
        assert!(error.hint().unwrap().contains(hint), "{error:?}");
    }
}

#[test]
fn a_bare_file_name_means_a_file_here_and_not_one_of_the_system() {
    // The dynamic linker looks for names without a slash in its own directories.
    let error = abi::load(Path::new("libc.so.6")).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
}

#[test]
fn a_transport_answers_alike_directly_linked_and_loaded() {
    let ways: [Box<dyn Transport>; 3] = [
        memory::plugin().transports.remove(0).1,
        abi::linked("memory", memory::plugin).unwrap().remove(0).1,
        abi::load(&library("old")).unwrap().transports.remove(0).1,
    ];
    let long = "x".repeat(300);
    for text in ["name", "a.b_c-d", "", "a b", "a/b", "\0", "é", "..", &long] {
        let mut answers = ways.iter().map(|transport| match transport.parse(text) {
            Ok(reference) => {
                let opened = reference.open(&session()).map(drop);
                let deleted = reference.delete(&session());
                let tags = reference.tags(&session());
                Ok(format!("{:?} {opened:?} {deleted:?} {tags:?}", reference.names()))
            }
            Err(error) => Err(format!("{error:?} {:?}", error.hint())),
        });
        let first = answers.next().unwrap();
        assert!(answers.all(|answer| answer == first), "{text}: {first:?}");
    }
}
