//! JSON objects that can be changed without touching what is not understood.
//!
//! Members keep their order and the bytes they were written with, so that programs of tomorrow
//! find their own settings again. There is no `Debug`: the files that this is for hold passwords.
//! For the same reason an error says where something is wrong and never what stands there.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

/// An object: its members in order.
#[derive(Clone, Default)]
pub(super) struct Object(Vec<(String, Member)>);

/// The value of a member.
#[derive(Clone)]
enum Member {
    /// As it was written.
    Kept(Box<RawValue>),
    /// As it was made here.
    Made(Object),
}

/// Why a text is not what it should be, without the text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken(String);

impl Broken {
    pub fn new(what: &str) -> Self {
        Self(what.to_owned())
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Broken {}

impl Object {
    /// Parses a text that is one object, or null, which is an empty one.
    pub fn parse(bytes: &[u8]) -> Result<Self, Broken> {
        if bytes.trim_ascii().is_empty() {
            return Err(Broken("it is empty".into()));
        }
        if bytes.trim_ascii() == b"null" {
            return Ok(Self::default());
        }
        serde_json::from_slice(bytes).map_err(|error| {
            let what = if error.is_data() { "no JSON object" } else { "invalid JSON" };
            Broken(format!("{what} at line {}, column {}", error.line(), error.column()))
        })
    }

    /// Returns the object that is the value of a member; empty where there is none, or null.
    pub fn object(&self, name: &str) -> Result<Self, Broken> {
        match self.member(name) {
            None => Ok(Self::default()),
            Some(Member::Made(object)) => Ok(object.clone()),
            Some(Member::Kept(raw)) if raw.get() == "null" => Ok(Self::default()),
            Some(Member::Kept(raw)) => serde_json::from_str(raw.get())
                .map_err(|_| Broken(format!("`{name}` is no JSON object"))),
        }
    }

    /// Returns the text that is the value of a member; empty where there is none, or null.
    pub fn text(&self, name: &str) -> Result<String, Broken> {
        let wrong = || Broken(format!("`{name}` is no text"));
        match self.member(name) {
            None => Ok(String::new()),
            Some(Member::Made(_)) => Err(wrong()),
            Some(Member::Kept(raw)) => serde_json::from_str::<Option<String>>(raw.get())
                .map(Option::unwrap_or_default)
                .map_err(|_| wrong()),
        }
    }

    /// Returns the names of the members, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Tells whether there is a member of exactly this name.
    pub fn has(&self, name: &str) -> bool {
        self.names().any(|it| it == name)
    }

    /// Sets a member to an object, in its old place or at the end.
    pub fn set(&mut self, name: &str, value: Self) {
        self.put(name, Member::Made(value));
    }

    /// Sets a member to a text, in its old place or at the end.
    pub fn set_text(&mut self, name: &str, text: &str) {
        let raw = to_raw_value(text).expect("every text is a JSON string");
        self.put(name, Member::Kept(raw));
    }

    fn put(&mut self, name: &str, value: Member) {
        let mut value = Some(value);
        // Of two members with one name the last counts for readers; here only one stays.
        self.0.retain_mut(|(it, old)| {
            if it != name {
                return true;
            }
            value.take().map(|new| *old = new).is_some()
        });
        self.0.extend(value.map(|value| (name.to_owned(), value)));
    }

    /// Removes a member; tells whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(it, _)| it != name);
        before != self.0.len()
    }

    /// Writes the object as Go's encoder does when it indents with tabs.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let format = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, format);
        self.serialize(&mut serializer).expect("texts and kept JSON can be written to memory");
        bytes
    }

    /// Finds a member as Go's decoder does: letters count in whichever case, the last one wins.
    fn member(&self, name: &str) -> Option<&Member> {
        let exact = self.0.iter().rev().find(|(it, _)| it == name);
        let similar = || self.0.iter().rev().find(|(it, _)| it.eq_ignore_ascii_case(name));
        exact.or_else(similar).map(|(_, value)| value)
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = Vec::new();
                while let Some((name, raw)) = map.next_entry::<String, Box<RawValue>>()? {
                    members.push((name, Member::Kept(raw)));
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            match value {
                Member::Kept(raw) => map.serialize_entry(name, raw)?,
                Member::Made(object) => map.serialize_entry(name, object)?,
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Object {
        let Ok(object) = Object::parse(text.as_bytes()) else { panic!("{text} is no object") };
        object
    }

    fn text(object: &Object) -> String {
        String::from_utf8(object.to_bytes()).unwrap()
    }

    fn error<T>(result: Result<T, Broken>) -> String {
        result.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_is_not_understood_stays_as_it_was_written() {
        let mut top = object("{\"z\": 1.000, \"auths\": {\"a\": {\"x\":[1,\n2]}}, \"b\": null}");
        let mut auths = top.object("auths").unwrap();
        let mut entry = Object::default();
        entry.set_text("auth", "bWU=");
        auths.set("n", entry);
        top.set("auths", auths);
        assert_eq!(
            text(&top),
            "{\n\t\"z\": 1.000,\n\t\"auths\": {\n\t\t\"a\": {\"x\":[1,\n2]},\n\t\t\"n\": {\n\t\t\t\
             \"auth\": \"bWU=\"\n\t\t}\n\t},\n\t\"b\": null\n}"
        );
    }

    #[test]
    fn the_last_of_two_members_counts_and_one_is_left_after_a_change() {
        let mut top = object(r#"{"a": "1", "A": "2", "a": "3"}"#);
        assert_eq!(top.text("a").unwrap(), "3");
        assert_eq!(object(r#"{"Auth": "x"}"#).text("auth").unwrap(), "x");
        top.set_text("a", "4");
        assert_eq!(top.names().collect::<Vec<_>>(), ["a", "A"]);
        assert!(top.remove("a") && !top.remove("a"));
        assert_eq!(text(&top), "{\n\t\"A\": \"2\"\n}");
        top.remove("A");
        assert_eq!(text(&top), "{}");
    }

    #[test]
    fn errors_say_where_and_never_what() {
        assert_eq!(error(Object::parse(b" \n")), "it is empty");
        assert_eq!(error(Object::parse(b"{\"hush\": hush")), "invalid JSON at line 1, column 10");
        assert!(error(Object::parse(b"\"hush\"")).starts_with("no JSON object at line 1"));
        let top = object(r#"{"auths": "hush", "auth": {"hush": 1}}"#);
        assert_eq!(error(top.object("auths")), "`auths` is no JSON object");
        assert_eq!(error(top.text("auth")), "`auth` is no text");
    }

    #[test]
    fn null_is_as_good_as_nothing() {
        let top = object(r#"{"auths": null, "auth": null}"#);
        assert!(top.object("auths").unwrap().names().next().is_none());
        assert_eq!(top.text("auth").unwrap(), "");
    }
}
