//! Values that templates work on, and how they print.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::image::json;
use crate::image::time::GoTime;

/// A value of Go, as far as templates meet any.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// What a missing key gives.
    Missing,
    /// An untyped `nil`.
    Nil,
    /// A boolean.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Str(Arc<str>),
    /// A slice; the second is the name of its type. Go's nil slice is `None`.
    List(Option<Arc<Vec<Value>>>, &'static str),
    /// A map from strings, with the name of its type. Go's nil map is `None`.
    Map(Option<Arc<BTreeMap<String, Value>>>, &'static str),
    /// A struct.
    Struct(Arc<Struct>),
    /// A pointer to a point in time.
    Time(Option<GoTime>),
}

/// A struct: the name of its type, its fields in order, and its JSON.
#[derive(Debug)]
pub(crate) struct Struct {
    pub(crate) name: &'static str,
    pub(crate) fields: Vec<(&'static str, Value)>,
    /// The JSON, compact, without escapes for HTML.
    json: String,
}

impl Value {
    /// Makes text.
    pub(crate) fn text(text: impl Into<Arc<str>>) -> Self {
        Self::Str(text.into())
    }

    /// Makes a slice of strings, `None` a nil one.
    pub(crate) fn texts(texts: Option<&[String]>) -> Self {
        let list = texts.map(|texts| texts.iter().map(|text| Self::text(text.as_str())).collect());
        Self::List(list.map(Arc::new), "[]string")
    }

    /// Makes a map of strings, `None` a nil one.
    pub(crate) fn text_map(map: Option<&BTreeMap<String, String>>) -> Self {
        let map = map.map(|map| {
            map.iter().map(|(key, value)| (key.clone(), Self::text(value.as_str()))).collect()
        });
        Self::Map(map.map(Arc::new), "map[string]string")
    }

    /// Makes a slice.
    pub(crate) fn list(items: impl Iterator<Item = Value>, name: &'static str) -> Self {
        Self::List(Some(Arc::new(items.collect())), name)
    }

    /// Makes a struct; `source` is what it is written from as JSON.
    pub(crate) fn structure(
        name: &'static str,
        fields: Vec<(&'static str, Value)>,
        source: &impl Serialize,
    ) -> Self {
        let json =
            String::from_utf8(json::to_vec_unescaped(source)).expect("the serialiser writes UTF-8");
        Self::Struct(Arc::new(Struct { name, fields, json }))
    }

    /// Returns the name of the type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Missing | Self::Nil => "<nil>",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float64",
            Self::Str(_) => "string",
            Self::List(_, name) | Self::Map(_, name) => name,
            Self::Struct(value) => value.name,
            Self::Time(_) => "*time.Time",
        }
    }

    /// Tells whether `if` and its like take the value for true.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Missing | Self::Nil | Self::Time(None) => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Str(text) => !text.is_empty(),
            Self::List(list, _) => list.as_ref().is_some_and(|list| !list.is_empty()),
            Self::Map(map, _) => map.as_ref().is_some_and(|map| !map.is_empty()),
            Self::Struct(_) | Self::Time(Some(_)) => true,
        }
    }

    /// Returns the value as an action prints it.
    pub(super) fn printed(&self) -> String {
        let mut out = String::new();
        self.print(&mut out, true);
        out
    }

    /// Returns the value as `print` prints it.
    pub(super) fn formatted(&self) -> String {
        let mut out = String::new();
        self.print(&mut out, false);
        out
    }

    fn print(&self, out: &mut String, action: bool) {
        match self {
            Self::Missing if action => out.push_str("<no value>"),
            Self::Missing | Self::Nil | Self::Time(None) => out.push_str("<nil>"),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Int(value) => {
                write!(out, "{value}").expect("writing to a string cannot fail");
            }
            Self::Float(value) => out.push_str(&float(*value)),
            Self::Str(text) => out.push_str(text),
            Self::Time(Some(time)) => out.push_str(&time.to_go_string()),
            Self::List(list, _) => {
                out.push('[');
                for (index, item) in list.iter().flat_map(|list| list.iter()).enumerate() {
                    if index > 0 {
                        out.push(' ');
                    }
                    item.print(out, false);
                }
                out.push(']');
            }
            Self::Map(map, _) => {
                out.push_str("map[");
                for (index, (key, item)) in map.iter().flat_map(|map| map.iter()).enumerate() {
                    if index > 0 {
                        out.push(' ');
                    }
                    out.push_str(key);
                    out.push(':');
                    item.print(out, false);
                }
                out.push(']');
            }
            Self::Struct(value) => {
                out.push('{');
                for (index, (_, item)) in value.fields.iter().enumerate() {
                    if index > 0 {
                        out.push(' ');
                    }
                    item.print(out, false);
                }
                out.push('}');
            }
        }
    }

    /// Returns the value as JSON, compact and without escapes for HTML.
    pub(super) fn json(&self) -> String {
        String::from_utf8(json::to_vec_unescaped(self)).expect("the serialiser writes UTF-8")
    }
}

/// Prints a number in the shortest form, as Go's `%v` does.
pub(super) fn float(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let exponent = if value == 0.0 { 0.0 } else { value.abs().log10().floor() };
    if !value.is_nan() && !(-4.0..21.0).contains(&exponent) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').expect("`e` is in this format");
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{value}")
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Missing
            | Self::Nil
            | Self::Time(None)
            | Self::List(None, _)
            | Self::Map(None, _) => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(value) => serializer.serialize_i64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Str(text) => serializer.serialize_str(text),
            Self::Time(Some(time)) => time.serialize(serializer),
            Self::List(Some(list), _) => serializer.collect_seq(list.iter()),
            Self::Map(Some(map), _) => serializer.collect_map(map.iter()),
            Self::Struct(value) => {
                let raw: &serde_json::value::RawValue =
                    serde_json::from_str(&value.json).map_err(serde::ser::Error::custom)?;
                raw.serialize(serializer)
            }
        }
    }
}
