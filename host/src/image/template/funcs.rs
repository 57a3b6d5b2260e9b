//! Functions that templates can call: Go's own, and those that container tools add.

use std::cmp::Ordering;
use std::fmt::Write as _;
use std::sync::Arc;

use super::printf;
use super::value::Value;

/// The longest text that a function makes from a number that the template names.
const MAX_PADDING: i64 = 1024 * 1024;

/// Names of all functions.
const NAMES: [&str; 26] = [
    "and", "call", "eq", "ge", "gt", "html", "index", "join", "js", "json", "le", "len", "lower",
    "lt", "ne", "not", "or", "pad", "print", "printf", "println", "slice", "split", "title",
    "truncate", "upper",
];

/// Tells whether there is a function of this name.
pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name) || name == "urlquery"
}

type Outcome = Result<Value, String>;

/// Calls a function.
///
/// # Errors
/// Why the arguments do not fit.
pub(super) fn call(name: &str, arguments: &[Value]) -> Outcome {
    let calling = |why: String| format!("error calling {name}: {why}");
    let counted = |count: usize| match arguments.len() {
        found if found == count => Ok(()),
        found => Err(format!("wrong number of args for {name}: want {count} got {found}")),
    };
    let at_least = |count: usize| match arguments.len() {
        found if found >= count => Ok(()),
        found => Err(format!("wrong number of args for {name}: want at least {count} got {found}")),
    };
    match name {
        "and" | "or" => {
            at_least(1)?;
            let decides = |value: &&Value| value.is_true() == (name == "or");
            let value = arguments.iter().find(decides).or(arguments.last());
            Ok(value.cloned().unwrap_or(Value::Missing))
        }
        "not" => counted(1).map(|()| Value::Bool(!arguments[0].is_true())),
        "len" => {
            counted(1)?;
            length(&arguments[0]).map_err(calling)
        }
        "index" => {
            at_least(1)?;
            let mut value = arguments[0].clone();
            for key in &arguments[1..] {
                value = index(&value, key).map_err(calling)?;
            }
            Ok(value)
        }
        "slice" => {
            at_least(1)?;
            slice(&arguments[0], &arguments[1..]).map_err(calling)
        }
        "print" => Ok(Value::text(printf::print(arguments))),
        "println" => Ok(Value::text(printf::println(arguments))),
        "printf" => {
            at_least(1)?;
            let format = text(&arguments[0])?;
            printf::printf(format, &arguments[1..]).map(Value::text).map_err(calling)
        }
        "html" => Ok(Value::text(html(&printf::print(arguments)))),
        "js" => Ok(Value::text(javascript(&printf::print(arguments)))),
        "urlquery" => Ok(Value::text(url_query(&printf::print(arguments)))),
        "call" => {
            at_least(1)?;
            let kind = arguments[0].type_name();
            Err(calling(format!("non-function of type {kind}")))
        }
        "eq" => {
            at_least(2)?;
            let (first, rest) = arguments.split_first().expect("counted above");
            for other in rest {
                if equal(first, other).map_err(calling)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        "ne" => {
            counted(2)?;
            equal(&arguments[0], &arguments[1]).map(|equal| Value::Bool(!equal)).map_err(calling)
        }
        "lt" | "le" | "gt" | "ge" => {
            counted(2)?;
            let order = compare(&arguments[0], &arguments[1]).map_err(calling)?;
            Ok(Value::Bool(match name {
                "lt" => order == Some(Ordering::Less),
                "le" => order.is_some_and(Ordering::is_le),
                "gt" => order == Some(Ordering::Greater),
                _ => order.is_some_and(Ordering::is_ge),
            }))
        }
        _ => {
            let count = match name {
                "pad" => 3,
                "join" | "split" | "truncate" => 2,
                _ => 1,
            };
            counted(count)?;
            added(name, arguments)
        }
    }
}

/// Calls one of the functions that container tools add.
fn added(name: &str, arguments: &[Value]) -> Outcome {
    let first = &arguments[0];
    Ok(match name {
        "json" => Value::text(first.json()),
        "lower" => Value::text(text(first)?.to_lowercase()),
        "upper" => Value::text(text(first)?.to_uppercase()),
        "title" => Value::text(title(text(first)?)),
        "join" => match first {
            Value::List(items, "[]string") => {
                let items = items.iter().flat_map(|items| items.iter());
                let items: Vec<_> = items.map(Value::formatted).collect();
                Value::text(items.join(text(&arguments[1])?))
            }
            other => return Err(wrong_type("[]string", other)),
        },
        "split" => {
            let (source, separator) = (text(first)?, text(&arguments[1])?);
            if separator.is_empty() {
                Value::list(source.chars().map(|c| Value::text(c.to_string())), "[]string")
            } else {
                Value::list(source.split(separator).map(Value::text), "[]string")
            }
        }
        "pad" => {
            let (source, before, after) =
                (text(first)?, integer(&arguments[1])?, integer(&arguments[2])?);
            let spaces = |count: i64| match usize::try_from(count.min(MAX_PADDING)) {
                Ok(count) => Ok(" ".repeat(count)),
                Err(_) => Err("error calling pad: strings: negative Repeat count".to_owned()),
            };
            match source {
                "" => Value::text(""),
                source => Value::text(format!("{}{source}{}", spaces(before)?, spaces(after)?)),
            }
        }
        "truncate" => {
            let (source, limit) = (text(first)?, integer(&arguments[1])?);
            let limit = usize::try_from(limit)
                .map_err(|_| "error calling truncate: slice bounds out of range".to_owned())?;
            let whole = |at: &usize| source.is_char_boundary(*at);
            let cut = (0..=limit.min(source.len())).rev().find(whole).unwrap_or(0);
            Value::text(&source[..cut])
        }
        _ => return Err(format!("function {name:?} not defined")),
    })
}

fn wrong_type(expected: &str, found: &Value) -> String {
    match found {
        Value::Missing => format!("invalid value; expected {expected}"),
        _ => format!("wrong type for value; expected {expected}; got {}", found.type_name()),
    }
}

fn text(value: &Value) -> Result<&str, String> {
    match value {
        Value::Str(text) => Ok(text),
        other => Err(wrong_type("string", other)),
    }
}

fn integer(value: &Value) -> Result<i64, String> {
    match value {
        Value::Int(number) => Ok(*number),
        other => Err(wrong_type("int", other)),
    }
}

fn length(value: &Value) -> Outcome {
    let length = match value {
        Value::Str(text) => text.len(),
        Value::List(list, _) => list.as_ref().map_or(0, |list| list.len()),
        Value::Map(map, _) => map.as_ref().map_or(0, |map| map.len()),
        Value::Missing | Value::Nil | Value::Time(None) => {
            return Err("len of nil pointer".to_owned());
        }
        other => return Err(format!("len of type {}", other.type_name())),
    };
    Ok(Value::Int(i64::try_from(length).expect("what is in memory has fewer parts")))
}

fn index(value: &Value, key: &Value) -> Outcome {
    let position = |length: usize| match key {
        Value::Int(at) => usize::try_from(*at)
            .ok()
            .filter(|at| *at < length)
            .ok_or_else(|| format!("index out of range: {at}")),
        Value::Missing | Value::Nil => Err("cannot index slice/array with nil".to_owned()),
        other => Err(format!("cannot index slice/array with type {}", other.type_name())),
    };
    match value {
        Value::List(list, _) => {
            let list = list.as_deref().map_or(&[][..], Vec::as_slice);
            position(list.len()).map(|at| list[at].clone())
        }
        Value::Str(text) => {
            position(text.len()).map(|at| Value::Int(i64::from(text.as_bytes()[at])))
        }
        Value::Map(map, name) => {
            let Value::Str(key) = key else {
                return Err(format!("value has type {}; should be string", key.type_name()));
            };
            let found = map.as_ref().and_then(|map| map.get(key.as_ref())).cloned();
            // What is not there is the zero value of what could be.
            Ok(found.unwrap_or_else(|| match *name {
                "map[string]string" => Value::text(""),
                _ => Value::Missing,
            }))
        }
        Value::Missing | Value::Nil => Err("index of untyped nil".to_owned()),
        Value::Time(None) => Err("index of nil pointer".to_owned()),
        other => Err(format!("can't index item of type {}", other.type_name())),
    }
}

fn slice(value: &Value, bounds: &[Value]) -> Outcome {
    let length = match value {
        Value::Str(_) if bounds.len() > 2 => {
            return Err("cannot 3-index slice a string".to_owned());
        }
        Value::Str(text) => text.len(),
        Value::List(list, _) => list.as_ref().map_or(0, |list| list.len()),
        Value::Missing | Value::Nil => return Err("slice of untyped nil".to_owned()),
        other => return Err(format!("can't slice item of type {}", other.type_name())),
    };
    if bounds.len() > 3 {
        return Err(format!("too many slice indexes: {}", bounds.len()));
    }
    let mut at = [0, length, length];
    for (slot, bound) in at.iter_mut().zip(bounds) {
        *slot = match bound {
            Value::Int(number) => usize::try_from(*number)
                .ok()
                .filter(|number| *number <= length)
                .ok_or_else(|| format!("index out of range: {number}"))?,
            other => {
                return Err(format!("cannot index slice/array with type {}", other.type_name()));
            }
        };
    }
    let [from, to, limit] = at;
    if from > to || to > limit {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    match value {
        Value::List(list, name) => {
            let items = list.as_deref().map(|list| Arc::new(list[from..to].to_vec()));
            Ok(Value::List(items, name))
        }
        other => {
            let source = text(other)?;
            Ok(Value::text(String::from_utf8_lossy(&source.as_bytes()[from..to]).into_owned()))
        }
    }
}

fn equal(left: &Value, right: &Value) -> Result<bool, String> {
    Ok(match (left, right) {
        (Value::Bool(left), Value::Bool(right)) => left == right,
        (Value::Int(left), Value::Int(right)) => left == right,
        #[expect(clippy::float_cmp, reason = "this is what `eq` means")]
        (Value::Float(left), Value::Float(right)) => left == right,
        (Value::Str(left), Value::Str(right)) => left == right,
        (Value::Time(left), Value::Time(right)) => left == right,
        (Value::Time(time), Value::Nil | Value::Missing)
        | (Value::Nil | Value::Missing, Value::Time(time)) => time.is_none(),
        (Value::List(list, _), Value::Nil) | (Value::Nil, Value::List(list, _)) => list.is_none(),
        (Value::Map(map, _), Value::Nil) | (Value::Nil, Value::Map(map, _)) => map.is_none(),
        (Value::Nil | Value::Missing, Value::Nil | Value::Missing) => true,
        (Value::Nil | Value::Missing, _) | (_, Value::Nil | Value::Missing) => false,
        (Value::List(..) | Value::Map(..) | Value::Struct(_), _) => {
            return Err(format!("non-comparable type {}", left.type_name()));
        }
        (_, Value::List(..) | Value::Map(..) | Value::Struct(_)) => {
            return Err(format!("non-comparable type {}", right.type_name()));
        }
        _ => return Err("incompatible types for comparison".to_owned()),
    })
}

fn compare(left: &Value, right: &Value) -> Result<Option<Ordering>, String> {
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => Ok(Some(left.cmp(right))),
        (Value::Float(left), Value::Float(right)) => Ok(left.partial_cmp(right)),
        (Value::Str(left), Value::Str(right)) => Ok(Some(left.cmp(right))),
        (Value::Int(_) | Value::Float(_) | Value::Str(_), _) => {
            Err("incompatible types for comparison".to_owned())
        }
        _ => Err("invalid type for comparison".to_owned()),
    }
}

/// Makes the first letter of each word a capital.
fn title(source: &str) -> String {
    let mut starts = true;
    let mut out = String::with_capacity(source.len());
    for c in source.chars() {
        let separates =
            if c.is_ascii() { !(c.is_ascii_alphanumeric() || c == '_') } else { c.is_whitespace() };
        if starts {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
        starts = separates;
    }
    out
}

fn html(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    for c in source.chars() {
        match c {
            '\0' => out.push('\u{fffd}'),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            _ => out.push(c),
        }
    }
    out
}

fn javascript(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    for c in source.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '<' | '>' | '&' | '=' | '\0'..='\x1f' => {
                write!(out, "\\u{:04X}", u32::from(c)).expect("writing to a string cannot fail");
            }
            _ => out.push(c),
        }
    }
    out
}

fn url_query(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    for byte in source.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            _ => write!(out, "%{byte:02X}").expect("writing to a string cannot fail"),
        }
    }
    out
}
