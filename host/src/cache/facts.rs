//! What is known about blobs, in memory: the same relations as the tables of the file.

use std::collections::{BTreeMap, HashMap};

use diolkos_sdk::Digest;
use jiff::Timestamp;

use crate::compress::Compression;

/// Places where a blob was seen, each with the last time.
pub(super) type Places = BTreeMap<String, Timestamp>;

/// What places are looked up by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) transport: String,
    pub(super) scope: String,
    pub(super) digest: Digest,
}

/// A set of facts about blobs.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// From a blob to its uncompressed content.
    pub(super) pairs: HashMap<Digest, Digest>,
    pub(super) compressions: HashMap<Digest, Compression>,
    pub(super) places: BTreeMap<Key, Places>,
}

impl Facts {
    pub(super) fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.compressions.is_empty() && self.places.is_empty()
    }

    /// Returns all blobs known to hold `uncompressed`, in any form, in a stable order.
    pub(super) fn compressed_forms(&self, uncompressed: &Digest) -> Vec<Digest> {
        let mut forms: Vec<_> = self
            .pairs
            .iter()
            .filter(|(_, content)| *content == uncompressed)
            .map(|(any, _)| any.clone())
            .collect();
        forms.sort();
        forms
    }
}
