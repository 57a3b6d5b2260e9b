//! In which order blobs are tried in place of another, and how many of them.
//!
//! The order is that of the other programs that share the cache, because it decides which blob a
//! manifest ends up with: the blob itself first, its uncompressed content last, since that costs
//! most to keep and to send, and in between whatever was seen most recently.

use std::cmp::Ordering;

use diolkos_sdk::Digest;
use jiff::Timestamp;

use crate::compress::Compression;

/// Each candidate costs the engine a request or two before it can start an upload.
const MOST: usize = 5;
/// How many of them may be such that nobody has seen in the destination's scope.
const MOST_UNSEEN: usize = 2;

/// A blob that may take the place of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its digest.
    pub digest: Digest,
    /// Its compression; candidates from the cache always have one.
    pub compression: Option<Compression>,
    /// The place, within the scope asked about, where it was seen.
    pub location: Option<String>,
}

/// A candidate and when it was last there.
pub(super) struct Seen {
    candidate: Candidate,
    time: Option<Timestamp>,
}

impl Seen {
    pub(super) fn at(
        digest: Digest,
        compression: Compression,
        place: String,
        time: Timestamp,
    ) -> Self {
        let candidate = Candidate { digest, compression: Some(compression), location: Some(place) };
        Self { candidate, time: Some(time) }
    }

    pub(super) fn nowhere(digest: Digest, compression: Compression) -> Self {
        let candidate = Candidate { digest, compression: Some(compression), location: None };
        Self { candidate, time: None }
    }
}

/// Sorts candidates and keeps the best.
pub(super) fn best(
    mut seen: Vec<Seen>,
    primary: &Digest,
    uncompressed: Option<&Digest>,
) -> Vec<Candidate> {
    seen.sort_by(|left, right| order(left, right, primary, uncompressed));
    let (mut known, unknown): (Vec<_>, Vec<_>) =
        seen.into_iter().map(|seen| seen.candidate).partition(|c| c.location.is_some());
    known.truncate(MOST);
    let room = MOST_UNSEEN.min(MOST - known.len());
    known.extend(unknown.into_iter().take(room));
    known
}

fn order(left: &Seen, right: &Seen, primary: &Digest, uncompressed: Option<&Digest>) -> Ordering {
    let rank = |seen: &Seen| {
        if seen.candidate.digest == *primary {
            0
        } else if Some(&seen.candidate.digest) == uncompressed {
            2
        } else {
            1
        }
    };
    rank(left)
        .cmp(&rank(right))
        .then_with(|| right.time.cmp(&left.time))
        .then_with(|| left.candidate.digest.cmp(&right.candidate.digest))
        // Two places in the same nanosecond; the result must still be always the same.
        .then_with(|| left.candidate.location.cmp(&right.candidate.location))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        format!("sha256:{}", format!("{n:02x}").repeat(32)).parse().unwrap()
    }

    fn at(n: u8, place: &str, second: i64) -> Seen {
        let time = Timestamp::from_second(second).unwrap();
        Seen::at(digest(n), Compression::Gzip, place.to_owned(), time)
    }

    fn places(candidates: &[Candidate]) -> Vec<&str> {
        candidates.iter().map(|c| c.location.as_deref().unwrap_or("-")).collect()
    }

    #[test]
    fn the_blob_itself_comes_first_and_its_uncompressed_content_last() {
        let seen = vec![
            at(9, "plain-new", 900),
            at(2, "other-old", 100),
            at(1, "itself-old", 1),
            at(3, "other-new", 200),
            at(1, "itself-new", 2),
        ];
        let found = best(seen, &digest(1), Some(&digest(9)));
        assert_eq!(
            places(&found),
            ["itself-new", "itself-old", "other-new", "other-old", "plain-new"]
        );
    }

    #[test]
    fn equal_times_are_ordered_by_digest() {
        let found = best(vec![at(3, "c", 5), at(2, "b", 5)], &digest(1), None);
        assert_eq!(places(&found), ["b", "c"]);
    }

    #[test]
    fn at_most_five_are_kept_of_which_two_without_a_place() {
        let unseen = |n| Seen::nowhere(digest(n), Compression::Zstd);
        let found = best(vec![unseen(1), unseen(2), unseen(3)], &digest(1), None);
        assert_eq!(found.len(), 2);
        let mut seen: Vec<_> = (0..4).map(|n| at(2, &n.to_string(), n)).collect();
        seen.extend([unseen(1), unseen(3)]);
        let found = best(seen, &digest(1), None);
        assert_eq!(places(&found), ["3", "2", "1", "0", "-"]);
        let found = best((0..7).map(|n| at(2, &n.to_string(), n)).collect(), &digest(1), None);
        assert_eq!(places(&found), ["6", "5", "4", "3", "2"]);
    }
}
