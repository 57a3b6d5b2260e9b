//! The host's side: method tables as the author's traits again.

#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use abi_stable::sabi_trait::TD_Opaque;
use abi_stable::std_types::{ROption, RResult, RSlice, RStr, RVec};

use super::objects::{
    AbiHost, AbiHost_TO, AbiSession, DestinationObject, ImageRefObject, NamedTransport,
    ReaderObject, SourceObject, TransportObject, WriterObject,
};
use super::types::{
    AbiError, AbiResult, Cross, SessionData, from_abi_result, level_from_code, to_abi_result,
};
use crate::model::{Descriptor, Digest, Error, ErrorKind, RawManifest, Result, Signature};
use crate::session::{Host, Session};
use crate::transport::{
    Accepts, Blob, BlobIncoming, BlobReader, BlobSums, BlobWanted, BlobWriter, Committed,
    Destination, Extent, FileTarget, ImageRef, Names, Source, Tags, TopLevel, Transport,
};

/// Turns a plugin's tables into transports.
pub(super) fn transports(
    tables: AbiResult<RVec<NamedTransport>>,
) -> Result<Vec<(String, Box<dyn Transport>)>> {
    let tables = tables.into_result().map_err(Error::from)?;
    Ok(tables
        .into_iter()
        .map(|named| {
            let transport: Box<dyn Transport> = Box::new(ImportedTransport(named.transport));
            (named.name.into_string(), transport)
        })
        .collect())
}

fn result<T>(result: AbiResult<T>) -> Result<T> {
    match result {
        RResult::ROk(value) => Ok(value),
        RResult::RErr(error) => Err(error.into()),
    }
}

fn extension(answer: AbiResult<ROption<RVec<u8>>>) -> Option<Result<Vec<u8>>> {
    from_abi_result::<Option<Vec<u8>>>(answer).transpose()
}

/// The host, as a table for plugins.
struct ExportedHost(Host);

impl AbiHost for ExportedHost {
    fn is_cancelled(&self) -> bool {
        // A panic in the host's own services must not end the process at the boundary either.
        catch_unwind(AssertUnwindSafe(|| self.0.is_cancelled())).unwrap_or(true)
    }
    fn log(&self, level: u32, message: RStr<'_>) {
        let _ = catch_unwind(AssertUnwindSafe(|| {
            self.0.log(level_from_code(level), message.as_str());
        }));
    }
    fn extension(&self, name: RStr<'_>, input: RSlice<'_, u8>) -> AbiResult<ROption<RVec<u8>>> {
        let answer = catch_unwind(AssertUnwindSafe(|| {
            self.0.extension(name.as_str(), input.as_slice()).transpose()
        }));
        match answer {
            Ok(answer) => to_abi_result(answer),
            Err(_) => RResult::RErr(AbiError::from(Error::new(
                ErrorKind::Internal,
                format!("the host panicked in extension {name}"),
            ))),
        }
    }
}

fn session(session: &Session) -> AbiSession {
    let data = SessionData {
        options: session.options.clone(),
        platform: session.platform.clone(),
        temp_dir: session.temp_dir.clone(),
    };
    AbiSession {
        data: data.into_abi(),
        host: AbiHost_TO::from_value(ExportedHost(session.host.clone()), TD_Opaque),
    }
}

struct ImportedTransport(TransportObject);

impl Transport for ImportedTransport {
    fn parse(&self, details: &str) -> Result<Box<dyn ImageRef>> {
        Ok(Box::new(ImportedRef(result(self.0.parse(details.into()))?)))
    }
    fn check_policy_scope(&self, scope: &str) -> Result<()> {
        result(self.0.check_policy_scope(scope.into()))
    }
    fn extension(&self, name: &str, input: &[u8]) -> Option<Result<Vec<u8>>> {
        extension(self.0.extension(name.into(), input.into()))
    }
}

struct ImportedRef(ImageRefObject);

impl ImageRef for ImportedRef {
    fn names(&self) -> Names {
        // Names are asked for early and often; a plugin that fails here has none, and the calls
        // that follow will say why.
        from_abi_result(self.0.names()).unwrap_or_default()
    }
    fn open(&self, with: &Session) -> Result<Box<dyn Source>> {
        Ok(Box::new(ImportedSource(result(self.0.open(session(with)))?)))
    }
    fn create(&self, with: &Session) -> Result<Box<dyn Destination>> {
        Ok(Box::new(ImportedDestination(result(self.0.create(session(with)))?)))
    }
    fn delete(&self, with: &Session) -> Result<()> {
        result(self.0.delete(session(with)))
    }
    fn tags(&self, with: &Session) -> Result<Tags> {
        from_abi_result(self.0.tags(session(with)))
    }
}

struct ImportedSource(SourceObject);

impl Source for ImportedSource {
    fn manifest(&self, instance: Option<&Digest>) -> Result<RawManifest> {
        from_abi_result(self.0.manifest(instance.cloned().into_abi()))
    }
    fn blob(&self, blob: &Descriptor, from: u64) -> Result<Blob> {
        let blob = result(self.0.blob(blob.clone().into_abi(), from))?;
        Ok(Blob { size: blob.size.into(), reader: Box::new(ImportedReader(blob.reader)) })
    }
    fn signatures(&self, instance: Option<&Digest>) -> Result<Vec<Signature>> {
        from_abi_result(self.0.signatures(instance.cloned().into_abi()))
    }
    fn layers(&self, instance: Option<&Digest>) -> Result<Option<Vec<Descriptor>>> {
        from_abi_result(self.0.layers(instance.cloned().into_abi()))
    }
    fn extension(&self, name: &str, input: &[u8]) -> Option<Result<Vec<u8>>> {
        extension(self.0.extension(name.into(), input.into()))
    }
}

struct ImportedReader(ReaderObject);

impl BlobReader for ImportedReader {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let room = buffer.len();
        let count = result(self.0.read(buffer.into()))?;
        if count > room {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("the plugin says it read {count} bytes into a buffer of {room}"),
            ));
        }
        Ok(count)
    }
    fn extent(&self) -> Option<Extent<'_>> {
        let extent = self.0.extent().into_option()?;
        if extent.fd < 0 {
            return None;
        }
        // SAFETY: the ABI says that the descriptor stays open as long as the reader lives, and the
        // result borrows the reader.
        let file = unsafe { BorrowedFd::borrow_raw(extent.fd) };
        Some(Extent { file, offset: extent.offset, length: extent.length })
    }
}

struct ImportedDestination(DestinationObject);

impl Destination for ImportedDestination {
    fn accepts(&self) -> Accepts {
        // A plugin that fails here would fail at the first blob as well, and say why there.
        from_abi_result(self.0.accepts()).unwrap_or_default()
    }
    fn current(&self) -> Result<Option<Digest>> {
        from_abi_result(self.0.current())
    }
    fn reuse(&self, wanted: &BlobWanted) -> Result<Option<Descriptor>> {
        from_abi_result(self.0.reuse(wanted.clone().into_abi()))
    }
    fn put_blob(&self, blob: &BlobIncoming) -> Result<Option<Box<dyn BlobWriter>>> {
        Ok(match result(self.0.put_blob(blob.clone().into_abi()))? {
            ROption::RSome(writer) => Some(Box::new(ImportedWriter(writer))),
            ROption::RNone => None,
        })
    }
    fn put_manifest(&self, manifest: &RawManifest, instance: Option<&Digest>) -> Result<()> {
        result(self.0.put_manifest(manifest.clone().into_abi(), instance.cloned().into_abi()))
    }
    fn put_signatures(&self, signatures: &[Signature], instance: Option<&Digest>) -> Result<()> {
        result(self.0.put_signatures(signatures.to_vec().into_abi(), instance.cloned().into_abi()))
    }
    fn commit(mut self: Box<Self>, top: &TopLevel) -> Result<Committed> {
        from_abi_result(self.0.commit(top.clone().into_abi()))
    }
    fn extension(&self, name: &str, input: &[u8]) -> Option<Result<Vec<u8>>> {
        extension(self.0.extension(name.into(), input.into()))
    }
}

struct ImportedWriter(WriterObject);

impl BlobWriter for ImportedWriter {
    fn write(&mut self, chunk: &[u8]) -> Result<()> {
        result(self.0.write(chunk.into()))
    }
    fn file(&self) -> Option<FileTarget<'_>> {
        let target = self.0.file().into_option()?;
        if target.fd < 0 {
            return None;
        }
        // SAFETY: the ABI says that the descriptor stays open as long as the writer lives, and the
        // result borrows the writer.
        let file = unsafe { BorrowedFd::borrow_raw(target.fd) };
        Some(FileTarget { file, offset: target.offset })
    }
    fn finish(mut self: Box<Self>, sums: &BlobSums) -> Result<()> {
        result(self.0.finish(sums.clone().into_abi()))
    }
}
