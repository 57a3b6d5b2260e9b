//! Writing Zstandard on all cores, with a result that does not depend on how many there are.

use std::io::{Read, Write};

use diolkos_sdk::{Error, ErrorKind, Result};

use super::{pool, read_full};

/// The level that is used when the user names none; zstd's own default.
pub const DEFAULT_LEVEL: i32 = 3;

/// Bytes that one job compresses. Fixed, because the result depends on where jobs are cut.
const JOB: u32 = 1 << 20;
const BLOCK: usize = 256 << 10;

/// Compresses all of `input`, handing compressed bytes to `output` in order.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] for a level that zstd does not have; what `input` and `output`
/// return.
pub fn compress(
    input: &mut dyn Read,
    level: i32,
    output: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let range = zstd::compression_level_range();
    if !range.contains(&level) || level == 0 {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("zstd has no compression level {level}"),
        )
        .with_hint(format!("use a level from 1 (fastest) to {} (smallest)", range.end())));
    }
    let internal = |error: std::io::Error| {
        Error::new(ErrorKind::Internal, "the zstd library failed").with_source(error)
    };
    let mut sink = Sink { output, error: None };
    let mut encoder = zstd::Encoder::new(&mut sink, level).map_err(internal)?;
    // One thread and several give the same result, none a different one: so never none.
    let threads = u32::try_from(pool::threads().clamp(1, 4)).expect("at most four");
    encoder.multithread(threads).map_err(internal)?;
    encoder.set_parameter(zstd::zstd_safe::CParameter::JobSize(JOB)).map_err(internal)?;
    encoder.include_checksum(true).map_err(internal)?;
    let mut block = vec![0; BLOCK];
    loop {
        let count = read_full(input, &mut block)?;
        if let Err(error) = encoder.write_all(&block[..count]) {
            drop(encoder);
            return Err(sink.error.unwrap_or_else(|| internal(error)));
        }
        if count < BLOCK {
            break;
        }
    }
    match encoder.finish() {
        Ok(_) => Ok(()),
        Err(error) => Err(sink.error.unwrap_or_else(|| internal(error))),
    }
}

/// Hands on what the encoder writes, and keeps the real error when that fails.
struct Sink<'a> {
    output: &'a mut dyn FnMut(&[u8]) -> Result<()>,
    error: Option<Error>,
}

impl Write for &mut Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match (self.output)(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                self.error = Some(error);
                Err(std::io::Error::other("the output failed"))
            }
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn whatever_was_compressed_comes_back() {
        for length in [0usize, 1, BLOCK, 9 * (1 << 20) + 5] {
            let data: Vec<u8> =
                (0..length).map(|i| u8::try_from(i * i / 7 % 251).unwrap()).collect();
            let mut out = Vec::new();
            compress(&mut Cursor::new(&data), 3, &mut |chunk| {
                out.extend_from_slice(chunk);
                Ok(())
            })
            .unwrap();
            assert!(zstd::decode_all(&out[..]).unwrap() == data, "{length} bytes survive");
        }
    }

    #[test]
    fn an_error_of_the_output_is_passed_on_as_it_is() {
        let data = vec![7; 1 << 20];
        let error =
            compress(&mut Cursor::new(&data), 3, &mut |_| Err(Error::new(ErrorKind::Denied, "no")))
                .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
    }
}
