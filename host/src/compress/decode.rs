//! Reading compressed layers.

use std::io::{BufReader, Read};

use diolkos_sdk::{Error, ErrorKind, Result};

use super::Compression;

/// Bytes of compressed input that a decoder takes at a time.
const INPUT: usize = 128 << 10;

/// The largest zstd window accepted, as a power of two: 128 MiB, what the zstd tool accepts.
const MOST_ZSTD_WINDOW: u32 = 27;

/// The most memory that decoding xz may take, in bytes: twice what the strongest preset needs.
const MOST_XZ_MEMORY: u64 = 128 << 20;

/// Makes a reader of the uncompressed bytes of `input`.
///
/// Members and frames that follow each other are one stream. After the end, `input` may hold bytes
/// that were not read; a copy reads them too, because the digest covers them.
///
/// # Errors
/// [`ErrorKind::Internal`] when the library gives no decoder.
pub fn decoder<'a>(
    compression: Compression,
    input: impl Read + Send + 'a,
) -> Result<Box<dyn Read + Send + 'a>> {
    let buffered = BufReader::with_capacity(INPUT, input);
    Ok(match compression {
        Compression::None => Box::new(buffered),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered)),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(buffered)),
        Compression::Xz => {
            use liblzma::stream::{CONCATENATED, Stream};
            let stream =
                Stream::new_stream_decoder(MOST_XZ_MEMORY, CONCATENATED).map_err(|error| {
                    Error::new(ErrorKind::Internal, "the xz library gives no decoder")
                        .with_source(std::io::Error::from(error))
                })?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(buffered, stream))
        }
        Compression::Zstd => {
            let internal = |error: std::io::Error| {
                Error::new(ErrorKind::Internal, "the zstd library gives no decoder")
                    .with_source(error)
            };
            let mut decoder =
                zstd::stream::read::Decoder::with_buffer(buffered).map_err(internal)?;
            decoder.window_log_max(MOST_ZSTD_WINDOW).map_err(internal)?;
            Box::new(decoder)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Compression; 4] =
        [Compression::Gzip, Compression::Zstd, Compression::Bzip2, Compression::Xz];

    fn pack(compression: Compression, data: &[u8]) -> Vec<u8> {
        use std::io::Write as _;
        match compression {
            Compression::None => data.to_vec(),
            Compression::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Zstd => zstd::encode_all(data, 1).unwrap(),
            Compression::Bzip2 => {
                let mut encoder =
                    bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Xz => {
                let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
        }
    }

    #[test]
    fn every_format_is_recognised_and_streams_that_follow_each_other_are_one() {
        for compression in ALL {
            let twice = [pack(compression, b"hello "), pack(compression, b"world")].concat();
            assert_eq!(Compression::detect(&twice), compression);
            let mut text = String::new();
            decoder(compression, &twice[..]).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "hello world", "{compression:?}");
        }
        assert_eq!(Compression::detect(b"\x1f\x8b"), Compression::None);
    }

    #[test]
    fn a_stream_that_was_cut_short_is_an_error() {
        for compression in ALL {
            let whole = pack(compression, &vec![7; 100_000]);
            let mut out = Vec::new();
            let cut = &whole[..whole.len() - 3];
            assert!(
                decoder(compression, cut).unwrap().read_to_end(&mut out).is_err(),
                "{compression:?}"
            );
        }
    }

    #[test]
    fn xz_that_asks_for_gigabytes_is_refused() {
        use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
        let mut options = LzmaOptions::new_preset(1).unwrap();
        options.dict_size(1 << 20);
        let mut filters = Filters::new();
        filters.lzma2(&options);
        let stream = Stream::new_stream_encoder(&filters, Check::Crc32).unwrap();
        let mut packed = Vec::new();
        liblzma::bufread::XzEncoder::new_stream(&b"hello"[..], stream)
            .read_to_end(&mut packed)
            .unwrap();
        // The block header, behind the stream's twelve bytes: its filter's last property is the
        // size of the dictionary; 39 is 3 GiB.
        let size = packed[12..24].iter().position(|byte| *byte == 0x21).unwrap() + 12 + 2;
        packed[size] = 39;
        let length = (usize::from(packed[12]) + 1) * 4;
        let mut crc = flate2::Crc::new();
        crc.update(&packed[12..12 + length - 4]);
        let sum = crc.sum().to_le_bytes();
        packed[12 + length - 4..12 + length].copy_from_slice(&sum);
        let mut text = String::new();
        let error =
            decoder(Compression::Xz, &packed[..]).unwrap().read_to_string(&mut text).unwrap_err();
        assert!(error.to_string().contains("memory"), "{error}");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(data in proptest::collection::vec(any::<u8>(), 0..400)) {
            for compression in ALL {
                let start: &[u8] = match compression {
                    Compression::Gzip => &[0x1f, 0x8b, 8],
                    Compression::Zstd => &[0x28, 0xb5, 0x2f, 0xfd],
                    Compression::Bzip2 => b"BZh9",
                    _ => &[0xfd, b'7', b'z', b'X', b'Z', 0],
                };
                let input = [start, &data].concat();
                let mut out = Vec::new();
                let _ = decoder(compression, &input[..]).unwrap().take(1 << 20).read_to_end(&mut out);
            }
        }
    }
}
