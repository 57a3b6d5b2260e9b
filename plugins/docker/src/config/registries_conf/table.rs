//! Tables of a TOML file, read key by key, so that messages can name lines and keys.
//!
//! What nobody asked for is left at the end: these are the keys that the file has for somebody
//! else, or by mistake. Keys are found in any case, as other readers of these files find them:
//! `Blocked = true` must not go unnoticed.

use std::rc::Rc;

use diolkos_sdk::Result;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::config::text::invalid;

/// Where the lines of a text end, for finding lines by offsets.
#[derive(Clone)]
struct Lines(Rc<[usize]>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(offset, _)| offset).collect())
    }

    fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|end| *end < offset) + 1
    }
}

/// A table from which keys are taken.
pub(super) struct Section<'t> {
    lines: Lines,
    /// How it is written in the file, `[[registry]]` for one; empty for the file itself.
    name: &'static str,
    line: usize,
    entries: Vec<(Spanned<DeString<'t>>, Spanned<DeValue<'t>>)>,
    taken: Vec<(&'static str, usize)>,
}

impl<'t> Section<'t> {
    /// Parses a whole file.
    pub fn document(text: &'t str) -> Result<Self> {
        let lines = Lines::of(text);
        let table = DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| lines.at(span.start));
            // Some messages of the parser go over several lines.
            let why = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
            invalid(format!("line {line}: {why}"))
        })?;
        Ok(Self::new(lines, "", 1, table.into_inner()))
    }

    fn new(lines: Lines, name: &'static str, line: usize, table: DeTable<'t>) -> Self {
        Self { lines, name, line, entries: table.into_iter().collect(), taken: Vec::new() }
    }

    /// Takes a value out, with its line.
    fn take(&mut self, key: &'static str) -> Option<(usize, DeValue<'t>)> {
        let is_key = |same: fn(&str, &str) -> bool| {
            self.entries.iter().position(|(name, _)| same(name.get_ref(), key))
        };
        let index = is_key(|a, b| a == b).or_else(|| is_key(str::eq_ignore_ascii_case))?;
        let (name, value) = self.entries.swap_remove(index);
        let line = self.lines.at(name.span().start);
        self.taken.push((key, line));
        Some((line, value.into_inner()))
    }

    /// Takes a text; an empty one counts as absent.
    pub fn string(&mut self, key: &'static str) -> Result<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some((_, DeValue::String(text))) => {
                Ok(Some(text.into_owned()).filter(|text| !text.is_empty()))
            }
            Some((line, other)) => Err(wrong_type(line, key, "a string", &other)),
        }
    }

    /// Takes a boolean, false if absent.
    pub fn flag(&mut self, key: &'static str) -> Result<bool> {
        match self.take(key) {
            None => Ok(false),
            Some((_, DeValue::Boolean(flag))) => Ok(flag),
            Some((line, other)) => Err(wrong_type(line, key, "true or false", &other)),
        }
    }

    /// Takes a list of texts. An empty one is not the same as none.
    pub fn strings(&mut self, key: &'static str) -> Result<Option<Vec<String>>> {
        let Some((line, value)) = self.take(key) else { return Ok(None) };
        let DeValue::Array(array) = value else {
            return Err(wrong_type(line, key, "a list of strings", &value));
        };
        let texts = array.into_iter().map(|value| match value.into_inner() {
            DeValue::String(text) => Ok(text.into_owned()),
            other => Err(wrong_type(line, key, "a list of strings", &other)),
        });
        texts.collect::<Result<_>>().map(Some)
    }

    /// Takes a table.
    pub fn section(&mut self, key: &'static str, name: &'static str) -> Result<Option<Self>> {
        match self.take(key) {
            None => Ok(None),
            Some((line, DeValue::Table(table))) => {
                Ok(Some(Self::new(self.lines.clone(), name, line, table)))
            }
            Some((line, other)) => Err(wrong_type(line, key, "a table", &other)),
        }
    }

    /// Takes an array of tables.
    pub fn sections(&mut self, key: &'static str, name: &'static str) -> Result<Option<Vec<Self>>> {
        let Some((line, value)) = self.take(key) else { return Ok(None) };
        let DeValue::Array(array) = value else {
            return Err(wrong_type(line, key, &format!("an array of tables, {name}"), &value));
        };
        let tables = array.into_iter().map(|value| {
            let line = self.lines.at(value.span().start);
            match value.into_inner() {
                DeValue::Table(table) => Ok(Self::new(self.lines.clone(), name, line, table)),
                other => Err(wrong_type(line, key, &format!("an array of tables, {name}"), &other)),
            }
        });
        tables.collect::<Result<_>>().map(Some)
    }

    /// Takes everything that is left, which must be texts: lines, keys and values.
    pub fn pairs(&mut self) -> Result<Vec<(usize, String, String)>> {
        let pairs = std::mem::take(&mut self.entries).into_iter().map(|(key, value)| {
            let line = self.lines.at(key.span().start);
            match value.into_inner() {
                DeValue::String(text) => Ok((line, key.into_inner().into_owned(), text.into())),
                other => Err(wrong_type(line, key.get_ref(), "a string", &other)),
            }
        });
        pairs.collect()
    }

    /// Returns the line of a key that was taken, else that of the table.
    pub fn line_of(&self, key: &str) -> usize {
        self.taken.iter().find(|(taken, _)| *taken == key).map_or(self.line, |(_, line)| *line)
    }

    /// Says of each key that was not taken that it is ignored.
    pub fn leftovers(self) -> impl Iterator<Item = String> {
        let place = if self.name.is_empty() { String::new() } else { format!(" in {}", self.name) };
        self.entries.into_iter().map(move |(key, _)| {
            let line = self.lines.at(key.span().start);
            format!("line {line}: the key `{}`{place} is ignored", key.get_ref())
        })
    }
}

fn wrong_type(line: usize, key: &str, wanted: &str, got: &DeValue<'_>) -> diolkos_sdk::Error {
    invalid(format!("line {line}: `{key}` must be {wanted}, not {}", got.type_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_another_type_are_refused_with_line_and_key() {
        let text = "a = 1\n\nb = 'x'\nc = ['x', 2]\nd = []\n[e]\nf = true";
        let mut section = Section::document(text).unwrap();
        let message = |error: diolkos_sdk::Error| error.message().to_owned();
        assert_eq!(
            message(section.string("a").unwrap_err()),
            "line 1: `a` must be a string, not integer"
        );
        assert_eq!(
            message(section.flag("b").unwrap_err()),
            "line 3: `b` must be true or false, not string"
        );
        assert!(
            message(section.strings("c").unwrap_err()).starts_with("line 4: `c` must be a list")
        );
        assert!(message(section.section("d", "[d]").err().unwrap()).contains("a table"));
        assert!(message(section.sections("e", "[[e]]").err().unwrap()).contains("[[e]]"));
    }

    #[test]
    fn keys_are_found_in_any_case_and_the_exact_one_first() {
        let mut section = Section::document("Key = 'a'\nkey = 'b'\nOTHER = true").unwrap();
        assert_eq!(section.string("key").unwrap().as_deref(), Some("b"));
        assert!(section.flag("other").unwrap());
        assert_eq!(section.line_of("other"), 3);
        let left: Vec<String> = section.leftovers().collect();
        assert_eq!(left, ["line 1: the key `Key` is ignored"]);
    }

    #[test]
    fn an_empty_list_is_not_none_but_an_empty_text_is() {
        let mut section = Section::document("a = []\nb = ''").unwrap();
        assert_eq!(section.strings("a").unwrap(), Some(Vec::new()));
        assert_eq!(section.strings("c").unwrap(), None);
        assert_eq!(section.string("b").unwrap(), None);
    }

    #[test]
    fn lines_are_counted_from_one() {
        let lines = Lines::of("a\nb\n\nc");
        let of = |offset| lines.at(offset);
        assert_eq!([of(0), of(1), of(2), of(4), of(5), of(99)], [1, 1, 2, 3, 4, 4]);
    }

    #[test]
    fn what_is_no_toml_is_refused_with_its_line() {
        let error = Section::document("a = 1\nb = \n").err().unwrap();
        assert!(error.message().starts_with("line 2: "), "{error}");
        assert!(Section::document("a = 1\na = 2").is_err());
    }
}
