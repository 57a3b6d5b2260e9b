//! Parsing, names, and what the manifest beside the library says.

use crate::conformance::bench::{Bench, During, Failure};
use crate::{Error, ErrorKind};

type Outcome = Result<(), Failure>;

pub fn names_parse_again_to_the_same_names(bench: &Bench<'_>) -> Outcome {
    for n in 0..3 {
        same_names(bench, &bench.details(n))?;
    }
    Ok(())
}

fn same_names(bench: &Bench<'_>, details: &str) -> Outcome {
    let transport = bench.subject.transport();
    let names = transport.parse(details).during(&format!("parsing `{details}`"))?.names();
    let again = transport
        .parse(&names.details)
        .during(&format!("parsing `{}`, the normal form of `{details}`", names.details))?
        .names();
    ensure!(
        names == again,
        "`{details}` has the names {names:?}, but its normal form has {again:?}"
    );
    Ok(())
}

/// Text that people and programs have been seen to give, and some that only tests do.
fn strange() -> Vec<String> {
    let long = "x".repeat(70_000);
    let digest = format!("sha256:{}", "ab".repeat(32));
    let mut list: Vec<String> = [
        "",
        " ",
        ":",
        "::",
        "/",
        "//",
        "///",
        "@",
        "#",
        "@@",
        ":@",
        "@:",
        "..",
        "../",
        "../..",
        "/..",
        "a/../../b",
        ".",
        "./",
        "~",
        "\0",
        "a\0b",
        "\n",
        "a\nb",
        "\r\n",
        "\t",
        "\x1b[31m",
        "\u{7f}",
        "ü",
        "日本語:最新",
        "\u{202e}gnp",
        "\u{feff}",
        "a\u{301}",
        "%00",
        "%zz",
        "a b",
        "a:b:c:d:e",
        "a@b@c",
        "[::1",
        "[::1]:x/y",
        "host:99999/a",
        "//host:-1/a:b",
        "//:@/",
        "//user:password@host/a:1",
        "//a/b@sha256:",
        "//a/b@sha256:12",
        "//UPPER/Case:Tag",
        "//a/b:c@d:e",
        "@0",
        "a:@0",
        "a:@-1",
        "a:@18446744073709551616",
        "[",
        "]",
        "[]@",
        "{",
        "{}",
        "\"",
        "'",
        "$HOME",
        "`id`",
        "*",
        "?",
        "\\",
        "-",
        "--help",
        "=",
        "a=b",
        "a,b",
    ]
    .map(String::from)
    .into();
    list.extend([
        long.clone(),
        format!("//{long}"),
        format!("//host/{long}:{long}"),
        format!("{long}:{long}"),
        format!("//{digest}"),
        format!("a@{digest}"),
        format!("//a/b:c@{digest}"),
        digest,
        "a/".repeat(5000),
        ":".repeat(5000),
        "../".repeat(2000),
    ]);
    list
}

pub fn strange_references_never_panic(bench: &Bench<'_>) -> Outcome {
    let valid = bench.details(0);
    let mut texts = strange();
    for (at, _) in valid.char_indices() {
        texts.push(valid[..at].to_owned());
        texts.push(format!("{}\0{}", &valid[..at], &valid[at..]));
        texts.push(format!("{}é:{}", &valid[..at], &valid[at..]));
    }
    for text in strange().iter().filter(|text| text.len() < 100) {
        texts.push(format!("{valid}{text}"));
        texts.push(format!("{text}{valid}"));
    }
    let transport = bench.subject.transport();
    for text in &texts {
        let shown: String = text.chars().take(80).collect();
        match transport.parse(text) {
            Ok(reference) => {
                let names = reference.names();
                ensure!(
                    !names.details.contains('\0'),
                    "{shown:?} was accepted, and its normal form contains a NUL"
                );
                same_names(bench, text)?;
            }
            Err(error) => not_our_fault(&error, &format!("parsing {shown:?}"))?,
        }
        if let Err(error) = transport.check_policy_scope(text) {
            not_our_fault(&error, &format!("checking the policy scope {shown:?}"))?;
        }
    }
    Ok(())
}

fn not_our_fault(error: &Error, what: &str) -> Outcome {
    ensure!(
        !matches!(error.kind(), ErrorKind::Panicked | ErrorKind::Internal | ErrorKind::Cancelled),
        "{what} should fail as invalid input: {error:?}"
    );
    ensure!(!error.message().is_empty(), "{what} fails without a message");
    Ok(())
}

pub fn the_manifest_beside_the_library_tells_what_the_transport_can_do(
    bench: &Bench<'_>,
) -> Outcome {
    let can = bench.subject.capabilities();
    let session = bench.session();
    let reference = bench.reference(0)?;
    agrees("source", can.source, reference.open(&session).err())?;
    agrees("delete", can.delete, reference.delete(&session).err())?;
    agrees("tags", can.tags, reference.tags(&session).err())?;
    match reference.create(&session) {
        Ok(destination) => {
            ensure!(can.destination, "`destination` is not declared, but images can be written");
            let accepts = destination.accepts();
            ensure!(
                accepts.several_images == can.several_images,
                "`several-images` is {}declared, but the destination says {}",
                if can.several_images { "" } else { "not " },
                accepts.several_images
            );
            ensure!(
                can.signatures || accepts.signatures.is_err(),
                "`signatures` is not declared, but the destination takes them"
            );
            Ok(())
        }
        Err(error) => agrees("destination", can.destination, Some(error)),
    }
}

/// A declared ability may fail for want of an image, but not as unsupported; one that is not
/// declared must.
fn agrees(word: &str, declared: bool, error: Option<Error>) -> Outcome {
    let unsupported = error.as_ref().is_some_and(|error| error.kind() == ErrorKind::Unsupported);
    ensure!(!(declared && unsupported), "`{word}` is declared, but it fails: {error:?}");
    ensure!(
        declared || unsupported,
        "`{word}` is not declared, so it should fail as unsupported, not with {error:?}"
    );
    Ok(())
}
