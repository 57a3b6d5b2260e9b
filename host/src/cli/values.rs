//! Values on the command line as Go's flag parser reads and prints them: scripts depend on it.

use std::fmt::Write as _;
use std::time::Duration;

/// Reads a boolean.
///
/// # Source
/// Go's strconv.ParseBool.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {}: invalid syntax", quote(text))),
    }
}

/// Reads a whole number; `0x`, `0o` (or a leading `0`) and `0b` choose the base.
///
/// # Source
/// Go's strconv.ParseInt with base 0.
pub fn parse_int(text: &str) -> Result<i64, String> {
    let invalid = |why| format!("strconv.ParseInt: parsing {}: {why}", quote(text));
    let (negative, magnitude) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let value = parse_magnitude(magnitude).map_err(invalid)?;
    let value = i128::from(value) * if negative { -1 } else { 1 };
    i64::try_from(value).map_err(|_| invalid("value out of range"))
}

/// Reads a whole number that is not negative.
///
/// # Source
/// Go's strconv.ParseUint with base 0.
pub fn parse_uint(text: &str) -> Result<u64, String> {
    parse_magnitude(text)
        .map_err(|why| format!("strconv.ParseUint: parsing {}: {why}", quote(text)))
}

fn parse_magnitude(text: &str) -> Result<u64, &'static str> {
    let (digits, base) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', b'o' | b'O', ..] => (&text[2..], 8),
        [b'0', b'b' | b'B', ..] => (&text[2..], 2),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(base)) {
        return Err("invalid syntax");
    }
    u64::from_str_radix(digits, base).map_err(|_| "value out of range")
}

/// Reads a duration such as `1h30m`, `1.5s` or `300ms`. Negative ones count as zero.
///
/// # Source
/// Go's time.ParseDuration.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned == "0" {
        return Ok(Duration::ZERO);
    }
    if unsigned.is_empty() {
        return Err(invalid());
    }
    let mut rest = unsigned;
    let mut nanoseconds = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        if !number.contains(|c: char| c.is_ascii_digit()) {
            return Err(invalid());
        }
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let scale = match unit {
            "" => return Err(format!("time: missing unit in duration {}", quote(text))),
            "ns" => 1.0,
            // The micro sign and the Greek letter both occur.
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            unit => {
                return Err(format!(
                    "time: unknown unit {} in duration {}",
                    quote(unit),
                    quote(text)
                ));
            }
        };
        nanoseconds += number * scale;
        rest = tail;
    }
    if text.starts_with('-') {
        return Ok(Duration::ZERO);
    }
    Duration::try_from_secs_f64(nanoseconds / 1e9).map_err(|_| invalid())
}

/// Writes a duration as Go does: `1m30s`, `1.5s`, `300ms`.
pub fn format_duration(duration: Duration) -> String {
    let (seconds, nanoseconds) = (duration.as_secs(), duration.subsec_nanos());
    if duration.is_zero() {
        return "0s".into();
    }
    if seconds == 0 {
        let (unit, divisor) = match nanoseconds {
            0..1_000 => ("ns", 1),
            1_000..1_000_000 => ("\u{b5}s", 1_000),
            _ => ("ms", 1_000_000),
        };
        return format!("{}{unit}", decimal(u64::from(nanoseconds), divisor));
    }
    let mut text = String::new();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    if hours > 0 {
        write!(text, "{hours}h").expect("writing to a string cannot fail");
    }
    if hours > 0 || minutes > 0 {
        write!(text, "{minutes}m").expect("writing to a string cannot fail");
    }
    let rest = (seconds % 60) * 1_000_000_000 + u64::from(nanoseconds);
    text + &decimal(rest, 1_000_000_000) + "s"
}

fn decimal(value: u64, divisor: u64) -> String {
    let (whole, fraction) = (value / divisor, value % divisor);
    if fraction == 0 {
        return whole.to_string();
    }
    let width = divisor.ilog10() as usize;
    let digits = format!("{fraction:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

/// Splits a list at its commas; quoted parts may contain commas.
pub fn split_list(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let last = parts.last_mut().expect("there is always a part");
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                last.push('"');
            }
            '"' if quoted || last.is_empty() => quoted = !quoted,
            ',' if !quoted => parts.push(String::new()),
            c => last.push(c),
        }
    }
    if parts.len() == 1 && parts[0].is_empty() {
        parts.clear();
    }
    parts
}

/// Quotes a text as a Go string literal.
///
/// # Source
/// Go's strconv.Quote.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            c if c.is_ascii_control() => {
                write!(quoted, "\\x{:02x}", c as u32).expect("writing to a string cannot fail");
            }
            c if is_invisible(c) && (c as u32) < 0x1_0000 => {
                write!(quoted, "\\u{:04x}", c as u32).expect("writing to a string cannot fail");
            }
            c if is_invisible(c) => {
                write!(quoted, "\\U{:08x}", c as u32).expect("writing to a string cannot fail");
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Tells whether a character shows nothing of itself, so that a terminal or reader could be misled.
pub fn is_invisible(c: char) -> bool {
    c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffd}'
            | '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..='\u{10ffff}')
            && c != '\u{fffd}'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        for (text, milliseconds, written) in [
            ("0", 0, "0s"),
            ("1s", 1000, "1s"),
            ("1.5s", 1500, "1.5s"),
            (".5m", 30_000, "30s"),
            ("1h30m", 5_400_000, "1h30m0s"),
            ("300ms", 300, "300ms"),
            ("+2m3s", 123_000, "2m3s"),
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration, Duration::from_millis(milliseconds), "{text}");
            assert_eq!(format_duration(duration), written);
        }
        assert_eq!(parse_duration("250\u{b5}s").unwrap(), Duration::from_micros(250));
        assert_eq!(format_duration(Duration::from_micros(1500)), "1.5ms");
        assert_eq!(parse_duration("-3s").unwrap(), Duration::ZERO);
        for (text, message) in [
            ("", "time: invalid duration \"\""),
            ("x", "time: invalid duration \"x\""),
            ("5", "time: missing unit in duration \"5\""),
            ("5y", "time: unknown unit \"y\" in duration \"5y\""),
            ("1.2.3s", "time: invalid duration \"1.2.3s\""),
            ("9999999999999999999999h", "time: invalid duration \"9999999999999999999999h\""),
        ] {
            assert_eq!(parse_duration(text).unwrap_err(), message);
        }
    }

    #[test]
    fn numbers_have_gos_bases_and_limits() {
        assert_eq!(parse_int("0x10"), Ok(16));
        assert_eq!(parse_int("-010"), Ok(-8));
        assert_eq!(parse_int("-9223372036854775808"), Ok(i64::MIN));
        assert!(parse_int("9223372036854775808").unwrap_err().ends_with("value out of range"));
        for bad in ["", "-", "x", "1.5", "--1", "0x", "09"] {
            assert!(parse_int(bad).unwrap_err().ends_with("invalid syntax"), "{bad}");
        }
        assert!(parse_uint("-1").is_err());
    }

    #[test]
    fn lists_are_split_at_commas_outside_quotes() {
        assert_eq!(split_list("a,b"), ["a", "b"]);
        assert_eq!(split_list("\"a,b\",\"c\"\"d\""), ["a,b", "c\"d"]);
        assert!(split_list("").is_empty());
        assert_eq!(split_list("a,"), ["a", ""]);
    }

    #[test]
    fn quoting_is_gos() {
        assert_eq!(quote("a \"b\"\\\n\u{1b}[0m é"), r#""a \"b\"\\\n\x1b[0m é""#);
        assert_eq!(quote("\u{200b}\u{85}"), r#""\u200b\u0085""#);
    }
}
