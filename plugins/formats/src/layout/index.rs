//! The parsed `index.json` of a layout.
//!
//! Entries that nobody changes keep all they have, unknown members included. They are looked into
//! one by one, so that an index with a million entries costs little more than its bytes.

use std::collections::{BTreeMap, HashMap};

use diolkos_sdk::model::media_type;
use diolkos_sdk::{Digest, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::REF_NAME;
use super::json::{Object, compact};

/// How many names an error lists.
const NAMES_SHOWN: usize = 8;

/// Which image of a layout is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice<'a> {
    /// The only one.
    Only,
    /// The one with this name.
    Name(&'a str),
    /// The one at this position, counted from 0.
    Position(usize),
}

/// What an entry of the index says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Media type of the manifest, perhaps empty.
    pub media_type: String,
    /// Digest of the manifest, not yet parsed: entries nobody asks for may have any.
    pub digest: String,
    /// The name of the image; never empty.
    pub name: Option<String>,
}

impl Entry {
    /// Parses the digest.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when it is none, or of an algorithm we do not know.
    pub fn digest(&self) -> Result<Digest> {
        parse_digest(&self.digest)
    }
}

/// Parses a digest that a layout's file gives.
fn parse_digest(text: &str) -> Result<Digest> {
    text.parse().map_err(|error: Error| {
        let message = format!("unexpected digest reference {}", shorten(text));
        Error::new(ErrorKind::Corrupt, message).with_source(error)
    })
}

fn shorten(text: &str) -> String {
    text.chars().take(160).collect()
}

/// An entry to be added.
#[derive(Clone, Debug, Serialize)]
pub struct NewEntry {
    /// Media type of the manifest.
    #[serde(rename = "mediaType")]
    pub media_type: String,
    /// Digest of the manifest.
    pub digest: Digest,
    /// Bytes of the manifest.
    pub size: u64,
    /// The name of the image, or empty.
    #[serde(skip)]
    pub name: String,
}

/// An `index.json` in memory.
#[derive(Clone, Debug)]
pub struct Index {
    object: Object,
    entries: Vec<Box<RawValue>>,
}

impl Default for Index {
    fn default() -> Self {
        Self::new()
    }
}

impl Index {
    /// Makes the index of a new layout.
    pub fn new() -> Self {
        let mut object = Object::default();
        object.set("schemaVersion", &2);
        object.set("mediaType", &media_type::OCI_INDEX);
        Self { object, entries: Vec::new() }
    }

    /// Parses an `index.json`.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when it is no JSON object or its `manifests` is no list.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| Error::new(ErrorKind::Corrupt, "it is not text").with_source(error))?;
        let object: Object = serde_json::from_str(text).map_err(corrupt)?;
        let entries = match object.get("manifests") {
            Some(raw) => serde_json::from_str::<Option<_>>(raw.get()).map_err(corrupt)?,
            None => None,
        };
        Ok(Self { object, entries: entries.unwrap_or_default() })
    }

    /// Returns how many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Tells whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Looks into the entries, one by one.
    pub fn entries(&self) -> impl Iterator<Item = Result<Entry>> {
        self.entries.iter().enumerate().map(|(position, raw)| view(position, raw))
    }

    /// Returns what the index says of its manifests' types, by digest.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when an entry cannot be understood.
    pub fn media_types(&self) -> Result<HashMap<String, String>> {
        let mut media_types = HashMap::new();
        for entry in self.entries() {
            let entry = entry?;
            media_types.entry(entry.digest).or_insert(entry.media_type);
        }
        Ok(media_types)
    }

    /// Finds the image that is meant: its position and entry.
    ///
    /// # Errors
    /// - [`ErrorKind::ImageNotFound`]: no entry has the name.
    /// - [`ErrorKind::InvalidInput`]: the position is too large, or there is not just one image
    ///   where no name is given.
    /// - [`ErrorKind::Unsupported`]: what has the name is no image.
    pub fn find(&self, choice: Choice<'_>) -> Result<(usize, Entry)> {
        let invalid = |message: String| Err(Error::new(ErrorKind::InvalidInput, message));
        match choice {
            Choice::Only => match self.entries.as_slice() {
                [raw] => Ok((0, view(0, raw)?)),
                _ => Err(self.more_than_one()),
            },
            Choice::Position(position) => match self.entries.get(position) {
                Some(raw) => Ok((position, view(position, raw)?)),
                None => invalid(format!(
                    "index {position} is too large, only {} entries available",
                    self.len()
                )),
            },
            Choice::Name(name) => self.find_name(name),
        }
    }

    fn find_name(&self, name: &str) -> Result<(usize, Entry)> {
        let mut others = Vec::new();
        for (position, entry) in self.entries().enumerate() {
            let entry = entry?;
            if entry.name.as_deref() != Some(name) {
                continue;
            }
            match entry.media_type.as_str() {
                media_type::OCI_MANIFEST
                | media_type::OCI_INDEX
                | media_type::DOCKER_V2S2
                | media_type::DOCKER_LIST => return Ok((position, entry)),
                _ => others.push(format!("{:?}", entry.media_type)),
            }
        }
        if others.is_empty() {
            let message = format!("no descriptor found for reference {name:?}");
            return Err(self.with_names(Error::new(ErrorKind::ImageNotFound, message)));
        }
        Err(Error::unsupported(format!(
            "reference {name:?} matches unsupported manifest MIME types [{}]",
            others.join(" ")
        )))
    }

    fn more_than_one(&self) -> Error {
        let message = "more than one image in oci, choose an image";
        self.with_names(Error::new(ErrorKind::InvalidInput, message))
    }

    fn with_names(&self, error: Error) -> Error {
        let mut names: Vec<_> =
            self.entries().map_while(Result::ok).filter_map(|entry| entry.name).collect();
        if names.is_empty() {
            return error;
        }
        let more = match names.len().saturating_sub(NAMES_SHOWN) {
            0 => String::new(),
            more => format!(" or {more} more"),
        };
        names.truncate(NAMES_SHOWN);
        error.with_hint(format!("choose one of `{}`{more}", names.join("`, `")))
    }

    /// Adds an entry as other tools do.
    ///
    /// Another entry with the same name loses it, and stays without. An unnamed entry with the
    /// same digest is replaced.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when an entry cannot be understood.
    pub fn add(&mut self, new: &NewEntry) -> Result<()> {
        if !new.name.is_empty()
            && let Some(position) = self.position(|entry| entry.name.as_ref() == Some(&new.name))?
        {
            self.entries[position] = without_name(position, &self.entries[position])?;
        }
        let same = |entry: &Entry| entry.name.is_none() && entry.digest == new.digest.as_str();
        match self.position(same)? {
            Some(position) => self.entries[position] = with_name(new),
            None => self.entries.push(with_name(new)),
        }
        Ok(())
    }

    /// Finds the first entry that is as wanted.
    fn position(&self, wanted: impl Fn(&Entry) -> bool) -> Result<Option<usize>> {
        for (position, entry) in self.entries().enumerate() {
            if wanted(&entry?) {
                return Ok(Some(position));
            }
        }
        Ok(None)
    }

    /// Removes the entry at a position.
    pub fn remove(&mut self, position: usize) {
        self.entries.remove(position);
    }

    /// Writes the index as one line without white space.
    #[allow(clippy::missing_panics_doc)] // it cannot
    pub fn to_text(&self) -> String {
        let mut object = self.object.clone();
        object.set("manifests", &self.entries);
        compact(&serde_json::to_string(&object).expect("raw JSON always serialises"))
    }
}

fn view(position: usize, raw: &RawValue) -> Result<Entry> {
    #[derive(Deserialize)]
    struct View {
        #[serde(rename = "mediaType")]
        media_type: Option<String>,
        digest: Option<String>,
        annotations: Option<BTreeMap<String, Option<String>>>,
    }
    let view: View = serde_json::from_str(raw.get()).map_err(|error| {
        Error::new(ErrorKind::Corrupt, format!("entry {position} of the index is no descriptor"))
            .with_source(error)
    })?;
    let name = view.annotations.and_then(|mut all| all.remove(REF_NAME)).flatten();
    Ok(Entry {
        media_type: view.media_type.unwrap_or_default(),
        digest: view.digest.unwrap_or_default(),
        name: name.filter(|name| !name.is_empty()),
    })
}

fn with_name(new: &NewEntry) -> Box<RawValue> {
    #[derive(Serialize)]
    struct Named<'a> {
        #[serde(flatten)]
        entry: &'a NewEntry,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        annotations: BTreeMap<&'a str, &'a str>,
    }
    let mut annotations = BTreeMap::new();
    if !new.name.is_empty() {
        annotations.insert(REF_NAME, new.name.as_str());
    }
    to_raw_value(&Named { entry: new, annotations }).expect("a descriptor is plain data")
}

fn without_name(position: usize, raw: &RawValue) -> Result<Box<RawValue>> {
    let fail = |error| corrupt(error).context(format!("entry {position} of the index"));
    let mut entry: Object = serde_json::from_str(raw.get()).map_err(fail)?;
    if let Some(annotations) = entry.get("annotations") {
        let mut annotations: Object = serde_json::from_str(annotations.get()).map_err(fail)?;
        annotations.remove(REF_NAME);
        if annotations.is_empty() {
            entry.remove("annotations");
        } else {
            entry.set("annotations", &annotations);
        }
    }
    Ok(to_raw_value(&entry).expect("raw JSON always serialises"))
}

fn corrupt(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Corrupt, "it is not valid JSON of an index").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest(digit: char) -> Digest {
        format!("sha256:{}", digit.to_string().repeat(64)).parse().unwrap()
    }

    fn new(digit: char, name: &str) -> NewEntry {
        let media_type = media_type::OCI_MANIFEST.to_owned();
        NewEntry { media_type, digest: digest(digit), size: 7, name: name.to_owned() }
    }

    fn shape(index: &Index) -> Vec<(char, Option<String>)> {
        let entry = |entry: Result<Entry>| {
            let entry = entry.unwrap();
            (entry.digest.chars().last().unwrap(), entry.name)
        };
        index.entries().map(entry).collect()
    }

    #[test]
    fn a_new_index_has_the_bytes_other_tools_write() {
        let mut index = Index::new();
        index.add(&new('a', "v1")).unwrap();
        let expected = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{}\",\"manifests\":[{{\"mediaType\":\"{}\",\
             \"digest\":\"{}\",\"size\":7,\"annotations\":{{\"{REF_NAME}\":\"v1\"}}}}]}}",
            media_type::OCI_INDEX,
            media_type::OCI_MANIFEST,
            digest('a')
        );
        assert_eq!(index.to_text(), expected);
        let again = Index::parse(expected.as_bytes()).unwrap();
        assert_eq!(again.to_text(), expected);
    }

    #[test]
    fn a_name_moves_to_the_new_entry_and_the_old_one_stays_without() {
        let mut index = Index::new();
        for (digit, name) in [('a', "x"), ('b', "y"), ('c', "x")] {
            index.add(&new(digit, name)).unwrap();
        }
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(shape(&index), [('a', None), ('b', name("y")), ('c', name("x"))]);
        // The same again changes nothing; the old digest under the name takes its old place.
        index.add(&new('c', "x")).unwrap();
        assert_eq!(shape(&index), [('a', None), ('b', name("y")), ('c', name("x"))]);
        index.add(&new('a', "x")).unwrap();
        assert_eq!(shape(&index), [('a', name("x")), ('b', name("y")), ('c', None)]);
        // One digest may have two names, and unnamed entries are replaced, not doubled.
        index.add(&new('a', "z")).unwrap();
        index.add(&new('c', "")).unwrap();
        assert_eq!(index.len(), 4);
    }

    #[test]
    fn what_we_do_not_know_is_kept() {
        let text = format!(
            "{{\n  \"schemaVersion\": 2,\n  \"x\": {{\"y\": 1}},\n  \"manifests\": [\n    \
             {{\"digest\": \"blake3:00\", \"new\": [1, 2],\n \"annotations\": {{\"{REF_NAME}\": \
             \"a\", \"k\": \"v w\"}}}}, {{\"annotations\": null, \"digest\": null}}]\n}}\n"
        );
        let mut index = Index::parse(text.as_bytes()).unwrap();
        index.add(&new('a', "a")).unwrap();
        let written = index.to_text();
        let old = r#"{"digest":"blake3:00","new":[1,2],"annotations":{"k":"v w"}}"#;
        assert!(written.contains(old), "{written}");
        assert!(written.starts_with(r#"{"schemaVersion":2,"x":{"y":1},"manifests":["#));
        let (position, entry) = index.find(Choice::Position(0)).unwrap();
        assert_eq!((position, entry.digest().unwrap_err().kind()), (0, ErrorKind::Corrupt));
    }

    #[test]
    fn lookups_fail_in_the_words_scripts_know() {
        let mut index = Index::new();
        let fail = |index: &Index, choice| {
            let error = index.find(choice).unwrap_err();
            (error.kind(), error.message().to_owned())
        };
        let many = "more than one image in oci, choose an image".to_owned();
        assert_eq!(fail(&index, Choice::Only), (ErrorKind::InvalidInput, many.clone()));
        index.add(&new('a', "x")).unwrap();
        assert_eq!(index.find(Choice::Only).unwrap().0, 0);
        index.add(&new('b', "y")).unwrap();
        assert_eq!(fail(&index, Choice::Only), (ErrorKind::InvalidInput, many));
        let none = "no descriptor found for reference \"z\"".to_owned();
        assert_eq!(fail(&index, Choice::Name("z")), (ErrorKind::ImageNotFound, none));
        let large = "index 2 is too large, only 2 entries available".to_owned();
        assert_eq!(fail(&index, Choice::Position(2)), (ErrorKind::InvalidInput, large));
        index.add(&NewEntry { media_type: "a/b".into(), ..new('c', "z") }).unwrap();
        let odd = "reference \"z\" matches unsupported manifest MIME types [\"a/b\"]".to_owned();
        assert_eq!(fail(&index, Choice::Name("z")), (ErrorKind::Unsupported, odd));
    }

    #[test]
    fn wrong_json_is_an_error_and_deep_or_long_json_is_no_danger() {
        let deep = format!("{{\"manifests\":[{}{}]}}", "[".repeat(1 << 20), "]".repeat(1 << 20));
        let million = format!("{{\"manifests\":[{}{{}}]}}", "{},".repeat(1_000_000));
        for bad in
            ["", "[]", "{", "null", "{\"manifests\":{}}", "{\"manifests\":[1]}", "\u{feff}{}"]
        {
            let found = Index::parse(bad.as_bytes()).and_then(|index| index.find(Choice::Only));
            assert_eq!(found.unwrap_err().kind(), ErrorKind::Corrupt, "{bad}");
        }
        assert!(Index::parse(b"\xff{}").is_err());
        let found = Index::parse(deep.as_bytes()).and_then(|index| index.find(Choice::Only));
        assert_eq!(found.unwrap_err().kind(), ErrorKind::Corrupt);
        let mut index = Index::parse(million.as_bytes()).unwrap();
        assert_eq!(index.find(Choice::Name("x")).unwrap_err().kind(), ErrorKind::ImageNotFound);
        index.add(&new('a', "x")).unwrap();
        assert_eq!(index.find(Choice::Name("x")).unwrap().0, 1_000_001);
    }

    #[test]
    fn an_index_with_null_in_place_of_its_entries_is_empty() {
        let mut index = Index::parse(br#"{"schemaVersion":2,"manifests":null}"#).unwrap();
        assert!(index.is_empty());
        index.add(&new('a', "")).unwrap();
        index.remove(0);
        assert_eq!(index.to_text(), r#"{"schemaVersion":2,"manifests":[]}"#);
    }

    proptest! {
        #[test]
        fn parsing_an_index_never_panics(
            text in "[\\[\\]{}\":,0-9a-z \\\\]{0,80}",
            entry in "[\\[\\]{}\":,0-9a-z \\\\]{0,40}",
        ) {
            for text in [text, format!("{{\"manifests\":[{entry}]}}")] {
                if let Ok(mut index) = Index::parse(text.as_bytes()) {
                    let _ = index.find(Choice::Only);
                    let _ = index.add(&new('a', "a"));
                    prop_assert!(Index::parse(index.to_text().as_bytes()).is_ok());
                }
            }
        }
    }
}
