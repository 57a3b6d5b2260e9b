//! The records of layers and images: `layers.json`, `images.json`.
//!
//! A record that is not changed is written back as it was read, to the byte: other programs, and
//! newer ones, keep in it what they like. In a record that is changed or built upon every field must
//! be known.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use diolkos_formats::files;
use diolkos_sdk::{Digest, Error, Result};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::broken;

/// The largest file of records that is read, in bytes.
const MOST: u64 = 512 << 20;
/// How the names of files begin that are not whole yet, of other programs' too.
pub(crate) const HALF_WRITTEN: &str = ".tmp-";
/// The flag of a layer that is being made or removed.
pub(crate) const INCOMPLETE: &str = "incomplete";

/// The record of a layer.
///
/// # Source
/// `Layer` in `storage/layers.go`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Layer {
    pub id: String,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub parent: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub metadata: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mountlabel: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created: String,
    /// Digest of the blob that the layer was made from.
    #[serde(default, rename = "compressed-diff-digest", skip_serializing_if = "Option::is_none")]
    pub blob: Option<Digest>,
    #[serde(default, rename = "compressed-size", skip_serializing_if = "is_zero")]
    pub blob_size: i64,
    #[serde(default, rename = "diff-digest", skip_serializing_if = "Option::is_none")]
    pub diff_id: Option<Digest>,
    #[serde(default, rename = "toc-digest", skip_serializing_if = "Option::is_none")]
    pub toc_digest: Option<Digest>,
    /// -1 where it is not known.
    #[serde(default, rename = "diff-size", skip_serializing_if = "is_zero")]
    pub diff_size: i64,
    /// 0: none, 1: bzip2, 2: gzip, 3: xz, 4: zstd.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub compression: i64,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub uidset: Vec<u32>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub gidset: Vec<u32>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub flags: BTreeMap<String, Value>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub uidmap: Vec<Value>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub gidmap: Vec<Value>,
    #[serde(
        default,
        rename = "big-data-names",
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub big_data_names: Vec<String>,
    /// What this version does not know.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

impl Layer {
    /// Tells whether the layer is being made or removed, or was when a program was killed.
    pub fn is_incomplete(&self) -> bool {
        self.flags.get(INCOMPLETE) == Some(&Value::Bool(true))
    }

    /// Fails if a layer must not be put upon this one, because it is not all known what it is.
    pub fn may_be_built_upon(&self) -> Result<()> {
        if let Some(field) = self.unknown.keys().next() {
            return Err(unknown_field("layer", &self.id, field));
        }
        if !self.uidmap.is_empty() || !self.gidmap.is_empty() {
            let message = format!("layer {} has its owners mapped", self.id);
            return Err(Error::unsupported(message)
                .with_hint("layers with mapped IDs can be read, but nothing can be put on them"));
        }
        Ok(())
    }
}

/// The record of an image.
///
/// # Source
/// `Image` in `storage/images.go`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Image {
    pub id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Newest first.
    #[serde(
        default,
        rename = "names-history",
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub names_history: Vec<String>,
    /// The topmost layer; none for an image without layers.
    #[serde(default, rename = "layer", skip_serializing_if = "String::is_empty")]
    pub top_layer: String,
    #[serde(
        default,
        rename = "mapped-layers",
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub mapped_layers: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub metadata: String,
    #[serde(
        default,
        rename = "big-data-names",
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub big_data_names: Vec<String>,
    #[serde(
        default,
        rename = "big-data-sizes",
        deserialize_with = "or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub big_data_sizes: BTreeMap<String, i64>,
    #[serde(
        default,
        rename = "big-data-digests",
        deserialize_with = "or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub big_data_digests: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created: String,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub flags: BTreeMap<String, Value>,
    /// What this version does not know.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

impl Image {
    /// Tells whether one of the image's manifests has this digest.
    pub fn has_digest(&self, digest: &Digest) -> bool {
        let text = digest.to_string();
        let manifests =
            self.big_data_digests.iter().filter(|(name, _)| name.starts_with("manifest"));
        self.digest == text || manifests.into_iter().any(|(_, found)| *found == text)
    }

    /// Fails if the record must not be changed, because it is not all known what it is.
    pub fn may_be_changed(&self) -> Result<()> {
        match self.unknown.keys().next() {
            Some(field) => Err(unknown_field("image", &self.id, field)),
            None => Ok(()),
        }
    }
}

fn unknown_field(what: &str, id: &str, field: &str) -> Error {
    Error::unsupported(format!(
        "the record of {what} {id} has a field `{field}` that is not known here"
    ))
    .with_hint("the store was written by a newer program; use that, or a newer version of this one")
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Reads `null`, which is how Go writes what it never made, as nothing.
pub(crate) fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// A record, and the text that it was read from unless it was changed.
#[derive(Clone, Debug)]
pub(crate) struct Record<T> {
    pub value: T,
    text: Option<Box<RawValue>>,
}

impl<T> Record<T> {
    /// Makes one that was not read.
    pub fn new(value: T) -> Self {
        Self { value, text: None }
    }

    /// Gives access for a change.
    pub fn change(&mut self) -> &mut T {
        self.text = None;
        &mut self.value
    }
}

/// A file of records.
#[derive(Clone, Debug)]
pub(crate) struct Records<T>(pub Vec<Record<T>>);

impl<T: DeserializeOwned + Serialize> Records<T> {
    /// Reads a file; one that is not there has no records.
    ///
    /// # Errors
    /// [`Corrupt`](diolkos_sdk::ErrorKind::Corrupt) for what is no list of such records.
    pub fn read(path: &Path) -> Result<Self> {
        let wrong = |error: serde_json::Error| {
            broken(format!("{} makes no sense", path.display())).with_source(error)
        };
        let bytes = files::read_if_any(path, MOST)?.unwrap_or_default();
        if bytes.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let texts: Option<Vec<Box<RawValue>>> = serde_json::from_slice(&bytes).map_err(wrong)?;
        let records = texts.unwrap_or_default().into_iter().map(|text| {
            let value = serde_json::from_str(text.get()).map_err(wrong)?;
            Ok(Record { value, text: Some(text) })
        });
        records.collect::<Result<_>>().map(Self)
    }

    /// Reads a file whose lock for writing the caller has, and removes what a killed program left
    /// of its own writing.
    ///
    /// # Errors
    /// Those of [`Records::read`].
    pub fn read_to_write(path: &Path) -> Result<Self> {
        let _ = fs::remove_file(half_written(path));
        Self::read(path)
    }

    /// Replaces a file in one step. It is on disk before it has its name.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = vec![b'['];
        for (index, record) in self.0.iter().enumerate() {
            if index > 0 {
                text.push(b',');
            }
            match &record.text {
                Some(kept) => text.extend_from_slice(kept.get().as_bytes()),
                None => text.extend(diolkos_formats::bytes::to_json(&record.value)?),
            }
        }
        text.push(b']');
        replace(path, &half_written(path), &text)
    }
}

/// Writes a file that appears, whole and on disk, in place of the one that was there.
///
/// Until then it is `half`; the caller has the lock without which nobody writes either.
pub(crate) fn replace(path: &Path, half: &Path, bytes: &[u8]) -> Result<()> {
    let _ = fs::remove_file(half);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(half)?;
        file.write_all(bytes)?;
        file.sync_data()
    };
    let written = write().map_err(|error| files::failed("write", half, error)).and_then(|()| {
        fs::rename(half, path).map_err(|error| files::failed("rename", half, error))
    });
    if written.is_err() {
        let _ = fs::remove_file(half);
    }
    written
}

/// Returns where a file is written before it has its name, or one of a directory's. It is one place,
/// not one for each time, so that what a killed program left there is found.
pub(crate) fn half_written(path: &Path) -> PathBuf {
    let mut name = OsString::from(HALF_WRITTEN);
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

/// Returns the time as the records have it.
pub(crate) fn now() -> String {
    Timestamp::now().to_string()
}

#[cfg(test)]
mod tests {
    use diolkos_sdk::ErrorKind;

    use super::*;

    #[test]
    fn what_is_not_changed_is_written_as_it_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layers.json");
        let text = r#"[{"id":"a", "created":"2024-01-01T00:00:00.5Z","flags":null,"new":{"x":1}},{"id":"b","compression":2}]"#;
        fs::write(&path, text).unwrap();
        let mut layers = Records::<Layer>::read(&path).unwrap();
        layers.write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        layers.0[1].change().flags.insert(INCOMPLETE.into(), true.into());
        layers.write(&path).unwrap();
        let written = fs::read_to_string(&path).unwrap();
        assert!(written.starts_with(&text[..80]), "{written}");
        assert!(written.ends_with(r#"{"id":"b","compression":2,"flags":{"incomplete":true}}]"#));
    }

    #[test]
    fn unknown_fields_are_no_ground_to_build_on() {
        let layer: Layer = serde_json::from_str(r#"{"id":"a","shape":"odd"}"#).unwrap();
        assert!(layer.may_be_built_upon().unwrap_err().message().contains("`shape`"));
        let layer: Layer = serde_json::from_str(r#"{"id":"a","uidmap":[{"size":1}]}"#).unwrap();
        assert!(layer.may_be_built_upon().unwrap_err().message().contains("mapped"));
        let image: Image = serde_json::from_str(r#"{"id":"a","shape":1}"#).unwrap();
        assert!(image.may_be_changed().is_err());
    }

    #[test]
    fn what_a_killed_program_half_wrote_goes_with_the_next_one_to_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layers.json");
        let left = || fs::write(dir.path().join(".tmp-layers.json"), "[{\"id\":").unwrap();
        let files = || fs::read_dir(dir.path()).unwrap().count();
        left();
        let none = Records::<Layer>::read_to_write(&path).unwrap();
        assert_eq!(files(), 0);
        left();
        none.write(&path).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), files()), ("[]", 1));
    }

    #[test]
    fn what_is_no_list_of_records_is_corrupt() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        for text in ["{}", "[1]", "[{\"id\":", "[{}]"] {
            fs::write(&path, text).unwrap();
            assert_eq!(
                Records::<Layer>::read(&path).unwrap_err().kind(),
                ErrorKind::Corrupt,
                "{text}"
            );
        }
        for text in ["", "null", "[]"] {
            fs::write(&path, text).unwrap();
            assert!(Records::<Image>::read(&path).unwrap().0.is_empty());
        }
    }
}
