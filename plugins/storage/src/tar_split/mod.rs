//! tar-split: a layer's tar archive without the contents of its files, from which, together with
//! the files, the archive is made again bit for bit.
//!
//! A gzip stream of JSON values, one a line: *segments*, which are bytes of the archive, and
//! *files*, whose contents stand between the segments around them.
//!
//! # Source
//! github.com/vbatts/tar-split, `tar/storage`. There is no specification.

mod read;
mod write;

pub(crate) use read::{Piece, TarSplit};
pub(crate) use write::TarSplitWriter;

use serde::{Deserialize, Serialize};

/// A value is a file's.
const FILE: u8 = 1;
/// A value is a segment.
const SEGMENT: u8 = 2;

/// One value.
#[derive(Debug, Serialize, Deserialize)]
struct Entry<'a> {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    name: Option<std::borrow::Cow<'a, str>>,
    /// A name that is no text, in base64.
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    name_raw: Option<std::borrow::Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "is_zero")]
    size: u64,
    /// In base64: a segment's bytes, or the checksum of a file's content.
    #[serde(default, borrow)]
    payload: Option<std::borrow::Cow<'a, str>>,
    #[serde(default)]
    position: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_zero(size: &u64) -> bool {
    *size == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    enum Value {
        Segment(Vec<u8>),
        File(Vec<u8>, u64),
    }

    fn written(values: &[Value]) -> Vec<u8> {
        let mut writer = TarSplitWriter::new(Vec::new());
        for value in values {
            match value {
                Value::Segment(bytes) => writer.segment(bytes).unwrap(),
                Value::File(name, size) => {
                    writer.file(name, *size, (*size > 0).then_some(7)).unwrap();
                }
            }
        }
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> std::io::Result<Vec<Value>> {
        let mut split = TarSplit::new(bytes);
        let mut values = Vec::new();
        while let Some(piece) = split.next_piece()? {
            values.push(match piece {
                Piece::Segment(bytes) => Value::Segment(bytes.to_vec()),
                Piece::File { name, size } => Value::File(name.to_vec(), size),
            });
        }
        Ok(values)
    }

    #[test]
    fn the_lines_are_those_that_the_library_writes() {
        let bytes = written(&[
            Value::Segment(b"head".to_vec()),
            Value::File(b"a/<b>&".to_vec(), 3),
            Value::File(b"\xff".to_vec(), 0),
        ]);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&*bytes), &mut text)
            .unwrap();
        let expected = [
            r#"{"type":2,"payload":"aGVhZA==","position":0}"#,
            r#"{"type":1,"name":"a/\u003cb\u003e\u0026","size":3,"payload":"AAAAAAAAAAc=","position":1}"#,
            r#"{"type":1,"name_raw":"/w==","payload":null,"position":2}"#,
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn files_without_content_are_passed_over_when_reading() {
        let values = [Value::File(b"d/".to_vec(), 0), Value::Segment(vec![0; 512])];
        assert_eq!(read(&written(&values)).unwrap(), values[1..]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(values in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 1..900).prop_map(Value::Segment),
                (proptest::collection::vec(any::<u8>(), 1..40), 1..u64::MAX)
                    .prop_map(|(name, size)| Value::File(name, size)),
            ], 0..20)) {
            prop_assert_eq!(read(&written(&values)).unwrap(), values);
        }

        #[test]
        fn any_lines_are_read_without_panic(text in "(\\{\"type\":[0-3],\"name\":\"x\",\"size\":-?[0-9]{1,3},\"payload\":(null|\"[A-Za-z=]{0,9}\")\\}\n|\\PC{0,20})*") {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut gzip, text.as_bytes()).unwrap();
            let _ = read(&gzip.finish().unwrap());
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }
}
