//! `--format`: output by a Go template.
//!
//! This is Go's `text/template` as far as scripts use it: pipelines, variables, `if`, `with`,
//! `range`, `define`, comparisons, `printf`, and the functions that container tools add (`json`,
//! `join`, `split`, `lower`, ...). Methods of values are absent. Text becomes a tree in `parse`,
//! which `exec` walks; `funcs` has the functions, [`value`] what they work on.

mod exec;
mod funcs;
mod lex;
mod parse;
mod printf;
mod table;
mod value;

use std::sync::Arc;

use diolkos_sdk::{Error, ErrorKind, Result};

pub(crate) use value::Value;

/// The name that error messages give to the template.
const NAME: &str = "skopeo inspect";

/// Tells whether a format asks for JSON: empty, `json`, or an action that is only that.
pub(crate) fn is_json(format: &str) -> bool {
    if format.is_empty() {
        return true;
    }
    let format = format.trim_matches(is_space);
    if format == "json" {
        return true;
    }
    let inner = format.strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}"));
    inner.is_some_and(|inner| {
        let inner = inner.trim_matches(is_space);
        inner == "json" || inner == "json."
    })
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0c')
}

/// Renders `data` by a format that a user gave.
///
/// `\t` and `\n` stand for what they usually do, a line end is added, and `table ` in front aligns
/// the output in columns.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] for a template that does not parse or does not fit the data.
pub(crate) fn render(format: &str, data: Value) -> Result<String> {
    let is_table = format.starts_with("table ");
    let text = with_range(normalised(format), is_table);
    let parsed = if let Ok(parsed) = parse::parse(NAME, &text) {
        parsed
    } else {
        // Something meant its backslashes: `{{printf "\n"}}`.
        let plain = format.strip_prefix("table ").unwrap_or(format).to_owned();
        parse::parse(NAME, &with_range(plain, is_table)).map_err(invalid)?
    };
    let data = Value::List(Some(Arc::new(vec![data])), "[]interface {}");
    let output = exec::execute(&parsed, data).map_err(invalid)?;
    Ok(if is_table { table::align(&output) } else { output })
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

fn normalised(format: &str) -> String {
    let mut text = if format.starts_with("table ") {
        format.replace("table ", "").replace("\\t", "\t").replace(' ', "\t").replace("\\n", "\n")
    } else {
        format.replace("\\t", "\t").replace("\\n", "\n")
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// Wraps a template into a loop over the data, unless it has one of its own.
fn with_range(text: String, always: bool) -> String {
    if !always && has_range(&text) {
        return text;
    }
    format!("{{{{range .}}}}{text}{{{{end -}}}}")
}

/// Tells whether there is a `{{range .}}` with an `{{end}}` somewhere behind it.
fn has_range(text: &str) -> bool {
    let is_range = |inner: &str| {
        inner
            .trim_matches(is_space)
            .strip_prefix("range")
            .is_some_and(|rest| rest.trim_start_matches(is_space) == ".")
    };
    let is_end = |inner: &str| {
        let inner = inner.trim_matches(is_space);
        let inner = inner.strip_suffix('-').unwrap_or(inner).trim_matches(is_space);
        inner == "end"
    };
    let mut ranges = false;
    for part in text.split("{{").skip(1) {
        let Some((inner, _)) = part.split_once("}}") else { continue };
        if ranges && is_end(inner) {
            return true;
        }
        ranges |= is_range(inner);
    }
    false
}

#[cfg(test)]
mod tests;
