//! Points in time as Go's `time.Time` is read from JSON and written again.

use std::fmt;

use diolkos_sdk::{Error, ErrorKind, Result};
use serde::{Serialize, Serializer};

/// A date and time with its offset from UTC, to the nanosecond.
///
/// The offset is kept, so that what was read is written again; equal instants with different
/// offsets are different values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GoTime {
    /// `2006-01-02T15:04:05`.
    seconds: String,
    nanoseconds: u32,
    /// Minutes east of UTC.
    offset: i32,
}

impl Default for GoTime {
    /// Returns Go's zero time, which stands for "not set".
    fn default() -> Self {
        Self { seconds: "0001-01-01T00:00:00".to_owned(), nanoseconds: 0, offset: 0 }
    }
}

impl GoTime {
    /// Parses RFC 3339 as strictly as Go does.
    ///
    /// # Errors
    /// `Corrupt`, with the text.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        parse(text).ok_or_else(|| {
            let shown: String = text.chars().take(60).collect();
            Error::new(ErrorKind::Corrupt, format!("invalid time `{shown}`"))
                .with_hint("times have the form 2006-01-02T15:04:05Z")
        })
    }

    /// Returns the fraction of a second with its dot and without trailing zeros.
    fn fraction(&self) -> String {
        if self.nanoseconds == 0 {
            return String::new();
        }
        let digits = format!(".{:09}", self.nanoseconds);
        digits.trim_end_matches('0').to_owned()
    }

    fn offset_text(&self, separator: &str) -> String {
        let sign = if self.offset < 0 { '-' } else { '+' };
        let minutes = self.offset.unsigned_abs();
        format!("{sign}{:02}{separator}{:02}", minutes / 60, minutes % 60)
    }

    /// Returns the form that Go prints a time in outside JSON, as templates do.
    pub(crate) fn to_go_string(&self) -> String {
        let offset = self.offset_text("");
        let zone = if self.offset == 0 { "UTC" } else { &offset };
        format!("{}{} {offset} {zone}", self.seconds.replace('T', " "), self.fraction())
    }
}

impl fmt::Display for GoTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.seconds, self.fraction())?;
        if self.offset == 0 { f.write_str("Z") } else { f.write_str(&self.offset_text(":")) }
    }
}

impl Serialize for GoTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn parse(text: &str) -> Option<GoTime> {
    let (seconds, rest) = text.split_at_checked(19)?;
    let number = |range: std::ops::Range<usize>| digits(seconds.get(range)?);
    let bytes = seconds.as_bytes();
    if [4, 7].iter().any(|at| bytes[*at] != b'-')
        || [13, 16].iter().any(|at| bytes[*at] != b':')
        || bytes[10] != b'T'
    {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    if number(11..13)? > 23 || number(14..16)? > 59 || number(17..19)? > 59 {
        return None;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if !(1..=days).contains(&day) {
        return None;
    }
    let (nanoseconds, zone) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(rest) => {
            let length = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (fraction, zone) = rest.split_at(length);
            // Digits beyond the ninth are cut off, not rounded.
            let padded = format!("{:0<9}", fraction.get(..length.min(9))?);
            ((length > 0).then(|| digits(&padded)).flatten()?, zone)
        }
    };
    let offset = match zone.as_bytes() {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (digits(zone.get(1..3)?)?, digits(zone.get(4..6)?)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let east = i32::try_from(hours * 60 + minutes).ok()?;
            if *sign == b'-' { -east } else { east }
        }
        _ => return None,
    };
    Some(GoTime { seconds: seconds.to_owned(), nanoseconds, offset })
}

fn digits(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_written_as_go_writes_them() {
        for (read, written, printed) in [
            ("2022-11-16T07:26:42.618327645Z", None, "2022-11-16 07:26:42.618327645 +0000 UTC"),
            (
                "2022-11-16T07:26:42.6180000009Z",
                Some("2022-11-16T07:26:42.618Z"),
                "2022-11-16 07:26:42.618 +0000 UTC",
            ),
            ("2020-02-29T00:00:00+02:30", None, "2020-02-29 00:00:00 +0230 +0230"),
            (
                "2020-02-29T00:00:00-00:00",
                Some("2020-02-29T00:00:00Z"),
                "2020-02-29 00:00:00 +0000 UTC",
            ),
            ("2020-02-29T00:00:00.050-08:00", Some("2020-02-29T00:00:00.05-08:00"), ""),
        ] {
            let time = GoTime::parse(read).unwrap();
            assert_eq!(time.to_string(), written.unwrap_or(read));
            assert!(printed.is_empty() || time.to_go_string() == printed, "{read}");
        }
        assert_eq!(GoTime::default().to_string(), "0001-01-01T00:00:00Z");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [
            "",
            "2021-02-29T00:00:00Z",
            "2021-13-01T00:00:00Z",
            "2021-01-00T00:00:00Z",
            "2021-01-01T24:00:00Z",
            "2021-01-01T00:00:60Z",
            "2021-01-01t00:00:00Z",
            "2021-01-01T00:00:00",
            "2021-01-01T00:00:00.Z",
            "2021-01-01T00:00:00,5Z",
            "2021-01-01T00:00:00+2:00",
            "2021-01-01T00:00:00+02:60",
            "2021-1-01T00:00:00Z",
            "2021-01-01T00:00:0éZ",
            "+021-01-01T00:00:00Z",
        ] {
            assert!(GoTime::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_what_it_prints_parses_to_the_same(text in "\\PC{0,40}") {
            if let Ok(time) = GoTime::parse(&text) {
                prop_assert_eq!(GoTime::parse(&time.to_string()).unwrap(), time);
            }
        }

        #[test]
        fn digits_in_the_right_places_never_panic(
            text in "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{0,12})?(Z|[+-][0-2][0-9]:[0-6][0-9])",
        ) {
            if let Ok(time) = GoTime::parse(&text) {
                prop_assert_eq!(GoTime::parse(&time.to_string()).unwrap(), time);
            }
        }
    }
}
