//! JSON as Go's `encoding/json` reads and writes it.
//!
//! Other tools of this field are written in Go, so what they accept and, byte for byte, what they
//! write is decided there: keys match whatever their case, the last of several equal keys counts,
//! `null` is nothing, and `<`, `>` and `&` are escaped. Values that we do not look into stay the
//! text they were ([`RawValue`]), so no depth or size of number in them can trouble us.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};

use diolkos_sdk::{Error, ErrorKind, Result};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// An object of which only one level has been read: keys and the text of their values.
#[derive(Debug, Default)]
pub(crate) struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Object<'a> {
    /// Reads an object from bytes; `null` is an empty one.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| Error::new(ErrorKind::Corrupt, "not UTF-8").with_source(error))?;
        Self::parse_text(text)
    }

    /// Reads an object from text.
    pub(crate) fn parse_text(text: &'a str) -> Result<Self> {
        serde_json::from_str(text)
            .map_err(|error| Error::new(ErrorKind::Corrupt, format!("invalid JSON: {error}")))
    }

    /// Returns the last value of a key in any case; `null` counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&'a RawValue> {
        let (_, value) = self.0.iter().rev().find(|(found, _)| is_key(found, key))?;
        (value.get() != "null").then_some(*value)
    }

    /// Returns keys and values in the order of the text.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), *value))
    }

    /// Returns a string, empty when absent.
    pub(crate) fn string(&self, key: &str) -> Result<String> {
        self.get(key).map_or_else(|| Ok(String::new()), |value| read(key, value, "a string"))
    }

    /// Returns a boolean, false when absent.
    pub(crate) fn boolean(&self, key: &str) -> Result<bool> {
        self.get(key).map_or(Ok(false), |value| read(key, value, "true or false"))
    }

    /// Returns a whole number.
    pub(crate) fn integer(&self, key: &str) -> Result<Option<i64>> {
        self.get(key).map(|value| read(key, value, "a whole number")).transpose()
    }

    /// Returns an object below this one.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Object<'a>>> {
        self.get(key).map(|value| read(key, value, "an object")).transpose()
    }

    /// Returns the values of an array.
    pub(crate) fn array(&self, key: &str) -> Result<Option<Vec<&'a RawValue>>> {
        self.get(key).map(|value| read(key, value, "an array")).transpose()
    }

    /// Returns the objects of an array.
    pub(crate) fn objects(&self, key: &str) -> Result<Option<Vec<Object<'a>>>> {
        self.get(key).map(|value| read(key, value, "an array of objects")).transpose()
    }

    /// Returns the strings of an array.
    pub(crate) fn strings(&self, key: &str) -> Result<Option<Vec<String>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let strings: Vec<Option<String>> = read(key, value, "an array of strings")?;
        Ok(Some(strings.into_iter().map(Option::unwrap_or_default).collect()))
    }

    /// Returns an object that maps strings to strings.
    pub(crate) fn string_map(&self, key: &str) -> Result<Option<BTreeMap<String, String>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let map: BTreeMap<String, Option<String>> = read(key, value, "an object of strings")?;
        Ok(Some(map.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect()))
    }
}

/// Tells whether a key of a document is read as `key`, which is in ASCII.
fn is_key(found: &str, key: &str) -> bool {
    // The long s and the Kelvin sign are the two other characters that lower or raise to ASCII.
    let folded = |c: char| match c {
        'ſ' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    found.eq_ignore_ascii_case(key)
        || (!found.is_ascii() && found.chars().map(folded).eq(key.chars().map(folded)))
}

/// Reads one value, which the error message names.
fn read<'a, T: Deserialize<'a>>(key: &str, value: &'a RawValue, expected: &str) -> Result<T> {
    serde_json::from_str(value.get()).map_err(|_| {
        let shown: String = value.get().chars().take(60).collect();
        Error::new(ErrorKind::Corrupt, format!("field `{key}` should be {expected}, not {shown}"))
    })
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Object::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                #[derive(Deserialize)]
                struct Key<'a>(#[serde(borrow)] Cow<'a, str>);
                let mut fields = Vec::new();
                while let Some((Key(key), value)) = map.next_entry()? {
                    fields.push((key, value));
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_any(Fields)
    }
}

/// Writes a value without spaces, as `json.Marshal` does.
pub(crate) fn to_vec(value: &impl Serialize) -> Vec<u8> {
    write(value, true)
}

/// Writes a value without spaces and without escaping `<`, `>` and `&`.
pub(crate) fn to_vec_unescaped(value: &impl Serialize) -> Vec<u8> {
    write(value, false)
}

fn write(value: &impl Serialize, html: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1024);
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, GoFormatter { html });
    value.serialize(&mut serializer).expect("our types have string keys and memory takes writes");
    bytes
}

/// Writes a value as `json.MarshalIndent` does: each level indented, a newline after none.
pub(crate) fn to_string_indented(value: &impl Serialize, indent: &str) -> String {
    let compact = String::from_utf8(to_vec(value)).expect("the serialiser writes UTF-8");
    indented(&compact, "", indent)
}

/// Indents compact JSON; every line but the first starts with `prefix`.
pub(crate) fn indented(compact: &str, prefix: &str, indent: &str) -> String {
    let mut out = String::with_capacity(compact.len() * 2);
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    let new_line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(prefix);
        out.extend(std::iter::repeat_n(indent, depth));
    };
    let mut chars = compact.chars().peekable();
    while let Some(c) = chars.next() {
        if in_string {
            out.push(c);
            (escaped, in_string) = (!escaped && c == '\\', escaped || c != '"');
            continue;
        }
        match c {
            '"' => {
                in_string = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                if let Some(close @ ('}' | ']')) = chars.peek() {
                    out.push(*close);
                    chars.next();
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ => out.push(c),
        }
    }
    out
}

/// The escaping of Go; everything else is as serde_json's compact form.
struct GoFormatter {
    html: bool,
}

impl GoFormatter {
    /// Writes text of a string, escaping what only Go escapes.
    fn escape<W: Write + ?Sized>(&self, writer: &mut W, text: &[u8]) -> io::Result<()> {
        let mut start = 0;
        let mut at = 0;
        while at < text.len() {
            let (escape, length): (&[u8], usize) = match text[at] {
                b'<' if self.html => (b"\\u003c", 1),
                b'>' if self.html => (b"\\u003e", 1),
                b'&' if self.html => (b"\\u0026", 1),
                0xe2 if text[at..].starts_with(b"\xe2\x80\xa8") => (b"\\u2028", 3),
                0xe2 if text[at..].starts_with(b"\xe2\x80\xa9") => (b"\\u2029", 3),
                _ => {
                    at += 1;
                    continue;
                }
            };
            writer.write_all(&text[start..at])?;
            writer.write_all(escape)?;
            at += length;
            start = at;
        }
        writer.write_all(&text[start..])
    }
}

impl serde_json::ser::Formatter for GoFormatter {
    fn write_string_fragment<W: Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        self.escape(writer, fragment.as_bytes())
    }

    /// Raw values lose their spaces and get the same escapes; nothing else of them changes.
    fn write_raw_fragment<W: Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let bytes = fragment.as_bytes();
        let mut in_string = false;
        let mut escaped = false;
        let mut start = 0;
        for (at, byte) in bytes.iter().enumerate() {
            if in_string {
                (escaped, in_string) = (!escaped && *byte == b'\\', escaped || *byte != b'"');
            } else if *byte == b'"' {
                in_string = true;
            } else if byte.is_ascii_whitespace() {
                self.escape(writer, &bytes[start..at])?;
                start = at + 1;
            }
        }
        self.escape(writer, &bytes[start..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_match_in_any_case_and_the_last_one_counts() {
        let object = Object::parse(br#"{"a":"1","A":"2","b":null,"c":[null,"x"]}"#).unwrap();
        assert_eq!(object.string("a").unwrap(), "2");
        assert_eq!(object.string("b").unwrap(), "");
        assert_eq!(object.strings("c").unwrap().unwrap(), ["", "x"]);
        assert!(object.get("d").is_none());
        let object = Object::parse("{\"layer\u{17f}\":1,\"Blob\u{212a}\":2}".as_bytes()).unwrap();
        assert!(object.get("layers").is_some() && object.get("blobk").is_some());
        assert!(object.get("layer").is_none());
    }

    #[test]
    fn values_of_the_wrong_kind_are_errors_that_name_the_field() {
        let object = Object::parse(br#"{"a":1.5,"b":"x","c":{}}"#).unwrap();
        for (error, field) in [
            (object.integer("a").unwrap_err(), "`a`"),
            (object.integer("b").unwrap_err(), "`b`"),
            (object.array("c").unwrap_err(), "`c`"),
            (object.string("c").unwrap_err(), "`c`"),
        ] {
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.message().contains(field), "{error:?}");
        }
    }

    #[test]
    fn strings_are_escaped_as_go_escapes_them() {
        let text = "<a>&\u{2028}\u{2029}\u{7f}/\"\\\u{1}\u{8}\u{c}\n\r\té";
        assert_eq!(
            String::from_utf8(to_vec(&text)).unwrap(),
            "\"\\u003ca\\u003e\\u0026\\u2028\\u2029\u{7f}/\\\"\\\\\\u0001\\b\\f\\n\\r\\té\""
        );
        assert_eq!(String::from_utf8(to_vec_unescaped(&"<&>")).unwrap(), "\"<&>\"");
    }

    #[test]
    fn raw_values_lose_their_spaces_but_keep_numbers_keys_and_escapes() {
        let raw: Box<RawValue> = serde_json::from_str(
            "{ \"b\" : [ 1.00 , 1e400 ] ,\n\t\"a\" : \"x \\u0041 \\\" <y> \" , \"a\" : null }",
        )
        .unwrap();
        assert_eq!(
            String::from_utf8(to_vec(&raw)).unwrap(),
            r#"{"b":[1.00,1e400],"a":"x \u0041 \" \u003cy\u003e ","a":null}"#
        );
    }

    #[test]
    fn indentation_leaves_empty_containers_and_strings_alone() {
        let value = serde_json::json!({"a": [], "b": {}, "c": ["{,:}", 1], "d": "\\\""});
        assert_eq!(
            to_string_indented(&value, "    "),
            "{\n    \"a\": [],\n    \"b\": {},\n    \"c\": [\n        \"{,:}\",\n        1\n    ],\n    \
             \"d\": \"\\\\\\\"\"\n}"
        );
    }

    #[test]
    fn nesting_of_any_depth_is_skipped_over() {
        let depth = 500_000;
        let text = format!("{{\"deep\":{}{},\"a\":1}}", "[".repeat(depth), "]".repeat(depth));
        let object = Object::parse(text.as_bytes()).unwrap();
        assert_eq!(object.integer("a").unwrap(), Some(1));
        assert_eq!(to_vec(&object.get("deep").unwrap()).len(), 2 * depth);
    }

    proptest! {
        #[test]
        fn indenting_then_compacting_gives_the_same_text(
            keys in proptest::collection::vec("\\PC{0,8}", 0..6),
        ) {
            let value: BTreeMap<_, _> = keys.iter().map(|key| (key, &keys)).collect();
            let compact = to_vec(&value);
            let indented = to_string_indented(&value, "  ");
            let raw: Box<RawValue> = serde_json::from_str(&indented).unwrap();
            prop_assert_eq!(to_vec(&raw), compact);
        }
    }
}
