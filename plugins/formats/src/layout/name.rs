//! References to images in a layout: `PATH[:NAME]` and `PATH:@INDEX`.
//!
//! # Source
//! containers-transports(5), `oci:path[:reference]`; the grammar of names is that of
//! `org.opencontainers.image.ref.name` in OCI image-spec 1.1, "Annotations".

use diolkos_sdk::{Error, ErrorKind, Result};

/// Splits a reference at its first colon into the path and what follows, which may be empty.
pub fn split(details: &str) -> (&str, &str) {
    details.split_once(':').unwrap_or((details, ""))
}

/// Parses `@INDEX`, the position of an entry in `index.json`; `None` for any other text.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] when what follows the `@` is no number or negative.
pub fn position(text: &str) -> Result<Option<usize>> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let Some(digits) = text.strip_prefix('@') else { return Ok(None) };
    let invalid = |message| Error::new(ErrorKind::InvalidInput, message);
    let number: i64 = digits.parse().map_err(|error: std::num::ParseIntError| {
        let why = match error.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        invalid(format!(
            "Invalid source index @{digits}: not an integer: strconv.Atoi: parsing {digits:?}: {why}"
        ))
    })?;
    usize::try_from(number)
        .map(Some)
        .map_err(|_| invalid(format!("Invalid source index @{number}: must not be negative")))
}

/// Checks the name of an image in a layout; the empty one means no name.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] when it is not made of components of letters and digits, joined by
/// one of `-._:@+` or `--`, with slashes between them.
pub fn check(name: &str) -> Result<()> {
    if name.is_empty() || name.split('/').all(is_component) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, format!("Invalid image {name}")))
}

fn is_component(mut text: &str) -> bool {
    loop {
        let rest = text.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
        if rest.len() == text.len() {
            return false;
        }
        if rest.is_empty() {
            return true;
        }
        let Some(next) = rest.strip_prefix("--").or_else(|| rest.strip_prefix(SEPARATORS)) else {
            return false;
        };
        text = next;
    }
}

const SEPARATORS: [char; 6] = ['-', '.', '_', ':', '@', '+'];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reference_is_split_at_its_first_colon() {
        assert_eq!(split("/a"), ("/a", ""));
        assert_eq!(split("/a:"), ("/a", ""));
        assert_eq!(split("/a:localhost:5000/x:1"), ("/a", "localhost:5000/x:1"));
        assert_eq!(split(":x"), ("", "x"));
    }

    #[test]
    fn names_follow_the_grammar_of_the_annotation() {
        for good in ["", "latest", "v1.0", "a--b", "localhost:5000/x:1", "a/b@c+d_e", "X-1"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in
            ["-a", "a-", "a---b", "a..b", "a//b", "/a", "a/", "ä", "a b", "a:", "\n", "a\n", "a%b"]
        {
            let error = check(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert_eq!(error.message(), format!("Invalid image {bad}"));
        }
    }

    #[test]
    fn positions_are_numbers_from_zero() {
        assert_eq!(position("@0").unwrap(), Some(0));
        assert_eq!(position("@12").unwrap(), Some(12));
        assert_eq!(position("1").unwrap(), None);
        let message = |text| position(text).unwrap_err().message().to_owned();
        assert_eq!(message("@-1"), "Invalid source index @-1: must not be negative");
        assert_eq!(
            message("@x"),
            "Invalid source index @x: not an integer: strconv.Atoi: parsing \"x\": invalid syntax"
        );
        assert!(message("@").contains("not an integer"));
        assert!(message("@99999999999999999999").ends_with("value out of range"));
    }

    proptest! {
        #[test]
        fn nothing_panics_and_a_good_name_splits_into_words(text in "(\\PC|[a-z@:/_.-]){0,40}") {
            let _ = position(&text);
            if check(&text).is_ok() && !text.is_empty() {
                prop_assert!(text.is_ascii());
                prop_assert!(text.ends_with(|c: char| c.is_ascii_alphanumeric()));
            }
        }
    }
}
