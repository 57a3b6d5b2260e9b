//! JSON objects that are changed in one place and keep everything else, order included.

use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

/// The members of an object as they stand in the text.
#[derive(Clone, Debug, Default)]
pub(super) struct Object(Vec<(String, Box<RawValue>)>);

impl Object {
    /// Returns a member; as in Go, the last one of that name.
    pub(super) fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// Sets a member, in its place or at the end.
    pub(super) fn set(&mut self, name: &str, value: &impl Serialize) {
        let value = to_raw_value(value).expect("our own values have text keys and finite numbers");
        match self.0.iter_mut().rev().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Removes a member.
    pub(super) fn remove(&mut self, name: &str) {
        self.0.retain(|(key, _)| key != name);
    }

    /// Tells whether there are no members.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Removes the white space between the tokens of a valid JSON text.
pub(super) fn compact(text: &str) -> String {
    let (mut inside, mut escaped) = (false, false);
    let kept = |c: &char| {
        if inside {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => inside = false,
                _ => {}
            }
            return true;
        }
        inside = *c == '"';
        !matches!(c, ' ' | '\t' | '\n' | '\r')
    };
    text.chars().filter(kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_keeps_order_unknown_members_and_numbers_as_written() {
        let text = r#"{"z":1.0e5,"a":[1, 2],"n":12345678901234567890123}"#;
        let mut object: Object = serde_json::from_str(text).unwrap();
        object.set("new", &"x");
        object.remove("a");
        let expected = r#"{"z":1.0e5,"n":12345678901234567890123,"new":"x"}"#;
        assert_eq!(serde_json::to_string(&object).unwrap(), expected);
    }

    #[test]
    fn compacting_leaves_strings_alone() {
        let text = "{ \"a b\\\" \" :\t[ 1,\r\n \"\\\\\" ] }";
        assert_eq!(compact(text), "{\"a b\\\" \":[1,\"\\\\\"]}");
    }
}
