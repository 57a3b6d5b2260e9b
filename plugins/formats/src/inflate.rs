//! Decompression of whole archives, and of layers that an archive keeps compressed.

use std::io::{self, BufReader, Read};

/// How many first bytes tell the form.
pub const MAGIC: usize = 6;

/// How bytes are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// As `bzip2` writes it.
    Bzip2,
    /// As `xz` writes it.
    Xz,
}

impl Form {
    /// Tells it from the first bytes; `None` for what is not compressed.
    pub fn of(start: &[u8]) -> Option<Self> {
        let forms = [
            (&[0x1f, 0x8b, 0x08][..], Self::Gzip),
            (&[0x28, 0xb5, 0x2f, 0xfd], Self::Zstd),
            (b"BZh", Self::Bzip2),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Self::Xz),
        ];
        forms.into_iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, form)| form)
    }

    /// Tells it from a reader's first bytes, which are lost with it.
    ///
    /// # Errors
    /// The reader's own.
    pub fn of_reader(from: impl Read) -> io::Result<Option<Self>> {
        let mut start = Vec::new();
        from.take(MAGIC as u64).read_to_end(&mut start)?;
        Ok(Self::of(&start))
    }

    /// Decompresses a stream.
    ///
    /// # Errors
    /// There is no memory for it; what is wrong with the bytes, reading tells.
    pub fn inflate<'a>(self, from: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
        let from = BufReader::with_capacity(256 << 10, from);
        Ok(match self {
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(from)),
            Self::Zstd => Box::new(zstd::Decoder::with_buffer(from)?),
            Self::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(from)),
            Self::Xz => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(from)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_was_compressed_in_any_form_is_found_and_inflated() {
        let data = b"some text, some text, some text".repeat(100);
        let gzip = {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&data).unwrap();
            encoder.finish().unwrap()
        };
        let bzip2 = {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(&data).unwrap();
            encoder.finish().unwrap()
        };
        let xz = {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(&data).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = zstd::encode_all(&data[..], 1).unwrap();
        for (form, bytes) in
            [(Form::Gzip, gzip), (Form::Zstd, zstd), (Form::Bzip2, bzip2), (Form::Xz, xz)]
        {
            assert_eq!(Form::of(&bytes[..MAGIC]), Some(form));
            // Several streams in a row are one.
            let twice = bytes.repeat(2);
            let mut read = Vec::new();
            form.inflate(&twice[..]).unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read.len(), 2 * data.len(), "{form:?}");
        }
        assert_eq!(Form::of(&data[..MAGIC]), None);
        assert_eq!(Form::of(b""), None);
    }
}
