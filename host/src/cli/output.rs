//! What goes to stdout: data alone.

use std::fmt::Write as _;
use std::io::Write as _;

use diolkos_sdk::{Error, ErrorKind, Result};
use serde::Serialize;

/// Writes bytes to stdout as they are.
///
/// When the reader has gone away, the program ends without a word: nobody wants the rest.
///
/// # Errors
/// [`ErrorKind::Io`].
pub fn write(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            std::process::exit(1);
        }
        Error::new(ErrorKind::Io, "cannot write to standard output").with_source(error)
    })
}

/// Writes a text and a newline to stdout.
///
/// # Errors
/// As [`fn@write`].
pub fn line(text: &str) -> Result<()> {
    write(format!("{text}\n").as_bytes())
}

/// Writes a value as JSON the way Go's `json.MarshalIndent` does with four spaces.
///
/// # Errors
/// As [`fn@write`].
pub fn json(value: &impl Serialize) -> Result<()> {
    line(&to_go_json(value))
}

/// Formats a value as Go does: four spaces, and `<`, `>`, `&` escaped for HTML.
fn to_go_json(value: &impl Serialize) -> String {
    let mut bytes = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, format);
    value.serialize(&mut serializer).expect("our values have string keys and go to memory");
    let text = String::from_utf8(bytes).expect("JSON is UTF-8");
    // Outside of strings, none of these characters occurs in JSON.
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                write!(escaped, "\\u{:04x}", u32::from(c))
                    .expect("writing to a string cannot fail");
            }
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_gos() {
        let value = serde_json::json!({ "Tags": ["a<b>&", "é"], "Empty": [] });
        assert_eq!(
            to_go_json(&value),
            "{\n    \"Empty\": [],\n    \"Tags\": [\n        \"a\\u003cb\\u003e\\u0026\",\n        \
             \"é\"\n    ]\n}"
        );
    }
}
