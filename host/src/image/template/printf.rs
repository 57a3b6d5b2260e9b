//! Go's `print`, `println` and `printf`.

use std::fmt::Write as _;

use super::value::{Value, float};

/// The widest field and the highest precision.
const MAX_WIDTH: usize = 1_000_000;

/// Prints values, with a space between two that are both no strings.
pub(super) fn print(values: &[Value]) -> String {
    let mut out = String::new();
    let mut before_is_text = true;
    for value in values {
        let is_text = matches!(value, Value::Str(_));
        if !is_text && !before_is_text {
            out.push(' ');
        }
        out.push_str(&value.formatted());
        before_is_text = is_text;
    }
    out
}

/// Prints values with spaces between all, and a line end.
pub(super) fn println(values: &[Value]) -> String {
    let parts: Vec<_> = values.iter().map(Value::formatted).collect();
    parts.join(" ") + "\n"
}

/// What stands between `%` and the verb.
#[derive(Default)]
struct Spec {
    minus: bool,
    plus: bool,
    sharp: bool,
    zero: bool,
    space: bool,
    width: usize,
    precision: Option<usize>,
}

/// Prints values by a format.
///
/// # Errors
/// A width or precision that is too large.
pub(super) fn printf(format: &str, values: &[Value]) -> Result<String, String> {
    let mut out = String::new();
    let mut values = values.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut spec = Spec::default();
        while let Some(flag) = chars.peek() {
            match flag {
                '-' => spec.minus = true,
                '+' => spec.plus = true,
                '#' => spec.sharp = true,
                '0' => spec.zero = true,
                ' ' => spec.space = true,
                _ => break,
            }
            chars.next();
        }
        spec.width = number(&mut chars)?.unwrap_or(0);
        if chars.peek() == Some(&'.') {
            chars.next();
            spec.precision = Some(number(&mut chars)?.unwrap_or(0));
        }
        match chars.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(verb) => match values.next() {
                None => {
                    write!(out, "%!{verb}(MISSING)").expect("writing to a string cannot fail");
                }
                Some(value) => {
                    let text = verb_text(verb, value, &spec);
                    pad(&mut out, &text, &spec, value);
                }
            },
        }
    }
    let rest: Vec<_> =
        values.map(|value| format!("{}={}", value.type_name(), value.formatted())).collect();
    if !rest.is_empty() {
        write!(out, "%!(EXTRA {})", rest.join(", ")).expect("writing to a string cannot fail");
    }
    Ok(out)
}

fn number(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Option<usize>, String> {
    let mut number = None;
    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
        chars.next();
        let next = number.unwrap_or(0) * 10 + digit as usize;
        if next > MAX_WIDTH {
            return Err("width or precision is too large".to_owned());
        }
        number = Some(next);
    }
    Ok(number)
}

/// Formats one value by one verb, without padding.
fn verb_text(verb: char, value: &Value, spec: &Spec) -> String {
    let signed = |text: String, negative: bool| match (negative, spec.plus, spec.space) {
        (false, true, _) => format!("+{text}"),
        (false, false, true) => format!(" {text}"),
        _ => text,
    };
    let cut = |text: &str| match spec.precision {
        Some(precision) => text.chars().take(precision).collect(),
        None => text.to_owned(),
    };
    match (verb, value) {
        ('T', _) => value.type_name().to_owned(),
        ('v' | 'd', Value::Int(number)) => signed(number.to_string(), *number < 0),
        ('b', Value::Int(number)) => signed(radix(*number, 2, ""), *number < 0),
        ('o', Value::Int(number)) => {
            signed(radix(*number, 8, if spec.sharp { "0" } else { "" }), *number < 0)
        }
        ('x', Value::Int(number)) => {
            signed(radix(*number, 16, if spec.sharp { "0x" } else { "" }), *number < 0)
        }
        ('X', Value::Int(number)) => signed(
            radix(*number, 16, if spec.sharp { "0x" } else { "" }).to_uppercase(),
            *number < 0,
        ),
        ('c', Value::Int(number)) => {
            let c = u32::try_from(*number).ok().and_then(char::from_u32);
            c.unwrap_or('\u{fffd}').to_string()
        }
        ('f' | 'F', Value::Float(number)) => {
            signed(format!("{number:.*}", spec.precision.unwrap_or(6).min(1000)), *number < 0.0)
        }
        ('v' | 'g', Value::Float(number)) => signed(float(*number), *number < 0.0),
        ('v', Value::Str(text)) if spec.sharp => format!("{text:?}"),
        ('v' | 's', Value::Str(text)) => cut(text),
        ('q', Value::Str(text)) => format!("{:?}", cut(text)),
        ('x', Value::Str(text)) => hex(text, false),
        ('X', Value::Str(text)) => hex(text, true),
        ('q', Value::List(Some(items), _)) => {
            let items: Vec<_> = items.iter().map(|item| verb_text('q', item, spec)).collect();
            format!("[{}]", items.join(" "))
        }
        ('v' | 's', Value::List(..) | Value::Map(..) | Value::Struct(_) | Value::Time(_))
        | ('v' | 't', Value::Bool(_))
        | ('v', Value::Nil | Value::Missing) => value.formatted(),
        (_, Value::Nil | Value::Missing) => format!("%!{verb}(<nil>)"),
        _ => format!("%!{verb}({}={})", value.type_name(), value.formatted()),
    }
}

fn radix(number: i64, radix: u32, prefix: &str) -> String {
    let sign = if number < 0 { "-" } else { "" };
    let magnitude = number.unsigned_abs();
    match radix {
        2 => format!("{sign}{prefix}{magnitude:b}"),
        8 => format!("{sign}{prefix}{magnitude:o}"),
        _ => format!("{sign}{prefix}{magnitude:x}"),
    }
}

fn hex(text: &str, upper: bool) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        let written = if upper { write!(out, "{byte:02X}") } else { write!(out, "{byte:02x}") };
        written.expect("writing to a string cannot fail");
    }
    out
}

fn pad(out: &mut String, text: &str, spec: &Spec, value: &Value) {
    let missing = spec.width.saturating_sub(text.chars().count());
    let is_number = matches!(value, Value::Int(_) | Value::Float(_));
    if spec.minus {
        out.push_str(text);
        out.extend(std::iter::repeat_n(' ', missing));
    } else if spec.zero && is_number {
        let signs = usize::from(text.starts_with(['-', '+', ' ']));
        out.push_str(&text[..signs]);
        out.extend(std::iter::repeat_n('0', missing));
        out.push_str(&text[signs..]);
    } else {
        out.extend(std::iter::repeat_n(if spec.zero { '0' } else { ' ' }, missing));
        out.push_str(text);
    }
}
