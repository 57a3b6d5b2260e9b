//! The kit itself: it passes a transport that keeps its promises, and names what one breaks.

#[path = "../../examples/memory/src/lib.rs"]
#[allow(unused, clippy::pedantic, reason = "the example is a whole plugin with lints of its own")]
mod memory;

use diolkos_sdk::conformance::faults::{Call, Fault, Faults, Rule};
use diolkos_sdk::conformance::image::{Family, Image, Recipe};
use diolkos_sdk::conformance::{Described, Subject, Verdict, cases, drive, run, run_case};
use diolkos_sdk::{ErrorKind, PlatformChoice, RawManifest, Session, Transport};

const MANIFEST: &str = include_str!("../../examples/memory/plugin.toml");

fn memory() -> Box<dyn Transport> {
    memory::plugin().transports.remove(0).1
}

fn subject(transport: Box<dyn Transport>) -> Subject {
    let described = Described::read(MANIFEST, "memory").unwrap();
    Subject::from_template(
        "memory",
        transport,
        &described.reference.unwrap(),
        described.options,
        described.capabilities,
    )
    .unwrap()
}

fn broken(rule: Rule) -> Subject {
    subject(Faults::new().with(rule).wrap(memory()))
}

#[test]
fn a_transport_that_keeps_its_promises_passes() {
    let report = run(&subject(memory()));
    assert!(report.is_ok(), "{report}");
    assert!(report.to_string().contains("tags_are_listed (needs tags)"), "{report}");
    let wrapped = run(&subject(Faults::new().wrap(memory())));
    assert!(wrapped.is_ok(), "{wrapped}");
}

#[test]
fn every_fault_fails_the_case_that_is_about_it() {
    use Call::{Blob, Commit, Create, Finish, Manifest, Open, Parse, PutBlob, Read, Reuse, Write};
    let other = RawManifest::new(b"{}".to_vec(), "");
    for (rule, case) in [
        (Rule::new(Read, Fault::FlipsBit), "an_image_comes_back_byte_for_byte"),
        (Rule::new(Read, Fault::Truncates).after(4), "an_image_comes_back_byte_for_byte"),
        (Rule::new(Read, Fault::Appends), "what_is_read_has_the_digest_and_size_it_is_listed_with"),
        (
            Rule::new(Blob, Fault::WrongSize(-1)),
            "what_is_read_has_the_digest_and_size_it_is_listed_with",
        ),
        (Rule::new(Manifest, Fault::FlipsBit), "an_index_comes_back_with_its_instances"),
        (Rule::new(Manifest, Fault::Appends), "a_manifest_keeps_its_bytes_however_it_is_written"),
        (
            Rule::new(Manifest, Fault::OtherManifest(other)),
            "without_commit_an_old_image_stays_as_it_was",
        ),
        (Rule::new(Write, Fault::Fails(ErrorKind::Io)).after(2), "a_blob_may_be_put_twice"),
        (Rule::new(PutBlob, Fault::Panics).after(1), "an_image_comes_back_byte_for_byte"),
        (Rule::new(Parse, Fault::Panics).after(50), "strange_references_never_panic"),
        (
            Rule::new(Create, Fault::Fails(ErrorKind::Unsupported)),
            "the_manifest_beside_the_library_tells_what_the_transport_can_do",
        ),
        (
            Rule::new(Open, Fault::Fails(ErrorKind::Unavailable)),
            "a_missing_image_is_reported_as_such",
        ),
        (
            Rule::new(Finish, Fault::Fails(ErrorKind::Unavailable)).after(1),
            "a_blob_can_be_put_again_after_a_broken_write",
        ),
        (Rule::new(Reuse, Fault::Fails(ErrorKind::Io)), "a_missing_blob_is_not_reused"),
        (
            Rule::new(Commit, Fault::FailsAfterwards(ErrorKind::Unavailable)),
            "overwriting_replaces_the_image_or_is_refused",
        ),
    ] {
        let shown = format!("{rule:?}");
        let verdict = run_case(&broken(rule), case).unwrap();
        assert!(matches!(verdict, Verdict::Failed(_)), "{case} let this pass: {shown}");
    }
}

#[test]
fn a_short_read_is_no_fault() {
    let short = broken(Rule::new(Call::Read, Fault::ShortRead).after(3).times(5));
    let verdict = run_case(&short, "an_image_comes_back_byte_for_byte").unwrap();
    assert_eq!(verdict, Verdict::Passed);
}

#[test]
fn rules_count_calls_and_end() {
    let faults = Faults::new()
        .with(Rule::new(Call::Blob, Fault::Fails(ErrorKind::Unavailable)).after(1).times(2));
    let transport = faults.wrap(memory());
    let session = Session {
        options: diolkos_sdk::Options::default(),
        platform: PlatformChoice::default(),
        temp_dir: std::env::temp_dir(),
        host: faults.host(),
    };
    let image = Image::sample(Recipe { family: Family::Oci, compressed: true }, 1);
    let reference = transport.parse("rules-count-calls").unwrap();
    drive::push(&*reference, &session, &image, &[]).unwrap();
    let source = reference.open(&session).unwrap();
    let blob = &image.layers[0].descriptor;
    let outcomes: Vec<_> = (0..4).map(|_| drive::read_blob(&*source, blob).is_ok()).collect();
    assert_eq!(outcomes, [true, false, false, true]);
    assert_eq!(faults.count(Call::Blob), 4);
    assert_eq!(faults.count(Call::PutBlob), 4);
    let _same_rules = faults.clone().with(Rule::new(Call::Blob, Fault::Cancels));
    assert!(!session.host.is_cancelled());
    drive::read_blob(&*source, blob).unwrap();
    assert!(session.host.is_cancelled());
    faults.clear();
    assert!(!session.host.is_cancelled());
}

#[test]
fn a_template_must_keep_scratch_images_apart() {
    for template in ["image", "{dir}", "image{n}", "{id}"] {
        let described = Described::read(MANIFEST, "memory").unwrap();
        let subject = Subject::from_template(
            "memory",
            memory(),
            template,
            described.options,
            described.capabilities,
        );
        assert_eq!(subject.err().unwrap().kind(), ErrorKind::InvalidInput, "{template}");
    }
    assert!(Described::read(MANIFEST, "other").is_err());
    assert!(Described::read("= no toml", "memory").is_err());
}

#[test]
fn cases_have_names_of_their_own() {
    let mut names: Vec<_> = cases().iter().map(|case| case.name).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(run_case(&subject(memory()), "no_such_case").is_none());
}
